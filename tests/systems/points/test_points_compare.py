"""The table: each way samples as it says, and is measured on the points that it sees."""

import json

import pytest
import torch
import torch.nn.functional as F
from lift_fakes import ColourText, ColourTower, scenes_of, write_rooms

from sightword.systems.points.compare import columns, compare, ways, write
from sightword.systems.points.lift.cloud import scene_cloud
from sightword.systems.points.lift.features import FrameEncoder
from sightword.systems.points.lift.geometry import link
from sightword.systems.points.scannet.label import LabelSet
from sightword.systems.points.scannet.reader import views_of

WAYS = ["4×4 patches", "4×5 patches of a 4:3 frame", "8×8 patches of a larger frame",
        "4×4 upsampled to 16×16, bilinear", "PixelShuffle(2) of 4×4 raw tokens"]  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("rooms")
    return scenes_of(root, write_rooms(root))


@pytest.fixture
def labels(scenes):
    ids = torch.cat([scene_cloud(scene).label for scene in scenes]).unique().tolist()
    words = ["red", "green", "blue", "white", "black", *map(str, range(20))]
    return LabelSet(tuple(words[: len(ids)]), tuple(ids), "these")


class ColourClip:
    """A CLIP of colours, as `FrozenClip` offers one."""

    token_type, dtype = "qq", torch.float32

    def __init__(self, tower=ColourTower, size=(16, 16)):
        self.tower, self.size = tower, size

    def encoder(self):
        return FrameEncoder(self.tower(self.size, 4), self.token_type)

    def resized(self, size):
        return ColourClip(self.tower, size)

    def text_encoder(self, dtype):
        return ColourText()


def test_the_ways_are_those_of_the_document_at_the_towers_own_size():
    assert [way.name for way in ways((16, 16), (14, 14))] == [
        "14×14 patches",
        "14×19 patches of a 4:3 frame",
        "28×28 patches of a larger frame",
        "14×14 upsampled to 56×56, bilinear",
        "PixelShuffle(2) of 14×14 raw tokens",
    ]
    assert [way.size for way in ways((16, 16), (14, 14))][:3] == [(224, 224), (224, 304), (448, 448)]


def test_maps_are_sampled_at_the_resolution_that_is_named():
    maps = torch.randn(2, 512, 14, 14)
    sizes = [tuple(way.maps(maps).shape) for way in ways((16, 16), (14, 14))]
    assert sizes == [(2, 512, 14, 14)] * 3 + [(2, 512, 56, 56), (2, 128, 28, 28)]


def test_shuffled_tokens_are_compared_with_the_channels_that_a_sample_mixes():
    """In the middle of a cell a sample is the mean of its four groups of channels; so are the texts."""
    token, text = torch.randn(1, 8, 1, 1), torch.randn(1, 8)
    way = ways((16, 16), (14, 14))[-1]
    shown = F.grid_sample(way.maps(token), torch.zeros(1, 1, 1, 2), align_corners=False).flatten()
    assert shown.tolist() == pytest.approx(token.flatten().view(2, 4).mean(1).tolist(), abs=1e-6)
    assert way.texts(text)[0].tolist() == pytest.approx(text.view(2, 4).mean(1).tolist(), abs=1e-6)


def _seen_labels(scene):
    cloud = scene_cloud(scene)
    links = link(cloud.xyz, torch.zeros(len(cloud.xyz), dtype=torch.int64), views_of(scene.frames))
    return cloud.label[links.counts > 0]


def test_there_is_a_row_a_way_and_one_for_the_most_frequent_class(scenes, labels):
    rows = compare(ColourClip(), scenes, labels)
    assert [row["way"] for row in rows] == ["majority-class baseline", *WAYS]
    seen = torch.cat([_seen_labels(scene) for scene in scenes]).bincount()  # what the other rows are measured by
    share = float(seen.max() / seen.sum())
    assert rows[0]["accuracy"] == pytest.approx(share)
    assert rows[0]["mIoU"] == pytest.approx(share / int((seen > 0).sum()))
    for row in rows[1:]:
        assert 0 <= row["mIoU"] <= row["accuracy"] + 1e-9 <= 1 + 1e-9
        assert 0.3 < row["seen"] <= 1
    assert [row["kB per frame"] for row in rows[1:]] == [0.136, 0.168, 0.520, 0.136, 0.136]


def test_features_that_say_the_class_are_measured_as_right(scenes):
    """A tower that sees nothing but red, and one class that is red: all right; none of it red: all wrong."""

    class Red(ColourTower):
        def token_types(self, images, names):
            return super().token_types(torch.tensor([1.0, -1, -1]).view(1, 3, 1, 1).expand_as(images), names)

    label = scene_cloud(scenes[0]).label
    most = int(label.bincount().argmax())
    others = sorted(set(label.tolist()) - {most})
    found = compare(ColourClip(Red), scenes[:1], LabelSet(("red", "blue"), (most, others[0]), "two"))[1]
    seen = compare(ColourClip(Red), scenes[:1], LabelSet(("blue", "red"), (most, others[0]), "two"))[1]
    assert found["accuracy"] + seen["accuracy"] == pytest.approx(1)
    assert found["accuracy"] > 0.6
    assert found["mIoU"] == pytest.approx(found["accuracy"] / 2)


def test_clouds_without_these_labels_are_one_line(scenes):
    with pytest.raises(ValueError, match="none of 2 scenes has a point with a label of these"):
        compare(ColourClip(), scenes, LabelSet(("red",), (99,), "these"))


def test_the_table_is_written_for_programs_and_for_eyes(scenes, labels, tmp_path):
    rows = compare(ColourClip(), scenes[:1], labels)
    files = write(rows, {"tower": "any"}, tmp_path / "out")
    assert files[0].read_text().splitlines()[0] == "way,accuracy,mIoU,seen,ms per frame,kB per frame"
    assert len(files[0].read_text().splitlines()) == 7
    assert json.loads(files[2].read_text())["rows"][1] == rows[1]
    lines = columns(rows)
    assert lines[1].split() == ["majority-class", "baseline", f"{rows[0]['accuracy']:.3f}",
                                f"{rows[0]['mIoU']:.3f}", "-", "-", "-"]  # fmt: skip
    assert len({len(line) for line in lines}) == 1
    assert files[1].read_text().endswith("\n".join(lines) + "\n")
