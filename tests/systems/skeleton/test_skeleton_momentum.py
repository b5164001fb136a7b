"""The slow twin and the queue: by hand."""

import pytest
import torch
from torch import nn

from sightword.systems.skeleton.loss import EMPTY, EMAModel, Queue


def test_a_queue_is_written_around_its_end():
    queue = Queue(5, 2)
    assert queue.empty().all()
    queue.write(torch.tensor([[1.0, 1], [2, 2], [3, 3]]), torch.tensor([1, 2, 3]))
    assert queue.ids.tolist() == [1, 2, 3, EMPTY, EMPTY]
    queue.write(torch.tensor([[4.0, 4], [5, 5], [6, 6]]), torch.tensor([4, 5, 6]))
    assert queue.ids.tolist() == [6, 2, 3, 4, 5]
    assert queue.vectors[:, 0].tolist() == [6, 2, 3, 4, 5]
    assert not queue.empty().any()


def test_of_more_rows_than_places_the_last_stay():
    queue = Queue(3, 1)
    queue.write(torch.arange(7.0)[:, None], torch.arange(7))
    assert sorted(queue.ids.tolist()) == [4, 5, 6]
    assert queue.vectors[:, 0].tolist() == queue.ids.tolist()
    with pytest.raises(ValueError, match="one place or more"):
        Queue(0, 4)


def test_a_queue_goes_on_from_its_checkpoint():
    one, other = Queue(4, 1), Queue(4, 1)
    one.write(torch.ones(3, 1), torch.arange(3))
    other.load_state_dict(one.state_dict())
    for queue in (one, other):
        queue.write(torch.zeros(2, 1), torch.tensor([7, 8]))
    assert one.ids.tolist() == other.ids.tolist() == [8, 1, 2, 7]


def trained():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def test_the_twin_averages_parameters_and_the_buffers_of_batch_norm():
    model = trained()
    twin = EMAModel(model, 0.9)
    before = {name: value.clone() for name, value in twin.module.state_dict().items()}
    for _ in range(3):
        model(torch.randn(16, 3) + 5)
    with torch.no_grad():
        model[0].weight += 1
    twin.steps.fill_(1e6)  # long after its beginning
    twin.update(model)
    after, own = twin.module.state_dict(), model.state_dict()
    for name in ("0.weight", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(after[name], 0.9 * before[name] + 0.1 * own[name])
        assert not torch.allclose(after[name], before[name])
    assert after["1.num_batches_tracked"] == own["1.num_batches_tracked"] == 3


def test_a_young_twin_follows_faster():
    model = nn.Linear(1, 1, bias=False)
    twin = EMAModel(model, 0.995)
    twin.module.weight.data.zero_()
    model.weight.data.fill_(1)
    twin.update(model)
    assert float(twin.module.weight) == pytest.approx(0.9)
    twin.update(model)
    assert float(twin.module.weight) == pytest.approx(1 - 0.1 * 2 / 11)


def test_the_twin_is_in_eval_mode_and_has_no_gradients():
    model = trained()
    twin = EMAModel(model).train()
    assert not any(module.training for module in twin.modules())
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    x = torch.randn(8, 3)
    assert torch.equal(twin.module(x), twin.module(x))


def test_what_is_shared_is_neither_copied_nor_saved_twice():
    model = nn.ModuleDict({"text": nn.Linear(2, 2).requires_grad_(False), "head": nn.Linear(2, 2)})
    twin = EMAModel(model, shared=("text",))
    assert twin.module.text is model["text"]
    assert [name for name in twin.state_dict() if "text" in name] == []
    twin.update(model)
    assert isinstance(model["text"].weight, nn.Parameter)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        EMAModel(model, 1.0)
