"""Posed RGB-D frames in ScanNet's layout, as its exporter, scannet200-mv, OpenScene and mmdetection3d write it.

    <root>/[2D/|posed_images/|scans/]<scene>/   or <root> itself
        color/<i>.jpg|png                       any size
        depth/<i>.png                           uint16, millimetres along z, 0 unknown; any size
        pose/<i>.txt                            4 x 4, camera-to-world, metres; -inf where tracking was lost
        intrinsic/intrinsic_{color,depth}.txt   3 x 3 or 4 x 4, in pixels whose middles are whole numbers
    or flat, as posed_images/<scene> has it: <i>.jpg, <i>.png, <i>.txt, intrinsic.txt (of the colour frames)

Intrinsics are always read, from whichever file has them; nothing is assumed. Colour and depth frames show the same
image (ScanNet's are aligned; its authors ask to apply no extrinsic), so one's intrinsics, resized, are the other's.

Legend: H, W pixels.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightword.data.image import read_image
from sightword.errors import MissingFileError, SightwordError
from sightword.storage import shards
from sightword.storage.reader import read_text
from sightword.systems.points.lift.geometry import Size, Views

PLACES = ("2D", "posed_images", "scans", "scannet_2d", "")  # where a root keeps its scenes
COLOURS = (".jpg", ".jpeg", ".png")
MILLIMETRES = 1000.0
LOST = 65535  # an unknown depth, with some cameras
LEAST = 100  # a frame whose greatest value is less than 10 cm is not in millimetres
SKIP = ", or set on_error=skip"  # an option that `read_image` advises, and that does not exist here
LONG = 1 << 16  # bytes; no matrix in text is longer
LIST = 1 << 24  # bytes of a list of scenes
STRETCH = 0.05  # how far a rotation's singular values may be from 1 and still be what a text file rounded


class Frame(NamedTuple):
    """One posed RGB-D frame; `read_color` and `read_depth` open its files."""

    index: int  # type: ignore[assignment]  # shadows a tuple's method
    color: Path
    depth: Path
    pose: Tensor  # (4, 4) float64, camera-to-world, its rotation projected onto SO(3)
    K_color: Tensor  # (3, 3) float64, of the colour file's pixels
    K_depth: Tensor  # (3, 3) float64, of the depth file's pixels


class Scene(NamedTuple):
    """A scene's frames that can be used."""

    name: str
    folder: Path
    frames: list[Frame]  # by index
    skipped: list[str]  # a line for each frame that cannot be used: a pose that is not finite, a file that is missing


# ----------------------------------------------------------------------------------------------------------- finding


def find_scenes(root: str | Path) -> list[str]:
    """Return the scenes under a root, ordered by name; a root that is a scene itself is its only one.

    Raises SightwordError if there is none.
    """
    root = _there(root)
    if _is_scene(root):
        return [root.resolve().name]
    for place in PLACES:
        folder = root / place
        if found := sorted(path.name for path in folder.glob("*") if _is_scene(path)):
            return found
    raise SightwordError(
        f"{root} contains no scene. A scene is a folder with color/, depth/, pose/ and intrinsic/, in 2D/, "
        "posed_images/, scans/ or in the root itself"
    )


def read_scenes_file(file: str | Path) -> list[str]:
    """Return the names in a list such as scannetv2_val.txt: one per line, each once, in order; # begins a comment.

    Raises SightwordError if there is no such file, or it contains no names of scenes.
    """
    file = Path(file).expanduser()
    lines = read_text(file, most=LIST, missing="A list of scenes is a text file with one name per line").splitlines()
    names = [name for line in lines if (name := line.split("#")[0].strip())]
    if not names:
        raise SightwordError(f"{file} names no scene. Write one name per line")
    for name in names:
        _named(name, file)
    return list(dict.fromkeys(names))


def scene_folder(root: str | Path, scene: str = "") -> Path:
    """Return the folder of a scene's frames; without `scene`, the root must be one. Raises SightwordError otherwise."""
    root = _there(root)
    if _is_scene(root) and scene in ("", root.resolve().name):
        return root
    if not scene:
        found = find_scenes(root)
        raise SightwordError(f"{root} has {len(found)} scenes, {_few(found)}. Name one")
    _named(scene, "scene")
    for place in PLACES:
        if _is_scene(folder := root / place / scene):
            return folder
    raise SightwordError(f"scene {scene} is not under {root}, which has {_few(find_scenes(root))}")


def _there(root: str | Path) -> Path:
    root = Path(root).expanduser()
    if not root.is_dir():
        raise MissingFileError(f"{root} {'is a file' if root.exists() else 'does not exist'}. Pass a folder of scenes")
    return root


