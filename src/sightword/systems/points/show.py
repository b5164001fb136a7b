"""Figures of features and classes: colours that mean the same in all frames of a scene, on photos and on clouds.

Legend: N points of a scene; L point–frame correspondences; D channels; C classes; H, W pixels.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sightword.viz import cloud, font, grid, style
from sightword.viz.style import Colour

UNSEEN = (205, 208, 212)
WIDE = 400  # pixels of a photo in a figure; most of the time of drawing is per pixel
MOST = 4096  # features by which a scene's colours are found


class Colours:
    """The three principal directions of a scene's features, as red, green and blue.

    `values` are linear, so a mean of views has the mean of their values.
    """

    def __init__(self, features: Tensor) -> None:
        """features: (L, D), or a sample; rows of zeros are ignored."""
        some = features[torch.linspace(0, len(features) - 1, min(MOST, len(features))).long()].float()
        some = some[some.abs().amax(1) > 0]
        self.mean = some.mean(0) if len(some) else features.new_zeros(features.shape[1]).float()
        off = (some - self.mean).double()
        self.basis = torch.linalg.eigh(off.T @ off)[1].flip(1)[:, :3].float()  # (D, 3), or (D, D) if D is less
        largest = self.basis.gather(0, self.basis.abs().argmax(0, keepdim=True))
        self.basis = self.basis * largest.sign()  # a direction's sign is arbitrary
        values = self.values(some)
        ends = torch.tensor([0.02, 0.98])
        self.low: Tensor
        self.high: Tensor
        self.low, self.high = values.quantile(ends, 0) if len(values) else torch.tensor([[0.0] * 3, [1.0] * 3])

    def __call__(self, values: Tensor) -> np.ndarray:
        """Return colours (N, 3) uint8 of values (N, 3), or means of them."""
        fraction = (values - self.low) / (self.high - self.low).clamp(min=1e-6)
        return (20 + 225 * fraction.clamp(0, 1)).round().byte().cpu().numpy()

    def values(self, features: Tensor) -> Tensor:
        """Return where features (N, D) are along the three directions, (N, 3) float32."""
        found = (features.float() - self.mean) @ self.basis
        return torch.nn.functional.pad(found, (0, 3 - found.shape[1]))


def frame_picture(
    photo: Image.Image, uv: Tensor, colours: np.ndarray, size: tuple[int, int], title: str
) -> Image.Image:
    """Return a photo beside its visible points in their features' colours. uv: (n, 2) pixels of an image of `size`."""
    shown = photo.resize((WIDE, round(WIDE * size[0] / size[1])), Image.Resampling.BILINEAR)
    scale = WIDE / size[1]
    painted = np.array(Image.blend(shown.convert("L").convert("RGB"), Image.new("RGB", shown.size, "white"), 0.55))
    radius = min(5.0, max(1.5, 0.55 * math.sqrt(shown.width * shown.height / max(len(uv), 1))))
    u, v = ((uv.numpy() + 0.5) * scale).T
    point = cloud.splat(u, v, np.full(len(uv), radius + 0.5), shown.size)
    covered = np.nonzero(point >= 0)
    painted[covered] = colours[point[covered]]
    points = f"{len(uv):,} of the cloud's points, coloured by feature"
    return grid.titled({title: shown, points: Image.fromarray(painted)})


def facing(xyz: Tensor, poses: Tensor, point: Tensor, view: Tensor) -> Tensor:
    """Return (N, 3), from each point to the middle of the cameras that see it, or of all cameras if none does.

    point, view: (L,) of the correspondences.
    """
    places = poses[:, :3, 3].to(xyz)
    total = torch.zeros_like(xyz).index_add_(0, point, places[view])
    counts = torch.bincount(point, minlength=len(xyz))[:, None]
    return torch.where(counts > 0, total / counts.clamp(min=1), places.mean(0)) - xyz


def painted(colours: np.ndarray, seen: Tensor) -> np.ndarray:
    """Return colours of points, grey for those that no view shows."""
    return np.where(seen.cpu().numpy()[:, None], colours, np.array(UNSEEN, np.uint8))


def clouds(
    xyz: Tensor, panels: dict[str, np.ndarray], up: Sequence[float], towards: Tensor, size: tuple[int, int] = (560, 420)
) -> Image.Image:
    """Return one cloud in several colourings, side by side. panels: title → (N, 3) uint8."""
    images = cloud.clouds(xyz.cpu().numpy(), list(panels.values()), size, up, towards.cpu().numpy())
    return grid.titled(dict(zip(panels, images, strict=True)))


# ------------------------------------------------------------------------------------------------------------ classes

NO_CLASS = 205  # the grey of a point without a class
SQUARE, SPACE, LINE, LETTER = 13, 18, 22, 13  # pixels of a legend


def class_colours(names: Sequence[str], numbers: Tensor) -> tuple[np.ndarray, dict[str, Colour]]:
    """Return the colours (C, 3) uint8 of classes, and the entries of their legend.

    The ten most frequent of the classes `numbers`, (N,), have a colour each, all others one grey. −1 is none.
    """
    counts = torch.bincount(numbers[numbers >= 0].cpu(), minlength=len(names))
    used = [names[number] for number in counts.argsort(descending=True, stable=True).tolist() if counts[number]]
    key = style.legend_of(used, "classes")
    return np.array([key.get(name, style.rgb(style.OTHER)) for name in names], np.uint8).reshape(-1, 3), key


def coloured(numbers: Tensor, palette: np.ndarray) -> np.ndarray:
    """Return the colours (N, 3) uint8 of classes (N,), where −1 is none. palette: (C, 3) uint8."""
    at = numbers.cpu().numpy()
    return np.where(at[:, None] >= 0, palette[at], np.uint8(NO_CLASS)).astype(np.uint8)


def keyed(image: Image.Image, entries: Mapping[str, Colour]) -> Image.Image:
    """Return an image with a legend below it: a square of each colour and its name, and grey for none."""
    places, x, y = [], 0, image.height + 12
    named = [*entries.items(), ("none", (NO_CLASS,) * 3)]
    names = [font.cut(name, image.width - SQUARE - 6, LETTER) for name, _ in named]
    for name in names:
        width = SQUARE + 6 + math.ceil(font.length(name, LETTER))
        if x and x + width > image.width:
            x, y = 0, y + LINE
        places.append((x, y))
        x += width + SPACE
    page = Image.new("RGB", (image.width, y + LINE), "white")
    page.paste(image, (0, 0))
    pen = ImageDraw.Draw(page)
    for (x, y), name, (_, colour) in zip(places, names, named, strict=True):
        pen.rectangle((x, y, x + SQUARE, y + SQUARE), colour, outline=style.INK)
        font.draw_text(pen, (x + SQUARE + 6, y + SQUARE / 2), name, style.INK, LETTER, "lm")
    return page
