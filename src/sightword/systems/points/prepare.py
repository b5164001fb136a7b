"""What a training computes first: CLIP's maps of all frames that it may sample, into data.cache."""

import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from sightword.engine.contract import Step
from sightword.systems.points.clip import FrozenClip, clip_of
from sightword.systems.points.config import PointsConfig, PointsData
from sightword.systems.points.data import complete_cache, readable_scenes, require_sound_set, split_names
from sightword.systems.points.lift.features import FrameCache, fill
from sightword.systems.points.lift.origin import require_same
from sightword.systems.points.scannet.convention import Convention
from sightword.systems.points.scannet.reader import Scene

SYSTEM = ("clip", "clip_tag", "token_type", "clip_size", "clip_dtype")  # fields that decide the maps
DATA = ("root", "scenes", "val_scenes", "test_scenes", "hold_out", "pool", "cache", "trust")
CONVENTION = tuple(field.name for field in fields(Convention))  # of the files, which decide which frames there are


def make_steps(experiment: str, system: PointsConfig, data: PointsData) -> list[Step]:
    """Have the doctor look at the scenes. Return the step that fills data.cache for those of all splits; none without
    a cache.

    With data.offline_clip_feat the cache is only read: raises SightwordError if it is another CLIP's, or frames are
    missing.
    """
    scenes = [scene for split, names in split_names(data).items() for scene in readable_scenes(data, names, split)[0]]
    require_sound_set(data, scenes)
    if not data.cache:
        return []
    clip = clip_of(system)
    if data.offline_clip_feat:
        complete_cache(data, scenes)
        clip.open_cache(data.cache)
        return []
    return [
        Step(
            name=f"CLIP maps of {sum(len(scene.frames) for scene in scenes):,} frames",
            out=Path(data.cache).expanduser(),
            is_done=lambda: is_complete(data.cache, clip, scenes),
            execute=lambda: _fill(data.cache, clip, scenes),
            command=command(experiment, system, data),
        )
    ]


def is_complete(cache: str, clip: FrozenClip, scenes: Sequence[Scene]) -> bool:
    """Return whether a cache contains all frames of scenes. Raises SightwordError if another CLIP wrote them, and if
    they are of other scenes of these names."""
    require_same(cache, scenes)
    found = FrameCache(cache)
    if any(found.lacks(scene) for scene in scenes):
        return False
    clip.open_cache(cache)
    return True


def _fill(cache: str, clip: FrozenClip, scenes: Sequence[Scene]) -> None:
    fill(clip.source, clip.token_type, scenes, cache)


def command(experiment: str, system: PointsConfig, data: PointsData) -> str:
    """Return the command line that does the same by itself."""
    usual = {"system": PointsConfig(), "data": PointsData()}
    arguments = [f"experiment={experiment}"]
    for node, config, names in (("system", system, SYSTEM), ("data", data, DATA + CONVENTION)):
        for name in names:
            value = getattr(config, name)
            if value != getattr(usual[node], name):
                arguments.append(f"{node}.{name}={_written(value)}")
    return "sightword prepare " + shlex.join(arguments)


def _written(value: object) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
