"""The skeletons of the people in one video.

Legend: P detections in a frame, M persons, T frames, V joints.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from sightword.storage import shards
from sightword.systems.skeleton.config import POSE
from sightword.systems.skeleton.joints import JointSet
from sightword.systems.skeleton.sequence import UNKNOWN, Annotation
from sightword.systems.skeleton.track import appearances, arranged
from sightword.systems.skeleton.video.decode import Video
from sightword.systems.skeleton.video.pose import Estimator, estimator_of
from sightword.systems.skeleton.video.smooth import smooth
from sightword.systems.skeleton.writer import Row, row_of

BRIEF = 0.2  # seconds; whoever is seen for less in all is taken for a mistake of the estimator


class Skeletons(NamedTuple):
    """The people of one video."""

    annotation: Annotation  # its points (M, T, V, 2) in pixels, scores (M, T, V); the label is unknown; M can be 0
    fps: float  # frames in a second
    ids: tuple[int, ...]  # (M,) who each person is, in the order in which they appeared, from 1
    joints: JointSet
    notes: tuple[str, ...]  # what was assumed or is doubtful

    @property
    def row(self) -> Row:
        """The recording for `write_annotations`."""
        return row_of(self.annotation, fps=self.fps, ids=list(self.ids), notes=list(self.notes))


def skeletons_of(
    video: str | Path,
    pose: str | Path | Estimator = POSE,
    *,
    people: int = 2,
    fps: float = 0,
    smoothed: bool = True,
    mirrored: bool = False,
    name: str = "",
) -> Skeletons:
    """Return the people of one video, followed and smoothed, with progress on stderr.

    video: a file, an animated image, or a folder of numbered images. pose: what finds people, as `estimator_of` takes
    it, or an estimator, for several videos. people: how many are kept, by motion × mean score, of those who are seen
    for 0.2 seconds or more. fps: frames a second; 0: the video's average, 30 at most. mirrored: the video is mirrored,
    as a selfie's: its frames are turned over first, so that left is the subject's left. name: of the recording; empty:
    the name of the file.

    Raises SightwordError if the video cannot be read or something is not installed. Without people M is 0.
    """
    estimator = estimator_of(pose) if isinstance(pose, str | Path) else pose
    frames = Video(video, fps)
    name = name or frames.path.stem
    found, shape = _found(frames, estimator, mirrored, name)
    least = min(len(found), max(2, round(BRIEF * frames.fps)))
    everybody = [track for track in appearances(found) if len(track.rows) >= least]
    tracks = arranged(everybody, found, people)
    notes = [*frames.notes, *_doubts(found, len(everybody), people)]
    if mirrored:
        notes.append("mirrored: frames were turned over, so that left is the subject's left")
    points = smooth(tracks.points, tracks.scores, frames.fps) if smoothed else tracks.points
    annotation = Annotation(name, UNKNOWN, points, tracks.scores, shape, None)
    return Skeletons(annotation, frames.fps, tracks.ids, estimator.joints, tuple(notes))


def _found(frames: Video, estimator: Estimator, mirrored: bool, name: str) -> tuple[list[np.ndarray], tuple[int, int]]:
    """What the estimator finds in each frame, (P, V, 3), and the height and width of frames."""
    estimator.start()
    found: list[np.ndarray] = []
    people = np.zeros((0, len(estimator.joints.joints), 3), np.float32)
    before: np.ndarray | None = None
    bar = tqdm(
        frames, name, len(frames) or None, unit=" frames", leave=False, disable=None, file=shards.LenientStderr()
    )
    for image in bar:
        if image is not before:  # a frame that is shown for longer comes several times
            people = estimator(np.ascontiguousarray(image[:, ::-1]) if mirrored else image)
            before = image
        found.append(people)
    assert before is not None  # Video raises for a file without frames
    return found, (before.shape[0], before.shape[1])


def _doubts(found: Sequence[np.ndarray], seen: int, people: int) -> list[str]:
    """What is doubtful about people in a video."""
    without = sum(not len(frame) for frame in found)
    told = []
    if not seen:
        told.append("nobody was found in it")
    elif without:
        told.append(f"nobody was found in {without} of its {len(found)} frames")
    if seen > people:
        told.append(f"{seen} people were followed and the {people} who move most are kept, people={people}")
    if len(found) < 8:
        told.append(f"it has {len(found)} frames, too few for an action")
    return told
