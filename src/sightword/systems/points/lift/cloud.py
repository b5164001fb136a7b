"""Point clouds: .ply, the headerless .bin of scannet200-mv, and clouds fused from depth frames.

A header that states more points than the file has bytes for is refused before anything is allocated.

Legend: N points; H, W pixels.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sightword.errors import SightwordError
from sightword.storage.atomic import write_atomically
from sightword.systems.points.lift.geometry import back_project
from sightword.systems.points.scannet.reader import Frame, Scene, read_color, read_depth

HEADER = 1 << 16  # bytes; a .ply's header is shorter
TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
COLOURS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
LABELS = ("label", "scalar_label", "class", "semantic")
INSTANCES = ("instance", "instance_id", "object_id", "objectId")
GREY = 160
REACH = 1e5  # metres; voxels are numbered within


class Cloud(NamedTuple):
    """Points with colours, and labels if there are any."""

    xyz: Tensor  # (N, 3) float32, metres, in the world of the poses
    rgb: Tensor  # (N, 3) uint8; grey where the file has no colours
    label: Tensor | None = None  # (N,) int64, 0 none
    instance: Tensor | None = None  # (N,) int64, 0 none


def read_cloud(path: str | Path) -> Cloud:
    """Read a .ply, a .bin, or a folder of .bin files. Raises SightwordError for what is not readable as one."""
    path = Path(path).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.bin"), key=lambda file: (len(file.stem), file.stem))
        if not files:
            raise SightwordError(
                f"{path} contains no .bin. Pass a .ply, or a folder such as points/<scene> of scannet200-mv"
            )
        return _joined([read_bin(file) for file in files])
    readers = {".ply": read_ply, ".bin": read_bin}
    if path.suffix.lower() not in readers:
        raise SightwordError(f"{path} is not a point cloud. Pass a {' or '.join(readers)}")
    if not path.is_file():
        raise SightwordError(f"{path} does not exist. Pass a .ply or a .bin")
    return readers[path.suffix.lower()](path)


def _joined(clouds: list[Cloud]) -> Cloud:
    """Concatenate clouds; labels only if all have them."""
    xyz, rgb, label, instance = zip(*clouds, strict=True)
    labels = [None if any(part is None for part in parts) else torch.cat(parts) for parts in (label, instance)]
    return Cloud(torch.cat(xyz), torch.cat(rgb), *labels)


# -------------------------------------------------------------------------------------------------------------- ply


class _Element(NamedTuple):
    name: str
    rows: int
    fields: list[tuple[str, str]]  # name and numpy's type, which is empty for a list


def read_ply(path: str | Path) -> Cloud:
    """Read the vertices, ascii or binary, with colours, labels and instances if there are any; faces are ignored."""
    path = Path(path)
    try:
        content = path.read_bytes()
        order, elements, start = _header(content)
        table = _vertices(content, order, elements, start)
        return _of_table(table)
    except OSError as error:
        raise SightwordError(f"{path} is not readable ({error.strerror or type(error).__name__})") from None
    except _Malformed as error:
        raise SightwordError(f"{path}: {error}") from None


class _Malformed(Exception):
    """What is wrong, without the file's name."""


def _header(content: bytes) -> tuple[str, list[_Element], int]:
    """The format, the elements, and where the data begin."""
    if not content.startswith(b"ply"):
        raise _Malformed("the file is empty" if not content else "not a .ply, which begins with ply")
    end = re.search(rb"(?m)^end_header[ \t]*\r?\n", content[:HEADER])
    if end is None:
        raise _Malformed("its header has no end_header: the file is damaged")
    order, elements = "", []
    for line in content[: end.start()].decode("ascii", "replace").splitlines()[1:]:
        match line.split():
            case ["format", kind, _]:
                order = kind
            case ["element", name, count] if count.isdecimal() and len(count) < 16:
                elements.append(_Element(name, int(count), []))
            case ["property", "list", _, _, name] if elements:
                elements[-1].fields.append((name, ""))
            case ["property", kind, name] if elements and kind in TYPES:
                elements[-1].fields.append((name, TYPES[kind]))
            case [] | ["comment" | "obj_info", *_]:
                pass
            case _:
                raise _Malformed(f"unknown header line {line[:60]!r}")
    if order not in ORDERS:
        raise _Malformed(f"its format is {order[:40]!r}; expected one of {', '.join(ORDERS)}")
    return order, elements, end.end()


