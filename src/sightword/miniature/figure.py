"""Synthetic images of one person as from a surveillance camera, drawn with PIL from seventeen attributes.

Everything else is random: pose, view, size, skin, ground and wall, objects in the colours of clothes, light, blur,
occlusion.

Legend: H, W pixels. A figure is drawn in its own frame: u to the viewer's right, v up from the ground, its height 1.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]
Rng = np.random.Generator
SMOOTH = 2  # how many times too large figures are drawn
BODY = 0.85  # height of an average figure, as a fraction of the image's

COLOURS: dict[str, Colour] = {  # of clothes
    "black": (34, 34, 40),
    "white": (244, 244, 240),
    "grey": (136, 138, 144),
    "red": (208, 30, 40),
    "orange": (244, 128, 24),
    "yellow": (248, 212, 40),
    "green": (36, 148, 66),
    "blue": (32, 76, 188),
    "purple": (124, 56, 168),
    "pink": (246, 138, 182),
    "brown": (116, 70, 38),
    "beige": (222, 196, 150),
}
HAIR: dict[str, Colour] = {
    "black": (30, 26, 28),
    "brown": (98, 58, 30),
    "blond": (232, 196, 104),
    "red": (178, 66, 28),
    "grey": (168, 168, 172),
}
SKIN: Sequence[Colour] = ((246, 214, 188), (232, 188, 152), (206, 154, 114), (158, 106, 72), (112, 74, 52))
WALLS: Sequence[Colour] = ((196, 190, 182), (176, 184, 188), (204, 198, 176), (168, 172, 162), (186, 176, 184))


class Person(NamedTuple):
    """Attributes of a person. Those of absent items, as of a bag that is none, have random values without effect."""

    sex: str  # man | woman
    hair: str  # bald | short | long
    hair_colour: str  # of HAIR
    top: str  # t-shirt | jacket | coat
    top_colour: str  # of COLOURS, like all that follow
    pattern: str  # plain | striped | dotted | logo: the last on the chest
    pattern_colour: str
    bottom: str  # trousers | shorts | skirt
    bottom_colour: str
    shoes: str  # sneakers | boots
    shoe_colour: str
    bag: str  # none | backpack | handbag
    bag_colour: str
    bag_side: str  # left | right: the person's own hand, so mirrored when they are seen from the front
    cap: str  # none | cap
    cap_colour: str
    glasses: str  # none | glasses


class Shot(NamedTuple):
    """An image of a person."""

    image: np.ndarray  # (H, W, 3) uint8
    behind: bool  # seen from behind: no logo, no glasses


class Pose(NamedTuple):
    """Pose and position of a figure."""

    behind: bool
    stride: float  # how far the feet are from under the hips, in heights; its sign says which is in front
    swing: float  # how far the hands are from beside the hips
    tilt: float  # of the head
    height: float  # of the figure, as a fraction of the image's height
    at: Point  # its position, as fractions of the image's width and height

    @classmethod
    def random(cls, rng: Rng) -> "Pose":
        stride, swing, tilt, height, x, y = rng.uniform((-1, -1, -1, 0.93, 0.43, 0.94), (1, 1, 1, 1.05, 0.57, 0.97))
        return cls(bool(rng.random() < 0.25), 0.05 * stride, 0.035 * swing, 0.012 * tilt, BODY * height, (x, y))


def draw(person: Person, skin: int, rng: Rng, size: tuple[int, int] = (192, 64)) -> Shot:
    """Draw a person at size (H, W) in pixels; all else is random. skin: index in SKIN."""
    height, width = size[0] * SMOOTH, size[1] * SMOOTH
    picture = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(picture)
    pose = Pose.random(rng)
    _surroundings(pen, rng, width, height, pose)
    frame = Frame(pen, (pose.at[0] * width, pose.at[1] * height), pose.height * height)
    _figure(frame, person, SKIN[skin], pose)
    if rng.random() < 0.15:
        _occluder(pen, rng, width, height)
    return Shot(_exposed(rng, picture.reduce(SMOOTH)), pose.behind)


class Frame:
    """Pen in a figure's own frame."""

    def __init__(self, pen: ImageDraw.ImageDraw, origin: Point, scale: float) -> None:
        self.pen, self.origin, self.scale = pen, origin, scale

    def at(self, point: Point) -> Point:
        """Return a point in pixels."""
        return self.origin[0] + point[0] * self.scale, self.origin[1] - point[1] * self.scale

    def shape(self, points: Sequence[Point], colour: Colour, edge: bool = True) -> None:
        """Draw a polygon, by default with a darker edge."""
        self.pen.polygon([self.at(p) for p in points], colour, shade(colour, 0.72) if edge else None)

    def disc(self, middle: Point, radii: Point, colour: Colour, arc: tuple[int, int] = (0, 360)) -> None:
        """Draw an ellipse or a sector of it. arc: degrees, clockwise from the right."""
        (x, y), (rx, ry) = self.at(middle), (r * self.scale for r in radii)
        self.pen.pieslice((x - rx, y - ry, x + rx, y + ry), arc[0], arc[1], colour, shade(colour, 0.72))

    def limb(self, points: Sequence[Point], widths: Sequence[float], colour: Colour) -> None:
        """Draw a polyline with round joints, `widths` wide at its points."""
        for a, b, wide, thin in zip(points, points[1:], widths, widths[1:], strict=False):
            du, dv = b[0] - a[0], b[1] - a[1]
            length = math.hypot(du, dv) or 1.0
            nu, nv = -dv / length / 2, du / length / 2
            self.shape(
                [(a[0] + s * w * nu, a[1] + s * w * nv) for s, w in ((1, wide), (-1, wide))]
                + [(b[0] + s * w * nu, b[1] + s * w * nv) for s, w in ((-1, thin), (1, thin))],
                colour,
                edge=False,
            )
        for (u, v), width in zip(points, widths, strict=True):
            (x, y), r = self.at((u, v)), width / 2 * self.scale
            self.pen.ellipse((x - r, y - r, x + r, y + r), colour)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        self.pen.line([self.at(p) for p in points], colour, max(1, round(width * self.scale)), joint="curve")


