"""Which recording the maps of a cache were made of: a cache names scenes, and two data sets may have the same names.

out/scenes.json     name of a scene → 16 hex of its first colour image
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from sightword.errors import SightwordError
from sightword.storage.atomic import write_atomically
from sightword.storage.reader import read_json
from sightword.systems.points.scannet.reader import Scene

FILE = "scenes.json"


def require_same(out: str | Path, scenes: Sequence[Scene]) -> None:
    """Raise SightwordError if a cache has maps of a scene's name that were made of another recording.

    Scenes that the cache does not know, as those of earlier versions, are let pass.
    """
    known = _read(Path(out).expanduser())
    for scene in scenes:
        if known.get(scene.key) not in (None, _origin(scene)):
            raise SightwordError(
                f"{out} has CLIP's maps of another {scene.name} than {scene.folder}. Pass another folder for the cache"
            )


def remember_scenes(out: Path, scenes: Sequence[Scene]) -> None:
    """Write beside the maps what scenes they are made of, unless the cache has no folder yet."""
    if not out.is_dir() or not scenes:
        return
    found = _read(out) | {scene.key: _origin(scene) for scene in scenes}
    with write_atomically(out / FILE) as beside:
        beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _origin(scene: Scene) -> str:
    return hashlib.sha256(scene.frames[0].color.read_bytes()).hexdigest()[:16] if scene.frames else ""


def _read(out: Path) -> dict[str, object]:
    try:
        return read_json(out / FILE).plain()
    except (OSError, SightwordError):  # there is none, or it is damaged: nothing is known
        return {}
