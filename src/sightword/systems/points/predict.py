"""Text queries to a scene as its user holds them: posed frames and words in, an answer for each point out."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import save_file

from sightword.engine.contract import BatchT, Predictor
from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.storage.atomic import write_atomically
from sightword.storage.checkpoint import load_strictly, read_weights
from sightword.storage.reader import read_json
from sightword.storage.writer import write_json
from sightword.systems.points import ask
from sightword.systems.points.ask import PointFeatures, SceneAnswer
from sightword.systems.points.clip import FrozenClip, clip_of
from sightword.systems.points.config import PointsConfig
from sightword.systems.points.lift.cloud import scene_cloud, thinned
from sightword.systems.points.lift.extract import NOTHING_SEEN
from sightword.systems.points.lift.features import Features, features_of, fill
from sightword.systems.points.scannet.label import LabelSet
from sightword.systems.points.scannet.reader import Scene, read_color, read_scene, say_skipped, views_of
from sightword.systems.points.task import PointsTask, make_encoder
from sightword.towers.base import TextTower
from sightword.towers.frozen import FrozenModel

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FRAMES = 24  # of a scene that are read at most, if nothing is said


class SceneQuery(Predictor):
    """Finds in a scene what text queries name: by the fused features of a trained encoder, or by lifted CLIP alone."""

    def __init__(self, clip: FrozenClip, task: PointsTask | None = None) -> None:
        """clip: the CLIP whose maps are lifted. task: a trained encoder; without one only lifted CLIP can answer."""
        self.clip, self.task = clip, None if task is None else task.eval()
        self._text: FrozenModel[TextTower] = FrozenModel(lambda: clip.text_encoder(clip.dtype))

    @classmethod
    def from_task(cls, task: Task[BatchT]) -> Self:
        if not isinstance(task, PointsTask):
            raise SightwordError(f"SceneQuery is made of a run of points, got a {type(task).__name__}")
        return cls(task.clip, task)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read what `save_pretrained` wrote. The CLIP is opened by its name, as in the run.

        Raises SightwordError if the folder is not that.
        """
        content = read_json(folder / CONFIG, missing="sightword export writes it", damaged="Export the run again")
        system = content.mapping("system").into(PointsConfig)
        labels = content.mapping("labels")
        known = LabelSet(tuple(labels.texts("names")), tuple(labels.integers("ids")), str(folder / CONFIG))
        task = PointsTask(system, make_encoder(system, content.integer("clip_dim", least=1)), clip_of(system), known)
        load_strictly(task.model, read_weights(folder / WEIGHTS), folder / WEIGHTS)
        return cls(task.clip, task)

    def save_pretrained(self, folder: Path) -> None:
        """Write the encoder, its configuration and the classes, not CLIP. Raises SightwordError without an encoder."""
        task = self._trained()
        folder.mkdir(parents=True, exist_ok=True)
        with write_atomically(folder / WEIGHTS) as part:
            save_file({name: w.detach().cpu().contiguous() for name, w in task.model.state_dict().items()}, part)
        labels = {"names": task.labels.names, "ids": task.labels.ids}
        write_json(folder / CONFIG, {"system": asdict(task.system), "labels": labels, "clip_dim": task.model.clip_dim})

    @torch.no_grad()
    def __call__(
        self,
        scene: str | Path | Scene,
        queries: str | Sequence[str],
        *,
        against: Sequence[str] = (),
        features: str = "",
        frames: int = FRAMES,
        voxel: float = 0.03,
        cache: str | Path = "",
    ) -> SceneAnswer:
        """Return, for each point of a scene, how well each query fits it.

        scene: its folder, in ScanNet's layout. queries: one text, or several that compete.
        against: other texts that compete with them; if empty, the classes of the data set, or `ask.AGAINST`.
        features: fused, a trained encoder's, which also answer where no frame looks; or lifted. Fused if there are any.
        frames: of the scene that are read, spread evenly. voxel: metres between points, of the cloud if the scene has
        none, and of the fused features: as data.voxel in training. cache: a folder that keeps CLIP's maps.
        Raises SightwordError for a scene that is not readable, without a query, and if no frame shows a point.
        """
        read = scene if isinstance(scene, Scene) else read_scene(scene, frames=frames)
        say_skipped(read)
        maps = self._maps(read, cache)
        kind = features or ("lifted" if self.task is None else "fused")
        if kind not in ("lifted", "fused"):
            raise SightwordError(f"features={features!r} is neither lifted nor fused")
        found = (
            self._fused(read, maps, voxel) if kind == "fused" else ask.lift_scene(read, maps, voxel, shards.device())
        )
        texts = [queries] if isinstance(queries, str) else queries
        rest = list(against) or ask.competitors(self._classes(read))
        return ask.answer(read.name, found, self._text.on(), texts, rest)

    def _classes(self, scene: Scene) -> list[str]:
        """The classes of the data set: beside the scene, or of the run."""
        near = list(ask.classes_near(scene.folder).values())
        return near or ([] if self.task is None else list(self.task.labels.names))

    def _maps(self, scene: Scene, cache: str | Path) -> Features:
        if str(cache):
            kept = fill(self.clip.source, self.clip.token_type, [scene], cache)
            return kept.maps(scene.name, [frame.index for frame in scene.frames])
        encoder = self.clip.encoder()
        encoder.tower.to(shards.device())
        return features_of(encoder.rows([read_color(frame) for frame in scene.frames]), encoder.grid)

    def _fused(self, scene: Scene, features: Features, voxel: float) -> PointFeatures:
        """A trained encoder's features of a scene's points, one point per voxel."""
        model = self._trained().model.to(shards.device())
        cloud = thinned(scene_cloud(scene, voxel), voxel)
        views = views_of(scene.frames, shards.device())
        xyz, rgb, maps, pooled = (
            part.to(shards.device())
            for part in (cloud.xyz, cloud.rgb.float() / 127.5 - 1, features.maps, features.pooled)
        )
        out = model(xyz, rgb, torch.zeros(len(xyz), dtype=torch.int64, device=xyz.device), views, maps, pooled)
        if not len(out.links.point):
            raise SightwordError(f"{scene.name}: {NOTHING_SEEN.format(points=len(xyz), frames=len(scene.frames))}")
        visible = out.seen.cpu()
        known = visible if model.gate is None else torch.ones_like(visible)
        return ask.placed(scene, cloud, out.text.cpu(), visible, known, out.links)

    def _trained(self) -> PointsTask:
        if self.task is None:
            raise SightwordError("there is no trained encoder, only lifted CLIP. Load a run of points, or its export")
        return self.task
