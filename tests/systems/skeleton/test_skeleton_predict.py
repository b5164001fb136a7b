"""The predictor: of a task, of a folder, for other classes; what its results show."""

import json

import pytest
import torch
from posed import content, recording, write
from skeleton_fakes import (
    JOINTS,
    LABELS,
    SIZE,
    UNSEEN,
    VARIANTS,
    Dense,
    batch_for,
    score,
    system,
    task_for,
    write_world,
)
from torch import nn

from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.storage.checkpoint import read_checkpoint
from sightword.systems.skeleton.annotations import read_annotations
from sightword.systems.skeleton.config import SkeletonData
from sightword.systems.skeleton.heatmap import Heatmaps
from sightword.systems.skeleton.joints import joint_set
from sightword.systems.skeleton.labels import Labels, read_labels
from sightword.systems.skeleton.predict import ActionRecognizer
from sightword.systems.skeleton.task import assemble

COCO = joint_set("coco17")
SMALL = {"frames": 8, "test_size": [16, 16], "test_views": 2, "num_workers": 0, "batch_size": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("predict"))


def read(folder):
    found = ActionRecognizer.from_pretrained(folder)
    found.heatmaps = Dense()
    return found


def saved(task, folder):
    ActionRecognizer.from_task(task.eval()).save_pretrained(folder)
    return folder


def step(task, batch):
    task.total(task.losses(batch)).backward()
    torch.optim.SGD([p for group in task.parameter_groups().values() for p in group], lr=0.1).step()


# ------------------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_saved_predicts_alike_and_holds_inference_alone(world, tmp_path, name):
    task = task_for(world, **VARIANTS[name])
    step(task.train(), batch_for())
    again, batch = read(saved(task, tmp_path)), batch_for([0, 1, 2], views=2)
    found = again.scores(batch.points, batch.scores, batch.size)
    torch.testing.assert_close(found.scores, score(task, batch).scores)
    assert again.labels.classes == tuple(LABELS)
    assert again.joints == JOINTS
    kernel = again.model.video.network.layer1[0].conv2.conv.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last_3d)  # as it was trained: faster, and the same bits
    weights = read_checkpoint(tmp_path / "model.safetensors")
    assert not [key for key in weights if "matching" in key or "momentum" in key or key.startswith("text.")]
    assert (tmp_path / "text" / "model.safetensors").exists() == (name != "slowonly")


def test_what_is_saved_twice_is_the_same(world, tmp_path):
    first = read(saved(task_for(world, **VARIANTS["visece_pacl"]), tmp_path / "one"))
    first.save_pretrained(tmp_path / "two")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_pooling_of_the_text_encoder_is_the_configs_also_in_an_export(world, tmp_path):
    vectors = {}
    for pooling in ("cls", "mean"):
        task = task_for(world, text_pooling=pooling).eval()
        vectors[pooling] = task.bank()
        again = read(saved(task, tmp_path / pooling))
        torch.testing.assert_close(again.for_classes(LABELS).bank, task.bank())
    off = {pooling: float((rows @ rows.T).detach().sum() - 4) / 12 for pooling, rows in vectors.items()}
    assert off["cls"] > off["mean"] + 0.01  # an untrained first token tells texts apart less well than all of them


def test_an_export_names_actions_by_words_never_trained(world, tmp_path):
    task = task_for(world, **VARIANTS["visece"]).eval()
    again, batch = read(saved(task, tmp_path)), batch_for([0, 1])
    assert again.model.text is None  # the classes it has need no text encoder
    unseen = again.for_classes(UNSEEN)
    found = unseen.scores(batch.points, batch.scores, batch.size).scores
    assert unseen.classes == tuple(UNSEEN)
    other = task_for({**world, "labels": world["labels"].replace("labels", "unseen")}, **VARIANTS["visece"]).eval()
    other.load_state_dict(task.state_dict())
    torch.testing.assert_close(found, score(other, batch).scores)
    own = ActionRecognizer.from_task(task).for_classes(Labels.of(UNSEEN, "unseen.json"))
    torch.testing.assert_close(own.scores(batch.points, batch.scores, batch.size).scores, found)
    torch.testing.assert_close(again.scores(batch.points, batch.scores, batch.size), score(task, batch))


