"""Requests to an action recognizer: key points of persons, the actions they may be, and which moments counted.

Legend: M persons; T frames of a recording; L frames of a view; V joints.
"""

import io
import json
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import numpy as np
from fastapi import APIRouter, File, Form, Response, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from sightword.engine.predictor import Predictor
from sightword.errors import SightwordError
from sightword.serve.answer import answers, reply
from sightword.serve.model import House
from sightword.serve.problem import Problem
from sightword.serve.setting import Limits, Sources
from sightword.serve.text import Text
from sightword.storage.writer import png_data_uri
from sightword.systems.skeleton.annotations import Recordings
from sightword.systems.skeleton.labels import Labels, read_labels
from sightword.systems.skeleton.predict import ActionRecognizer
from sightword.systems.skeleton.prediction import ActionPrediction
from sightword.systems.skeleton.sequence import SkeletonSequence

SYSTEM = "skeleton"
CLIPS, BANKS = 6, 32  # recordings that a card offers; sets of classes whose embeddings are kept
NAMES = ("keypoint", "keypoints", "arr_0")  # of the array in an .npz


class ActionJob(NamedTuple):
    """A recording whose action is asked for."""

    recording: SkeletonSequence | np.ndarray
    size: tuple[int, int] | None
    labels: tuple[str, ...]  # own words, besides the model's classes
    detail: bool
    figure: bool
    truth: str = ""


class SkeletonService:
    """An action recognizer that is asked."""

    def __init__(self, predictor: Predictor, sources: Sources, limits: Limits) -> None:
        assert isinstance(predictor, ActionRecognizer)
        self.predictor, self.notes = predictor, list[str]()
        self._others: OrderedDict[tuple[str, ...], ActionRecognizer] = OrderedDict()
        self.clips: list[tuple[SkeletonSequence, str]] = []
        self.suggested: tuple[str, ...] = ()
        if sources.clips is not None:
            try:
                self.clips = _chosen(predictor.recordings(sources.clips), predictor.classes)
            except SightwordError as error:
                self.notes.append(str(error))
        if sources.texts is not None:
            self.suggested = tuple(name for name in read_labels(sources.texts).classes if name not in predictor.classes)

    @property
    def takes_texts(self) -> bool:
        """Whether other classes can be given by their words."""
        return self.predictor.config.recognise_by == "text"

    def describe(self) -> Mapping[str, object]:
        joints = self.predictor.joints
        return {
            "classes": list(self.predictor.classes),
            "joints": list(joints.joints),
            "joint_set": joints.name,
            "own_words": self.takes_texts,
            "suggested": list(self.suggested[:5]),
            "samples": len(self.clips),
        }

    def recognise(self, jobs: Sequence[ActionJob]) -> list[dict[str, object]]:
        """Answer requests, each recording alone: which frames are sampled depends on its place among others."""
        return [self._recognised(job) for job in jobs]

    def _recognised(self, job: ActionJob) -> dict[str, object]:
        recognizer = self._for(job.labels)
        if isinstance(job.recording, np.ndarray):
            assert job.size is not None
            found = recognizer(job.recording, size=job.size)
        else:
            found = recognizer(job.recording)
        ranked = found.ranked(len(found.classes))
        told: dict[str, object] = {
            **found.to_dict(),
            "truth": job.truth,
            "right": found.action == job.truth if job.truth else None,
        }
        told["probabilities"] = {name: round(value, 6) for name, value in ranked}
        told["own"] = [name for name in found.classes if name not in self.predictor.classes]
        if job.detail:
            told |= _moments(found)
        if job.figure:
            told["figure"] = png_data_uri(found.plot())
        return told

    def _for(self, labels: tuple[str, ...]) -> ActionRecognizer:
        """Return a recognizer of the model's classes and of own words. Those of the last requests are kept."""
        if not labels:
            return self.predictor
        if labels not in self._others:
            own = dict(zip(self.predictor.classes, self.predictor.labels.prompts, strict=True))
            every = {**own, **{label: (label,) for label in labels if label not in own}}
            self._others[labels] = self.predictor.for_classes(Labels.of(every, "labels"))
            while len(self._others) > BANKS:
                self._others.popitem(last=False)
        self._others.move_to_end(labels)
        return self._others[labels]


