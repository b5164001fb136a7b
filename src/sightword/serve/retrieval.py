"""Requests to a person retriever: a sentence, the pictures it describes best, and which of its words carried them."""

import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

from fastapi import APIRouter, File, Form, Response, UploadFile
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sightword.engine.predictor import Predictor
from sightword.errors import SightwordError
from sightword.serve import picture
from sightword.serve.answer import answers, reply
from sightword.serve.gallery import OpenGallery, open_gallery
from sightword.serve.model import House
from sightword.serve.problem import Problem
from sightword.serve.setting import Limits, Sources
from sightword.serve.text import Text
from sightword.storage.writer import png_data_uri
from sightword.systems.retrieval.predict import PersonRetriever, SearchResult

SYSTEM = "retrieval"
WORDS = 60  # of a text whose words are explained
KEPT = 256  # pixels of the longer side of a picture that was sent and is kept


class SearchJob(NamedTuple):
    """A text to search for."""

    text: str
    gallery: str
    top: int
    explain: bool
    figure: bool


class RetrievalService:
    """A person retriever that is asked, and its galleries."""

    def __init__(self, predictor: Predictor, sources: Sources, limits: Limits) -> None:
        assert isinstance(predictor, PersonRetriever)
        self.predictor, self.limits, self.notes = predictor, limits, list[str]()
        self.galleries: dict[str, OpenGallery] = {}
        self.sent: OrderedDict[str, OpenGallery] = OrderedDict()  # the oldest first
        for folder in sources.gallery:
            name = folder.name if folder.name not in self.galleries else f"{folder.name}#{len(self.galleries)}"
            try:
                self.galleries[name] = open_gallery(predictor, folder, limits.gallery)
            except SightwordError as error:
                self.notes.append(str(error))

    def describe(self) -> Mapping[str, object]:
        return {"galleries": {name: len(found.vectors) for name, found in self.galleries.items()}}

    def gallery(self, name: str) -> OpenGallery:
        """Return a gallery by its name, or the first. Raises Problem 404 if there is none."""
        known = {**self.galleries, **self.sent}
        if not known:
            raise Problem(404, "there is no gallery. Start the server with gallery=, or send pictures to index")
        if name and name not in known:
            raise Problem(404, f"there is no gallery {name[:80]!r}; there are {', '.join(known)}")
        return known[name] if name else next(iter(known.values()))

    def index(self, jobs: Sequence[Sequence[Image.Image]]) -> list[str]:
        """Encode pictures that were sent. Return the name of each new gallery; the oldest make room."""
        names = []
        for images in jobs:
            name = f"sent-{secrets.token_hex(8)}"
            self.sent[name] = OpenGallery(self.predictor.index(list(images)), None)
            while len(self.sent) > self.limits.galleries:
                self.sent.popitem(last=False)
            names.append(name)
        return names

    def search(self, jobs: Sequence[SearchJob]) -> list[dict[str, object]]:
        """Answer searches: the texts of one gallery are encoded together, and so are the shortened ones."""
        found: list[dict[str, object] | None] = [None] * len(jobs)
        for name in {job.gallery for job in jobs}:
            rows = [row for row, job in enumerate(jobs) if job.gallery == name]
            gallery = self.gallery(name)
            results = self.predictor(
                [jobs[row].text for row in rows], gallery.vectors, max(jobs[row].top for row in rows)
            )
            explained = self._carried([jobs[row] for row in rows], results, gallery)
            for row, result, told in zip(rows, results, explained, strict=True):
                found[row] = self._told(jobs[row], result, gallery, name, told)
        return [one for one in found if one is not None]

    def _told(
        self, job: SearchJob, result: SearchResult, gallery: OpenGallery, name: str, explained: Mapping[str, object]
    ) -> dict[str, object]:
        result = replace(result, hits=result.hits[: job.top])
        told = result.to_dict()
        hits: list[dict[str, object]] = []
        for hit in result.hits:
            assert hit.number is not None
            place = {"number": hit.number, "name": hit.path.name if hit.path else f"picture {hit.number}"}
            link = f"/v1/retrieval/images/{name or next(iter({**self.galleries, **self.sent}))}/{hit.number}"
            more = {"folder": gallery.folder_of(hit.number), "image": link}
            hits.append({**place, "score": hit.score, "unsure": result.is_unsure(hit), **more})
        told |= {"hits": hits, "images": len(gallery.vectors), **explained}
        if job.figure:
            told["figure"] = png_data_uri(result.plot())
        return told

    def _carried(
        self, jobs: Sequence[SearchJob], results: Sequence[SearchResult], gallery: OpenGallery
    ) -> list[dict[str, object]]:
        """Return, for jobs that ask for it, each hit's score minus that of the text without each word."""
        words = [job.text.split()[:WORDS] if job.explain else [] for job in jobs]
        shorter = [_without(one, place) for one in words for place in range(len(one))]
        vectors = self.predictor.encode_text([text or "." for text in shorter]) if shorter else None
        found: list[dict[str, object]] = []
        start = 0
        for job, own, result in zip(jobs, words, results, strict=True):
            if not job.explain or vectors is None:
                found.append({})
                continue
            rows = vectors[start : start + len(own)]
            start += len(own)
            found.append({"words": own, "carried": _differences(result, rows, gallery.vectors.vectors, job.top)})
        return found


