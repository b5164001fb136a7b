"""The cloud of a scene: its .ply, the headerless .bin of scannet200-mv, or one that is fused from depth frames.

Legend: N points; H, W pixels.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sightword.errors import SightwordError
from sightword.storage.ply import Cloud, Malformed, check_coordinates, eight_bit, read_ply
from sightword.systems.points.lift.geometry import ColorCamera, back_project, cells, in_color
from sightword.systems.points.scannet.convention import read_mesh
from sightword.systems.points.scannet.pose import axes_matrix
from sightword.systems.points.scannet.reader import (
    Frame,
    Scene,
    axis_alignment,
    color_cameras,
    read_color,
    read_depth,
)

GREY = 128  # of a point that no colour camera shows


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


# -------------------------------------------------------------------------------------------------------------- bin


def read_bin(path: str | Path) -> Cloud:
    """Read points/<scene>/<i>.bin: float32 (N, 6), x y z in metres, r g b 0 to 255, without a header.

    Labels come from the files of the same name in semantic_mask and instance_mask, int64 (N,), if these exist.
    """
    path = Path(path)
    try:
        values = _numbers(path, "<f4", 6).reshape(-1, 6)
        xyz = np.ascontiguousarray(values[:, :3])
        check_coordinates(xyz)
        rgb = eight_bit(list(values[:, 3:].astype(np.float64).round(3).T))
        masks = [_mask(path, folder, len(xyz)) for folder in ("semantic_mask", "instance_mask")]
    except Malformed as error:
        raise SightwordError(f"{path}: {error}") from None
    return Cloud(torch.from_numpy(xyz), torch.from_numpy(rgb), *masks)


def _numbers(path: Path, kind: str, columns: int) -> np.ndarray:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Malformed(f"it is not readable ({error.strerror or type(error).__name__})") from None
    row = columns * np.dtype(kind).itemsize
    if not content or len(content) % row:
        raise Malformed(f"its {len(content)} bytes are not a multiple of {row}, a row: the file is damaged")
    return np.frombuffer(content, kind).astype(np.dtype(kind).newbyteorder("="))


def _mask(path: Path, folder: str, count: int) -> Tensor | None:
    file = path.parent.parent.parent / folder / path.parent.name / path.name
    if not file.is_file():
        return None
    values = _numbers(file, "<i8", 1)
    if len(values) != count:
        raise Malformed(f"it has {count} points, and {file} {len(values)}")
    return torch.from_numpy(values)


# ------------------------------------------------------------------------------------------------------ of a scene


def scene_cloud(scene: Scene, voxel: float = 0.03) -> Cloud:
    """Return the recorded cloud of a scene in the world of its poses, as `mesh` of the convention says; or one fused
    from the depth of its frames if none is recorded."""
    files = recorded(scene.folder, scene.name)
    if not files or scene.convention.mesh == "fused":
        return fuse(scene.frames, voxel)
    cloud = in_world(read_cloud(files["points"]), scene)
    if "labels" not in files:
        return cloud
    named = read_cloud(files["labels"])
    if len(named.xyz) != len(cloud.xyz):
        raise SightwordError(f"{files['points']} has {len(cloud.xyz)} points, {files['labels']} {len(named.xyz)}")
    return cloud._replace(label=named.label, instance=named.instance)


def in_world(cloud: Cloud, scene: Scene) -> Cloud:
    """Return a recorded cloud in the world of the scene's poses. Raises SightwordError for mesh=aligned without an
    axisAlignment beside it."""
    mesh = scene.convention.mesh
    if mesh == "world":
        return cloud
    xyz = cloud.xyz.double()
    if mesh == "aligned":
        aligned = axis_alignment(scene.folder, scene.name)
        if aligned is None:
            raise SightwordError(
                f"mesh=aligned: {scene.name}.txt with axisAlignment does not exist. Pass another mesh="
            )
        back = torch.linalg.inv(torch.from_numpy(aligned))
        return cloud._replace(xyz=(xyz @ back[:3, :3].T + back[:3, 3]).float())
    change = read_mesh(mesh)
    assert change is not None
    scale, axes = change
    return cloud._replace(xyz=(scale * xyz @ torch.from_numpy(axes_matrix(axes))).float())


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
    keys, sums = np.empty(0, np.int64), np.empty((0, 8))
    count = 0
    for frame in frames:
        points = measured(frame, far).numpy()
        found = voxels(points[:, :3], voxel)
        coloured = np.isfinite(points[:, 3:4]).astype(np.float32)
        rows = np.concatenate([np.nan_to_num(points), np.ones_like(coloured), coloured], 1)  # (N, 8)
        keys, sums = _thinned(np.concatenate([keys, found]), np.concatenate([sums, rows]))
        count += 1
    if not len(keys):
        raise SightwordError(f"{count} depth frames show nothing within {far} m. Depth is in millimetres")
    xyz, rgb = sums[:, :3] / sums[:, 6:7], sums[:, 3:6] / np.maximum(sums[:, 7:], 1)
    rgb[sums[:, 7] == 0] = GREY
    return Cloud(torch.from_numpy(xyz.astype(np.float32)), torch.from_numpy(np.rint(rgb).astype("u1")))


def measured(frame: Frame, far: float = 10.0) -> Tensor:
    """Return the points of a frame's depth, (N, 6) float32: x y z in the world, r g b of the colour frame, NaN for
    points that its camera does not show."""
    depth = read_depth(frame)
    known = ((depth > 0) & (depth <= far)).flatten()
    h, w = depth.shape
    image = read_color(frame)
    picture = np.array(image if image.size == (w, h) else image.resize((w, h)))
    rgb = torch.from_numpy(picture).flatten(0, 1)
    color = color_cameras([frame], (h, w))
    colours = rgb[known].float() if color is None else _seen_colours(rgb, depth, known, frame, color)
    return torch.cat([back_project(depth, frame.K_depth, frame.pose)[known], colours], 1)


def _seen_colours(rgb: Tensor, depth: Tensor, known: Tensor, frame: Frame, color: ColorCamera) -> Tensor:
    """The colours (n, 3) of the known pixels, by the colour camera; NaN beside its image."""
    h, w = depth.shape
    at = known.nonzero().squeeze(1)
    uv = torch.stack([at % w, at // w], 1).float()
    cameras = ColorCamera(*(part.expand(len(at), *part.shape[1:]) for part in color))
    K = frame.K_depth.float().expand(len(at), 3, 3)
    uv, seen = in_color(uv, depth.flatten()[at], K, cameras, (h, w))
    return rgb[cells(uv, (h, w))].float().masked_fill(~seen[:, None], torch.nan)


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
