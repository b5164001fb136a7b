"""Matching and contrast with earlier batches: by hand, and matching over two real processes."""

import pytest
import torch
import torch.nn.functional as F
from skeleton_fakes import LABELS, batch_for, task_for, write_world
from torch import nn

from sightword.ops import align
from sightword.systems.skeleton.loss import matching_loss
from sightword.systems.skeleton.model import ClassEmbeddings


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("loss"))


class Told(nn.Module):
    """Says yes to the degree that the first number of words and the first of frames are alike; remembers pairs."""

    def __init__(self):
        super().__init__()
        self.sharp = nn.Parameter(torch.tensor(1.0))

    def forward(self, tokens, mask, frames):
        self.pairs = list(zip(tokens[:, 0, 0].tolist(), frames[:, 0, 0].tolist(), strict=True))
        yes = -self.sharp * (tokens[:, 0, 0] - frames[:, 0, 0]).abs()
        return torch.stack([torch.zeros_like(yes), yes], 1)


def told_of(labels, way="hardest", logits=None):
    """The loss for clips and texts that are their row's number, and the pairs it was taken of."""
    rows = torch.arange(float(len(labels)))
    texts = ClassEmbeddings(rows[:, None], rows[:, None, None], torch.ones(len(labels), 1, dtype=torch.bool))
    logits = torch.zeros(len(labels), len(labels)) if logits is None else logits
    told = Told()
    found = matching_loss(told, rows[:, None, None], texts, torch.tensor(labels), logits, way)
    return found, told


def test_matching_is_of_each_pair_and_of_the_hardest_others():
    logits = torch.tensor([[9.0, 1, 5], [3, 9, 1], [1, 7, 9]])
    found, told = told_of([0, 1, 2], logits=logits)
    assert told.pairs == [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0), (2, 0), (0, 1), (1, 2)]
    scores = torch.tensor([[0.0, -abs(text - clip)] for text, clip in told.pairs])
    wanted = torch.tensor([1] * 3 + [0] * 6)
    torch.testing.assert_close(found.loss, F.cross_entropy(scores, wanted))
    assert float(found.accuracy) == pytest.approx(float((scores.argmax(1) == wanted).float().mean()))


def test_views_of_a_label_are_never_its_no_even_where_they_score_best():
    logits = torch.tensor([[9.0, 8, 0], [8, 9, 0], [8, 8, 9]])
    for way in ("hardest", "sample"):
        _, told = told_of([4, 4, 7], way, logits)
        assert not {(0, 1), (1, 0)} & set(told.pairs)


def test_a_batch_of_one_class_gives_a_zero_that_is_tied_to_the_graph():
    for labels in ([3, 3, 3], [3]):
        found, told = told_of(labels, "sample")
        assert found.loss == 0
        found.loss.backward()
        assert float(told.sharp.grad) == 0
        assert found.accuracy.isnan()


def test_itm_of_one_class_trains_the_rest_and_leaves_the_matching_head_a_gradient_of_zeros(world):
    task = task_for(world, contrast="batch", match_weight=1.0).train()
    losses = task.losses(batch_for([1, 1, 1]))
    task.total(losses).backward()
    assert losses["itm_loss"] == 0
    assert all(p.grad is not None and not p.grad.any() for p in task.model.matching.parameters())
    assert any(p.grad.any() for p in task.model.projector.parameters())


