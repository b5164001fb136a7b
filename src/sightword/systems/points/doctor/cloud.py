"""Does the recorded cloud of a scene stand where its frames measured surfaces?

A mesh that is turned a little, scaled by a tenth or in millimetres still lies in the cameras' views; few of its points
are then *confirmed*: inside a view, and within 3 % of the depth there.

Legend: N points, V frames.
"""

from collections.abc import Iterator, Sequence
from itertools import permutations, product
from typing import NamedTuple

import numpy as np

from sightword.systems.points.scannet.convention import read_axes
from sightword.systems.points.scannet.pose import axes_matrix

POINTS, VIEWS = 4000, 20
CONFIRMED, FLOATING = 0.03, -0.05  # of the depth there
SAME, OTHER = 0.8, 0.5  # fraction confirmed of the points inside a view: one frame; another frame


class Stand(NamedTuple):
    """How a cloud stands before the frames."""

    inside: float  # fraction of the points that some view contains
    confirmed: float  # of these, those that some depth confirms
    front: float  # of all sightings, those before a surface that the frame saw through

    @property
    def score(self) -> float:
        """By which frames of reference are compared."""
        return self.inside * self.confirmed


class Views(NamedTuple):
    """Posed depth of a scene, as it was read."""

    depth: np.ndarray  # (V, H, W) float32 metres
    K: np.ndarray  # (3, 3)
    back: np.ndarray  # (V, 4, 4) world to camera


def stand(xyz: np.ndarray, views: Views) -> Stand:
    """Return how points (N, 3) in the world stand."""
    height, width = views.depth.shape[1:]
    K = views.K.astype(np.float32)
    shown, confirmed = np.zeros(len(xyz), bool), np.zeros(len(xyz), bool)
    sightings = floating = 0
    for depth, back in zip(views.depth, views.back.astype(np.float32), strict=True):
        x, y, z = back[:3, :3] @ xyz.T + back[:3, 3:]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            u, v = x / z * K[0, 0] + (K[0, 2] + 0.5), y / z * K[1, 1] + (K[1, 2] + 0.5)
            at = np.flatnonzero((z > 0.1) & (u >= 0) & (u < width) & (v >= 0) & (v < height))
        there = depth[v[at].astype(int), u[at].astype(int)]
        at, there = at[there > 0], there[there > 0]
        r = z[at] / there - 1
        shown[at] = True
        confirmed[at[np.abs(r) < CONFIRMED]] = True
        sightings += len(at)
        floating += int((r < FLOATING).sum())
    count = int(shown.sum())
    return Stand(count / max(len(xyz), 1), int(confirmed.sum()) / max(count, 1), floating / max(sightings, 1))


def other_frames() -> Iterator[tuple[str, np.ndarray]]:
    """Yield frames that a cloud may be in, as `mesh` of the convention has them, with the matrix (3, 3) that undoes
    each: units of length, and every way to name the axes of a right-handed world."""
    for scale, order, signs in product((1.0, 0.001, 0.01, 1000.0), permutations("xyz"), product(("", "-"), repeat=3)):
        axes = ",".join(sign + axis for sign, axis in zip(signs, order, strict=True))
        turn = axes_matrix(read_axes(axes))
        if np.linalg.det(turn) > 0 and (scale != 1.0 or axes != "x,y,z"):
            parts = [f"{scale:g}"] * (scale != 1.0) + [axes] * (axes != "x,y,z")
            yield ",".join(parts), scale * turn


def frame_of(xyz: np.ndarray, views: Views, aligned: np.ndarray | None) -> tuple[str, Stand]:
    """Return the frame in which a cloud stands best besides the world, and how it stands there.

    aligned: (4, 4), the scan's axisAlignment, if it has one.
    """
    some = Views(views.depth[:: max(1, len(views.depth) // 8)], views.K, views.back[:: max(1, len(views.depth) // 8)])
    few = xyz[:: max(1, len(xyz) // 1000)]
    ways: list[tuple[str, np.ndarray]] = [(name, few @ turn.astype(np.float32)) for name, turn in other_frames()]
    if aligned is not None:
        ways.append(("aligned", _unaligned(few, aligned)))
    name, _ = max(ways, key=lambda way: stand(way[1], some).score)
    if name == "aligned" and aligned is not None:
        return name, stand(_unaligned(xyz, aligned), views)
    return name, stand(xyz @ dict(other_frames())[name].astype(np.float32), views)


def _unaligned(xyz: np.ndarray, aligned: np.ndarray) -> np.ndarray:
    back = np.linalg.inv(aligned).astype(np.float32)
    return xyz @ back[:3, :3].T + back[:3, 3]


def thin(xyz: np.ndarray, most: int = POINTS) -> np.ndarray:
    """Return some of the points, drawn anew but always the same."""
    if len(xyz) <= most:
        return xyz
    chosen: Sequence[int] = np.sort(np.random.default_rng(0).choice(len(xyz), most, replace=False)).tolist()
    return xyz[chosen]
