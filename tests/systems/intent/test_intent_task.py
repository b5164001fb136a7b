"""The objective on made-up words: what trains, what is measured, what is refused."""

import json

import pytest
import torch
import torch.nn.functional as F
from made import write_clip

from sightword.cli.compose import compose_config
from sightword.compat.lightning import IntentonomyClipViTMultiStreamModule
from sightword.engine.optim import base_lr, make_optimizer
from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.systems.intent.anchors import Anchors, Book
from sightword.systems.intent.config import IntentConfig
from sightword.systems.intent.data import IntentBatch
from sightword.systems.intent.evaluate import IntentEvaluator
from sightword.systems.intent.intentonomy import CLASSES
from sightword.systems.intent.predict import ANCHORS, IntentClassifier
from sightword.systems.intent.task import make_task

SIZES, B, N, D = {"coco": 8, "places": 6}, 12, 9, 16


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """The folder of a CLIP whose joint space has the anchors' dimension."""
    folder = tmp_path_factory.mktemp("towers") / "clip"
    write_clip(folder, embed_dim=D)
    return str(folder)


@pytest.fixture
def anchors_file(tmp_path):
    generator = torch.Generator().manual_seed(0)
    books = {}
    for name, k in SIZES.items():
        codes = F.normalize(torch.randn(k, D, generator=generator), dim=1)
        words = [f"{name} {i}" for i in range(k)]
        books[name] = Book(codes, words, list(range(k)), [0] * k, words)
    return str(Anchors(books).write(tmp_path / ANCHORS))


def batch(seed=1, **fields):
    generator = torch.Generator().manual_seed(seed)
    tokens = {token_type: torch.randn(B, N, D, generator=generator) for token_type in ("value", "joint")}
    targets = (torch.rand(B, 28, generator=generator) > 0.8).float()
    return IntentBatch(targets, [str(i) for i in range(B)])._replace(
        **{"tokens": tokens, "pooled": torch.randn(B, D, generator=generator)} | fields
    )


def task_of(anchors_file, **values):
    torch.manual_seed(0)
    return make_task(IntentConfig(semantic_anchors_path=anchors_file, embed_dim=D, **values))


