"""Requests to a scene: its points for a canvas, and what text queries find in it.

Legend: N points of a scene; n of them that are sent; Q queries.
"""

import base64
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fastapi import APIRouter, Response
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from sightword.engine.predictor import Predictor
from sightword.errors import SightwordError
from sightword.serve import picture
from sightword.serve.answer import answers, reply
from sightword.serve.model import House
from sightword.serve.problem import Problem
from sightword.serve.setting import Limits, Sources
from sightword.serve.text import Text
from sightword.storage.writer import png_data_uri
from sightword.systems.points.ask import SceneAnswer
from sightword.systems.points.predict import SceneFeatures, SceneQuery
from sightword.systems.points.scannet.reader import Frame, find_scenes, read_color, scene_folder

SYSTEM = "points"
KEPT = 4  # scenes whose features are kept
NOTHING = 255  # in `best` of the answer: no query fits the point best


class AskJob(NamedTuple):
    """A question to a scene."""

    scene: str
    queries: tuple[str, ...]
    against: tuple[str, ...]
    packed: bool
    full: bool
    figure: bool


class Prepared(NamedTuple):
    """A scene whose features are known."""

    features: SceneFeatures
    rows: np.ndarray  # (n,) numbers of the points that are sent


class SceneService:
    """A model of points that is asked about scenes."""

    def __init__(self, predictor: Predictor, sources: Sources, limits: Limits) -> None:
        assert isinstance(predictor, SceneQuery)
        self.predictor, self.limits, self.notes = predictor, limits, list[str]()
        self.scenes: dict[str, Path] = {}
        for root in sources.scenes:
            try:
                for name in find_scenes(root):
                    self.scenes.setdefault(name, scene_folder(root, name))
            except SightwordError as error:
                self.notes.append(str(error))
        self._prepared: OrderedDict[str, Prepared] = OrderedDict()
        if self.scenes:
            try:
                self.prepare([self.default])  # so that the first question is not the slow one
            except SightwordError as error:
                self.notes.append(str(error))

    @property
    def default(self) -> str:
        """The scene that is asked if none is named."""
        return next(reversed(self.scenes), "")

    def describe(self) -> Mapping[str, object]:
        return {"scenes": list(self.scenes), "scene": self.default}

    def check(self, name: str) -> str:
        """Return the name of a scene. Raises Problem 404 if there is none of that name."""
        if not self.scenes:
            raise Problem(404, "there is no scene. Start the server with scenes= a folder of posed RGB-D frames")
        if name and name not in self.scenes:
            raise Problem(404, f"there is no scene {name[:80]!r}; there are {', '.join(list(self.scenes)[:20])}")
        return name or self.default

    def prepare(self, names: Sequence[str]) -> list[Prepared]:
        """Return scenes with their features, which are computed once."""
        found = []
        for name in names:
            if name not in self._prepared:
                features = self.predictor.features(self.scenes[name])
                count, most = len(features.points.cloud.xyz), self.limits.points
                rows = np.arange(count)
                if count > most:
                    rows = np.sort(np.random.default_rng(0).choice(count, most, replace=False))
                self._prepared[name] = Prepared(features, rows)
                while len(self._prepared) > KEPT:
                    self._prepared.popitem(last=False)
            self._prepared.move_to_end(name)
            found.append(self._prepared[name])
        return found

    def cloud(self, names: Sequence[str]) -> list[bytes]:
        """Return the points of scenes: n × 3 float32, then n × 3 uint8 colours, little endian."""
        found = []
        for prepared in self.prepare(names):
            cloud = prepared.features.points.cloud
            xyz, rgb = cloud.xyz.numpy()[prepared.rows], cloud.rgb.numpy()[prepared.rows]
            found.append(xyz.astype("<f4").tobytes() + rgb.astype(np.uint8).tobytes())
        return found

    def layout(self, names: Sequence[str]) -> list[dict[str, object]]:
        """Return what a canvas has to know of scenes: how many points, where they are, and the cameras."""
        return [self._layout(name, prepared) for name, prepared in zip(names, self.prepare(names), strict=True)]

    def ask(self, jobs: Sequence[AskJob]) -> list[dict[str, object]]:
        """Answer questions."""
        return [self._asked(job) for job in jobs]

    def frame(self, wanted: Sequence[tuple[str, int]]) -> list[Image.Image]:
        """Return the pictures of frames of scenes, by their place. Raises Problem 404 if a scene has fewer."""
        found = []
        for name, number in wanted:
            frames = self.prepare([name])[0].features.scene.frames
            if not 0 <= number < len(frames):
                raise Problem(404, f"scene {name} has {len(frames)} frames here, from 0")
            found.append(picture.reduced(read_color(frames[number]), picture.THUMBNAIL))
        return found

    def _is_unknown(self, query: str) -> bool:
        """Return whether the text encoder knows no word of a query. It is told, and does not stop the others."""
        try:
            self.predictor.text_encoder().check_words([query])
        except SightwordError:
            return bool(query.strip())
        return False

    def _layout(self, name: str, prepared: Prepared) -> dict[str, object]:
        scene, points = prepared.features
        low, high = (points.cloud.xyz.quantile(share, 0) for share in (0.001, 0.999))
        return {
            "scene": name,
            "points": len(prepared.rows),
            "of": len(points.cloud.xyz),
            "low": low.tolist(),
            "high": high.tolist(),
            "up": points.up,
            "classes": self.predictor.classes_of(scene)[:64],
            "cloud": f"/v1/points/scenes/{name}/cloud",
            "cameras": [_camera(name, number, frame) for number, frame in enumerate(scene.frames)],
        }

    def _asked(self, job: AskJob) -> dict[str, object]:
        prepared = self.prepare([job.scene])[0]
        known = [query for query in job.queries if not self._is_unknown(query)]
        answer = self.predictor.answer(prepared.features, known or job.queries, job.against)
        told_of = [answer.find(number) for number in range(len(answer.queries))]
        told: dict[str, object] = {
            "scene": job.scene,
            "queries": list(answer.queries),
            "against": list(answer.against),
            "unknown_words": list(answer.unknown_words),
            "threshold": answer.threshold,
            "calibration": "" if answer.calibration is None else answer.calibration.told,
            "found": [
                {
                    "query": found.query,
                    "here": bool(found.objects) and found.fits is not False,
                    "unsure": bool(found.objects) and found.fits is False,
                    "fit": found.fit if found.score is None else found.score,
                    "points": found.points,
                    "objects": [each.to_dict() | {"unsure": found.fits is False} for each in found.objects],
                }
                for found, _ in told_of
            ],
            "unknown": [query for query in job.queries if query.strip() and query not in known],
        }
        if job.packed:
            told["packed"] = _packed(answer, [object_of for _, object_of in told_of], prepared.rows)
        if job.full:
            told["result"] = answer.to_dict()
        if job.figure:
            told["figure"] = png_data_uri(answer.plot())
        return told


