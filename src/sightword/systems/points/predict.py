"""Text queries to a scene as its user holds them: posed frames and words in, an answer for each point out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple, Self, TypedDict, Unpack, overload

import torch
from torch import Tensor

from sightword.engine.config import DataConfig
from sightword.engine.contract import BatchT
from sightword.engine.predictor import CONFIG, Predictor
from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.storage.cache import digest
from sightword.storage.checkpoint import load_strictly, read_weights, write_weights
from sightword.storage.domain import domain_of_weights
from sightword.storage.fields import Fields
from sightword.storage.ply import Cloud
from sightword.storage.reader import read_json
from sightword.systems.points import ask
from sightword.systems.points.ask import Kind, PointFeatures, SceneAnswer
from sightword.systems.points.clip import FrozenClip, clip_of
from sightword.systems.points.config import PointsConfig, PointsData
from sightword.systems.points.doctor.diagnosis import require_sound
from sightword.systems.points.lift.cloud import scene_cloud, thinned
from sightword.systems.points.lift.extract import NOTHING_SEEN
from sightword.systems.points.lift.features import Features, check_token_type, features_of, fill
from sightword.systems.points.model import BiFusionEncoder
from sightword.systems.points.presence import Background, read_background
from sightword.systems.points.scannet.convention import Convention, convention_of
from sightword.systems.points.scannet.label import LabelSet
from sightword.systems.points.scannet.reader import Scene, read_color, read_scene, say_skipped, views_of
from sightword.systems.points.task import PointsTask, make_encoder
from sightword.towers.base import TextTower
from sightword.towers.frozen import FrozenModel

WEIGHTS, CLIP, PRESENCE = "model.safetensors", "clip", "presence.safetensors"
FRAMES = 24  # of a scene that are read at most, if nothing is said
VOXEL = 0.03  # metres between the points of a cloud that is fused from depth, if nothing is said


class FeatureOptions(TypedDict, total=False):
    """Options of how the features of a scene's points are computed."""

    features: Kind | None  # fused, a trained encoder's, also for points that no frame shows; lifted; None: fused if any
    frames: int  # of the scene that are read, spread evenly
    voxel: float | None  # metres between points: of fused features, None is as in training; of a cloud without a file
    cache: str | Path  # a folder that keeps CLIP's maps; empty: none
    convention: Convention | None  # of the files of a folder; None: of the data that the encoder was trained on
    trust: bool  # answer also for a scene whose depth, poses, intrinsics and colour do not belong together


class QueryOptions(FeatureOptions, total=False):
    """Options of a text query to a scene."""

    against: str | Sequence[str]  # other texts that compete; by default the data set's classes, or `ask.AGAINST`


class SceneFeatures(NamedTuple):
    """A scene and the features of its points."""

    scene: Scene
    points: PointFeatures