@lru_cache(4096)
def shade(colour: Colour, factor: float) -> Colour:
    """Return a colour times `factor`; black becomes lighter instead, so that its edge is visible."""
    if factor < 1 and max(colour) < 60:
        factor = 2 - factor
    red, green, blue = (min(255, round(part * factor)) for part in colour)
    return red, green, blue


# ---------------------------------------------------------------------------------------------------------- a figure

SHOULDER, WAIST, HIP, KNEE, ANKLE = 0.815, 0.56, 0.49, 0.265, 0.055  # heights v
HEAD = 0.905


def _figure(frame: Frame, person: Person, skin: Colour, pose: Pose) -> None:
    """Draw the person from back to front."""
    broad = 0.122 if person.sex == "man" else 0.104
    if person.hair == "long" and not pose.behind:
        _long_hair(frame, person, pose)
    if person.bag == "backpack" and not pose.behind:
        _backpack(frame, COLOURS[person.bag_colour], broad + 0.014, 0.80, 0.55)
    _legs(frame, person, skin, pose)
    _bottom(frame, person, pose)
    frame.limb([(0, 0.80), (pose.tilt, 0.87)], [0.052, 0.05], shade(skin, 0.9))
    _top(frame, person, broad, pose)
    if person.bag == "backpack" and not pose.behind:
        _straps(frame, COLOURS[person.bag_colour], broad)
    hands = _arms(frame, person, skin, broad, pose)
    if person.bag == "backpack" and pose.behind:
        _backpack(frame, COLOURS[person.bag_colour], 0.085, 0.80, 0.56)
    if person.bag == "handbag":
        _handbag(frame, COLOURS[person.bag_colour], hands[(person.bag_side == "left") != pose.behind])
    _head(frame, person, skin, pose)


