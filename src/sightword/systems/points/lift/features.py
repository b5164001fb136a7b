"""Disk cache of the CLIP features of the frames of scenes: a map of unit vectors for each frame, computed once.

    out/<16 hex>/     a segment, see `storage.segments`: a shard a scene, a row a frame
    out/recipes.json  the recipes of the towers that were opened, see `recipe`
    out/scenes.json   which recordings the scenes are, see `origin`

A row contains the patches' unit vectors and the frame's pooled one, in half precision. A frame is encoded by itself and
rounded as the disk rounds it, so what is read and what is computed again are the same bits, whatever the batch. Nothing
trainable is cached.

Legend: V frames; D width of CLIP's joint space; h, w patches; N = h·w.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.storage.cache import FeatureCache, Header, MissingRowError, digest, header_for
from sightword.storage.segments import SegmentedCache
from sightword.systems.points.lift.origin import remember_scenes, require_same
from sightword.systems.points.lift.recipe import Recipe, recall, remember, state_of
from sightword.systems.points.scannet.reader import Scene, read_color
from sightword.towers.base import ImageTower
from sightword.towers.clip.dense import TokenType
from sightword.towers.token_cache import Opener

WRITER = "sightword lift"
RECIPE = ("weights", "architecture", "preprocessing", "grid", "form", "dtypes", "shapes")  # what rows that mix share


class Features(NamedTuple):
    """CLIP features of V frames, in their order."""

    maps: Tensor  # (V, D, h, w) float16, a unit vector a patch
    pooled: Tensor  # (V, D) float16, the whole frame's


def check_token_type(token_type: str) -> None:
    """Raise SightwordError for a token type that does not exist, or is not in the joint space with texts."""
    if TokenType.parse(token_type).kind == "post":
        raise SightwordError("token_type=post is not in the joint space with texts. Use qq, value, kk or joint")


class FrameEncoder:
    """A frozen image encoder and one type of its tokens. Frames are resized to its size, so that nothing is cropped."""

    def __init__(self, tower: ImageTower, token_type: str = "qq") -> None:
        check_token_type(token_type)
        self.tower, self.token_type = tower.freeze(), token_type
        self.preprocess = replace(tower.preprocess, resize="squash")  # cut edges would be another camera
        self.grid = tower.grid()

    @torch.no_grad()
    def rows(self, pictures: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        """Return rows as the cache has them: tokens (V, N, D) and pooled (V, D). Raises SightwordError for NaN."""
        found = [self._row(picture) for picture in pictures]
        return {name: np.stack([row[name] for row in found]) for name in found[0]}

    def _row(self, picture: Image.Image) -> dict[str, np.ndarray]:
        image = self.preprocess(picture)[None].to(self.tower.device)
        seen = self.tower.token_types(image, (self.token_type,))[self.token_type]
        row = {"tokens": seen.tokens[0], "pooled": seen.pooled[0]}
        if not all(bool(values.isfinite().all()) for values in row.values()):
            raise SightwordError(f"{self.tower.name} computes numbers that are not finite. Use dtype=fp32")
        return {name: F.normalize(values, dim=-1).half().cpu().numpy() for name, values in row.items()}

    def recipe(self) -> Recipe:
        """Return all that decides a row besides the frame."""
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
    """Reads the cached features of frames: `cache.maps("scene0000_00", [0, 20])`. Can be pickled for workers."""

    def __init__(self, out: str | Path, recipe: Recipe | None = None) -> None:
        """recipe: of the encoder. Raises SightwordError, with both values, if the cached features are of another."""
        self.out = Path(out).expanduser()
        if self.out.exists() and not self.out.is_dir():
            raise SightwordError(f"{out} is a file: cache= is a folder")
        self.rows = SegmentedCache(self.out)
        self.segments = self.rows.segments
        if recipe is not None:
            self.rows.refuse_other_recipe(header_for([], **recipe, writer="", shard_size=1), RECIPE, "CLIP", "cache")

    @property
    def header(self) -> Header:
        """The header of the first segment; those of the others have the same recipe."""
        if not self.segments:
            raise SightwordError(
                f"{self.out} contains no features of frames: sightword lift cache={self.out} writes them"
            )
        return self.segments[0].header

    def maps(self, scene: str, frames: Sequence[int]) -> Features:
        """Return the features of frames of a scene. Raises MissingRowError if one is not cached."""
        h, w = self.header["grid"]
        rows = [self.row(f"{scene}/{index}") for index in frames]
        return features_of({name: np.stack([row[name] for row in rows]) for name in rows[0]}, (h, w))

    def row(self, key: str) -> dict[str, np.ndarray]:
        """Return the arrays of "scene/frame" as they are on disk. Raises MissingRowError if it is not cached."""
        for segment in self.segments:
            if key in segment:
                return segment[key]
        raise MissingRowError(f"{self.out} has no features of frame {key}: sightword lift cache={self.out} adds them")

    def lacks(self, scene: Scene) -> list[int]:
        """Return the frames of a scene that are not cached, by index."""
        return [frame.index for frame in scene.frames if f"{scene.key}/{frame.index}" not in self.rows]

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return self.rows.bytes


def features_of(rows: Mapping[str, np.ndarray], grid: tuple[int, int]) -> Features:
    """Return rows as the cache has them as maps."""
    tokens = torch.from_numpy(rows["tokens"])  # (V, N, D)
    return Features(tokens.transpose(1, 2).unflatten(2, grid).contiguous(), torch.from_numpy(rows["pooled"]))


# -------------------------------------------------------------------------------------------------------- adding to it


class Plan(NamedTuple):
    """What has to be added to a cache: a segment, and the frames of each of its shards."""

    cache: FrameCache
    segment: FeatureCache | None  # None: all is there
    frames: dict[str, list[int]]  # scene → the frames of its shard; shards in this order

    def keep(self, scene: str, rows: Mapping[str, np.ndarray]) -> None:
        """Write a scene's shard: the rows of its frames here, in their order."""
        assert self.segment is not None
        keys = [f"{scene}/{index}" for index in self.frames[scene]]
        self.segment.write_shard(list(self.frames).index(scene), keys, rows)


