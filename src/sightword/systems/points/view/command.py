"""The command `view`. Nothing heavy is imported before it is executed: the command line imports this file."""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from sightword.engine.argument import Amount, Count, Model, Names, Out, Positive
from sightword.errors import SightwordError
from sightword.systems.points.commands import (
    FRAMES,
    NOTHING_TYPED,
    SCANNET,
    ClipOptions,
    opened_clip,
    opened_scene,
    refuse_other_clip,
)
from sightword.systems.points.scannet.convention import Convention

if TYPE_CHECKING:
    from types import FrameType

    from viser.infra import StateSerializer

    from sightword.systems.points.ask import SceneAnswer
    from sightword.systems.points.view.feed import Feed
    from sightword.systems.points.view.stage import Stage
    from sightword.systems.points.view.window import Window

NEEDED = ("viser", "websockets")
PLAYED = 0.4  # seconds of a recording between two versions of a map that grows


class Look(NamedTuple):
    """How a scene is shown."""

    query: str
    colour: Literal["photo", "query", "score", "object"]
    points: int
    port: int
    record: Path | None


def view(
    scene: Path,  # its folder, in ScanNet's layout; sightword import makes one of a recording
    model: Model | None = None,  # a run of points, its export, or a hub id; if empty, lifted CLIP answers: tower= …
    checkpoint: str = "best",  # of a run: best, last, or a file
    clip: ClipOptions = NOTHING_TYPED,
    query: Names = (),  # asked at the start: texts that compete, with commas
    against: Names = (),  # what else a point may be, with commas; if empty, as in ask
    frames: Count | None = None,  # of the scene, spread evenly, 24 if empty; live=true: at most, all if empty
    points: Count = 100_000,  # that are shown, at most; without a GPU more are slow
    colour: Literal["photo", "query", "score", "object"] = "photo",  # at the start
    port: int = 0,  # of 127.0.0.1; 0: any that is free
    record: Out | None = None,  # an HTML file to write instead of opening a window; it opens without a server
    live: bool = False,  # map the scene frame by frame, as stream does, and show the map as it grows
    wait: Amount = 0,  # live: seconds without a new frame after which the map is done; 0: only the frames there
    masks: Path | None = None,  # live: a folder of instance masks, <i>.png; if empty, no instances
    every: Count = 2,  # live: frames between two looks at the map
    voxel: Positive | None = None,  # metres between points; if empty, as ask and stream have it
    cache: Path | None = None,  # a folder that keeps CLIP's maps, as of lift; if empty, none
    background: Path | None = None,  # a folder of sightword background, as of ask: what is not here is said
    convention: Convention = SCANNET,
    trust: bool = False,  # show also a scene whose depth, poses, intrinsics and colour do not belong together
) -> None:
    """Open a window onto a scene in the browser: its points, its cameras, and what text queries find.

    Write queries into the window. Colours are those of the photos, of the queries, of the score or of the objects. A
    click on a camera shows what it contributes. The window is at 127.0.0.1 alone and refuses pages of other sites, but
    every user of this machine can open it. Needs the extra: pip install 'sightword[view]'. Ctrl-C ends it.
    """
    if lacking := [name for name in NEEDED if find_spec(name) is None]:
        raise SightwordError(f"view needs {', '.join(lacking)}. Install it: pip install 'sightword[view]'")
    refuse_other_clip(model, clip)
    if live and model:
        raise SightwordError(f"live=true maps lifted CLIP, and model={model} is not used. Leave one of them out")
    if not live and (masks or wait):
        raise SightwordError("masks= and wait= are for a map that grows. Add live=true")
    _check_record(record)
    look = Look(", ".join(query), colour, points, port, record)
    if live:
        feed = _feed(scene, clip, masks, voxel, against, convention, trust, background)
        _run_live(feed, scene, convention, wait, frames or 0, every, look)
        return
    many = frames or FRAMES
    stage = _stage(scene, model, checkpoint, clip, against, many, voxel, cache, convention, trust, points, background)
    with _window(stage, look) as window:
        if record is None:
            _wait(window)
        else:
            _record(window, record)


def _check_record(record: Path | None) -> None:
    if record is not None:
        from sightword.systems.points.view.record import check_file

        check_file(record)


