"""COCO's keypoints JSON: images, annotations, and a category with the names of the joints.

The images of a folder, or of a `video_id`, are the frames of one recording; the number is `frame_id` or the last one in
the file's name. The third number of a joint is 0 (not labelled), 1 (hidden) or 2 (seen): no confidence, read as 0, 0.5
and 1. People are who they are by `track_id`, where all annotations have one, and are followed otherwise.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from sightword.errors import SightwordError
from sightword.storage.fields import Fields
from sightword.storage.reader import read_json
from sightword.systems.skeleton.formats.format import BODIES, Format, Made, Options, Source, Start, joints_of_count
from sightword.systems.skeleton.formats.frame import graded, on_timeline, persons, split_number
from sightword.systems.skeleton.joints import JointSet, stated_joints


def recognises(start: Start) -> bool:
    """Return whether a file lists images with sizes, as only data sets in COCO's form do."""
    keys = start.keys
    return start.is_json and not start.is_list and "images" in keys and {"file_name", "annotations"} & keys != set()


def read(source: Source, options: Options) -> list[Made]:
    """Return the recordings of a file, one for each folder or video of its images."""
    file = source.files[0]
    fields = read_json(file)
    images = {image.integer("id"): image for image in fields.mappings("images")}
    people: dict[int, list[Fields]] = {number: [] for number in images}
    for item in fields.mappings("annotations"):
        if (number := item.integer("image_id")) not in images:
            raise item.error(f"is {number}, and no image has this id", "image_id")
        if "keypoints" in item:
            people[number].append(item)
    if not any(people.values()):
        raise SightwordError(f"{file}: none of its {len(images)} images has 'keypoints'")
    joints = _joints(fields, options, next(one for many in people.values() for one in many), file)
    recordings: dict[str, list[int]] = {}
    for number, image in images.items():
        recordings.setdefault(_recording(image), []).append(number)
    return [
        _recording_of(f"{source.name}/{name}" if len(recordings) > 1 else name or source.name, numbers, images, people,
                      joints, options, file)
        for name, numbers in recordings.items()
    ]  # fmt: skip


def _recording(image: Fields) -> str:
    if "video_id" in image:
        return str(image.value("video_id"))
    parent = PurePosixPath(image.text("file_name").replace("\\", "/")).parent.as_posix()
    return "" if parent == "." else parent


def _recording_of(
    name: str,
    numbers: Sequence[int],
    images: dict[int, Fields],
    people: dict[int, list[Fields]],
    joints: JointSet,
    options: Options,
    file: Path,
) -> Made:
    sizes = {(images[n].integer("height", least=1), images[n].integer("width", least=1)) for n in numbers}
    if len(sizes) > 1:
        raise SightwordError(
            f"{file}: the images of {name} have {len(sizes)} sizes: they are not the frames of one video. Give each "
            "video's images a folder in file_name, or a video_id"
        )
    at, total = on_timeline([_frame(images[number]) for number in numbers], file)
    if len(set(at)) < len(at):
        raise SightwordError(f"{file}: several images of {name} have the same number of a frame")
    notes = ["the images of a folder or a video_id are the frames of one recording"]
    found = [(frame, one) for frame, number in zip(at, numbers, strict=True) for one in people[number]]
    bodies = np.array([_keypoints(one, joints) for _, one in found]).reshape(-1, len(joints.joints), 3)
    bodies[..., 2] = graded(bodies[..., 2], notes)
    ids = [str(one.value("track_id")) if "track_id" in one else "" for _, one in found]
    points, scores = persons([frame for frame, _ in found], bodies, total, options.people, notes, ids)
    return Made(name, points, scores, sizes.pop(), joints, tuple(notes))


def _frame(image: Fields) -> int:
    if "frame_id" in image:
        return image.integer("frame_id")
    number = split_number(PurePosixPath(image.text("file_name")).stem)[1]
    return image.integer("id") if number is None else number


def _keypoints(item: Fields, joints: JointSet) -> np.ndarray:
    numbers, count = item.numbers("keypoints"), len(joints.joints)
    if BODIES.get(len(numbers) // 3) == count and len(numbers) % 3 == 0:
        numbers = numbers[: 3 * count]
    if len(numbers) != 3 * count:
        raise item.error(f"has {len(numbers)} numbers, expected three for each of {count} joints", "keypoints")
    return np.array(numbers, dtype=np.float64).reshape(-1, 3)


def _joints(fields: Fields, options: Options, person: Fields, file: Path) -> JointSet:
    """The set that a category names; without names by the number of joints, of which those of the body are read."""
    count = len(person.sequence("keypoints")) // 3
    if options.joints is None:
        for category in fields.mappings("categories", optional=True):
            names = category.texts("keypoints", optional=True)
            if len(names) == count and (made := stated_joints(names, file)):
                return made
    body = BODIES.get(count, count) if options.joints is None else count
    return joints_of_count(body, options, ("coco17", "halpe26"), file)


FORMAT = Format("coco", "COCO's JSON of images and annotations with key points", (".json",), recognises, read)
