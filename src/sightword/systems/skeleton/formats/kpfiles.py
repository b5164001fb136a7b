"""Kinetics-400's key points as pyskl publishes them: a pickle with the list, and many with the points (`kpfiles`).

A row of the list has `raw_file`, `frame_inds` (N,), `box_score` (N,) and total_frames, N detections of all frames
together; the raw file is `{frame_dir: {"keypoint": (N, 17, 3)}}`. Detections of a box_score below 0.5 are left out, as
in pyskl. Raw files are looked for beside the list and below its folder, by the end of their path.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from sightword.errors import SightwordError
from sightword.systems.skeleton.formats.format import Format, Made, Options, Source, Start
from sightword.systems.skeleton.formats.frame import LONGEST, persons
from sightword.systems.skeleton.joints import JOINT_SETS
from sightword.systems.skeleton.pickled import read_plain

LEAST = 0.5  # box_score of a detection that is kept


def recognises(start: Start) -> bool:
    """Return whether a pickle's beginning names raw files."""
    return start.raw[:1] == b"\x80" and b"raw_file" in start.raw and b"frame_inds" in start.raw


def read(source: Source, options: Options) -> list[Made]:
    """Return the recordings of a list."""
    file = source.files[0]
    content = read_plain(file)
    rows = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and "raw_file" in row for row in rows):
        raise SightwordError(f"{file} is not a list of recordings that all have a raw_file")
    order = sorted(range(len(rows)), key=lambda number: str(rows[number]["raw_file"]))  # each raw file is read once
    first = min((int(ends.min()) for row in rows if (ends := _numbers(row, "frame_inds", file)).size), default=1)
    made: dict[int, Made] = {}
    opened = ""
    raw: Mapping[str, object] = {}
    for number in order:
        row = rows[number]
        if (name := str(row["raw_file"])) != opened:
            opened, raw = name, _raw(file, name)
        made[number] = _recording(row, raw, min(first, 1), file, options)
    return [made[number] for number in range(len(rows))]


def _recording(row: Mapping[str, object], raw: Mapping[str, object], first: int, file: Path, options: Options) -> Made:
    """One recording. first: the number of its first frame, 0 or 1."""
    name, total, shape, label = (
        str(row.get("frame_dir")),
        row.get("total_frames"),
        row.get("img_shape"),
        row.get("label"),
    )
    points = raw.get(name)
    points = points.get("keypoint") if isinstance(points, Mapping) else points
    frames, grades = _numbers(row, "frame_inds", file), _numbers(row, "box_score", file)
    if not isinstance(points, np.ndarray) or points.shape != (len(frames), 17, 3) or len(grades) != len(frames):
        has = points.shape if isinstance(points, np.ndarray) else "none"
        raise SightwordError(
            f"{file}: {name} has {len(frames)} frame_inds, {len(grades)} box_scores and key points {has} in "
            f"{row['raw_file']}, expected ({len(frames)}, 17, 3)"
        )
    if not isinstance(total, int) or not 0 < total <= LONGEST or (len(frames) and int(frames.max()) - first >= total):
        raise SightwordError(f"{file}: {name} has total_frames={total!r:.20} and frame_inds to {frames.max(initial=0)}")
    size = [int(side) for side in shape] if isinstance(shape, list | tuple | np.ndarray) and len(shape) == 2 else []
    if len(size) != 2 or min(size) < 1:
        raise SightwordError(f"{file}: {name} has img_shape={shape!r:.40}, expected a height and a width")
    kept = np.flatnonzero(grades >= LEAST)
    kept = kept[np.argsort(-grades[kept], kind="stable")]
    notes = [f"detections with a box_score of {LEAST} or more", f"frame_inds count from {first}"]
    tracked, scores = persons(
        (frames[kept] - first).tolist(), points[kept].astype(np.float64), total, options.people, notes
    )
    known = label if isinstance(label, int) and not isinstance(label, bool) else -1
    return Made(name, tracked, scores, (size[0], size[1]), JOINT_SETS["coco17"], tuple(notes), known)


def _numbers(row: Mapping[str, object], key: str, file: Path) -> np.ndarray:
    value = row.get(key)
    array = np.asarray(value) if isinstance(value, list | np.ndarray) else np.zeros(0, dtype=object)
    if array.dtype.kind not in "fiu" or array.ndim != 1:
        raise SightwordError(f"{file}: {row.get('frame_dir')} has no numbers under {key!r}")
    return array


def _raw(file: Path, name: str) -> Mapping[str, object]:
    """The content of a raw file, found below the folder of the list: no other file is opened for what a list says."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..")]
    for at in range(len(parts)):
        if (found := file.parent.joinpath(*parts[at:])).is_file():
            content = read_plain(found)
            if isinstance(content, Mapping):
                return content
            raise SightwordError(f"{found} is not a dictionary of recordings")
    raise SightwordError(
        f"{file} has key points in {name[:80]}, which is not below {file.parent}. Put the kpfiles there"
    )


FORMAT = Format(
    "kpfiles", "the list of Kinetics-400 with its key points in kpfiles", (".pkl", ".pickle"), recognises, read
)
