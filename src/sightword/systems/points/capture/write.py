"""Write a capture as a scene in ScanNet's layout, which everything else of `points` reads.

    color/<i>.jpg|png  depth/<i>.png  pose/<i>.txt  intrinsic/intrinsic_{color,depth}.txt
    pose_color/<i>.txt               where the colour camera has a pose of its own
    intrinsic/distortion_color.txt   k1 k2 p1 p2 k3
    intrinsic/{color,depth,distortion}/<i>.txt   of frames whose camera differs from the first one's
    points.ply                       if the source has a cloud or mesh: its vertices
    imported.json                    what was read, what was taken for granted, and where each frame is from

The folder is written beside its place and renamed when it is whole.
"""

import io
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from sightword.data.image import read_image
from sightword.errors import SightwordError, printable
from sightword.storage.ply import write_ply
from sightword.storage.writer import write_json
from sightword.systems.points.capture import (
    arkitscenes,
    colmap,
    nerfstudio,
    open3d,
    polycam,
    record3d,
    replica,
    scanner3d,
    scannetpp,
    sens,
    sevenscenes,
    stray,
    tum,
)
from sightword.systems.points.capture.frame import Candidate, Capture, Options, Shot, Size, resized
from sightword.systems.points.capture.lens import straightened
from sightword.systems.points.capture.recognise import recognise
from sightword.systems.points.scannet.reader import ORIENTATION
from sightword.version import VERSION

READERS: Mapping[str, Callable[[Path, Options], Capture]] = {
    "tum": tum.read,
    "icl": tum.read_icl,
    "7scenes": sevenscenes.read,
    "open3d": open3d.read,
    "replica": replica.read,
    "sens": sens.read,
    "scannetpp": scannetpp.read,
    "nerfstudio": nerfstudio.read,
    "colmap": colmap.read,
    "record3d": record3d.read,
    "stray": stray.read,
    "polycam": polycam.read,
    "arkitscenes": arkitscenes.read,
    "3dscanner": scanner3d.read,
}
REPORT = "imported.json"
MILLIMETRES, MOST = 1000.0, 65534
SKEWED = 0.02  # by which the shapes of an image and of its intrinsics may differ
QUALITY = 95
KNOWN = {"JPEG": ".jpg", "PNG": ".png"}  # formats whose files are copied as they are


class Imported(NamedTuple):
    """What was written."""

    format: str
    frames: int
    found: int  # frames that have all their parts
    assumed: dict[str, str]
    left_out: list[str]  # a line for each frame
    notes: list[str]  # what was done to the frames


def import_capture(source: Path, out: Path, format_: str, most: int, options: Options) -> Imported:
    """Write at most `most` frames of a capture, spread evenly, to the folder `out`.

    Raises SightwordError for a source that is not recognised or damaged, an `out` that exists, and if no frame is left.
    """
    name = recognise(source, format_)
    _free(out)
    capture = READERS[name](source, options)
    left_out = list(capture.left_out)
    chosen = _chosen(_one_size(capture.candidates, left_out), most)
    if not chosen:
        raise SightwordError(f"src={source}: no frame can be used, for instance {(left_out or ['it has none'])[0]}")
    with _beside(out) as folder:
        writer = _Writer(folder)
        for index, candidate in tqdm(chosen, desc=f"import {out.name}", unit=" frames", disable=None):
            try:
                writer.write(index, candidate.read(), candidate.name)
            except SightwordError as error:
                left_out.append(f"{candidate.name}: {error}")
        if not writer.written:
            raise SightwordError(f"src={source}: no frame can be used, for instance {left_out[-1]}")
        _extras(capture, folder, out.resolve().name)
        imported = Imported(
            name, len(writer.written), len(capture.candidates), capture.assumed, left_out, writer.notes()
        )
        _report(folder, source, imported, writer, most)
    return imported


def _report(folder: Path, source: Path, imported: Imported, writer: "_Writer", most: int) -> None:
    write_json(
        folder / REPORT,
        {
            "format": imported.format,
            "source": str(source),
            "written by": f"sightword {VERSION}",
            "assumed": imported.assumed,
            "notes": imported.notes,
            "found": imported.found,
            "frames at most": most,
            "frames": [{"index": index, "source": name} for index, name in writer.written.items()],
            "left out": imported.left_out,
        },
    )


