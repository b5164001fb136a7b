import struct

import numpy as np
import pytest
import torch

from sightword.miniature import room
from sightword.storage.ply import Cloud, write_ply
from sightword.systems.points.lift.cloud import fuse, read_cloud, recorded, scene_cloud, voxels
from sightword.systems.points.scannet.reader import read_scene


@pytest.fixture(scope="module")
def cloud():
    rng = torch.Generator().manual_seed(0)
    return Cloud(
        torch.randn(50, 3, generator=rng),
        torch.randint(256, (50, 3), generator=rng, dtype=torch.uint8),
        torch.randint(20, (50,), generator=rng),
        torch.randint(9, (50,), generator=rng),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("rooms")
    room.write_scene(root, 0, frames=8, color=(60, 80), depth=(48, 64), voxel=0.15)
    return root


def _same(one, other):
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (torch.equal(a, b) and a.dtype == b.dtype)


def _said(path):
    with pytest.raises(ValueError) as error:
        read_cloud(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------------------------- ply


@pytest.mark.parametrize("binary", [True, False])
def test_a_ply_comes_back_as_it_was(cloud, tmp_path, binary):
    for some in (cloud, Cloud(cloud.xyz, cloud.rgb), cloud._replace(instance=None)):
        write_ply(tmp_path / "a.ply", some, binary)
        _same(read_cloud(tmp_path / "a.ply"), some)


def test_a_ply_is_written_as_the_format_says(tmp_path):
    write_ply(tmp_path / "a.ply", Cloud(torch.tensor([(1.0, 2.0, -0.5)]), torch.tensor([(1, 2, 255)]).byte()), False)
    assert (tmp_path / "a.ply").read_text().splitlines() == [
        "ply", "format ascii 1.0", "element vertex 1", "property float x", "property float y", "property float z",
        "property uchar red", "property uchar green", "property uchar blue", "end_header", "1.0 2.0 -0.5 1 2 255",
    ]  # fmt: skip


def _ply(lines, body=b""):
    return "\n".join(["ply", *lines, "end_header\n"]).encode() + body


XYZ = ["property float x", "property float y", "property float z"]


def test_other_writers_plys_are_read(tmp_path):
    """With faces, comments, another order of bytes, doubles, further columns, colours from 0 to 1, no colours."""
    file = tmp_path / "a.ply"
    head = ["format binary_little_endian 1.0", "comment VCGLIB generated", "element vertex 2", *XYZ]
    faces = ["element face 1", "property list uchar int vertex_indices"]
    rgba = [f"property uchar {name}" for name in ("red", "green", "blue", "alpha")]
    rows = struct.pack("<fffBBBBfffBBBB", 1, 2, 3, 9, 8, 7, 255, 4, 5, 6, 1, 2, 3, 255)
    file.write_bytes(_ply([*head, *rgba, *faces], rows + struct.pack("<Biii", 3, 0, 1, 0)))
    found = read_cloud(file)
    assert found.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.rgb.tolist() == [[9, 8, 7], [1, 2, 3]]
    assert found.label is None

    big = [line.replace("little", "big").replace("float", "double") for line in head]
    file.write_bytes(_ply([*big, "property ushort label"], struct.pack(">dddHdddH", 1, 2, 3, 40, 4, 5, 6, 7)))
    found = read_cloud(file)
    assert found.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.label.tolist() == [40, 7]
    assert found.rgb.unique().numel() == 1

    colours = [f"property float {name}" for name in ("red", "green", "blue")]
    lines = ["format ascii 1.0", "element camera 1", "property float f", "element vertex 2", *XYZ, *colours, *faces]
    file.write_bytes(_ply(lines, b"577\r\n1 2 3 0 .5 1\r\n4 5 6 1 1 0\r\n3 0 1 0\r\n").replace(b"\n", b"\r\n", 3))
    found = read_cloud(file)
    assert found.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.rgb.tolist() == [[0, 128, 255], [255, 255, 0]]


VERTEX = ["format binary_little_endian 1.0", "element vertex 2", *XYZ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\x80\x04\x95 pickle", "not a .ply"),
        (b"ply\nformat ascii 1.0\n" + b"comment x\n" * 20_000, "no end_header"),
        (_ply(VERTEX, b"\0" * 23), "its header states 2 points of 12 bytes, and 23 bytes follow"),
        (_ply([VERTEX[0], "element vertex 999999999999999", *XYZ], b"\0" * 24), "states 999999999999999 points"),
        (_ply(["format ascii 1.0", "element vertex 999999999999999", *XYZ], b"1 2 3\n"), "its header states"),
        (_ply(["format ascii 1.0", "element vertex 2", *XYZ], b"1 2 3\n4 5\n     \n"), "number 1 does not have 3"),
        (_ply(["format ascii 1.0", "element vertex 2", *XYZ], b"1 2 3\n4 5 six\n"), "not numbers"),
        (_ply([VERTEX[0], "element vertex -2", *XYZ]), "unknown header line"),
        (_ply([VERTEX[0], "element vertex 0", *XYZ]), "no vertices"),
        (_ply([VERTEX[0], "element face 2", *XYZ]), "no vertices"),
        (_ply([VERTEX[0], "element vertex 2"]), "has no property"),
        (_ply(["format ebcdic 1.0", *VERTEX[1:]], b"\0" * 24), "its format is 'ebcdic'"),
        (_ply([*VERTEX, "property float x"], b"\0" * 40), "a property twice"),
        (_ply([*VERTEX, "property quad w"], b"\0" * 40), "unknown header line"),
        (_ply([*VERTEX, "property list uchar int many"], b"\0" * 40), "have list properties"),
        (_ply(VERTEX[:-1], b"\0" * 24), "have no z"),
        (_ply(VERTEX, struct.pack("<ffffff", 0, 0, 0, 0, float("nan"), 0)), "1 of its 2 points are not finite"),
        (_ply(VERTEX, struct.pack("<ffffff", 0, 0, 0, 0, 3e38, 0)), "Coordinates are in metres"),
        (
            _ply([*VERTEX, "property float label"], struct.pack("<ffffffff", 0, 0, 0, 0.5, 0, 0, 0, 1)),
            "not whole numbers",
        ),
        (
            _ply([*VERTEX, *(f"property short {c}" for c in "rgb")], struct.pack("<fff3h", *[-1] * 6) * 2),
            "its colours are -1 to -1",
        ),
    ],
)  # fmt: skip
def test_a_damaged_or_hostile_ply_is_refused_in_one_line(tmp_path, content, said):
    (tmp_path / "a.ply").write_bytes(content)
    assert said in _said(tmp_path / "a.ply")


def test_random_damage_never_gives_another_error(cloud, tmp_path):
    write_ply(tmp_path / "a.ply", cloud)
    whole, rng, outcomes = (tmp_path / "a.ply").read_bytes(), np.random.default_rng(0), []
    for _ in range(300):
        spoiled = bytearray(whole[: rng.integers(len(whole))] if rng.random() < 0.3 else whole)
        for place in rng.integers(0, max(1, min(len(spoiled), 330)), 3):
            if spoiled:
                spoiled[place % len(spoiled)] = rng.integers(256)
        (tmp_path / "b.ply").write_bytes(spoiled)
        outcomes.append(_outcome(tmp_path / "b.ply"))
    refused = [said for said in outcomes if isinstance(said, str)]
    assert 100 < len(refused) < 300
    assert not any("\n" in said for said in refused)


def _outcome(path):
    """How many points it has, or why not."""
    try:
        return len(read_cloud(path).xyz)
    except ValueError as error:
        return str(error)


def test_only_clouds_are_clouds(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"")
    assert "Pass a .ply or .bin" in _said(tmp_path / "a.pth")
    assert "does not exist" in _said(tmp_path / "a.ply")
    assert "contains no .bin" in _said(tmp_path)


# ------------------------------------------------------------------------------------------------------------- bin


def test_a_bin_is_six_floats_a_point_and_its_masks_lie_beside(cloud, tmp_path):
    for folder in ("points", "semantic_mask", "instance_mask"):
        (tmp_path / folder / "scene").mkdir(parents=True)
    file = tmp_path / "points" / "scene" / "20.bin"
    np.concatenate([cloud.xyz, cloud.rgb], 1).astype("<f4").tofile(file)
    _same(read_cloud(file), cloud._replace(label=None, instance=None))
    cloud.label.numpy().tofile(tmp_path / "semantic_mask" / "scene" / "20.bin")
    cloud.instance.numpy().tofile(tmp_path / "instance_mask" / "scene" / "20.bin")
    _same(read_cloud(file), cloud)
    file.with_name("100.bin").write_bytes(file.read_bytes())
    found = read_cloud(file.parent)
    assert torch.equal(found.xyz, torch.cat([cloud.xyz, cloud.xyz]))
    assert found.label is None  # one of the two has none
    cloud.label[:-1].numpy().tofile(tmp_path / "semantic_mask" / "scene" / "20.bin")
    assert "it has 50 points" in _said(file)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros(0, np.float32), "0 bytes"),
        (np.zeros(7, np.float32), "28 bytes are not a multiple of 24"),
        (np.full(6, np.nan, np.float32), "not finite"),
        (np.array([0, 0, 0, 0, 0, 300], np.float32), "its colours are 0 to 300"),
        (np.array([1e9, 0, 0, 0, 0, 0], np.float32), "Coordinates are in metres"),
    ],
)
def test_a_damaged_bin_is_refused_in_one_line(tmp_path, values, said):
    values.tofile(tmp_path / "0.bin")
    assert said in _said(tmp_path / "0.bin")


