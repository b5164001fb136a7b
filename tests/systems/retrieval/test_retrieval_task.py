"""The objective of each phase on tiny towers: what trains, and what it is given."""

import math

import pytest
import torch
from fakes import IRRA, PHASE1, PHASE2, PHASE4, PHASES, batch_for, system, write_towers

from sightword.engine.config import Optim
from sightword.engine.optim import make_optimizer
from sightword.ops import align
from sightword.systems.retrieval.task import make_task

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


def test_what_is_new_has_parameter_groups_of_its_own(towers):
    task = task_of(towers, **PHASE4, id_weight=1.0)
    groups, names = task.parameter_groups(), {p: name for name, p in task.named_parameters()}
    assert list(groups) == ["image", "text", "head", "training", "generator"]
    head = {names[p] for p in groups["head"]}
    assert {"model.heads.0.weight", "model.words.linear.weight", "model.text.grid_bias.weight"} <= head
    assert {names[p].split(".")[0] for p in groups["generator"]} == {"generator"}
    assert {names[p].split(".")[0] for p in groups["training"]} == {"identity"}
    assert {names[p].rsplit(".", 1)[0].split(".")[1] for p in groups["image"] + groups["text"]} == {"image", "text"}
    assert task_of(towers, **PHASE1).parameter_groups()["generator"] == []


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
    read = task.model.text_features
    monkeypatch.setattr(task.model, "text_features", lambda ids, mask: (seen.append(ids), read(ids, mask))[1])
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
    seen = task.model.image_features(batch_for(task.model.tokenizer).images)
    assert seen.tokens.shape == (6, 1 + 12, 24)
    torch.testing.assert_close(seen.tokens[:, 0], seen.vector)


def test_a_batch_without_what_the_config_asks_for_is_refused(towers):
    task = task_of(towers, **IRRA)
    batch = batch_for(task.model.tokenizer)
    with pytest.raises(ValueError, match=r"Set data\.mask_text=0\.15"):
        task.losses(batch._replace(masked_ids=None))
    task = task_of(towers, **PHASE4)
    batch = batch_for(task.model.tokenizer)
    for field in ("masked_images", "vq_target_ids", "vq_target_attn_mask"):
        with pytest.raises(ValueError, match=r"Set data\.hide=0\.5 and data\.vq_ids"):
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


def test_generation_can_wait_until_texts_are_aligned(towers):
    task = task_of(towers, **PHASE4, gen_weight=0.4, gen_from="switched", switch_by=2, align="itc")  # ramp: 4 batches
    batch = batch_for(task.model.tokenizer)
    found = []
    for task.batches in range(8):
        task.losses(batch)
        found.append(float(task.weights["gen_loss"]))
    assert found == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.4])


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
