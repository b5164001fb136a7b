"""OpenPose's JSON: a file for each frame, `<stem>_<12 digits>_keypoints.json`, by `--write_json`.

`{"version": 1.3, "people": [{"pose_keypoints_2d": [x, y, score, …]}]}`; versions below 1.0 have `pose_keypoints`. 75
numbers are BODY_25, 54 are COCO's 18 joints. A missing joint is 0 0 0. People have no identity, and nothing states the
size of the images, or the unit that `--keypoint_scale` chose: pixels are assumed, and the doctor finds other units.
"""

import numpy as np

from sightword.errors import SightwordError
from sightword.storage.reader import read_json
from sightword.systems.skeleton.formats.format import (
    Format,
    Made,
    Options,
    Source,
    Start,
    joints_of_count,
    needed_size,
)
from sightword.systems.skeleton.formats.frame import on_timeline, persons, split_number

ENDING = "_keypoints"
KEYS = ("pose_keypoints_2d", "pose_keypoints")


def recognises(start: Start) -> bool:
    """Return whether a file has the people of one frame."""
    return start.is_json and not start.is_list and "people" in start.keys and bool({"version", *KEYS} & start.keys)


def read(source: Source, options: Options) -> list[Made]:
    """Return the recording of a folder's frames."""
    size = needed_size(options, source.files[0].parent, "OpenPose")
    numbers = [split_number(file.stem.removesuffix(ENDING))[1] for file in source.files]
    known = [number for number in numbers if number is not None]
    at, total = on_timeline(known if len(known) == len(numbers) else range(len(numbers)), source.files[0].parent)
    people = [_people(source, row) for row in range(len(source.files))]
    counts = {len(one) for frame in people for one in frame}
    if len(counts) > 1:
        raise SightwordError(
            f"{source.files[0].parent}: people have {sorted(counts)} numbers, expected the same in all"
        )
    joints = joints_of_count(
        next(iter(counts)) // 3 if counts else 25, options, ("body25", "openpose18"), source.files[0]
    )
    bodies = np.array([one for frame in people for one in frame]).reshape(-1, len(joints.joints), 3)
    notes = [f"coordinates as in the files, in images of {size[0]}x{size[1]}"]
    if total > len(people):
        notes.append("frames without a file are there without a person, so that time does not shift")
    owner = [row for row, frame in zip(at, people, strict=True) for _ in frame]
    points, scores = persons(owner, bodies, total, options.people, notes)
    return [Made(source.name, points, scores, size, joints, tuple(notes))]


def _people(source: Source, row: int) -> list[list[float]]:
    """The numbers of each person in a frame's file; persons without a body are left out."""
    found = []
    for person in read_json(source.files[row]).mappings("people"):
        key = next((key for key in KEYS if key in person), KEYS[0])
        if len(numbers := person.numbers(key)):
            if len(numbers) % 3:
                raise person.error(f"has {len(numbers)} numbers, not three for each joint", key)
            found.append(numbers)
    return found


FORMAT = Format(
    "openpose",
    "OpenPose's JSON, a file for each frame",
    (".json",),
    recognises,
    read,
    True,
    ENDING,
    takes=("size", "people"),
    unsized=True,
)