# ------------------------------------------------------------------------------------------------------ of a scene


def test_a_scenes_recorded_cloud_has_the_colours_of_one_file_and_the_labels_of_the_other(written):
    scene = read_scene(written, "scene0000_00")
    truth = room.scan(room.furnish(0), 0.15)
    found = scene_cloud(scene)
    _same(found, truth)
    assert set(recorded(scene.folder, scene.name)) == {"points", "labels"}


def test_without_a_recorded_cloud_depth_frames_add_up_to_the_surfaces(written):
    """Each fused point is near to a point of the exact scan; and most of the scan is covered."""
    scene, truth = read_scene(written, "scene0000_00"), room.scan(room.furnish(0), 0.15)
    found = fuse(scene.frames, voxel=0.15)
    near = torch.cdist(found.xyz, truth.xyz)
    assert near.min(1).values.quantile(0.95) < 0.15
    assert (near.min(0).values < 0.2).float().mean() > 0.8
    cells = torch.floor(found.xyz.double() / 0.15 + 1e-9)
    assert len(cells.unique(dim=0)) > 0.99 * len(cells)
    nearest = truth.rgb[near.argmin(1)].float()
    assert (found.rgb.float() - nearest).abs().mean(1).median() < 12


def test_fusing_means_what_falls_into_a_voxel(tmp_path):
    """By hand: one pixel seen twice from the same place, 1.00 and 1.04 m away."""
    from PIL import Image

    from sightword.systems.points.scannet.reader import Frame

    frames = []
    for number, depth in enumerate((1000, 1040)):
        Image.new("RGB", (1, 1), (100 + 20 * number, 0, 0)).save(tmp_path / f"{number}c.png")
        Image.fromarray(np.array([[depth]], np.uint16)).save(tmp_path / f"{number}.png")
        K = torch.tensor([(1.0, 0, 0), (0, 1, 0), (0, 0, 1)], dtype=torch.float64)
        pose = torch.eye(4, dtype=torch.float64)
        frames.append(Frame(number, tmp_path / f"{number}c.png", tmp_path / f"{number}.png", pose, K, K))
    found = fuse(frames, voxel=0.1)
    assert found.xyz.tolist() == [pytest.approx([0, 0, 1.02])]
    assert found.rgb.tolist() == [[110, 0, 0]]
    assert len(fuse(frames, voxel=0.03).xyz) == 2
    with pytest.raises(ValueError, match="show nothing within 0.5 m"):
        fuse(frames, far=0.5)
    with pytest.raises(ValueError, match="voxel=0 is not a length"):
        fuse(frames, voxel=0)


def test_voxels_that_numbers_cannot_tell_apart_are_refused():
    near = np.array([[0.04, 0, 0], [0.05, 0, 0], [-0.01, 0, 0]], np.float32)
    assert np.unique(voxels(near, 0.03)).size == 2  # 4 and 5 cm, and what is below 0
    with pytest.raises(ValueError, match="a point is 4e\\+04 m from the origin. Clouds and poses are in metres"):
        voxels(np.array([[40_000.0, 0, 0]], np.float32), 0.03)