def _legs(frame: Frame, person: Person, skin: Colour, pose: Pose) -> None:
    bare = person.bottom != "trousers"
    for side in (-1, 1):
        foot = side * 0.042 + (pose.stride if side > 0 else -pose.stride) * 0.8
        lift = 0.012 if side * pose.stride > 0 else 0.0  # the foot behind
        light = 0.84 if side * pose.stride > 0 else 1.0
        knee = side * 0.048 + (foot - side * 0.042) * 0.35
        hip, ankle = (side * 0.046, HIP), (foot, ANKLE + lift)
        colour = shade(skin if bare else COLOURS[person.bottom_colour], light)
        widths = [0.095, 0.062, 0.046] if bare else [0.102, 0.08, 0.07]
        frame.limb([hip, (knee, KNEE), ankle], widths, colour)
        if person.bottom == "shorts":
            frame.limb([hip, (knee, KNEE + 0.035)], [0.108, 0.104], shade(COLOURS[person.bottom_colour], light))
        _shoe(frame, person, ankle, shade(COLOURS[person.shoe_colour], light), side)


def _shoe(frame: Frame, person: Person, ankle: Point, colour: Colour, side: int) -> None:
    u, v = ankle
    toe = side * 0.022
    if person.shoes == "boots":
        frame.limb([(u, v + 0.075), (u, v - 0.02)], [0.074, 0.07], colour)
        frame.line([(u - 0.036, v + 0.095), (u + 0.036, v + 0.095)], 0.012, shade(colour, 0.7))
    sole = v - 0.052
    frame.shape([(u - 0.035, v), (u + 0.035, v), (u + toe + 0.042, sole), (u + toe - 0.042, sole)], colour)
    if person.shoes == "sneakers":  # a pale sole; a dark one under a white shoe
        pale = (70, 74, 86) if min(colour) > 190 else (238, 238, 236)
        frame.line([(u + toe - 0.042, sole + 0.004), (u + toe + 0.042, sole + 0.004)], 0.014, pale)


def _bottom(frame: Frame, person: Person, pose: Pose) -> None:
    colour = COLOURS[person.bottom_colour]
    if person.bottom == "skirt":
        sway = pose.stride * 0.3
        hem = [(0.128 + sway, 0.27), (sway, 0.262), (-0.128 + sway, 0.27)]
        frame.shape([(-0.078, WAIST), (0.078, WAIST), *hem], colour)
        for u in (-0.06, 0.0, 0.06):  # folds
            frame.line([(u * 0.6, HIP), (u + sway, 0.285)], 0.006, shade(colour, 0.82))
    else:
        frame.shape([(-0.085, WAIST), (0.085, WAIST), (0.096, 0.44), (0, 0.415), (-0.096, 0.44)], colour, edge=False)


def _top(frame: Frame, person: Person, broad: float, pose: Pose) -> None:
    colour = COLOURS[person.top_colour]
    hem = {"t-shirt": 0.475, "jacket": 0.455, "coat": 0.365}[person.top]
    wide = {"t-shirt": 0.094, "jacket": 0.104, "coat": 0.122}[person.top]
    outline = [(-broad, SHOULDER - 0.02), (-0.04, 0.845), (0.04, 0.845), (broad, SHOULDER - 0.02)]
    frame.shape([*outline, (0.095, WAIST), (wide, hem), (-wide, hem), (-0.095, WAIST)], colour)
    frame.shape([(broad, SHOULDER - 0.02), (0.095, WAIST), (wide, hem), (wide - 0.035, hem), (0.066, WAIST),
                 (broad - 0.04, SHOULDER)], shade(colour, 0.9), edge=False)  # fmt: skip
    _pattern(frame, person, broad, max(hem, 0.46), pose)
    if person.top != "t-shirt":
        _front(frame, person, colour, hem, pose)


