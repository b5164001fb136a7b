"""Pooling in stretches of time: it keeps the order of moments, which a mean loses."""

import pytest
import torch
import torch.nn.functional as F
from skeleton_fakes import VARIANTS, batch_for, measure, task_for, write_world
from torch import nn

from sightword.errors import SightwordError
from sightword.ops import align
from sightword.systems.skeleton.model import (
    Classifier,
    FrameWeighting,
    ResNet3dSlowOnly,
    VideoEncoder,
    VideoTextModel,
    pooled,
)

T, D, E = 8, 16, 6
FRAMES = torch.randn(3, T, D, generator=torch.Generator().manual_seed(1))
TEXTS = F.normalize(torch.randn(4, E, generator=torch.Generator().manual_seed(2)), dim=1)


def model_of(segments, pool="after", weighting=None, **options):
    torch.manual_seed(0)
    video, first = VideoEncoder(ResNet3dSlowOnly(2, 2, (1, 1))), pool == "before" or weighting is not None
    projector = nn.Linear(D, segments * E) if first else nn.Linear(segments * D, E)
    head = nn.Linear(4, E)
    return VideoTextModel(video, None, projector, head, pool, weighting, segments=segments, **options).eval()


def classifier_of(segments):
    torch.manual_seed(0)
    return Classifier(VideoEncoder(ResNet3dSlowOnly(2, 2, (1, 1))), 5, segments=segments).eval()


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("options", [{}, {"pool": "before"}, {"weighting": FrameWeighting(gain=5.0)}])
def test_a_view_played_backwards_has_another_vector_with_segments_alone(segments, options):
    model = model_of(segments, **options)
    forth, back = (model.compare(frames, TEXTS).cosines for frames in (FRAMES, FRAMES.flip(1)))
    assert torch.allclose(forth, back, atol=1e-5) == (segments == 1)
    scores = [classifier_of(segments)(frames) for frames in (FRAMES, FRAMES.flip(1))]
    assert torch.allclose(*scores, atol=1e-5) == (segments == 1)


def test_segments_are_the_means_of_stretches_one_behind_the_other():
    found = pooled(FRAMES, 3)  # of 8 moments: 2, 3 and 3
    parts = [FRAMES[:, :2], FRAMES[:, 2:5], FRAMES[:, 5:]]
    torch.testing.assert_close(found, torch.cat([part.mean(1) for part in parts], 1))
    torch.testing.assert_close(pooled(FRAMES, 1), FRAMES.mean(1))


def test_one_segment_has_the_names_and_shapes_of_checkpoints_before_it():
    old = {"projector.weight", "projector.bias", "text_head.weight", "text_head.bias", "temperature"}
    state = {name: value.shape for name, value in model_of(1).state_dict().items() if not name.startswith("video.")}
    assert set(state) == old
    assert state["projector.weight"] == (E, D)
    assert classifier_of(1).linear.weight.shape == (5, D)


def test_weights_add_up_to_each_segments_length():
    model = model_of(3, weighting=FrameWeighting(gain=5.0))
    vectors, weights = model.embed_paired(FRAMES, TEXTS[:3])
    for part in (weights[:, :2], weights[:, 2:5], weights[:, 5:]):
        torch.testing.assert_close(part.sum(1), torch.full((3,), part.shape[1] / T))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    compared = model.compare(FRAMES, TEXTS)
    torch.testing.assert_close(compared.weights[torch.arange(3), torch.arange(3)], weights)


def test_fewer_moments_than_segments_are_refused():
    with pytest.raises(SightwordError, match=r"system.segments=3 is more than the 2 moments"):
        pooled(FRAMES[:, :2], 3)


def test_the_gain_is_trained_if_it_is_asked_for():
    model = model_of(1, weighting=FrameWeighting(gain=4.0), learn_gain=True)
    assert model.gain.item() == pytest.approx(4)
    model.compare(FRAMES, TEXTS).cosines.sum().backward()
    assert model.log_gain.grad.abs() > 0
    assert model_of(1, weighting=FrameWeighting(gain=4.0)).log_gain is None


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("segment"))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_with_segments(world, name):
    task = task_for(world, **VARIANTS[name], segments=3)
    losses = task.train().losses(batch_for(frames=12))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_an_evaluation_says_over_how_many_moments_weights_spread(world):
    task = task_for(world, frames="pacl", pacl_gain=5.0, pacl_learn_gain=True)
    evaluator, found = measure(task.eval(), [batch_for([0, 1], split="val")])
    notes = evaluator.notes()
    assert "moments of 4" in notes["effective_frames"]
    assert "gain 5, trained" in notes["effective_frames"]
    assert f"{found['effective_frames']:.2f} of 4 moments" in notes["key_auc"]
    assert 1 <= found["effective_frames"] <= 4


def test_mixed_views_have_mixed_targets(world):
    task = task_for(world, recognise_by="classifier", mixup=0.4, smoothing=0.1)
    labels = torch.tensor([0, 1])
    targets = task.train()._targets(labels)
    torch.testing.assert_close(targets.sum(1), torch.ones(2))
    assert targets[0, 0] == pytest.approx(0.925)
    torch.testing.assert_close(task.eval()._targets(labels), labels)
    assert align.effective(targets).min() > 1
