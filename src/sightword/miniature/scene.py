"""Synthetic scenes of six places, eight objects ("things") and four actions, with captions and label maps.

The words are Places365's, COCO's and Stanford-40's. Every place and thing takes the article "a": the only word with
"an" would be recognised by its article. An action is a person with an implement and is queried as a whole, "a photo of
a person riding a horse". Each thing and each implement has a colour of its own and is built of a few boxes; each place
consists of large flat faces. Everything is three-dimensional and lit, so that a room rendered elsewhere from the same
boxes (`boxes_of`), colours (`OBJECTS`, `ROOMS`) and light (`Light`) looks alike. World: x right, y away from the
camera, z up, in metres; the ground is z = 0.

Legend: H, W pixels; h, w patches; P boxes; F faces. Colours are RGB, 0 to 255.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from sightword.storage.atomic import write_atomically
from sightword.storage.domain import write_card

Colour = tuple[int, int, int]
Corner = tuple[float, float, float]
SMOOTH = 2  # scenes are drawn so many times too large, then reduced
HELD_OUT = 10_000  # seed of scenes that no tiny CLIP is trained on


class Box(NamedTuple):
    """A part of a thing, in the thing's unit cube: x and y from -0.5 to 0.5 (its front is -y), z from 0 to 1."""

    x0: float
    y0: float
    z0: float
    x1: float
    y1: float
    z1: float
    colour: Colour
    taper: float = 1.0  # how wide its top is, its bottom being 1


class Thing(NamedTuple):
    """An object, built of boxes."""

    colour: Colour  # no other thing's
    size: tuple[float, float, float]  # metres across, deep, high
    where: str  # "indoors", "outdoors" or "anywhere"
    boxes: tuple[Box, ...]


class Implement(NamedTuple):
    """The object of an action, and the positions of it and the person relative to their common origin, facing -y."""

    colour: Colour  # no thing's, and no other implement's
    size: tuple[float, float, float]
    where: str
    boxes: tuple[Box, ...]
    at: Corner
    person: Corner


class Light(NamedTuple):
    """A directional light with an ambient part."""

    towards: np.ndarray  # (3,) unit vector towards the light
    ambient: float  # brightness of faces turned away from it

    def shade(self, normals: np.ndarray) -> np.ndarray:
        """Return the brightness of faces by their normals: (..., 3) → (...) in [ambient, 1]."""
        return self.ambient + (1 - self.ambient) * np.maximum(normals @ self.towards, 0)


class Scene(NamedTuple):
    """An image with its ground truth."""

    image: np.ndarray  # (H, W, 3) uint8
    labels: np.ndarray  # (H, W) uint8: 0 is no thing, i the i-th word of OBJECTS, counted from 1
    action_labels: np.ndarray  # (H, W) uint8: i where the implement of the i-th of ACTIONS is visible; no thing there
    place: str
    objects: tuple[str, ...]
    action: str | None  # what its person is doing
    caption: str


# ----------------------------------------------------------------------------------------------------------- things

PINK, WHITE, RED, YELLOW, BLACK = (240, 40, 190), (252, 250, 244), (226, 20, 20), (252, 220, 20), (28, 26, 32)
BLUE, CYAN, GREEN = (24, 60, 226), (40, 214, 250), (90, 210, 30)
ORANGE, BROWN, PURPLE, MINT = (250, 120, 0), (150, 92, 20), (110, 0, 140), (0, 230, 140)


def _legs(x: float, y: float, top: float, half: float, colour: Colour) -> tuple[Box, ...]:
    corners = [(i * x, j * y) for i in (-1, 1) for j in (-1, 1)]
    return tuple(Box(a - half, b - half, 0, a + half, b + half, top, colour) for a, b in corners)


