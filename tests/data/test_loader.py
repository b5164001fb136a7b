"""Batches are an exact function of (seed, epoch, number): over ranks, workers, and a stop in the middle."""

import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from sightword.data.loader import Draw, Shuffled, Stream, generator_of, mix, moved, ordered
from sightword.errors import SightwordError


class Echo(Dataset):
    """Gives back what it was asked for, with a draw from the item's own generator."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, draw: Draw) -> torch.Tensor:
        noise = torch.rand(1, generator=generator_of(0, draw), dtype=torch.float64)
        return torch.cat([torch.tensor(tuple(draw), dtype=torch.float64), noise])


class Broken(Echo):
    def __getitem__(self, draw: Draw) -> torch.Tensor:
        raise SightwordError(f"item {draw.index} is broken: replace it")


def flat(batches: list[list[Draw]]) -> list[int]:
    return [draw.index for batch in batches for draw in batch]


def rows(stream: Stream, count: int | None = None) -> list[list[list[float]]]:
    """The batches of an iteration, or its first `count`, left in the middle."""
    out = []
    for batch in stream:
        out.append(batch.tolist())
        if len(out) == count:
            break
    return out


# --------------------------------------------------------------------------------------------------------- Shuffled


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone() -> None:
    sampler = Shuffled(100, 10, seed=1)
    first = list(sampler.epoch(3))
    list(sampler.epoch(4))
    assert first == list(sampler.epoch(3)) == list(Shuffled(100, 10, seed=1).epoch(3))
    assert sorted(flat(first)) == list(range(100)) != flat(first)
    assert {draw.epoch for batch in first for draw in batch} == {3}
    others = [list(sampler.epoch(4)), list(Shuffled(100, 10, seed=2).epoch(3))]
    assert all(flat(other) != flat(first) for other in others)


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("size", [24, 29, 25])
def test_the_ranks_together_see_the_batches_of_one_process(size: int, drop_last: bool) -> None:
    world = 3
    ranks = [Shuffled(size, 4, 7, drop_last=drop_last, rank=rank, world=world) for rank in range(world)]
    alone = list(Shuffled(size, 4 * world, 7, drop_last=drop_last).epoch(2))
    parts = [list(sampler.epoch(2)) for sampler in ranks]
    assert [len(part) for part in parts] == [len(sampler) for sampler in ranks]
    together = [[draw for part in parts if n < len(part) for draw in part[n]] for n in range(len(alone))]
    assert together == alone


def test_every_item_comes_once_without_drop_last_and_in_order_without_shuffle() -> None:
    assert flat(list(Shuffled(10, 4, shuffle=False, drop_last=False))) == list(range(10))
    assert [len(batch) for batch in Shuffled(10, 4, shuffle=False, drop_last=False)] == [4, 4, 2]
    assert [len(batch) for batch in Shuffled(10, 4)] == [4, 4]
    assert len(Shuffled(10, 4)) == 2


def test_an_epoch_can_be_entered_in_the_middle() -> None:
    sampler = Shuffled(40, 4, seed=9)
    assert list(sampler.epoch(5, start=6)) == list(sampler.epoch(5))[6:]


def test_too_few_items_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"5 items do not fill one batch of 8.*data\.batch_size=5"):
        Shuffled(5, 8)
    with pytest.raises(ValueError, match=r"9 items do not fill one batch of 8 x 2 ranks.*at most 4"):
        Shuffled(9, 8, rank=0, world=2)
    with pytest.raises(ValueError, match="size 0"):
        Shuffled(0, 8)
    assert len(Shuffled(5, 8, drop_last=False)) == 1


def test_the_process_group_is_asked_when_iterating_not_when_built(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Shuffled(24, 4, seed=1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert list(sampler.epoch(0)) == list(Shuffled(24, 4, seed=1, rank=1, world=2).epoch(0))
    assert len(sampler) == 3


def test_near_seeds_are_unrelated() -> None:
    assert len({mix(a, b, c) for a in range(-5, 5) for b in range(5) for c in (0, 1, 2**32, 2**40)}) == 200
    assert mix(1, 2) != mix(1, 2, 0)  # numpy's SeedSequence pads with zeros and takes these for the same
    draws = [(seed, Draw(epoch, index)) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1)]
    assert len({generator_of(seed, draw).initial_seed() for seed, draw in draws}) == 8


# ----------------------------------------------------------------------------------------------------------- Stream


def straight(steps: int | None, workers: int) -> list[list[list[float]]]:
    """17 batches: six epochs of three would be 18."""
    stream = Stream(Echo(13), 4, seed=3, steps=steps, num_workers=workers)
    if steps is not None:
        return rows(stream)
    return [batch for _ in range(6) for batch in rows(stream)][:17]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("steps", [None, 17])
def test_a_resumed_stream_gives_exactly_what_the_undisturbed_one_would(steps: int | None, workers: int) -> None:
    whole = straight(steps, workers=0)
    for stop in (1, 7) if workers else (1, 2, 3, 7, 9, 16):
        before = Stream(Echo(13), 4, seed=3, steps=steps, num_workers=workers)
        seen = []
        while len(seen) < stop:  # whole iterations first, then a part of one, with workers running ahead
            seen += rows(before, stop - len(seen))
        state = pickle.loads(pickle.dumps(before.state_dict()))
        assert state == {"batches": stop}

        after = Stream(Echo(13), 4, seed=3, steps=steps, num_workers=workers)
        after.load_state_dict(state)
        rest: list[list[list[float]]] = []
        while len(rest) < 17 - stop:
            rest += rows(after, 17 - stop - len(rest))
        assert seen + rest == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_iteration_is_finished_by_the_next(workers: int) -> None:
    stream = Stream(Echo(13), 4, seed=3, num_workers=workers)
    assert stream.persistent_workers == (workers > 0)
    parts = [rows(stream, 2), rows(stream), rows(stream, 1), rows(stream), rows(stream)]
    assert [len(part) for part in parts] == [2, 1, 1, 2, 3]
    assert [batch for part in parts for batch in part] == straight(None, 0)[:9]
    assert (stream.batches, stream.epoch) == (9, 3)


def test_the_length_is_that_of_an_iteration_even_after_a_resume() -> None:
    for steps, length in ((None, 3), (17, 17)):
        stream = Stream(Echo(13), 4, steps=steps)
        stream.load_state_dict({"batches": 2})
        assert len(stream) == length
        assert len(rows(stream)) == length - 2
        assert len(rows(stream)) == length


def test_loading_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    rows(Stream(Echo(13), 4))
    list(ordered(Echo(13), 4))
    assert torch.equal(torch.get_rng_state(), before)


def test_ordered_gives_every_item_once_each_time_also_after_a_look_at_the_first() -> None:
    loader = ordered(Echo(10), 4)
    next(iter(loader))
    for _ in range(2):
        seen = torch.cat(list(loader))
        assert seen[:, 1].tolist() == list(range(10))
        assert set(seen[:, 0].tolist()) == {0.0}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_items_error_stays_one_line_also_from_a_worker(workers: int) -> None:
    with pytest.raises(ValueError) as error:
        rows(Stream(Broken(13), 4, shuffle=False, num_workers=workers))
    assert str(error.value) == "item 0 is broken: replace it"


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_lightning_goes_on_where_it_stopped_even_after_a_whole_epoch(tmp_path: Path) -> None:
    """Lightning 2.6 drops the loader's state of a checkpoint made at an epoch's end unless max_steps is set."""
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Toy(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1).double()
            self.seen: list[list[list[float]]] = []

        def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
            self.seen.append(batch.tolist())
            return self.layer(batch).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    def fit(steps: int | None, epochs: int, every: dict, resume: str | None = None) -> list[list[list[float]]]:
        saver = ModelCheckpoint(dirpath=tmp_path / f"{steps} {every}", filename="{step}", save_top_k=-1, **every)
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=[saver],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        module = Toy()
        trainer.fit(module, Stream(Echo(13), 4, seed=3, steps=steps), ckpt_path=resume)
        return module.seen

    middle, end = {"every_n_train_steps": 4}, {"every_n_epochs": 1, "save_on_train_epoch_end": True}
    for steps, epochs, every, stop in ((8, 1, middle, 4), (None, 3, middle, 4), (None, 3, end, 3)):
        whole = fit(steps, epochs, every)
        rest = fit(steps, epochs, every, resume=str(tmp_path / f"{steps} {every}" / f"step={stop}.ckpt"))
        assert rest == whole[stop:]


class Pairwise(Shuffled):
    """Two items next to each other stay together."""

    def order(self, epoch: int) -> np.ndarray:
        return (2 * np.random.default_rng(epoch).permutation(self.size // 2)[:, None] + np.arange(2)).reshape(-1)


def test_a_rule_of_ones_own_makes_the_batches_of_a_stream_and_of_an_ordered_loader() -> None:
    stream = Stream(Echo(12), 4, shuffled=Pairwise(12, 4))
    epochs = [rows(stream) for _ in range(2)]
    assert epochs[0] != epochs[1]
    for batch in (batch for epoch in epochs for batch in epoch):
        numbers = [int(row[1]) for row in batch]
        assert [number // 2 * 2 for number in numbers] == [numbers[0] // 2 * 2] * 2 + [numbers[2] // 2 * 2] * 2
    resumed = Stream(Echo(12), 4, shuffled=Pairwise(12, 4))
    resumed.load_state_dict({"batches": 4})
    assert rows(resumed) == epochs[1][1:]
    loader = ordered(Echo(12), 4, shuffled=Pairwise(12, 4))
    assert [batch.tolist() for batch in loader] == epochs[0]


class Inner(NamedTuple):
    depth: torch.Tensor


class Outer(NamedTuple):
    inner: Inner
    size: tuple[int, int]
    labels: torch.Tensor | None


def test_a_batch_is_moved_with_what_is_within_it_and_all_else_as_it_is():
    there = moved(Outer(Inner(torch.ones(2)), (3, 4), None), "meta")
    assert isinstance(there, Outer)
    assert there.inner.depth.device.type == "meta"
    assert (there.size, there.labels) == ((3, 4), None)
