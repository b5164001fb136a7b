"""The recognisers under training, evaluation and export: every variant, on tiny parts."""

import dataclasses
import json

import pytest
import torch
from skeleton_fakes import JOINTS, LABELS, SIZE, UNSEEN, VARIANTS, Dense, batch_for, system, task_for, write_world

from sightword.storage.checkpoint import read_checkpoint
from sightword.systems.skeleton import task as tasks
from sightword.systems.skeleton.task import assemble, read_exported
from sightword.systems.skeleton.texts import read_labels
from sightword.towers.factory import text_tower


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("task"))


def step(task, batch, rate=0.1):
    parameters = [p for group in task.roles().values() for p in group]
    optimizer = torch.optim.SGD(parameters, lr=rate)
    losses = task.losses(batch)
    task.total(losses).backward()
    optimizer.step()
    optimizer.zero_grad()
    return losses


# ----------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_trains_every_parameter_of_its_roles(world, name):
    task = task_for(world, **VARIANTS[name]).train()
    losses = task.losses(batch_for())
    expected = {
        "visece": {"itc_loss"},
        "visece_itm": {"itc_loss", "itm_loss"},
        "visece_mo": {"itc_loss"},
    }
    assert set(losses) == expected.get(name, {"cls_loss"})
    task.total(losses).backward()
    roles = task.roles()
    assert {role for role, parameters in roles.items() if parameters} == (
        {"video", "head"} if name == "slowonly" else {"video", "text", "head"}
    )
    grouped = [p for parameters in roles.values() for p in parameters]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {p for p in task.parameters() if p.requires_grad}
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in grouped)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_learns_four_clips_by_heart(world, name):
    task = task_for(world, **{**VARIANTS[name], "dropout": 0.0}).train()
    optimizer = torch.optim.Adam([p for group in task.roles().values() for p in group], lr=3e-3)
    batch = batch_for([0, 1, 2, 3])
    for number in range(80 if name in ("visece_mo", "visece_itm") else 40):  # a queue of worse vectors; drawn negatives
        task.batches = number
        optimizer.zero_grad()
        task.total(task.losses(batch)).backward()
        optimizer.step()
    for _ in range(30):  # running statistics of the network as it is now
        task.model.video(task.draw_heatmaps(batch.points[:, 0], batch.scores[:, 0], batch.size))
    seen = task.eval().weights_of(batch)
    assert seen.scores.argmax(1).tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(seen.scores.sum(1), torch.ones(4))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("rows", "frames"), [(1, 8), (2, 1), (1, 2)])
