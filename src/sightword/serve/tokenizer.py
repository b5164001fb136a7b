"""Requests to an image tokenizer: a picture as ids, and ids as a picture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, File, Form, Response, UploadFile
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from sightword.data.image import read_image
from sightword.engine.predictor import Predictor
from sightword.serve import picture
from sightword.serve.answer import answers, reply
from sightword.serve.model import House
from sightword.serve.problem import Problem
from sightword.serve.setting import Limits, Sources
from sightword.storage.writer import png_data_uri
from sightword.systems.tokenizer.predict import ImageTokenizer

SYSTEM = "tokenizer"
AROUND = 3  # codes of a grid whose middle is shown as the picture of one code
MOST = 4096  # codes that have a picture; of larger codebooks none has


class EncodeJob(NamedTuple):
    """A picture to encode."""

    image: Image.Image
    original: tuple[int, int]  # height and width, before it was reduced
    figure: bool
    pictures: bool


class DecodeJob(NamedTuple):
    """Ids to decode."""

    ids: np.ndarray  # (h, w)
    size: tuple[int, int] | None


class TokenizerService:
    """An image tokenizer that is asked."""

    def __init__(self, predictor: Predictor, sources: Sources, limits: Limits) -> None:
        assert isinstance(predictor, ImageTokenizer)
        self.predictor, self.notes = predictor, list[str]()
        self.samples = picture.samples(sources.images.get(SYSTEM, ()))
        self._codebook: Image.Image | None = None

    @property
    def tile(self) -> int:
        """Pixels of a side of a code."""
        return int(self.predictor.model.factor)

    @property
    def columns(self) -> int:
        """Codes in a row of the codebook's picture."""
        return math.ceil(math.sqrt(self.predictor.model.num_codes))

    def describe(self) -> Mapping[str, object]:
        codes = self.predictor.model.num_codes
        shown = {"tile": self.tile, "columns": self.columns} if codes <= MOST else None
        return {"codes": codes, "pixels": self.tile, "samples": len(self.samples), "codebook": shown}

    def encode(self, jobs: Sequence[EncodeJob]) -> list[dict[str, object]]:
        """Answer requests to encode."""
        return [self._encoded(job) for job in jobs]

    def decode(self, jobs: Sequence[DecodeJob]) -> list[Image.Image]:
        """Answer requests to decode."""
        found = []
        for job in jobs:
            decoded = self.predictor.decode(job.ids, job.size)
            assert isinstance(decoded, Image.Image)
            found.append(decoded)
        return found

    def codebook(self, jobs: Sequence[None]) -> list[Image.Image]:
        """Return a picture of every code: what a small grid of it alone is decoded to, in its middle."""
        if self._codebook is None:
            codes, tile, columns = self.predictor.model.num_codes, self.tile, self.columns
            page = Image.new("RGB", (columns * tile, math.ceil(codes / columns) * tile))
            middle = (AROUND // 2) * tile
            for code in range(codes):
                decoded = self.predictor.decode(np.full((AROUND, AROUND), code), None)
                assert isinstance(decoded, Image.Image)
                part = decoded.crop((middle, middle, middle + tile, middle + tile))
                page.paste(part, (code % columns * tile, code // columns * tile))
            self._codebook = page
        return [self._codebook for _ in jobs]

    def _encoded(self, job: EncodeJob) -> dict[str, object]:
        result = self.predictor(job.image)
        told = {**result.to_dict(), "original_size": list(job.original)}
        if job.pictures:
            told |= {"image": png_data_uri(result.image), "decoded": png_data_uri(result.reconstruction)}
        if job.figure:
            told["figure"] = png_data_uri(result.plot())
        return told


class Ids(BaseModel):
    """A grid of ids."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"ids": [[3, 3], [7, 12]], "size": None}]}
    )

    ids: list[list[int]] = Field(description="rows of indices into the codebook", min_length=1, max_length=2048)
    size: tuple[int, int] | None = Field(None, description="height and width that the decoded picture is cropped to")
    model: str = Field("", description="a name of /v1/models; empty: the first tokenizer")


def router(house: House) -> APIRouter:
    """Return the routes of tokenizers."""
    routes, limits = APIRouter(prefix="/v1/tokenizer", tags=[SYSTEM]), house.settings.limits

    @routes.post("/encode", responses=answers(ENCODED))
    async def encode(
        image: Annotated[UploadFile | None, File(description="a picture")] = None,
        sample: Annotated[str, Form(description="or the number of a sample")] = "",
        side: Annotated[int, Form(description="pixels of the longer side; a larger picture is reduced", ge=16)] = 512,
        pictures: Annotated[bool, Form(description="with the decoded picture, as a data URI")] = False,
        figure: Annotated[bool, Form(description="with a figure, as a data URI")] = False,
        model: Annotated[str, Form(description="a name of /v1/models; empty: the first tokenizer")] = "",
    ) -> Response:
        """Encode a picture as a grid of indices into the codebook, and decode it again.

        `size` of the answer is the height and width that was encoded, `original_size` that of the picture.
        """
        ready = house.of(SYSTEM, TokenizerService, model)
        async with house.room:
            found = await given(image, sample, ready.service.samples, limits)
            small = await picture.smaller(found, min(side, limits.side))
            job = EncodeJob(small, (found.height, found.width), figure, pictures)
            return reply({"model": ready.name, **await ready.submit(ready.service.encode, job)})

    @routes.post("/decode", responses=answers(DECODED))
    async def decode(body: Ids) -> Response:
        """Decode a grid of ids as a picture, which is a data URI."""
        ready = house.of(SYSTEM, TokenizerService, body.model)
        widths = {len(row) for row in body.ids}
        if len(widths) != 1 or 0 in widths:
            raise Problem(422, "ids: rows have different lengths, or none. Send h rows of w whole numbers")
        codes, most = ready.service.predictor.model.num_codes, (limits.side // ready.service.tile) ** 2
        if len(body.ids) * widths.pop() > most:
            raise Problem(413, f"ids: the grid has more than {most:,} ids, which are the most. Send a smaller one")
        if any(not 0 <= number < codes for row in body.ids for number in row):
            raise Problem(422, f"ids: whole numbers from 0 to {codes - 1} are indices into the codebook")
        if body.size is not None and not all(0 < side <= limits.side + ready.service.tile for side in body.size):
            raise Problem(422, f"size: {list(body.size)} is not a height and width up to {limits.side} pixels")
        image = await ready.submit(ready.service.decode, DecodeJob(np.array(body.ids), body.size))
        return reply({"model": ready.name, "decoded": png_data_uri(image), "size": [image.height, image.width]})

    @routes.get("/codebook", response_class=Response)
    async def codebook(model: str = "") -> Response:
        """Return a PNG with a picture of every code, in rows of `codebook.columns` tiles (see /v1/models)."""
        ready = house.of(SYSTEM, TokenizerService, model)
        if ready.service.predictor.model.num_codes > MOST:
            raise Problem(404, f"the codebook has more than {MOST} codes, too many for a picture of each")
        return picture.png(await ready.submit(ready.service.codebook, None))

    @routes.get("/samples/{number}", response_class=Response)
    async def sample_picture(number: str, model: str = "") -> Response:
        """Return a sample picture, reduced, as JPEG."""
        return await picture.thumbnail(
            picture.sample_of(house.of(SYSTEM, TokenizerService, model).service.samples, number)
        )

    return routes


async def given(image: UploadFile | None, sample: str, samples: Sequence[Path], limits: Limits) -> Image.Image:
    """Return the picture of a request: an upload or a sample. Raises Problem if there is none, or if there are both."""
    if (image is None) == (not sample):
        raise Problem(422, "send one picture: image= a file, or sample= the number of a sample")
    if image is not None:
        return await picture.read_upload(image, limits)
    return await to_thread.run_sync(read_image, picture.sample_of(samples, sample))


ENCODED = {
    "model": "tokenizer/model",
    "ids": [[3, 3], [7, 12]],
    "num_codes": 512,
    "size": [8, 8],
    "psnr": 24.6,
    "original_size": [8, 8],
}
DECODED = {"model": "tokenizer/model", "decoded": "data:image/png;base64,…", "size": [8, 8]}