def _without(words: Sequence[str], place: int) -> str:
    return " ".join([*words[:place], *words[place + 1 :]])


def _differences(result: SearchResult, shorter: Tensor, images: Tensor, top: int) -> list[list[float]]:
    """Return (hits, words): the score of a hit minus its score without the word. shorter: (words, E)."""
    found = []
    for hit in result.hits[:top]:
        assert hit.number is not None
        scores = shorter @ images[hit.number]
        found.append([round(hit.score - score, 5) for score in scores.tolist()])
    return found


class Search(BaseModel):
    """A search."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"text": "a woman in a red coat", "top": 5, "explain": True}]}
    )

    text: Text = Field(description="a sentence that describes a person")
    top: int = Field(10, description="how many pictures", ge=1)
    gallery: str = Field("", description="a name of /v1/models or of index; empty: the first")
    explain: bool = Field(False, description="with what each word of the text did for each picture")
    figure: bool = Field(False, description="with a figure, as a data URI")
    model: str = Field("", description="a name of /v1/models; empty: the first retriever")


def router(house: House) -> APIRouter:
    """Return the routes of person retrievers."""
    routes, limits = APIRouter(prefix="/v1/retrieval", tags=[SYSTEM]), house.settings.limits

    @routes.post("/search", responses=answers(FOUND))
    async def search(body: Search) -> Response:
        """Return the pictures of a gallery that a text describes best, best first.

        `fits` states whether the best reaches the threshold, `unknown_words` which words the text encoder lacks.
        """
        if len(body.text) > limits.text:
            raise Problem(413, f"text: {len(body.text)} characters; {limits.text} are the most")
        if body.top > limits.top:
            raise Problem(413, f"top: {body.top} pictures; {limits.top} are the most")
        ready = house.of(SYSTEM, RetrievalService, body.model)
        ready.service.gallery(body.gallery)
        job = SearchJob(body.text, body.gallery, body.top, body.explain, body.figure)
        return reply({"model": ready.name, **await ready.submit(ready.service.search, job)})

    @routes.post("/index", responses=answers(INDEXED))
    async def index(
        images: Annotated[list[UploadFile], File(description="pictures of people")],
        model: Annotated[str, Form(description="a name of /v1/models; empty: the first retriever")] = "",
    ) -> Response:
        """Encode pictures. Return the name of a gallery of them, kept in memory until others replace it."""
        if len(images) > limits.items:
            raise Problem(413, f"images: {len(images)} pictures; {limits.items} are the most in one request")
        ready = house.of(SYSTEM, RetrievalService, model)
        opened = []
        for image in images:
            async with house.room:
                opened.append(await picture.smaller(await picture.read_upload(image, limits), KEPT))
        name = await ready.submit(ready.service.index, opened)
        return reply({"model": ready.name, "gallery": name, "images": len(opened)})

    @routes.get("/images/{gallery}/{number}", response_class=Response)
    async def image(gallery: str, number: int, model: str = "") -> Response:
        """Return a picture of a gallery, reduced, as JPEG."""
        found = house.of(SYSTEM, RetrievalService, model).service.gallery(gallery).vectors.images
        if not 0 <= number < len(found):
            raise Problem(404, f"the gallery has {len(found)} pictures, from 0")
        source = found[number]
        assert isinstance(source, str | Path | Image.Image)
        return await picture.thumbnail(Path(source) if isinstance(source, str) else source)

    return routes


FOUND = {
    "model": "retrieval/run",
    "text": "a woman in a red coat",
    "unknown_words": [],
    "threshold": 0.31,
    "fits": True,
    "calibration": "in 120 images 5 % of validation's searches reach it without the person, 90 % with",
    "hits": [
        {
            "number": 17,
            "name": "0017.png",
            "score": 0.62,
            "unsure": False,
            "folder": "cam_a",
            "image": "/v1/retrieval/images/imgs/17",
        }
    ],
    "images": 120,
    "words": ["a", "woman", "in", "a", "red", "coat"],
    "carried": [[0.0, 0.01, 0.0, 0.0, 0.21, 0.04]],
}
INDEXED = {"model": "retrieval/run", "gallery": "sent-5f0c2a9b1d3e4f60", "images": 12}
