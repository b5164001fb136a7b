"""Arrays in, pictures out: what a person would rather look at than a number. Pure PIL and NumPy.

Legend: N images, H height, W width, K codes. Images are (N, 3, H, W) in [-1, 1], tensors on any device or arrays.
Charts are drawn three times too large and reduced, which smooths their lines; their text is drawn afterwards.
"""

import base64
import io
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Union

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from torch import Tensor

Array = Union[np.ndarray, "Tensor"]
Point = tuple[float, float]

INK, GREY, FAINT = "#24292f", "#6e7781", "#e6e8eb"
LINES = ("#2f6fde", "#e0672b", "#2b9b6b", "#a64fc4", "#c98a00", "#d6336c", "#0f8ea8", "#7a5c3e")
LABEL, TITLE = 12, 14  # text sizes in pixels
SMOOTH = 3  # how many times too large charts are drawn


# ----------------------------------------------------------------------------------------------------------- images


def grid(images: Array, columns: int, pad: int = 2, scale: int = 1) -> Image.Image:
    """Images side by side, row by row, on white. scale: each pixel becomes scale x scale."""
    tiles = _tiles(images, scale)
    columns = max(1, min(columns, len(tiles)))
    width, height = tiles[0].size
    rows = math.ceil(len(tiles) / columns)
    page = Image.new("RGB", (columns * (width + pad) + pad, rows * (height + pad) + pad), "white")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        page.paste(tile, (pad + column * (width + pad), pad + row * (height + pad)))
    return page


def pairs(
    inputs: Array,
    reconstructions: Array,
    columns: int,
    labels: tuple[str, str] = ("input", "reconstruction"),
    scale: int | None = None,
) -> Image.Image:
    """Each reconstruction under its input, rows labelled at the left.

    scale: None enlarges small images by a whole factor to at least 64 pixels, so that they can be told apart.
    """
    if inputs.shape != reconstructions.shape:
        raise ValueError(f"inputs are {tuple(inputs.shape)}, reconstructions {tuple(reconstructions.shape)}")
    scale = scale or max(1, math.ceil(64 / min(inputs.shape[-2:])))
    rows = [_tiles(images, scale) for images in (inputs, reconstructions)]
    width, height = rows[0][0].size
    columns = max(1, min(columns, len(rows[0])))
    blocks = math.ceil(len(rows[0]) / columns)

    margin, pad, gap = 12, 3, 14
    gutter = margin + math.ceil(max(_font(LABEL).getlength(label) for label in labels)) + 8
    block = 2 * height + pad
    page = Image.new(
        "RGB",
        (gutter + columns * (width + pad) - pad + margin, 2 * margin + blocks * (block + gap) - gap),
        "white",
    )
    pen = ImageDraw.Draw(page)
    for which, tiles in enumerate(rows):
        for number, tile in enumerate(tiles):
            at, column = divmod(number, columns)
            top = margin + at * (block + gap) + which * (height + pad)
            page.paste(tile, (gutter + column * (width + pad), top))
            if column == 0:
                pen.text((gutter - 8, top + height / 2), labels[which], GREY, _font(LABEL), anchor="rm")
    return page


def titled(images: Mapping[str, Image.Image], gap: int = 16) -> Image.Image:
    """Pictures side by side on white, each under its title, tops aligned."""
    above = 24
    width = sum(image.width for image in images.values()) + gap * (len(images) - 1)
    page = Image.new("RGB", (width, above + max(image.height for image in images.values())), "white")
    pen, left = ImageDraw.Draw(page), 0
    for title, image in images.items():
        pen.text((left, 0), title, INK, _font(LABEL + 2))
        page.paste(image, (left, above))
        left += image.width + gap
    return page


