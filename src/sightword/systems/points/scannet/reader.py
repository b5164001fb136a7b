"""Posed RGB-D frames in ScanNet's layout, as its exporter, scannet200-mv, OpenScene and mmdetection3d write it.

    <root>/[2D/|posed_images/|scans/]<scene>/   or <root> itself
        color/<i>.jpg|png                       any size
        depth/<i>.png                           uint16, millimetres along z, 0 unknown; any size
        pose/<i>.txt                            4 x 4, camera-to-world, metres; -inf where tracking was lost
        intrinsic/intrinsic_{color,depth}.txt   3 x 3 or 4 x 4, in pixels whose middles are whole numbers
    or flat, as posed_images/<scene> has it: <i>.jpg, <i>.png, <i>.txt, intrinsic.txt (of the colour frames)

Intrinsics are always read, from whichever file has them; nothing is assumed. Colour and depth frames show the same
picture (ScanNet's are aligned; its authors ask to apply no extrinsic), so one's intrinsics, resized, are the other's.

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
from sightword.storage import shards
from sightword.systems.points.lift.geometry import Size, resize_intrinsics, so3
from sightword.systems.points.lift.link import Views

PLACES = ("2D", "posed_images", "scans", "scannet_2d", "")  # where a root keeps its scenes
COLOURS = (".jpg", ".jpeg", ".png")
MILLIMETRES = 1000.0
LOST = 65535  # some cameras' word for an unknown depth
LEAST = 100  # a frame whose greatest value is less than 10 cm is in no millimetres
SKIP = ", or set on_error=skip"  # what `read_image` advises, and frames have not
LONG = 1 << 16  # bytes; no matrix in text is longer
LABELS = "scannetv2-labels.combined.tsv"


class Frame(NamedTuple):
    """One posed picture; `read_color` and `read_depth` open its files."""

    index: int  # type: ignore[assignment]  # shadows a tuple's method
    color: Path
    depth: Path
    pose: Tensor  # (4, 4) float64, camera-to-world, its rotation projected onto SO(3)
    K_color: Tensor  # (3, 3) float64, of the colour file's pixels
    K_depth: Tensor  # (3, 3) float64, of the depth file's pixels


class Scene(NamedTuple):
    name: str
    folder: Path
    frames: list[Frame]  # by index
    skipped: list[str]  # a line for each frame that cannot be used: a pose that is not finite, a file that is missing


# ----------------------------------------------------------------------------------------------------------- finding


def find_scenes(root: str | Path) -> list[str]:
    """The scenes under a root, ordered by name; a root that is a scene itself is its only one. ValueError if none."""
    root = _there(root)
    if _is_scene(root):
        return [root.resolve().name]
    for place in PLACES:
        folder = root / place
        if found := sorted(path.name for path in folder.glob("*") if _is_scene(path)):
            return found
    raise ValueError(
        f"{root} holds no scene: a scene is a folder with color/, depth/, pose/ and intrinsic/, in 2D/, posed_images/, "
        "scans/ or in the root itself"
    )


def read_scenes_file(file: str | Path) -> list[str]:
    """The names of a list such as scannetv2_val.txt, one a line, each once, in its order; # begins a comment."""
    file = Path(file).expanduser()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ValueError(f"{file} is not there: scenes_file is a text file with the name of a scene a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no list of scenes ({type(error).__name__}): one name a line, in UTF-8") from None
    names = [name for line in lines if (name := line.split("#")[0].strip())]
    if not names:
        raise ValueError(f"{file} names no scene: write one a line")
    for name in names:
        _named(name, file)
    return list(dict.fromkeys(names))


def scene_folder(root: str | Path, scene: str = "") -> Path:
    """Where a scene's frames are. scene may be left out where the root is one. ValueError if it is not there."""
    root = _there(root)
    if _is_scene(root) and scene in ("", root.resolve().name):
        return root
    if not scene:
        found = find_scenes(root)
        raise ValueError(f"{root} holds {len(found)} scenes, {_few(found)}: say which")
    _named(scene, "scene")
    for place in PLACES:
        if _is_scene(folder := root / place / scene):
            return folder
    raise ValueError(f"scene {scene} is not under {root}, which has {_few(find_scenes(root))}")