class SceneQuery(Predictor):
    """Finds in a scene what text queries name: by the fused features of a trained encoder, or by lifted CLIP alone."""

    system = "points"
    summary = (
        "Finds the points of a scene that text queries name. Input: RGB-D frames with camera poses. Points that no "
        "frame shows get an answer too, by geometry and colour, if the encoder has a 3-D branch."
    )
    usage = 'model("scans/scene0000_00", ["a chair", "a bed"]).plot().save("answer.png")  # a folder of posed frames'

    def __init__(
        self,
        clip: FrozenClip,
        task: PointsTask | None = None,
        voxel: float = VOXEL,
        convention: Convention | None = None,
    ) -> None:
        """clip: the CLIP whose maps are lifted. task: a trained encoder; without one only lifted CLIP can answer.
        voxel: metres between the points that the encoder was trained on. convention: of the files of scenes."""
        self.clip, self.task, self.voxel = clip, None if task is None else task.eval(), voxel
        self.convention = convention or Convention()
        self.device = "cpu"
        self.domain = domain_of_weights(clip.name)
        self._backgrounds: dict[Kind, Background] = {}
        self._text: FrozenModel[TextTower] = FrozenModel(lambda: clip.text_encoder(clip.dtype))

    @classmethod
    def from_tower(
        cls,
        name: str | Path,
        tag: str = "",
        token_type: str = "qq",
        size: tuple[int, int] | None = (224, 304),
        dtype: str | torch.dtype = "bf16",
    ) -> Self:
        """Return lifted CLIP without a trained encoder; nothing is opened before it is used.

        name, tag: as `image_tower` takes them. token_type: qq, value, kk or joint. size: height and width that frames
        are resized to; None: the CLIP's own.
        """
        check_token_type(token_type)
        return cls(FrozenClip(str(name), tag, token_type, size, dtype))

    @classmethod
    def from_task(cls, task: Task[BatchT], data: DataConfig | None = None) -> Self:
        if not isinstance(task, PointsTask):
            raise SightwordError(f"SceneQuery is made of a run of points, got a {type(task).__name__}")
        if not isinstance(data, PointsData):
            return cls(task.clip, task)
        return cls(task.clip, task, data.voxel, convention_of(data))

    @classmethod
    def _from_folder(cls, folder: Path, content: Fields) -> Self:
        system = content.mapping("config").into(PointsConfig)
        weights = _texts(content.mapping("clip_weights"))
        if not weights:  # the CLIP is in the folder
            system = replace(system, clip=str(_clip_in(folder)))
        labels = content.mapping("labels")
        known = LabelSet(tuple(labels.texts("names")), tuple(labels.integers("ids")), str(folder / CONFIG))
        encoder = make_encoder(system, content.integer("clip_dim", least=1))
        load_strictly(encoder, read_weights(folder / WEIGHTS), folder / WEIGHTS)
        task = PointsTask(system, encoder, clip_of(system, weights), known)
        _read_presence(folder, task)
        said = content.mapping("convention", optional=True).into(Convention)  # exports before 0.3 have none
        return cls(task.clip, task, content.number("voxel"), said)

    @property
    def encoder(self) -> BiFusionEncoder:
        """The trained encoder. Raises SightwordError without one."""
        return self._trained().model

    def save_pretrained(self, save_directory: str | Path, **options: object) -> None:
        """Write an exported folder: the encoder, the classes, and the CLIP if no name fetches it.

        A CLIP of a local folder is written in open_clip's format to clip/; of a published one the name and a digest of
        its weights are kept. Raises SightwordError without a trained encoder.
        """
        self._trained()  # before anything is written
        super().save_pretrained(save_directory, **options)

    def _write(self, folder: Path) -> Mapping[str, object]:
        task = self._trained()
        # paths of this machine are of no use elsewhere: the classes themselves are below, the CLIP is in clip/
        config = asdict(replace(task.system, labels=Path(task.system.labels).name))
        if self.clip.is_local:
            self.clip.save(folder / CLIP)
            config |= {"clip": CLIP, "clip_tag": ""}
        write_weights(folder / WEIGHTS, task.model.state_dict())
        if task.background("fused") is not None:
            write_weights(folder / PRESENCE, {name: getattr(task, name) for name in task.added_state})
        return {
            "config": config,
            "labels": {"names": task.labels.names, "ids": task.labels.ids},
            "clip_dim": task.model.clip_dim,
            "clip_weights": {} if self.clip.is_local else self.clip.digests(),
            "voxel": self.voxel,
            "convention": self.convention.key(),
        }

    def task_weights(self) -> dict[str, Tensor]:
        return dict(self._trained().state_dict())

    def to(self, device: str | torch.device) -> Self:
        """Compute on a device from the next query on. Return the same predictor."""
        self.device = str(device)
        return self

    @overload
    def __call__(
        self, scene: str | Path | Scene, queries: str | Sequence[str], **options: Unpack[QueryOptions]
    ) -> SceneAnswer: ...

    @overload
    def __call__(
        self, scene: list[str] | list[Path] | list[Scene], queries: str | Sequence[str], **options: Unpack[QueryOptions]
    ) -> list[SceneAnswer]: ...

    def __call__(
        self,
        scene: str | Path | Scene | list[str] | list[Path] | list[Scene],
        queries: str | Sequence[str],
        **options: Unpack[QueryOptions],
    ) -> SceneAnswer | list[SceneAnswer]:
        """Return, for each point of a scene, how well each query fits it; a list of scenes gives a list.

        scene: its folder, in ScanNet's layout, or what `read_scene` returned. queries: one text, or several that
        compete. options: `QueryOptions`: against, features (fused or lifted), frames, voxel (metres), cache,
        convention and trust. Raises SightwordError for a scene that is not readable or whose files do not belong
        together, without a query, and if no frame shows a point.
        """
        if isinstance(scene, list):
            return [self._answer(each, queries, **options) for each in scene]
        if not isinstance(scene, str | Path | Scene):
            raise SightwordError(f"expected the folder of a scene, or a list of them; got {type(scene).__name__}")
        return self._answer(scene, queries, **options)

    def _answer(
        self,
        scene: str | Path | Scene,
        queries: str | Sequence[str],
        *,
        against: str | Sequence[str] = (),
        **options: Unpack[FeatureOptions],
    ) -> SceneAnswer:
        texts, others = _several("queries", queries), _several("against", against)
        return self.answer(self.features(scene, **options), texts, others)

    @torch.no_grad()
    def features(
        self,
        scene: str | Path | Scene,
        *,
        features: Kind | None = None,
        frames: int = FRAMES,
        voxel: float | None = None,
        cache: str | Path = "",
        convention: Convention | None = None,
        trust: bool = False,
        cloud: Cloud | None = None,
    ) -> SceneFeatures:
        """Return the features of a scene's points, which `answer` can be asked about any number of times.

        Arguments are those of a call. cloud: points in the world of the poses; if None, the scene's own. Raises
        SightwordError as a call does.
        """
        kind = features or ("lifted" if self.task is None else "fused")
        if kind not in ("lifted", "fused"):
            raise SightwordError(f"features={features!r} is neither lifted nor fused. Pass one of them")
        if kind == "fused":
            self._trained()
        if voxel is not None and not voxel > 0:
            raise SightwordError(f"voxel={voxel} is not a length in metres. Pass a number above 0")
        said = convention or self.convention
        read = scene if isinstance(scene, Scene) else read_scene(scene, frames=frames, convention=said)
        say_skipped(read)
        self.mind_domain([read.folder], "this model" if self.task else self.clip.name)
        require_sound(read.folder, read.convention, trust)
        maps = self._maps(read, cache)
        if kind == "fused":
            return SceneFeatures(read, self._fused(read, maps, voxel or self.voxel, cloud))
        return SceneFeatures(read, ask.lift_scene(read, maps, voxel or VOXEL, self.device, cloud))

    @torch.no_grad()
    def answer(
        self, found: SceneFeatures, queries: str | Sequence[str], against: str | Sequence[str] = ()
    ) -> SceneAnswer:
        """Return, for each point of a scene whose features are known, how well each query fits it."""
        texts, others = _several("queries", queries), _several("against", against)
        scene, points = found
        rest = others or ask.competitors(self.classes_of(scene))
        known = self.background(points.kind)
        return ask.answer(scene.name, points, self.text_encoder(), texts, rest, known, is_metric(scene.folder))

    def text_encoder(self) -> TextTower:
        """Return CLIP's text encoder, which is opened when it is first asked for."""
        return self._text.on(self.device)

    def background(self, kind: Kind) -> Background | None:
        """Return how texts fit other scenes: those that `use_background` read, or of the run's validation."""
        return self._backgrounds.get(kind) or (None if self.task is None else self.task.background(kind))

    def use_background(self, folder: Path, kind: Kind | None = None) -> None:
        """Take from now on what `sightword background` wrote. kind: the features that are used, as of a call.

        Raises SightwordError if it is of other features.
        """
        used = kind or ("lifted" if self.task is None else "fused")
        self._backgrounds[used] = read_background(folder, used, self.identity(used))

    def identity(self, kind: Kind) -> str:
        """Return what features depend on: CLIP, token type and frame size; fused, also the encoder's weights."""
        own = digest(dict(self._trained().model.state_dict())) if kind == "fused" else ""
        return f"{self.clip.identity()} {own}".strip()

    def classes_of(self, scene: Scene) -> list[str]:
        """Return the classes of the data set: those beside the scene, or of the run."""
        near = list(ask.classes_near(scene.folder).values())
        return near or ([] if self.task is None else list(self.task.labels.names))

    def _maps(self, scene: Scene, cache: str | Path) -> Features:
        if str(cache):
            kept = fill(self.clip.source, self.clip.token_type, [scene], cache, device=self.device)
            return kept.maps(scene.key, [frame.index for frame in scene.frames])
        encoder = self.clip.encoder()
        encoder.tower.to(self.device)
        return features_of(encoder.rows([read_color(frame) for frame in scene.frames]), encoder.grid)

    def _fused(self, scene: Scene, features: Features, voxel: float, own: Cloud | None) -> PointFeatures:
        """A trained encoder's features of a scene's points, one point per voxel."""
        model = self._trained().model.to(self.device)
        cloud = thinned(own or scene_cloud(scene, voxel), voxel)
        views = views_of(scene.frames, self.device)
        xyz, rgb, maps, pooled = (
            part.to(self.device) for part in (cloud.xyz, cloud.rgb.float() / 127.5 - 1, features.maps, features.pooled)
        )
        out = model(xyz, rgb, torch.zeros(len(xyz), dtype=torch.int64, device=xyz.device), views, maps, pooled)
        if not len(out.links.point):
            raise SightwordError(f"{scene.name}: {NOTHING_SEEN.format(points=len(xyz), frames=len(scene.frames))}")
        visible = out.seen.cpu()
        known = torch.ones_like(visible) if model.describes_unseen else visible
        return ask.placed("fused", scene, cloud, out.text.cpu(), visible, known, out.links)

    def _trained(self) -> PointsTask:
        if self.task is None:
            raise SightwordError("there is no trained encoder, only lifted CLIP. Load a run of points, or its export")
        return self.task


