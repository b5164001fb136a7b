"""How well the frames of a scene agree under a hypothesis about its files: statistics over pairs of frames.

Known pixels of a frame i are carried into a frame j that looks elsewhere, 10 to 40° apart, and compared with its depth
there: r = (z − d) / d. Neighbouring frames of a slow sweep agree under almost any error; such pairs do not. The angle
between two frames is the same whether poses are inverted, transposed or have other axes, so the pairs do not depend on
the hypothesis.

Lengths are in thousands of the depth files' units, so that a hypothesis about the units is one number, `ratio`: how
many such lengths a unit of the positions is, over what the configuration says.

Legend: V frames with depth, M poses (of all frames), P pairs, n points of a pair; H, W pixels.
"""

from typing import NamedTuple

import numpy as np

from sightword.systems.points.scannet.convention import OPENCV
from sightword.systems.points.scannet.pose import moved, read_out

WIDE = (10.0, 40.0)  # degrees between the frames of a pair
STILL = 5.0  # degrees: a scene without a pair that is further apart cannot be judged
AGREES, FLOATS, BEHIND, ALIKE = 0.01, -0.05, 0.05, 0.1  # of the depth there


class Hypothesis(NamedTuple):
    """What may be different in the files from what was read; the first value of each is nothing."""

    poses: str = "c2w"
    quaternion: str = ""
    axes: str = OPENCV
    shift: int = 0
    ratio: float = 1.0
    ray: bool = False
    focal: float = 1.0
    size: float = 1.0  # of the image that the intrinsics belong to, over the depth's
    principal: str = "given"

    @property
    def changes(self) -> int:
        """How many things are different."""
        return sum(value != usual for value, usual in zip(self, Hypothesis(), strict=True))


class Agreement(NamedTuple):
    """Statistics over all pairs."""

    agree: float  # fraction of `inside` with |r| < 1 %
    front: float  # with r < -5 %: points that float before a surface seen through them; noise and edges cause 1 to 3 %
    inside: float  # fraction of the points that are ahead of frame j and on its known depth

    @property
    def score(self) -> float:
        """By which hypotheses are compared."""
        return self.agree * self.inside


class Sample(NamedTuple):
    """Pairs of frames, and pixels of the first of each."""

    depth: np.ndarray  # (V, H, W) float32, 0 unknown
    files: np.ndarray  # (M, 4, 4) float64, the poses as the files have them
    at: np.ndarray  # (V,) which of them is each frame's
    K: np.ndarray  # (3, 3) as it was read
    pairs: np.ndarray  # (P, 2) of the V frames
    u: np.ndarray  # (P, n) float32
    v: np.ndarray  # (P, n) float32
    z: np.ndarray  # (P, n) float32, the depth there
    base: Hypothesis  # as the files were read: poses, quaternion and axes of it are those of the configuration
    angles: np.ndarray  # (P,) degrees

    def part(self, points: int) -> "Sample":
        """The same pairs with fewer points each."""
        return self._replace(u=self.u[:, :points], v=self.v[:, :points], z=self.z[:, :points])

    @property
    def source(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Hypothesis]:
        """What it was drawn from: arguments of `sample`."""
        return self.depth, self.files, self.at, self.K, self.base


def sample(
    depth: np.ndarray, files: np.ndarray, at: np.ndarray, K: np.ndarray, base: Hypothesis, pairs: int, points: int
) -> Sample:
    """Return at most `pairs` pairs with `points` known pixels each, drawn anew but always the same.

    Pairs of 10 to 40° come first, evenly from all there are; then those nearest to that range.
    """
    poses = read_out(files[at], base.poses, base.quaternion)
    chosen, angles = choose(poses[:, :3, :3], [bool((image > 0).any()) for image in depth], pairs)
    rng = np.random.default_rng(0)
    u, v, z = (np.zeros((len(chosen), points), np.float32) for _ in range(3))
    known = {number: np.flatnonzero(depth[number] > 0) for number in set(chosen[:, 0].tolist())}
    for row, (first, _) in enumerate(chosen.tolist()):
        pixel = known[first][rng.integers(len(known[first]), size=points)]
        v[row], u[row] = np.divmod(pixel, depth.shape[2])
        z[row] = depth[first].reshape(-1)[pixel]
    return Sample(depth, files, at, K, chosen, u, v, z, base, angles)