def _there(root: str | Path) -> Path:
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"{root} is {'a file' if root.exists() else 'not there'}: root is a folder of scenes")
    return root


def _named(name: str, where: Path | str) -> None:
    if len(name) > 200 or not re.fullmatch(r"[^/\\\0]+", name) or name in (".", ".."):
        raise ValueError(f"{where}: {name[:60]!r} is no name of a scene: it is a folder's own name, without a path")


def _is_scene(folder: Path) -> bool:
    if not folder.is_dir() or folder.name.startswith("."):
        return False
    nested = [(folder / part).is_dir() for part in ("color", "depth", "pose")]
    return sum(nested) >= 2 or (any(folder.glob("[0-9]*.jpg")) and any(folder.glob("[0-9]*.txt")))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" … ({len(names)})" if len(names) > 4 else "")


# ----------------------------------------------------------------------------------------------------------- reading


def read_scene(root: str | Path, scene: str = "", frames: int | Sequence[int] | None = None) -> Scene:
    """A scene's frames, without opening all of them: poses and intrinsics are read, of images only the first's size.

    frames: so many, spread evenly from the first to the last that can be used; or those of these indices, where a frame
    that cannot be used is an error; None for all. ValueError, one line, for intrinsics that are missing or of another
    size, and where no frame is left.
    """
    folder = scene_folder(root, scene)
    name = scene or folder.resolve().name
    files = list_frames(folder)
    if not files:
        raise ValueError(f"{folder} has no frame: color/<i>.jpg, depth/<i>.png and pose/<i>.txt are expected")
    usable: dict[int, tuple[Path, Path, Tensor]] = {}
    skipped = []
    for index, parts in files.items():
        try:
            usable[index] = _whole(index, *parts)
        except ValueError as error:
            skipped.append(str(error))
    if not usable:
        raise ValueError(f"{folder}: not one of {len(files)} frames can be used, for instance {skipped[0]}")
    kept = _chosen(list(usable), frames, folder, skipped)
    first_color, first_depth, _ = usable[kept[0]]
    K_color, K_depth = intrinsics_of(folder, name, image_size(first_color), image_size(first_depth))
    return Scene(name, folder, [Frame(index, *usable[index], K_color, K_depth) for index in kept], skipped)


def say_skipped(scene: Scene) -> None:
    """A line on stderr, if frames of a scene cannot be used."""
    if count := len(scene.skipped):
        shards.say(
            f"{scene.name}: {count} {'frame is' if count == 1 else 'frames are'} passed over: {scene.skipped[0]}"
        )


Files = tuple[Path | None, Path | None, Path | None]  # colour, depth, pose


def list_frames(folder: Path) -> dict[int, Files]:
    """Index → its files, by index, whatever of them there is. In a flat folder a .png is a depth frame."""
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
    """RGB, 8 bit. ValueError, one line, for a file that is damaged."""
    try:
        return read_image(frame.color)
    except ValueError as error:
        raise ValueError(str(error).replace(SKIP, "")) from None


def read_depth(frame: Frame | Path, unit: float = MILLIMETRES) -> Tensor:
    """(H, W) float32 in metres, 0 where it is unknown. unit: how many of the file's units are a metre.

    ValueError, one line, for a file that is damaged, of another kind, or by its values in metres.
    """
    path = frame.depth if isinstance(frame, Frame) else Path(frame)
    try:
        with Image.open(path) as image:
            image.load()
            mode, values = image.mode, np.asarray(image)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever they like
        raise ValueError(f"{path} is not readable as a depth frame ({_reason(path, error)}): export it again") from None
    if values.ndim != 2 or not mode.startswith("I"):
        raise ValueError(f"{path} is of the kind {mode}, depth is one channel of 16 bits: export it in millimetres")
    most = int(values.max(initial=0))
    if values.min(initial=0) < 0 or most > LOST:
        raise ValueError(f"{path} has values from {values.min()} to {most}, depth has 0 to {LOST}")
    if unit == MILLIMETRES and 0 < most < LEAST:
        raise ValueError(f"{path}: its greatest value is {most}, as metres would have it: depth is in millimetres")
    known = np.where(values == LOST, 0, values)
    return torch.from_numpy(known.astype(np.float32) / np.float32(unit))


