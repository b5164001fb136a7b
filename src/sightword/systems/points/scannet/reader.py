"""Posed RGB-D frames in ScanNet's layout, as its exporter, scannet200-mv, OpenScene and mmdetection3d write it.

    <root>/[2D/|posed_images/|scans/]<scene>/   or <root> itself
        color/<i>.jpg|png                       any size
        depth/<i>.png                           uint16, millimetres along z, 0 unknown; any size
        pose/<i>.txt                            4 x 4, camera-to-world, metres; -inf where tracking was lost
        intrinsic/intrinsic_{color,depth}.txt   3 x 3 or 4 x 4, in pixels whose middles are whole numbers
    or flat, as posed_images/<scene> has it: <i>.jpg, <i>.png, <i>.txt, intrinsic.txt (of the colour frames)

    and optionally
        pose_color/<i>.txt                      poses of the colour camera, if it is not where the depth camera is
        intrinsic/distortion_color.txt          k1 k2 p1 p2 [k3] of the colour camera, as OpenCV has them
    intrinsic/{color,depth,distortion}/<i>.txt   the same of one frame, where its cameras are not those of the scene

Files of other conventions are read by a `Convention`. Intrinsics are always read, from whichever file has them; nothing
is assumed. Where only one of the cameras has intrinsics, colour and depth show the same image, so one's, resized, are
the other's. ScanNet's extrinsic_color.txt is not applied: its depth is registered, and its authors ask to apply none.

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
from sightword.data.loader import moved
from sightword.errors import MissingFileError, SightwordError
from sightword.storage import shards
from sightword.storage.reader import read_text
from sightword.systems.points.capture.recognise import recording_line
from sightword.systems.points.lift.geometry import ColorCamera, Size, Views
from sightword.systems.points.scannet.convention import MILLIMETRES, Convention
from sightword.systems.points.scannet.pose import camera_to_world

PLACES = ("2D", "posed_images", "scans", "scannet_2d", "")  # where a root keeps its scenes
COLOURS = (".jpg", ".jpeg", ".png")
PARTS = {"color": "colour", "depth": "depth", "pose": "pose"}  # folder → as messages have it
DISTORTION = "distortion_color.txt"
ORIENTATION = 0x0112  # of EXIF
SAME = 0.05  # pixels of depth by which two cameras may differ and still be one
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
    K_color: Tensor  # (3, 3) float64, of the pixels that `read_color` returns
    K_depth: Tensor  # (3, 3) float64, of the depth file's pixels
    place: Tensor = torch.eye(4, dtype=torch.float64)  # the colour camera in the depth camera: identity if they are one
    distortion: Tensor = torch.zeros(5, dtype=torch.float64)  # of colour: k1, k2, p1, p2, k3
    file_pose: Tensor = torch.eye(4, dtype=torch.float64)  # `pose` as the file has it
    convention: Convention = Convention()  # by which the files were read


class Scene(NamedTuple):
    """A scene's frames that can be used."""

    name: str
    folder: Path
    frames: list[Frame]  # by index
    skipped: list[str]  # a line for each frame that cannot be used: a pose that is not finite, a file that is missing
    convention: Convention = Convention()

    @property
    def key(self) -> str:
        """The name under which CLIP's maps of its frames are cached: turned frames have other maps."""
        return self.name if self.convention.turn == "0" else f"{self.name}+{self.convention.turn}"


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
        recording_line(root)
        or f"{root} contains no scene. A scene is a folder with color/, depth/, pose/ and intrinsic/, in 2D/, "
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