def to_data_uri(image: Image.Image) -> str:
    """The picture as a PNG inside a string, for the src of an HTML page's <img>."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _tiles(images: Array, scale: int) -> list[Image.Image]:
    pixels = _numpy(images)
    if pixels.ndim != 4 or pixels.shape[1] != 3 or len(pixels) == 0:
        raise ValueError(f"images are (N, 3, H, W) with N at least 1, these are {pixels.shape}")
    eight = np.rint((np.clip(np.nan_to_num(pixels.astype(np.float32)), -1, 1) + 1) * 127.5).astype(np.uint8)
    eight = eight.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)  # (N, H, W, 3)
    return [Image.fromarray(np.ascontiguousarray(tile)) for tile in eight]


def _numpy(values: Array) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()


# ------------------------------------------------------------------------------------------------------------ codes


def code_colours(ids: np.ndarray) -> np.ndarray:
    """A colour for each code: the same id always gets the same, near ids get unlike ones. ids (…) → (…, 3) uint8.

    Hue, lightness and chroma walk by three irrational steps (the golden ratio's cousin in three dimensions), so any
    first K ids are spread evenly. In OKLCH, where equal steps look equal (Björn Ottosson, 2020); the ranges are the
    widest that hardly leave sRGB, so that no two of the first 1024 codes are cut to one colour.
    """
    g = 1.2207440846057596  # the real root of x^4 = x + 1
    walk = (ids[..., None].astype(np.float64) * (1 / g, 1 / g**2, 1 / g**3) + 0.5) % 1
    hue, light, chroma = 2 * np.pi * walk[..., 0], 0.48 + 0.36 * walk[..., 1], 0.04 + 0.10 * walk[..., 2]
    lab = np.stack([light, chroma * np.cos(hue), chroma * np.sin(hue)], -1)
    cones = (lab @ _OKLAB_TO_CONES.T) ** 3
    linear = np.clip(cones @ _CONES_TO_RGB.T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(srgb * 255).astype(np.uint8)


_OKLAB_TO_CONES = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_CONES_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def code_map(ids: Array, num_codes: int, scale: int = 16, size: tuple[int, int] | None = None) -> Image.Image:
    """Which code stands where: ids (h, w), each id in its own colour (`code_colours`), each token a square.

    scale: pixels per token. size: (width, height) of the whole instead, say that of the image it was made from.
    """
    values = _numpy(ids)
    if values.ndim != 2:
        raise ValueError(f"a map of codes is (h, w), this is {values.shape}")
    if values.min() < 0 or values.max() >= num_codes:
        raise ValueError(f"ids run from {values.min()} to {values.max()}, the codebook has {num_codes} codes")
    small = Image.fromarray(code_colours(values))
    return small.resize(size or (small.width * scale, small.height * scale), Image.Resampling.NEAREST)


# ------------------------------------------------------------------------------------------------------------ words


def word_colours(words: Sequence[str]) -> np.ndarray:
    """A colour for each word, (K, 3) uint8: a word has the same in every picture."""
    return code_colours(np.array([zlib.crc32(word.encode()) % 2**16 for word in words]))


def class_map(
    ids: Array,
    words: Sequence[str],
    image: Image.Image,
    strength: Array | None = None,
    colours: Array | None = None,
    top: int = 5,
    opacity: float = 0.65,
) -> Image.Image:
    """Which word each patch of an image is nearest to: its colour laid over the patch, and a legend by area below.

    ids: (h, w), indices into `words`. strength: (h, w) in [0, 1], how sure; where it is low the image shines through,
    and where it is 0 the legend does not count the patch.
    colours: (K, 3) uint8, `word_colours` if None. top: words in the legend, the others together are its last line.
    """
    values = _numpy(ids)
    if values.ndim != 2 or values.min() < 0 or values.max() >= len(words):
        raise ValueError(f"ids are (h, w) from 0 to {len(words) - 1}, these are {values.shape}, up to {values.max()}")
    palette = word_colours(words) if colours is None else _numpy(colours)
    sure = np.ones(values.shape) if strength is None else np.clip(_numpy(strength), 0, 1)
    paint = Image.fromarray(palette[values].astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    cover = Image.fromarray(np.rint(255 * opacity * sure).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    picture = Image.composite(paint, image.convert("RGB"), cover)
    shares = np.bincount(values.ravel(), sure.ravel() > 0, len(words)) / values.size
    return _with_legend(picture, shares, words, palette, top)


def _with_legend(
    picture: Image.Image, shares: np.ndarray, words: Sequence[str], palette: np.ndarray, top: int
) -> Image.Image:
    """shares: (K,) of the area."""
    order = [int(number) for number in np.argsort(-shares, kind="stable") if shares[number]]
    rest = shares[order[top:]].sum()
    lines = [(words[number], shares[number], tuple(palette[number].tolist())) for number in order[:top]]
    lines += [(f"{len(order) - top} other words", rest, (255, 255, 255))] if rest else []
    line, square = LABEL + 8, LABEL
    page = Image.new(
        "RGB", (picture.width, picture.height + 8 + line * (min(top, len(words)) + (len(words) > top))), "white"
    )
    page.paste(picture, (0, 0))
    pen = ImageDraw.Draw(page)
    for number, (word, share, colour) in enumerate(lines):
        y = picture.height + 8 + line * number
        pen.rectangle((0, y + 1, square, y + 1 + square), fill=colour, outline=GREY)
        pen.text((square + 8, y), word, INK, _font(LABEL))
        pen.text((picture.width - 1, y), f"{100 * share:.0f} %", GREY, _font(LABEL), anchor="ra")
    return page


# ---------------------------------------------------------------------------------------------------- contributions

FOR, AGAINST = (214, 60, 40), (36, 98, 200)  # what speaks for something, and against it


def heat_map(values: Array, image: Image.Image, limit: float | None = None) -> Image.Image:
    """Signed values (h, w) laid over an image: red for, blue against, clear where they are zero.

    limit: the value of full colour, the largest there is if None; give one limit to pictures that are compared.
    """
    signed = _numpy(values).astype(np.float64)
    if signed.ndim != 2:
        raise ValueError(f"a heat map is (h, w), this is {signed.shape}")
    share = np.clip(signed / (limit or np.abs(signed).max() or 1.0), -1, 1)
    colours = np.where(share[..., None] > 0, FOR, AGAINST).astype(np.uint8)
    paint = Image.fromarray(colours).resize(image.size, Image.Resampling.NEAREST)
    cover = Image.fromarray(np.rint(220 * np.abs(share)).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    grey = image.convert("L").convert("RGB")
    return Image.composite(paint, Image.blend(grey, image.convert("RGB"), 0.35), cover)


def terms(values: Mapping[str, float], width: int = 300, total: str = "") -> Image.Image:
    """The terms of a sum, a line each: its name, a bar to the right if it adds and to the left if it takes away.

    total: the last line, under a rule.
    """
    line, middle, reach = LABEL + 8, round(width * 0.7), round(width * 0.14)
    page = Image.new("RGB", (width, line * (len(values) + bool(total)) + 4), "white")
    pen, largest = ImageDraw.Draw(page), max(map(abs, values.values()), default=0.0) or 1.0
    for number, (name, value) in enumerate(values.items()):
        y, end = line * number, middle + round(reach * value / largest)
        pen.rectangle((min(middle, end), y + 3, max(middle, end), y + LABEL + 1), FOR if value > 0 else AGAINST)
        pen.text((0, y), name, INK, _font(LABEL))
        pen.text((width - 1, y), f"{value:+.2f}", GREY, _font(LABEL), anchor="ra")
    if total:
        y = line * len(values)
        pen.line((0, y, width, y), FAINT)
        pen.text((0, y + 3), total, INK, _font(LABEL))
    return page


def matrix(values: Array, rows: Sequence[str], columns: Sequence[str], cell: int = 18) -> Image.Image:
    """Signed values (rows, columns) as coloured cells: red for, blue against; columns named at a slant above."""
    signed = _numpy(values).astype(np.float64)
    if signed.shape != (len(rows), len(columns)):
        raise ValueError(f"values are {signed.shape}, for {len(rows)} rows and {len(columns)} columns")
    share = np.clip(signed / (np.abs(signed).max() or 1.0), -1, 1)[..., None]
    colours = np.rint(255 + np.abs(share) * (np.where(share > 0, FOR, AGAINST) - 255.0)).astype(np.uint8)
    left, above = max(round(_font(LABEL).getlength(name)) for name in rows) + 10, 150
    slanted = [_slanted(name) for name in columns]
    page = Image.new("RGB", (left + cell * len(columns) + above, above + cell * len(rows) + 2), "white")
    for number, label in enumerate(slanted):
        where = (left + cell * number + 2, above - label.height - 2)
        page.paste(label, where, Image.eval(label.convert("L"), _inverse))
    pen = ImageDraw.Draw(page)
    for i, name in enumerate(rows):
        pen.text((left - 6, above + cell * i + 2), name, INK, _font(LABEL), anchor="ra")
        for j in range(len(columns)):
            x, y = left + cell * j, above + cell * i
            pen.rectangle((x, y, x + cell - 2, y + cell - 2), tuple(colours[i, j].tolist()))
    return page


RIGHT_CELL, WRONG_CELL = (31, 111, 184), (214, 60, 40)  # full colour on the diagonal and beside it
WIDEST_NAME = 230  # pixels of a class name


def confusion(counts: Array, names: Sequence[str], title: str = "", worst: int = 5) -> Image.Image:
    """What was taken for what: counts (C, C), rows the true class, columns the predicted one, in percent of the row.

    Right answers are blue, wrong ones red; a cell under half a percent has no number. At the right each class's number
    of items; below, the `worst` most frequent mistakes in words, by their share of the class. Readable to 60 classes
    and more: cells shrink to 22 pixels, and names that are too long are cut.
    """
    values = _numpy(counts).astype(np.float64)
    if values.shape != (len(names), len(names)) or not len(names):
        raise ValueError(f"a confusion matrix of {len(names)} classes is (C, C), this is {values.shape}")
    totals = values.sum(1, keepdims=True)
    share = np.divide(values, totals, out=np.zeros_like(values), where=totals > 0)
    cell, small = (34, 12) if len(names) <= 20 else (26, 11) if len(names) <= 40 else (22, 10)
    shown = [cut(name, WIDEST_NAME) for name in names]
    slanted = [_slanted(name) for name in shown]
    label = _font(LABEL)
    left = 12 + math.ceil(max(label.getlength(name) for name in shown)) + 8
    head = 12 + (TITLE + 10 if title else 0) + 2 * (LABEL + 6)
    above = head + max(image.height for image in slanted) + 4
    side = cell * len(names)
    mistakes = _mistakes(share, names, worst)
    wide = [label.getlength(line) for line in mistakes] + [_font(TITLE).getlength(title), label.getlength(_READING[1])]
    right = max(64, slanted[-1].width + 8)
    width = max(left + side + right, math.ceil(max(wide)) + 24)
    page = Image.new("RGB", (width, above + side + 14 + (LABEL + 7) * len(mistakes) + 8), "white")
    for number, image in enumerate(slanted):
        where = (left + cell * number + cell // 3, above - image.height - 4)
        page.paste(image, where, Image.eval(image.convert("L"), _inverse))
    pen = ImageDraw.Draw(page)
    _write_lines(pen, title, head)
    _cells(pen, share, (left, above), cell, _font(small))
    for number, name in enumerate(shown):
        y = above + cell * number + cell / 2
        pen.text((left - 8, y), name, INK, label, anchor="rm")
        count = int(totals[number, 0])
        pen.text((left + side + 6, y), f"{count:,}" if count else "none", GREY, label, anchor="lm")
    for number, line in enumerate(mistakes):
        pen.text((12, above + side + 14 + number * (LABEL + 7)), line, INK if number else GREY, label)
    return page


_READING = (
    "a row is what it is, a column what it was called",
    "percent of the row: blue right, red wrong; at the right the number of items",
)


def _write_lines(pen: ImageDraw.ImageDraw, title: str, head: int) -> None:
    if title:
        pen.text((12, 12), title, INK, _font(TITLE))
    for number, line in enumerate(_READING):
        pen.text((12, head - (2 - number) * (LABEL + 6)), line, GREY, _font(LABEL))


def _cells(
    pen: ImageDraw.ImageDraw,
    share: np.ndarray,
    corner: tuple[int, int],
    cell: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """share: (C, C) of each row."""
    full = np.where(np.eye(len(share), dtype=bool)[..., None], RIGHT_CELL, WRONG_CELL)
    strength = np.where(share > 0, 0.08 + 0.92 * share, 0)[..., None]
    colours = np.rint(255 + strength * (full - 255.0)).astype(int)
    for i, j in np.ndindex(*share.shape):
        x, y = corner[0] + cell * j, corner[1] + cell * i
        empty = "#f4f5f7" if i != j else "#eaf1f8"
        pen.rectangle((x, y, x + cell - 2, y + cell - 2), tuple(colours[i, j].tolist()) if share[i, j] else empty)
        if share[i, j] >= 0.005:
            ink = "white" if share[i, j] > 0.5 else INK
            pen.text((x + cell / 2 - 1, y + cell / 2 - 1), f"{100 * share[i, j]:.0f}", ink, font, anchor="mm")


def _mistakes(share: np.ndarray, names: Sequence[str], worst: int) -> list[str]:
    """The largest cells beside the diagonal as sentences, under a heading."""
    wrong = share * (1 - np.eye(len(share)))
    order = np.argsort(-wrong, axis=None, kind="stable")[:worst]
    cells = [divmod(int(place), len(share)) for place in order]
    lines = [f"{100 * wrong[i, j]:.0f} % of “{names[i]}” called “{names[j]}”" for i, j in cells if wrong[i, j] > 0]
    return ["most frequent mistakes", *lines] if lines else []


def cut(text: str, width: float, size: int = LABEL) -> str:
    """The text, or as much of its beginning as fits into `width` pixels, and an ellipsis. size: of the letters."""
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _slanted(text: str) -> Image.Image:
    line = Image.new("RGB", (round(_font(LABEL).getlength(text)) + 2, LABEL + 4), "white")
    ImageDraw.Draw(line).text((0, 0), text, INK, _font(LABEL))
    return line.rotate(50, Image.Resampling.BICUBIC, expand=True, fillcolor="white")


def _inverse(value: int) -> int:
    return 255 - value


# ----------------------------------------------------------------------------------------------------------- clouds

FIELD = 40.0  # degrees that a cloud's picture spans downwards
BACKGROUND = (232, 235, 239)  # darker than white walls
WIDEST_SPLAT = 14  # pixels around a point's own, of a picture that is drawn SHRINK times too large
SHRINK = 2


def cloud(
    xyz: Array,
    rgb: Array,
    size: tuple[int, int] = (640, 480),
    up: Sequence[float] = (0.0, 0.0, 1.0),
    facing: Array | None = None,
    azimuth: float | None = None,
    elevation: float = 38.0,
) -> Image.Image:
    """A coloured point cloud in perspective, from above and outside: xyz (N, 3) in any unit, rgb (N, 3) uint8.

    facing: (N, 3), from each point to where it was seen from; what faces away is left out, so that one looks into a
    room past its near walls and its ceiling. azimuth: degrees around `up`, of where one looks from; None: the side from
    which most was seen. Near points cover far ones; edges in depth are darkened, which separates things of one colour.
    """
    points, colours, axis = _numpy(xyz).astype(np.float64), _numpy(rgb), np.asarray(up, float)
    if points.ndim != 2 or points.shape[1] != 3 or colours.shape != points.shape or not len(points):
        raise ValueError(f"a cloud is xyz (N, 3) and rgb (N, 3), N at least 1; got {points.shape} and {colours.shape}")
    seen = None if facing is None else _numpy(facing).astype(np.float64)
    back = _from_where(axis / np.linalg.norm(axis), seen, azimuth, elevation)
    turn = _looking(back, axis)  # rows: right, down, ahead
    large = (size[0] * SHRINK, size[1] * SHRINK)
    focal = large[1] / 2 / math.tan(math.radians(FIELD / 2))
    eye = _fitting(points, turn, focal, large)
    spacing = _spacing(points)
    kept = np.ones(len(points), bool)
    if seen is not None:
        kept = ((eye - points) * _normals(points, seen, 4 * spacing)).sum(1) > 0
        kept |= not kept.any()
        eye = _fitting(points[kept], turn, focal, large)
    x, y, z = ((points[kept] - eye) @ turn.T).T
    u, v = focal * x / z + large[0] / 2, focal * y / z + large[1] / 2
    reach = np.clip(0.9 * focal * spacing / z, 1.5, WIDEST_SPLAT)
    pixels, depth = _splat(u, v, z, reach, colours[kept], large)
    lit = pixels * _edges(depth)[..., None]
    lit[~np.isfinite(depth)] = BACKGROUND
    return Image.fromarray(lit.round().astype(np.uint8)).resize(size, Image.Resampling.BOX)


def _from_where(up: np.ndarray, facing: np.ndarray | None, azimuth: float | None, elevation: float) -> np.ndarray:
    """The direction from the cloud to the eye."""
    right = np.cross((0.0, 1.0, 0.0) if abs(up[1]) < 0.9 else (0.0, 0.0, 1.0), up)
    right /= np.linalg.norm(right)
    ahead = np.cross(up, right)
    if azimuth is None:
        azimuth = -60.0
        if facing is not None:
            mean = (facing / np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-9)).mean(0)
            flat = np.array([mean @ right, mean @ ahead])
            if np.linalg.norm(flat) > 0.1:  # not from everywhere
                azimuth = math.degrees(math.atan2(flat[1], flat[0]))
    turn, rise = math.radians(azimuth), math.radians(elevation)
    return math.cos(rise) * (math.cos(turn) * right + math.sin(turn) * ahead) + math.sin(rise) * up


def _looking(back: np.ndarray, up: np.ndarray) -> np.ndarray:
    right = np.cross(-back, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(-back, right), -back])


def _fitting(points: np.ndarray, turn: np.ndarray, focal: float, size: tuple[int, int]) -> np.ndarray:
    """Where the eye stands so that the cloud, less its outliers, fills the picture."""
    seen = points @ turn.T
    low, high = np.percentile(seen, (0.03, 99.97), axis=0)
    inner = ((seen >= low) & (seen <= high)).all(1)
    kept, middle = seen[inner if inner.any() else slice(None)], (low + high) / 2
    wide, tall = 0.9 * size[0] / 2 / focal, 0.9 * size[1] / 2 / focal
    for turns_left in range(5, -1, -1):  # near parts look larger: the cloud's middle is not that of its picture
        x, y, z = (kept - middle).T
        far = max(float((abs(x) / wide - z).max()), float((abs(y) / tall - z).max()), float(-1.05 * z.min()), 1e-6)
        if turns_left:
            across, down = x / (far + z), y / (far + z)
            middle[:2] += far * np.array([across.max() + across.min(), down.max() + down.min()]) / 2
    return (middle - np.array([0, 0, far])) @ turn


def _spacing(points: np.ndarray) -> float:
    """The usual distance of a point to the next, by a few of them."""
    some = points[:: max(1, len(points) // 64)][:64]
    nearest = [np.sort(((points - point) ** 2).sum(1))[1:2] if len(points) > 1 else np.zeros(1) for point in some]
    return float(np.sqrt(np.median(np.concatenate(nearest))))


def _normals(points: np.ndarray, facing: np.ndarray, cell: float) -> np.ndarray:
    """(N, 3) of the surface around each point, on the side of `facing`; by the spread of the points in its cell."""
    cells = np.floor((points - points.min(0)) / max(cell, 1e-9)).astype(np.int64)
    _, which, counts = np.unique(cells @ (1 << 42, 1 << 21, 1), return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(which, points[:, i]) for i in range(3)], 1) / counts[:, None]
    off = points - means[which]
    spread = np.stack([[np.bincount(which, off[:, i] * off[:, j]) for i in range(3)] for j in range(3)], -1)
    normals = np.linalg.eigh(spread.transpose(1, 0, 2))[1][:, :, 0][which]  # eigenvector of the least eigenvalue
    normals *= np.sign((normals * facing).sum(1, keepdims=True))
    return np.where((counts[which] < 4)[:, None], facing, normals)


def _splat(
    u: np.ndarray, v: np.ndarray, z: np.ndarray, reach: np.ndarray, rgb: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Discs, the nearer over the farther: (H, W, 3) float and the depth (H, W), infinite where nothing is."""
    order = np.argsort(-z, kind="stable")
    u, v, z, reach, rgb = u[order], v[order], z[order], reach[order], rgb[order]
    around = np.arange(-int(reach.max()), int(reach.max()) + 1)
    dy, dx = (side.ravel() for side in np.meshgrid(around, around, indexing="ij"))
    width, height = size
    pixels, depth = np.zeros((height * width, 3)), np.full(height * width, np.inf)
    for some in np.array_split(np.arange(len(u)), 1 + len(u) * len(dx) // 4_000_000):  # farthest first
        x, y = np.rint(u[some]).astype(int)[:, None] + dx, np.rint(v[some]).astype(int)[:, None] + dy  # (n, K)
        inside = (dx**2 + dy**2 <= reach[some][:, None] ** 2) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        which, _ = np.nonzero(inside)
        at = (y * width + x)[inside]
        pixels[at], depth[at] = rgb[some][which], z[some][which]  # of one pixel's, the last stays
    return pixels.reshape(height, width, 3), depth.reshape(height, width)


def _edges(depth: np.ndarray, strength: float = 12.0) -> np.ndarray:
    """(H, W): 1, and less where a neighbour is much nearer (eye-dome lighting, Boucheny 2009)."""
    with np.errstate(invalid="ignore"):
        log = np.log(depth)
        total = np.zeros_like(depth)
        for step in (SHRINK, 3 * SHRINK):
            padded = np.pad(log, step, mode="edge")
            for dy, dx in ((0, step), (0, -step), (step, 0), (-step, 0)):
                behind = log - padded[step + dy : step + dy + len(log), step + dx : step + dx + log.shape[1]]
                total += np.clip(np.where(np.isfinite(behind), behind, 0), 0, 0.1)
    return np.exp(-strength * total / 8)


# ----------------------------------------------------------------------------------------------------------- charts


def bars(counts: Array, title: str = "", size: tuple[int, int] = (640, 280)) -> Image.Image:
    """How evenly a codebook is used. counts: (K,) how often each code was used; drawn most used first, on a log axis.

    A flat top that reaches the right edge is a healthy book; the shaded part at the right was never used. The dashed
    line is where all would stand if all were used alike.
    """
    values = np.sort(_numpy(counts).astype(np.float64))[::-1]
    used, total, num_codes = int((values > 0).sum()), values.sum(), len(values)
    top = max(10.0, values.max())
    chart = _Chart(title or _usage_title(values, used), "codes, most used first", "times used (log scale)", size)
    chart.scale((0, num_codes), (math.log10(0.5), math.log10(top) + 0.08))
    chart.axes(_ticks(0, num_codes, 6, least_step=1), _decades(top))

    floor = chart.bottom
    edges = np.unique(np.linspace(0, used, min(used, chart.right - chart.left) + 1).astype(int))
    for first, last in pairwise(edges):  # codes that share a pixel are drawn as their mean
        y = chart.y(math.log10(values[first:last].mean()))
        gap = min(2.0, (chart.x(last) - chart.x(first)) // 4)
        chart.block(chart.x(first), y, chart.x(last) - gap, floor, LINES[0])
    if used < num_codes:
        chart.block(chart.x(used), chart.top, chart.x(num_codes), floor, "#fbe9e7")
        if chart.x(num_codes) - chart.x(used) > 90:
            middle = ((chart.x(used) + chart.x(num_codes)) / 2, (chart.top + floor) / 2)
            chart.text(middle, f"{num_codes - used:,} never used", "mm", "#b3402a")
    if total > 0:
        level = chart.y(math.log10(max(total / num_codes, 0.5)))
        chart.dashes(level, INK)
        chart.text((chart.right - 4, level - 3), "even use", "rb", INK)
    return chart.finish()


def curve(
    series: Mapping[str, Sequence[Point]],
    title: str = "",
    size: tuple[int, int] = (640, 320),
    x_label: str = "step",
    y_label: str = "",
    y_range: tuple[float, float] | None = None,
) -> Image.Image:
    """Lines over steps, a dot at each one's last point. series: name → points (step, value), the finite ones drawn.

    y_range: the ends of the value axis; None fits it to the lines, which magnifies what hardly moves.
    """
    finite = {name: _finite(points) for name, points in series.items()}
    points = [point for line in finite.values() for point in line]
    chart = _Chart(title, x_label, y_label, size, legend=list(finite))
    if not points:
        chart.scale((0, 1), (0, 1))
        chart.axes([], [])
        chart.text(((chart.left + chart.right) / 2, (chart.top + chart.bottom) / 2), "no data yet", "mm", GREY)
        return chart.finish()
    xs, ys = [x for x, _ in points], [y for _, y in points]
    chart.scale(_widened(min(xs), max(xs), 0.0), y_range or _widened(min(ys), max(ys), 0.06))
    chart.axes(_ticks(*chart.x_range, 8, least_step=1), _ticks(*chart.y_range, 6))
    for number, line in enumerate(finite.values()):
        chart.line([(chart.x(x), chart.y(y)) for x, y in line], LINES[number % len(LINES)])
    return chart.finish()


def _usage_title(values: np.ndarray, used: int) -> str:
    share = values[values > 0] / max(values.sum(), 1)
    even = math.exp(-(share * np.log(share)).sum()) if used else 0
    return f"{used:,} of {len(values):,} codes used · perplexity {even:,.0f}"


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    if low == high:
        half = abs(low) * 0.1 or 1.0
        return low - half, high + half
    return low - (high - low) * share, high + (high - low) * share


def _ticks(low: float, high: float, most: int, least_step: float = 0.0) -> list[tuple[float, str]]:
    """Round places within [low, high], at most about `most` of them, with their labels."""
    rough = max((high - low) / most, least_step)
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    places = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step
    return [(float(place), _short(float(place), step)) for place in places]


def _decades(top: float) -> list[tuple[float, str]]:
    """Powers of ten on a log axis; every second or third where there are many."""
    last = math.floor(math.log10(top))
    return [(float(power), _short(10.0**power, 10.0**power)) for power in range(0, last + 1, 1 + last // 6)]


def _short(value: float, step: float) -> str:
    """A tick's label: no more digits than the step between ticks needs."""
    if abs(value) < step / 2:
        return "0"
    if abs(value) >= 1e9 or step < 1e-4:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if step >= unit:
            return f"{value / unit:g}{letter}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}"


class _Chart:
    """A frame with axes on which lines and blocks are put in pixels; `scale` sets how values become pixels."""

    def __init__(
        self, title: str, x_label: str, y_label: str, size: tuple[int, int], legend: Sequence[str] = ()
    ) -> None:
        self.size, self.x_label, self.y_label = size, x_label, y_label
        self.page = Image.new("RGB", (size[0] * SMOOTH, size[1] * SMOOTH), "white")
        self.pen = ImageDraw.Draw(self.page)
        self.texts: list[Callable[[ImageDraw.ImageDraw], None]] = []
        self.left, self.right = 16, size[0] - 20
        self.top, self.bottom = 16, size[1] - 46
        if title:
            self.text((self.left, self.top), title, "lt", INK, TITLE)
            self.top += 26
        self._legend(legend)
        if y_label:
            self.text((self.left, self.top), y_label, "lt", GREY)
            self.top += 20

    def _legend(self, names: Sequence[str]) -> None:
        x, y = self.left, self.top
        for number, name in enumerate(names):
            width = 24 + _font(LABEL).getlength(name) + 16
            if x > self.left and x + width > self.right:
                x, y = self.left, y + 18
            colour = LINES[number % len(LINES)]
            self.block(x, y + 4, x + 16, y + 7, colour)
            self.text((x + 22, y + 6), name, "lm", INK)
            x += int(width)
        if names:
            self.top = y + 24

    def scale(self, x_range: Point, y_range: Point) -> None:
        self.x_range, self.y_range = x_range, y_range

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def axes(self, x_ticks: list[tuple[float, str]], y_ticks: list[tuple[float, str]]) -> None:
        """Horizontal rules at the y ticks, a base line with the x ticks, and the labels of both."""
        self.left += math.ceil(max([_font(LABEL).getlength(label) for _, label in y_ticks], default=0)) + 8
        for value, label in y_ticks:
            y = self.y(value)
            self.block(self.left, y - 0.5, self.right, y + 0.5, FAINT)
            self.text((self.left - 8, y), label, "rm", GREY)
        self.block(self.left, self.bottom - 0.5, self.right, self.bottom + 0.5, "#8c959f")
        for value, label in x_ticks:
            x = self.x(value)
            self.block(x - 0.5, self.bottom, x + 0.5, self.bottom + 5, "#8c959f")
            self.text((x, self.bottom + 8), label, "mt", GREY)
        self.text(((self.left + self.right) / 2, self.size[1] - 8), self.x_label, "mb", GREY)

    def block(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        x0, y0, x1, y1 = (round(value * SMOOTH) for value in (left, top, right, bottom))
        if x1 > x0 and y1 > y0:
            self.pen.rectangle((x0, y0, x1 - 1, y1 - 1), colour)

    def line(self, points: Sequence[Point], colour: str, width: float = 2) -> None:
        large = [(x * SMOOTH, y * SMOOTH) for x, y in points]
        if len(large) > 1:
            self.pen.line(large, colour, round(width * SMOOTH), joint="curve")
        for x, y in large if len(large) < 2 else (large[-1],):
            radius = (4 if len(large) < 2 else 3) * SMOOTH
            self.pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour)

    def dashes(self, y: float, colour: str) -> None:
        for x in range(self.left, self.right, 8):
            self.block(x, y - 0.5, min(x + 4, self.right), y + 0.5, colour)

    def text(self, at: Point, text: str, anchor: str, colour: str, size: int = LABEL) -> None:
        self.texts.append(lambda pen: pen.text(at, text, colour, _font(size), anchor=anchor))

    def finish(self) -> Image.Image:
        page = self.page.resize(self.size, Image.Resampling.BOX)
        pen = ImageDraw.Draw(page)
        for text in self.texts:
            text(pen)
        return page


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
