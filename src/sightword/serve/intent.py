"""Requests to an intent classifier: a picture as words, and what each word adds to each intent.

Legend: h, w patches; S streams; C intents.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import torch
from fastapi import APIRouter, File, Form, Response, UploadFile
from PIL import Image
from torch import Tensor

from sightword.engine.predictor import Predictor
from sightword.serve import picture
from sightword.serve.answer import answers, reply
from sightword.serve.model import House
from sightword.serve.setting import Limits, Sources
from sightword.serve.tokenizer import given
from sightword.storage.writer import png_data_uri
from sightword.systems.intent.predict import IntentClassifier, IntentPrediction
from sightword.systems.intent.show import Explanation

SYSTEM = "intent"
DIGITS = 6  # of a contribution: sums of a thousand stay right to three
LEAST = 0.005  # of a logit: smaller terms of presence are sent as one


class IntentJob(NamedTuple):
    """A picture to classify."""

    image: Image.Image
    explain: bool
    pictures: bool
    figure: bool


class IntentService:
    """An intent classifier that is asked."""

    def __init__(self, predictor: Predictor, sources: Sources, limits: Limits) -> None:
        assert isinstance(predictor, IntentClassifier)
        self.predictor, self.notes = predictor, list[str]()
        self.samples = picture.samples(sources.images.get(SYSTEM, ()))

    def describe(self) -> Mapping[str, object]:
        return {"classes": list(self.predictor.classes), "samples": len(self.samples)}

    def classify(self, jobs: Sequence[IntentJob]) -> list[dict[str, object]]:
        """Answer requests."""
        return [self._told(job, self.predictor(job.image)) for job in jobs]

    def _told(self, job: IntentJob, found: IntentPrediction) -> dict[str, object]:
        told = found.to_dict()
        if job.explain:
            told["explanation"] = None if found.explanation is None else explained(found.explanation)
        if job.pictures:
            seen = found.image if found.explanation is None else found.explanation.image
            told["image"] = png_data_uri(picture.reduced(seen, picture.THUMBNAIL))
        if job.figure:
            told["figure"] = png_data_uri(found.plot())
        return told


def explained(found: Explanation) -> dict[str, object]:
    """Return what each patch adds to each logit. `logits` are `bias` and the sum of `adds` over patches and streams.

    streams: name → words, (h, w) `grid` of numbers in `adds` and `words`, `margins` (h, w), and `adds`, for each of the
    codes that the picture has, (C,) what one patch with it adds. Two codes may have one word.
    A model of presence has `terms` instead of `adds`, see `terms_of`, and its `margins` are probabilities.
    """
    if found.added:
        return _explained_presence(found)
    streams: dict[str, object] = {}
    for name in found.streams:
        codes = found.codes[name]
        flat, parts = codes.flatten().tolist(), found.parts[name].flatten(0, 1)  # (h·w,), (h·w, C)
        first = {code: place for place, code in reversed(list(enumerate(flat)))}
        own = sorted(first)
        number = {code: row for row, code in enumerate(own)}
        classes = found.classes[name].flatten().tolist()
        streams[name] = {
            "grid": [[number[code] for code in row] for row in codes.tolist()],
            "words": [found.names[name][classes[first[code]]] for code in own],
            "adds": [[round(value, DIGITS) for value in parts[first[code]].tolist()] for code in own],
            "margins": [[round(value, 4) for value in row] for row in found.margins[name].tolist()],
        }
    return {**_sums(found), "streams": streams}


def _sums(found: Explanation) -> dict[str, object]:
    return {
        "logits": dict(zip(found.intents, found.logits.tolist(), strict=True)),
        "bias": dict(zip(found.intents, found.bias.tolist(), strict=True)),
        "calibrated": found.calibrated,
    }


def _explained_presence(found: Explanation) -> dict[str, object]:
    """Return the words of patches, and the terms whose sum, with `bias`, the logits are."""
    streams: dict[str, object] = {}
    for name, classes in found.classes.items():
        own = sorted(set(classes.flatten().tolist()))
        number = {class_id: row for row, class_id in enumerate(own)}
        streams[name] = {
            "grid": [[number[class_id] for class_id in row] for row in classes.tolist()],
            "words": [found.names[name][class_id] for class_id in own],
            "margins": [[round(value, 4) for value in row] for row in found.margins[name].tolist()],
        }
    return {**_sums(found), "streams": streams, "terms": terms_of(found)}


def terms_of(found: Explanation) -> list[dict[str, object]]:
    """Return the terms of a model of presence, those that add less than `LEAST` to every intent as one, without a word.

    A term: word, stream or "pairs", presence (a probability; null of pairs), adds (C,), and where it is, (h, w) of sum
    1, which the one of small terms does not have.
    """
    told: list[dict[str, object]] = []
    rest = torch.zeros_like(found.logits)
    for (stream, word), adds in found.added.items():
        if float(adds.abs().max()) < LEAST:
            rest += adds
            continue
        place = [[round(value, 5) for value in row] for row in found.where[stream, word].tolist()]
        presence = found.presence.get(stream, {}).get(word)
        told.append({"word": word, "stream": stream, "presence": presence, "adds": _rounded(adds), "where": place})
    return [*told, {"word": "", "stream": "", "presence": None, "adds": _rounded(rest), "where": None}]


def _rounded(values: Tensor) -> list[float]:
    return [round(value, DIGITS) for value in values.tolist()]


def router(house: House) -> APIRouter:
    """Return the routes of intent classifiers."""
    routes, limits = APIRouter(prefix="/v1/intent", tags=[SYSTEM]), house.settings.limits

    @routes.post("", responses=answers(ANSWER))
    async def classify(
        image: Annotated[UploadFile | None, File(description="a picture")] = None,
        sample: Annotated[str, Form(description="or the number of a sample")] = "",
        explain: Annotated[bool, Form(description="with what each patch adds to each intent")] = False,
        pictures: Annotated[bool, Form(description="with the encoder's input, as a data URI")] = False,
        figure: Annotated[bool, Form(description="with a figure, as a data URI")] = False,
        model: Annotated[str, Form(description="a name of /v1/models; empty: the first classifier")] = "",
    ) -> Response:
        """Return a score for each intent of a picture, and the word of each patch in each stream."""
        ready = house.of(SYSTEM, IntentService, model)
        async with house.room:
            job = IntentJob(await given(image, sample, ready.service.samples, limits), explain, pictures, figure)
            return reply({"model": ready.name, **await ready.submit(ready.service.classify, job)})

    @routes.get("/samples/{number}", response_class=Response)
    async def sample_picture(number: str, model: str = "") -> Response:
        """Return a sample picture, reduced, as JPEG."""
        return await picture.thumbnail(
            picture.sample_of(house.of(SYSTEM, IntentService, model).service.samples, number)
        )

    return routes


ANSWER = {
    "model": "runs/stage1",
    "scores": {"Playful": 0.81, "Harmony": 0.12},
    "threshold": 0.35,
    "intents": ["Playful"],
    "titles": {"Playful": "Be playful", "Harmony": "Harmony"},
    "groups": {
        "15": {"Embrace and explore life": 0.81, "Wisdom and serenity": 0.12},
        "9": {"Openness to experience": 0.81, "Self-fulfil": 0.12},
    },
    "words": {"coco": [["dog", "dog"], ["person", "dog"]]},
}
