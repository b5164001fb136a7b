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
WIDE = 480  # pixels of a photo in a figure
MOST = 4096  # features by which a scene's colours are found


class Colours:
    """The three principal directions of a scene's features, as red, green and blue."""

    def __init__(self, features: Tensor) -> None:
        """features: (L, D), or a sample; rows of zeros are ignored."""
        some = features[torch.linspace(0, len(features) - 1, min(MOST, len(features))).long()].float()
        some = some[some.abs().amax(1) > 0]
        self.mean = some.mean(0) if len(some) else features.new_zeros(features.shape[1]).float()
        _, _, right = torch.linalg.svd(some - self.mean, full_matrices=False)
        self.basis = right[:3].T  # (D, 3 or less)
        largest = self.basis.gather(0, self.basis.abs().argmax(0, keepdim=True)) if self.basis.numel() else None
        if largest is not None:
            self.basis = self.basis * largest.sign()  # a direction's sign is arbitrary
        values = self._values(some)
        ends = torch.tensor([0.02, 0.98])
        self.low: Tensor
        self.high: Tensor
        self.low, self.high = values.quantile(ends, 0) if len(values) else torch.tensor([[0.0] * 3, [1.0] * 3])

    def __call__(self, features: Tensor) -> np.ndarray:
        """Return the colours (N, 3) uint8 of features (N, D)."""
        fraction = (self._values(features.float()) - self.low) / (self.high - self.low).clamp(min=1e-6)
        return (20 + 225 * fraction.clamp(0, 1)).round().byte().cpu().numpy()

    def _values(self, features: Tensor) -> Tensor:
        found = (features - self.mean) @ self.basis
        return torch.nn.functional.pad(found, (0, 3 - found.shape[1]))


def frame_picture(
    photo: Image.Image, uv: Tensor, colours: np.ndarray, size: tuple[int, int], title: str
) -> Image.Image:
    """Return a photo beside its visible points in their features' colours. uv: (n, 2) pixels of an image of `size`."""
    shown = photo.resize((WIDE, round(WIDE * size[0] / size[1])), Image.Resampling.BILINEAR)
    scale = WIDE / size[1]
    painted = Image.blend(shown.convert("L").convert("RGB"), Image.new("RGB", shown.size, "white"), 0.55)
    pen = ImageDraw.Draw(painted)
    radius = min(5.0, max(1.5, 0.55 * math.sqrt(shown.width * shown.height / max(len(uv), 1))))
    for (u, v), colour in zip(((uv + 0.5) * scale).tolist(), map(tuple, colours.tolist()), strict=True):
        pen.ellipse((u - radius, v - radius, u + radius, v + radius), colour)
    return grid.titled({title: shown, f"{len(uv):,} of the cloud's points, coloured by feature": painted})


def beside(left: Image.Image, right: Image.Image, gap: int = 16) -> Image.Image:
    """Return two images side by side on white."""
    page = Image.new("RGB", (left.width + gap + right.width, max(left.height, right.height)), "white")
    page.paste(left, (0, 0))
    page.paste(right, (left.width + gap, 0))
    return page


def upwards(poses: Tensor) -> list[float]:
    """Return the up direction from the poses (V, 4, 4) of cameras that are held level and look ahead or down."""
    rotation = poses[:, :3, :3].double()
    held = -rotation[:, :, 1].mean(0)
    held = held / held.norm()
    tilt = torch.einsum("vi,vj->ij", rotation[:, :, 0], rotation[:, :, 0]) / len(rotation)
    up = torch.linalg.eigh(tilt + 0.02 * (torch.eye(3, dtype=held.dtype) - torch.outer(held, held)))[1][:, 0]
    up = up * torch.sign(up @ held)
    axis = up.abs().argmax()
    if up[axis].abs() > 0.97:  # the world's own axis, then
        up = torch.zeros_like(up).index_fill(0, axis, float(up[axis].sign()))
    return [float(value) for value in up]


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
    return grid.titled(
        {title: cloud.cloud(xyz.cpu().numpy(), rgb, size, up, towards.cpu().numpy()) for title, rgb in panels.items()}
    )


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


# -------------------------------------------------------------------------------------------------------------- t-SNE

POINTS = 1000  # that are embedded: the exact method looks at all pairs
SIDE = 480


def tsne(features: Tensor, perplexity: float = 30.0, steps: int = 300, seed: int = 0) -> Tensor:
    """Return features (n, D) on a plane, (n, 2), where neighbours stay neighbours: exact t-SNE (van der Maaten 2008).

    n is POINTS at most. The same features give the same figure.
    """
    n = len(features)
    if n > POINTS:
        raise ValueError(f"t-SNE looks at all pairs, of {POINTS} points at most; got {n}")
    if n < 4:
        return torch.zeros(n, 2)
    p = _neighbourhoods(features.double(), min(perplexity, (n - 1) / 3)).float()
    place = 1e-4 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    speed = torch.zeros_like(place)
    gains = torch.ones_like(place)
    rate = max(n / 12 / 4, 50.0)
    for step in range(steps):
        early = step < steps // 4
        slope = _slope(p * (12 if early else 1), place)
        gains = torch.where(slope.sign() != speed.sign(), gains + 0.2, gains * 0.8).clamp_(min=0.01)
        speed = (0.5 if early else 0.8) * speed - rate * gains * slope
        place = place + speed
        place = place - place.mean(0)
    return place


def _neighbourhoods(features: Tensor, perplexity: float) -> Tensor:
    """(n, n): how likely two points pick each other, each with a width of its own so that it has so many neighbours."""
    far = torch.cdist(features, features).square().fill_diagonal_(math.inf)
    low, high = torch.zeros(len(far), 1).double(), torch.full((len(far), 1), 1e12).double()
    sharp = 1 / far.masked_fill(far.isinf(), math.nan).nanmean(1, keepdim=True).clamp(min=1e-12)
    for _ in range(50):
        p = torch.softmax(-far * sharp, 1)
        entropy = torch.special.entr(p).sum(1, keepdim=True)
        wide = entropy > math.log(perplexity)
        low, high = torch.where(wide, sharp, low), torch.where(wide, high, sharp)
        sharp = torch.where(high > 1e11, sharp * 2, (low + high) / 2)
    return ((p + p.T) / (2 * len(p))).clamp(min=1e-12)


def _slope(p: Tensor, place: Tensor) -> Tensor:
    lengths = place.square().sum(1)
    near = (place @ place.T).mul_(-2).add_(lengths[:, None]).add_(lengths).clamp_(min=0).add_(1).reciprocal_()
    near.fill_diagonal_(0)
    pull = torch.sub(p, near, alpha=float(1 / near.sum())).mul_(near)
    return 4 * (pull.sum(1, keepdim=True) * place - pull @ place)


def scatter(place: Tensor, colours: np.ndarray, title: str) -> Image.Image:
    """Return a figure of points of a plane (n, 2) in their photo's colours."""
    page = Image.new("RGB", (SIDE, SIDE), cloud.BACKGROUND)
    pen = ImageDraw.Draw(page)
    middle, half = place.mean(0), (place - place.mean(0)).abs().amax().clamp(min=1e-9)
    for (x, y), colour in zip(
        (SIDE / 2 + (place - middle) / half * (SIDE / 2 - 12)).tolist(), map(tuple, colours.tolist()), strict=True
    ):
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), colour, outline=style.GREY)
    return grid.titled({title: page})
