"""MediaPipe's pose landmarks, as people save them: there is no format of its own. These are read.

JSON: a list of frames, or an object with `frames` (and `width` and `height`, if they are known). A frame is null, a
list of 33 landmarks, a list of such lists (several people), or an object that has them under

    pose_landmarks, poseLandmarks, landmarks, keypoints         in the image: x and y as fractions of width and height
    pose_world_landmarks, poseWorldLandmarks, worldLandmarks    metres about the middle of the hips, y down

there also as {"landmark": […]}, as Solutions' protobuf becomes, or as {"0": …, "32": …}. A landmark is {x, y, z,
visibility} or a list of these numbers; `frame`, `frame_index` or `frame_id` numbers a frame.

CSV: a row for each frame, with columns nose_x, nose_y, nose_z, nose_visibility … or x0, y0, z0, v0 … or 0_x, 0_y …
(also from 1 on); or a row for each landmark, with columns frame, landmark, x, y, z, visibility. Names are those of
MediaPipe, in any case. Rows of landmarks are in the image.

Landmarks in the image become pixels with their visibility as scores. World landmarks stay 3-D, turned so that y is up.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sightword.errors import SightwordError
from sightword.storage.fields import Fields, Items, Row
from sightword.storage.reader import read_csv
from sightword.systems.skeleton.formats.format import (
    Format,
    Made,
    Options,
    Source,
    Start,
    needed_size,
    read_any_json,
)
from sightword.systems.skeleton.formats.frame import on_timeline, persons, present
from sightword.systems.skeleton.joints import JOINT_SETS

JOINTS = JOINT_SETS["mediapipe33"]
COUNT = len(JOINTS.joints)
LANDMARKS = {name: joint for joint, name in enumerate(JOINTS.joints)}
LANDMARKS |= {"mouth_left": LANDMARKS["left_mouth"], "mouth_right": LANDMARKS["right_mouth"]}  # as MediaPipe says
IMAGE = ("pose_landmarks", "poseLandmarks", "landmarks", "keypoints")
WORLD = ("pose_world_landmarks", "poseWorldLandmarks", "world_landmarks", "worldLandmarks")
NUMBERED = ("frame", "frame_index", "frame_id", "frame_number")
PARTS = {"x": 0, "y": 1, "z": 2, "visibility": 3, "v": 3}
COLUMN = re.compile(r"(?:(\w+?)_(x|y|z|visibility|v)|(x|y|z|v|visibility)_?([0-9]{1,2}))", re.IGNORECASE)

Frames = list[list[np.ndarray]]  # of each frame the persons, (33, 4): x, y, z, visibility


def recognises(start: Start) -> bool:
    """Return whether JSON has landmarks, or CSV columns for them."""
    if start.is_json:
        keys = start.keys
        marks = {"x", "y"} <= keys and bool({"landmarks", "visibility"} & keys)
        return bool({*IMAGE[:2], *WORLD} & keys) or marks
    if start.path.suffix != ".csv" or not start.lines:
        return False
    columns = {name.strip().lower() for name in start.lines[0].split(",")}
    named = ({"landmark", "x", "y"}, {"nose_x", "nose_y"}, {"x32", "y32"}, {"32_x", "32_y"})
    return any(wanted <= columns for wanted in named)


def read(source: Source, options: Options) -> list[Made]:
    """Return the recording of a file."""
    file, size, world = source.files[0], options.size, False
    if read_is_csv := file.suffix == ".csv":
        frames, numbers = _of_table(file)
    else:
        fields = read_any_json(file)
        size = size or _stated(fields)
        image, numbers = _of_json(fields, IMAGE)
        frames, world = image, options.world
        if options.world or not any(image):
            frames, numbers = _of_json(fields, WORLD)
            world = any(frames) or options.world
    if options.world and (read_is_csv or not any(frames)):
        raise SightwordError(f"{file} has no world landmarks. Leave out world=true to read those in the image")
    at, total = on_timeline(numbers, file)
    placed: Frames = [[] for _ in range(total)]
    for row, people in zip(at, frames, strict=True):
        placed[row] += people
    return [_solid(source, placed) if world else _flat(source, placed, size, options)]


def _flat(source: Source, frames: Frames, size: tuple[int, int] | None, options: Options) -> Made:
    height, width = size or needed_size(options, source.files[0], "MediaPipe")
    notes = [f"landmarks in the image, fractions of {height}x{width}; scores are visibilities"]
    bodies = np.array([body for people in frames for body in people]).reshape(-1, COUNT, 4)[..., [0, 1, 3]]
    at = [frame for frame, people in enumerate(frames) for _ in people]
    if len(bodies) and (far := float(np.percentile(np.abs(bodies[..., :2]), 80))) > 2:
        raise SightwordError(
            f"{source.files[0]}: landmarks in the image are fractions, and these reach {far:.4g}: they were rescaled, "
            "or are others. Save x and y as MediaPipe gives them"
        )
    ids = ["1"] * len(at) if len(set(at)) == len(at) else []  # with num_poses=1 MediaPipe itself follows the person
    with np.errstate(over="ignore"):
        bodies = bodies * [width, height, 1]
    points, scores = persons(at, bodies, len(frames), options.people, notes, ids)
    return Made(source.name, points, scores, (height, width), JOINTS, tuple(notes))


def _solid(source: Source, frames: Frames) -> Made:
    if any(len(people) > 1 for people in frames):
        raise SightwordError(
            f"{source.files[0]} has several people in a frame: world landmarks are about each one's hips, and say not "
            "who is who. Leave out world=true, or save them with num_poses=1"
        )
    there = any(frames)
    notes = ["world landmarks: metres about the hips, turned so that y is up and x to the camera's left"]
    points = np.zeros((int(there), len(frames), COUNT, 3), np.float32)
    for row, people in enumerate(frames):
        for body in people:
            points[0, row] = present(body[:, :3], notes) * [
                -1,
                -1,
                1,
            ]  # x to the right, y down → x to the camera's left, y up
    return Made(source.name, points, None, None, JOINTS, tuple(dict.fromkeys(notes)))


# --------------------------------------------------------------------------------------------------------------- JSON


def _of_json(fields: Fields | Items, keys: Sequence[str]) -> tuple[Frames, list[int]]:
    """The persons of each frame, and the numbers of the frames."""
    if isinstance(fields, Fields) and "frames" in fields:
        values = fields.sequence("frames")
    elif isinstance(fields, Fields):
        values = Items([fields.plain()], fields.source)  # a single frame
    else:
        values = fields
    frames, numbers = [], []
    for row in range(len(values)):
        value = values.value(row)
        number = row
        if isinstance(value, dict):
            own = Fields(value, values.source, values, row)
            named = next((key for key in NUMBERED if key in own), None)
            number = row if named is None else own.integer(named, least=0)
            if "0" not in value or keys is WORLD:
                value = next((value[key] for key in keys if key in value), None)
        elif keys is WORLD:
            value = None  # bare lists are in the image
        frames.append(_people(value, values, row))
        numbers.append(number)
    return frames, numbers


def _people(value: object, values: Items, row: int) -> list[np.ndarray]:
    """The persons of a frame: of null none, of 33 landmarks one, of lists of them several."""
    if isinstance(value, dict) and "landmark" in value:
        value = value["landmark"]
    elif isinstance(value, dict) and value.keys() == {str(joint) for joint in range(COUNT)}:
        value = [value[str(joint)] for joint in range(COUNT)]
    if not value:
        return []
    if not isinstance(value, list):
        raise values.error(f"expected a list of {COUNT} landmarks", row)
    first = value[0]
    if _is_landmark(first):
        return [_body(value, values, row)]
    return [body for person in value for body in _people(person, values, row)]


def _is_landmark(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and _is_number(value[0])
    return isinstance(value, dict) and "landmark" not in value


def _body(landmarks: Sequence[object], values: Items, row: int) -> np.ndarray:
    if len(landmarks) != COUNT:
        raise values.error(f"has {len(landmarks)} landmarks, expected {COUNT}: of hands or faces?", row)
    body = np.zeros((COUNT, 4))
    for joint, landmark in enumerate(landmarks):
        if isinstance(landmark, Mapping):
            numbers = [landmark.get("x"), landmark.get("y"), landmark.get("z", 0.0), landmark.get("visibility", 1.0)]
        else:
            numbers = [*landmark, *[0.0, 1.0][len(landmark) - 2 :]] if isinstance(landmark, list) else []
        numbers = [1.0 if value is None and place == 3 else value for place, value in enumerate(numbers)]
        if len(numbers) < 4 or not all(map(_is_number, numbers[:4])):
            raise values.error(f"landmark {joint} is not x, y, z and visibility", row)
        body[joint] = numbers[:4]
    return body


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _stated(fields: Fields | Items) -> tuple[int, int] | None:
    for height, width in (("height", "width"), ("image_height", "image_width")):
        if isinstance(fields, Fields) and height in fields and width in fields:
            return fields.integer(height, least=1), fields.integer(width, least=1)
    return None


# ---------------------------------------------------------------------------------------------------------------- CSV


def _of_table(file: Path) -> tuple[Frames, list[int]]:
    table = read_csv(file)
    columns = {name.lower(): name for name in table.columns}
    number = next((columns[name] for name in NUMBERED if name in columns), "")
    if {"landmark", "x", "y"} <= columns.keys():
        return _long(table.rows, columns, number, file)
    places = {name: place for name in table.columns if (place := _place(name)) is not None}
    lowest = min((joint for joint, _ in places.values()), default=0)
    if lowest == 1:  # x1 to x33
        places = {name: (joint - 1, part) for name, (joint, part) in places.items()}
    lacking = sorted({(joint, part) for joint in range(COUNT) for part in (0, 1)} - set(places.values()))
    if lacking or max(places.values())[0] >= COUNT:
        joint, part = lacking[0] if lacking else (COUNT, 0)
        what = f"has no {'xy'[part]} of landmark {joint}, {JOINTS.joints[joint]}" if lacking else "has more landmarks"
        raise SightwordError(f"{file} {what}: expected columns of x and y of {COUNT} landmarks, as nose_x or x0")
    frames, numbers = [], []
    for row, cells in enumerate(table.rows):
        body = np.zeros((COUNT, 4))
        body[:, 3] = 1
        there = False
        for name, (joint, part) in places.items():
            if name in cells:
                there, body[joint, part] = True, cells.number(name, finite=False)
            elif part < 2:
                body[joint, 3] = 0
        frames.append([np.nan_to_num(body)] if there and np.isfinite(body[:, :2]).any() else [])
        numbers.append(cells.integer(number, least=0) if number else row)
    return frames, numbers


def _place(column: str) -> tuple[int, int] | None:
    """The landmark and the number that a column is of."""
    found = COLUMN.fullmatch(column.strip())
    if not found:
        return None
    name, part = (found[1], found[2]) if found[1] else (found[4], found[3])
    if name.isdigit():
        return int(name), PARTS[part.lower()]
    return (LANDMARKS[name.lower()], PARTS[part.lower()]) if name.lower() in LANDMARKS else None


def _long(rows: Sequence[Row], columns: Mapping[str, str], number: str, file: Path) -> tuple[Frames, list[int]]:
    """Frames of rows that have a landmark each."""
    if not number:
        raise SightwordError(f"{file} has a row for each landmark and no column 'frame'")
    person = next((columns[name] for name in ("person", "person_id", "pose") if name in columns), "")
    bodies: dict[tuple[int, str], np.ndarray] = {}
    for cells in rows:
        name = cells.text(columns["landmark"]).lower()
        joint = int(name) if name.isdigit() and int(name) < COUNT else -1
        joint = LANDMARKS.get(name, joint)
        if joint < 0:
            raise cells.error(f"expected 0 to {COUNT - 1} or a name, got {name[:40]!r}", columns["landmark"])
        key = (cells.integer(number, least=0), cells.text(person, "") if person else "")
        body = bodies.setdefault(key, np.zeros((COUNT, 4)))
        shown = cells.number(columns["visibility"], 1.0) if "visibility" in columns else 1.0
        body[joint] = [cells.number(columns["x"]), cells.number(columns["y"]), 0.0, shown]
    numbers = sorted({frame for frame, _ in bodies})
    return [[body for (own, _), body in bodies.items() if own == frame] for frame in numbers], numbers


FORMAT = Format(
    "mediapipe",
    "MediaPipe's pose landmarks",
    (".json", ".csv"),
    recognises,
    read,
    takes=("size", "people", "world"),
    unsized=True,
)