def _front(frame: Frame, person: Person, colour: Colour, hem: float, pose: Pose) -> None:
    """Draw what distinguishes a jacket and a coat from a t-shirt, besides sleeves: zip or buttons, collar, belt."""
    dark = shade(colour, 0.62)
    if person.top == "coat":
        frame.line([(-0.099, 0.55), (0.099, 0.55)], 0.022, dark)  # belt
    else:
        frame.line([(-0.1, hem + 0.012), (0.1, hem + 0.012)], 0.02, dark)  # waistband
    if pose.behind:
        frame.line([(0, 0.845), (0, 0.79)], 0.006, dark)
        return
    frame.line([(0, 0.84), (0, hem + 0.01)], 0.008, dark)
    for side in (-1, 1):
        frame.shape([(0, 0.80), (side * 0.05, 0.855), (side * 0.026, 0.862)], dark, edge=False)
    if person.top == "coat":
        for v in (0.76, 0.70, 0.64, 0.49, 0.43):
            frame.disc((0.022, v), (0.009, 0.009), dark)


def _pattern(frame: Frame, person: Person, broad: float, low: float, pose: Pose) -> None:
    colour = COLOURS[person.pattern_colour]

    def half(v: float) -> float:
        """Return half the width of the trunk at a height."""
        share = min(max((v - WAIST) / (SHOULDER - 0.02 - WAIST), 0), 1)
        return 0.09 + share * (broad - 0.097)

    if person.pattern == "striped":
        for v in np.arange(low + 0.03, SHOULDER, 0.056):
            frame.shape([(-half(v), v), (half(v), v), (half(v), v + 0.026), (-half(v), v + 0.026)], colour, edge=False)
    elif person.pattern == "dotted":
        for row, v in enumerate(np.arange(low + 0.03, SHOULDER, 0.052)):
            for u in np.arange(-0.09 + 0.0225 * (row % 2), 0.1, 0.045):
                if abs(u) < half(v) - 0.012:
                    frame.disc((u, v), (0.0125, 0.0125), colour)
    elif person.pattern == "logo" and not pose.behind:
        frame.disc((0.0, 0.72), (0.05, 0.042), colour)
        frame.disc((0.0, 0.72), (0.022, 0.018), COLOURS[person.top_colour])


def _arms(frame: Frame, person: Person, skin: Colour, broad: float, pose: Pose) -> tuple[Point, Point]:
    """Draw both arms; return the positions of the hands at the viewer's left and right."""
    colour, hands = COLOURS[person.top_colour], []
    for side in (-1, 1):
        swing = side * 0.018 + (pose.swing if side > 0 else -pose.swing) * 0.5
        shoulder = (side * (broad - 0.012), SHOULDER - 0.03)
        elbow = (side * (broad + 0.017) + swing * 0.4, 0.645)
        hand = (side * (broad + 0.012) + swing, 0.485)
        lit = shade(colour, 0.95 if side < 0 else 0.85)
        if person.top == "t-shirt":
            frame.limb([shoulder, elbow, hand], [0.05, 0.042, 0.036], shade(skin, 0.97 if side < 0 else 0.9))
            sleeve = tuple(a + 0.62 * (b - a) for a, b in zip(shoulder, elbow, strict=True))
            frame.limb([shoulder, (sleeve[0], sleeve[1])], [0.06, 0.062], lit)
        else:
            frame.limb([elbow, hand], [0.04, 0.036], shade(skin, 0.95))
            cuff = (hand[0] + 0.12 * (elbow[0] - hand[0]), hand[1] + 0.16 * (elbow[1] - hand[1]))
            frame.limb([shoulder, elbow, cuff], [0.064, 0.056, 0.05], lit)
        frame.disc(hand, (0.021, 0.024), shade(skin, 0.95))
        hands.append(hand)
    return hands[0], hands[1]