def read_classes(root: str | Path) -> dict[int, str]:
    """What the numbers of a labelled cloud mean: the columns id and category of scannetv2-labels.combined.tsv, which is
    looked for in the root and in its meta_data. ValueError where there is none, or it is none."""
    root = Path(root).expanduser()
    places = [base / part / LABELS for base in (root, root.parent, root.parent.parent) for part in ("", "meta_data")]
    file = next((path for path in places if path.is_file()), None)
    if file is None:
        raise ValueError(f"{LABELS} is neither in {root} nor in its meta_data: it names the classes of the labels")
    head, *rows = (line.split("\t") for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    if not {"id", "category"} <= set(head):
        raise ValueError(f"{file} has the columns {_few(head)}: id and category are needed")
    at, name = head.index("id"), head.index("category")
    rows = [row for row in rows if len(row) > max(at, name)]
    if bad := next((row for row in rows if not row[at].isdecimal()), None):
        raise ValueError(f"{file}: {bad[at]!r} is no id, they are whole numbers")
    return {int(row[at]): row[name] for row in reversed(rows)}  # of two rows with one id the first counts


def image_size(path: Path) -> Size:
    """(H, W) by the file's header."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{path} is not readable as an image ({_reason(path, error)}): export it again") from None


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
            raise ValueError(f"frames is {frames}: a scene is read by one frame at least")
        at = np.linspace(0, len(usable) - 1, min(frames, len(usable))).round().astype(int)
        return [usable[i] for i in at.tolist()]
    for index in frames:
        if index not in usable:
            known = next((line for line in skipped if line.startswith(f"frame {index}:")), f"there is no frame {index}")
            raise ValueError(f"{folder}: {known}; {len(usable)} others can be used")
    return sorted(set(frames))


# ---------------------------------------------------------------------------------------------- poses and intrinsics


def _whole(index: int, color: Path | None, depth: Path | None, pose: Path | None) -> tuple[Path, Path, Tensor]:
    """A frame's images and its pose. ValueError, beginning with the frame, if it cannot be used."""
    if color is None or depth is None or pose is None:
        lost = [part for part, file in (("colour", color), ("depth", depth), ("pose", pose)) if file is None]
        raise ValueError(f"frame {index}: its {' and its '.join(lost)} is missing")
    try:
        return color, depth, so3(_affine(read_matrix(pose, (4, 4))))
    except ValueError as error:
        raise ValueError(f"frame {index}: {error}") from None


def _affine(values: np.ndarray) -> Tensor:
    if np.isfinite(values).all() and np.abs(values[3] - (0, 0, 0, 1)).max() > 1e-3:
        raise ValueError(f"its pose ends with {' '.join(f'{value:g}' for value in values[3])}, a motion with 0 0 0 1")
    return torch.from_numpy(values)


def read_matrix(file: Path, *shapes: tuple[int, int]) -> np.ndarray:
    """Numbers in text as float64, -inf and nan among them. ValueError if they are of no shape that is expected."""
    try:
        if file.stat().st_size > LONG:
            raise ValueError(f"it has {file.stat().st_size} bytes")
        words = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        values = np.array(words, dtype=np.float64)
    except FileNotFoundError:
        raise ValueError(f"{file} is not there") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} is no matrix in text ({' '.join(str(error).split())[:60]})") from None
    if values.shape not in shapes:
        wanted = " or ".join(f"{rows} x {columns}" for rows, columns in shapes)
        raise ValueError(f"{file} is {' x '.join(map(str, values.shape))} numbers, {wanted} are expected")
    return values


