"""Every experiment composes at every scale and says what the document says; what cannot be is refused in a line."""

import dataclasses
import json

import pytest
import torch

from sightword.cli.compose import compose_config
from sightword.storage.ply import Cloud
from sightword.systems.points.config import PointsConfig, PointsData
from sightword.systems.points.lift.cloud import class_numbers
from sightword.systems.points.scannet.label import SCANNET20, label_set

EXPERIMENTS = ["bifusion", "lift"]


def composed(*words):
    return compose_config(["data.root=x", *words])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_full_scale_is_the_documents(name):
    config = composed(f"experiment=points/{name}", "scale=full")
    system = config.system
    assert (system.clip, system.clip_tag, system.token_type) == ("ViT-B-16", "laion2b_s34b_b88k", "qq")
    assert (system.clip_size, system.dim, system.use_amp, system.labels) == ([224, 304], 128, True, "scannet20")
    assert (config.data.points, config.optim.schedule, config.trainer.monitor) == (20000, "cosine", "val/text_miou")


def test_the_control_differs_from_the_encoder_in_the_branch_it_lacks():
    fused, control = (dataclasses.asdict(composed(f"experiment=points/{name}").system) for name in EXPERIMENTS)
    assert {name for name in fused if fused[name] != control[name]} == {"layers"}
    assert (fused["layers"], control["layers"]) == (2, 0)


@pytest.mark.parametrize(
    ("kind", "values", "match"),
    [
        (PointsConfig, {"upsample": 3}, "none of 1, 2, 4"),
        (PointsConfig, {"dim": 30, "heads": 4}, "dim=30 is not a multiple of system.heads=4"),
        (PointsConfig, {"distil_weight": 0}, "no loss relates points to text"),
        (PointsConfig, {"templates": ["a photo"]}, "for the class"),
        (PointsConfig, {"chain": True, "upsample": 2}, "its own PixelShuffle"),
        (PointsConfig, {"spread": [0.5]}, r"Or leave it empty: \[\]"),
        (PointsConfig, {"spread": [0.5, 0]}, "expected two lengths above 0"),
        (PointsConfig, {"spread": [0.5, 0.1], "layers": 0}, "system.layers=0"),
        (PointsConfig, {"clip_size": [224]}, "not a height and a width"),
        (PointsConfig, {"radius": 0}, "above 0"),
        (PointsConfig, {"clip_dtype": "half"}, "'half' is not a dtype"),
        (PointsData, {"offline_clip_feat": True}, "data.cache"),
        (PointsData, {"voxel": 0}, "metres"),
        (PointsData, {"hide": 1}, "less than 1"),
        (PointsData, {"frames": 8, "pool": 4}, "Set data.pool to 8 or more"),
        (PointsData, {"hold_out": 0}, "val_scenes"),
        (PointsData, {"points": 0}, "Pass at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(kind, values, match):
    with pytest.raises(ValueError, match=match) as error:
        kind(**values)
    assert "\n" not in str(error.value)


def numbers(labels, ids):
    xyz = torch.zeros(len(ids), 3)
    return class_numbers(Cloud(xyz, xyz.byte(), torch.tensor(ids)), labels.ids)


def test_labels_are_numbered_as_their_classes_stand_and_others_are_none():
    labels = label_set("scannet20")
    assert (len(labels.names), labels.names[0], labels.names[-1]) == (20, "wall", "other furniture")
    found = numbers(labels, [0, 1, 39, 40, 13, 24])
    assert found.tolist() == [-1, 0, 19, -1, -1, list(SCANNET20).index("refrigerator")]


@pytest.mark.parametrize("name", ["bf16", "bfloat16", "float32"])
def test_the_dtype_of_clip_has_a_short_and_a_long_name(name):
    assert PointsConfig(clip_dtype=name).clip_dtype == name


def test_labels_may_be_a_file_or_scannets_own_table(tmp_path):
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"chair": 7, "bed": 3}))
    labels = label_set(str(file))
    assert labels[:2] == (("chair", "bed"), (7, 3))
    assert numbers(labels, [3, 7, 0]).tolist() == [1, 0, -1]
    (tmp_path / "meta_data").mkdir()
    rows = "id\traw_category\tcategory\n2\tan armchair\tchair\n5\tbed\tbed\n"
    (tmp_path / "meta_data" / "scannetv2-labels.combined.tsv").write_text(rows)
    labels = label_set(str(tmp_path))
    assert dict(zip(labels.names, labels.ids, strict=True)) == {"chair": 2, "bed": 5}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[1, 2]", "expected an object"),
        ("{}", "no classes"),
        ('{"a": 1, "b": 1}', "same id"),
        ("{", "JSON"),
        ('{"a": "x"}', "whole number"),
    ],
)
def test_a_file_that_holds_no_labels_is_refused_in_one_line(tmp_path, content, match):
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(ValueError, match=match) as error:
        label_set(str(tmp_path / "labels.json"))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="is not a label set"):
        label_set(str(tmp_path / "absent.json"))