def _named(name: str, where: Path | str) -> None:
    if len(name) > 200 or not re.fullmatch(r"[^/\\\0]+", name) or name in (".", ".."):
        raise SightwordError(
            f"{where}: {name[:60]!r} is not the name of a scene. Write a folder's own name, without a path"
        )


def _is_scene(folder: Path) -> bool:
    if not folder.is_dir() or folder.name.startswith("."):
        return False
    nested = [(folder / part).is_dir() for part in ("color", "depth", "pose")]
    return sum(nested) >= 2 or (any(folder.glob("[0-9]*.jpg")) and any(folder.glob("[0-9]*.txt")))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" … ({len(names)})" if len(names) > 4 else "")


# ----------------------------------------------------------------------------------------------------------- reading


def read_scene(root: str | Path, scene: str = "", frames: int | Sequence[int] | None = None) -> Scene:
    """Return a scene's frames: poses and intrinsics are read, and the size of the first images, which stay closed.

    frames: so many, spread evenly from the first to the last that can be used; or those of these indices, where a frame
    that cannot be used is an error; None for all. Raises SightwordError for intrinsics that are missing or of another
    size, and if no frame is left.
    """
    folder = scene_folder(root, scene)
    name = scene or folder.resolve().name
    files = list_frames(folder)
    if not files:
        raise SightwordError(f"{folder} has no frame: expected color/<i>.jpg, depth/<i>.png and pose/<i>.txt")
    usable: dict[int, tuple[Path, Path, Tensor]] = {}
    skipped = []
    for index, parts in files.items():
        try:
            usable[index] = _whole(index, *parts)
        except SightwordError as error:
            skipped.append(str(error))
    if not usable:
        raise SightwordError(f"{folder}: none of {len(files)} frames can be used, for instance {skipped[0]}")
    kept = _chosen(list(usable), frames, folder, skipped)
    first_color, first_depth, _ = usable[kept[0]]
    K_color, K_depth = intrinsics_of(folder, name, image_size(first_color), image_size(first_depth))
    return Scene(name, folder, [Frame(index, *usable[index], K_color, K_depth) for index in kept], skipped)


def say_skipped(scene: Scene) -> None:
    """Print a line to stderr if frames of a scene cannot be used."""
    if count := len(scene.skipped):
        shards.say(f"{scene.name}: {count} {'frame is' if count == 1 else 'frames are'} left out: {scene.skipped[0]}")


Files = tuple[Path | None, Path | None, Path | None]  # colour, depth, pose


def list_frames(folder: Path) -> dict[int, Files]:
    """Return index → its files, None for a missing one, by index. In a flat folder a .png is a depth frame."""
    nested = (folder / "pose").is_dir() or (folder / "color").is_dir()
    suffixes = {"color": COLOURS if nested else COLOURS[:-1], "depth": (".png",), "pose": (".txt",)}
    color, depth, pose = (
        {
            int(path.stem): path
            for path in (folder / part if nested else folder).glob("*")
            if path.suffix.lower() in kinds and path.stem.isdecimal()
        }
        for part, kinds in suffixes.items()
    )
    return {index: (color.get(index), depth.get(index), pose.get(index)) for index in sorted(color | depth | pose)}


def read_color(frame: Frame) -> Image.Image:
    """Return the colour image, RGB of 8 bit. Raises SightwordError for a damaged file."""
    try:
        return read_image(frame.color)
    except ValueError as error:
        raise SightwordError(str(error).replace(SKIP, "")) from None


def read_depth(frame: Frame | Path, unit: float = MILLIMETRES) -> Tensor:
    """Return depth (H, W) float32 in metres, 0 where unknown. unit: how many of the file's units are a metre.

    Raises SightwordError for a file that is damaged, of another kind, or in metres by its values.
    """
    path = frame.depth if isinstance(frame, Frame) else Path(frame)
    try:
        with Image.open(path) as image:
            image.load()
            mode, values = image.mode, np.asarray(image)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever they like
        raise SightwordError(
            f"{path} is not readable as a depth frame ({_reason(path, error)}). Export it again"
        ) from None
    if values.ndim != 2 or not mode.startswith("I"):
        raise SightwordError(f"{path} is of mode {mode}; expected one channel of 16 bits. Export it in millimetres")
    most = int(values.max(initial=0))
    if values.min(initial=0) < 0 or most > LOST:
        raise SightwordError(f"{path} has values from {values.min()} to {most}; expected 0 to {LOST}")
    if unit == MILLIMETRES and 0 < most < LEAST:
        raise SightwordError(f"{path}: its greatest value is {most}, as if in metres. Depth is in millimetres")
    known = np.where(values == LOST, 0, values)
    return torch.from_numpy(known.astype(np.float32) / np.float32(unit))


