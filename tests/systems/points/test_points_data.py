import dataclasses
import pickle
import shutil

import numpy as np
import pytest
import torch

from sightword.data.loader import Draw
from sightword.errors import SightwordError
from sightword.miniature import room
from sightword.storage.ply import Cloud
from sightword.systems.points.clip import FrozenClip
from sightword.systems.points.config import PointsData
from sightword.systems.points.data import (
    Rooms,
    collate,
    hold_out,
    make_loaders,
    read_scenes,
    readable_scenes,
    split_loader,
    split_names,
    turned,
)
from sightword.systems.points.lift.cloud import thinned
from sightword.systems.points.lift.features import fill
from sightword.systems.points.lift.geometry import link
from sightword.systems.points.scannet.label import label_set

SIZES = {"color": (48, 64), "depth": (36, 48), "voxel": 0.1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three small rooms, four frames each, in ScanNet's layout."""
    root = tmp_path_factory.mktemp("rooms")
    for seed in range(3):
        room.write_scene(root, seed, frames=4, **SIZES)
    (root / "meta_data").mkdir()
    room.write_classes(root / "meta_data")
    return root


@pytest.fixture(scope="module")
def clip(random_clip):
    return FrozenClip(str(random_clip[0]), token_type="value", size=(32, 40), dtype="fp32")


@pytest.fixture
def data(root):
    return PointsData(root=str(root), frames=3, points=300, voxel=0.1, batch_size=2, num_workers=0, hold_out=0.3)


def same(one, other):
    """Two batches hold the same numbers."""
    for name, part, twin in zip(one._fields, one, other, strict=True):
        if hasattr(part, "_fields"):
            same(part, twin)
        elif isinstance(part, torch.Tensor):
            assert torch.equal(part, twin), name
        else:
            assert part == twin, name


def loaders(data, clip, root, seed=0):
    """As a training has them: what the cache is missing is computed first."""
    if data.cache and not data.offline_clip_feat:
        scenes = [scene for names in split_names(data).values() for scene in readable_scenes(data, names, "all")[0]]
        fill(clip.source, clip.token_type, scenes, data.cache)
    return make_loaders(data, clip, label_set(str(root)), seed)


def test_a_batch_holds_whole_scenes_one_after_the_other(data, clip, root):
    train, val = loaders(data, clip, root)
    (batch,) = train
    assert batch.xyz.shape == batch.rgb.shape == (600, 3)
    assert batch.scene.tolist() == [0] * 300 + [1] * 300
    assert batch.views.scene.tolist() == [0] * 3 + [1] * 3
    assert batch.views.depth.shape == (6, 36, 48)
    assert batch.images.shape == (6, 3, 32, 40)
    assert batch.maps is batch.pooled is None
    assert (len(batch.names), [len(frames) for frames in batch.frames], batch.split) == (2, [3, 3], "train")
    assert -1 <= float(batch.rgb.min()) < float(batch.rgb.max()) <= 1
    (held,) = val
    assert (len(held.names), held.split) == (1, "val")
    assert not set(held.names) & set(batch.names)


def test_labels_are_those_of_the_cloud(data, clip, root):
    (held,) = loaders(data, clip, root)[1]
    seed = int(held.names[0][5:9])
    cloud = room.scan(room.furnish(seed), SIZES["voxel"])
    labels = label_set(str(root))
    known = {
        tuple(np.round(xyz, 3)): label for xyz, label in zip(cloud.xyz.tolist(), cloud.label.tolist(), strict=True)
    }
    for xyz, label in list(zip(held.xyz.tolist(), held.label.tolist(), strict=True))[::17]:
        assert labels.ids[label] == known[tuple(np.round(xyz, 3))]


def test_training_draws_anew_each_epoch_and_the_same_in_any_process(data, root):
    scenes, labels = read_scenes(data, ["scene0000_00"], "train"), label_set(str(root))
    rooms = Rooms(scenes, data, labels, "train", _preprocess(), seed=1)
    first, again = rooms[Draw(0, 0)], pickle.loads(pickle.dumps(rooms))[Draw(0, 0)]
    same(first, again)
    later, other = rooms[Draw(1, 0)], Rooms(scenes, data, labels, "train", _preprocess(), seed=2)[Draw(0, 0)]
    assert not torch.equal(first.xyz, later.xyz)
    assert not torch.equal(first.xyz, other.xyz)
    assert 0.3 < first.hidden.float().mean() < 0.7
    assert len({tuple(rooms[Draw(epoch, 0)].frames[0]) for epoch in range(12)}) > 2


def test_what_is_measured_is_the_same_whatever_the_epoch_and_the_seed(data, root):
    scenes, labels = read_scenes(data, ["scene0000_00"], "val"), label_set(str(root))
    one = Rooms(scenes, data, labels, "val", _preprocess(), seed=1)[Draw(0, 0)]
    same(one, Rooms(scenes, data, labels, "val", _preprocess(), seed=2)[Draw(7, 0)])
    assert one.frames == [[0, 40, 60]]
    assert not one.hidden.any()


def test_a_turned_room_has_the_same_links(data, root):
    data = dataclasses.replace(data, rotate=False)
    scenes, labels = read_scenes(data, ["scene0000_00"], "train"), label_set(str(root))
    straight = Rooms(scenes, data, labels, "train", _preprocess())[Draw(0, 0)]
    around = turned(straight, 1.0)
    one, other = (link(part.xyz, part.scene, part.views) for part in (straight, around))
    assert len(one.point) > 100
    assert torch.equal(one.point, other.point)
    torch.testing.assert_close(one.uv, other.uv, atol=1e-3, rtol=0)
    torch.testing.assert_close(around.xyz[:, 2], straight.xyz[:, 2])
    assert (around.xyz[:, :2] - straight.xyz[:, :2]).norm(dim=1).max() > 1


def test_a_thinned_cloud_has_a_point_a_voxel_the_first():
    xyz = torch.tensor([[0.01, 0, 0], [0.02, 0, 0], [0.11, 0, 0], [-0.01, 0, 0]])
    found = thinned(Cloud(xyz, torch.zeros(4, 3, dtype=torch.uint8), torch.arange(4)), 0.1)
    assert found.label.tolist() == [0, 2, 3]
    assert found.instance is None


def test_a_cache_is_filled_once_and_then_read_alone(data, clip, root, tmp_path, capsys):
    data = dataclasses.replace(data, cache=str(tmp_path / "clip"), rotate=False)
    online = next(iter(loaders(dataclasses.replace(data, cache=""), clip, root)[1]))
    filled = next(iter(loaders(data, clip, root)[1]))
    assert "3 scenes to do" in capsys.readouterr().err
    read = next(iter(loaders(dataclasses.replace(data, offline_clip_feat=True), clip, root)[1]))
    assert "to do" not in capsys.readouterr().err
    same(filled, read)
    assert (filled.images, filled.maps.shape, filled.maps.dtype) == (None, (3, 24, 4, 5), torch.float16)
    maps, pooled = clip.encode_image(online.images)
    torch.testing.assert_close(maps.float(), filled.maps.float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(pooled.float(), filled.pooled.float(), atol=1e-3, rtol=0)


def test_a_cache_that_lacks_frames_or_is_of_another_clip_is_refused_in_one_line(data, clip, root, tmp_path):
    data = dataclasses.replace(data, cache=str(tmp_path / "clip"))
    with pytest.raises(SightwordError, match=r"does not contain 4 frames, .* the first.*sightword prepare experiment="):
        split_loader(data, "val", clip, label_set(str(root)))
    with pytest.raises(SightwordError, match="does not contain 12 frames"):
        make_loaders(data, clip, label_set(str(root)))
    loaders(data, clip, root)
    other = FrozenClip(clip.name, token_type="qq", size=(32, 40), dtype="fp32")
    with pytest.raises(SightwordError, match="written by a different CLIP") as error:
        split_loader(data, "val", other, label_set(str(root)))
    assert "\n" not in str(error.value)


def test_workers_give_the_same_batches(data, clip, root, tmp_path):
    data = dataclasses.replace(data, cache=str(tmp_path / "clip"))
    (here,) = loaders(data, clip, root, seed=3).train
    (there,) = loaders(dataclasses.replace(data, num_workers=1), clip, root, seed=3).train
    same(here, there)


def test_loaders_run_no_clip(data, clip, root, tmp_path, monkeypatch):
    data = dataclasses.replace(data, cache=str(tmp_path / "clip"))
    loaders(data, clip, root)

    def opened(*_):
        raise AssertionError("a loader opened CLIP")

    monkeypatch.setattr(FrozenClip, "encoder", opened)
    monkeypatch.setattr(type(clip.source), "open", opened)
    train, val = make_loaders(data, clip, label_set(str(root)))
    assert next(iter(train)).maps is not None
    assert next(iter(val)).maps is not None
    next(iter(split_loader(data, "val", clip, label_set(str(root)))))


def test_scans_of_one_space_stay_together():
    names = [f"scene{space:04d}_{scan:02d}" for space in range(10) for scan in range(3)]
    train, held = hold_out(names, 0.2)
    assert (len(train), len(held)) == (24, 6)
    assert not {name[:9] for name in train} & {name[:9] for name in held}
    assert hold_out(names, 0.2) == (train, held)
    with pytest.raises(ValueError, match="cannot be divided"):
        hold_out(["scene0000_00", "scene0000_01"], 0.2)


def test_listed_splits_are_taken_as_they_are_and_must_not_overlap(data, clip, root, tmp_path):
    (tmp_path / "val.txt").write_text("scene0001_00\n")
    (tmp_path / "test.txt").write_text("scene0002_00\n")
    data = dataclasses.replace(
        data, val_scenes=str(tmp_path / "val.txt"), test_scenes=str(tmp_path / "test.txt"), batch_size=1
    )
    assert split_names(data) == {"train": ["scene0000_00"], "val": ["scene0001_00"], "test": ["scene0002_00"]}
    (test,) = split_loader(data, "test", clip, label_set(str(root)))
    assert (test.names, test.split) == (["scene0002_00"], "test")
    both = dataclasses.replace(data, scenes=str(tmp_path / "val.txt"))
    with pytest.raises(ValueError, match="is trained on and validated on"):
        loaders(both, clip, root)


def test_a_roots_own_lists_divide_what_is_there_of_them(data, root, tmp_path, clip, capsys):
    shutil.copytree(root / "2D", tmp_path / "2D")
    (tmp_path / "meta_data").mkdir()
    own = dataclasses.replace(data, root=str(tmp_path), batch_size=1)
    everything = {name for names in split_names(own).values() for name in names}
    assert everything == {"scene0000_00", "scene0001_00", "scene0002_00"}
    lists = {"train": ["scene0002_00", "scene0706_00"], "val": ["scene0000_00"], "test": ["scene0707_00"]}
    for split, names in lists.items():
        (tmp_path / "meta_data" / f"scannetv2_{split}.txt").write_text("\n".join(names))
    assert split_names(own) == {"train": ["scene0002_00"], "val": ["scene0000_00"]}
    loaders(own, clip, root)
    assert "1 scenes to train on, 1 for validation: by meta_data/scannetv2_train.txt" in capsys.readouterr().err
    (tmp_path / "val.txt").write_text("scene0001_00\n")
    typed = dataclasses.replace(own, val_scenes=str(tmp_path / "val.txt"))
    assert split_names(typed)["train"] == ["scene0000_00", "scene0002_00"]


def test_lists_that_name_nothing_of_a_root_are_not_taken_and_that_is_said(data, root, tmp_path, clip, capsys):
    shutil.copytree(root / "2D", tmp_path / "2D")
    (tmp_path / "meta_data").mkdir()
    for split in ("train", "val"):
        (tmp_path / "meta_data" / f"scannetv2_{split}.txt").write_text("scene0706_00\n")
    own = dataclasses.replace(data, root=str(tmp_path), hold_out=0.3)
    assert [len(names) for names in split_names(own).values()] == [2, 1]
    loaders(own, clip, root)
    assert "data.hold_out=0.3 held out of all scenes of" in capsys.readouterr().err


def test_a_scene_that_cannot_be_read_is_named_and_left_out(data, root, tmp_path, capsys):
    found = read_scenes(data, ["scene0000_00", "scene0099_00"], "train")
    assert [scene.name for scene in found] == ["scene0000_00"]
    assert "left out of train: scene0099_00" in capsys.readouterr().err
    with pytest.raises(ValueError, match="none of 1 scenes for train can be read"):
        read_scenes(data, ["scene0099_00"], "train")


def test_depth_of_two_sizes_in_a_batch_is_refused_in_one_line(data, root, tmp_path):
    room.write_scene(tmp_path, 3, frames=2, color=(48, 64), depth=(24, 32), voxel=0.2)
    labels, rooms = label_set(str(root)), []
    for place, name in ((root, "scene0000_00"), (tmp_path, "scene0003_00")):
        told = dataclasses.replace(data, root=str(place))
        rooms.append(Rooms(read_scenes(told, [name], "val"), told, labels, "val", _preprocess())[Draw(0, 0)])
    with pytest.raises(ValueError, match="scene0000_00 is 36×48 and of scene0003_00 24×32") as error:
        collate(rooms)
    assert "\n" not in str(error.value)


def test_a_room_without_a_recorded_cloud_is_put_together_from_its_depth(data, clip, root, tmp_path):
    shutil.copytree(root / "2D", tmp_path / "2D")
    data = dataclasses.replace(data, root=str(tmp_path))
    (held,) = make_loaders(data, clip, label_set("scannet20"))[1]
    assert held.xyz.shape == (300, 3)
    assert (held.label == -1).all()


def _preprocess():
    """Frames as they come, small."""
    from sightword.towers.preprocess import Preprocess

    return Preprocess((8, 8), resize="squash")