def _vertices(content: bytes, order: str, elements: list[_Element], start: int) -> np.ndarray:
    """The vertices as a table with named columns."""
    at = next((number for number, element in enumerate(elements) if element.name == "vertex"), None)
    if at is None or not elements[at].rows:
        raise _Malformed("it has no vertices")
    before, vertex = elements[:at], elements[at]
    if any(not kind for element in (*before, vertex) for _, kind in element.fields):
        raise _Malformed("the vertices, or an element before them, have list properties. Write plain vertices first")
    kinds = [_row(element, order) for element in (*before, vertex)]
    if order == "ascii":
        return _ascii(content[start:], sum(element.rows for element in before), vertex, kinds[-1])
    start += sum(element.rows * kind.itemsize for element, kind in zip(before, kinds, strict=False))
    wanted, there = vertex.rows * kinds[-1].itemsize, len(content) - start
    if wanted > there:
        raise _Malformed(
            f"its header states {vertex.rows} points of {kinds[-1].itemsize} bytes, and {max(there, 0)} bytes follow"
        )
    return np.frombuffer(content, kinds[-1], vertex.rows, start)


def _row(element: _Element, order: str) -> np.dtype:
    if not element.fields:
        raise _Malformed(f"its element {element.name} has no property")
    try:
        return np.dtype([(name, ORDERS[order] + kind) for name, kind in element.fields])
    except ValueError:
        raise _Malformed(f"its element {element.name} has a property twice") from None


def _ascii(body: bytes, before: int, vertex: _Element, kind: np.dtype) -> np.ndarray:
    if 2 * vertex.rows * len(vertex.fields) > len(body) + 1:
        raise _Malformed(f"its header states {vertex.rows} points, and {len(body)} bytes follow")
    lines = [line for line in body.split(b"\n") if line.strip()][before : before + vertex.rows]
    rows = [line.split() for line in lines]
    if len(rows) < vertex.rows or any(len(row) != len(vertex.fields) for row in rows):
        bad = next((number for number, row in enumerate(rows) if len(row) != len(vertex.fields)), len(rows))
        raise _Malformed(f"of {vertex.rows} points number {bad} does not have {len(vertex.fields)} values")
    table = np.empty(vertex.rows, kind)
    try:
        values = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise _Malformed(f"its points are not numbers ({str(error)[:60]})") from None
    with np.errstate(invalid="ignore", over="ignore"):
        for column, name in enumerate(kind.names or ()):
            table[name] = values[:, column]
    return table


def _of_table(table: np.ndarray) -> Cloud:
    names = table.dtype.names or ()
    if lost := [axis for axis in "xyz" if axis not in names]:
        raise _Malformed(f"its vertices have no {', '.join(lost)}, but {', '.join(names)[:80]}")
    with np.errstate(over="ignore"):
        xyz = np.stack([table[axis].astype(np.float32) for axis in "xyz"], 1)
    _finite(xyz)
    channels = next((three for three in COLOURS if set(three) <= set(names)), None)
    rgb = np.full(xyz.shape, GREY, np.uint8) if channels is None else _eight_bit([table[c] for c in channels])
    whole = [next((_whole(table[name], name) for name in some if name in names), None) for some in (LABELS, INSTANCES)]
    return Cloud(torch.from_numpy(xyz), torch.from_numpy(rgb), *whole)


def _finite(xyz: np.ndarray) -> None:
    if bad := int((~np.isfinite(xyz).all(1)).sum()):
        raise _Malformed(f"{bad} of its {len(xyz)} points are not finite. Remove them")
    if (most := float(np.abs(xyz).max())) > REACH:
        raise _Malformed(f"a point is {most:.3g} m away. Coordinates are in metres")


def _eight_bit(channels: list[np.ndarray]) -> np.ndarray:
    rgb = np.stack(channels, 1).astype(np.float64)
    scale = 255.0 if channels[0].dtype.kind == "f" and rgb.max() <= 1 else 1.0
    if not np.isfinite(rgb).all() or rgb.min() < 0 or rgb.max() * scale > 255:
        raise _Malformed(f"its colours are {rgb.min():g} to {rgb.max():g}; expected 0 to 255, or 0 to 1")
    return np.rint(rgb * scale).astype(np.uint8)