# fmt: off
OBJECTS: dict[str, Thing] = {
    "person": Thing(PINK, (0.8, 0.45, 1.75), "anywhere", (
        Box(-.32, -.3, 0, -.03, .3, .46, (206, 30, 162)), Box(.03, -.3, 0, .32, .3, .46, (206, 30, 162)),
        Box(-.36, -.4, .44, .36, .4, .82, PINK), Box(-.5, -.3, .42, -.37, .3, .8, PINK),
        Box(.37, -.3, .42, .5, .3, .8, PINK), Box(-.2, -.35, .83, .2, .35, 1, (250, 100, 210)))),
    "dog": Thing(WHITE, (1.35, 0.6, 1.0), "anywhere", (
        *_legs(.28, .3, .45, .08, (232, 228, 220)), Box(-.4, -.45, .36, .38, .45, .74, WHITE),
        Box(.2, -.42, .58, .44, .42, 1, WHITE), Box(.4, -.3, .6, .5, .3, .78, (214, 208, 200)),
        Box(.2, -.46, .8, .3, .46, 1, (214, 208, 200)), Box(-.5, -.12, .62, -.38, .12, 1, WHITE))),
    "car": Thing(RED, (2.5, 1.2, 1.2), "outdoors", (
        Box(-.38, -.53, 0, -.18, .53, .34, (120, 10, 10)), Box(.18, -.53, 0, .38, .53, .34, (120, 10, 10)),
        Box(-.5, -.5, .16, .5, .5, .6, RED), Box(-.34, -.46, .58, .28, .46, .9, (240, 80, 76), .8),
        Box(-.28, -.4, .88, .22, .4, 1, RED))),
    "surfboard": Thing(YELLOW, (0.65, 0.2, 1.95), "outdoors", (
        Box(-.33, -.4, 0, .33, .4, .2, YELLOW, 1.4), Box(-.46, -.4, .2, .46, .4, .62, YELLOW),
        Box(-.46, -.4, .62, .46, .4, 1, YELLOW, .15), Box(-.05, -.46, .06, .05, -.41, .9, (222, 180, 10)))),
    "chair": Thing(BLACK, (0.85, 0.85, 1.3), "anywhere", (
        *_legs(.4, .4, .42, .07, (44, 42, 50)), Box(-.5, -.5, .4, .5, .5, .54, BLACK),
        Box(-.5, .36, .54, .5, .5, 1, BLACK))),
    "bed": Thing(BLUE, (1.7, 1.9, 1.0), "indoors", (
        Box(-.5, -.48, .04, .5, .46, .28, (24, 52, 170)), Box(-.49, -.5, .26, .49, .44, .56, BLUE),
        Box(-.38, .16, .56, .38, .42, .7, (96, 128, 244)), Box(-.5, .44, 0, .5, .5, 1, (24, 52, 170)))),
    "tv": Thing(CYAN, (1.55, 0.3, 1.2), "indoors", (
        Box(-.3, -.5, 0, .3, .5, .06, (20, 120, 160)), Box(-.08, -.2, .05, .08, .2, .24, (20, 120, 160)),
        Box(-.5, -.2, .22, .5, .3, 1, (24, 150, 196)), Box(-.46, -.26, .28, .46, -.21, .95, CYAN))),
    "potted plant": Thing(GREEN, (1.0, 1.0, 1.35), "anywhere", (
        Box(-.18, -.18, 0, .18, .18, .34, (70, 140, 20), 1.5), Box(-.5, -.3, .36, .1, .4, .72, GREEN, .8),
        Box(-.05, -.4, .42, .5, .3, .8, (76, 186, 24), .8), Box(-.3, -.3, .62, .3, .3, 1, (118, 232, 60), .5))),
}
ACTIONS: dict[str, Implement] = {
    "holding an umbrella": Implement(ORANGE, (1.9, 1.5, 1.6), "outdoors", (
        Box(.27, -.03, 0, .32, .03, .62, (176, 80, 0)), Box(-.5, -.5, .57, .5, .5, .8, ORANGE, .75),
        Box(-.375, -.375, .8, .375, .375, 1, (255, 140, 30), .3)), (-.1, -.1, .8), (0, 0, 0)),
    "riding a horse": Implement(BROWN, (2.0, .6, 1.6), "outdoors", (
        *_legs(.3, .3, .46, .055, (120, 74, 16)), Box(-.4, -.5, .4, .36, .5, .8, BROWN),
        Box(.2, -.3, .7, .36, .3, 1, BROWN), Box(.34, -.28, .8, .5, .28, 1, (166, 104, 28)),
        Box(-.48, -.12, .3, -.39, .12, .76, (104, 64, 12))), (0, 0, 0), (-.12, 0, .5)),
    "playing the guitar": Implement(PURPLE, (1.5, .16, .62), "anywhere", (
        Box(-.5, -.5, 0, -.14, .5, 1, PURPLE), Box(-.16, -.5, .12, .04, .5, .86, PURPLE),
        Box(.02, -.4, .36, .46, .4, .62, (84, 0, 106)), Box(.4, -.5, .28, .5, .5, .7, (84, 0, 106)),
        Box(-.3, -.56, .34, -.14, -.51, .66, (60, 0, 76))), (.15, -.32, .66), (0, .06, 0)),
    "pushing a cart": Implement(MINT, (1.2, .9, 1.05), "anywhere", (
        *_legs(.3, .36, .2, .09, (0, 140, 86)), Box(-.34, -.44, .18, .44, .44, .8, MINT, 1.15),
        Box(-.5, -.36, .84, -.3, .36, .94, (0, 170, 104)), Box(-.38, -.4, .78, -.3, .4, .92, (0, 170, 104))),
        (.45, 0, 0), (-.6, 0, 0)),
}
# fmt: on