def read_scene(
    root: str | Path,
    scene: str = "",
    frames: int | Sequence[int] | None = None,
    convention: Convention | None = None,
) -> Scene:
    """Return a scene's frames: poses and intrinsics are read, and the size of the first images, which stay closed.

    frames: so many, spread evenly from the first to the last that can be used; or those of these indices, where a frame
    that cannot be used is an error; None for all. convention: of the files, ScanNet's if None. Raises SightwordError
    for intrinsics that are missing or of another size, and if no frame is left.
    """
    folder = scene_folder(root, scene)
    name = scene or folder.resolve().name
    convention = convention or Convention()
    files = list_frames(folder)
    if not files:
        raise SightwordError(
            f"{folder} has no frame: expected color/<i>.jpg, depth/<i>.png and pose/<i>.txt{found_instead(folder)}"
        )
    usable: dict[int, tuple[Path, Path, Tensor]] = {}
    skipped = [f"frame {index}: {names}" for index, names in list_doubles(folder).items()]
    for index, parts in files.items():
        try:
            usable[index] = _whole(index, *parts)
        except SightwordError as error:
            skipped.append(str(error))
    usable = _shifted(usable, convention.shift)
    if not usable:
        first = skipped[0] if skipped else f"shift={convention.shift} leaves none"
        raise SightwordError(
            f"{folder}: none of {len(files)} frames can be used, for instance {first}{found_instead(folder)}"
        )
    kept = _chosen(list(usable), frames, folder, skipped)
    first_color, first_depth, _ = usable[kept[0]]
    size = image_size(first_depth)
    K_color, K_depth = intrinsics_of(folder, name, color_size(first_color, size, convention), size, convention)
    made = []
    distortion = _distortion(folder)
    for index in kept:
        color, depth, pose = usable[index]
        K, K_of_depth = _own_intrinsics(folder, index, K_color, K_depth, size, convention)
        placed = torch.from_numpy(camera_to_world(pose.numpy(), convention)) if convention.moves_poses else pose
        own = _color_place(folder, index, placed, convention)
        made.append(
            Frame(index, color, depth, placed, K, K_of_depth, own, _bent(folder, index, distortion), pose, convention)
        )
    return Scene(name, folder, made, skipped, convention)


def _shifted(usable: dict[int, tuple[Path, Path, Tensor]], shift: int) -> dict[int, tuple[Path, Path, Tensor]]:
    """Frames with the pose of the frame so many further on; those at the end that then have none are left out."""
    order = list(usable)
    return {
        index: (*usable[index][:2], usable[order[at + shift]][2])
        for at, index in enumerate(order)
        if 0 <= at + shift < len(order)
    }


def _color_place(folder: Path, index: int, pose: Tensor, convention: Convention) -> Tensor:
    """The colour camera in the depth camera, (4, 4): by its own pose, if it has one, and color_offset."""
    place = torch.eye(4, dtype=torch.float64)
    file = folder / "pose_color" / f"{index}.txt"
    if file.is_file():
        own = camera_to_world(so3(_affine(read_matrix(file, (4, 4)))).numpy(), convention)
        place = torch.linalg.inv(pose) @ torch.from_numpy(own)
    place[:3, 3] += torch.tensor(convention.offset(), dtype=torch.float64)
    return place


def _own_intrinsics(
    folder: Path, index: int, K_color: Tensor, K_depth: Tensor, size: Size, convention: Convention
) -> tuple[Tensor, Tensor]:
    """The intrinsics of a frame, of colour and of depth: its own where it has a file of them, else the scene's."""
    color, depth = (folder / "intrinsic" / part / f"{index}.txt" for part in ("color", "depth"))
    if color.is_file():
        K_color = _scaled(_pinhole(color), convention.color_focal_scale)
    if depth.is_file():
        K_depth = _corrected(_pinhole(depth), size, convention)
    return K_color, K_depth


def _bent(folder: Path, index: int, usual: Tensor) -> Tensor:
    file = folder / "intrinsic" / "distortion" / f"{index}.txt"
    return _coefficients(file) if file.is_file() else usual


def _distortion(folder: Path) -> Tensor:
    return _coefficients(
        next((file for part in ("intrinsic", "") if (file := folder / part / DISTORTION).is_file()), None)
    )