def _free(out: Path) -> None:
    """Raise SightwordError if something is in the place to write to."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        what = "was imported before" if (out / REPORT).is_file() else "exists and was not made by an import"
        raise SightwordError(f"out={out} {what}. Pass another folder{', or delete it' if 'before' in what else ''}")


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` if all goes well, and is deleted otherwise."""
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.{uuid.uuid4().hex[:12]}"
    folder.mkdir()
    try:
        yield folder
        if out.is_dir():
            out.rmdir()  # it is empty
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _one_size(candidates: Sequence[Candidate], left_out: list[str]) -> list[tuple[int, Candidate]]:
    """The frames with their numbers, without those whose colour is not of the commonest size."""
    sizes = Counter(candidate.size for candidate in candidates if candidate.size)
    usual = sizes.most_common(1)[0][0] if sizes else None
    kept = []
    for index, candidate in enumerate(candidates):
        if candidate.size in (None, usual):
            kept.append((index, candidate))
        else:
            assert candidate.size is not None and usual is not None  # noqa: PT018
            left_out.append(f"{candidate.name}: its image is {_by(candidate.size)}, most are {_by(usual)}")
    return kept


def _chosen(frames: list[tuple[int, Candidate]], most: int) -> list[tuple[int, Candidate]]:
    at = np.unique(np.linspace(0, max(len(frames) - 1, 0), min(most, len(frames))).round().astype(int))
    return [frames[number] for number in at.tolist()]


def _extras(capture: Capture, folder: Path, name: str) -> None:
    """The cloud, and files of the source that the reader knows."""
    if capture.cloud is not None:
        write_ply(folder / "points.ply", capture.cloud)
    for file, as_ in capture.files:
        shutil.copyfile(file, folder / as_.format(name=name))


class _Writer:
    """Writes frames to a folder; all have the size of the first one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: dict[int, str] = {}
        self._sizes: tuple[Size, Size] | None = None
        self._first: dict[str, np.ndarray] = {}
        self._far = self._turned = 0
        self._bent: set[str] = set()

    def notes(self) -> list[str]:
        """What was done to the frames."""
        found = [f"the image was rectified: its lens is {kind}" for kind in sorted(self._bent)]
        if self._far:
            found.append(f"{self._far} depths beyond {MOST / MILLIMETRES:g} m are unknown now")
        if self._turned:
            found.append(f"{self._turned} images were turned by their EXIF orientation, as their intrinsics are")
        return found

    def write(self, index: int, shot: Shot, name: str) -> None:
        """Write one frame. Raises SightwordError if its parts do not fit together or the earlier frames."""
        color, K = self._color(shot)
        image_size = color.size
        depth, K_depth = _depth(shot, image_size)
        sizes = image_size, (depth.shape[0], depth.shape[1])
        if self._sizes is None:
            self._sizes = sizes
        if sizes != self._sizes:
            got, usual = (f"{_by(one)} with depth of {_by(two)}" for one, two in (sizes, self._sizes))
            raise SightwordError(f"its colour is {got}, of the first frame {usual}")
        five = shot.lens.five()
        cameras = {"color": K, "depth": K_depth, "distortion": np.zeros(5) if five is None else five}
        for part, matrix in cameras.items():
            self._camera(part, index, matrix)
        self._put("color", f"{index}{color.suffix}").write_bytes(color.content)
        self._depth_png(index, depth)
        _matrix(self._put("pose", f"{index}.txt"), shot.pose)
        if shot.pose_color is not None and np.abs(shot.pose_color - shot.pose).max() > 1e-9:
            _matrix(self._put("pose_color", f"{index}.txt"), shot.pose_color)
        self.written[index] = name

    def _put(self, part: str, name: str) -> Path:
        file = self.folder / part / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _camera(self, part: str, index: int, matrix: np.ndarray) -> None:
        """A camera of the scene, or of a frame if it is not that of the first."""
        if part not in self._first:
            self._first[part] = matrix
            if part != "distortion":
                _matrix(self._put("intrinsic", f"intrinsic_{part}.txt"), matrix)
            elif matrix.any():
                _matrix(self._put("intrinsic", "distortion_color.txt"), matrix[None])
        elif np.abs(matrix - self._first[part]).max() > 1e-9:
            _matrix(self._put(f"intrinsic/{part}", f"{index}.txt"), np.atleast_2d(matrix))

    def _color(self, shot: Shot) -> tuple["_Color", np.ndarray]:
        """The image to write, and its intrinsics."""
        color = _read_color(shot.color)
        wanted = shot.color_size
        if (
            wanted is not None
            and color.turned
            and _shaped(color.size, wanted[::-1])
            and not _shaped(color.size, wanted)
        ):
            color = _encoded(ImageOps.exif_transpose(Image.open(io.BytesIO(color.content))))
            self._turned += 1
        if wanted is not None and not _shaped(color.size, wanted):
            raise SightwordError(f"its colour is {_by(color.size)}, and its intrinsics are of {_by(wanted)}")
        K = shot.K_color if wanted is None else resized(shot.K_color, wanted, color.size)
        if shot.lens.five() is None:
            self._bent.add(shot.lens.kind)
            with Image.open(io.BytesIO(color.content)) as image:
                color = _encoded(Image.fromarray(straightened(np.asarray(image.convert("RGB")), K, shot.lens)))
        return color, K

    def _depth_png(self, index: int, depth: np.ndarray) -> None:
        values = np.rint(depth.astype(np.float64) * MILLIMETRES)
        self._far += int((values > MOST).sum())
        kept = np.where(values > MOST, 0, values).astype(np.uint16)
        Image.fromarray(kept).save(self._put("depth", f"{index}.png"), "PNG", compress_level=3)


class _Color(NamedTuple):
    """An image file's content."""

    content: bytes
    suffix: str
    size: Size
    turned: bool  # by a quarter, if its EXIF orientation is applied


