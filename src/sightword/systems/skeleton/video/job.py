"""The resumable job over videos: a part for each finished one, then one file of annotations.

Parts lie in `<out>.parts` until all videos are read. A part is found by the video and the options that it was made
with, so that other options never meet parts of older ones.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sightword.errors import MissingFileError, SightwordError, Unfinished
from sightword.storage import shards
from sightword.storage.atomic import write_atomically
from sightword.storage.job import JobOptions
from sightword.storage.writer import write_png
from sightword.systems.skeleton.annotations import read_annotations, read_contents
from sightword.systems.skeleton.config import VideoOptions
from sightword.systems.skeleton.diagnosis import say_findings
from sightword.systems.skeleton.joints import JointSet
from sightword.systems.skeleton.sequence import few
from sightword.systems.skeleton.video.decode import Video, is_video, numbered
from sightword.systems.skeleton.video.extraction import Skeletons, skeletons_of
from sightword.systems.skeleton.video.overlay import People, strip, write_overlay
from sightword.systems.skeleton.video.pose import Estimator, estimator_of
from sightword.systems.skeleton.writer import Row, notes_of, write_annotations

PRINTED = 40  # videos that are printed


def extract(video: Path, out: Path, options: VideoOptions, job: JobOptions) -> None:
    """Execute `sightword skeletons`: write `out`, what was assumed beside it, and print both.

    Raises Unfinished for videos that could not be read, after the others were written; SightwordError if it is the only
    one, and if nobody is in any.
    """
    check_out(out)
    work = Extraction(videos_in(video), out.with_name(f"{out.name}.parts"), out.with_name(f"{out.stem}_vis"), options)
    done = work.execute(job)
    if len(work.videos) == 1 and done.failed:
        work.clear()
        raise SightwordError(*done.failed.values())
    rows = [row for row in done.rows if row["ids"]]
    lines = [_line(row) for row in done.rows]
    for line in lines[:PRINTED]:
        print(line)
    if len(lines) > PRINTED:
        print(f"… and {len(lines) - PRINTED} more, in {notes_of(out)}")
    if rows:
        kept = [{key: value for key, value in row.items() if key != "notes"} for row in rows]
        write_annotations(kept, out, joints=done.joints, notes=lines)
    if not done.failed:  # otherwise the same command does the rest
        work.clear()
    if rows:
        say_findings(read_annotations(out))
        drawn = f", with pictures in {work.drawings}" if options.vis else ""
        print(f"{len(rows)} recordings without labels written to {out}{drawn}")
    for message in list(done.failed.values())[:PRINTED]:
        shards.say(message)
    if done.failed:
        names = few(Path(video).name for video in done.failed)
        raise Unfinished(f"{len(done.failed)} of {len(work.videos)} videos could not be read: {names}")
    if not rows:
        raise SightwordError(f"nobody was found in any of {len(work.videos)} videos. Draw them by vis=true")


def check_out(out: Path) -> None:
    """Raise SightwordError if `out` has another ending than annotations have, or is a file that is not ours."""
    if out.suffix not in (".pkl", ".npz"):
        raise SightwordError(f"out={out} does not end in .pkl or .npz. Pass a file name that does, or a folder")
    if out.exists() and not notes_of(out).exists():
        raise SightwordError(f"out={out} exists and was not written by this command. Pass another name")


def _line(row: Row) -> str:
    """What is in a recording and what was assumed, as a line."""
    ids, notes, frames, fps = (row[key] for key in ("ids", "notes", "total_frames", "fps"))
    assert isinstance(ids, list)
    assert isinstance(notes, list)
    assert isinstance(frames, int)
    assert isinstance(fps, float)
    who = f"person {', '.join(map(str, ids))}" if ids else "nobody"
    told = "".join(f"; {note}" for note in notes)
    return f"{row['frame_dir']}: {who}, {frames} frames at {fps:.4g} a second, {frames / fps:.1f} s{told}"


class Done(NamedTuple):
    """What came of the videos."""

    rows: list[Row]  # recordings as pyskl has them, each with fps, ids and notes
    joints: JointSet | None
    failed: dict[str, str]  # video → why it could not be read


class Extraction:
    """Skeletons of videos, each a part in a folder. Calling it makes a worker, see `shards`; it can be pickled.

    drawings: the folder for the pictures, if the options ask for any.
    """

    def __init__(self, videos: Sequence[Path], parts: Path, drawings: Path, options: VideoOptions) -> None:
        self.videos, self.names, self.options = videos, names_of(videos), options
        self.parts, self.drawings = parts, drawings
        self.files = [parts / f"{_digest(video, options)}.pkl" for video in videos]

    def __call__(self) -> shards.Worker:
        estimator = estimator_of(self.options.pose)

        def work(number: int) -> None:
            self.parts.mkdir(parents=True, exist_ok=True)
            try:
                self._extract(number, estimator)
            except SightwordError as error:
                with write_atomically(_failure(self.files[number])) as beside:
                    beside.write_text(str(error), encoding="utf-8")

        return work

    def missing(self) -> list[int]:
        """Return the numbers of the videos that were not tried yet."""
        return [row for row, file in enumerate(self.files) if not file.exists() and not _failure(file).exists()]

    def execute(self, job: JobOptions) -> Done:
        """Do what is missing, and again what failed before. Return everything, in the order of the videos."""
        for file in self.files:
            _failure(file).unlink(missing_ok=True)
        shards.execute(self, len(self.files), self.missing, job.engine, "skeletons", "video", job.workers, job.gpus)
        if left := self.missing():
            raise SightwordError(f"{len(left)} videos are not read yet: other processes are at work. Wait for the last")
        read = [read_contents(file) for file in self.files if file.exists()]
        failed = {
            str(video): _failure(file).read_text(encoding="utf-8")
            for video, file in zip(self.videos, self.files, strict=True)
            if not file.exists()
        }
        rows = [dict(row) for content in read for row in content.rows if isinstance(row, Mapping)]
        return Done(rows, read[0].joints if read else None, failed)

    def clear(self) -> None:
        """Delete all parts, those of other options and states too, and their folder if nothing else is in it."""
        for file in self.parts.glob("*") if self.parts.is_dir() else ():
            if re.search(r"-[0-9a-f]{12}\.(pkl|error)$", file.name):
                file.unlink()
        if self.parts.is_dir() and not any(self.parts.iterdir()):
            self.parts.rmdir()

    def _extract(self, number: int, estimator: Estimator) -> None:
        video, name, options = self.videos[number], self.names[number], self.options
        made = skeletons_of(
            video,
            estimator,
            people=options.people,
            fps=options.fps,
            smoothed=options.smooth,
            mirrored=options.mirrored,
            name=name,
        )
        if options.vis:
            draw(video, made, options.mirrored, self.drawings)
        write_annotations([made.row], self.files[number], joints=made.joints)


def draw(video: Path, made: Skeletons, mirrored: bool, folder: Path) -> None:
    """Write <name>.png, eight moments, and <name>.overlay.webm to a folder; the video is read twice more."""
    frames = Video(video, made.fps)
    shown = (np.ascontiguousarray(image[:, ::-1]) if mirrored else image for image in frames)
    assert made.annotation.scores is not None  # skeletons_of gives them
    people = People(made.annotation.points, made.annotation.scores, made.ids, made.joints)
    name = made.annotation.name.replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True)
    write_png(
        strip(shown, people, made.fps, f"{made.annotation.name}, {made.fps:.4g} frames/s"), folder / f"{name}.png"
    )
    shown = (np.ascontiguousarray(image[:, ::-1]) if mirrored else image for image in frames)
    write_overlay(shown, people, made.fps, folder / name)


def videos_in(path: Path) -> list[Path]:
    """Return a video, or all videos under a folder: files by their suffix, and folders of numbered images.

    What `draw` wrote, and hidden files, are skipped. Raises SightwordError if there is none.
    """
    if not path.exists():
        raise MissingFileError(f"video={path} does not exist. Give a video, or a folder of videos or numbered images")
    if not path.is_dir():
        return [path]
    below = [one for one in sorted(path.rglob("*")) if not any(part.startswith(".") for part in one.parts)]
    found = [one for one in below if is_video(one)]
    if found or numbered(path):
        return found or [path]
    raise SightwordError(f"video={path} has no videos and no numbered images. Give the folder that has them")


def names_of(videos: Sequence[Path]) -> list[str]:
    """Return the names of the recordings: stems of the files, and where these are equal as much more as it takes."""
    made = [video.stem for video in videos]
    counts = Counter(made)
    return [name if counts[name] == 1 else "/".join(video.parts[-2:]) for name, video in zip(made, videos, strict=True)]


def _failure(part: Path) -> Path:
    """Where it stands why a video could not be read."""
    return part.with_suffix(".error")


def _digest(video: Path, options: VideoOptions) -> str:
    """A name for the part of this video in this state with these options."""
    state = video.stat()
    said = repr((str(video.resolve()), state.st_size, state.st_mtime_ns, astuple(options)))
    return f"{video.stem[:40]}-{hashlib.blake2b(said.encode(), digest_size=6).hexdigest()}"