def _chosen(recordings: Recordings, classes: Sequence[str]) -> list[tuple[SkeletonSequence, str]]:
    """Return some recordings of different classes, and the names of these; those of a test split if there is one."""
    rows = recordings.split("test" if "test" in recordings.splits else "")
    order = sorted(rows, key=lambda row: (row * 7919) % 104729)  # spread over classes, the same every time
    found: dict[int, int] = {}
    for row in order:
        found.setdefault(int(recordings.labels[row]), row)
    known = [(recordings[row], classes[label] if 0 <= label < len(classes) else "") for label, row in found.items()]
    return known[:CLIPS]


def _moments(found: ActionPrediction) -> dict[str, object]:
    """Return the first view as the network got it, and the joints that it is drawn by."""
    return {
        "points": np.round(found.points, 1).tolist(),  # (M, L, V, 2)
        "joint_scores": np.round(found.joint_scores, 2).tolist(),  # (M, L, V)
        "joints": list(found.joints.joints),
        "limbs": [list(limb) for limb in found.joints.limbs],
        "weights": None if found.weights is None else found.weights.tolist(),
    }


class Recording(BaseModel):
    """A recording and the words to compare it with."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"sample": 0, "labels": ["raising one arm"]}]}
    )

    keypoints: list[object] | None = Field(
        None, description="(persons, frames, joints, 2 or 3) or (frames, joints, 2 or 3): x, y in pixels, a score"
    )
    size: tuple[int, int] | None = Field(None, description="height and width of the images in pixels")
    sample: int | None = Field(None, description="instead of keypoints: the number of a sample", ge=0)
    labels: list[Text] = Field([], description="words of other actions, compared as the model's own classes are")
    detail: bool = Field(False, description="with the poses and the weight of each moment")
    figure: bool = Field(False, description="with a filmstrip, as a data URI")
    model: str = Field("", description="a name of /v1/models; empty: the first recognizer")


def router(house: House) -> APIRouter:
    """Return the routes of action recognizers."""
    routes, limits = APIRouter(prefix="/v1/skeleton", tags=[SYSTEM]), house.settings.limits

    async def answer(name: str, service: SkeletonService, job: ActionJob) -> Response:
        ready = house.of(SYSTEM, SkeletonService, name)
        return reply({"model": ready.name, **await ready.submit(service.recognise, job)})

    @routes.post("", responses=answers(NAMED))
    async def recognise(body: Recording) -> Response:
        """Return the probability of each action of a recording, and the weight of each of its moments."""
        service = house.of(SYSTEM, SkeletonService, body.model).service
        labels = _labels(body.labels, limits)
        if (body.keypoints is None) == (body.sample is None):
            raise Problem(422, "send one recording: keypoints= and size=, or sample= the number of a sample")
        if body.sample is not None:
            if body.sample >= len(service.clips):
                raise Problem(404, f"there is no sample {body.sample}; there are {len(service.clips)}, from 0")
            recording, truth = service.clips[body.sample]
            job = ActionJob(recording, None, labels, body.detail, body.figure, truth)
        else:
            job = ActionJob(_array(body.keypoints, limits), _size(body.size), labels, body.detail, body.figure)
        return await answer(body.model, service, job)

    @routes.post("/file", responses=answers(NAMED))
    async def recognise_file(
        file: Annotated[
            UploadFile, File(description="an .npz with keypoint and img_shape, or the JSON of /v1/skeleton")
        ],
        height: Annotated[int, Form(description="of the images in pixels, if the file does not state it")] = 0,
        width: Annotated[int, Form(description="of the images in pixels, if the file does not state it")] = 0,
        labels: Annotated[list[Text] | None, Form(description="words of other actions")] = None,
        detail: Annotated[bool, Form(description="with the poses and the weight of each moment")] = False,
        figure: Annotated[bool, Form(description="with a filmstrip, as a data URI")] = False,
        model: Annotated[str, Form(description="a name of /v1/models; empty: the first recognizer")] = "",
    ) -> Response:
        """Recognise the recording in a file. Pickled arrays are refused: nothing in a file is executed."""
        service = house.of(SYSTEM, SkeletonService, model).service
        array, stated = _opened(await file.read(), file.filename or "the file", limits)
        size = (height, width) if height and width else stated
        job = ActionJob(array, _size(size), _labels(labels or [], limits), detail, figure)
        return await answer(model, service, job)

    return routes


def _labels(labels: Sequence[str], limits: Limits) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(" ".join(label.split()) for label in labels if label.strip()))
    if len(found) > limits.items:
        raise Problem(413, f"labels: {len(found)} texts; {limits.items} are the most")
    if any(len(label) > limits.text for label in found):
        raise Problem(413, f"labels: a text of more than {limits.text} characters")
    return found


def _size(size: tuple[int, int] | None) -> tuple[int, int]:
    if size is None:
        raise Problem(422, "size: the height and width of the images in pixels are missing, as in [1080, 1920]")
    return size


def _array(values: object, limits: Limits) -> np.ndarray:
    """Return key points as an array. Raises Problem for ragged lists, and for too many numbers."""
    try:
        array = np.asarray(values, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise Problem(422, "keypoints: lists of different lengths, or not numbers. Send (frames, joints, 2)") from error
    if array.size > limits.keypoints or (array.ndim >= 3 and array.shape[-3] > limits.frames):
        most = f"{limits.frames:,} frames and {limits.keypoints:,} numbers are the most"
        raise Problem(413, f"keypoints of shape {array.shape}: {most}")
    return array


def _opened(content: bytes, name: str, limits: Limits) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Return the key points of an .npz or a JSON file, and the size of their images if the file states it."""
    if content[:1] == b"\x80":
        raise Problem(415, f"{name[-80:]} is a pickle, which could execute anything. Save the key points as an .npz")
    if content[:2] != b"PK":
        return _of_json(content, name[-80:], limits)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            if sum(entry.file_size for entry in packed.infolist()) > 16 * limits.keypoints:
                raise Problem(413, f"{name[-80:]}: unpacked, it is larger than {limits.keypoints:,} numbers")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            key = next((known for known in NAMES if known in arrays), None)
            if key is None:
                raise Problem(
                    415, f"{name[-80:]} has no array {' or '.join(NAMES)}: it has {', '.join(list(arrays)[:5])}"
                )
            stated = arrays["img_shape"].reshape(-1)[:2].tolist() if "img_shape" in arrays else None
            return _array(arrays[key], limits), None if stated is None else (int(stated[0]), int(stated[1]))
    except (Problem, MemoryError):
        raise
    except Exception as error:
        raise Problem(415, f"{name[-80:]} is not readable as an .npz without pickled objects") from error


def _of_json(content: bytes, name: str, limits: Limits) -> tuple[np.ndarray, tuple[int, int] | None]:
    if len(content) > limits.json:
        raise Problem(413, f"{name} is larger than {limits.json:,} bytes, the most of a JSON file")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Problem(415, f"{name} is neither an .npz nor JSON. Key points are numbers: x, y and a score") from error
    body = found if isinstance(found, dict) else {"keypoints": found}
    size = body.get("size") or body.get("img_shape")
    array = _array(body.get("keypoints", body.get("keypoint")), limits)
    if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size):
        return array, (size[0], size[1])
    return array, None


NAMED = {
    "model": "skeleton/run",
    "name": "recording",
    "predicted": "waving one hand",
    "probability": 0.82,
    "truth": "",
    "right": None,
    "others": [["clapping both hands", 0.1]],
    "frames": [0, 4, 8],
    "probabilities": {"waving one hand": 0.82, "clapping both hands": 0.1},
    "own": [],
}