def image_size(path: Path) -> Size:
    """Return (H, W) from an image file's header. Raises SightwordError if it is not readable."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except Exception as error:
        raise SightwordError(f"{path} is not readable as an image ({_reason(path, error)}). Export it again") from None


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if path.is_file() and path.stat().st_size == 0:
        return "empty file"
    return " ".join(str(error).split())[:80] or type(error).__name__


def _chosen(usable: list[int], frames: int | Sequence[int] | None, folder: Path, skipped: list[str]) -> list[int]:
    if frames is None:
        return usable
    if isinstance(frames, int):
        if frames < 1:
            raise SightwordError(f"frames={frames} is too small. Pass at least 1")
        at = np.linspace(0, len(usable) - 1, min(frames, len(usable))).round().astype(int)
        return [usable[i] for i in at.tolist()]
    for index in frames:
        if index not in usable:
            known = next((line for line in skipped if line.startswith(f"frame {index}:")), f"there is no frame {index}")
            raise SightwordError(f"{folder}: {known}; {len(usable)} others can be used")
    return sorted(set(frames))


# ---------------------------------------------------------------------------------------------- poses and intrinsics


def _whole(index: int, color: Path | None, depth: Path | None, pose: Path | None) -> tuple[Path, Path, Tensor]:
    """Return a frame's images and its pose. Raises SightwordError that begins with the frame if it cannot be used."""
    if color is None or depth is None or pose is None:
        lost = [part for part, file in (("colour", color), ("depth", depth), ("pose", pose)) if file is None]
        raise SightwordError(f"frame {index}: its {' and its '.join(lost)} is missing")
    try:
        return color, depth, so3(_affine(read_matrix(pose, (4, 4))))
    except SightwordError as error:
        raise SightwordError(f"frame {index}: {error}") from None


def _affine(values: np.ndarray) -> Tensor:
    if np.isfinite(values).all() and np.abs(values[3] - (0, 0, 0, 1)).max() > 1e-3:
        raise SightwordError(f"its pose ends with {' '.join(f'{value:g}' for value in values[3])}, expected 0 0 0 1")
    return torch.from_numpy(values)


def read_matrix(file: Path, *shapes: tuple[int, int]) -> np.ndarray:
    """Return numbers of a text file as float64, -inf and nan among them. Raises SightwordError for another shape."""
    text = read_text(file, most=LONG)
    words = [line.split() for line in text.splitlines() if line.strip()]
    try:
        values = np.array(words, dtype=np.float64)
    except ValueError as error:
        reason = " ".join(str(error).split())[:60]
        raise SightwordError(f"{file} does not contain a matrix of numbers ({reason})") from None
    if values.shape not in shapes:
        wanted = " or ".join(f"{rows} x {columns}" for rows, columns in shapes)
        raise SightwordError(f"{file} contains {' x '.join(map(str, values.shape))} numbers, expected {wanted}")
    return values


def intrinsics_of(folder: Path, name: str, color: Size, depth: Size) -> tuple[Tensor, Tensor]:
    """Return the intrinsics (3, 3) of the colour and of the depth frames, at the sizes that these have.

    What stands in the files may be of another size (scannet200-mv resizes the colour frames to 640 x 480 and keeps
    intrinsic_color of 1296 x 968): the principal point, near the middle, tells. Raises SightwordError if none fits.
    """
    of_color, of_depth = _find_intrinsics(folder, name)
    if of_depth is not None and _fits(of_depth, depth):
        K_depth = of_depth
    elif of_color is not None and _fits(of_color, color):
        K_depth = resize_intrinsics(of_color, color, depth)
    else:
        K, size, what = (of_depth, depth, "depth") if of_depth is not None else (of_color, color, "colour")
        assert K is not None
        raise SightwordError(
            f"{folder}: the intrinsics have the principal point ({K[0, 2]:.1f}, {K[1, 2]:.1f}), and the {what} frames "
            f"are {size[1]} x {size[0]}. Write the intrinsics of this size"
        )
    K_color = of_color if of_color is not None and _fits(of_color, color) else resize_intrinsics(K_depth, depth, color)
    return K_color, K_depth


def _find_intrinsics(folder: Path, name: str) -> tuple[Tensor | None, Tensor | None]:
    """Of colour and of depth frames, (3, 3); one may be None, not both."""
    found: dict[str, Tensor | None] = {}
    for kind in ("color", "depth"):
        files = [folder / "intrinsic" / f"intrinsic_{kind}.txt", folder / f"intrinsic_{kind}.txt"]
        files += [folder / "intrinsic.txt"] if kind == "color" else []
        file = next((file for file in files if file.is_file()), None)
        found[kind] = None if file is None else _pinhole(file)
    if not any(K is not None for K in found.values()):
        found = _by_scan(folder, name)
    if not any(K is not None for K in found.values()):
        raise SightwordError(
            f"{folder} has no intrinsics. Write intrinsic/intrinsic_depth.txt, 3 x 3 with fx 0 cx / 0 fy cy / 0 0 1"
        )
    return found["color"], found["depth"]


