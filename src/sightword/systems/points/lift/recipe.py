"""What a tower's maps are made by, remembered beside them, so that who has all of them need not open the tower.

    out/recipes.json     16 hex of how a tower is opened → its recipe

To open a tower and to digest its weights takes longer than to read the maps of a scene. A recipe is remembered for what
opens it: the config's words, and the weights file by its path, size and times of change; with any of these another, the
tower is opened again. What is remembered is only compared with the headers of the cache, which stay what decides.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sightword import __version__
from sightword.storage.atomic import write_atomically
from sightword.towers.token_cache import Opener, Source

FILE = "recipes.json"
PARTS = {"rows", "weights", "architecture", "preprocessing", "form", "grid"}  # of a recipe
OPTIONS = {"tag", "size", "dtype"}  # of a tower, that are told here


def recall(out: Path, state: str) -> dict[str, Any] | None:
    """The recipe of a state, see `state_of`; None where it is not known."""
    found = _read(out).get(state) if state else None
    return found if isinstance(found, dict) and found.keys() == PARTS else None


def remember(out: Path, state: str, recipe: Mapping[str, Any]) -> None:
    """Nothing where the state is not known, or the cache has no folder yet."""
    if state and out.is_dir() and recall(out, state) is None:
        with write_atomically(out / FILE) as part:
            part.write_text(json.dumps(_read(out) | {state: recipe}, indent=1) + "\n", encoding="utf-8")


def state_of(source: Opener, token_type: str) -> str:
    """16 hex of all that opens a CLIP in open_clip's format and asks for a form; "" where that cannot be told."""
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
        return ""  # whoever opens it says what is wrong, or it is of another kind
    weights = [str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    told = [str(source.options.get(option)) for option in sorted(OPTIONS - {"tag"})]
    state = [__version__, token_type, *told, found.model_cfg, found.preprocess_cfg, weights]
    return hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read(out: Path) -> dict[str, Any]:
    try:
        found = json.loads((out / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