def _coefficients(file: Path | None) -> Tensor:
    """k1, k2, p1, p2, k3 of a file; 0 without one."""
    values = np.zeros(5) if file is None else np.concatenate([read_matrix(file, (1, 4), (1, 5))[0], [0.0]])[:5]
    if not np.isfinite(values).all():
        raise SightwordError(f"{file} has numbers that are not finite. Write k1 k2 p1 p2 k3 in one line")
    return torch.from_numpy(values.copy())


def say_skipped(scene: Scene) -> None:
    """Print a line to stderr if frames of a scene cannot be used."""
    if count := len(scene.skipped):
        shards.say(f"{scene.name}: {count} {'frame is' if count == 1 else 'frames are'} left out: {scene.skipped[0]}")


Files = tuple[Path | None, Path | None, Path | None]  # colour, depth, pose


def list_frames(folder: Path) -> dict[int, Files]:
    """Return index → its files, None for a missing one, by index; without an index that several files of a kind have,
    see `list_doubles`. In a flat folder a .png is a depth frame."""
    color, depth, pose = (_numbered(folder, part) for part in PARTS)
    doubles = list_doubles(folder)
    return {
        index: (*(files[0] if (files := part.get(index)) else None for part in (color, depth, pose)),)  # type: ignore
        for index in sorted(color | depth | pose)
        if index not in doubles
    }


def list_doubles(folder: Path) -> dict[int, str]:
    """Return what is wrong with each index that two files of a kind have, as 0.jpg and 000000.jpg."""
    found = {}
    for part in PARTS:
        for index, files in _numbered(folder, part).items():
            if len(files) > 1:
                names = " and ".join(path.name for path in files)
                found[index] = f"{names} are both its {PARTS[part]}; keep one of them"
    return found


def found_instead(folder: Path) -> str:
    """Return what a folder has in the place of numbered frames, to end a message; empty if nothing."""
    if line := recording_line(folder):
        return f". {line}"
    lines = []
    for part in PARTS if _nested(folder) else ("",):
        kinds = _kinds(folder, part) if part else {*COLOURS, ".txt"}
        others = [
            path
            for path in sorted((folder / part).glob("*"))
            if path.is_file() and not (path.suffix.lower() in kinds and path.stem.isdecimal())
        ]
        if others:
            name = others[0].relative_to(folder).as_posix()
            lines.append(f"{name}{f' and {len(others) - 1} more' if len(others) > 1 else ''}")
    if not lines:
        return ""
    return f"; found {', '.join(lines)}. Name frames by their number alone, and write depth as PNG of 16 bit"


def _nested(folder: Path) -> bool:
    return (folder / "pose").is_dir() or (folder / "color").is_dir()


def _kinds(folder: Path, part: str) -> tuple[str, ...]:
    suffixes = {"color": COLOURS if _nested(folder) else COLOURS[:-1], "depth": (".png",), "pose": (".txt",)}
    return suffixes[part]


def _numbered(folder: Path, part: str) -> dict[int, list[Path]]:
    """Index → the files of a part."""
    found: dict[int, list[Path]] = {}
    kinds = _kinds(folder, part)
    for path in sorted((folder / part if _nested(folder) else folder).glob("*")):
        if path.suffix.lower() in kinds and path.stem.isdecimal():
            found.setdefault(int(path.stem), []).append(path)
    return found


def read_color(frame: Frame) -> Image.Image:
    """Return the colour image as depth lies, RGB of 8 bit. Raises SightwordError for a damaged file.

    An EXIF orientation is applied if that gives the shape of the depth, which has none; then `turn=` of the convention.
    """
    try:
        image = read_image(frame.color, lies_upright(frame.color, frame.depth))
    except ValueError as error:
        raise SightwordError(str(error).replace(SKIP, "")) from None
    return turned(image, frame.convention.turn)


def turned(image: Image.Image, turn: str) -> Image.Image:
    """Return an image turned by one of `convention.TURNS`."""
    if turn.startswith("mirror"):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    degrees = int(turn.removeprefix("mirror") or 0)
    ways = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
    return image.transpose(ways[degrees]) if degrees else image


