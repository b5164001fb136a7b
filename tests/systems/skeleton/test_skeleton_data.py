"""Batches of skeletons: what is in one, that it is the same again, and what a set must fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from posed import CLASSES, content, recording, write

from sightword.data.loader import Draw, Loaders
from sightword.systems.skeleton.annotations import read_annotations, write_npz
from sightword.systems.skeleton.config import SkeletonData
from sightword.systems.skeleton.data import SkeletonBatch, hold_out, make_loaders, split_loader
from sightword.systems.skeleton.joints import joint_set

COCO = joint_set("coco17")


def data_of(folder: Path, made: Any = None, **other: Any) -> SkeletonData:
    write(folder / "x.pkl", content() if made is None else made)
    small = {"frames": 8, "size": [24, 20], "test_size": [32, 28], "batch_size": 4, "num_workers": 0, "val": "xsub_val"}
    return SkeletonData(**({"annotations": str(folder / "x.pkl")} | small | other))


def loaders_of(data: SkeletonData, seed: int = 0, classes: Sequence[str] = CLASSES) -> Loaders:
    return make_loaders(data, seed, COCO, classes)


def same(one: SkeletonBatch, other: SkeletonBatch) -> bool:
    tensors = zip(one[:6], other[:6], strict=True)
    return all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in tensors) and one[6:] == other[6:]


# ------------------------------------------------------------------------------------------------------------ batches


def test_a_training_batch_is_one_view_of_each_recording(tmp_path):
    batch = next(iter(loaders_of(data_of(tmp_path)).train))
    assert (batch.points.shape, batch.points.dtype) == ((4, 1, 1, 8, 17, 2), torch.float32)
    assert (batch.scores.shape, batch.scores.dtype) == ((4, 1, 1, 8, 17), torch.float32)
    assert (batch.frames.shape, batch.frames.dtype) == ((4, 1, 8), torch.int64)
    assert (batch.labels.dtype, batch.index.dtype, batch.size, batch.split) == (torch.int64,) * 2 + ((24, 20), "train")
    assert batch.key.isnan().all()
    assert batch.labels.tolist() == [index % 3 for index in batch.index.tolist()]


def test_a_test_batch_has_all_views_and_then_their_mirror_images(tmp_path):
    (batch,) = split_loader(data_of(tmp_path, test_views=3), "test", COCO, CLASSES)
    assert (batch.points.shape, batch.size, batch.split) == ((3, 6, 1, 8, 17, 2), (32, 28), "test")
    assert torch.equal(batch.frames[:, :3], batch.frames[:, 3:])
    assert not torch.equal(batch.frames[:, 0], batch.frames[:, 1])
    straight, mirrored = batch.points[:, :3], batch.points[:, 3:]
    torch.testing.assert_close(mirrored[..., 0], 27 - straight[..., COCO.flipped(), 0])
    assert torch.equal(mirrored[..., 1], straight[..., COCO.flipped(), 1])
    assert torch.equal(batch.scores[:, 3:], batch.scores[:, :3, ..., COCO.flipped()])
    (plain,) = split_loader(data_of(tmp_path, test_views=3, test_flip=False), "test", COCO, CLASSES)
    assert torch.equal(plain.points, straight)


def test_validation_has_data_views_and_no_mirror(tmp_path):
    (batch,) = loaders_of(data_of(tmp_path, views=2)).val
    assert (batch.points.shape, batch.size, batch.split) == ((3, 2, 1, 8, 17, 2), (32, 28), "val")
    assert batch.index.tolist() == [0, 1, 2]
    assert batch.points[..., 0].min() > 0  # whole bodies within the canvas
    assert batch.points[..., 0].max() < 28
    assert batch.points[..., 1].max() < 32


def test_all_views_of_a_recording_share_one_box(tmp_path):
    made = content(4)
    for row in made["annotations"]:  # walks 300 pixels to the right
        row["keypoint"][..., 0] += np.linspace(0, 300, row["total_frames"])[None, :, None].astype(np.float16)
    (batch,) = split_loader(data_of(tmp_path, made, frames=4, test_views=5), "test", COCO, CLASSES)
    row, clip = made["annotations"][3], batch.points[0]
    seen = torch.from_numpy(row["keypoint"][0].astype(np.float32))[batch.frames[0, :5]]  # (5, 4, 17, 2)
    scale = (clip[0, 0, 0, 5, 0] - clip[0, 0, 0, 6, 0]) / (seen[0, 0, 5, 0] - seen[0, 0, 6, 0])
    shift = clip[0, 0, 0, 5, 0] - seen[0, 0, 5, 0] * scale
    torch.testing.assert_close(clip[:5, 0, ..., 0], seen[..., 0] * scale + shift, atol=1e-3, rtol=0)


def test_persons_are_padded_to_the_batch_and_the_ones_seen_best_kept(tmp_path):
    made = content(4)
    third = recording(9, persons=3)
    third["keypoint_score"][1] = 0.1
    third["frame_dir"] = "S000"
    made["annotations"][0] = third
    data = data_of(tmp_path, made, batch_size=2)
    batch = loaders_of(data).train.dataset.__getitems__([0, 1])
    assert batch.points.shape == (2, 1, 2, 8, 17, 2)
    assert not batch.scores[1, :, 1].any()
    assert (batch.scores[0] >= 0.25).all()  # not the second person's
    assert loaders_of(data_of(tmp_path, made, batch_size=2, persons=3)).train.dataset[0].points.shape[2] == 3


def test_key_moments_follow_their_frames(tmp_path):
    made = content(4)
    for row in made["annotations"][:2]:
        row["key_moments"] = np.arange(row["total_frames"]) % 3 == 0
    batch = loaders_of(data_of(tmp_path, made, batch_size=2)).train.dataset.__getitems__([0, 1, 2])
    assert torch.equal(batch.key[:2], (batch.frames[:2] % 3 == 0).float())
    assert batch.key[2].isnan().all()


def test_a_draw_is_the_same_in_any_process_and_order(tmp_path):
    data = data_of(tmp_path)
    clips, again = (loaders_of(data, seed=5).train.dataset for _ in range(2))
    batch = clips.__getitems__([Draw(3, 1), Draw(3, 4)])
    torch.manual_seed(1), np.random.seed(1)
    again.__getitems__([Draw(0, 2)])
    assert same(batch, again.__getitems__([Draw(3, 1), Draw(3, 4)]))
    assert torch.equal(batch.points[1], again[Draw(3, 4)].points[0])
    assert not torch.equal(batch.points, clips.__getitems__([Draw(4, 1), Draw(4, 4)]).points)
    assert not torch.equal(
        batch.points, loaders_of(data, seed=6).train.dataset.__getitems__([Draw(3, 1), Draw(3, 4)]).points
    )
    assert all(same(a, b) for a, b in zip(loaders_of(data, 0).val, loaders_of(data, 9).val, strict=True))


def test_loading_takes_nothing_from_global_generators(tmp_path):
    loaders = loaders_of(data_of(tmp_path))
    torch.manual_seed(0), np.random.seed(0)
    before, state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    list(loaders.train), list(loaders.val)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_workers_give_what_one_process_gives(tmp_path):
    alone, shared = (list(loaders_of(data_of(tmp_path, num_workers=workers)).train) for workers in (0, 2))
    assert len(alone) == 2
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))


def test_half_of_the_training_views_are_mirrored(tmp_path):
    straight, mirrored, mixed = (loaders_of(data_of(tmp_path, flip=flip)).train.dataset for flip in (0.0, 1.0, 0.5))
    coins = []
    for epoch in range(100):
        draw = Draw(epoch, 2)
        one, other, drawn = (clips[draw].points for clips in (straight, mirrored, mixed))
        torch.testing.assert_close(other[..., 0], 19 - one[..., COCO.flipped(), 0])
        assert torch.equal(drawn, one) or torch.equal(drawn, other)
        coins.append(torch.equal(drawn, other))
    assert 30 < sum(coins) < 70


def test_parity_differs_in_the_mirror_and_in_the_seed_of_test_only(tmp_path):
    ours, theirs = (data_of(tmp_path, flip=1.0, pyskl_parity=parity) for parity in (False, True))
    one, other = (loaders_of(data).train.dataset[Draw(0, 3)].points for data in (ours, theirs))
    torch.testing.assert_close(other[..., 0] - one[..., 0], torch.ones_like(one[..., 0]), atol=1e-4, rtol=0)
    (tested,) = split_loader(theirs, "test", COCO, CLASSES)
    mirrored = 27 - tested.points[:, :10, ..., COCO.flipped(), 0]  # in test it mirrors what is drawn
    torch.testing.assert_close(tested.points[:, 10:, ..., 0], mirrored)
    rng = np.random.RandomState(255)
    rng.rand(), rng.randint(1)
    edges = np.arange(9) * 37 // 8  # S009 has 37 frames
    np.testing.assert_array_equal(tested.frames[0, 0], edges[:-1] + rng.randint(np.diff(edges)))


def test_a_recording_without_any_joint_is_a_view_of_nothing(tmp_path):
    made = content(4)
    made["annotations"][0]["keypoint"][:] = np.nan
    batch = loaders_of(data_of(tmp_path, made, batch_size=2)).train.dataset[0]
    assert not batch.scores.any()
    assert batch.points.isfinite().all()


def test_an_npz_gives_the_same_batches(tmp_path):
    data = data_of(tmp_path)
    write_npz(read_annotations(data.annotations), tmp_path / "x.npz")
    other = data_of(tmp_path, annotations=str(tmp_path / "x.npz"))
    assert all(same(a, b) for a, b in zip(loaders_of(data).train, loaders_of(other).train, strict=True))


# ------------------------------------------------------------------------------------------------------------- splits


def test_without_a_validation_split_a_share_of_every_class_is_held_out():
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    train, held = hold_out(range(100), labels, 0.2)
    assert sorted(train + held) == list(range(100))
    assert np.bincount(labels[held]).tolist() == [12, 6, 2]
    assert hold_out(range(100), labels, 0.2) == (train, held)
    assert len(hold_out(range(3), labels, 0.01)[1]) == 1
    with pytest.raises(ValueError, match="1 recordings cannot be divided"):
        hold_out([4], labels, 0.5)


def test_what_is_held_out_is_not_trained_on(tmp_path):
    data = data_of(tmp_path, val="", hold_out=0.3, batch_size=3)
    loaders = loaders_of(data, seed=1)
    trained = {loaders.train.dataset.rows[i] for batch in loaders.train for i in batch.index.tolist()}
    assert not trained & set(loaders.val.dataset.rows)
    assert loaders.val.dataset.rows == split_loader(data, "val", COCO, CLASSES).dataset.rows
    assert sorted(trained | set(loaders.val.dataset.rows)) == list(range(9))


def test_a_list_without_splits_is_trained_on_and_tested_as_a_whole(tmp_path):
    data = data_of(tmp_path, content(6)["annotations"], train="", val="", test="", hold_out=0.3, batch_size=2)
    assert len(loaders_of(data).train.dataset) == 4
    assert len(split_loader(data, "test", COCO, CLASSES).dataset) == 6


def test_key_points_that_are_no_numbers_are_told_in_a_line_and_missing(tmp_path, capsys):
    made = content()
    made["annotations"][1]["keypoint"][0, 3, 5] = np.nan
    made["annotations"][7]["keypoint_score"][0, 0, 0] = np.inf
    loaders = loaders_of(data_of(tmp_path, made))
    told = [line for line in capsys.readouterr().err.splitlines() if "NaN" in line]
    assert len(told) == 1
    assert "x.pkl: 2 of 12 recordings have key points that are NaN: read as mi" in told[0]
    assert all(batch.points.isfinite().all() and batch.scores.isfinite().all() for batch in loaders.val)
    loaders_of(data_of(tmp_path))
    assert "NaN" not in capsys.readouterr().err


def test_recordings_that_a_split_names_in_vain_are_told(tmp_path, capsys):
    made = content()
    made["split"]["xsub_val"] += ["gone", "away"]
    loaders_of(data_of(tmp_path, made))
    assert "2 recordings of split xsub_val are not in the file, the first is gone" in capsys.readouterr().err
    made["split"]["xsub_val"] = ["gone"]
    with pytest.raises(ValueError, match="none of the 1 recordings of split xsub_val is in the file"):
        loaders_of(data_of(tmp_path, made))


@pytest.mark.parametrize(
    ("other", "classes", "message"),
    [
        ({}, CLASSES[:2], r"S002 has the label 2, and there are 2 classes, 0 to 1 \(3 such recordings in train\)"),
        ({"annotations": ""}, CLASSES, "data.annotations is not set"),
        ({"annotations": "none.pkl"}, CLASSES, "none.pkl does not exist"),
        ({"train": "xset_train"}, CLASSES, "has no split 'xset_train', it has the splits xsub_train, xsub_val"),
        ({"train": ""}, CLASSES, "data.train and data.val share 3 recordings, the first is S009"),
    ],
)
def test_a_set_that_does_not_fit_is_one_line(tmp_path, other, classes, message):
    with pytest.raises(ValueError, match=message) as caught:
        loaders_of(data_of(tmp_path, **other), classes=classes)
    assert "\n" not in str(caught.value)


def test_a_wrong_number_of_joints_is_one_line(tmp_path):
    with pytest.raises(
        ValueError, match="has 17 joints and ntu25 has 25. Train with system.joints= a set of 17 joints, as coco17"
    ):
        make_loaders(data_of(tmp_path), 0, joint_set("ntu25"), CLASSES)


def test_labels_of_other_splits_may_be_outside_the_list(tmp_path):
    made = content()
    made["annotations"].append(recording(99, label=7))
    made["split"]["unseen"] = ["S099"]
    data = data_of(tmp_path, made, test="unseen")
    loaders_of(data)
    with pytest.raises(ValueError, match="S099 has the label 7"):
        split_loader(data, "test", COCO, CLASSES)
    with pytest.raises(ValueError, match="split='unseen' is none of train, val, test"):
        split_loader(data, "unseen", COCO, CLASSES)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"size": [56]}, r"data.size=\[56\] is not a height and width. Pass two, as \[56,56\]"),
        ({"frames": 0}, "data.frames=0 is too small. Pass at least 1"),
        ({"threshold": 0}, "data.threshold=0 is too small. Pass at least 2"),
        ({"flip": 1.5}, "data.flip=1.5 is not a probability"),
        ({"hold_out": 0.0}, "data.hold_out=0.0 is not a fraction"),
        ({"val": "xsub_train"}, "data.train and data.val are both 'xsub_train'"),
        ({"crop_area": [0.5, 1.2]}, r"data.crop_area=\[0.5, 1.2\] are not two numbers, 0 < least ≤ most ≤ 1"),
        ({"crop_aspect": [2, 1]}, r"data.crop_aspect=\[2, 1\] are not two numbers, 0 < least ≤ most"),
    ],
)
def test_a_config_that_cannot_be_is_one_line(other, message):
    with pytest.raises(ValueError, match=message):
        SkeletonData(**other)
