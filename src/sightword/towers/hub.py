"""Models of open_clip by name: their configs, their published weights, and how to fetch these."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sightword.errors import MissingFileError, SightwordError
from sightword.storage.hub import reason
from sightword.towers.foreign import Config


def plain(name: str | Path) -> str:
    """A name without open_clip's "hf-hub:" or "local-dir:", as it shows which of the two it is."""
    return str(name).removeprefix("hf-hub:").removeprefix("local-dir:")


#: What an entry of open_clip's says of its images.
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


def model_config(name: str, kind: str, presets: Iterable[str], sounds: str = "") -> Config:
    """open_clip's model_cfg of that name. SightwordError proposes names that are near.

    kind: what the caller reads, for the message. presets: its own names. sounds: what the models it reads have in their
    names ("siglip"), so that no other is proposed.
    """
    import open_clip

    model_cfg = open_clip.get_model_config(name)
    if model_cfg is None:
        presets = list(presets)
        known = [*presets, *(model for model in open_clip.list_models() if sounds in model.lower())]
        near = difflib.get_close_matches(name, known, n=3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise SightwordError(f"there is no folder and no {kind} {name!r}{hint}; presets: {', '.join(presets)}")
    return model_cfg


class Weights(NamedTuple):
    """Weights of a model, published or the user's own; `fetch` makes a file of them."""

    name: str  # of the model
    tag: str  # of the published weights, "" for a file
    entry: Config  # open_clip's of the tag; for a file, the preprocessing on which all tags of the model agree
    file: Path | None  # the user's own

    def fetch(self) -> Path:
        """Downloads what is not on this machine; MissingFileError if that cannot be."""
        if self.file:
            return self.file
        import open_clip

        try:
            return Path(open_clip.download_pretrained(self.entry))
        except Exception as error:  # hub, disk and network each have their own
            raise MissingFileError(
                f"the weights {self.tag} of {self.name} are not on this machine and could not be fetched "
                f"({reason(error)}): give tag= a file, or name a folder"
            ) from error


def weights(name: str, tag: str | Path) -> Weights:
    """Those of a model of open_clip that `tag` names, a file or published; an only tag may be left out. No network."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    tags = open_clip.list_pretrained_tags_by_model(name)
    file = Path(tag).expanduser()
    if file.is_file():
        entries = [get_pretrained_cfg(name, each) for each in tags]
        agreed = {key: entries[0][key] for key in PREPROCESSING if entries and entries[0].get(key)}
        agreed = {key: value for key, value in agreed.items() if all(entry.get(key) == value for entry in entries)}
        return Weights(name, "", agreed, file)
    tag = str(tag) or (tags[0] if len(tags) == 1 else "")
    if not tag or not (entry := get_pretrained_cfg(name, tag)):
        told = f"has no weights {tag!r}" if tag else "needs the tag of its weights"
        raise SightwordError(f"{name} {told}; there are {', '.join(tags) or 'none'}, or give a weights file")
    return Weights(name, tag, entry, None)