def lies_upright(color: Path, depth: Path) -> bool:
    """Return whether a colour file's EXIF orientation has to be applied to have it lie as depth does.

    Only a quarter turn can be told from the two shapes; other images are taken as they are stored, as depth is.
    """
    orientation, (height, width) = _stored(color)
    if orientation < 5:
        return False
    h, w = image_size(depth)
    return (height > width) != (h > w)


def color_size(color: Path, depth: Size, convention: Convention) -> Size:
    """Return (H, W) of what `read_color` returns. depth: the size of the depth image."""
    orientation, (height, width) = _stored(color)
    exif = orientation >= 5 and (height > width) != (depth[0] > depth[1])
    across = convention.turn.endswith(("90", "270"))
    return (width, height) if exif != across else (height, width)


def _stored(path: Path) -> tuple[int, Size]:
    """An image's EXIF orientation, 1 to 8, and its size (H, W) as it is stored."""
    try:
        with Image.open(path) as image:
            size = (image.height, image.width)
            try:
                orientation = int(image.getexif().get(ORIENTATION, 1))
            except Exception:  # a damaged EXIF block says nothing about the pixels
                orientation = 1
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except Exception as error:
        raise SightwordError(f"{path} is not readable as an image ({_reason(path, error)}). Export it again") from None
    return (orientation if 1 <= orientation <= 8 else 1), size


def read_depth(frame: Frame | Path, unit: float = MILLIMETRES) -> Tensor:
    """Return depth (H, W) float32 along z in metres, 0 where unknown.

    unit: how many of the file's units are a metre, for a file alone; a frame has a convention. Raises SightwordError
    for a file that is damaged, of another kind, or in metres by its values.
    """
    if not isinstance(frame, Frame):
        return stored_depth(Path(frame), unit)
    depth = stored_depth(frame.depth, frame.convention.depth_scale)
    return depth / ray_length(frame.K_depth, depth.shape) if frame.convention.depth == "ray" else depth


def ray_length(K: Tensor, size: Sequence[int]) -> Tensor:
    """Return the length (H, W) float32 of each pixel's ray whose part along z is 1."""
    v, u = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in size), indexing="ij")
    x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    return (x**2 + y**2 + 1).sqrt().float()


def stored_depth(path: Path, unit: float = MILLIMETRES) -> Tensor:
    """Return the values of a depth file over `unit`, (H, W) float32, 0 where unknown. Raises as `read_depth`."""
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


def intrinsics_of(
    folder: Path, name: str, color: Size, depth: Size, convention: Convention | None = None
) -> tuple[Tensor, Tensor]:
    """Return the intrinsics (3, 3) of the colour and of the depth frames, at the sizes that these have.

    What stands in the files may be of another size (scannet200-mv resizes the colour frames to 640 x 480 and keeps
    intrinsic_color of 1296 x 968): the principal point, near the middle, tells. Raises SightwordError if none fits.
    """
    said = convention or Convention()
    of_color, of_depth = _find_intrinsics(folder, name)
    if size := said.size():
        only = of_depth if of_depth is not None else of_color
        assert only is not None
        K_depth = resize_intrinsics(only, size, depth)
    elif of_depth is not None and _fits(of_depth, depth):
        K_depth = of_depth
    elif of_color is not None and _fits(of_color, color):
        K_depth = resize_intrinsics(of_color, color, depth)
    else:
        K, size, what = (of_depth, depth, "depth") if of_depth is not None else (of_color, color, "colour")
        assert K is not None
        raise SightwordError(
            f"{folder}: the intrinsics have the principal point ({K[0, 2]:.1f}, {K[1, 2]:.1f}), and the {what} frames "
            f"are {size[1]} x {size[0]}. Write the intrinsics of this size, or pass the size that they are of, "
            f"perhaps intrinsics_size={2 * K[1, 2] + 1:.0f}x{2 * K[0, 2] + 1:.0f}"
        )
    K_depth = _corrected(K_depth, depth, said)
    own = of_color is not None and _fits(of_color, color) and not (size and of_depth is None)
    K_color = of_color if own and of_color is not None else resize_intrinsics(K_depth, depth, color)
    return _scaled(K_color, said.color_focal_scale), K_depth