def one_of_two(rank, place, world):
    """Rank 0 has one class, rank 1 two; DDP waits for a gradient of every parameter of both."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.task = task_for(world, contrast="batch", match_weight=1.0).train()

        def forward(self, batch):
            return self.task.total(self.task.losses(batch))

    whole = nn.parallel.DistributedDataParallel(Whole())
    for step in range(2):
        whole.zero_grad()
        whole(batch_for([1, 1] if rank == 0 else [0, 2], seed=10 * rank + step)).backward()
    slopes = torch.cat([p.grad.flatten() for p in whole.module.task.model.matching.parameters()])
    both = align.gather(slopes[None])
    assert both.any()
    assert torch.equal(both[0], both[1])
    torch.distributed.destroy_process_group()


def test_two_ranks_of_which_one_has_one_class_do_not_wait_for_each_other(world, tmp_path):
    import multiprocessing

    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=one_of_two, args=(rank, str(tmp_path / "meet"), world)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(100)  # a rank that hangs is ended, and fails below
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    assert codes == [0, 0]


# ------------------------------------------------------------------------------------------------------- momentum

MO = {"contrast": "batch", "momentum": 0.9, "queue": 6, "soft": 0.4, "soft_ramp": 2, "freeze_text": True}


def one_way(rows, slow_rows, columns, row_ids, column_ids, tau, alpha):
    """ALBEF's contrast in one direction, written out for columns that are there."""
    total = 0.0
    for row, slow, own in zip(rows, slow_rows, row_ids, strict=True):
        scores, believed = columns @ row / tau, (columns @ slow / tau).softmax(0)
        same = torch.tensor([float(other == own) for other in column_ids])
        wanted = alpha * believed + (1 - alpha) * same / same.sum()
        total = total - (wanted * scores.log_softmax(0)).sum()
    return total / len(rows)


@pytest.mark.parametrize("queue_texts", [False, True])
def test_momentum_is_the_papers_contrast_with_batch_and_queue(world, queue_texts):
    task = task_for(world, queue_texts=queue_texts, **MO).eval()  # no dropout, no batch statistics
    model, momentum, tau = task.model, task.momentum, 0.07
    batches = [batch_for([0, 1, 1], seed=0), batch_for([2, 1, 3], seed=1)]
    past_clips, past_texts, past_ids = [], [], []
    for number, batch in enumerate(batches):
        task.batches = number
        with torch.no_grad():
            momentum.slow.update(model)  # twice as much as in training, both times before it embeds
            loss = task.losses(batch)["itc_loss"]
            volume = task.heatmaps(batch.points[:, 0], batch.scores[:, 0], batch.size)
            slow = momentum.slow.module
            every, slow_every = (task.texts.embed(each.text, each.text_head).unit for each in (model, slow))
            clips, slow_clips = (each.embed(each.video(volume)) for each in (model, slow))
            ids, alpha = batch.labels, (0.0, 0.2)[number]
            columns, column_ids = torch.cat([slow_clips, *past_clips]), torch.cat([ids, *past_ids])
            to_clips = one_way(every[ids], slow_every[ids], columns, ids, column_ids, tau, alpha)
            if queue_texts:
                columns = torch.cat([slow_every[ids], *past_texts])
                to_texts = one_way(clips, slow_clips, columns, ids, column_ids, tau, alpha)
            else:
                believed = (slow_clips @ slow_every.T / tau).softmax(1)
                wanted = alpha * believed + (1 - alpha) * F.one_hot(ids, len(LABELS))
                to_texts = -(wanted * (clips @ every.T / tau).log_softmax(1)).sum(1).mean()
            torch.testing.assert_close(loss, (to_clips + to_texts) / 2, rtol=1e-4, atol=1e-5)
            past_clips, past_texts, past_ids = [slow_clips], [slow_every[ids]], [ids]
    assert momentum.views.ids.tolist() == [0, 1, 1, 2, 1, 3]
    assert (momentum.texts is not None) == queue_texts


def test_the_momentum_encoder_follows_the_batch_norms_of_the_network(world):
    task = task_for(world, **MO).train()
    norm = task.momentum.slow.module.video.network.conv1.bn
    before = norm.running_mean.clone()
    for seed in range(2):
        task.losses(batch_for(seed=seed))
    assert not torch.equal(norm.running_mean, before)
    assert not norm.training


def test_a_frozen_text_encoder_has_no_copy(world):
    frozen, moving = (task_for(world, **{**MO, "freeze_text": freeze}) for freeze in (True, False))
    assert frozen.momentum.slow.module.text is frozen.model.text
    assert not [name for name in frozen.state_dict() if name.startswith("momentum.slow.module.text.")]
    assert moving.momentum.slow.module.text is not moving.model.text