def test_one_clip_and_one_frame_are_enough(world, name, rows, frames):
    task = task_for(world, **VARIANTS[name]).train()
    batch = batch_for([2, 1][:rows], frames=frames, persons=2)
    assert all(torch.isfinite(term) for term in task.losses(batch).values())
    seen = task.eval().weights_of(batch)
    assert seen.scores.shape == (rows, 4)
    assert (seen.weights is None) == (name != "visece_pacl")
    if seen.weights is not None:
        assert seen.weights.shape == (rows, 1, (frames + 1) // 2)


def test_all_pacl_presets_forms_train_and_the_paired_one_needs_no_other_classes(world):
    for contrast in ("batch", "classes"):
        for target in ("norm", "raw"):
            task = task_for(world, frames="pacl", contrast=contrast, pacl_target=target, projector="residual").train()
            assert torch.isfinite(step(task, batch_for())["itc_loss" if contrast == "batch" else "cls_loss"])
            assert 1 <= task.stats()["effective_frames"] <= 4


def test_contrast_of_the_batch_is_itc_with_equal_labels_sharing_the_target(world):
    """As a class has one vector, clips of a class pull at the same text: row by row it is then the same number."""
    from sightword.ops import align

    task, batch = task_for(world, **VARIANTS["visece"]).eval(), batch_for([0, 1, 1, 3])
    with torch.no_grad():
        loss = task.losses(batch)["itc_loss"]
        volume = task.heatmaps(batch.points[:, 0], batch.scores[:, 0], batch.size)
        clips, texts = task.model.embed(task.model.video(volume)), task.bank()[batch.labels]
    torch.testing.assert_close(loss, align.itc(clips, texts, 1 / 0.07, batch.labels))
    torch.testing.assert_close(loss, align.itc(clips, texts, 1 / 0.07))


def test_more_views_are_more_clips(world):
    task = task_for(world, **VARIANTS["visece_mean"]).eval()
    two = batch_for([0, 1], views=2)
    apart = two._replace(
        points=two.points.transpose(0, 1).flatten(0, 1)[:, None],
        scores=two.scores.transpose(0, 1).flatten(0, 1)[:, None],
        labels=two.labels.repeat(2),
    )
    torch.testing.assert_close(task.losses(two)["cls_loss"], task.losses(apart)["cls_loss"])
    each = task.weights_of(apart).scores.unflatten(0, (2, 2)).mean(0)
    torch.testing.assert_close(task.weights_of(two).scores, each)


@pytest.mark.parametrize("name", ["visece_itm", "visece_mo", "visece_pacl"])
@pytest.mark.parametrize("value", [0.0, -0.01, 1e-30])
def test_a_temperature_that_underflows_does_not_stop_training(world, name, value):
    task = task_for(world, **VARIANTS[name]).train()
    with torch.no_grad():
        task.model.temperature.fill_(value)
    losses = step(task, batch_for(), rate=1e-3)
    assert all(torch.isfinite(term) for term in losses.values())
    assert task.stats()["temperature"] == pytest.approx(0.001, abs=1e-3)
    assert all(torch.isfinite(p).all() for p in task.parameters())


def test_frozen_words_stay_in_eval_mode_and_bit_identical(world):
    for name in ("visece_itm", "visece_mo", "visece_pacl"):
        task = task_for(world, **VARIANTS[name], freeze_text=True).train()
        before = {key: value.clone() for key, value in task.model.text.state_dict().items()}
        ids, mask = task.texts.ids, task.texts.mask
        features = task.model.text(ids, mask).pooled.clone()
        head = task.model.text_head.weight.detach().clone()
        for seed in range(2):
            step(task, batch_for(seed=seed))
            task.train()
        assert not any(module.training for module in task.model.text.modules())
        assert not task.roles()["text"]
        for key, value in task.model.text.state_dict().items():
            assert torch.equal(value, before[key]), key
        assert torch.equal(task.model.text(ids, mask).pooled, features)
        assert not torch.equal(task.model.text_head.weight, head)


def test_berts_loaded_weights_are_the_files_and_not_fresh_ones(world):
    """`instance.from_pretrained(...)` gives a new model and leaves the instance as it was: the document's mistake."""
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    task = task_for(world, **VARIANTS["visece"])
    file = load_file(f"{world['text']}/model.safetensors")
    loaded = task.model.text.model.state_dict()
    fresh = BertModel(BertConfig.from_pretrained(world["text"]), add_pooling_layer=False).state_dict()
    matrices = [name for name, value in loaded.items() if value.ndim == 2 and value.is_floating_point()]
    assert len(matrices) > 10
    for name in matrices:
        assert torch.equal(loaded[name], file[f"bert.{name}"]), name
        assert not torch.allclose(loaded[name], fresh[name], atol=1e-3), name


# --------------------------------------------------------------------------------------------------------- evaluation


class Watch:
    """Counts how often a module is called."""

    def __init__(self, module):
        self.calls = 0
        module.register_forward_hook(self)

    def __call__(self, *_):
        self.calls += 1


def measured(task, batches):
    for batch in batches:
        task.evaluate(batch)
    return task.measures()


def test_class_texts_are_read_once_an_evaluation_and_anew_in_the_next(world):
    task = task_for(world, **VARIANTS["visece_mean"]).eval()
    watch, batches = Watch(task.model.text), [batch_for(seed=seed, split="val") for seed in range(3)]
    measured(task, batches)
    assert watch.calls == 1
    before = task.bank().clone()
    step(task.train(), batch_for())
    task.eval()
    calls = watch.calls
    measured(task, batches)
    assert watch.calls == calls + 1
    assert not torch.allclose(task.bank(), before)


def test_frozen_class_texts_are_read_once_for_all(world):
    task = task_for(world, **VARIANTS["visece_mean"], freeze_text=True)
    watch = Watch(task.model.text)
    for seed in range(2):
        step(task.train(), batch_for(seed=seed))
        measured(task.eval(), [batch_for(split="val")])
    assert watch.calls == 1


def test_reading_the_bank_in_training_sees_no_dropout_and_leaves_the_mode(world):
    task = task_for(world, **VARIANTS["visece_mean"]).train()
    bank = task.bank()
    assert task.model.training
    assert torch.equal(task.eval().bank(), bank)


def test_measures_are_of_the_recordings_in_percent_with_their_protocol(world):
    task = task_for(world, recognise_by="classifier").eval()
    rows = iter([[0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.6, 0.1], [0.3, 0.1, 0.5, 0.1]])
    task.weights_of = lambda batch: tasks.Seen(torch.tensor([next(rows) for _ in batch.labels]), None)
    found = measured(task, [batch_for([0, 1], split="test", views=2), batch_for([2], split="test", views=2)])
    assert found["top1"] == pytest.approx(100 * 2 / 3)
    assert found["mean_class"] == pytest.approx(100 * 2 / 3)  # 1, 0 and 1; the fourth class is not there
    assert "top5" not in found
    (classes,) = task.tables().values()
    assert classes[1] == {"class": "lower arms", "recordings": 1, "right": 0.0, "taken_for": "sit down", "times": 1}
    assert classes[3]["right"] is None
    protocol = task.protocol()
    assert "3 recordings, 2 views each at 16×16" in protocol["views"]
    assert protocol["split"].startswith("test: nothing was chosen")
    assert set(found) <= set(protocol["measures"])
    assert task.measures() == {}


def test_the_protocol_names_the_temperature_of_the_probabilities(world):
    for kind, said in (("calibrated", "softmax of cosines over τ = 0.0700"), ("seed", "softmax of cosines")):
        assert task_for(world, test_scores=kind).protocol()["probabilities"] == said


def test_the_weights_of_frames_are_those_of_the_class_recognised_and_scored_against_the_truth(world):
    task = task_for(world, **VARIANTS["visece_pacl"]).eval()
    batch = batch_for([0, 1, 2], views=2, split="val")
    seen = task.weights_of(batch)
    assert seen.weights.shape == (3, 2, 4)
    with torch.no_grad():
        frames = task.model.video(task.heatmaps(batch.points[:, 1], batch.scores[:, 1], batch.size))
        every = task.model.compare(frames, task.bank()).weights
    torch.testing.assert_close(seen.weights[:, 1], every[torch.arange(3), seen.scores.argmax(1)])
    found = measured(task, [batch])
    assert 1 <= found["effective_frames"] <= 4


@pytest.mark.parametrize("sick", ["gain", "network"])
def test_weights_that_say_nothing_are_all_alike_and_stop_no_run(world, sick):
    """σ of a large gain may be 0 everywhere, and who diverges is NaN: either is for the measures to show."""
    task = task_for(world, **{**VARIANTS["visece_pacl"], "pacl_weight": "sigmoid", "pacl_gain": 5000.0}).eval()
    head, projector = task.model.text_head, task.model.projector
    with torch.no_grad():
        for layer, bias in ((head, -1.0), (projector, 1.0 if sick == "gain" else torch.nan)):
            layer.weight.zero_()
            layer.bias.fill_(bias)  # every frame is the opposite of every class, or nothing
    batch = batch_for([0, 1], split="val")
    assert torch.equal(task.weights_of(batch).weights, torch.ones(2, 1, 4))
    assert measured(task, [batch])["effective_frames"] == pytest.approx(4)
    assert set(task.pictures(batch)) == {"strips"}


# ------------------------------------------------------------------------------------------ checkpoints, other classes


def test_a_classifier_refuses_a_checkpoint_of_another_class_list(world):
    state = task_for(world, recognise_by="classifier").state_dict()
    other = task_for({**world, "labels": world["labels"].replace("labels", "unseen")}, recognise_by="classifier")
    with pytest.raises(ValueError, match=r"trained on 4 classes and .*unseen\.json has 3: set system\.labels") as error:
        other.load_state_dict(state)
    assert "\n" not in str(error.value)


def test_words_recognise_classes_never_trained_but_do_not_go_on_training_with_them(world):
    state = task_for(world, seed=1, **VARIANTS["visece"]).state_dict()
    other = task_for({**world, "labels": world["labels"].replace("labels", "unseen")}, **VARIANTS["visece"]).eval()
    other.load_state_dict(state)
    assert other.weights_of(batch_for([0, 1])).scores.shape == (2, 3)
    assert other.protocol()["classes"].endswith("it was trained on 4")
    with pytest.raises(ValueError, match=r"trained on 4 classes and .*unseen\.json has 3: other classes can be"):
        other.train().losses(batch_for([0, 1]))


def test_a_label_outside_the_classes_is_a_line(world):
    with pytest.raises(ValueError, match=r"label 4 is none of the 4 classes of .*labels\.json"):
        task_for(world, recognise_by="classifier").losses(batch_for([0, 4]))


def test_a_task_goes_on_from_its_own_state_to_the_same_numbers(world):
    for name in ("visece_mo", "visece_itm"):
        one, other = (task_for(world, seed=seed, **VARIANTS[name]).train() for seed in (0, 5))
        step(one, batch_for())
        other.load_state_dict(one.state_dict())
        for task in (one, other):
            task.batches = 1
            torch.manual_seed(3)
            step(task, batch_for(seed=2))
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key


# ------------------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_exported_recognises_alike_and_holds_inference_alone(world, tmp_path, name):
    task = task_for(world, **VARIANTS[name])
    step(task.train(), batch_for())
    task.eval().export(tmp_path)
    read, batch = read_exported(tmp_path, Dense()), batch_for([0, 1, 2], views=2)
    found = read.scores(batch.points, batch.scores, batch.size)
    torch.testing.assert_close(found, task.weights_of(batch).scores)
    assert read.labels.classes == tuple(LABELS)
    assert read.joints == JOINTS
    kernel = read.model.video.network.layer1[0].conv2.conv.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last_3d)  # as it was trained: faster, and the same bits
    weights = read_checkpoint(tmp_path / "model.safetensors")
    assert not [key for key in weights if "matching" in key or "momentum" in key or key.startswith("text.")]
    assert (tmp_path / "text" / "model.safetensors").exists() == (name != "slowonly")


