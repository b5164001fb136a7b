"""AlphaPose's JSON: one list for all frames of a video, a person of a frame each.

`[{"image_id": "12.jpg", "keypoints": [x, y, score, …], "score": s, "idx": id}]`. 51 numbers are COCO's 17 joints, 78
Halpe's 26, 408 Halpe's 136, of which the body is read. `idx` tells people apart if they were tracked, and is the same
for all if not. The score of a joint can be above 1 and is cut off there; the person's is not used. Nothing states the
size of the images. COCO's own lists of results, with numbers as image_id, have the same form.
"""

import numpy as np

from sightword.storage.fields import Fields
from sightword.storage.reader import read_json_list
from sightword.systems.skeleton.formats.format import (
    BODIES,
    Format,
    Made,
    Options,
    Source,
    Start,
    joints_of_count,
    needed_size,
)
from sightword.systems.skeleton.formats.frame import natural, on_timeline, persons, split_number


def recognises(start: Start) -> bool:
    """Return whether a file is a list of persons with the frames they are in."""
    return start.is_list and {"image_id", "keypoints", "score"} <= start.keys


def read(source: Source, options: Options) -> list[Made]:
    """Return the recording of a file."""
    file = source.files[0]
    size = needed_size(options, file, "AlphaPose")
    items = list(read_json_list(file).all_mappings())
    bodies = [_keypoints(item) for item in items]
    if not bodies:
        return [Made(source.name, np.zeros((0, 0, 17, 2), np.float32), None, size, options.joints)]
    counts = {len(body) for body in bodies}
    if len(counts) > 1:
        raise items[0].error(f"persons have {sorted(counts)} joints, expected as many in all", "keypoints")
    body = BODIES.get(count := counts.pop(), count) if options.joints is None else count
    joints = joints_of_count(body, options, ("coco17", "halpe26"), file)
    notes = [f"coordinates are pixels of images of {size[0]}x{size[1]}"]
    if body < count:
        notes.append(f"of {count} joints the {body} of the body were read")
    at, total = _frames(items, source, notes)
    ids = [_identity(item) for item in items]
    points, scores = persons(at, np.stack(bodies)[:, :body], total, options.people, notes, ids)
    return [Made(source.name, points, scores, size, joints, tuple(notes))]


def _keypoints(item: Fields) -> np.ndarray:
    """(V, 3) of a person."""
    numbers = item.numbers("keypoints", least=3)
    if len(numbers) % 3:
        raise item.error(f"has {len(numbers)} numbers, not three for each joint", "keypoints")
    return np.array(numbers).reshape(-1, 3)


def _frames(items: list[Fields], source: Source, notes: list[str]) -> tuple[list[int], int]:
    """The frame of each person, by the number in image_id; by the order of the names if one has no number."""
    names = [str(item.value("image_id")) for item in items]
    numbers = [split_number(name.rpartition(".")[0] or name)[1] for name in names]
    known = [number for number in numbers if number is not None]
    if len(known) == len(names) and len(set(known)) == len(set(names)):
        return on_timeline(known, source.files[0])
    notes.append("frames are in the order of their names, of which the numbers are not those of frames")
    order = {name: row for row, name in enumerate(sorted(set(names), key=natural))}
    return [order[name] for name in names], len(order)


def _identity(item: Fields) -> str:
    """The track of a person, as a text; empty if it has none."""
    value = item.value("idx") if "idx" in item else None
    while isinstance(value, list) and len(value) == 1:  # some versions have it in a list
        value = value[0]
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else ""


FORMAT = Format(
    "alphapose",
    "AlphaPose's JSON, a list of persons",
    (".json",),
    recognises,
    read,
    takes=("size", "people"),
    unsized=True,
)