def _corrected(K: Tensor, size: Size, said: Convention) -> Tensor:
    """Intrinsics of depth images with the focal length and principal point that a convention says."""
    found = _scaled(K, said.focal_scale)
    if said.principal == "swapped":
        found[:2, 2] = found[:2, 2].flip(0)
    elif said.principal == "middle":
        found[:2, 2] = found.new_tensor([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return found


def _scaled(K: Tensor, factor: float) -> Tensor:
    found = K.clone()
    found[[0, 1], [0, 1]] *= factor
    return found


def _find_intrinsics(folder: Path, name: str) -> tuple[Tensor | None, Tensor | None]:
    """Of colour and of depth frames, (3, 3); one may be None, not both."""
    found: dict[str, Tensor | None] = {}
    for kind in ("color", "depth"):
        names = (f"intrinsic_{kind}.txt", f"intrinsics_{kind}.txt")
        files = [folder / part / name for part in ("intrinsic", "") for name in names]
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
    """Return depth, intrinsics and poses of frames of one scene, and their colour cameras, unless these are the depth
    cameras. Raises SightwordError if depths are of two sizes."""
    K, pose = (torch.stack(part).float() for part in zip(*((f.K_depth, f.pose) for f in frames), strict=True))
    depth = [read_depth(frame) for frame in frames]
    check_size(depth, [str(frame.depth) for frame in frames])
    scene = torch.zeros(len(frames), dtype=torch.int64)
    color = color_cameras(frames, (depth[0].shape[0], depth[0].shape[1]))
    made = Views(torch.stack(depth), K, pose, scene, None, color)
    return moved(made, device)


def color_cameras(frames: Sequence[Frame], depth: Size) -> ColorCamera | None:
    """Return the colour cameras of frames, on the grid of their depth images (H, W); None if they are the same cameras
    to within a twentieth of a pixel."""
    sizes = {frame.color: color_size(frame.color, depth, frame.convention) for frame in frames[:1]}
    size = sizes[frames[0].color]
    K, K_depth, place, bent = (
        torch.stack(part) for part in zip(*((f.K_color, f.K_depth, f.place, f.distortion) for f in frames), strict=True)
    )
    K = resize_intrinsics(K, size, depth)
    one = (place - torch.eye(4, dtype=place.dtype)).abs().amax() < 1e-6 and not bent.any()
    corners = torch.tensor([[-0.5, -0.5, 1], [depth[1] - 0.5, depth[0] - 0.5, 1]], dtype=torch.float64)
    apart = (K @ torch.linalg.inv(K_depth) @ corners.T - corners.T).abs().amax()
    if one and apart < SAME:
        return None
    return ColorCamera(K.float(), place.float(), bent.float())


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
    file = _scan_file(folder, name)
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


def _scan_file(folder: Path, name: str) -> Path | None:
    root = folder.resolve().parent.parent
    files = [folder / f"{name}.txt", *(root / part / name / f"{name}.txt" for part in ("3D", "scans"))]
    return next((file for file in files if file.is_file()), None)


def axis_alignment(folder: Path, name: str) -> np.ndarray | None:
    """Return ScanNet's axisAlignment (4, 4) float64, from the world of the poses to aligned axes; None if not there."""
    file = _scan_file(folder, name)
    found = file and re.search(r"^\s*axisAlignment\s*=\s*([-+.\deE \t]+)$", read_text(file, most=LONG), re.MULTILINE)
    values = np.array([float(part) for part in found[1].split()]) if found else np.empty(0)
    return values.reshape(4, 4) if values.size == 16 and abs(np.linalg.det(values.reshape(4, 4))) > 1e-6 else None


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
