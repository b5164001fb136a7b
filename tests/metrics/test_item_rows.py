"""Values of named items are gathered over batches and ranks."""

import numpy as np
import pytest
import torch

from sightword.metrics.gather import ItemRows


def test_rows_of_batches_are_copies_in_their_order():
    rows, values = ItemRows(), torch.arange(4.0).reshape(2, 2)
    rows.update(["b", "a"], score=values)
    rows.update([], score=values[:0])
    values.zero_()
    assert rows.names == ["b", "a"]
    assert rows.arrays["score"].tolist() == [[0, 1], [2, 3]]
    assert rows.reduce().names == ["b", "a"]
    with pytest.raises(ValueError, match="1 rows for 2 items"):
        rows.update(["c", "d"], score=values[:1])


def rank_gathers(rank, place):
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=3)
    rows = ItemRows()
    if rank != 1:  # which has none
        rows.update([f"{rank}a", f"{rank}b"], score=torch.tensor([rank, rank + 0.5]))
    for both in (rows.reduce(), rows.reduce()):
        assert both.names == ["0a", "0b", "2a", "2b"]
        assert np.array_equal(both.arrays["score"], [0, 0.5, 2, 2.5])
    torch.distributed.destroy_process_group()


def test_ranks_have_the_items_of_all(tmp_path):
    spawn = torch.multiprocessing.start_processes  # forked: nothing to import again
    spawn(rank_gathers, args=(str(tmp_path / "meet"),), nprocs=3, start_method="fork")
