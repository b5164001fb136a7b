"""Pictures in and out: uploads as images, bounded before they are decoded, and images as bytes for a browser."""

import io
from collections.abc import Sequence
from pathlib import Path

from anyio import to_thread
from fastapi import Response, UploadFile
from PIL import Image, ImageOps

from sightword.data.image import list_images, open_image, read_image
from sightword.errors import SightwordError
from sightword.serve.problem import Problem
from sightword.serve.setting import Limits

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
THUMBNAIL = 512  # pixels of the longer side
SAMPLES = 8  # pictures that a card offers


async def read_upload(file: UploadFile, limits: Limits) -> Image.Image:
    """Return an uploaded picture, upright, RGB, 8 bit. Raises Problem for another file, or one of too many pixels."""
    content = await file.read()
    return await to_thread.run_sync(_decoded, content, file.filename or "the picture", limits.pixels)


def _decoded(content: bytes, name: str, pixels: int) -> Image.Image:
    name = name[-80:]
    if not content:
        raise Problem(422, f"{name} is empty. Send a picture: {', '.join(FORMATS)}")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > pixels:
                told = f"{name} has {width}×{height} pixels; {pixels:,} are the most. Make it smaller"
                raise Problem(413, told)
            image.load()
            return open_image(ImageOps.exif_transpose(image))
    except (Problem, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise Problem(413, f"{name} has more than {pixels:,} pixels, which are the most. Make it smaller") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, …
        reason = "it is cut off or damaged" if "identify" not in str(error) else "of another kind"
        raise Problem(415, f"{name} is not readable as a picture ({reason}). {', '.join(FORMATS)} are read") from error


def reduced(image: Image.Image, side: int) -> Image.Image:
    """Return an image whose longer side has at most `side` pixels; a smaller one as it is."""
    longest = max(image.size)
    if longest <= side:
        return image
    width, height = (max(1, round(length * side / longest)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def jpeg(image: Image.Image) -> Response:
    """Return an image for a browser, without what its file says of itself, such as the place where it was taken."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=88)
    return Response(buffer.getvalue(), media_type="image/jpeg", headers={"cache-control": "private, max-age=600"})


async def thumbnail(source: Path | Image.Image) -> Response:
    """Return a file or an image, reduced, for a browser. Raises Problem 404 if the file is not readable any more."""

    def made() -> Response:
        try:
            image = read_image(source) if isinstance(source, Path) else source
        except SightwordError as error:
            raise Problem(404, f"{Path(str(source)).name} is not readable any more") from error
        return jpeg(reduced(image, THUMBNAIL))

    return await to_thread.run_sync(made)


async def smaller(image: Image.Image, side: int) -> Image.Image:
    """Return `reduced` of an image, computed beside the event loop."""
    return await to_thread.run_sync(reduced, image, side)


def samples(folders: Sequence[Path]) -> list[Path]:
    """Return some pictures of folders, evenly spread over each."""
    found: list[Path] = []
    for folder in folders:
        files = list_images(folder)
        several = max(1, SAMPLES // len(folders))
        step = max(1, len(files) // several)
        found += files[::step][:several]
    return found[:SAMPLES]


def sample_of(files: Sequence[Path], name: str) -> Path:
    """Return a sample by its number, as text. Raises Problem 404 if there is none."""
    if not name.isdecimal() or len(name) > 4 or int(name) >= len(files):
        raise Problem(404, f"there is no sample {name[:20]!r}; there are {len(files)}, from 0")
    return files[int(name)]


def png(image: Image.Image) -> Response:
    """Return an image as PNG, without loss."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Response(buffer.getvalue(), media_type="image/png", headers={"cache-control": "private, max-age=600"})
