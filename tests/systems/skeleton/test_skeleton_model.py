"""Video and text models: what is the same by algebra, and what is not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sightword.ops import align
from sightword.systems.skeleton.model import (
    Classifier,
    FrameWeighting,
    MatchingHead,
    ResidualProjector,
    ResNet3dSlowOnly,
    VideoEncoder,
    VideoTextModel,
    probabilities,
)

T, D, E, L = 6, 16, 8, 5


def model_of(projector=None, **options):
    torch.manual_seed(0)
    video = VideoEncoder(ResNet3dSlowOnly(2, 2, (1, 1)))
    return VideoTextModel(video, None, projector or nn.Linear(D, E), nn.Linear(4, E), **options).eval()


def frames_and_texts(rows=3):
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(rows, T, D, generator=generator)
    return frames, F.normalize(torch.randn(L, E, generator=generator), dim=1)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_linear_projector_before_pooling_is_the_one_after_and_a_residual_one_is_not(activation):
    frames, _ = frames_and_texts()
    before, after = (model_of(pool=pool).embed(frames) for pool in ("before", "after"))
    torch.testing.assert_close(before, after)
    torch.manual_seed(0)
    residual = ResidualProjector(D, E, activation)
    before, after = (model_of(residual, pool=pool).embed(frames) for pool in ("before", "after"))
    assert not torch.allclose(before, after, atol=1e-3)


def test_the_residual_projector_is_two_layers_beside_one():
    projector, x = ResidualProjector(D, E, "gelu"), torch.randn(2, T, D)
    first, act, second = projector.main
    assert isinstance(act, nn.GELU)
    torch.testing.assert_close(projector(x), second(F.gelu(first(x))) + projector.skip(x))


def test_mean_pooling_is_patch_alignment_with_equal_weights():
    frames, texts = frames_and_texts()
    mean = model_of(pool="before").compare(frames, texts)
    weighed = model_of(weighting=FrameWeighting(gain=1e-6)).compare(frames, texts)
    assert mean.weights is None
    torch.testing.assert_close(weighed.cosines, mean.cosines, atol=1e-5, rtol=1e-4)
    assert weighed.weights.shape == (3, L, T)
    sharp = model_of(weighting=FrameWeighting(gain=20.0)).compare(frames, texts)
    assert not torch.allclose(sharp.cosines, mean.cosines, atol=1e-2)
    assert float(align.effective(sharp.weights.detach()).mean()) < T - 1


def test_a_clip_paired_with_its_text_is_the_class_form_at_its_text():
    frames, texts = frames_and_texts()
    model, own = model_of(weighting=FrameWeighting("norm", "sigmoid", 10.0)), torch.tensor([4, 0, 0])
    vectors, weights = model.embed_paired(frames, texts[own])
    compared = model.compare(frames, texts)
    rows = torch.arange(3)
    torch.testing.assert_close((vectors * texts[own]).sum(1), compared.cosines[rows, own])
    torch.testing.assert_close(weights, compared.weights[rows, own])


def test_an_aligned_text_sees_its_own_frames():
    """A text along one frame's vector puts its weight there."""
    frames, _ = frames_and_texts(1)
    model = model_of(weighting=FrameWeighting("raw", "softmax", 30.0))
    texts = F.normalize(model.projector(frames)[0], dim=1)  # a text for every frame
    assert model.compare(frames, texts).weights[0].argmax(1).tolist() == list(range(T))


def test_one_clip_and_one_frame_keep_their_axes():
    frames, texts = frames_and_texts(1)
    for model in (model_of(), model_of(weighting=FrameWeighting())):
        assert model.compare(frames[:, :1], texts).cosines.shape == (1, L)
    assert model_of().embed(frames[:, :1]).shape == (1, E)
    assert Classifier(VideoEncoder(ResNet3dSlowOnly(2, 2, (1, 1))), L)(frames[:, :1]).shape == (1, L)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-30, torch.nan, 7.0])
def test_a_temperature_that_left_its_limits_is_brought_back(value):
    model = model_of()
    with torch.no_grad():
        model.temperature.fill_(value)
    if value == value:
        assert 2 <= float(model.logit_scale.detach()) <= 1000
    model.clamp_temperature()
    assert 0.001 <= float(model.temperature.detach()) <= 0.5
    assert torch.isfinite(model.logit_scale)
    frames, texts = frames_and_texts()
    probable = probabilities(model.compare(frames, texts).cosines, model.logit_scale, "calibrated")
    torch.testing.assert_close(probable.sum(1), torch.ones(3))


def test_the_seeds_probabilities_are_flatter_and_rank_alike():
    frames, texts = frames_and_texts()
    model = model_of()
    cosines = model.compare(frames, texts).cosines
    calibrated, seed = (probabilities(cosines, model.logit_scale, kind) for kind in ("calibrated", "seed"))
    assert torch.equal(calibrated.argmax(1), seed.argmax(1))
    assert seed.max() < calibrated.max()


def test_visece_video_has_a_layer_to_the_words_width_and_its_pacl_form_has_not():
    network = ResNet3dSlowOnly(2, 2, (1, 1))
    wide, plain, volume = VideoEncoder(network, 24), VideoEncoder(network), torch.rand(2, 2, 4, 8, 8)
    assert wide(volume).shape == (2, 2, 24)
    assert plain(volume).shape == (2, 2, 16)
    assert (wide.width, plain.width) == (24, 16)


def matched(words, mask, frames):
    torch.manual_seed(0)
    return MatchingHead(D, E, layers=2, heads=2).eval()(words, mask, frames)


def test_matching_sees_every_word_and_every_frame_and_no_padding():
    generator = torch.Generator().manual_seed(2)
    words, frames = torch.randn(2, 4, D, generator=generator), torch.randn(2, T, E, generator=generator)
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    plain = matched(words, mask, frames)
    assert plain.shape == (2, 2)
    last_word, last_frame = words.clone(), frames.clone()
    last_word[:, 3] = -last_word[:, 3]  # not plus a number, which a layer norm takes off
    last_frame[:, -1] = -last_frame[:, -1]
    moved = matched(last_word, mask, frames)
    assert not torch.allclose(moved[0], plain[0])  # a causal block's first token would not have noticed
    torch.testing.assert_close(moved[1], plain[1])
    assert not torch.isclose(matched(words, mask, last_frame), plain).any()
    with pytest.raises(ValueError, match=r"system\.fusion_heads=3 does not divide .* 16"):
        MatchingHead(D, E, heads=3)