def slopes(task):
    losses = task.losses(batch())
    task.total(losses).backward()
    return losses, {name for name, p in task.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_stage_one_trains_the_head_alone_by_the_classes_alone(anchors_file):
    losses, learned = slopes(task_of(anchors_file))
    assert set(losses) == {"asl_loss"}
    assert learned == {"model.head.weight", "model.head.bias"}


def test_the_drift_of_codes_says_whether_it_is_a_mean_or_a_sum(anchors_file):
    found = {}
    for how in ("mean", "sum"):
        task = task_of(anchors_file, freeze_codebook=False, semantic_consistency_reduction=how)
        for name in SIZES:
            torch.nn.init.normal_(task.model.book(name).weight, generator=torch.Generator().manual_seed(3))
        found |= task.losses(batch())
    each = {
        name: (task.model.book(name).codes() - task.model.book(name).anchors).square().sum().item() for name in SIZES
    }
    assert found["consistency_sum_loss"].item() == pytest.approx(sum(each.values()), rel=1e-5)
    mean = sum(value / SIZES[name] for name, value in each.items())
    assert found["consistency_mean_loss"].item() == pytest.approx(mean, rel=1e-5)
    with pytest.raises(SightwordError, match=r"semantic_consistency_reduction='?total'? is none of mean, sum"):
        task_of(anchors_file, semantic_consistency_reduction="total")


def test_stage_two_moves_the_codes_and_penalises_their_drift(anchors_file):
    task = task_of(anchors_file, freeze_codebook=False)
    losses, learned = slopes(task)
    assert set(losses) == {"asl_loss", "vq_loss", "consistency_mean_loss"}
    assert {"model.books.coco.weight", "model.books.places.weight"} <= learned
    assert losses["consistency_mean_loss"].item() == pytest.approx(0, abs=1e-10)
    assert task.stats()["coco_cosine"] == pytest.approx(1)
    groups = task.parameter_groups()
    assert [len(groups[name]) for name in ("head", "vq_coco", "vq_places", "fusion", "adapter")] == [2, 1, 1, 0, 0]


def test_a_stream_of_ones_own_moves_as_slowly_as_the_documents(anchors_file):
    anchors = Anchors.read(anchors_file)
    Anchors(anchors.books | {"weather": anchors["coco"]}).write(anchors_file)
    config = compose_config(["experiment=intent/stage2", f"system.semantic_anchors_path={anchors_file}", "data.root=x"])
    groups = make_optimizer(config.optim, make_task(config.system)).param_groups
    rates = {group["name"]: base_lr(config.optim, group["name"]) / config.optim.lr for group in groups}
    assert rates == pytest.approx({"head": 1, "vq_coco": 0.1, "vq_places": 0.1, "vq_other": 0.1})
    module = IntentonomyClipViTMultiStreamModule(anchors_file, freeze_codebook=False)
    assert module.optim.lr_scale["vq_other"] == 0.1


@pytest.mark.parametrize("fusion", ["sum", "weighted", "gated"])
@pytest.mark.parametrize("adapter", [False, True])
def test_every_parameter_is_in_one_group(anchors_file, fusion, adapter):
    task = task_of(anchors_file, fusion=fusion, adapter=adapter, freeze_codebook=False)
    named = [p for parameters in task.parameter_groups().values() for p in parameters]
    assert len(named) == len(set(named)) == len([p for p in task.parameters() if p.requires_grad])


def test_counts_of_words_train_as_their_tokens_do(anchors_file):
    task = task_of(anchors_file)
    ids = task.read(batch()).ids
    counts = {name: task.model.count(name, ids[name]) for name in SIZES}
    by_tokens = task.losses(batch())["asl_loss"]
    by_counts = task.losses(batch(tokens=None, pooled=None, counts=counts, anchors=task.digest))["asl_loss"]
    torch.testing.assert_close(by_counts, by_tokens)


def test_counts_of_other_codebooks_or_for_codes_that_move_are_refused(anchors_file):
    counts = {name: torch.ones(B, k) for name, k in SIZES.items()}
    with pytest.raises(ValueError, match="looked up in the anchors other"):
        task_of(anchors_file).losses(batch(counts=counts, anchors="other"))
    with pytest.raises(
        ValueError, match=r"ids of coco in data\.ids are of value tokens, system\.token_types\.coco is qq"
    ):
        task_of(anchors_file, token_types={"coco": "qq"}).losses(
            batch(counts=counts, token_types={"coco": "value", "places": "joint"})
        )
    with pytest.raises(
        ValueError, match=r"data\.ids has the streams coco, places, this run coco\. .* streams=coco out="
    ):
        task_of(anchors_file, streams=["coco"]).losses(batch(counts=counts))
    for values in ({"freeze_codebook": False}, {"adapter": True}):
        with pytest.raises(ValueError, match=r"set data\.cache"):
            task_of(anchors_file, **values).losses(batch(counts=counts))


def test_what_does_not_fit_is_said_in_a_line(anchors_file):
    wide = {token_type: torch.randn(B, N, D + 1) for token_type in ("value", "joint")}
    with pytest.raises(ValueError, match=r"dimension 17, the anchors of coco .* 16"):
        task_of(anchors_file).losses(batch(tokens=wide))
    with pytest.raises(ValueError, match="not value. Write another one with sightword cache token_type=joint,value"):
        task_of(anchors_file).losses(batch(tokens={"joint": wide["joint"]}))
    with pytest.raises(ValueError, match=r"semantic_anchors_path is not set"):
        IntentConfig()
    post = {"post": wide["value"], "value": torch.randn(B, N, D)}
    with pytest.raises(
        ValueError, match=r"post tokens have dimension 17 .* places have 16\. Set system\.token_types\.places=joint"
    ):
        task_of(anchors_file, token_types={"coco": "value", "places": "post"}).losses(batch(tokens=post))
    for name, value, told in (
        ("margin", -0.1, r"is not in \[0, 1\)"),
        ("margin", 1.0, r"is not in \[0, 1\)"),
        ("gamma_neg", -1.0, "is too small"),
        ("gamma_pos", -1.0, "is too small"),
    ):
        with pytest.raises(SightwordError, match=rf"system\.{name}={value} {told}"):
            IntentConfig(semantic_anchors_path="x", **{name: value})
    with pytest.raises(ValueError, match=r"streams=\['coco', 'coco'\] names a stream twice"):
        IntentConfig(semantic_anchors_path="x", streams=["coco", "coco"])
    with pytest.raises(ValueError, match="system.token_types names 'cocoo'; the streams of .* are coco, places"):
        task_of(anchors_file, token_types={"cocoo": "value"})
    with pytest.raises(ValueError, match="has no stream 'ava'"):
        task_of(anchors_file, streams=["ava"])


def test_a_batch_of_one_image_is_refused_where_features_are_standardised(anchors_file):
    one = batch()
    one = one._replace(targets=one.targets[:1], tokens={token_type: x[:1] for token_type, x in one.tokens.items()})
    with pytest.raises(ValueError, match=r"data\.batch_size to 2 or more, or system\.standardise=false"):
        task_of(anchors_file).train().losses(one)
    assert task_of(anchors_file, standardise=False).train().losses(one)["asl_loss"].isfinite()


def test_a_published_tower_that_did_not_make_the_anchors_is_refused_before_it_is_opened(anchors_file):
    anchors = Anchors.read(anchors_file)
    for made, said, right in (
        ("ViT-L-14-quickgelu:openai", {"tower": "vit_h14"}, {"tower": "vit_l14"}),
        ("ViT-H-14:laion2b_s32b_b79k", {"tower": "ViT-H-14", "tag": "x"}, {"tower": "vit_h14"}),
        ("siglip_b16", {}, {"tower": "siglip_b16"}),
        ("ViT-B-16-SigLIP", {}, {"tower": "ViT-B-16-SigLIP", "tag": "webli"}),
    ):
        Anchors(anchors.books, {"tower": made, "local": False}).write(anchors_file)
        with pytest.raises(ValueError, match=rf"made by {made}, system\.tower is {said.get('tower', 'vit_h14')} \("):
            task_of(anchors_file, **said)
        task_of(anchors_file, **right)
    Anchors(anchors.books, {"tower": "mine", "local": True}).write(anchors_file)
    task_of(anchors_file)


def evaluator_of(anchors_file, **values):
    return IntentEvaluator(task_of(anchors_file, **values).eval())


def test_metrics_are_at_the_threshold_that_validation_chooses(anchors_file):
    evaluator = evaluator_of(anchors_file)
    evaluator.update(batch(1))
    evaluator.update(batch(2))
    assert len(evaluator.decisions) == 2 * B
    metrics = evaluator.compute()
    assert metrics["threshold"] == pytest.approx(float(evaluator.task.threshold), abs=1e-6)
    assert {"macro_f1", "micro_f1", "samples_f1", "map", "map_voc", "easy_f1", "hard_f1", "object_f1"} <= set(metrics)
    assert metrics["map_voc"] >= metrics["map"]
    assert len(evaluator.decisions) == 0
    assert evaluator.protocol()["split"].startswith("val: 24 images")
    rows = evaluator.tables()["classes"]
    assert sum(row["f1"] for row in rows) / 28 == pytest.approx(metrics["macro_f1"])


def test_test_images_are_measured_with_the_threshold_of_validation_and_move_nothing(anchors_file):
    evaluator = evaluator_of(anchors_file)
    torch.nn.init.normal_(evaluator.task.model.head.weight, std=40)  # scores of all sizes
    assert evaluator.tables() == {}
    evaluator.update(batch(1))
    chosen = evaluator.compute()["threshold"]
    again = evaluator_of(anchors_file)
    again.task.load_state_dict(evaluator.task.state_dict())
    told = []
    for seed in range(2, 6):
        again.update(batch(seed, split="test"))
        told.append(again.compute())
    assert {metrics["threshold"] for metrics in told} == {chosen}
    assert {metrics["per_split_threshold"] for metrics in told} != {chosen}
    assert again.protocol()["split"] == "test: 12 images, never trained on; nothing was chosen on them"


def test_weights_from_before_any_validation_have_no_threshold(anchors_file):
    evaluator = evaluator_of(anchors_file)
    with pytest.raises(ValueError, match=r"these weights have none.* checkpoint=best") as error:
        evaluator.update(batch(1, split="test"))
    assert "\n" not in str(error.value)


def test_a_threshold_of_other_weights_is_refused(anchors_file):
    evaluator = evaluator_of(anchors_file)
    task = evaluator.task
    evaluator.update(batch(1))
    evaluator.compute()
    evaluator.update(batch(2, split="test"))
    evaluator.compute()
    with torch.no_grad():
        task.model.head.bias[3] += 1e-6  # one step on
    with pytest.raises(ValueError, match="have that of others: they were trained on"):
        evaluator.update(batch(2, split="test"))
    task.model.head.bias.data[3] -= 1e-6
    evaluator.update(batch(1))
    evaluator.compute()
    task.train().losses(batch(4))  # what standardises has moved, and no parameter
    task.eval()
    with pytest.raises(ValueError, match="have that of others"):
        evaluator.update(batch(2, split="test"))


@pytest.mark.parametrize("values", [{}, {"model": "baseline", "hidden": 8}])
@pytest.mark.parametrize("split", ["val", "test"])
def test_every_metric_that_is_measured_was_announced_and_has_a_note(anchors_file, values, split):
    evaluator = evaluator_of(anchors_file, **values)
    names = evaluator.metric_names()
    evaluator.update(batch(1))
    evaluator.compute()
    evaluator.update(batch(2, split=split, missing=2, skipped=1))
    metrics = evaluator.compute()
    assert set(metrics) == set(names) == set(evaluator.metric_names())
    assert set(evaluator.notes()) == set(names)


def test_the_table_of_codebooks_counts_the_codes_that_were_used(anchors_file):
    evaluator = evaluator_of(anchors_file)
    ids = evaluator.task.read(batch(1)).ids
    evaluator.update(batch(1))
    evaluator.compute()
    rows = {row["stream"]: row for row in evaluator.tables()["codebooks"]}
    for name, k in SIZES.items():
        assert (rows[name]["codes"], rows[name]["used"]) == (k, len(ids[name].unique()))
    counts = {name: evaluator.task.model.count(name, each) for name, each in ids.items()}
    evaluator.update(batch(1, tokens=None, pooled=None, counts=counts))
    evaluator.compute()
    assert {row["stream"]: row for row in evaluator.tables()["codebooks"]} == rows


def test_weights_of_other_anchors_are_refused(anchors_file, tmp_path):
    weights = task_of(anchors_file).state_dict()
    read = Anchors.read(anchors_file)
    other = {name: book._replace(codes=book.codes.flip(0)) for name, book in read.books.items()}
    file = str(Anchors(other).write(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"trained with other anchors than .*other.* \(coco differs\)"):
        task_of(file).load_state_dict(weights)
    task_of(anchors_file, freeze_codebook=False).load_state_dict(weights)  # codes that may move began there too


def test_labels_of_another_number_of_classes_are_refused(anchors_file):
    few = torch.zeros(B, 27)
    with pytest.raises(ValueError, match="labels of train are not those .* they have 27 columns, expected 28"):
        task_of(anchors_file).losses(batch(targets=few, split="train"))
    for evaluator in (evaluator_of(anchors_file), evaluator_of(anchors_file, model="baseline")):
        with pytest.raises(ValueError, match="labels of val .* 27 columns"):
            evaluator.update(batch(targets=few))


def test_labels_of_other_classes_of_the_same_number_or_order_are_refused(anchors_file):
    task, reversed_ = task_of(anchors_file), CLASSES[::-1]
    with pytest.raises(ValueError, match="they are in another order"):
        task.losses(batch(classes=reversed_))
    with pytest.raises(ValueError, match="'x' is none of the 28 classes of the model, and 'Attractive' is missing"):
        evaluator_of(anchors_file).update(batch(classes=("x", *CLASSES[1:])))
    task.losses(batch(classes=list(CLASSES)))  # a list, as pinned memory has it


def test_a_set_of_its_own_classes_has_its_own_names_and_no_subsets(anchors_file):
    evaluator = evaluator_of(anchors_file, classes=["sun", "rain"])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(B // 2, 1)
    evaluator.update(batch(targets=targets, classes=("sun", "rain")))
    found = evaluator.compute()
    assert not {"easy_f1", "object_f1"} & (set(found) | evaluator.metric_names() | set(evaluator.notes()))
    assert [row["name"] for row in evaluator.tables()["classes"]] == ["sun", "rain"]
    assert "hardness" not in evaluator.tables()["classes"][0]
    assert evaluator.protocol()["classes"] == "2, matched by name: sun, rain"
    assert "subsets" not in evaluator.protocol()


def test_a_split_of_which_no_image_can_be_read_is_said(anchors_file):
    evaluator = evaluator_of(anchors_file)
    evaluator.update(batch(targets=torch.zeros(0, 28), image_ids=[], skipped=3))
    with pytest.raises(ValueError, match="none of the 3 images of val can be read.*: sightword check"):
        evaluator.compute()


def test_the_baseline_is_as_wide_as_its_encoder_says(random_clip, tmp_path):
    folder, _ = random_clip
    task = make_task(IntentConfig(model="baseline", tower=str(folder), hidden=8))
    assert task.config.embed_dim == 24
    IntentClassifier.from_task(task).save_pretrained(tmp_path / "out")
    assert (
        IntentClassifier.from_pretrained(tmp_path / "out").task.config.embed_dim == 24
    )  # the encoder may not be there
    with pytest.raises(ValueError, match=r"config of 'nowhere' does not tell the width of its joint space: .*nowhere"):
        make_task(IntentConfig(model="baseline", tower="nowhere"))
    with pytest.raises(ValueError, match=r"dimension 16 and pooled vectors 16, the baseline is made for 24"):
        task.losses(batch())


def test_an_export_is_read_back_to_the_same_logits(anchors_file, clip, tmp_path):
    task = task_of(anchors_file, tower=clip, fusion="gated", margin=0.1, token_types={"coco": "joint"}).train()
    task.losses(batch())
    IntentClassifier.from_task(task).save_pretrained(tmp_path / "out")
    again = IntentClassifier.from_pretrained(tmp_path / "out").task
    assert torch.equal(again.logits(batch(3)), task.logits(batch(3)))
    assert (again.config.margin, again.token_types) == (0.1, {"coco": "joint", "places": "joint"})
    with pytest.raises(SightwordError, match="neither a run directory .* nor an exported model"):
        IntentClassifier.from_pretrained(tmp_path)


def test_a_damaged_export_is_one_line(anchors_file, clip, tmp_path):
    out = tmp_path / "out"
    IntentClassifier.from_task(task_of(anchors_file, tower=clip)).save_pretrained(out)
    told = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(told | {"config": told["config"] | {"fusion": "product"}}))
    with pytest.raises(SightwordError, match=r"config\.json: .*system\.fusion='product' is none of") as error:
        IntentClassifier.from_pretrained(out)
    assert "\n" not in str(error.value)
    (out / "config.json").write_text(json.dumps(told))
    for name in ("tower", "semantic_anchors.safetensors", "model.safetensors"):
        (out / name).rename(tmp_path / name)
        with pytest.raises(FileNotFoundError, match=f"{name} (is missing|does not exist)"):
            IntentClassifier.from_pretrained(out)
        (tmp_path / name).rename(out / name)
    with pytest.raises(SightwordError, match="made of a run of intent, got a Task"):
        IntentClassifier.from_task(Task())


def test_the_baseline_reads_tokens_and_no_words(anchors_file, clip, tmp_path):
    task = task_of(anchors_file, model="baseline", hidden=8, tower=clip)
    losses, learned = slopes(task)
    assert set(losses) == {"asl_loss"}
    assert learned == {f"model.{name}" for name, _ in task.model.named_parameters()}
    with pytest.raises(ValueError, match="needs tokens"):
        task.losses(batch(tokens=None, counts={}))
    IntentClassifier.from_task(task).save_pretrained(tmp_path / "out")
    assert torch.equal(IntentClassifier.from_pretrained(tmp_path / "out").task.logits(batch()), task.logits(batch()))