class Identified(NamedTuple):
    """The recipe of a tower and a token type."""

    recipe: Recipe
    state: str  # see `recipe.state_of`
    encoder: FrameEncoder | None  # if it had to be opened for that


def identified(source: Opener, token_type: str, out: str | Path = "") -> Identified:
    """Return the recipe of a tower and a token type. out: of a cache, which may remember it."""
    check_token_type(token_type)  # before a cache is begun for it
    state = state_of(source, token_type) if str(out) else ""
    if known := recall(Path(out).expanduser(), state):
        return Identified(known, state, None)
    encoder = FrameEncoder(source.open(), token_type)
    return Identified(encoder.recipe(), state, encoder)


def plan(out: str | Path, scenes: Sequence[Scene], recipe: Recipe, backend: str = "safetensors") -> Plan:
    """Find the frames that are missing in the cache, and begin a segment for them or resume one.

    Ranks that plan the same scenes at once plan the same segment. Raises SightwordError for a cache of another recipe,
    and for one of other scenes of these names.
    """
    require_same(out, scenes)
    cache = FrameCache(out, recipe)
    wanted = {f"{scene.key}/{frame.index}": (scene.key, frame.index) for scene in scenes for frame in scene.frames}
    segment, keys = cache.rows.plan(list(wanted))
    frames = _by_scene(wanted[key] for key in keys)
    if segment is None and keys:
        most = max(map(len, frames.values()))
        header = header_for(keys, **recipe, writer=WRITER, backend=backend, shard_size=most, shards=len(frames))
        segment = cache.rows.begin(keys, header)
    remember_scenes(cache.out, [scene for scene in scenes if scene.key in frames])
    return Plan(cache, None if segment is None or segment.done else segment, frames)


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
    backend: str = "safetensors",
    device: str | None = None,
) -> FrameCache:
    """Return a cache that has the frames of all these scenes, scene by scene; resumable, see `shards.execute`.

    source: a `token_cache.Source`, which opens the tower. To read a cache and compute nothing, see
    `FrozenClip.open_cache` and `data.complete_cache`.
    """
    known = identified(source, token_type, out)
    planned = plan(out, scenes, known.recipe, backend)
    remember(planned.cache.out, known.state, known.recipe)
    by_name = {scene.key: scene for scene in scenes}
    names = list(planned.frames)

    def worker() -> Callable[[int], None]:
        encoder = known.encoder or FrameEncoder(source.open(), token_type)
        encoder.tower.to(device or shards.device())

        def work(number: int) -> None:
            wanted = set(planned.frames[names[number]])
            pictures = [read_color(frame) for frame in by_name[names[number]].frames if frame.index in wanted]
            planned.keep(names[number], encoder.rows(pictures))

        return work

    if (segment := planned.segment) is not None:
        shards.execute(worker, segment.shards, segment.missing, desc="encoding frames", unit="scene")
    return planned.cache