def _backpack(frame: Frame, colour: Colour, half: float, top: float, low: float) -> None:
    frame.shape([(-half + 0.02, top), (half - 0.02, top), (half, top - 0.03), (half, low), (-half, low),
                 (-half, top - 0.03)], colour)  # fmt: skip
    frame.shape([(-half * 0.7, low + 0.02), (half * 0.7, low + 0.02), (half * 0.7, low + 0.11),
                 (-half * 0.7, low + 0.11)], shade(colour, 0.8))  # fmt: skip
    frame.line([(-half * 0.7, top - 0.055), (half * 0.7, top - 0.055)], 0.008, shade(colour, 0.65))


def _straps(frame: Frame, colour: Colour, broad: float) -> None:
    for side in (-1, 1):
        edge = shade(colour, 0.6)
        points = [(side * (broad - 0.055), 0.835), (side * (broad - 0.045), 0.72), (side * (broad - 0.02), 0.61)]
        frame.line(points, 0.036, edge)
        frame.line(points, 0.025, colour)


def _handbag(frame: Frame, colour: Colour, hand: Point) -> None:
    u, v = hand
    for side in (-1, 1):
        frame.line([(u, v + 0.005), (u + side * 0.036, v - 0.055)], 0.01, shade(colour, 0.65))
    frame.shape([(u - 0.05, v - 0.055), (u + 0.05, v - 0.055), (u + 0.064, v - 0.155), (u - 0.064, v - 0.155)], colour)
    frame.line([(u - 0.053, v - 0.082), (u + 0.053, v - 0.082)], 0.01, shade(colour, 0.7))


def _head(frame: Frame, person: Person, skin: Colour, pose: Pose) -> None:
    u, hair = pose.tilt, HAIR[person.hair_colour]
    if person.hair != "bald":
        frame.disc((u, HEAD + 0.014), (0.057, 0.07), hair)
    for side in (-1, 1):
        frame.disc((u + side * 0.05, HEAD - 0.004), (0.011, 0.017), shade(skin, 0.9))
    frame.disc((u, HEAD), (0.05, 0.065), skin)
    if pose.behind:
        if person.hair == "bald":
            frame.disc((u, HEAD), (0.05, 0.065), shade(skin, 0.93))
        else:
            frame.disc((u, HEAD + 0.006), (0.056, 0.07), hair)
        if person.hair == "long":
            _long_hair(frame, person, pose)
    else:
        _face(frame, person, skin, u)
        if person.hair != "bald":
            frame.disc((u, HEAD + 0.022), (0.054, 0.058), hair, arc=(190, 350))
    if person.cap == "cap":
        _cap(frame, COLOURS[person.cap_colour], u, pose.behind)


def _face(frame: Frame, person: Person, skin: Colour, u: float) -> None:
    if person.sex == "man":  # a shadow of a beard
        frame.disc((u, HEAD - 0.012), (0.046, 0.05), shade(skin, 0.82), arc=(25, 155))
    frame.line([(u - 0.017, HEAD - 0.036), (u + 0.017, HEAD - 0.036)], 0.009,
               (196, 40, 60) if person.sex == "woman" else shade(skin, 0.55))  # fmt: skip
    for side in (-1, 1):
        eye = (u + side * 0.02, HEAD + 0.004)
        if person.glasses == "glasses":
            frame.disc(eye, (0.019, 0.016), (24, 26, 34))
        else:
            frame.disc(eye, (0.006, 0.007), (40, 32, 32))
    if person.glasses == "glasses":
        frame.line([(u - 0.05, HEAD + 0.008), (u + 0.05, HEAD + 0.008)], 0.008, (24, 26, 34))


def _long_hair(frame: Frame, person: Person, pose: Pose) -> None:
    u, hair = pose.tilt, HAIR[person.hair_colour]
    ends = [(u + 0.078, 0.755), (u + 0.03, 0.735), (u - 0.03, 0.735), (u - 0.078, 0.755)]
    frame.shape([(u - 0.055, HEAD + 0.03), (u + 0.055, HEAD + 0.03), *ends], hair)


