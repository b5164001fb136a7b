"""Read folders of images of any format as tensors in [-1, 1].

Legend: B batch, H height, W width. An image is RGB, 8 bit (PIL) or (3, H, W) float32 in [-1, 1] (torch).
"""

import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from sightword.data.archive import SUFFIX, archive_of, read_member
from sightword.data.loader import Draw as Draw
from sightword.data.loader import generator_of
from sightword.errors import MissingFileError, SightwordError
from sightword.version import MARK

#: Suffixes of photographs and drawings that Pillow reads in one way only: no documents, icons or scientific data.
USUAL = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".j2c", ".jpx", ".jpf", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".qoi"),
)
HEIF = (".heic", ".heif", ".hif")  # only if the user has installed pillow-heif, whose licence is not that of Sightword
#: Suffixes of images that are not read.
OTHER = (
    *HEIF,
    *(".avif", ".avifs", ".jxl", ".jxr", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng"),
    *(".orf", ".rw2", ".raf", ".pef", ".srw", ".rwl", ".3fr", ".iiq", ".x3f", ".raw"),
    *(".svg", ".svgz", ".psd", ".psb", ".xcf", ".ai", ".eps", ".exr", ".hdr", ".ico", ".icns", ".pcx", ".dds", ".sgi"),
)


def _readable_suffixes() -> tuple[str, ...]:
    """Return the suffixes of images that this installation reads."""
    Image.init()
    try:
        pillow_heif = import_module("pillow_heif")
    except ImportError:
        heif: tuple[str, ...] = ()
    else:
        pillow_heif.register_heif_opener()
        heif = HEIF
    known = {suffix for suffix, format_ in Image.registered_extensions().items() if format_ in Image.OPEN}
    return tuple(suffix for suffix in (*USUAL, *heif) if suffix in known)


SUFFIXES = _readable_suffixes()

#: Environment variable: the most pixels of an image that is read, for every command and its worker processes.
PIXELS = "SIGHTWORD_MAX_PIXELS"
COPIES = 11  # bytes of memory for each pixel of a large image, measured: decoded, and turned or resized


def _set_limit() -> None:
    """Set Pillow's limits to PIXELS, if that is set. Pillow warns at half of what it refuses; nobody needs to know."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    if text := os.environ.get(PIXELS):
        if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 2**40:
            raise SightwordError(f"{PIXELS}={text!r} is not a number of pixels. Set it to one, as 300000000")
        Image.MAX_IMAGE_PIXELS = (int(text) + 1) // 2


_set_limit()

_MARKS = tuple(kind + MARK.encode() + b"\0" for kind in (b"tEXt", b"iTXt"))  # the chunk behind IHDR's 33 bytes

Transform = Callable[[Image.Image, torch.Generator | None], Tensor]


def list_images(root: str | Path) -> list[Path]:
    """Return every image under a folder, by suffix (any case), ordered by its path below `root`.

    Hidden files and folders (a leading dot) are skipped, symbolic links are followed, each folder once. What this
    package wrote is skipped too, wherever it lies: figures, logged and decoded images are never data.
    Raises SightwordError if `root` is missing, is a file, or contains no image.
    """
    root = Path(root).expanduser()
    if not root.exists():
        raise MissingFileError(f"{root} does not exist: give a folder of images")
    if not root.is_dir():
        raise SightwordError(f"{root} is a file: give the folder that contains the images")
    listed = [path for path in _walk(root) if path.suffix.lower() in SUFFIXES]
    found = [path for path in listed if not is_ours(path)]
    if listed and not found:
        raise SightwordError(
            f"{root} contains no image but {len(listed)} that sightword wrote, which are not data. Give another folder"
        )
    if not found:
        others = count_suffixes(path for path in _walk(root) if path.suffix.lower() in OTHER)
        told = f"; it has {others}, which are not read" if others else ""
        raise SightwordError(f"{root} contains no image (looked for {' '.join(SUFFIXES)}, in its folders too{told})")
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def is_ours(path: Path) -> bool:
    """Return whether this package wrote an image file: `storage.writer.write_png` says so in its first PNG text."""
    if path.suffix.lower() != ".png":
        return False
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:  # told by whoever reads the image
        return False
    return start[37:].startswith(_MARKS)


def list_passed_over(root: str | Path) -> list[Path]:
    """Return the files under a folder that are images by their suffix and that `list_images` does not list."""
    root = Path(root).expanduser()
    found = [path for path in _walk(root) if path.suffix.lower() in OTHER and path.suffix.lower() not in SUFFIXES]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def count_suffixes(paths: Iterable[Path]) -> str:
    """Return how many files have each suffix, the commonest first: "12 .heic, 1 .psd"."""
    counts = Counter(path.suffix.lower() for path in paths)
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def _walk(root: Path) -> list[Path]:
    seen, files = {os.path.realpath(root)}, []
    for folder, folders, names in os.walk(root, followlinks=True):
        kept = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(folder, name))
            if not name.startswith(".") and real not in seen:  # a link may lead back to a folder above it
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        files += [path for name in names if not name.startswith(".") and not _is_special(path := Path(folder, name))]
    return files


def _is_special(path: Path) -> bool:
    """Return whether a name is a pipe, a socket or a device: reading one may wait for ever. A broken link is not."""
    return path.suffix.lower() in SUFFIXES and path.exists() and not path.is_file()


# ---------------------------------------------------------------------------------------------------------- reading


def read_image(path: str | Path, upright: bool = True) -> Image.Image:
    """Return an image file as RGB, 8 bit: the first frame, EXIF orientation applied, transparency laid on white.

    upright: false for pixels as they are stored, which is how a sensor's other images lie.

    Grey of 16 bit is divided by 257. Grey of 32 bit or of floats does not state its white level, so white is the
    least of 1 (floats only), 255 and 65535 that no value exceeds.

    Raises SightwordError, one line with the file and the reason, if the file is missing, empty, truncated, no image,
    larger than the guard against decompression bombs (`PIXELS`; 2 * Image.MAX_IMAGE_PIXELS), or has grey values below 0
    or above 65535: scaled by their own ranges, images could not be compared.
    """
    try:
        with Image.open(opened(path)) as image:
            image.load()
            return _to_rgb(_upright(image) if upright else image)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        found = int("".join(re.findall(r"\((\d+) pixels\)", str(error))[:1]) or limit + 1)
        raise SightwordError(
            f"{path} has {found:,} pixels, at most {limit:,} are read: a decompression bomb unpacks to more than "
            f"the memory. If you trust it, set {PIXELS}={found} in the environment ({found * COPIES / 1e9:.1f} GB of "
            "memory); or make it smaller, or set on_error=skip"
        ) from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, EOFError, IndexError, …
        raise SightwordError(
            f"{path} is not readable as an image ({_reason(path, error)}): replace or delete it, or set on_error=skip"
        ) from error


def opened(path: str | Path) -> str | Path | io.BytesIO:
    """Return what Pillow opens for a path: the path, or the bytes of a file in a tar archive (`data.archive`)."""
    inside = archive_of(path) if SUFFIX in str(path) else None
    return path if inside is None else io.BytesIO(read_member(*inside))


def _reason(path: str | Path, error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        if Path(path).suffix.lower() in HEIF and HEIF[0] not in SUFFIXES:
            return "HEIF, which is read with pillow-heif: pip install pillow-heif"
        return "damaged, or not an image"
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return "truncated"
    return text or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block says nothing about the pixels, which did load
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bit(image)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> np.ndarray:
    """Return grey of more than 8 bit as (H, W) uint8, by the rule that `read_image` states."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    low, high = values.min(), values.max()
    if image.mode.startswith("I;16"):
        whites: tuple[int, ...] = (65535,)
    else:
        whites = (1, 255, 65535) if image.mode == "F" else (255, 65535)
    white = next((white for white in whites if low >= 0 and high <= white), None)
    if white is None:
        raise SightwordError(f"grey from {low:g} to {high:g} has no white level; convert it to 8 or 16 bit")
    return np.rint(values / white * 255).astype(np.uint8)


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB image as (3, H, W) float32 in [-1, 1]; `to_image` gives the same pixels back."""
    pixels = torch.from_numpy(np.array(image.convert("RGB")))  # (H, W, 3) uint8
    return pixels.permute(2, 0, 1).float().div_(127.5).sub_(1.0).contiguous()


def to_image(tensor: Tensor) -> Image.Image:
    """Return a tensor (3, H, W) in [-1, 1] as 8 bit image, clamped and rounded.

    Truncation would darken the image by half a level.
    """
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise SightwordError(f"expected an image (3, H, W), got {tuple(tensor.shape)}")
    pixels = tensor.detach().float().cpu().clamp(-1, 1).add(1).mul(127.5).round()
    return Image.fromarray(pixels.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


# ----------------------------------------------------------------------------------------------------- images of users

#: One image as users have it: a file; a PIL image; an array (H, W, 3) or (H, W); a tensor (3, H, W).
ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor


def open_images(images: ImageLike | Sequence[ImageLike]) -> tuple[list[Image.Image], bool]:
    """Return images of any kind as RGB, 8 bit, and whether there was one alone instead of a sequence.

    An array or tensor is uint8, or floats in [0, 1]; with four axes it is a batch. Raises SightwordError for an image
    that is not readable, and for an array of another shape or range.
    """
    several, alone = as_sequence(images)
    return [open_image(image) for image in several], alone


def as_sequence(images: ImageLike | Sequence[ImageLike]) -> tuple[Sequence[ImageLike], bool]:
    """Return one image or several as a sequence, none of them opened yet, and whether there was one alone."""
    if isinstance(images, str | Path | Image.Image):
        return [images], True
    if isinstance(images, np.ndarray | Tensor):
        return ([images], True) if images.ndim < 4 else (list(images), False)
    try:
        iter(images)
    except TypeError:
        raise _no_image(images) from None
    return images, False


def open_image(image: ImageLike) -> Image.Image:
    """Return one image of any kind as RGB, 8 bit; its values and errors are those of `open_images`."""
    if isinstance(image, Image.Image):
        return _to_rgb(_upright(image))
    if isinstance(image, Tensor):
        pixels = image.detach().cpu()
        if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
            raise SightwordError(f"a tensor of an image is (3, H, W), got {tuple(pixels.shape)}. Permute its axes")
        return _of_array((pixels.float() if pixels.is_floating_point() else pixels).permute(1, 2, 0).numpy())
    if isinstance(image, np.ndarray):
        return _of_array(image)
    if not isinstance(image, str | Path):
        raise _no_image(image)
    return read_image(Path(image).expanduser())


def _no_image(image: object) -> SightwordError:
    """Return the error for an object that is no image, as None, which OpenCV returns for a file that it cannot read."""
    what = "None" if image is None else type(image).__name__
    return SightwordError(f"an image is a file, a PIL image, an array or a tensor, got {what}. Pass one, or a list")


def _of_array(pixels: np.ndarray) -> Image.Image:
    """Return an array (H, W, 3), (H, W, 1) or (H, W) of uint8, or of floats in [0, 1], as an RGB image."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or 0 in pixels.shape:
        raise SightwordError(f"an array of an image is (H, W, 3) or (H, W), got {pixels.shape}. Permute its axes")
    if np.issubdtype(pixels.dtype, np.floating):
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):  # NaN, too
            raise SightwordError(
                f"floats of an image are in [0, 1], got {low:.3g} to {high:.3g}. Rescale them, or pass uint8"
            )
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise SightwordError(f"an array of an image is uint8 or floats in [0, 1], got {pixels.dtype}. Convert it")
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