def _packed(answer: SceneAnswer, object_of: Sequence[torch.Tensor], rows: np.ndarray) -> dict[str, str]:
    """Return, for the points that are sent, base64 of bytes: the query each fits best, how well, and its object.

    best: 255 where another text fits better. score: 255 × the score of the best query. thing: 255 for no object.
    """
    count = len(answer.queries)
    best = answer.best.numpy()[rows]
    own = (best >= 0) & (best < count)
    score = answer.scores[:, :count].max(1).values.clamp(0, 1).numpy()[rows]
    thing = np.full(len(rows), NOTHING)
    for number, part in enumerate(object_of):
        mine, places = own & (best == number), part.numpy()[rows]
        thing[mine] = np.where(places[mine] < 0, NOTHING, places[mine].clip(max=NOTHING - 1))
    packed = {"best": np.where(own, best.clip(0, NOTHING - 1), NOTHING), "score": (255 * score).round(), "thing": thing}
    return {name: base64.b64encode(values.astype(np.uint8).tobytes()).decode() for name, values in packed.items()}


def _camera(scene: str, number: int, frame: Frame) -> dict[str, object]:
    """Return where a camera stands and looks, its field of view, and where its picture is."""
    pose, focal = frame.pose, frame.K_color
    width, height = 2 * float(focal[0, 2]) + 1, 2 * float(focal[1, 2]) + 1
    right, down, forward, at = ([round(value, 4) for value in pose[:3, column].tolist()] for column in range(4))
    return {
        "image": f"/v1/points/scenes/{scene}/frames/{number}",
        "at": at,
        "right": right,
        "down": down,
        "forward": forward,
        "focal": [round(float(focal[0, 0]) / width, 4), round(float(focal[1, 1]) / height, 4)],
    }