def _stage(
    scene: Path,
    model: str | None,
    checkpoint: str,
    clip: ClipOptions,
    against: Names,
    frames: int,
    voxel: float | None,
    cache: Path | None,
    convention: Convention,
    trust: bool,
    points: int,
    background: Path | None,
) -> "Stage":
    """The stage of a scene whose frames are all there."""
    from sightword.systems.points.view.stage import Stage

    predictor, read = opened_scene(scene, model, checkpoint, clip, frames, convention)
    if background:
        predictor.use_background(background)
    found = predictor.features(read, voxel=voxel, cache=cache or "", trust=trust)

    def asked(texts: Sequence[str]) -> "SceneAnswer":
        return predictor.answer(found, texts, against)

    return Stage(read.name, found.points, read.frames, asked, predictor.text_encoder, points)


def _feed(
    scene: Path,
    clip: ClipOptions,
    masks: Path | None,
    voxel: float | None,
    against: Names,
    convention: Convention,
    trust: bool,
    background: Path | None,
) -> "Feed":
    """The map of a scene that grows."""
    from sightword.storage.domain import say_domain
    from sightword.systems.points.ask import classes_near, competitors
    from sightword.systems.points.doctor.diagnosis import require_sound
    from sightword.systems.points.live import LiveMap, MapOptions, masks_of
    from sightword.systems.points.view.feed import Feed
    from sightword.towers.frozen import FrozenModel

    require_sound(scene, convention, trust)
    opened = opened_clip(clip.tower, clip.tag, clip.token_type, clip.size, clip.dtype)
    say_domain(clip.tower, scene)
    name = scene.resolve().name
    made = LiveMap(opened, MapOptions(voxel or MapOptions.voxel), masks_of(masks, name) if masks else None)
    if background:
        made.use_background(background)
    text = FrozenModel(lambda: opened.text_encoder(opened.dtype))
    others = against or competitors(list(classes_near(scene).values()))
    return Feed(name, made, lambda: text.on("cpu"), others)


def _run_live(
    feed: "Feed", scene: Path, convention: Convention, wait: float, frames: int, every: int, look: Look
) -> None:
    """Show a map while it grows, or record how it grew."""
    from sightword.systems.points.live import frames_of
    from sightword.systems.points.view.feed import stages

    grown = stages(feed, frames_of(scene, convention, wait, frames), every, look.points)
    stage = next(grown)
    with _window(stage, look) as window:
        serializer = None if look.record is None else window.server.get_scene_serializer()
        for _ in grown:
            window.renew_from(feed.points(), feed.frames, feed.known())
            if serializer is not None:
                serializer.insert_sleep(PLAYED)
        print(f"{len(feed.frames)} frames mapped: {len(feed.live.map):,} points", flush=True)
        if serializer is None or look.record is None:
            _wait(window)
        else:
            serializer.insert_sleep(2.0)
            _record(window, look.record, serializer)


# --------------------------------------------------------------------------------------------------------- the window


@contextmanager
def _window(stage: "Stage", look: Look) -> "Iterator[Window]":
    """Open the window of a stage, and close it in the end."""
    from sightword.systems.points.view.local import ADDRESS, open_server
    from sightword.systems.points.view.window import Window

    server = open_server(0 if look.record else look.port)
    try:
        window = Window(server, stage, look.colour)
        if look.query:
            window.ask(look.query)
            if stage.failed:
                raise SightwordError(stage.failed)
        if look.record is None:
            print(f"{stage.name}: {len(stage.rows):,} of {len(stage.points.cloud.xyz):,} points")
            print(f"the window: http://{ADDRESS}:{server.get_port()}/   every user of this machine can open it")
            print("from another machine: ssh -L 8080:" + f"{ADDRESS}:{server.get_port()} this-machine; Ctrl-C ends it")
            sys.stdout.flush()
        yield window
    finally:
        server.stop()


def _wait(window: "Window") -> None:
    """Keep the window open until Ctrl-C or SIGTERM."""
    ended = threading.Event()

    def end(number: int, frame: "FrameType | None") -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not ended.wait(0.5):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _record(window: "Window", file: Path, serializer: "StateSerializer | None" = None) -> None:
    """Write the window's scene as one HTML file."""
    from sightword.systems.points.view.record import write_recording

    stage = window.stage
    write_recording(serializer or window.server.get_scene_serializer(), file, stage.name, stage.told())
    print(
        f"{stage.name}: {len(stage.rows):,} points in {file}, {file.stat().st_size / 1e6:.1f} MB; open it in a browser"
    )
