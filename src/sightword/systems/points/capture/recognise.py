"""Which tool made a folder or file: told by the files that only its layout has. Nothing heavy is imported."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from sightword.errors import MissingFileError, SightwordError

MODELS = ("", "sparse", "dense/sparse")  # where a project keeps COLMAP's model
SPARSE = ("sparse", "colmap/sparse")  # or several, in folders by number
MOST_MODELS = 20
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
LOOKED_AT = 20000  # names of a folder that a pattern is looked for among


class Layout(NamedTuple):
    """The layout of a tool's files."""

    title: str  # as messages have it: "a TUM recording"
    marked: Callable[[Path], bool]  # whether a folder or file has what only this layout has


def _has(folder: Path, *names: str) -> bool:
    return all((folder / name).exists() for name in names)


def _any(folder: Path, pattern: str) -> bool:
    """Whether a folder has a name that fits a pattern."""
    if not folder.is_dir():
        return False
    names: Iterator[Path] = islice(folder.iterdir(), LOOKED_AT)
    return any(path.match(pattern) for path in names)


def colmap_models(source: Path) -> list[Path]:
    """Return the folders of COLMAP's three files in a source, that with the largest list of images first.

    COLMAP writes sparse/0, sparse/1 … if it cannot join all photos, in no order of size.
    """
    places = [source / place for place in MODELS]
    for folder in (source, *(source / place for place in SPARSE)):
        places += [folder / str(number) for number in range(MOST_MODELS)]
    found: dict[Path, int] = {}
    for place in places:
        for suffix in (".bin", ".txt"):
            if all((place / f"{name}{suffix}").is_file() for name in ("cameras", "images", "points3D")):
                found.setdefault(place, (place / f"images{suffix}").stat().st_size)
    return sorted(found, key=lambda place: -found[place])


def _colmap(source: Path) -> bool:
    """Whether a source has a model of its own; the one below colmap/ belongs to nerfstudio's transforms.json."""
    derived = source / "colmap" if (source / "transforms.json").is_file() else None
    return any(derived is None or derived not in model.parents for model in colmap_models(source))


def _open3d(folder: Path) -> bool:
    logs = _any(folder, "*.log") or _has(folder, "trajectory.json") or _any(folder / "scene", "*.log")
    return logs and _has(folder, "depth") and any(_has(folder, name) for name in ("color", "image", "rgb"))


def _tum(folder: Path) -> bool:
    return _has(folder, "rgb.txt", "groundtruth.txt") or _has(folder, "rgb.txt", "depth.txt")


def _record3d(source: Path) -> bool:
    return source.suffix.lower() == ".r3d" or _has(source, "metadata", "rgbd")


def _sens(source: Path) -> bool:
    return (source.is_file() and source.suffix.lower() == ".sens") or _any(source, "*.sens")


def _scanner3d(source: Path) -> bool:  # the first frames may be lost
    return _has(source, "info.json") and _any(source, "frame_*.json")


LAYOUTS: dict[str, Layout] = {
    "tum": Layout("a TUM RGB-D recording", lambda source: _tum(source) and not _any(source, "*.gt.freiburg")),
    "icl": Layout("an ICL-NUIM recording", lambda source: _any(source, "*.gt.freiburg")),
    "7scenes": Layout("a 7-Scenes sequence", lambda source: _any(source, "frame-*.pose.txt")),
    "open3d": Layout("an Open3D or Redwood recording", _open3d),
    "replica": Layout("a Replica sequence of NICE-SLAM", lambda source: _has(source, "traj.txt", "results")),
    "sens": Layout("a ScanNet .sens recording", _sens),
    "scannetpp": Layout("an iPhone recording of ScanNet++", lambda source: _has(source, "pose_intrinsic_imu.json")),
    "nerfstudio": Layout("a nerfstudio data set", lambda source: _has(source, "transforms.json")),
    "colmap": Layout("a COLMAP model", lambda source: _colmap(source)),
    "record3d": Layout("a Record3D recording", _record3d),
    "stray": Layout("a Stray Scanner recording", lambda source: _has(source, "odometry.csv")),
    "polycam": Layout("a raw export of Polycam", lambda source: _has(source, "keyframes")),
    "arkitscenes": Layout("an ARKitScenes recording", lambda source: _any(source, "*.traj")),
    "3dscanner": Layout("an export of 3D Scanner App", _scanner3d),
}


def layouts_of(source: Path) -> list[str]:
    """Return the names of the layouts whose files a source has."""
    try:
        return [name for name, layout in LAYOUTS.items() if layout.marked(source)]
    except OSError:  # a folder that may not be listed
        return []


def recognise(source: Path, name: str = "") -> str:
    """Return the layout of a source: `name` if it is one. Raises SightwordError if none or several are recognised."""
    if not source.exists():
        raise MissingFileError(f"src={source} does not exist. Pass the folder or file of a recording")
    if name:
        if name not in LAYOUTS:
            raise SightwordError(f"format={name!r} is unknown. Pass one of {', '.join(LAYOUTS)}")
        return name
    found = layouts_of(source)
    if len(found) == 1:
        return found[0]
    if found:
        raise SightwordError(
            f"src={source} has the files of {' and of '.join(LAYOUTS[name].title for name in found)}. "
            f"Pass {' or '.join(f'format={name}' for name in found)}"
        )
    raise SightwordError(_unknown(source))


def _unknown(source: Path) -> str:
    """What to do with a source that has no files of a known layout."""
    if all((source / part).is_dir() for part in ("color", "depth", "pose")):
        return f"src={source} is in ScanNet's layout already. Use it as it is: sightword ask scene={source}"
    if source.suffix.lower() in ARCHIVES:
        return f"src={source} is an archive. Unpack it, and pass the folder of the recording"
    inner = sorted(path for path in islice(source.iterdir(), 200) if path.is_dir()) if source.is_dir() else []
    outer = source.absolute().parent
    for near in (*inner, *([] if _any(outer, "*.sens") else [outer])):  # a .sens lies beside anything
        if layouts_of(near):
            return f"src={source} is not a recording, {near} is {LAYOUTS[layouts_of(near)[0]].title}: pass src={near}"
    return f"src={source} has no files of a known layout. Pass format=, one of {', '.join(LAYOUTS)}"


def recording_line(source: Path) -> str:
    """Return what a folder is that a tool wrote, and how to import it; empty if it has no known layout."""
    found = layouts_of(source)
    if not found:
        return ""
    titles = " and ".join(LAYOUTS[name].title for name in found)
    choice = f" format={found[0]}" if len(found) > 1 else ""
    out = f"{source.resolve().stem}_imported"
    command = f"sightword import src={quote(str(source))} out={quote(out)}{choice}"
    return f"{source} is {titles}, not a scene yet. Import it: {command}"