def _read_color(color: Path | bytes | np.ndarray) -> _Color:
    """The content of an image, encoded if it is neither JPEG nor PNG. Raises SightwordError if it is not readable."""
    if isinstance(color, np.ndarray):
        return _encoded(Image.fromarray(color))
    content = color if isinstance(color, bytes) else _content(color)
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.format in KNOWN:
                image.load()
                turned = int(image.getexif().get(ORIENTATION, 1)) >= 5
                return _Color(content, KNOWN[image.format], (image.height, image.width), turned)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever they like
        if not isinstance(color, Path):
            raise SightwordError(f"its colour is not readable ({printable(str(error))[:60]})") from None
    if not isinstance(color, Path):
        raise SightwordError("its colour is neither JPEG nor PNG")
    return _encoded(read_image(color, upright=False))


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SightwordError(f"{file} is not readable ({error.strerror})") from None


def _encoded(image: Image.Image) -> _Color:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    return _Color(buffer.getvalue(), ".jpg", (image.height, image.width), False)


def _depth(shot: Shot, color: Size) -> tuple[np.ndarray, np.ndarray]:
    """Depth without what is masked, not finite or negative, and its intrinsics."""
    depth = np.nan_to_num(shot.depth, nan=0, posinf=0, neginf=0).clip(min=0)
    size = depth.shape[0], depth.shape[1]
    K = shot.K_depth
    if K is None:
        whole = shot.color_size or color
        if not _shaped(size, whole):
            raise SightwordError(
                f"its depth is {_by(size)} and its colour {_by(whole)}: they do not show the same view"
            )
        K = resized(shot.K_color, whole, size)
    if shot.mask is not None:
        depth = np.where(_nearest(shot.mask, size), depth, 0)
    if not shot.depth_lens.straight:
        depth = straightened(depth, K, shot.depth_lens, smooth=False)
    if not depth.any():
        raise SightwordError("its depth is unknown everywhere" + (" where it is kept" if shot.mask is not None else ""))
    return depth, K


def _nearest(mask: np.ndarray, size: Size) -> np.ndarray:
    """A mask resized to (H, W): each pixel has the value of the nearest one."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for new, old in zip(size, mask.shape[:2], strict=True)
    )
    found: np.ndarray = mask[rows][:, columns]
    return found


def _shaped(size: Size, other: Size) -> bool:
    """Whether two images have the same ratio of sides."""
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) < SKEWED


def _matrix(file: Path, matrix: np.ndarray) -> None:
    file.write_text("".join(" ".join(map(repr, row)) + "\n" for row in matrix.tolist()), encoding="utf-8")


def _by(size: Size) -> str:
    return f"{size[1]} x {size[0]}"