def _whole(values: np.ndarray, name: str) -> Tensor:
    if values.dtype.kind == "f" and not ((np.abs(values) < 2**53).all() and (values == np.rint(values)).all()):
        raise _Malformed(f"its {name} has values that are not whole numbers")
    return torch.from_numpy(values.astype(np.int64))


def write_ply(path: str | Path, cloud: Cloud, binary: bool = True) -> None:
    """Write a .ply with colours, and with labels and instances if the cloud has them."""
    columns: list[tuple[str, str, np.ndarray]] = []
    for axis, name in enumerate("xyz"):
        columns.append((name, "float", cloud.xyz[:, axis].cpu().numpy().astype("<f4")))
    for axis, name in enumerate(COLOURS[0]):
        columns.append((name, "uchar", cloud.rgb[:, axis].cpu().numpy()))
    for name, numbers in (("label", cloud.label), ("instance", cloud.instance)):
        if numbers is not None:
            columns.append((name, "int", numbers.cpu().numpy().astype("<i4")))
    table = np.empty(len(cloud.xyz), [(name, values.dtype) for name, _, values in columns])
    for name, _, values in columns:
        table[name] = values
    kind = "binary_little_endian" if binary else "ascii"
    head = ["ply", f"format {kind} 1.0", f"element vertex {len(table)}"]
    head += [f"property {type_} {name}" for name, type_, _ in columns]
    rows = table.tobytes() if binary else "".join(" ".join(map(repr, row)) + "\n" for row in table.tolist()).encode()
    with write_atomically(path) as part:
        part.write_bytes("\n".join([*head, "end_header\n"]).encode() + rows)


# -------------------------------------------------------------------------------------------------------------- bin


def read_bin(path: str | Path) -> Cloud:
    """Read points/<scene>/<i>.bin: float32 (N, 6), x y z in metres, r g b 0 to 255, without a header.

    Labels come from the files of the same name in semantic_mask and instance_mask, int64 (N,), if these exist.
    """
    path = Path(path)
    try:
        values = _numbers(path, "<f4", 6).reshape(-1, 6)
        xyz = np.ascontiguousarray(values[:, :3])
        _finite(xyz)
        rgb = _eight_bit(list(values[:, 3:].astype(np.float64).round(3).T))
        masks = [_mask(path, folder, len(xyz)) for folder in ("semantic_mask", "instance_mask")]
    except _Malformed as error:
        raise SightwordError(f"{path}: {error}") from None
    return Cloud(torch.from_numpy(xyz), torch.from_numpy(rgb), *masks)


def _numbers(path: Path, kind: str, columns: int) -> np.ndarray:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _Malformed(f"it is not readable ({error.strerror or type(error).__name__})") from None
    row = columns * np.dtype(kind).itemsize
    if not content or len(content) % row:
        raise _Malformed(f"its {len(content)} bytes are not a multiple of {row}, a row: the file is damaged")
    return np.frombuffer(content, kind).astype(np.dtype(kind).newbyteorder("="))


def _mask(path: Path, folder: str, count: int) -> Tensor | None:
    file = path.parent.parent.parent / folder / path.parent.name / path.name
    if not file.is_file():
        return None
    values = _numbers(file, "<i8", 1)
    if len(values) != count:
        raise _Malformed(f"it has {count} points, and {file} {len(values)}")
    return torch.from_numpy(values)


# ------------------------------------------------------------------------------------------------------ of a scene


def scene_cloud(scene: Scene, voxel: float = 0.03) -> Cloud:
    """Return the recorded cloud of a scene, or one fused from the depth of its frames if none is recorded."""
    files = recorded(scene.folder, scene.name)
    if not files:
        return fuse(scene.frames, voxel)
    cloud = read_cloud(files["points"])
    if "labels" not in files:
        return cloud
    named = read_cloud(files["labels"])
    if len(named.xyz) != len(cloud.xyz):
        raise SightwordError(f"{files['points']} has {len(cloud.xyz)} points, {files['labels']} {len(named.xyz)}")
    return cloud._replace(label=named.label, instance=named.instance)