def choose(rotation: np.ndarray, usable: list[bool], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs (P, 2) of the frames with rotations (V, 3, 3), and the angles (P,) between them in degrees."""
    trace = np.einsum("aij,bij->ab", rotation, rotation)
    angle = np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
    first, second = np.nonzero(np.outer(usable, usable) & ~np.eye(len(rotation), dtype=bool))
    apart = angle[first, second]
    beyond = np.where(apart > WIDE[1], apart - WIDE[1], np.clip(2 * (WIDE[0] - apart), 0, None))
    order = np.argsort(beyond, kind="stable")
    good = int((beyond == 0).sum())
    if good > count:  # evenly: a scene's first frames are not all of it
        order = order[np.linspace(0, good - 1, count).round().astype(int)]
    order = order[:count]
    return np.stack([first[order], second[order]], 1), apart[order]


class Judge:
    """Measures hypotheses on a sample; relative poses and rays are kept between calls."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self._motions: dict[tuple[str, str, str, int], tuple[np.ndarray, np.ndarray]] = {}
        self._rays: tuple[object, np.ndarray] | None = None
        self._known: dict[Hypothesis, Agreement] = {}
        self._flat = sample.depth.reshape(-1)
        self._near = 0.05 * float(np.median(sample.z[sample.z > 0])) if sample.z.size else 0.0
        self._second = (sample.pairs[:, 1] * sample.depth[0].size)[:, None]

    def __call__(self, hypothesis: Hypothesis) -> Agreement:
        if hypothesis not in self._known:
            found, _, _ = self.residuals(hypothesis)
            self._known[hypothesis] = found
        return self._known[hypothesis]

    def residuals(self, h: Hypothesis) -> tuple[Agreement, np.ndarray, np.ndarray]:
        """Return the statistics; r (P, n), NaN where a point is not inside; and its place in j's camera (P, 3, n)."""
        s = self.sample
        height, width = s.depth.shape[1:]
        turn, step = self.motion(h)
        camera = self.camera(h)
        seen = turn @ self.points(h) + np.float32(h.ratio) * step
        fx, fy, cx, cy = camera
        z = seen[:, 2]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            x, y = seen[:, 0] / z, seen[:, 1] / z
            u, v = x * fx + (cx + 0.5), y * fy + (cy + 0.5)
            inside = (z > self._near) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
            pixel = np.where(inside, v, 0).astype(np.int32) * width + np.where(inside, u, 0).astype(np.int32)
            there = self._flat[self._second + pixel]
            if h.ray:
                there = there / np.sqrt(x * x + y * y + 1)
            inside &= there > 0
            posed = len(s.pairs)
            if h.shift:
                mask = self._posed(h.shift)
                inside &= mask[:, None]
                posed = int(mask.sum())
            r = np.where(inside, z / there - 1, np.nan)
        known = r[inside]
        count = max(len(known), 1)
        agree = np.count_nonzero(np.abs(known) < AGREES) / count
        front = np.count_nonzero(known < FLOATS) / count
        return Agreement(agree, front, len(known) / max(posed * r.shape[1], 1)), r, seen

    def _posed(self, shift: int) -> np.ndarray:
        """Pairs whose frames both have a pose so many files on, (P,) bool."""
        at = self.sample.at[self.sample.pairs] + shift
        return ((at >= 0) & (at < len(self.sample.files))).all(1)

    def camera(self, h: Hypothesis) -> tuple[np.float32, np.float32, np.float32, np.float32]:
        """Return fx, fy, cx, cy of the depth images under a hypothesis."""
        K = self.sample.K
        height, width = self.sample.depth.shape[1:]
        cx, cy = float(K[0, 2]), float(K[1, 2])
        if h.principal == "swapped":
            cx, cy = cy, cx
        elif h.principal == "middle":
            cx, cy = (width - 1) / 2, (height - 1) / 2
        scale = 1 / h.size
        cx, cy = (cx + 0.5) * scale - 0.5, (cy + 0.5) * scale - 0.5
        focal = scale * h.focal
        return (
            np.float32(K[0, 0] * focal),
            np.float32(K[1, 1] * focal),
            np.float32(cx),
            np.float32(cy),
        )

    def points(self, h: Hypothesis) -> np.ndarray:
        """Return the sampled pixels in the first camera of each pair, (P, 3, n) float32."""
        camera = self.camera(h)
        key = (camera, h.ray)
        if self._rays is None or self._rays[0] != key:
            s = self.sample
            fx, fy, cx, cy = camera
            x, y = (s.u - cx) / fx, (s.v - cy) / fy
            z = s.z / np.sqrt(x * x + y * y + 1) if h.ray else s.z
            self._rays = (key, np.stack([x * z, y * z, z], 1))
        return self._rays[1]

    def motion(self, h: Hypothesis) -> tuple[np.ndarray, np.ndarray]:
        """Return how points move from the first to the second camera of each pair: (P, 3, 3), (P, 3, 1) float32."""
        key = (h.poses, h.quaternion, h.axes, h.shift)
        if key not in self._motions:
            s = self.sample
            at = np.clip(s.at + h.shift, 0, len(s.files) - 1)
            poses = moved(read_out(s.files[at], h.poses, h.quaternion), h.axes)
            one, other = poses[s.pairs[:, 0]], poses[s.pairs[:, 1]]
            back = np.swapaxes(other[:, :3, :3], 1, 2)
            turn = back @ one[:, :3, :3]
            step = back @ (one[:, :3, 3:] - other[:, :3, 3:])
            self._motions[key] = (turn.astype(np.float32), step.astype(np.float32))
        return self._motions[key]