# ------------------------------------------------------------------------------------------------------- transforms
# Partial functions, not closures: a worker that is spawned must be able to pickle them.


def random_crop(size: int, scale: tuple[float, float] | None = (0.5, 1.0), flip: bool = True) -> Transform:
    """Return a transform: a square from a random place, resized to `size` pixels, mirrored half of the time if `flip`.

    scale: the square's side as a fraction of the image's short side, drawn evenly; never fewer than `size` pixels, so
    that nothing is enlarged, unless the image itself is smaller. None keeps the pixels' scale: the side is `size`.
    """
    if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
        raise SightwordError(f"scale={scale}: expected two fractions of the short side, 0 < least <= most <= 1")
    return partial(_random_crop, size=_positive(size), scale=scale, flip=flip)


def center_crop(size: int) -> Transform:
    """Return a transform: the short side resized to `size` pixels, then the central square. It needs no generator."""
    return partial(_center_crop, size=_positive(size))


def squash(height: int, width: int) -> Transform:
    """Return a transform: the whole image resized to height × width, aspect ratio not kept. It needs no generator."""
    return partial(_squash, size=(_positive(width), _positive(height)))


def resized(image: Image.Image, height: int, width: int) -> Image.Image:
    """Return the whole image at height × width, as `squash` resizes it; the image itself if it has that size."""
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def _positive(size: int) -> int:
    if size < 1:
        raise SightwordError(f"size is {size}: an image has at least one pixel")
    return size