def recorded(folder: Path, name: str) -> Mapping[str, Path]:
    """Return {"points": …, "labels": …} of a scene, empty if none is recorded; ScanNet's labels are another .ply."""
    root = folder.resolve().parent.parent
    for place in (folder, root / "3D" / name, root / "scans" / name, root / name):
        points, labels = (place / f"{name}_vh_clean_2{end}.ply" for end in ("", ".labels"))
        if points.is_file():
            return {"points": points, **({"labels": labels} if labels.is_file() else {})}
    for path in (folder / "points.ply", root / "points" / name):
        if path.is_file() or any(path.glob("*.bin")):
            return {"points": path}
    return {}


def fuse(frames: Iterable[Frame], voxel: float = 0.03, far: float = 10.0) -> Cloud:
    """Back-project depth frames into one cloud with a point per voxel: the mean of its points, and of their colours.

    voxel, far: metres; depth beyond `far` is ignored. Raises SightwordError if nothing was measured.
    """
    if not voxel > 0:
        raise SightwordError(f"voxel={voxel} is not a length in metres. Pass a number above 0")
    keys, sums = np.empty(0, np.int64), np.empty((0, 7))
    count = 0
    for frame in frames:
        points = measured(frame, far).numpy()
        found = voxels(points[:, :3], voxel)
        rows = np.concatenate([points, np.ones((len(points), 1), np.float32)], 1)  # (N, 7)
        keys, sums = _thinned(np.concatenate([keys, found]), np.concatenate([sums, rows]))
        count += 1
    if not len(keys):
        raise SightwordError(f"{count} depth frames show nothing within {far} m. Depth is in millimetres")
    mean = sums[:, :6] / sums[:, 6:]
    return Cloud(torch.from_numpy(mean[:, :3].astype(np.float32)), torch.from_numpy(np.rint(mean[:, 3:]).astype("u1")))


def measured(frame: Frame, far: float = 10.0) -> Tensor:
    """Return the points of a frame's depth, (N, 6) float32: x y z in the world, r g b of the colour frame."""
    depth = read_depth(frame)
    known = ((depth > 0) & (depth <= far)).flatten()
    h, w = depth.shape
    image = read_color(frame)
    picture = np.array(image if image.size == (w, h) else image.resize((w, h)))
    rgb = torch.from_numpy(picture).flatten(0, 1)[known].float()
    return torch.cat([back_project(depth, frame.K_depth, frame.pose)[known], rgb], 1)


def voxels(xyz: np.ndarray, voxel: float) -> np.ndarray:
    """Return a number for each point's voxel, 21 bits an axis. Raises SightwordError for points beyond that range."""
    cells = np.floor(xyz.astype(np.float64) / voxel).astype(np.int64) + (1 << 20)
    if len(cells) and (cells.min() < 0 or cells.max() >= 1 << 21):
        raise SightwordError(f"a point is {np.abs(xyz).max():.3g} m from the origin. Clouds and poses are in metres")
    return (cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2]


def _thinned(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the rows of each key, the keys in order."""
    found, at = np.unique(keys, return_inverse=True)
    sums = [np.bincount(at, rows[:, column], len(found)) for column in range(rows.shape[1])]
    return found, np.stack(sums, 1)


def thinned(cloud: Cloud, voxel: float) -> Cloud:
    """Return the first point of each voxel, in the cloud's order. voxel: metres."""
    _, first = np.unique(voxels(cloud.xyz.numpy(), voxel), return_index=True)
    kept = torch.from_numpy(np.sort(first))
    label, instance = (None if part is None else part[kept] for part in (cloud.label, cloud.instance))
    return Cloud(cloud.xyz[kept], cloud.rgb[kept], label, instance)


def class_numbers(cloud: Cloud, ids: Sequence[int]) -> Tensor:
    """Return the classes (N,) int64 of a cloud's labels, numbered as they stand in `ids`; -1 for a label that is none
    of them, and for a cloud without labels."""
    if cloud.label is None:
        return torch.full((len(cloud.xyz),), -1)
    order = np.argsort(ids)
    known, labels = np.asarray(ids)[order], cloud.label.numpy()
    at = np.searchsorted(known, labels).clip(max=len(known) - 1)
    return torch.from_numpy(np.where(known[at] == labels, order[at], -1).astype(np.int64))