def _several(name: str, texts: str | Sequence[str]) -> list[str]:
    found = [texts] if isinstance(texts, str) else list(texts or ())
    if wrong := [text for text in found if not isinstance(text, str)]:
        raise SightwordError(f"{name}: {wrong[0]!r} is not a text. Pass one text, or a list of them")
    return found


def is_metric(folder: Path) -> bool:
    """Return whether the lengths of a scene are metres: False where `import` guessed the scale of a source without."""
    file = folder / "imported.json"
    if not file.is_file():
        return True
    try:
        return "no scale" not in read_json(file).mapping("assumed", optional=True).text("scale", "")
    except SightwordError:
        return True


def _read_presence(folder: Path, task: PointsTask) -> None:
    """Read what validation chose; an older export has none."""
    if not (folder / PRESENCE).is_file():
        return
    found = read_weights(folder / PRESENCE)
    for name in task.added_state:
        own = getattr(task, name)
        if name not in found or found[name].shape != own.shape:
            raise SightwordError(f"{folder / PRESENCE} does not fit the model: {name}. Export the run again")
        own.copy_(found[name])


def _texts(fields: Fields) -> dict[str, str]:
    return {name: fields.text(name) for name in fields}


def _clip_in(folder: Path) -> Path:
    """Return the folder of an export's CLIP. Raises SightwordError if it is missing."""
    from sightword.towers.clip.checkpoint import CONFIG as CLIP_CONFIG
    from sightword.towers.clip.checkpoint import WEIGHTS as CLIP_WEIGHTS

    for name in (CLIP_CONFIG, CLIP_WEIGHTS):
        if not (folder / CLIP / name).is_file():
            raise SightwordError(f"{folder / CLIP / name} is missing. Copy the whole folder, or export the run again")
    return (folder / CLIP).absolute()  # it is opened later, perhaps from another working directory