class Ask(BaseModel):
    """A question to a scene."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"queries": ["a chair", "a bed"]}]})

    queries: list[Text] = Field(description="texts that compete for each point")
    scene: str = Field("", description="a name of /v1/points/scenes; empty: the last")
    against: list[Text] = Field([], description="other texts that compete; empty: the classes of the data set")
    packed: bool = Field(False, description="with the best query, score and object of each point that a canvas has")
    full: bool = Field(False, description="with every point and its scores, as the command writes them")
    figure: bool = Field(False, description="with a figure, as a data URI")
    model: str = Field("", description="a name of /v1/models; empty: the first model of points")


def router(house: House) -> APIRouter:
    """Return the routes of scenes."""
    routes, limits = APIRouter(prefix="/v1/points", tags=[SYSTEM]), house.settings.limits

    @routes.get("/scenes", responses=answers(SCENES))
    async def scenes(model: str = "") -> Response:
        """Return the names of the scenes that can be asked about."""
        ready = house.of(SYSTEM, SceneService, model)
        return reply({"model": ready.name, "scenes": list(ready.service.scenes), "scene": ready.service.default})

    @routes.get("/scenes/{scene}", responses=answers(LAYOUT))
    async def layout(scene: str, model: str = "") -> Response:
        """Return where a scene's points and cameras are. The first time, the scene's features are computed."""
        ready = house.of(SYSTEM, SceneService, model)
        name = ready.service.check(scene)
        return reply({"model": ready.name, **await ready.submit(ready.service.layout, name)})

    @routes.get("/scenes/{scene}/cloud", response_class=Response)
    async def cloud(scene: str, model: str = "") -> Response:
        """Return the points of a scene: n × 3 float32 metres, then n × 3 uint8 colours, little endian."""
        ready = house.of(SYSTEM, SceneService, model)
        packed = await ready.submit(ready.service.cloud, ready.service.check(scene))
        return Response(
            packed, media_type="application/octet-stream", headers={"cache-control": "private, max-age=600"}
        )

    @routes.get("/scenes/{scene}/frames/{number}", response_class=Response)
    async def frame(scene: str, number: int, model: str = "") -> Response:
        """Return the colour picture of a frame, reduced, as JPEG."""
        ready = house.of(SYSTEM, SceneService, model)
        found = await ready.submit(ready.service.frame, (ready.service.check(scene), number))
        return await picture.thumbnail(found)

    @routes.post("/ask", responses=answers(FOUND))
    async def ask(body: Ask) -> Response:
        """Return the objects that text queries find in a scene: how many, where, how large and how sure."""
        ready = house.of(SYSTEM, SceneService, body.model)
        for name, texts in (("queries", body.queries), ("against", body.against)):
            if len(texts) > limits.items:
                raise Problem(413, f"{name}: {len(texts)} texts; {limits.items} are the most")
            if any(len(text) > limits.text for text in texts):
                raise Problem(413, f"{name}: a text of more than {limits.text} characters")
        scene = ready.service.check(body.scene)
        job = AskJob(scene, tuple(body.queries), tuple(body.against), body.packed, body.full, body.figure)
        return reply({"model": ready.name, **await ready.submit(ready.service.ask, job)})

    return routes


SCENES = {"model": "points/run", "scenes": ["scene0000_00", "scene0004_00"], "scene": "scene0004_00"}
LAYOUT = {
    "model": "points/run",
    "scene": "scene0004_00",
    "points": 21345,
    "of": 21345,
    "low": [0.0, 0.0, 0.0],
    "high": [5.0, 4.0, 2.5],
    "up": [0.0, 0.0, 1.0],
    "classes": ["chair", "bed"],
    "cloud": "/v1/points/scenes/scene0004_00/cloud",
    "cameras": [],
}
FOUND = {
    "model": "points/run",
    "scene": "scene0004_00",
    "queries": ["a chair"],
    "against": ["wall", "floor"],
    "unknown_words": [],
    "unknown": [],
    "threshold": 1.42,
    "calibration": "on validation 5 % of 9 classes reach it that were taken out of a scene, 90 % of those in one",
    "found": [
        {
            "query": "a chair",
            "here": True,
            "unsure": False,
            "fit": 2.8,
            "points": 640,
            "objects": [
                {
                    "points": 640,
                    "confidence": 0.93,
                    "cosine": 0.81,
                    "centre": [1.2, 0.8, 0.4],
                    "low": [0.9, 0.5, 0.0],
                    "high": [1.5, 1.1, 0.9],
                    "size": [0.6, 0.6, 0.9],
                    "unsure": False,
                }
            ],
        }
    ],
}