def test_the_pooling_of_the_words_is_the_configs_also_in_an_export(world, tmp_path):
    vectors = {}
    for pooling in ("cls", "mean"):
        task = task_for(world, text_pooling=pooling).eval()
        task.export(tmp_path / pooling)
        vectors[pooling] = task.bank()
        torch.testing.assert_close(read_exported(tmp_path / pooling, Dense()).vectors(LABELS), task.bank())
    off = {pooling: float((rows @ rows.T).detach().sum() - 4) / 12 for pooling, rows in vectors.items()}
    assert off["cls"] > off["mean"] + 0.01  # an untrained first token tells texts apart less well than all of them


def test_an_export_names_actions_by_words_never_trained(world, tmp_path):
    task = task_for(world, **VARIANTS["visece"]).eval()
    task.export(tmp_path)
    read, batch = read_exported(tmp_path, Dense()), batch_for([0, 1])
    assert read.model.text is None  # the words it knows need no tower
    found = read.scores(batch.points, batch.scores, batch.size, UNSEEN)
    other = task_for({**world, "labels": world["labels"].replace("labels", "unseen")}, **VARIANTS["visece"]).eval()
    other.load_state_dict(task.state_dict())
    torch.testing.assert_close(found, other.weights_of(batch).scores)
    torch.testing.assert_close(task.recogniser().scores(batch.points, batch.scores, batch.size, UNSEEN), found)
    again = read.scores(batch.points, batch.scores, batch.size)
    torch.testing.assert_close(again, task.weights_of(batch).scores)


