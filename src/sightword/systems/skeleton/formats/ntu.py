"""NTU RGB+D's .skeleton: the text form of Kinect v2's bodies, in metres, as the data set publishes it.

A file has the number of frames; a frame the number of bodies; a body a line of ten values, the number 25, and 25 lines
of 12: x y z, depth x y, colour x y, a quaternion, and 0 (not tracked), 1 (inferred) or 2 (tracked).

Frames without a body stay, with zeros, so that time does not shift; pyskl's published files leave them out. Of several
bodies those of at most 11 frames and those that are wider than tall (furniture) are left out, by the thresholds of the
published preprocessing (github.com/shahroudy/NTURGB-D and CTR-GCN).
"""

import re
from collections.abc import Sequence

import numpy as np

from sightword.errors import SightwordError
from sightword.storage.reader import read_text
from sightword.systems.skeleton.formats.format import Format, Made, Options, Source, Start
from sightword.systems.skeleton.formats.frame import FARTHEST, LONGEST, motion, placed
from sightword.systems.skeleton.joints import JOINT_SETS

JOINTS, NUMBERS, HEAD = 25, 12, 10  # of a body; of a joint; values in the line of a body
SHORT, WIDE, OFTEN = 11, 0.8, 0.69754  # frames; width by height of a frame's body; fraction of such frames
START = re.compile(rb"\s*\d+\s+(0\s+)*[1-9]\d?\s+\d{10,}\s")


def recognises(start: Start) -> bool:
    """Return whether a file is one: its suffix, or numbers of frames and bodies before an id of many digits."""
    return start.path.suffix == ".skeleton" or bool(start.raw.strip() and START.match(start.raw[:4096]))


def read(source: Source, options: Options) -> list[Made]:
    """Return the bodies of a file, (M, T, 25, 3): who moves most comes first."""
    bodies, frames, untracked = _bodies(source)
    notes = ["3-D in metres, in the frame of the Kinect: x to its left, y up, z away"]
    kept = bodies if len(bodies) < 2 else {name: body for name, body in bodies.items() if not _is_noise(body)}
    if bodies and not kept:
        kept = bodies
    if len(kept) < len(bodies):
        notes.append("bodies of at most 11 frames, or wider than tall (furniture), were left out")
    if untracked:
        notes.append("joints that were not tracked are missing")
    empty = frames - len({frame for body in kept.values() for frame in body})
    if empty:
        notes.append("frames without a body stay, as zeros: pyskl's own files leave them out")
    kept = dict(sorted(kept.items(), key=lambda one: -motion(one[1])))
    points = placed(kept, frames, options.people, (JOINTS, 3), notes)
    return [Made(source.name, points, None, None, JOINT_SETS["ntu25"], tuple(notes))]


def _bodies(source: Source) -> tuple[dict[str, dict[int, np.ndarray]], int, bool]:
    """Of each body the joints (25, 3) of the frames it is in, how many frames there are, whether joints are missing."""
    tokens = _Tokens(read_text(source.files[0]).split(), str(source.files[0]))
    frames = tokens.count(LONGEST, "frames")
    bodies: dict[str, dict[int, np.ndarray]] = {}
    untracked = False
    for frame in range(frames):
        for _ in range(tokens.count(100, "bodies")):
            name = tokens.take(HEAD)[0]  # an id of 17 digits: more than a float keeps apart
            if tokens.count(10_000, "joints") != JOINTS:
                raise tokens.error("another number of joints than 25")
            joints = tokens.numbers(JOINTS * NUMBERS).reshape(JOINTS, NUMBERS)
            missing = (joints[:, -1] == 0) | ~(np.abs(joints[:, :3]) < FARTHEST).all(1)
            untracked |= bool(missing.any())
            bodies.setdefault(name, {})[frame] = np.where(missing[:, None], 0, joints[:, :3])
    tokens.end()
    return bodies, frames, untracked


def _is_noise(body: dict[int, np.ndarray]) -> bool:
    if len(body) <= SHORT:
        return True
    joints = np.stack(list(body.values()))
    wide = np.ptp(joints[..., 0], axis=1) > WIDE * np.ptp(joints[..., 1], axis=1)
    return bool(wide.mean() >= OFTEN)


class _Tokens:
    """The values of a file, one after the other."""

    def __init__(self, tokens: Sequence[str], path: str) -> None:
        self.tokens, self.path, self.at = tokens, path, 0

    def error(self, problem: str) -> SightwordError:
        return SightwordError(
            f"{self.path}: {problem} at value {self.at} of {len(self.tokens)}: it is not a whole file"
        )

    def take(self, count: int) -> Sequence[str]:
        found = self.tokens[self.at : self.at + count]
        if len(found) < count:
            raise self.error("the file ends in the middle of a body")
        self.at += count
        return found

    def count(self, most: int, what: str) -> int:
        (text,) = self.take(1)
        if not re.fullmatch(r"[0-9]{1,7}", text) or int(text) > most:
            raise self.error(f"{text[:20]!r} for the number of {what}")
        return int(text)

    def numbers(self, count: int) -> np.ndarray:
        try:
            return np.array(self.take(count), dtype=np.float64)
        except ValueError:
            raise self.error("a text where a number is expected") from None

    def end(self) -> None:
        if self.at < len(self.tokens):
            raise self.error("more than its frames")


FORMAT = Format("ntu", "NTU RGB+D's .skeleton, bodies of Kinect v2", (".skeleton", ".txt"), recognises, read)
