"""Batches with people whose captions are alike: who is found, and what is in a batch."""

from pathlib import Path

import numpy as np

from sightword.systems.retrieval.alike import Alike, nearest_people
from sightword.systems.retrieval.config import RetrievalData
from sightword.systems.retrieval.loader import Inputs, make_loaders

PIDS = np.array([0, 0, 1, 2, 2, 3])


def test_the_nearest_share_rare_words() -> None:
    captions = [[9, 1, 2], [9, 2], [9, 3], [9, 1, 2, 4], [9, 4], [9, 3, 5]]  # 9: in all, so it says nothing
    ids, lengths = np.concatenate([np.array(each) for each in captions]), np.array([len(each) for each in captions])
    found = nearest_people(ids, lengths, PIDS)
    assert found.shape == (4, 3)
    assert found[:, 0].tolist() == [2, 3, 0, 1]
    assert all(person not in row for person, row in enumerate(found.tolist()))
    assert nearest_people(ids, lengths, PIDS, count=1).tolist() == found[:, :1].tolist()


def test_after_some_epochs_a_part_of_each_batch_is_groups() -> None:
    pids = np.repeat(np.arange(20), 3)
    nearest = (np.arange(20)[:, None] // 4 * 4 + np.arange(4))[:, :]
    nearest = np.array([[other for other in row if other != person] for person, row in enumerate(nearest)])
    sampler = Alike(pids, nearest, 16, 2, share=0.5, after=1, seed=3)
    assert sorted(sampler.order(0)) == list(range(60))  # random
    batches = [[draw.index for draw in batch] for batch in sampler.epoch(1)]
    assert [len(batch) for batch in batches] == [16] * 3
    for batch in batches:
        group = pids[batch[8:]]
        assert len(set(group // 4)) == 1
        assert np.bincount(group)[group.min() :].tolist() == [2, 2, 2, 2]
        assert len(set(batch[8:])) == 8
    assert len({index for batch in batches for index in batch[:8]}) == 24
    assert batches == [[draw.index for draw in batch] for batch in sampler.epoch(1)]
    halves = [list(Alike(pids, nearest, 8, 2, 0.5, 1, 3, rank, 2).epoch(1)) for rank in (0, 1)]
    assert [[d.index for d in (*a, *b)] for a, b in zip(*halves, strict=True)] == batches  # the ranks' together


def test_a_batch_smaller_than_a_group_is_filled_with_what_fits() -> None:
    sampler = Alike(np.repeat(PIDS, 2), np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]), 6, 2)
    assert [len(batch) for batch in sampler.epoch(0)] == [6, 6]


def test_the_loader_finds_families_by_their_captions(tmp_path: Path) -> None:
    from test_retrieval_loader import Words

    from sightword.miniature.person import Sizes, write_cuhk

    write_cuhk(tmp_path, Sizes(24, 4, 4), 2, size=(48, 16))
    data = RetrievalData(
        root=str(tmp_path), image_size=[48, 16], batch_size=16, num_workers=0, sampler="alike", instances=2
    )
    sampler = make_loaders(data, Inputs(Words())).train.schedule.shuffled
    assert isinstance(sampler, Alike)
    assert (sampler.nearest // 4 == np.arange(24)[:, None] // 4).mean() > 0.5