def intrinsics_of(folder: Path, name: str, color: Size, depth: Size) -> tuple[Tensor, Tensor]:
    """(3, 3) of the colour and of the depth frames, at the sizes that these have.

    What stands in the files may be of another size (scannet200-mv resizes the colour frames to 640 x 480 and keeps
    intrinsic_color of 1296 x 968): the principal point, near the middle, tells. ValueError where none can be right.
    """
    of_color, of_depth = _find_intrinsics(folder, name)
    if of_depth is not None and _fits(of_depth, depth):
        K_depth = of_depth
    elif of_color is not None and _fits(of_color, color):
        K_depth = resize_intrinsics(of_color, color, depth)
    else:
        K, size, what = (of_depth, depth, "depth") if of_depth is not None else (of_color, color, "colour")
        assert K is not None
        raise ValueError(
            f"{folder}: the intrinsics have their middle at ({K[0, 2]:.1f}, {K[1, 2]:.1f}), the {what} frames are "
            f"{size[1]} x {size[0]}: these are of another size"
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
        raise ValueError(
            f"{folder} has no intrinsics: write intrinsic/intrinsic_depth.txt, 3 x 3 with fx 0 cx / 0 fy cy / 0 0 1"
        )
    return found["color"], found["depth"]


def views_of(frames: Sequence[Frame], device: str = "cpu") -> Views:
    """Depth, cameras and poses of the frames of one scene. ValueError if their depths are of two sizes."""
    K, pose = (torch.stack(part).float() for part in zip(*((f.K_depth, f.pose) for f in frames), strict=True))
    depth = [read_depth(frame) for frame in frames]
    check_size(depth, [str(frame.depth) for frame in frames])
    scene = torch.zeros(len(frames), dtype=torch.int64)
    return Views(*(part.to(device) for part in (torch.stack(depth), K, pose, scene)))


def check_size(depths: Sequence[Tensor], names: Sequence[str]) -> None:
    """ValueError where depth images are of two sizes."""
    for depth, name in zip(depths, names, strict=True):
        if depth.shape[-2:] != depths[0].shape[-2:]:
            one, other = ("×".join(map(str, part.shape[-2:])) for part in (depths[0], depth))
            raise ValueError(
                f"depth of {names[0]} is {one} and of {name} {other} pixels: views go together in one size, so resize "
                "them; scenes of several sizes train with data.batch_size=1"
            )


def _pinhole(file: Path) -> Tensor:
    K = read_matrix(file, (3, 3), (4, 4))[:3, :3]
    if not np.isfinite(K).all() or min(K[0, 0], K[1, 1]) <= 0 or np.abs(K[2] - (0, 0, 1)).max() > 1e-6:
        raise ValueError(f"{file} is no pinhole camera: fx 0 cx / 0 fy cy / 0 0 1 with fx, fy above 0 is expected")
    return torch.from_numpy(K.copy())


def _by_scan(folder: Path, name: str) -> dict[str, Tensor | None]:
    """From ScanNet's own <scene>.txt (fx_depth = 577.87 …), which scannet200-mv keeps in 3D/<scene>."""
    files = [folder / f"{name}.txt", folder.parent.parent / "3D" / name / f"{name}.txt"]
    file = next((file for file in files if file.is_file() and file.stat().st_size <= LONG), None)
    found: dict[str, Tensor | None] = {"color": None, "depth": None}
    if file is None:
        return found
    said = dict(re.findall(r"^\s*(\w+)\s*=\s*([-+.\deE]+)\s*$", file.read_text(encoding="utf-8"), re.MULTILINE))
    for kind in found:
        try:
            fx, fy, cx, cy = (float(said[f"{part}_{kind}"]) for part in ("fx", "fy", "mx", "my"))
        except (KeyError, ValueError):
            continue
        found[kind] = torch.tensor([(fx, 0, cx), (0, fy, cy), (0, 0, 1)], dtype=torch.float64)
    return found


def _fits(K: Tensor, size: Size) -> bool:
    """The principal point is nearer to the middle of such a picture than a quarter of it."""
    return all(abs((at + 0.5) / side - 0.5) < 0.25 for at, side in zip(K[:2, 2].tolist(), size[::-1], strict=True))