def _random_crop(
    image: Image.Image,
    generator: torch.Generator | None,
    *,
    size: int,
    scale: tuple[float, float] | None,
    flip: bool,
) -> Tensor:
    if generator is None:
        raise TypeError("random_crop needs a generator: nothing here draws from the global one")
    share, x, y, coin = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    short = min(image.size)
    side = size if scale is None else round((scale[0] + share * (scale[1] - scale[0])) * short)
    side = min(max(side, size), short)
    left, top = int(x * (image.width - side + 1)), int(y * (image.height - side + 1))
    square = _resized(image, (left, top, left + side, top + side), size)
    return to_tensor(ImageOps.mirror(square) if flip and coin < 0.5 else square)


def _center_crop(image: Image.Image, generator: torch.Generator | None = None, *, size: int) -> Tensor:
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    return to_tensor(_resized(image, (left, top, left + short, top + short), size))


def _squash(image: Image.Image, generator: torch.Generator | None = None, *, size: tuple[int, int]) -> Tensor:
    return to_tensor(resized(image, size[1], size[0]))


def _resized(image: Image.Image, box: tuple[float, float, float, float], size: int) -> Image.Image:
    """Return one square of an image, resized to `size` x `size`: bicubic, antialiased.

    The filter reads pixels around the square, too. Crop and resize are one call, so that a 1 x 10000 strip is never
    enlarged as a whole.
    """
    if image.size == (size, size) and box == (0, 0, size, size):
        return image
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


