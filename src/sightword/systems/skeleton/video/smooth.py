"""Smooth key points over time by the one-euro filter (Casiez, Roussel and Vogel 2012): calm at rest, quick in motion.

Legend: M persons, T frames, V joints.
"""

import numpy as np

from sightword.systems.skeleton.sequence import THERE

CUTOFF = 0.05  # Hz, of a joint at rest
BETA = 80.0  # how much the cut-off rises with speed, in Hz for one body size a second; MediaPipe's value
SPEED_CUTOFF = 1.0  # Hz, of the speed itself


def smooth(points: np.ndarray, scores: np.ndarray, fps: float) -> np.ndarray:
    """Return key points without jitter, (M, T, V, 2) float32; those without a score stay as they are.

    points: (M, T, V, 2) pixels. scores: (M, T, V). The unit of speed is the body's size: the longer side of the box
    about the joints, in the median of the frames. A joint that is missing for some frames goes on with the time that
    has passed.
    """
    made = points.astype(np.float32, copy=True)
    for person in range(len(points)):
        there = scores[person] >= THERE
        if there.any():
            made[person] = _one(points[person].astype(np.float64), there, fps, body_size(points[person], there))
    return made


def body_size(points: np.ndarray, there: np.ndarray) -> float:
    """Return the longer side of the box about a person's joints in pixels, the median of frames; points: (T, V, 2)."""
    seen = there.any(1)
    low = np.where(there[..., None], points, np.inf)[seen].min(1)
    high = np.where(there[..., None], points, -np.inf)[seen].max(1)
    return max(1.0, float(np.median((high - low).max(-1))))


def _one(points: np.ndarray, there: np.ndarray, fps: float, size: float) -> np.ndarray:
    made = points.copy()
    value, speed = points[0].copy(), np.zeros_like(points[0])  # (V, 2), of the frame in which each was last there
    last = np.full(points.shape[1], -1)
    for time in range(len(points)):
        new, old = there[time] & (last < 0), there[time] & (last >= 0)
        value[new], speed[new] = points[time, new], 0
        passed = ((time - last[old]) / fps)[:, None]
        change = (points[time, old] - value[old]) / passed / size
        speed[old] += _share(SPEED_CUTOFF, passed) * (change - speed[old])
        value[old] += _share(CUTOFF + BETA * np.abs(speed[old]), passed) * (points[time, old] - value[old])
        made[time, there[time]] = value[there[time]]
        last[there[time]] = time
    return made


def _share(cutoff: float | np.ndarray, passed: np.ndarray) -> np.ndarray:
    """How much of a new value counts after `passed` seconds."""
    share: np.ndarray = 1 / (1 + 1 / (2 * np.pi * cutoff * passed))
    return share
