"""Read and write point clouds as .ply files, as scanners and other programs write them.

Legend: N points.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sightword.errors import SightwordError
from sightword.storage.atomic import write_atomically

REACH = 1e5  # metres from the origin, at most
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


class Cloud(NamedTuple):
    """Points with colours, and labels if there are any."""

    xyz: Tensor  # (N, 3) float32, metres, in the world of the poses
    rgb: Tensor  # (N, 3) uint8; grey where the file has no colours
    label: Tensor | None = None  # (N,) int64, 0 none
    instance: Tensor | None = None  # (N,) int64, 0 none


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
    except Malformed as error:
        raise SightwordError(f"{path}: {error}") from None


class Malformed(Exception):
    """A problem in a file, whose name the message does not contain."""


def _header(content: bytes) -> tuple[str, list[_Element], int]:
    """Return (format, elements, offset of the data in bytes)."""
    if not content.startswith(b"ply"):
        raise Malformed("the file is empty" if not content else "not a .ply, which begins with ply")
    end = re.search(rb"(?m)^end_header[ \t]*\r?\n", content[:HEADER])
    if end is None:
        raise Malformed("its header has no end_header: the file is damaged")
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
                raise Malformed(f"unknown header line {line[:60]!r}")
    if order not in ORDERS:
        raise Malformed(f"its format is {order[:40]!r}; expected one of {', '.join(ORDERS)}")
    return order, elements, end.end()


def _vertices(content: bytes, order: str, elements: list[_Element], start: int) -> np.ndarray:
    """Return the vertices as a structured array with named columns."""
    at = next((number for number, element in enumerate(elements) if element.name == "vertex"), None)
    if at is None or not elements[at].rows:
        raise Malformed("it has no vertices")
    before, vertex = elements[:at], elements[at]
    if any(not kind for element in (*before, vertex) for _, kind in element.fields):
        raise Malformed("the vertices, or an element before them, have list properties. Write plain vertices first")
    kinds = [_row(element, order) for element in (*before, vertex)]
    if order == "ascii":
        return _ascii(content[start:], sum(element.rows for element in before), vertex, kinds[-1])
    start += sum(element.rows * kind.itemsize for element, kind in zip(before, kinds, strict=False))
    expected, found = vertex.rows * kinds[-1].itemsize, len(content) - start
    if expected > found:
        raise Malformed(
            f"its header states {vertex.rows} points of {kinds[-1].itemsize} bytes, and {max(found, 0)} bytes follow"
        )
    return np.frombuffer(content, kinds[-1], vertex.rows, start)


def _row(element: _Element, order: str) -> np.dtype:
    if not element.fields:
        raise Malformed(f"its element {element.name} has no property")
    try:
        return np.dtype([(name, ORDERS[order] + kind) for name, kind in element.fields])
    except ValueError:
        raise Malformed(f"its element {element.name} has a property twice") from None


def _ascii(body: bytes, before: int, vertex: _Element, kind: np.dtype) -> np.ndarray:
    if 2 * vertex.rows * len(vertex.fields) > len(body) + 1:
        raise Malformed(f"its header states {vertex.rows} points, and {len(body)} bytes follow")
    lines = [line for line in body.split(b"\n") if line.strip()][before : before + vertex.rows]
    rows = [line.split() for line in lines]
    if len(rows) < vertex.rows or any(len(row) != len(vertex.fields) for row in rows):
        bad = next((number for number, row in enumerate(rows) if len(row) != len(vertex.fields)), len(rows))
        raise Malformed(f"of {vertex.rows} points number {bad} does not have {len(vertex.fields)} values")
    table = np.empty(vertex.rows, kind)
    try:
        values = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise Malformed(f"its points are not numbers ({str(error)[:60]})") from None
    with np.errstate(invalid="ignore", over="ignore"):
        for column, name in enumerate(kind.names or ()):
            table[name] = values[:, column]
    return table


def _of_table(table: np.ndarray) -> Cloud:
    names = table.dtype.names or ()
    if lost := [axis for axis in "xyz" if axis not in names]:
        raise Malformed(f"its vertices have no {', '.join(lost)}, but {', '.join(names)[:80]}")
    with np.errstate(over="ignore"):
        xyz = np.stack([table[axis].astype(np.float32) for axis in "xyz"], 1)
    check_coordinates(xyz)
    channels = next((three for three in COLOURS if set(three) <= set(names)), None)
    rgb = np.full(xyz.shape, GREY, np.uint8) if channels is None else eight_bit([table[c] for c in channels])
    whole = [next((_whole(table[name], name) for name in some if name in names), None) for some in (LABELS, INSTANCES)]
    return Cloud(torch.from_numpy(xyz), torch.from_numpy(rgb), *whole)


def check_coordinates(xyz: np.ndarray) -> None:
    """Raise Malformed unless points (N, 3) are finite and within `REACH` metres of the origin."""
    if bad := int((~np.isfinite(xyz).all(1)).sum()):
        raise Malformed(f"{bad} of its {len(xyz)} points are not finite. Remove them")
    if (most := float(np.abs(xyz).max())) > REACH:
        raise Malformed(f"a point is {most:.3g} m away. Coordinates are in metres")


def eight_bit(channels: list[np.ndarray]) -> np.ndarray:
    """Return colour channels [(N,)] in 0 to 255, or floats in 0 to 1, as (N, C) uint8. Raises Malformed for others."""
    rgb = np.stack(channels, 1).astype(np.float64)
    scale = 255.0 if channels[0].dtype.kind == "f" and rgb.max() <= 1 else 1.0
    if not np.isfinite(rgb).all() or rgb.min() < 0 or rgb.max() * scale > 255:
        raise Malformed(f"its colours are {rgb.min():g} to {rgb.max():g}; expected 0 to 255, or 0 to 1")
    return np.rint(rgb * scale).astype(np.uint8)


def _whole(values: np.ndarray, name: str) -> Tensor:
    if values.dtype.kind == "f" and not ((np.abs(values) < 2**53).all() and (values == np.rint(values)).all()):
        raise Malformed(f"its {name} has values that are not whole numbers")
    return torch.from_numpy(values.astype(np.int64))


def write_ply(path: str | Path, cloud: Cloud, binary: bool = True, score: Tensor | None = None) -> None:
    """Write a .ply with colours, and with labels and instances if the cloud has them. score: (N,), one more."""
    columns: list[tuple[str, str, np.ndarray]] = []
    for axis, name in enumerate("xyz"):
        columns.append((name, "float", cloud.xyz[:, axis].cpu().numpy().astype("<f4")))
    for axis, name in enumerate(COLOURS[0]):
        columns.append((name, "uchar", cloud.rgb[:, axis].cpu().numpy()))
    for name, numbers in (("label", cloud.label), ("instance", cloud.instance)):
        if numbers is not None:
            columns.append((name, "int", numbers.cpu().numpy().astype("<i4")))
    if score is not None:
        columns.append(("score", "float", score.cpu().numpy().astype("<f4")))
    table = np.empty(len(cloud.xyz), [(name, values.dtype) for name, _, values in columns])
    for name, _, values in columns:
        table[name] = values
    kind = "binary_little_endian" if binary else "ascii"
    head = ["ply", f"format {kind} 1.0", f"element vertex {len(table)}"]
    head += [f"property {type_} {name}" for name, type_, _ in columns]
    rows = table.tobytes() if binary else "".join(" ".join(map(repr, row)) + "\n" for row in table.tolist()).encode()
    with write_atomically(path) as part:
        part.write_bytes("\n".join([*head, "end_header\n"]).encode() + rows)


# -------------------------------------------------------------------------------------------------------------- faces


class Faces(NamedTuple):
    """Faces of a mesh, with one number each."""

    corners: np.ndarray  # (M,) int64, the vertices of all faces, one face after the other
    face: np.ndarray  # (M,) int64, the face of each corner
    values: np.ndarray  # (F,) int64


def read_faces(path: str | Path, value: str) -> Faces:
    """Read the faces of a binary .ply whose vertices come first, with a property of each, as object_id.

    Raises SightwordError for a file without such faces, and for faces of vertices that do not exist.
    """
    path = Path(path)
    try:
        return _faces(path.read_bytes(), value)
    except OSError as error:
        raise SightwordError(f"{path} is not readable ({error.strerror or type(error).__name__})") from None
    except Malformed as error:
        raise SightwordError(f"{path}: {error}") from None


def _faces(content: bytes, value: str) -> Faces:
    order, elements, start = _header(content)
    if order == "ascii":
        raise Malformed("its faces are text. Write it as binary_little_endian")
    if [each.name for each in elements[:2]] != ["vertex", "face"] or not elements[1].rows:
        raise Malformed("expected vertices, then faces; the instances of a mesh stand at its faces")
    vertex, face = elements[:2]
    if any(not kind for _, kind in vertex.fields) or [bool(kind) for _, kind in face.fields].count(False) != 1:
        raise Malformed("expected plain vertices, and one list for each face")
    if value not in dict(face.fields):
        raise Malformed(f"its faces have {', '.join(dict(face.fields))}; {value} is missing")
    kinds = re.search(rb"property[ \t]+list[ \t]+(\w+)[ \t]+(\w+)", content[:start])
    assert kinds is not None
    count, index = (TYPES.get(part.decode()) for part in kinds.groups())
    if count is None or index is None:
        raise Malformed(f"the list of its faces is of {kinds[1].decode()} and {kinds[2].decode()}")
    start += vertex.rows * _row(vertex, order).itemsize
    corners, sides, values = _face_rows(
        content, start, face, (ORDERS[order] + count, ORDERS[order] + index), order, value
    )
    if len(corners) and not 0 <= corners.min() <= corners.max() < vertex.rows:
        raise Malformed(f"a face has vertex {corners.max()} of {vertex.rows}")
    return Faces(corners, np.repeat(np.arange(face.rows), sides), values)


def _face_rows(
    content: bytes, start: int, face: _Element, kinds: tuple[str, str], order: str, value: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners, the number of sides of each face, and values. Faces of equal sides are read at once."""
    parts: tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]] = ([], [], [])
    done, window = 0, 1 << 16
    list_name = next(name for name, kind in face.fields if not kind)
    first = face.fields.index((list_name, ""))
    offset = sum(np.dtype(kind).itemsize for _, kind in face.fields[:first])
    while done < face.rows:
        at = start + offset
        if at + np.dtype(kinds[0]).itemsize > len(content):
            raise Malformed(f"its header states {face.rows} faces, and the file ends at face {done}")
        sides = int(np.frombuffer(content, kinds[0], 1, at)[0])
        fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
        for name, kind in face.fields:
            fields += [(name, ORDERS[order] + kind)] if kind else [("#", kinds[0]), (name, kinds[1], (sides,))]
        row = np.dtype(fields)
        rows = min(window, face.rows - done, (len(content) - start) // row.itemsize)
        if rows < 1:
            raise Malformed(f"its header states {face.rows} faces, and the file ends at face {done}")
        table = np.frombuffer(content, row, rows, start)
        other = np.flatnonzero(table["#"] != sides)
        table = table[: other[0]] if len(other) else table
        window = 2 * len(table)  # of mixed faces few are looked at in vain
        parts[0].append(table[list_name].astype(np.int64).ravel())
        parts[1].append(np.full(len(table), sides))
        parts[2].append(table[value].astype(np.int64))
        done, start = done + len(table), start + len(table) * row.itemsize
    corners, counts, values = (np.concatenate(part) for part in parts)
    return corners, counts, values
