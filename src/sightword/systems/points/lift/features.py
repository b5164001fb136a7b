"""What a frozen CLIP sees in the frames of scenes: a map of words for each, computed once.

    out/<16 hex>/     a part, a FeatureCache, for each time that frames were added: a shard a scene, a row a frame
    out/recipes.json  what towers that were opened would write, see `recipe`

A row holds the patches' unit vectors and the frame's pooled one, in half precision. A frame is encoded by itself and
rounded as the disk rounds it, so what is read and what is computed anew are the same bits, in whatever company. Nothing
trainable is kept: what is made of these maps is as quick to compute as to read. Source: document 004, 2.1, 2.3 and 5.4.

Legend: V frames; D width of CLIP's joint space; h, w patches; N = h·w.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sightword.storage import shards
from sightword.storage.cache import FeatureCache, differences, digest, flatten, header_for, items_digest
from sightword.systems.points.lift.recipe import recall, remember, state_of
from sightword.systems.points.scannet.reader import Scene, read_color
from sightword.towers.base import ImageTower
from sightword.towers.clip.dense import TokenType
from sightword.towers.token_cache import Opener

WRITER = "sightword lift"
RECIPE = ("weights", "architecture", "preprocessing", "grid", "form", "dtypes", "shapes")  # what rows that mix share


class Features(NamedTuple):
    """Of V frames, in their order."""

    maps: Tensor  # (V, D, h, w) float16, a unit vector a patch
    pooled: Tensor  # (V, D) float16, the whole frame's


def check_token_type(token_type: str) -> None:
    """ValueError for tokens that there are not, or that are not in the space of words."""
    if TokenType.parse(token_type).kind == "post":
        raise ValueError(
            "token_type=post is CLIP's tokens before they are in the space of words: points are lifted from qq, value, kk "
            "or joint"
        )


class FrameEncoder:
    """A frozen tower, asked for one form of its tokens. Frames are squashed to its size, so that nothing is cut."""

    def __init__(self, tower: ImageTower, token_type: str = "qq") -> None:
        check_token_type(token_type)
        self.tower, self.token_type = tower.freeze(), token_type
        self.preprocess = replace(tower.preprocess, resize="squash")  # cut edges would be another camera
        self.grid = tower.grid()

    @torch.no_grad()
    def rows(self, pictures: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        """As the cache keeps them: tokens (V, N, D) and pooled (V, D). ValueError where one is not finite."""
        found = [self._row(picture) for picture in pictures]
        return {name: np.stack([row[name] for row in found]) for name in found[0]}

    def _row(self, picture: Image.Image) -> dict[str, np.ndarray]:
        image = self.preprocess(picture)[None].to(self.tower.device)
        seen = self.tower.token_types(image, (self.token_type,))[self.token_type]
        row = {"tokens": seen.tokens[0], "pooled": seen.pooled[0]}
        if not all(bool(values.isfinite().all()) for values in row.values()):
            raise ValueError(f"{self.tower.name} sees numbers that are not finite: compute in dtype=fp32")
        return {name: F.normalize(values, dim=-1).half().cpu().numpy() for name, values in row.items()}

    def recipe(self) -> dict[str, Any]:
        """All that decides a row besides the frame: what `header_for` is told."""
        width, (h, w) = self.tower.embed_dim, self.grid
        return {
            "rows": {"tokens": ("float16", (h * w, width)), "pooled": ("float16", (width,))},
            "weights": digest(self.tower.state_dict()),
            "architecture": self.tower.architecture,
            "preprocessing": self.preprocess.as_dict(),
            "form": self.token_type,
            "grid": [h, w],
        }


class FrameCache:
    """Reads what was kept of frames: `cache.maps("scene0000_00", [0, 20])`. Pickles, and serves DataLoader workers."""

    def __init__(self, out: str | Path, recipe: Mapping[str, Any] | None = None) -> None:
        """recipe: of the encoder whose maps are wanted; ValueError, with both values, if those here are of another."""
        self.out = Path(out).expanduser()
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"{out} is a file: cache= is a folder")
        self.parts = [FeatureCache(file.parent) for file in sorted(self.out.glob("*/header.json"))]
        if recipe is not None:
            self._check(recipe)

    @property
    def header(self) -> dict[str, Any]:
        """Of its first part; they differ in nothing that a reader asks."""
        if not self.parts:
            raise ValueError(f"{self.out} holds no features of frames: sightword lift cache={self.out} writes them")
        return self.parts[0].header

    def maps(self, scene: str, frames: Sequence[int]) -> Features:
        """KeyError where one is not there."""
        h, w = self.header["grid"]
        rows = [self.row(f"{scene}/{index}") for index in frames]
        return features_of({name: np.stack([row[name] for row in rows]) for name in rows[0]}, (h, w))

    def row(self, key: str) -> dict[str, np.ndarray]:
        for part in self.parts:
            if key in part:
                return part[key]
        raise KeyError(f"{self.out} has no features of frame {key}: sightword lift cache={self.out} adds them")

    def lacks(self, scene: Scene) -> list[int]:
        """The frames of a scene that are not there, by index."""
        keys = {frame.index: f"{scene.name}/{frame.index}" for frame in scene.frames}
        return [index for index, key in keys.items() if not any(key in part for part in self.parts)]

    @property
    def bytes(self) -> int:
        """On disk."""
        return sum(file.stat().st_size for part in self.parts for file in part.path.iterdir() if file.is_file())

    def _check(self, recipe: Mapping[str, Any]) -> None:
        header = header_for([], **recipe, writer="", shard_size=1)
        wanted = flatten({name: header[name] for name in RECIPE})
        for part in self.parts:
            found = flatten({name: part.header.get(name, {}) for name in RECIPE})
            if told := differences(found, wanted, sorted(found | wanted)):
                raise ValueError(f"{self.out} is the cache of another CLIP: {told}. Give another cache=")


def features_of(rows: Mapping[str, np.ndarray], grid: tuple[int, int]) -> Features:
    """Rows as the cache keeps them, as maps."""
    tokens = torch.from_numpy(rows["tokens"])  # (V, N, D)
    return Features(tokens.transpose(1, 2).unflatten(2, grid).contiguous(), torch.from_numpy(rows["pooled"]))


# -------------------------------------------------------------------------------------------------------- adding to it


class Plan(NamedTuple):
    """What is to be added to a cache: a part, and which of its shards holds which frames."""

    cache: FrameCache
    part: FeatureCache | None  # None: all is there
    frames: dict[str, list[int]]  # scene → the frames of its shard; shards in this order

    def keep(self, scene: str, rows: Mapping[str, np.ndarray]) -> None:
        """Write a scene's shard: the rows of its frames here, in their order."""
        assert self.part is not None
        keys = [f"{scene}/{index}" for index in self.frames[scene]]
        self.part.write_shard(list(self.frames).index(scene), keys, rows)


