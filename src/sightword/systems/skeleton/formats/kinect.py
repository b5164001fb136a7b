"""Text of Kinect v1's 20 joints, in metres.

    UTKinect     a line for each frame: its number and x y z of 20 joints, in the order of the SDK (kinect20); also
                 without the number
    MSR          a line for each joint: x y z and a confidence, 20 lines a frame, in the order of MSR-Action3D (msr20)

Numbers are separated by spaces, tabs or commas. A joint at 0 0 0 is missing.
"""

import numpy as np

from sightword.errors import SightwordError
from sightword.storage.reader import read_text
from sightword.systems.skeleton.formats.format import Format, Made, Options, Source, Start
from sightword.systems.skeleton.formats.frame import LONGEST, on_timeline, present
from sightword.systems.skeleton.joints import JOINT_SETS

JOINTS = 20
LINE, JOINT = 3 * JOINTS, 4  # numbers of a frame's line, without its number; of a joint's


def recognises(start: Start) -> bool:
    """Return whether the first lines of a text are of one of the layouts."""
    try:
        rows = [_floats(line) for line in start.lines[: 2 * JOINTS] if line.strip()]
    except ValueError:
        return False
    if not rows or len({len(row) for row in rows}) > 1:
        return False
    if len(rows[0]) == LINE + 1:
        return all(row[0] >= 0 and row[0] % 1 == 0 for row in rows)
    # four numbers a line are much else, too: MSR's have a confidence in the last place, and depths of a room
    numbers = np.array(rows)
    return len(rows[0]) == LINE or (
        len(rows[0]) == JOINT and len(rows) == 2 * JOINTS and bool(((numbers[:, 3] >= 0) & (numbers[:, 3] <= 1)).all())
    )


def read(source: Source, options: Options) -> list[Made]:
    """Return the body of a file, (1, T, 20, 3)."""
    file = source.files[0]
    rows = _rows(source)
    notes = ["3-D as a Kinect has it, in the unit of the file: x to its left, y up, z away"]
    if rows.shape[1] == JOINT:
        if len(rows) % JOINTS:
            raise SightwordError(f"{file} has {len(rows)} lines of a joint, not 20 for each frame: it was cut short")
        points, name = rows[:, :3].reshape(-1, JOINTS, 3), "msr20"
    elif rows.shape[1] == LINE:
        points, name = rows.reshape(-1, JOINTS, 3), "kinect20"
    else:
        points, name = _numbered(rows, source, notes), "kinect20"
    joints = options.joints or JOINT_SETS[name]
    if options.joints is None:
        notes.append(f"joints in the order of {name}")
    points = present(points, notes).astype(np.float32)
    return [Made(source.name, points[None], None, None, joints, tuple(notes))]


def _numbered(rows: np.ndarray, source: Source, notes: list[str]) -> np.ndarray:
    """The frames by their numbers; the first of those of one number."""
    if not (np.abs(rows[:, 0]) < LONGEST).all() or (rows[:, 0] % 1).any():
        raise SightwordError(
            f"{source.files[0]}: lines of 61 numbers begin with that of a frame, and not all of these do"
        )
    numbers, first = np.unique(rows[:, 0].astype(int), return_index=True)
    if len(numbers) < len(rows):
        notes.append("frames whose number was there before were left out")
    at, total = on_timeline(numbers.tolist(), source.files[0])
    if total > len(numbers):
        notes.append("frames whose number is absent are there without a body, so that time does not shift")
    points = np.zeros((total, JOINTS, 3))
    points[at] = rows[first, 1:].reshape(-1, JOINTS, 3)
    return points


def _rows(source: Source) -> np.ndarray:
    """The numbers of a file, all lines of one length."""
    rows: list[list[float]] = []
    for number, line in enumerate(read_text(source.files[0]).splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append(_floats(line))
        except ValueError:
            raise SightwordError(f"{source.files[0]}, line {number}: {line.strip()[:40]!r} is not numbers") from None
        if len(rows[-1]) not in (LINE + 1, LINE, JOINT) or len(rows[-1]) != len(rows[0]):
            raise SightwordError(
                f"{source.files[0]}, line {number} has {len(rows[-1])} numbers, expected a frame's number and 60, 60, "
                "or 4 for a joint, the same in all lines"
            )
    return np.array(rows) if rows else np.zeros((0, LINE))


def _floats(line: str) -> list[float]:
    return [float(part) for part in line.replace(",", " ").split()]


FORMAT = Format(
    "kinect", "text of Kinect v1's 20 joints, as UTKinect or MSR-Action3D", (".txt", ".csv"), recognises, read, takes=()
)
