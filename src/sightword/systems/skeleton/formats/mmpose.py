"""MMPose's inferencer JSON: of a video one file, of images a file each.

Video: `{"meta_info": {"keypoint_id2name": …}, "instance_info": [{"frame_id": 1, "instances": [person, …]}]}`. Image: a
list of persons, or the same object with the persons as `instance_info`, as the demos write. A person is
`{"keypoints": [[x, y], …], "keypoint_scores": […]}`, with `track_id` where people were tracked. Scores can be above 1
and are cut off there. Nothing states the size of the images. 3-D poses are not read.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sightword.storage.fields import Fields, Items
from sightword.storage.reader import read_json
from sightword.systems.skeleton.formats.format import (
    BODIES,
    Format,
    Made,
    Options,
    Source,
    Start,
    joints_of_count,
    needed_size,
    read_any_json,
)
from sightword.systems.skeleton.formats.frame import on_timeline, persons, split_number
from sightword.systems.skeleton.joints import JointSet, stated_joints


def recognises_video(start: Start) -> bool:
    """Return whether a file has the persons of all frames of a video."""
    keys = start.keys | _at_the_end(start)
    return start.is_json and not start.is_list and "instance_info" in keys and not recognises_image(start)


def recognises_image(start: Start) -> bool:
    """Return whether a file has the persons of one image."""
    keys = start.keys
    frames = bool({"instances", "frame_id"} & keys)
    return {"keypoints", "keypoint_scores"} <= keys and not frames and (start.is_list or "instance_info" in keys)


def _at_the_end(start: Start) -> set[str]:
    """What a description of the data set that is longer than the beginning of a file leads to."""
    return {"instance_info"} if {"meta_info", "keypoint_id2name"} <= start.keys else set()


def read_video(source: Source, options: Options) -> list[Made]:
    """Return the recording of a video's file."""
    fields = read_json(source.files[0], nan=True)
    frames = list(fields.mappings("instance_info"))
    numbers = [frame.integer("frame_id", row) for row, frame in enumerate(frames)]
    people = [list(frame.mappings("instances")) for frame in frames]
    meta = fields.mapping("meta_info", optional=True)
    named = meta.mapping("keypoint_id2name", optional=True)
    names = [named.text(key) for key in sorted(named, key=int)] if all(key.isdigit() for key in named) else []
    return [_made(source, numbers, people, names, options)]


def read_images(source: Source, options: Options) -> list[Made]:
    """Return the recording of a folder's files, a frame each."""
    numbers = [split_number(file.stem)[1] for file in source.files]
    known = [number for number in numbers if number is not None]
    people = [list(_image(file).all_mappings()) for file in source.files]
    return [_made(source, known if len(known) == len(numbers) else range(len(numbers)), people, [], options)]


def _image(file: Path) -> Items:
    content = read_any_json(file)
    return content.sequence("instance_info") if isinstance(content, Fields) else content


def _made(
    source: Source, numbers: Sequence[int], people: Sequence[Sequence[Fields]], names: list[str], options: Options
) -> Made:
    file = source.files[0]
    size = needed_size(options, file, "MMPose")
    found = [[_person(one) for one in frame] for frame in people]
    count = next((len(body) for frame in found for body in frame), 17)
    notes = [f"coordinates are pixels of images of {size[0]}x{size[1]}"]
    joints = _joints(count, names, options, file, notes)
    at, total = on_timeline(numbers, file)
    for bodies, ones in zip(found, people, strict=True):
        for body, one in zip(bodies, ones, strict=True):
            if len(body) != count:
                raise one.error(f"has {len(body)} joints, and the first person has {count}", "keypoints")
    owner = [row for row, bodies in zip(at, found, strict=True) for _ in bodies]
    table = np.array([body for bodies in found for body in bodies]).reshape(-1, count, 3)[:, : len(joints.joints)]
    ids = [str(one.value("track_id")) if "track_id" in one else "" for ones in people for one in ones]
    points, scores = persons(owner, table, total, options.people, notes, ids)
    return Made(source.name, points, scores, size, joints, tuple(notes))


def _joints(count: int, names: list[str], options: Options, file: Path, notes: list[str]) -> JointSet:
    if options.joints is not None:
        return joints_of_count(count, options, (), file)
    if count in BODIES:
        notes.append(f"of {count} joints the {BODIES[count]} of the body were read")
    elif len(names) == count and (made := stated_joints(names, file)):
        return made
    joints = joints_of_count(BODIES.get(count, count), options, ("coco17", "halpe26"), file)
    notes.append(f"joints in the order of {joints.name}, by their number")
    return joints


def _person(one: Fields) -> np.ndarray:
    """(V, 3) of a person: x, y, score."""
    places = one.sequence("keypoints", least=1)
    rows = [places.sequence(row).all_numbers() for row in range(len(places))]
    if {len(row) for row in rows} == {3}:
        raise one.error(
            "has three numbers for each joint: poses in 3-D are not read. Use the 2-D inferencer", "keypoints"
        )
    if {len(row) for row in rows} != {2}:
        raise one.error("expected [x, y] for each joint", "keypoints")
    scores = one.numbers("keypoint_scores") if "keypoint_scores" in one else [1.0] * len(rows)
    if len(scores) != len(rows):
        raise one.error(f"has {len(scores)} scores for {len(rows)} joints", "keypoint_scores")
    return np.column_stack([np.array(rows, dtype=np.float64), scores])


VIDEO = Format(
    "mmpose",
    "MMPose's JSON of a video",
    (".json",),
    recognises_video,
    read_video,
    takes=("size", "people"),
    unsized=True,
)
IMAGES = Format(
    "mmpose_images",
    "MMPose's JSON of images, a file for each",
    (".json",),
    recognises_image,
    read_images,
    True,
    takes=("size", "people"),
    unsized=True,
)