def test_a_folder_that_is_no_export_is_a_line(world, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json; sightword export"):
        read_exported(tmp_path)
    task_for(world, **VARIANTS["visece"]).eval().export(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["labels"].pop("stand up")
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"vectors \(4, 16\) of classes, config\.json names 3"):
        read_exported(tmp_path, Dense())
    for broken in ({"widths": []}, {"labels": ["sit"]}, {"joints": []}):
        (tmp_path / "config.json").write_text(json.dumps(content | broken))
        with pytest.raises(ValueError, match=r"config\.json is damaged"):
            read_exported(tmp_path, Dense())
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        read_exported(tmp_path, Dense())
    with pytest.raises(ValueError, match="a classifier knows the classes"):
        classifier = task_for(world, recognise_by="classifier").eval().recogniser()
        classifier.scores(torch.zeros(1, 1, 1, 4, 5, 2), torch.zeros(1, 1, 1, 4, 5), SIZE, UNSEEN)


def test_a_task_begins_with_a_published_network(world, tmp_path):
    task = task_for(world, recognise_by="classifier")
    state = {f"backbone.{name}": value + 1 for name, value in task.model.video.network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "joint.pth")
    config = system(world, recognise_by="classifier", video_weights=str(tmp_path / "joint.pth"))
    begun = assemble(config, JOINTS, Dense(), read_labels(config.labels)).model.video.network.state_dict()
    assert all(torch.equal(value, state[f"backbone.{name}"]) for name, value in begun.items())
    assert begun["conv1.conv.weight"].is_contiguous(memory_format=torch.channels_last_3d)


def test_a_config_is_plain_and_the_task_holds_no_tower_it_does_not_read(world):
    assert "text" not in dict(task_for(world, recognise_by="classifier").model.named_children())
    assert dataclasses.asdict(task_for(world).system)["labels"] == world["labels"]
    assert text_tower(world["text"]).name
