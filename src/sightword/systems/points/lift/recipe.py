"""How a tower's maps were made, remembered beside them, so that a tower whose maps are all there is not opened.

    out/recipes.json     16 hex of how a tower is opened → its recipe

To open a tower and to digest its weights takes longer than to read the maps of a scene. A recipe is remembered for what
opens the tower: the config's values, and the weights file by its path, size and times of change; with any of these
different, the tower is opened again. A remembered recipe is only compared with the headers of the cache.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

from sightword.errors import SightwordError
from sightword.storage.atomic import write_atomically
from sightword.storage.reader import read_json
from sightword.towers.token_cache import Opener, Source
from sightword.version import VERSION

FILE = "recipes.json"
OPTIONS = {"tag", "size", "dtype"}  # of a tower, that are told apart here


class Recipe(TypedDict):
    """All that decides a row of a frame cache besides the frame: arguments of `storage.cache.header_for`."""

    rows: Mapping[str, tuple[str, Sequence[int]]]
    weights: str
    architecture: Mapping[str, object]
    preprocessing: Mapping[str, object]
    form: str  # the token type
    grid: list[int]


def recall(out: Path, state: str) -> Recipe | None:
    """Return the recipe of a state, see `state_of`; None if it is not known."""
    found = _read(out).get(state) if state else None
    known = isinstance(found, dict) and found.keys() == Recipe.__annotations__.keys()
    return cast(Recipe, found) if known else None


def remember(out: Path, state: str, recipe: Recipe) -> None:
    """Write a recipe beside the maps, unless its state is "", or the cache has no folder yet."""
    if state and out.is_dir() and recall(out, state) is None:
        with write_atomically(out / FILE) as beside:
            beside.write_text(json.dumps(_read(out) | {state: recipe}, indent=1) + "\n", encoding="utf-8")


def state_of(source: Opener, token_type: str) -> str:
    """Return 16 hex of all that opens a CLIP in open_clip's format, and of the token type; "" if that is not known."""
    if type(source) is not Source or source.options.keys() - OPTIONS:
        return ""
    from sightword.towers.clip import checkpoint as clip_checkpoint
    from sightword.towers.clip import encoder as clip
    from sightword.towers.hub import plain

    try:
        name, usual = clip.presets.get(source.name, (plain(source.name), ""))
        found = clip_checkpoint.find(name, str(source.options.get("tag") or usual), clip.presets)
        file = found.weights.fetch().resolve()
        stat = file.stat()
    except (ValueError, OSError):
        return ""  # opening the tower reports what is wrong, or it is of another kind
    weights = [str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    told = [str(source.options.get(option)) for option in sorted(OPTIONS - {"tag"})]
    state = [VERSION, token_type, *told, found.model_cfg, found.preprocess_cfg, weights]
    return hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read(out: Path) -> dict[str, object]:
    try:
        return read_json(out / FILE).plain()
    except (OSError, SightwordError):  # lost or damaged: the tower is opened again
        return {}