class Identified(NamedTuple):
    """A tower and a form by what they write."""

    recipe: dict[str, Any]
    state: str  # see `recipe.state_of`
    encoder: FrameEncoder | None  # where it had to be opened for that


def identified(source: Opener, token_type: str, out: str | Path = "") -> Identified:
    """out: of a cache, which may remember it. ValueError for a form that there is not."""
    check_token_type(token_type)  # before a cache is begun for it
    state = state_of(source, token_type) if str(out) else ""
    if known := recall(Path(out).expanduser(), state):
        return Identified(known, state, None)
    encoder = FrameEncoder(source.open(), token_type)
    return Identified(encoder.recipe(), state, encoder)


def plan(out: str | Path, scenes: Iterable[Scene], recipe: Mapping[str, Any], backend: str = "safetensors") -> Plan:
    """Find what the cache lacks of these scenes' frames, and begin a part for it, or go on with one that was begun.

    Ranks that plan the same scenes at once plan the same part. ValueError for a cache of another recipe.
    """
    cache = FrameCache(out, recipe)
    wanted = {f"{scene.name}/{frame.index}": (scene.name, frame.index) for scene in scenes for frame in scene.frames}
    rows = [set(part) for part in cache.parts]
    written = set().union(*rows)
    for part, own in zip(cache.parts, rows, strict=True):
        keys = [key for key in wanted if key not in written - own]
        if part.path.name == items_digest(keys):
            return Plan(cache, None if part.done else part, _by_scene(wanted[key] for key in keys))
    keys = [key for key in wanted if key not in written]
    frames = _by_scene(wanted[key] for key in keys)
    if not keys:
        return Plan(cache, None, frames)
    most = max(map(len, frames.values()))
    told = {**recipe, "writer": WRITER, "backend": backend}
    header = header_for(keys, **told, shard_size=most, shards=len(frames))
    part = FeatureCache.create(cache.out / items_digest(keys), header)
    cache.parts.append(part)
    return Plan(cache, part, frames)


def _by_scene(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    frames: dict[str, list[int]] = {}
    for scene, index in pairs:
        frames.setdefault(scene, []).append(index)
    return frames


def fill(
    source: Opener,
    token_type: str,
    scenes: Sequence[Scene],
    out: str | Path,
    offline: bool = False,
    backend: str = "safetensors",
    device: str | None = None,
) -> FrameCache:
    """A cache that has the frames of all these scenes, scene by scene; resumable, see `shards.run`.

    source: a `token_cache.Source`, which opens the tower; offline: computes nothing, so what the cache lacks is a ValueError.
    """
    known = identified(source, token_type, out)
    if offline:
        cache = FrameCache(out, known.recipe)
        lost = [f"{scene.name}/{index}" for scene in scenes for index in cache.lacks(scene)]
        if lost:
            raise ValueError(
                f"{out} lacks {len(lost)} frames, {lost[0]} the first: offline_clip_feat=false computes them, and "
                f"sightword lift cache={out} does so beforehand"
            )
        return cache
    planned = plan(out, scenes, known.recipe, backend)
    remember(planned.cache.out, known.state, known.recipe)
    by_name = {scene.name: scene for scene in scenes}
    names = list(planned.frames)

    def worker() -> Callable[[int], None]:
        encoder = known.encoder or FrameEncoder(source.open(), token_type)
        encoder.tower.to(device or shards.device())

        def work(number: int) -> None:
            wanted = set(planned.frames[names[number]])
            pictures = [read_color(frame) for frame in by_name[names[number]].frames if frame.index in wanted]
            planned.keep(names[number], encoder.rows(pictures))

        return work

    if planned.part is not None:
        shards.run(worker, planned.part.shards, planned.part.missing, desc="frames through CLIP", unit="scene")
    return planned.cache
