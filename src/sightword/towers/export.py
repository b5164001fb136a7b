"""The encoder of an exported model: a user's own files are written into the folder, a published encoder keeps its name.

Either way the model's config.json states a digest of the encoder's weights, which is compared when it is opened again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sightword.errors import MissingFileError, SightwordError
from sightword.storage.cache import digest
from sightword.towers.base import ImageTower, TextTower, Tower
from sightword.towers.hub import plain

if TYPE_CHECKING:
    from sightword.towers.clip.encoder import CLIP
    from sightword.towers.siglip.encoder import SigLIP

TowerT = TypeVar("TowerT", bound=Tower)


@dataclass(frozen=True)
class ExportedTower:
    """How to open the encoder of an exported model, as its config.json states it."""

    weights: str  # digest of its weights
    name: str = ""  # of a published encoder, as `image_tower` takes it; empty: its files are in the exported folder
    tag: str = ""  # of a published open_clip model

    def source(self, files: Path) -> str:
        """Return the name or the folder to open. files: where the encoder's files are, if it is a user's own.

        Raises MissingFileError if they are not there.
        """
        if self.name:
            return self.name
        if not files.is_dir():
            raise MissingFileError(f"{files} is missing. Copy the exported folder as a whole, or export the run again")
        return str(files.absolute())

    def checked(self, tower: TowerT) -> TowerT:
        """Return an encoder. Raises SightwordError if its weights are not those that the model was exported with."""
        if (found := digest(tower.state_dict())) != self.weights:
            raise SightwordError(
                f"{tower.name} has the weights {found}, and the model was exported with {self.weights}. Restore these, "
                "or export the run again"
            )
        return tower


def write_image_tower(tower: ImageTower, name: str, tag: str, files: Path) -> ExportedTower:
    """Write the files of an image encoder if they are a user's own. Return how to open it again.

    tower: opened by `name` and `tag`. files: the folder to write; text and image encoder of a pair are written both.
    """
    weights = digest(tower.state_dict())
    if not is_local(name, tag):
        return ExportedTower(weights, name, tag)
    from sightword.towers.factory import tower_pair

    tower_pair(name, tag).save(files)
    return ExportedTower(weights)


def write_text_tower(tower: TextTower, name: str, trained: bool, files: Path, length: int = 0) -> ExportedTower:
    """Write the files of a text encoder if they are a user's own, or if it was trained. Return how to open it again.

    tower: opened by `name`. files: the folder to write; a CLIP or a SigLIP is written with its image encoder. length:
    the most tokens of a text that the encoder was opened for; 0: its own.
    """
    from sightword.towers.factory import tower_pair
    from sightword.towers.hugging_face import HFText

    weights = digest(tower.state_dict())
    if not trained and not is_local(name):
        return ExportedTower(weights, name)
    if isinstance(tower, HFText):
        tower.save(files)
    else:
        open_pair: Callable[..., CLIP | SigLIP] = tower_pair
        pair = open_pair(name, **({"length": length} if length else {}))
        pair.text.load_state_dict(tower.state_dict())
        pair.save(files)
    return ExportedTower(weights)


def is_local(name: str, tag: str = "") -> bool:
    """Return whether an encoder is read from files of the user's own: a folder, or a file of weights as `tag`."""
    from sightword.towers import bert, t5
    from sightword.towers.clip import encoder as clip
    from sightword.towers.siglip import encoder as siglip

    if tag and Path(tag).expanduser().is_file():
        return True
    presets = (*clip.presets, *siglip.presets, *t5.presets, *bert.presets)
    return name not in presets and Path(plain(name)).expanduser().is_dir()