CORNERS = np.array([(x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1)])  # (8, 3) of a cube
SIDES = np.array([(0, 1, 5, 4), (3, 2, 6, 7), (2, 0, 4, 6), (1, 3, 7, 5), (4, 5, 7, 6)])  # front back left right top
NORMALS = np.array([(0, -1, 0), (0, 1, 0), (-1, 0, 0), (1, 0, 0), (0, 0, 1)])


def boxes_of(word: str, at: Corner, yaw: float, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a thing placed in the world: box corners (P, 8, 3) as in CORNERS, colours (P, 3), rotation (3, 3).

    word: of OBJECTS, or of ACTIONS for its implement. at: where its middle stands on the ground. yaw: radians,
    counterclockwise from above. Row vectors: x @ turn.
    """
    thing = OBJECTS[word] if word in OBJECTS else ACTIONS[word]
    numbers = np.array([(*box[:6], box.taper) for box in thing.boxes])  # (P, 7)
    low, high, taper = numbers[:, None, :3], numbers[:, None, 3:6], numbers[:, 6]
    corners = low + CORNERS * (high - low)
    middle = (low + high)[..., :2] / 2
    corners[:, 4:, :2] = middle + (corners[:, 4:, :2] - middle) * taper[:, None, None]
    turn = np.array([(np.cos(yaw), np.sin(yaw), 0), (-np.sin(yaw), np.cos(yaw), 0), (0, 0, 1)])
    return corners * thing.size * scale @ turn + np.array(at), np.array([box.colour for box in thing.boxes]), turn


# ----------------------------------------------------------------------------------------------------------- places


class Face(NamedTuple):
    """A flat quadrilateral."""

    corners: tuple[Corner, Corner, Corner, Corner]
    colour: Colour
    bright: float = 1.0


class Room(NamedTuple):
    """Measures and brightness of a place, in metres; only indoor places have walls."""

    left: float
    right: float
    depth: float
    height: float
    side: tuple[float, float]  # how bright the left and the right wall are
    back: float
    up: float


class Palette(NamedTuple):
    """Colours of a room."""

    wall: Colour
    floor: Colour
    ceiling: Colour


ROOMS = {
    "bedroom": Palette((226, 176, 188), (146, 102, 108), (236, 210, 214)),
    "kitchen": Palette((236, 218, 132), (186, 166, 100), (244, 234, 190)),
    "home office": Palette((112, 176, 166), (54, 98, 98), (186, 220, 212)),
}
Rng = np.random.Generator
FAR = 300.0
ACTIVE = {"outdoors": 0.5, "indoors": 0.3}  # how many scenes have an action


def _ground(x0: float, x1: float, y0: float, y1: float, colour: Colour, bright: float = 1.0, z: float = 0) -> Face:
    return Face(((x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)), colour, bright)


def _front(x0: float, x1: float, z0: float, z1: float, y: float, colour: Colour, bright: float = 1.0) -> Face:
    return Face(((x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)), colour, bright)


def _side(y0: float, y1: float, z0: float, z1: float, x: float, colour: Colour, bright: float = 1.0) -> Face:
    return Face(((x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)), colour, bright)


def _sky(*bands: Colour) -> list[Face]:
    """Return the sky as bands of colour, from the horizon up."""
    return [_front(-3 * FAR, 3 * FAR, z, 3 * FAR, FAR, band) for z, band in zip((-20, 30, 75, 130), bands, strict=True)]


def _beach(rng: Rng, room: Room) -> list[Face]:
    faces = _sky((204, 230, 246), (170, 212, 242), (136, 196, 240), (104, 180, 236))
    for x, z in rng.uniform((-200, 40), (200, 130), (3, 2)).tolist():  # clouds
        faces += [
            _front(x, x + 60, z, z + 8, FAR, (232, 242, 250)),
            _front(x + 12, x + 45, z, z + 15, FAR, (232, 242, 250)),
        ]
    shore = rng.uniform(6, 10)
    faces += [_ground(-3 * FAR, 3 * FAR, shore, FAR, (26, 128, 186))]
    for y, x in zip(shore * (1 + rng.uniform(0.02, 0.4, 4).cumsum()), rng.uniform(-2, 1, 4), strict=True):  # waves
        faces += [_ground(x * y, x * y + y, y, y * 1.07, (86, 176, 214))]
    faces += [_ground(-3 * FAR, 3 * FAR, shore, shore * 1.06, (214, 236, 240))]
    faces += [_ground(-3 * FAR, 3 * FAR, 0.3, shore, (236, 208, 150))]
    steps = rng.uniform((-4, 1.5), (4, shore), (10, 2)).tolist()
    return faces + [_ground(x, x + 0.4, y, y + 0.2, (214, 184, 126)) for x, y in steps]


def _forest_path(rng: Rng, room: Room) -> list[Face]:
    faces = _sky((70, 116, 84), (56, 100, 72), (42, 84, 58), (28, 68, 46))
    faces += [_ground(-3 * FAR, 3 * FAR, 0.3, FAR, (52, 88, 46))]
    for x, y, bright in rng.uniform((-6, 1.5, 0.8), (6, 12, 1.2), (12, 3)).tolist():  # undergrowth
        faces += [_ground(x, x + 0.7, y, y + 0.4, (62, 100, 44), bright)]
    bends, ends = rng.uniform(-0.7, 0.7, 5).cumsum().tolist(), (0.3, 3, 5.5, 9, 20)
    for a, b, near, far in zip(bends, bends[1:], ends, ends[1:], strict=False):
        faces += [Face(((a - 0.8, near, 0), (a + 0.8, near, 0), (b + 0.8, far, 0), (b - 0.8, far, 0)), (158, 136, 108))]
    for number, (x, half, low, bright) in enumerate(
        rng.uniform((1.4, 0.14, 1.8, 0.8), (3.2, 0.3, 3, 1.3), (12, 4)).tolist()
    ):
        y = (14, 11, 8.5, 7, 6, 5)[number // 2]  # trees, the far ones first
        x *= (0.4 + y / 7) * (-1) ** number
        faces += [_front(x - half, x + half, 0, 9, y, (72, 54, 44), 0.8 + y / 28)]
        faces += [_front(x - 5 * half, x + 5 * half, low, 9, y - 0.2, (34, 84, 50), bright)]
    return faces


def _street(rng: Rng, room: Room) -> list[Face]:
    faces = _sky((214, 218, 226), (200, 209, 222), (186, 200, 218), (172, 190, 214))
    faces += [_ground(-3 * FAR, 3 * FAR, 0.3, FAR, (164, 158, 154)), _ground(-2, 2, 0.3, FAR, (92, 92, 98))]
    faces += [_ground(-0.1, 0.1, y, y + 1.3, (214, 214, 206)) for y in rng.uniform(0.5, 2.5) + np.arange(0, 24, 3)]
    for side, bright in zip((-1, 1), room.side, strict=True):
        for near, far in ((26, 60), (16, 26), (9, 16), (2, 9)):  # houses, the far ones first
            x, high, wall = side * rng.uniform(3.1, 3.5), rng.uniform(4, 8), BRICK[int(rng.integers(len(BRICK)))]
            faces += [
                _front(min(x, side * 20), max(x, side * 20), 0, high, near, wall, 0.8),
                _side(near, far, 0, high, x, wall, bright),
            ]
            length = (far - near) / 3
            for y, z in (
                (y, z) for y in (near, near + length, far - length) for z in (1, 2.7, 4.4, 6.1) if z + 1.1 < high
            ):
                faces += [_side(y + 0.3 * length, y + 0.75 * length, z, z + 1, x, (66, 74, 92))]
    return faces


BRICK: Sequence[Colour] = ((150, 112, 106), (168, 142, 128), (126, 112, 118))
BOOKS: Sequence[Colour] = ((112, 124, 150), (150, 140, 130), (96, 104, 122), (160, 166, 176))


def _walls(name: str, room: Room) -> list[Face]:
    left, right, depth, height, sides, back, up = room
    wall, floor, ceiling = ROOMS[name]
    faces = [_side(0.2, depth, 0, height, x, wall, bright) for x, bright in zip((left, right), sides, strict=True)]
    faces += [_front(left, right, 0, height, depth, wall, back)]
    return [*faces, _ground(left, right, 0.2, depth, floor, up), _ground(left, right, 0.2, depth, ceiling, z=height)]


def _bedroom(rng: Rng, room: Room) -> list[Face]:
    left, right, depth, height, _, back, up = room
    faces = _walls("bedroom", room)
    faces += [
        _front(x, x + 0.2, 0, height, depth, (212, 154, 170), back) for x in np.arange(left + 0.2, right - 0.2, 0.5)
    ]
    x = rng.uniform(left + 0.3, right - 1.7)
    faces += [
        _front(x, x + 1.4, 0.9, 2.1, depth, (190, 214, 236)),
        _front(x + 0.66, x + 0.74, 0.9, 2.1, depth, (236, 220, 220)),
    ]
    faces += [_front(a, a + 0.35, 0.6, 2.25, depth, (178, 84, 112), back) for a in (x - 0.2, x + 1.25)]  # curtains
    x, y = rng.uniform(left, 0), rng.uniform(2, depth - 2)
    return [*faces, _ground(x, x + 2, y, y + 1.5, (196, 142, 142), up)]  # a rug


def _kitchen(rng: Rng, room: Room) -> list[Face]:
    left, right, depth, _, _, back, up = room
    faces = _walls("kitchen", room)
    for number, x in enumerate(np.arange(left, right - 0.3, 0.8)):  # tiles
        ends = np.arange(depth - 0.8 * (1 + number % 2), 1, -1.6)
        faces += [_ground(x, min(x + 0.8, right), y, y + 0.8, (126, 120, 66), up) for y in ends]
    end = right - rng.uniform(0, 1.5)
    for low, high in ((0, 0.9), (1.5, 2.15)):  # cupboards
        faces += [_front(left, end, low, high, depth, (168, 148, 60), back)]
        doors = np.arange(left + 0.06, end - 0.5, 0.62)
        faces += [_front(x, x + 0.54, low + 0.07, high - 0.1, depth, (204, 180, 84), back) for x in doors]
    return [*faces, _front(left, end, 0.88, 0.96, depth, (98, 92, 70), back)]


def _home_office(rng: Rng, room: Room) -> list[Face]:
    left, right, depth, _, _, back, up = room
    faces = _walls("home office", room)
    faces += [_ground(left, right, y, y + 0.06, (40, 76, 78), up) for y in np.arange(1, depth, 0.9)]  # floor boards
    x = rng.uniform(left + 0.1, right - 1.9)
    faces += [_front(x, x + 1.8, 0, 2.1, depth, (84, 78, 88), back)]
    for z in (0.1, 0.6, 1.1, 1.6):  # shelves of books
        for number, book in enumerate(rng.integers(len(BOOKS), size=7).tolist()):
            a = x + 0.1 + 0.23 * number
            faces += [_front(a, a + 0.18, z, z + 0.3 + 0.03 * book, depth, BOOKS[book], back)]
    return faces


class Place(NamedTuple):
    """A kind of place and how it is drawn."""

    colour: Colour  # in maps; no other place has it
    where: str
    preposition: str
    faces: Callable[[Rng, Room], list[Face]]


PLACES: dict[str, Place] = {
    "beach": Place((60, 150, 220), "outdoors", "on", _beach),
    "forest path": Place((30, 110, 60), "outdoors", "on", _forest_path),
    "street": Place((120, 120, 132), "outdoors", "on", _street),
    "bedroom": Place((224, 110, 150), "indoors", "in", _bedroom),
    "kitchen": Place((206, 160, 30), "indoors", "in", _kitchen),
    "home office": Place((70, 170, 156), "indoors", "in", _home_office),
}

# ---------------------------------------------------------------------------------------------------------- drawing


class Camera(NamedTuple):
    """A camera that looks along y. Its image has height 1 and its centre at (0, 0), v downwards."""

    height: float
    focal: float
    middle: tuple[float, float]  # the vanishing point

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the projection of points (..., 3), in metres, onto the image, (..., 2)."""
        scale = self.focal / points[..., 1]
        u, v = points[..., 0] * scale, (self.height - points[..., 2]) * scale
        return np.stack([u + self.middle[0], v + self.middle[1]], -1)


def draw(seed: int, index: int, size: tuple[int, int] = (64, 64)) -> Scene:
    """Draw a scene, a function of (seed, index) alone, at any size (H, W) in pixels."""
    rng = np.random.default_rng([seed, index])
    place = list(PLACES)[rng.integers(len(PLACES))]
    objects, action = _cast(rng, PLACES[place].where)
    light, room = _surroundings(rng)
    camera, stands = _view(rng, objects, action, room if PLACES[place].where == "indoors" else None)
    caption = _caption(rng, place, objects, action)

    picture = Image.new("RGBX", (size[1] * SMOOTH, size[0] * SMOOTH))  # the fourth channel is the label
    pen = ImageDraw.Draw(picture)
    scale, origin = size[0] * SMOOTH, np.array(picture.size) / 2
    corners, colours, bright = zip(*PLACES[place].faces(rng, room), strict=True)
    _paint(pen, camera(np.array(corners)) * scale + origin, _paler(np.array(colours)), np.array(bright), 0)
    for word, at in stands:
        boxes, tones, turn, label = _stood(rng, word, action if word == "person" else None, at)
        faces = boxes[:, SIDES].reshape(-1, 4, 3)
        flat = camera(faces) * scale + origin
        shade = np.tile(light.shade(NORMALS @ turn), len(boxes))
        seen = np.flatnonzero(_outside(flat))
        seen = seen[np.argsort(-faces[seen, :, 1].mean(1))]  # the far ones first
        tones, label = (part.repeat(len(SIDES), 0)[seen] for part in (tones, label))
        _paint(pen, flat[seen], tones, shade[seen], label)
    labels = np.array(picture.getchannel(3))[SMOOTH // 2 :: SMOOTH, SMOOTH // 2 :: SMOOTH]
    is_thing = labels <= len(OBJECTS)
    things, implements = np.where(is_thing, labels, 0), np.where(is_thing, 0, labels - len(OBJECTS))
    image = _exposed(rng, np.asarray(picture.reduce(SMOOTH))[..., :3])
    return Scene(image, things, implements.astype(np.uint8), place, objects, action, caption)


def _cast(rng: Rng, where: str) -> tuple[tuple[str, ...], str | None]:
    """Return the objects of a scene, and the action of its person or None; with an action there is one person."""
    words = rng.permutation([word for word, thing in OBJECTS.items() if thing.where in ("anywhere", where)]).tolist()
    actions = [phrase for phrase, implement in ACTIONS.items() if implement.where in ("anywhere", where)]
    if rng.random() >= ACTIVE[where]:
        return tuple(words[: rng.choice(4, p=(0.1, 0.5, 0.3, 0.1))]), None
    words.remove("person")
    cast = rng.permutation(["person", *words[: int(rng.random() < 0.3)]]).tolist()
    return tuple(cast), actions[rng.integers(len(actions))]


def _stood(
    rng: Rng, word: str, action: str | None, at: Corner
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a thing in a random orientation, and the implement of its action: corners (P, 8, 3), colours (P, 3),
    rotation (3, 3), labels (P,). The labels of implements follow those of OBJECTS, in the order of ACTIONS."""
    hidden_from_behind = action is not None and ACTIONS[action].at[1] < 0
    yaw = rng.uniform(-0.9, 0.9) * (0.6 if action else 1) + np.pi * (rng.random() < 0.3) * (not hidden_from_behind)
    scale = rng.uniform(0.85, 1.2)
    corners, tones, turn = boxes_of(word, at, yaw, scale)
    labels = np.full(len(corners), 1 + list(OBJECTS).index(word))
    if action is None:
        return corners, tones, turn, labels
    implement, colours, _ = boxes_of(action, at, yaw, scale)
    corners = corners + np.array(ACTIONS[action].person) * scale @ turn
    implement = implement + np.array(ACTIONS[action].at) * scale @ turn
    number = 1 + len(OBJECTS) + list(ACTIONS).index(action)
    labels = np.concatenate([labels, np.full(len(implement), number)])
    return np.concatenate([corners, implement]), np.concatenate([tones, colours]), turn, labels


def _extent(word: str, action: str | None) -> tuple[float, float]:
    """Return width and height in metres of a thing, with the implement of its action."""
    across, _, high = OBJECTS[word].size
    if action is None:
        return across, high
    implement = ACTIONS[action]
    parts = ((across, implement.person[0]), (implement.size[0], implement.at[0]))
    left, right = min(x - width / 2 for width, x in parts), max(x + width / 2 for width, x in parts)
    return right - left, max(high + implement.person[2], implement.size[2] + implement.at[2])


def _surroundings(rng: Rng) -> tuple[Light, Room]:
    towards = rng.uniform((-1, -1, 0.4), (1, -0.2, 1))
    light = Light(towards / np.linalg.norm(towards), rng.uniform(0.65, 0.85))
    back, left, right, up = light.shade(np.array([(0, -1, 0), (1, 0, 0), (-1, 0, 0), (0, 0, 1)])).tolist()
    x0, x1, depth, height = rng.uniform((-2.7, 1.9, 4.8, 2.4), (-1.9, 2.7, 6.5, 2.8)).tolist()
    return light, Room(x0, x1, depth, height, (left, right), back, up)


def _view(
    rng: Rng, objects: Sequence[str], action: str | None, room: Room | None
) -> tuple[Camera, list[tuple[str, Corner]]]:
    """Return a camera, and the position of each object, far ones first; side by side, in view and inside the room."""
    camera = Camera(rng.uniform(1.2, 1.7), rng.uniform(0.75, 1), (rng.uniform(-0.15, 0.15), rng.uniform(-0.25, 0.1)))
    stands, tilts = [], []
    for slot, word in enumerate(objects):
        doing = action if word == "person" else None
        across, high = _extent(word, doing)
        share = rng.uniform(0.35, 0.9) if len(objects) == 1 else rng.uniform(0.3, 0.6)  # of the picture
        share = 0.5 + 0.4 * share if doing else share  # a person and an implement are two
        y = float(np.clip(camera.focal * max(0.8 * across, high) / share, 1.5, 4.4))
        x = (0.9 * ((slot + rng.uniform(0.3, 0.7)) / len(objects) - 0.5) - camera.middle[0]) * y / camera.focal
        if room:
            x = min(max(x, room.left + 0.6), room.right - 0.6)
        stands.append((word, (x, y, 0.0)))
        tilts.append(rng.uniform(-0.05, 0.05 if doing else 0.2) - (camera.height - high / 2) * camera.focal / y)
    if tilts:  # looks at what there is
        camera = camera._replace(middle=(camera.middle[0], min(max(sum(tilts) / len(tilts), -0.45), 0.05)))
    return camera, sorted(stands, key=lambda stand: -stand[1][1])


def _paint(
    pen: ImageDraw.ImageDraw, corners: np.ndarray, colours: np.ndarray, bright: np.ndarray, labels: np.ndarray | int
) -> None:
    shaded = (colours * bright[:, None]).clip(0, 255).astype(int)
    inks = np.column_stack([shaded, np.broadcast_to(labels, len(shaded))])
    for face, ink in zip(corners.reshape(-1, 8).tolist(), inks.tolist(), strict=True):
        pen.polygon(face, tuple(ink))


def _paler(colours: np.ndarray) -> np.ndarray:
    """Return colours (F, 3) mixed with a tenth of grey, so that no place has the colour of a thing."""
    return 0.9 * colours + 0.1 * colours.mean(-1, keepdims=True)


def _outside(faces: np.ndarray) -> np.ndarray:
    """Return which faces (F, 4, 2) show their outside, (F,) bool."""
    one, other = faces[:, 2] - faces[:, 0], faces[:, 3] - faces[:, 1]
    return one[:, 0] * other[:, 1] < one[:, 1] * other[:, 0]


def _exposed(rng: Rng, pixels: np.ndarray) -> np.ndarray:
    """Return pixels with random exposure, tint and noise."""
    gain = (rng.uniform(0.9, 1.1) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
    most = int(rng.integers(1, 10))
    noise = rng.integers(-most, most, pixels.shape, dtype=np.int8, endpoint=True)
    return (pixels * gain + noise).clip(0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------------- words and labels


def _caption(rng: Rng, place: str, objects: Sequence[str], action: str | None) -> str:
    if not objects:
        return f"a photo of a {place}"
    *others, last = [f"a {word} {action}" if action and word == "person" else f"a {word}" for word in objects]
    things = f"{', '.join(others)} and {last}" if others else last
    where = f"{PLACES[place].preposition} a {place}"
    forms = (f"a photo of {things} {where}", f"{things} {where}", f"a photo of a {place} with {things}")
    return forms[rng.integers(len(forms))]


def patch_labels(labels: np.ndarray, patch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the most frequent label of each patch, (h, w) uint8, and its fraction, (h, w), from labels (H, W)."""
    h, w = labels.shape[0] // patch, labels.shape[1] // patch
    tiles = labels[: h * patch, : w * patch].reshape(h, patch, w, patch)
    most = max(len(OBJECTS), len(ACTIONS))
    shares = np.stack([(tiles == label).mean((1, 3)) for label in range(most + 1)])  # (labels, h, w)
    return shares.argmax(0).astype(np.uint8), shares.max(0)


def write(folder: Path, count: int, seed: int, size: tuple[int, int] = (64, 64)) -> None:
    """Write `count` scenes: images/00000.png …, label maps in labels/ and action_labels/, and captions.json.

    Label maps are palette images. captions.json is written last: a list of {"image": "images/00000.png",
    "caption": …, "place": …, "objects": […], "action": …}, the action null if there is none. size: (H, W) in pixels.
    """
    entries = []
    write_card(folder, "Scenes with captions and label maps")
    for name in ("images", "labels", "action_labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        scene, name = draw(seed, index, size), f"{index:05d}.png"
        _save(Image.fromarray(scene.image), folder / "images" / name)
        _save(_paletted(scene.labels, OBJECTS), folder / "labels" / name)
        _save(_paletted(scene.action_labels, ACTIONS), folder / "action_labels" / name)
        fields = {
            "caption": scene.caption,
            "place": scene.place,
            "objects": list(scene.objects),
            "action": scene.action,
        }
        entries.append({"image": f"images/{name}", **fields})
    with write_atomically(folder / "captions.json") as part:
        part.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def _paletted(labels: np.ndarray, words: Mapping[str, Thing | Implement]) -> Image.Image:
    picture = Image.fromarray(labels).convert("P")
    picture.putpalette([0, 0, 0, *(part for word in words.values() for part in word.colour)])
    return picture


def _save(picture: Image.Image, path: Path) -> None:
    with write_atomically(path) as part:
        picture.save(part, "PNG")