# ---------------------------------------------------------------------------------------------------------- dataset


class ImageItem(NamedTuple):
    """One image after the transform."""

    image: Tensor  # (3, H, W) float32 in [-1, 1]
    path: str
    replaced: bool = False  # used in place of an unreadable file


class ImageBatch(NamedTuple):
    """A batch of images of one size. If no file was readable, images is (0, 3, 0, 0)."""

    images: Tensor  # (B, 3, H, W) float32 in [-1, 1]
    paths: list[str]  # B
    skipped: int  # items whose file was unreadable, whether omitted or replaced


class ImageFolder(Dataset[ImageItem | None]):
    """A data set of image files. An item depends only on (seed, epoch, index), not on worker or order.

    folder[Draw(epoch, index)] augments with that epoch's generator; folder[index] means epoch 0.
    on_error: what an unreadable file does. `collate_images` counts such files.
        "raise"    raises SightwordError with the file's name
        "skip"     gives None, so that the batch gets smaller: for evaluation, where no image may count twice
        "replace"  gives the next readable file of the list, so that batches keep their size: for training
    cache_mb: MiB of decoded images (8 bit) that are kept in memory, the first that are read. The workers of a loader
    divide this memory. 0 keeps nothing. A path listed twice is kept once.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        transform: Transform,
        seed: int = 0,
        on_error: str = "raise",
        cache_mb: int = 256,
    ) -> None:
        if on_error not in ("raise", "skip", "replace"):
            raise SightwordError(f"on_error is {on_error!r}: use 'raise', 'skip' or 'replace'")
        self.paths = [str(path) for path in paths]
        self.transform, self.seed, self.on_error, self.cache_mb = transform, seed, on_error, cache_mb
        self._kept: dict[str, np.ndarray] = {}  # path → (H, W, 3) uint8; a path may be listed many times
        self._kept_bytes = 0
        self._unreadable: set[str] = set()  # so as not to try them again at every replacement

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, draw: int | Draw) -> ImageItem | None:
        draw = draw if isinstance(draw, Draw) else Draw(0, int(draw))
        path = self.paths[draw.index]
        try:
            image = self._read(path)
        except SightwordError:
            if self.on_error == "raise":
                raise
            if self.on_error == "skip":
                return None
            image, path = self._next_readable(draw.index)
        return ImageItem(self.transform(image, generator_of(self.seed, draw)), path, path != self.paths[draw.index])

    def _next_readable(self, index: int) -> tuple[Image.Image, str]:
        """Return the next readable image after `index`, and its path. After the last path comes the first."""
        self._unreadable.add(self.paths[index])
        for path in self.paths[index + 1 :] + self.paths[:index]:
            if path in self._unreadable:
                continue
            try:
                return self._read(path), path
            except SightwordError:
                self._unreadable.add(path)
        raise SightwordError(f"none of the {len(self._unreadable)} images is readable: `sightword check` says why")

    def _read(self, path: str) -> Image.Image:
        if path in self._kept:
            return Image.fromarray(self._kept[path])
        image = read_image(path)
        worker = get_worker_info()
        room = self.cache_mb * 2**20 // (worker.num_workers if worker else 1)
        size = image.width * image.height * 3
        if self._kept_bytes + size <= room:
            self._kept[path] = np.asarray(image)
            self._kept_bytes += size
        return image

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_kept": {}, "_kept_bytes": 0}  # a spawned worker starts with an empty memory


def collate_images(items: Sequence[ImageItem | None]) -> ImageBatch:
    """Stack the readable items and count the others. Without a readable item the batch is empty.

    Raises SightwordError if sizes differ.
    """
    read = [item for item in items if item is not None]
    if not read:
        return ImageBatch(torch.empty(0, 3, 0, 0), [], len(items))
    sizes = {tuple(item.image.shape) for item in read}
    if len(sizes) > 1:
        raise SightwordError(f"the images of a batch differ in size {sorted(sizes)}: crop them to one size")
    images = torch.stack([item.image for item in read])  # (B, 3, H, W)
    skipped = len(items) - len(read) + sum(item.replaced for item in read)
    return ImageBatch(images, [item.path for item in read], skipped)
