"""The objective, every variant on tiny parts: what is trained, the bank of class embeddings, checkpoints."""

import dataclasses

import pytest
import torch
from skeleton_fakes import VARIANTS, batch_for, measure, score, task_for, write_world

from sightword.engine.config import Run
from sightword.engine.init import initialise, origin_of
from sightword.errors import SightwordError
from sightword.systems.skeleton.evaluate import SkeletonEvaluator
from sightword.towers.factory import text_tower


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("task"))


def step(task, batch, rate=0.1):
    parameters = [p for group in task.parameter_groups().values() for p in group]
    optimizer = torch.optim.SGD(parameters, lr=rate)
    losses = task.losses(batch)
    task.total(losses).backward()
    optimizer.step()
    optimizer.zero_grad()
    return losses


# ----------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_trains_every_parameter_of_its_groups(world, name):
    task = task_for(world, **VARIANTS[name]).train()
    losses = task.losses(batch_for())
    expected = {
        "visece": {"itc_loss"},
        "visece_itm": {"itc_loss", "itm_loss"},
        "visece_mo": {"itc_loss"},
    }
    assert set(losses) == expected.get(name, {"cls_loss"})
    task.total(losses).backward()
    groups = task.parameter_groups()
    assert {group for group, parameters in groups.items() if parameters} == (
        {"video", "head"} if name == "slowonly" else {"video", "text", "head"}
    )
    grouped = [p for parameters in groups.values() for p in parameters]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {p for p in task.parameters() if p.requires_grad}
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in grouped)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_learns_four_views_by_heart(world, name):
    task = task_for(world, **{**VARIANTS[name], "dropout": 0.0}).train()
    optimizer = torch.optim.Adam([p for group in task.parameter_groups().values() for p in group], lr=3e-3)
    batch = batch_for([0, 1, 2, 3])
    for number in range(80 if name in ("visece_mo", "visece_itm") else 40):  # a queue of worse vectors; drawn negatives
        task.batches = number
        optimizer.zero_grad()
        task.total(task.losses(batch)).backward()
        optimizer.step()
    for _ in range(30):  # running statistics of the network as it is now
        task.model.video(task.heatmaps(batch.points[:, 0], batch.scores[:, 0], batch.size))
    found = score(task.eval(), batch)
    assert found.scores.argmax(1).tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(found.scores.sum(1), torch.ones(4))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("rows", "frames"), [(1, 8), (2, 1), (1, 2)])
def test_one_view_and_one_frame_are_enough(world, name, rows, frames):
    task = task_for(world, **VARIANTS[name]).train()
    batch = batch_for([2, 1][:rows], frames=frames, persons=2)
    assert all(torch.isfinite(term) for term in task.losses(batch).values())
    found = score(task.eval(), batch)
    assert found.scores.shape == (rows, 4)
    assert (found.weights is None) == (name != "visece_pacl")
    if found.weights is not None:
        assert found.weights.shape == (rows, 1, (frames + 1) // 2)


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


def test_more_views_are_more_rows(world):
    task = task_for(world, **VARIANTS["visece_mean"]).eval()
    two = batch_for([0, 1], views=2)
    apart = two._replace(
        points=two.points.transpose(0, 1).flatten(0, 1)[:, None],
        scores=two.scores.transpose(0, 1).flatten(0, 1)[:, None],
        labels=two.labels.repeat(2),
    )
    torch.testing.assert_close(task.losses(two)["cls_loss"], task.losses(apart)["cls_loss"])
    each = score(task, apart).scores.unflatten(0, (2, 2)).mean(0)
    torch.testing.assert_close(score(task, two).scores, each)


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
        assert not task.parameter_groups()["text"]
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


# ----------------------------------------------------------------------------------------------------- class embeddings


class Calls:
    """Counts how often a module is called."""

    def __init__(self, module):
        self.calls = 0
        module.register_forward_hook(self)

    def __call__(self, *_):
        self.calls += 1


def test_class_texts_are_read_once_an_evaluation_and_anew_in_the_next(world):
    task = task_for(world, **VARIANTS["visece_mean"]).eval()
    calls, batches = Calls(task.model.text), [batch_for(seed=seed, split="val") for seed in range(3)]
    measure(task, batches)
    assert calls.calls == 1
    before = task.bank().clone()
    step(task.train(), batch_for())
    task.eval()
    before_step = calls.calls
    measure(task, batches)
    assert calls.calls == before_step + 1
    assert not torch.allclose(task.bank(), before)


def test_frozen_class_texts_are_read_once_for_all(world):
    task = task_for(world, **VARIANTS["visece_mean"], freeze_text=True)
    calls = Calls(task.model.text)
    for seed in range(2):
        step(task.train(), batch_for(seed=seed))
        measure(task.eval(), [batch_for(split="val")])
    assert calls.calls == 1


def test_reading_the_bank_in_training_sees_no_dropout_and_leaves_the_mode(world):
    task = task_for(world, **VARIANTS["visece_mean"]).train()
    bank = task.bank()
    assert task.model.training
    assert torch.equal(task.eval().bank(), bank)


# ------------------------------------------------------------------------------------------ checkpoints, other classes


def test_a_classifier_refuses_a_checkpoint_of_another_class_list(world):
    state = task_for(world, recognise_by="classifier").state_dict()
    other = task_for({**world, "labels": world["labels"].replace("labels", "unseen")}, recognise_by="classifier")
    with pytest.raises(
        ValueError, match=r"trained on 4 classes and .*unseen\.json has 3\. Set system\.labels"
    ) as error:
        other.load_state_dict(state)
    assert "\n" not in str(error.value)


def test_words_recognise_classes_never_trained_but_do_not_go_on_training_with_them(world):
    state = task_for(world, seed=1, **VARIANTS["visece"]).state_dict()
    other = task_for({**world, "labels": world["labels"].replace("labels", "unseen")}, **VARIANTS["visece"]).eval()
    other.load_state_dict(state)
    assert score(other, batch_for([0, 1])).scores.shape == (2, 3)
    assert SkeletonEvaluator(other).protocol()["classes"].endswith("it was trained on 4")
    with pytest.raises(ValueError, match=r"trained on 4 classes and .*unseen\.json has 3\. Other classes can be"):
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


def test_a_task_starts_from_a_published_network_and_reports_what_is_new(world, tmp_path):
    task = task_for(world, recognise_by="classifier")
    state = {f"backbone.{name}": value + 1 for name, value in task.model.video.network.state_dict().items()}
    torch.save({"state_dict": state | {"cls_head.fc_cls.weight": torch.zeros(60, 4)}}, tmp_path / "joint.pth")
    config = Run(experiment="skeleton/slowonly", init_from=str(tmp_path / "joint.pth"))
    told = r"2 missing, so new: model.linear.weight, model.linear.bias.*init_strict="
    with pytest.raises(SightwordError, match=told):
        initialise(task, origin_of(config), config)
    report = initialise(task, origin_of(config), dataclasses.replace(config, init_strict=False))
    assert (report.missing, report.unexpected) == (["model.linear.weight", "model.linear.bias"], [])
    begun = task.model.video.network.state_dict()
    assert all(torch.equal(value, state[f"backbone.{name}"]) for name, value in begun.items())
    assert begun["conv1.conv.weight"].is_contiguous(memory_format=torch.channels_last_3d)


def test_a_config_is_plain_and_the_task_holds_no_tower_it_does_not_read(world):
    assert "text" not in dict(task_for(world, recognise_by="classifier").model.named_children())
    assert dataclasses.asdict(task_for(world).system)["labels"] == world["labels"]
    assert text_tower(world["text"]).name
