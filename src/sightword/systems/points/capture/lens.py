"""Distortion of lenses: as numbers that `points` reads, or undone in the image where it cannot read them.

A lens maps a point (x, y) of the plane z = 1 to where it appears on that plane. Formulas and order of the numbers are
OpenCV's and COLMAP's. Legend: N points; H, W pixels.
"""

from typing import NamedTuple

import numpy as np

from sightword.errors import SightwordError

COUNTS = {"": 8, "opencv": 8, "fisheye": 4, "fov": 1, "thin_prism": 8}


class Lens(NamedTuple):
    """A model of distortion: opencv (k1 k2 p1 p2 k3 k4 k5 k6), fisheye (k1 k2 k3 k4 of the angle), fov (omega) or
    thin_prism (fisheye with k1 k2 p1 p2 k3 k4 sx sy)."""

    kind: str = ""  # a straight one
    values: tuple[float, ...] = ()

    def padded(self) -> np.ndarray:
        """The values, with zeros for those that are not given."""
        return np.array([*self.values, *[0.0] * (COUNTS[self.kind] - len(self.values))], np.float64)

    @property
    def straight(self) -> bool:
        """Whether it distorts nothing: a fisheye lens does even where its numbers are 0."""
        return self.kind in ("", "opencv") and not self.padded().any()

    def five(self) -> np.ndarray | None:
        """Return k1 k2 p1 p2 k3 (5,), or None for a lens that needs other numbers."""
        if self.straight:
            return np.zeros(5)
        values = self.padded()
        return values[:5] if self.kind == "opencv" and not values[5:].any() else None

    def bend(self, plane: np.ndarray) -> np.ndarray:
        """Return where points (N, 2) of the plane z = 1 appear, (N, 2)."""
        x, y = plane.T
        r = np.hypot(x, y)
        values = self.padded()
        if self.kind == "fov":
            omega = float(values[0])
            straight = r * 2 * np.tan(omega / 2)
            scale = np.where(
                r > 1e-9, np.arctan(straight) / np.maximum(r * omega, 1e-12), 2 * np.tan(omega / 2) / omega
            )
            return plane * scale[:, None]
        if self.kind == "fisheye":
            angle = np.arctan(r)
            powers = angle[:, None] ** (2, 4, 6, 8)
            return plane * (_ratio(angle, r) * (1 + powers @ values))[:, None]
        if self.kind == "thin_prism":
            k1, k2, p1, p2, k3, k4, sx, sy = values
            turned = plane * _ratio(np.arctan(r), r)[:, None]
            return _brown(turned, (k1, k2, p1, p2, k3), (k4, 0.0, 0.0, 0.0), (sx, sy))
        k1, k2, p1, p2, k3, k4, k5, k6 = values
        return _brown(plane, (k1, k2, p1, p2, k3), (0.0, k4, k5, k6), (0.0, 0.0))


def _ratio(angle: np.ndarray, r: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.where(r > 1e-9, angle / np.maximum(r, 1e-12), 1.0)
    return found


def _brown(
    plane: np.ndarray, five: tuple[float, ...], four: tuple[float, ...], prism: tuple[float, float]
) -> np.ndarray:
    """Radial and tangential distortion. four: of r⁸ above, and of r² to r⁶ below the line; prism: of r²."""
    (k1, k2, p1, p2, k3), (k8, k4, k5, k6) = five, four
    x, y = plane.T
    r = x * x + y * y
    radial = (1 + r * (k1 + r * (k2 + r * (k3 + r * k8)))) / (1 + r * (k4 + r * (k5 + r * k6)))
    u = x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x) + prism[0] * r
    v = y * radial + p1 * (r + 2 * y * y) + 2 * p2 * x * y + prism[1] * r
    return np.stack([u, v], 1)


def straightened(image: np.ndarray, K: np.ndarray, lens: Lens, smooth: bool = True) -> np.ndarray:
    """Return an image (H, W) or (H, W, C) as a camera without distortion and with the same K sees it; 0 beside it.

    smooth: values between pixels are interpolated; false takes the nearest pixel, as depth needs it.
    """
    from scipy.ndimage import map_coordinates

    height, width = image.shape[:2]
    v, u = np.indices((height, width)).reshape(2, -1).astype(np.float64)
    bent = lens.bend(np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]], 1))
    at = np.stack([bent[:, 1] * K[1, 1] + K[1, 2], bent[:, 0] * K[0, 0] + K[0, 2]])
    if not np.isfinite(at).all():
        raise SightwordError(f"its lens, {lens.kind} {lens.values}, maps pixels to no place")
    order = 1 if smooth else 0
    if image.ndim == 2:
        flat: np.ndarray = map_coordinates(image, at, order=order, cval=0).reshape(height, width)
        return flat
    planes = [map_coordinates(image[..., band], at, order=order, cval=0) for band in range(image.shape[2])]
    return np.stack(planes, -1).reshape(image.shape).astype(image.dtype)