def test_a_folder_that_is_no_export_is_a_line(world, tmp_path):
    with pytest.raises(SightwordError, match="neither a run directory .* nor an exported model"):
        read(tmp_path)
    saved(task_for(world, **VARIANTS["visece"]), tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    less = {name: texts for name, texts in told["labels"].items() if name != "stand up"}
    (tmp_path / "config.json").write_text(json.dumps(told | {"labels": less}))
    with pytest.raises(SightwordError, match=r"embeddings \(4, 16\) of classes, .*config\.json names 3"):
        read(tmp_path)
    damages = {"widths": [], "labels": ["sit"], "joints": [], "config": {"base": "many"}, "views": 3, "text": {}}
    for name, broken in damages.items():
        (tmp_path / "config.json").write_text(json.dumps(told | {name: broken}))
        with pytest.raises(SightwordError, match=rf"config\.json: {name}.* It is damaged, or of another version"):
            read(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(told))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors does not exist"):
        read(tmp_path)


def test_a_classifier_and_an_export_that_lost_its_text_encoder_refuse_other_classes(world, tmp_path):
    with pytest.raises(SightwordError, match=r"is a classifier.*as of skeleton/visece"):
        ActionRecognizer.from_task(task_for(world, recognise_by="classifier").eval()).for_classes(UNSEEN)
    folder = saved(task_for(world, **VARIANTS["visece"]), tmp_path)
    (folder / "text").rename(tmp_path / "gone")
    with pytest.raises(SightwordError, match=r"text is missing\. Copy the exported folder as a whole"):
        read(folder).for_classes(UNSEEN)


def test_a_task_of_another_system_is_refused():
    with pytest.raises(SightwordError, match="ActionRecognizer is made of a run of skeleton, got a Task"):
        ActionRecognizer.from_task(Task())


def test_tensors_of_other_shapes_are_refused(world):
    recognizer = ActionRecognizer.from_task(task_for(world, recognise_by="classifier").eval())
    with pytest.raises(ValueError, match=r"expected points \(B, n, M, L, V, 2\)"):
        recognizer.scores(torch.zeros(1, 1, 4, 5, 2), torch.zeros(1, 1, 4, 5), SIZE)


# --------------------------------------------------------------------------------------------------------- recordings


@pytest.fixture(scope="module")
def coco(world):
    """A recognizer of COCO skeletons whose words weigh frames."""
    config = system(world, frames="pacl", contrast="classes")
    torch.manual_seed(0)
    task = assemble(config, COCO, Heatmaps(COCO), read_labels(config.labels)).eval()
    return ActionRecognizer.from_task(task, SkeletonData(**SMALL))


def test_recordings_of_a_file_are_predicted_in_their_order(coco, tmp_path):
    recordings = read_annotations(write(tmp_path / "x.pkl", content(5)))
    found = coco(recordings)
    assert [one.name for one in found] == recordings.names
    for one in found:
        assert one.scores.shape == (4,)
        assert one.scores.sum() == pytest.approx(1, abs=1e-5)
        assert one.action == tuple(LABELS)[one.scores.argmax()]
        assert one.probability == one.scores.max()
        assert one.label is None
        assert one.points.shape == (1, 8, 17, 2)
        assert one.weights.shape == (4,)
    assert [one.scores.tolist() for one in coco(recordings[:2])] == [one.scores.tolist() for one in found[:2]]
    assert coco([]) == []


def test_labelled_recordings_say_whether_they_are_right(coco, tmp_path):
    recordings = read_annotations(write(tmp_path / "x.pkl", content(3)))
    for one in coco(recordings, labelled=True):
        assert one.truth == tuple(LABELS)[one.label]
        assert one.to_dict()["right"] == (one.label == one.best)
    many = read_annotations(write(tmp_path / "y.pkl", [recording(0, label=7)]))
    assert coco(many)[0].truth == ""
    with pytest.raises(SightwordError, match="has the label 7 and there are 4 classes"):
        coco(many, labelled=True)


def test_a_prediction_is_plotted_and_written_as_json(coco, tmp_path):
    (one,) = coco(read_annotations(write(tmp_path / "x.pkl", [recording(0)])))
    assert one.plot().width > 300
    assert "data:image/png;base64," in one._repr_html_()
    assert one.action in one._repr_html_()
    told = json.loads(json.dumps(one.to_dict()))
    assert (told["name"], told["predicted"], told["truth"], told["right"]) == ("S000", one.action, "", None)
    assert len(told["weights"]) == 4
    assert 1 <= told["effective_frames"] <= 4
    assert "S000" in repr(one)
    assert "array" not in repr(one)
    with pytest.raises(SightwordError, match="without poses cannot be plotted"):
        one.without_poses().plot()


def test_recordings_of_other_joints_are_refused(coco, tmp_path):
    recordings = read_annotations(write(tmp_path / "x.pkl", [recording(0, joints=25)]))
    with pytest.raises(SightwordError, match="have 25 joints, and the model was trained on 17, those of coco17"):
        coco(recordings)


def test_a_recognizer_leaves_training_mode(world):
    task = task_for(world, **VARIANTS["visece"]).train()
    recognizer = ActionRecognizer.from_task(task)
    assert isinstance(recognizer.heatmaps, nn.Module)
    assert not any(module.training for module in recognizer.model.modules())