def _cap(frame: Frame, colour: Colour, u: float, behind: bool) -> None:
    frame.disc((u, HEAD + 0.024), (0.058, 0.066), colour, arc=(180, 360))
    if behind:
        frame.line([(u - 0.03, HEAD + 0.03), (u + 0.03, HEAD + 0.03)], 0.01, shade(colour, 0.6))
    else:
        brim = [
            (u - 0.056, HEAD + 0.032),
            (u + 0.056, HEAD + 0.032),
            (u + 0.07, HEAD + 0.014),
            (u - 0.07, HEAD + 0.014),
        ]
        frame.shape(brim, shade(colour, 0.8))


# ----------------------------------------------------------------------------------------------------- all around it


def _surroundings(pen: ImageDraw.ImageDraw, rng: Rng, width: int, height: int, pose: Pose) -> None:
    """Draw a wall, the ground, objects in the colours of clothes, and the figure's shadow."""
    wall = WALLS[int(rng.integers(len(WALLS)))]
    edge = round(height * rng.uniform(0.62, 0.8))  # where wall and ground meet
    deep, steps = height - edge, 12
    for step in range(steps):
        band = (0, edge * step // steps, width, edge * (step + 1) // steps)
        pen.rectangle(band, shade(wall, 1.08 - 0.2 * step / steps))
    for step in range(steps):
        band = (0, edge + deep * step // steps, width, edge + deep * (step + 1) // steps)
        pen.rectangle(band, shade((150, 148, 144), 0.82 + 0.26 * step / steps))
    pen.line((0, edge, width, edge), shade(wall, 0.6), 2)
    names = list(COLOURS)
    for _ in range(int(rng.integers(1, 5))):  # doors, posters, boxes
        x, w, h = rng.uniform((-0.15, 0.12, 0.08), (0.95, 0.42, 0.36))
        y = edge - h * height if rng.random() < 0.5 else rng.uniform(0.02, 0.4) * height
        colour = _paler(COLOURS[names[int(rng.integers(len(names)))]], wall)
        pen.rectangle((x * width, y, (x + w) * width, min(y + h * height, edge)), colour, shade(colour, 0.75), 2)
    x, y = pose.at[0] * width, pose.at[1] * height
    pen.ellipse((x - 0.34 * width, y - 0.022 * height, x + 0.34 * width, y + 0.012 * height), (96, 94, 92))


def _occluder(pen: ImageDraw.ImageDraw, rng: Rng, width: int, height: int) -> None:
    """Draw an occluder in front of the figure: a post at one side, or a low box."""
    colour = _paler(COLOURS[list(COLOURS)[int(rng.integers(len(COLOURS)))]], (128, 128, 128))
    if rng.random() < 0.5:
        x = (rng.uniform(0.0, 0.2) if rng.random() < 0.5 else rng.uniform(0.72, 0.9)) * width
        box = (x, 0.0, x + rng.uniform(0.08, 0.14) * width, float(height))
    else:
        x, top = rng.uniform(-0.2, 0.5) * width, rng.uniform(0.8, 0.9) * height
        box = (x, top, x + rng.uniform(0.4, 0.8) * width, float(height))
    pen.rectangle(box, colour, shade(colour, 0.7), 2)


def _paler(colour: Colour, towards: Colour) -> Colour:
    """Return a colour mixed with a third of another, so that surroundings differ from clothes."""
    red, green, blue = (round(0.67 * a + 0.33 * b) for a, b in zip(colour, towards, strict=True))
    return red, green, blue


def _exposed(rng: Rng, picture: Image.Image) -> np.ndarray:
    """Return an image with random exposure, tint, blur and noise."""
    if rng.random() < 0.4:
        picture = picture.filter(ImageFilter.BoxBlur(rng.uniform(0.2, 0.7)))
    gain = (rng.uniform(0.86, 1.1) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
    most = int(rng.integers(2, 9))
    pixels = np.asarray(picture)
    noise = np.frombuffer(rng.bytes(pixels.size), np.int8).reshape(pixels.shape) // np.int8(128 // most)
    return (pixels * gain + noise).clip(0, 255).astype(np.uint8)