def views_of(frames: Sequence[Frame], device: str = "cpu") -> Views:
    """Return depth, intrinsics and poses of frames of one scene. Raises SightwordError if depths are of two sizes."""
    K, pose = (torch.stack(part).float() for part in zip(*((f.K_depth, f.pose) for f in frames), strict=True))
    depth = [read_depth(frame) for frame in frames]
    check_size(depth, [str(frame.depth) for frame in frames])
    scene = torch.zeros(len(frames), dtype=torch.int64)
    return Views(*(part.to(device) for part in (torch.stack(depth), K, pose, scene)))


def check_size(depths: Sequence[Tensor], names: Sequence[str]) -> None:
    """Raise SightwordError if depth images are of two sizes."""
    for depth, name in zip(depths, names, strict=True):
        if depth.shape[-2:] != depths[0].shape[-2:]:
            one, other = ("×".join(map(str, part.shape[-2:])) for part in (depths[0], depth))
            raise SightwordError(
                f"depth of {names[0]} is {one} and of {name} {other} pixels; a batch needs one size. Resize them, or "
                "set data.batch_size=1 for scenes of several sizes"
            )


def _pinhole(file: Path) -> Tensor:
    K = read_matrix(file, (3, 3), (4, 4))[:3, :3]
    if not np.isfinite(K).all() or min(K[0, 0], K[1, 1]) <= 0 or np.abs(K[2] - (0, 0, 1)).max() > 1e-6:
        raise SightwordError(f"{file} is not a pinhole camera: expected fx 0 cx / 0 fy cy / 0 0 1 with fx, fy above 0")
    return torch.from_numpy(K.copy())


def _by_scan(folder: Path, name: str) -> dict[str, Tensor | None]:
    """From ScanNet's own <scene>.txt (fx_depth = 577.87 …), which scannet200-mv keeps in 3D/<scene>."""
    files = [folder / f"{name}.txt", folder.parent.parent / "3D" / name / f"{name}.txt"]
    file = next((file for file in files if file.is_file()), None)
    found: dict[str, Tensor | None] = {"color": None, "depth": None}
    if file is None:
        return found
    values = dict(re.findall(r"^\s*(\w+)\s*=\s*([-+.\deE]+)\s*$", read_text(file, most=LONG), re.MULTILINE))
    for kind in found:
        try:
            fx, fy, cx, cy = (float(values[f"{part}_{kind}"]) for part in ("fx", "fy", "mx", "my"))
        except (KeyError, ValueError):
            continue
        found[kind] = torch.tensor([(fx, 0, cx), (0, fy, cy), (0, 0, 1)], dtype=torch.float64)
    return found


def _fits(K: Tensor, size: Size) -> bool:
    """Whether the principal point is nearer to the middle of such an image than a quarter of it."""
    return all(abs((at + 0.5) / side - 0.5) < 0.25 for at, side in zip(K[:2, 2].tolist(), size[::-1], strict=True))


def so3(pose: Tensor) -> Tensor:
    """Return poses (..., 4, 4) with their rotations projected onto SO(3), in float64. The dtype stays.

    Poses in text files are orthonormal to four digits only, and an inverse by the transpose is then 0.5 mm wrong.
    Raises SightwordError for a pose that is not finite, mirrors, or scales.
    """
    if pose.shape[-2:] != (4, 4):
        raise SightwordError(f"a pose is (4, 4), camera-to-world, got {tuple(pose.shape)}")
    if not pose.isfinite().all():
        raise SightwordError("a pose is not finite (ScanNet marks lost frames so). Leave such frames out")
    exact = pose.double()
    left, stretch, right = torch.linalg.svd(exact[..., :3, :3])
    rotation = left @ right
    if (torch.linalg.det(rotation) < 0).any():
        raise SightwordError("a pose mirrors (its determinant is -1). Check for a flipped axis or a transposed matrix")
    if ((stretch - 1).abs() > STRETCH).any():
        raise SightwordError(
            f"a pose scales by {stretch.min():.3g} to {stretch.max():.3g}; expected a rotation and a translation"
        )
    exact = exact.clone()
    exact[..., :3, :3] = rotation
    return exact.to(pose.dtype)


def resize_intrinsics(K: Tensor, old: Size, new: Size) -> Tensor:
    """Return K (..., 3, 3) of an image of size `old` (H, W) resized to `new`: the half pixel moves with the centre."""
    sy, sx = new[0] / old[0], new[1] / old[1]
    change = torch.tensor([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]], dtype=K.dtype, device=K.device)
    return change @ K
