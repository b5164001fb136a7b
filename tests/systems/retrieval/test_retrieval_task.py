"""The objective of each phase on tiny towers: what trains, what it is given, what is measured, what is handed on."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from fakes import CAPTIONS, CONTROL, IRRA, PHASE1, PHASE2, PHASE3, PHASE4, PHASES, batch_for, system, write_towers

from sightword.engine.config import Optim
from sightword.engine.optim import make_optimizer
from sightword.ops import align
from sightword.systems.retrieval.data import ImageRows, TextRows
from sightword.systems.retrieval.task import make_task, read_exported

TERMS = {
    "irra": {"itc_loss", "sdm_loss", "id_loss", "mlm_loss"},
    "phase1": {"itc_loss", "sdm_loss"},
    "phase2": {"itc_loss", "sdm_loss"},
    "control": {"itc_loss", "sdm_loss"},
    "phase3": {"itc_loss", "sdm_loss"},
    "phase4": {"itc_loss", "sdm_loss", "gen_loss"},
}


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return write_towers(tmp_path_factory.mktemp("towers"))


def task_of(towers, **values):
    torch.manual_seed(0)
    return make_task(system(towers, **values))


@pytest.fixture(params=PHASES)
def phase(request):
    return request.param


def test_each_phase_has_its_losses_and_every_parameter_gets_a_gradient(towers, phase):
    task = task_of(towers, **PHASES[phase], align="both").train()
    task.batches = 2
    losses = task.losses(batch_for(task.model.tokenizer))
    assert set(losses) == TERMS[phase]
    assert all(math.isfinite(float(term.detach())) for term in losses.values())
    task.total(losses).backward()
    assert not [name for name, p in task.named_parameters() if p.requires_grad and p.grad is None]


def test_each_parameter_is_in_exactly_one_optimiser_group(towers, phase):
    task = task_of(towers, **PHASES[phase])
    optimizer = make_optimizer(Optim(lr=1e-3, lr_scale={"head": 5.0, "generator": 10.0}), task)
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    wanted = [p for p in task.parameters() if p.requires_grad]
    assert len(grouped) == len(set(grouped)) == len(wanted)
    assert set(grouped) == set(wanted)


def test_what_is_new_has_roles_of_its_own(towers):
    task = task_of(towers, **PHASE4, id_weight=1.0)
    roles, names = task.roles(), {p: name for name, p in task.named_parameters()}
    assert list(roles) == ["image", "text", "head", "training", "generator"]
    head = {names[p] for p in roles["head"]}
    assert {"model.heads.0.weight", "model.words.linear.weight", "model.text.grid_bias.weight"} <= head
    assert {names[p].split(".")[0] for p in roles["generator"]} == {"generator"}
    assert {names[p].split(".")[0] for p in roles["training"]} == {"persons"}
    assert {names[p].rsplit(".", 1)[0].split(".")[1] for p in roles["image"] + roles["text"]} == {"image", "text"}
    assert task_of(towers, **PHASE1).roles()["generator"] == []


def test_the_alignment_is_of_what_encoding_gives(towers):
    task = task_of(towers, **PHASE2).eval()
    batch = batch_for(task.model.tokenizer)
    image, text = task.model.encode_image(batch.images), task.model.encode_text(*batch[2:4])
    losses = task.losses(batch)
    torch.testing.assert_close(losses["itc_loss"], align.itc(image, text, 50.0, batch.pids))
    torch.testing.assert_close(losses["sdm_loss"], align.sdm(image, text, batch.pids, 50.0))
    assert task.stats()["positive_share"] == pytest.approx(
        0.05 * float(align.positive_share(image, text, batch.pids)), rel=1e-4
    )
    assert task.stats()["sdm"] == 0


def one_of_two(rank, place, towers):
    """In a process: half of the batch, under DistributedDataParallel, against the whole of it before there were two."""
    task = task_of(towers, **PHASE4, id_weight=1.0, align="both").eval()
    task.batches, task.forward = 2, lambda batch: task.total(task.losses(batch))
    batch = batch_for(task.model.tokenizer, pids=(0, 1, 2, 3, 1, 0, 4, 2))
    whole = task.losses(batch)
    task.total(whole).backward()
    expected = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
    task.zero_grad()
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    half = type(batch)(*(None if part is None else part[4 * rank : 4 * rank + 4] for part in batch))
    parallel = torch.nn.parallel.DistributedDataParallel(task)  # which fails if a parameter is not used
    for _ in range(2):
        task.zero_grad()
        parallel(half).backward()
    found = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, slope in expected.items():
        torch.testing.assert_close(found[name], slope, rtol=2e-3, atol=1e-5 * float(slope.abs().max()) + 1e-7)
    torch.distributed.destroy_process_group()


def test_two_ranks_train_as_one_with_twice_the_batch(towers, tmp_path):
    spawn = torch.multiprocessing.start_processes  # forked: nothing to import again
    spawn(one_of_two, args=(str(tmp_path / "meet"), towers), nprocs=2, start_method="fork")


# --------------------------------------------------------------------------------------------- the text, whole or not


def spied(task, monkeypatch):
    """Which ids the text tower was given."""
    seen = []
    read = task.model.read
    monkeypatch.setattr(task.model, "read", lambda ids, mask: (seen.append(ids), read(ids, mask))[1])
    return seen


def test_the_global_losses_see_the_whole_caption_and_the_head_the_one_with_hidden_words(towers, monkeypatch):
    task = task_of(towers, **IRRA).eval()
    batch = batch_for(task.model.tokenizer)
    before = batch.caption_ids.clone()
    assert not torch.equal(batch.masked_ids, before)
    seen = spied(task, monkeypatch)
    losses = task.losses(batch)
    assert [ids is batch.caption_ids for ids in seen] == [True, False]
    assert torch.equal(seen[1], batch.masked_ids)
    assert torch.equal(batch.caption_ids, before)  # nothing is hidden in place
    others = task.losses(batch._replace(masked_ids=batch.caption_ids))
    for name in ("itc_loss", "sdm_loss", "id_loss"):
        assert torch.equal(losses[name], others[name])
    assert not torch.equal(losses["mlm_loss"], others["mlm_loss"])


def test_hiding_words_from_all_losses_is_asked_for_and_saves_a_pass(towers, monkeypatch):
    task = task_of(towers, **IRRA, mask_global_text=True).eval()
    batch = batch_for(task.model.tokenizer)
    seen = spied(task, monkeypatch)
    losses = task.losses(batch)
    assert len(seen) == 1
    assert torch.equal(seen[0], batch.masked_ids)
    image, text = task.model.encode_image(batch.images), task.model.encode_text(batch.masked_ids, batch[3])
    torch.testing.assert_close(losses["sdm_loss"], align.sdm(image, text, batch.pids, 50.0))


def test_the_head_of_irra_reads_the_class_token_and_the_patches_of_the_joint_space(towers):
    task = task_of(towers, **IRRA)
    seen = task.model.see(batch_for(task.model.tokenizer).images)
    assert seen.tokens.shape == (6, 1 + 12, 24)
    torch.testing.assert_close(seen.tokens[:, 0], seen.vector)


def test_a_batch_without_what_the_config_asks_for_is_refused(towers):
    task = task_of(towers, **IRRA)
    batch = batch_for(task.model.tokenizer)
    with pytest.raises(ValueError, match=r"set data\.mask_text=0\.15"):
        task.losses(batch._replace(masked_ids=None))
    task = task_of(towers, **PHASE4)
    batch = batch_for(task.model.tokenizer)
    for field in ("masked_images", "vq_target_ids", "vq_target_attn_mask"):
        with pytest.raises(ValueError, match=r"set data\.hide=0\.5 and data\.vq_codes"):
            task.losses(batch._replace(**{field: None}))


# -------------------------------------------------------------------------------------------------------- generation


def test_the_generators_weight_rises_over_its_ramp(towers):
    task = task_of(towers, **PHASE4, gen_weight=0.4)  # ramp: 4 batches
    batch = batch_for(task.model.tokenizer)
    found = []
    for task.batches in (0, 1, 3, 4, 9):
        task.losses(batch)
        found.append(task.weights["gen_loss"])
    assert found == pytest.approx([0.0, 0.1, 0.3, 0.4, 0.4])


def test_generation_moves_the_encoder_and_no_head_of_its_own_is_encoded_with(towers):
    task = task_of(towers, **PHASE4)
    batch = batch_for(task.model.tokenizer)
    task.losses(batch)["gen_loss"].backward()
    assert task.model.text.model.encoder.block[0].layer[0].SelfAttention.q.weight.grad.abs().sum() > 0
    assert task.model.heads[0].weight.grad is None
    task.eval()
    ids, mask = batch[2:4]
    before = task.model.encode_image(batch.images), task.model.encode_text(ids, mask)
    for parameter in task.generator.parameters():
        torch.nn.init.normal_(parameter, std=9.0)
    task.generator.forward = None  # whoever calls it fails
    assert torch.equal(task.model.encode_image(batch.images), before[0])
    assert torch.equal(task.model.encode_text(ids, mask), before[1])


def test_phase_four_without_its_generator_is_phase_three(towers):
    task = task_of(towers, **{**PHASE4, "enable_gen": False})
    assert task.generator is None
    assert set(task.losses(batch_for(task.model.tokenizer))) == TERMS["phase3"]


# ---------------------------------------------------------------------------------------------------------- measures


def plain_ranking(queries, gallery, query_ids, gallery_ids):
    """Rank-k, AP and INP from a sorted list, for a handful of rows."""
    hits, precisions, lasts = [], [], []
    for vector, person in zip(queries, query_ids, strict=True):
        order = (-(gallery @ vector)).argsort()
        right = (gallery_ids[order] == person).nonzero()[:, 0] + 1
        hits.append(int(right[0]))
        precisions.append(float((torch.arange(1, len(right) + 1) / right).mean()))
        lasts.append(len(right) / int(right[-1]))
    within = [100 * sum(hit <= k for hit in hits) / len(hits) for k in (1, 5, 10)]
    means = [100 * sum(values) / len(hits) for values in (precisions, lasts)]
    return dict(zip(("rank1", "rank5", "rank10", "map", "minp"), [*within, *means], strict=True))


def plain_measures(image, image_ids, text, text_ids):
    """As `ranking.measures_of`."""
    back = plain_ranking(image, text, image_ids, text_ids)
    return plain_ranking(text, image, text_ids, image_ids) | {f"i2t_{name}": value for name, value in back.items()}


@pytest.fixture
def ranked(monkeypatch):
    fake = SimpleNamespace(measures_of=plain_measures, PROTOCOL={"ties": "…"})
    monkeypatch.setitem(sys.modules, "sightword.metrics.ranking", fake)


def halves(task, order=(0, 1, 2, 3, 4, 5)):
    """Validation batches: images in two parts, then captions; the pictures of batch_for."""
    batch = batch_for(task.model.tokenizer)
    number = torch.arange(6)
    rows = torch.tensor(order)
    return [
        ImageRows(batch.images[rows[:4]], batch.pids[rows[:4]], number[rows[:4]]),
        ImageRows(batch.images[rows[4:]], batch.pids[rows[4:]], number[rows[4:]]),
        TextRows(batch.caption_ids, batch.caption_attn_mask, batch.pids, number),
    ]


def test_measures_are_of_embeddings_taken_once_in_either_direction(towers, ranked):
    task = task_of(towers, **PHASE2).eval()
    batch = batch_for(task.model.tokenizer)
    with torch.no_grad():
        image, text = task.model.encode_image(batch.images), task.model.encode_text(*batch[2:4])
    expected = plain_measures(image, batch.pids, text, batch.pids)
    for part in halves(task):
        task.evaluate(part)
    found = task.measures()
    assert found == pytest.approx(expected, abs=1e-4)
    assert task.measures() == {}  # forgotten
    for part in reversed(halves(task, (5, 3, 1, 0, 2, 4))):  # the order they come in is nothing
        task.evaluate(part)
    assert task.measures() == found


def test_ties_count_against(towers):
    """With images that all have one embedding, no query finds its person first."""
    task = task_of(towers, **PHASE2).eval()
    images, _, texts = halves(task)
    task.evaluate(images._replace(images=torch.zeros_like(images.images)))
    task.evaluate(TextRows(*(part[:4] for part in texts)))
    assert task.measures()["rank1"] == 0


def test_the_text_gain_of_validation_batches_is_a_measure(towers, ranked):
    task = task_of(towers, **PHASE4).eval()
    batches = [batch_for(task.model.tokenizer, seed=seed) for seed in (1, 2)]
    for batch in batches:
        task.evaluate(batch)
    expected = torch.cat([task.text_gain(batch) for batch in batches]).mean()
    assert task.measures() == {"text_gain": pytest.approx(float(expected), rel=1e-5)}
    assert set(task.stats()) == {"positive_share", "sdm"}  # nothing has been trained
    task.losses(batches[0])
    task.train()
    assert task.stats()["text_gain"] == pytest.approx(float(task.eval().text_gain(batches[0]).mean()), rel=1e-5)


def test_the_protocol_is_said(towers, ranked):
    assert {"ties", "embeddings", "text_gain", "split"} <= set(task_of(towers, **PHASE1).protocol())


def test_the_loaders_are_told_what_reads_them(towers):
    task = task_of(towers, **PHASE4)
    assert task.reads() == {
        "tokenizer": task.model.tokenizer,
        "patch": (8, 8),
        "expect": {"num_codes": 16, "shapes": {"ids": [6, 2]}},
        "factor": 0,
    }
    assert set(task_of(towers, **PHASE1).reads()) == {"tokenizer", "patch"}


# ------------------------------------------------------------------------------------------------------------ export


VARIANTS = {
    **PHASES,
    "short texts": {**PHASE1, "text_length": 40},
    "cls and lines": {**PHASE3, "image_pooling": "cls", "grid_bias": False},
    "separate heads": {**CONTROL, "project": "separate"},
}


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_an_export_gives_the_same_embeddings_bit_for_bit_and_needs_no_other_files(towers, tmp_path, name):
    task = task_of(towers, **VARIANTS[name]).eval()
    for parameter in task.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter))  # trained: no longer what the towers' files hold
    batch = batch_for(task.model.tokenizer)
    task.export(tmp_path / "out")
    moved = tmp_path / "elsewhere"
    (tmp_path / "out").rename(moved)
    model = read_exported(moved)
    assert not model.training
    assert torch.equal(model.encode_image(batch.images), task.model.encode_image(batch.images))
    ids, mask = model.tokenizer(CAPTIONS)
    assert torch.equal(ids, batch.caption_ids)
    assert torch.equal(model.encode_text(ids, mask), task.model.encode_text(*batch[2:4]))
    assert model.state_dict().keys() == task.model.state_dict().keys()
    assert model.image.preprocess == task.model.image.preprocess


def test_an_export_of_phase_four_holds_no_weights_of_the_generator(towers, tmp_path):
    from safetensors.torch import load_file

    sizes = {}
    for name in ("phase3", "phase4"):
        task_of(towers, **PHASES[name]).export(tmp_path / name)
        files = sorted((tmp_path / name).rglob("*.safetensors"))
        weights = {f"{file.parent.name}/{key}": value for file in files for key, value in load_file(file).items()}
        assert not [key for key in weights if "generator" in key or "decoder" in key]
        sizes[name] = {key.split("/")[1]: tuple(value.shape) for key, value in weights.items()}
    assert sizes["phase3"] == sizes["phase4"]


def test_an_export_that_is_not_whole_is_refused_in_a_line(towers, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"sightword export run=… out="):
        read_exported(tmp_path)
    task = task_of(towers, **PHASE3)
    task.export(tmp_path / "out")
    (tmp_path / "out" / "config.json").write_text('{"system": {"imagge": "clip"}}')
    with pytest.raises(ValueError, match="damaged, or of another version"):
        read_exported(tmp_path / "out")
    task.export(tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(ValueError, match="missing: image"):
        read_exported(tmp_path / "out")
