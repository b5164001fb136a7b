"""Measures by hand, against named references, and over two real processes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sightword.metrics.codebook import CodeUsage, bits_per_pixel, perplexity, usage
from sightword.metrics.gather import Mean
from sightword.metrics.image import frechet_distance, mean_colour_psnr, psnr, quantise8, ssim


def images(count: int, seed: int, side: int = 24) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------------------------------------- codebook usage


def test_perplexity_and_usage_by_hand() -> None:
    assert perplexity(torch.tensor([5, 5, 5, 5])).item() == pytest.approx(4)
    assert perplexity(torch.tensor([9, 0, 0])).item() == pytest.approx(1)
    assert perplexity(torch.tensor([1, 3])).item() == pytest.approx(0.25**-0.25 * 0.75**-0.75)
    assert perplexity(torch.zeros(4)).item() == 0
    assert usage(torch.tensor([9, 0, 0, 1])).item() == 0.5
    rows = torch.tensor([[1, 1], [2, 0]])
    assert perplexity(rows).tolist() == pytest.approx([2, 1])
    assert perplexity(rows).dtype == torch.float64


def test_counts_add_up_over_updates_of_any_shape_and_type() -> None:
    counted = CodeUsage(5)
    counted.update(torch.tensor([[0, 1], [1, 4]]))
    counted.update(torch.tensor([4, 4], dtype=torch.int16))
    assert counted.counts.tolist() == [1, 2, 0, 0, 3]
    assert counted.usage().item() == pytest.approx(3 / 5)
    assert counted.perplexity().item() == pytest.approx(perplexity(torch.tensor([1, 2, 3])).item())
    counted.reset()
    assert counted.counts.tolist() == [0] * 5
    assert counted.perplexity().item() == 0


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_window_forgets_what_is_older_than_its_updates(dtype: torch.dtype) -> None:
    windowed = CodeUsage(6, window=3)
    batches = torch.randint(0, 6, (10, 7), generator=torch.Generator().manual_seed(0), dtype=dtype)
    for number, ids in enumerate(batches):
        mutable = ids.clone()
        windowed.update(mutable)
        mutable.zero_()  # the caller's buffer is not ours to remember
        expected = torch.bincount(batches[max(0, number - 2) : number + 1].flatten(), minlength=6)
        assert torch.equal(windowed.counts, expected)


def test_a_batch_cannot_show_more_codes_than_it_has_tokens() -> None:
    healthy = CodeUsage(1024)
    order = torch.randperm(1024, generator=torch.Generator().manual_seed(0)).split(256)
    healthy.update(order[0])
    assert healthy.usage().item() == 0.25
    for ids in order[1:]:
        healthy.update(ids)
    assert healthy.usage().item() == 1
    assert healthy.perplexity().item() == pytest.approx(1024)


def test_an_id_outside_the_book_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="out of bounds"):
        CodeUsage(4).update(torch.tensor([4]))
    with pytest.raises(ValueError, match="at least 1 code"):
        CodeUsage(0)


def rank_counts(rank: int, place: str) -> None:
    counted, mean = CodeUsage(4, window=2), Mean()
    alone = counted.reduce()  # before there is a process group: it is asked for at call time
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    counted.update(torch.tensor([[0, 0, 1], [3, 3, 3]][rank]))
    mean.update(torch.tensor([[1.0, 2.0, 3.0], [10.0]][rank]))
    both, mean_both = counted.reduce(), mean.reduce()
    assert alone.counts.tolist() == [0, 0, 0, 0]
    assert both.counts.tolist() == [2, 1, 0, 3] == counted.reduce().counts.tolist()
    assert counted.counts.tolist() == [[2, 1, 0, 0], [0, 0, 0, 3]][rank]
    assert mean_both.value().item() == 4.0
    assert mean.value().item() == [2.0, 10.0][rank]
    torch.distributed.destroy_process_group()


def test_reduce_sums_over_two_processes_and_leaves_each_its_own(tmp_path: Path) -> None:
    spawn = torch.multiprocessing.start_processes  # forked: nothing to import again
    spawn(rank_counts, args=(str(tmp_path / "meet"),), nprocs=2, start_method="fork")


@pytest.mark.gpu
def test_counting_on_a_gpu_never_waits_for_it() -> None:
    counted = CodeUsage(16, window=2)
    batches = torch.randint(0, 16, (4, 100), device="cuda")
    counted.update(batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for ids in batches[1:]:
            counted.update(ids)
        value = counted.perplexity()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(counted.counts, torch.bincount(batches[2:].flatten(), minlength=16))
    assert value.is_cuda


# --------------------------------------------------------------------------------------------------------- pictures


def test_psnr_by_hand_one_value_per_image() -> None:
    x = torch.zeros(3, 3, 4, 4)
    y = x.clone()
    y[0] = 0.1  # an error of 0.01 everywhere: 20 dB
    y[1, 0] = 0.5  # 0.25 in a third of the values
    assert psnr(x, y).tolist() == pytest.approx([20, -10 * math.log10(0.25 / 3), 100], rel=1e-5)
    assert psnr(x * 255, y * 255, data_range=255).tolist() == pytest.approx(psnr(x, y).tolist(), rel=1e-5)
    with pytest.raises(ValueError, match=r"\(3, 3, 4, 4\) and \(3, 3, 4, 5\)"):
        psnr(x, torch.zeros(3, 3, 4, 5))


def test_the_mean_colour_floor_is_the_variance() -> None:
    x = images(2, seed=0)
    variance = x.flatten(2).var(2, unbiased=False).mean(1)
    assert mean_colour_psnr(x).tolist() == pytest.approx((-10 * variance.log10()).tolist(), rel=1e-5)
    assert mean_colour_psnr(torch.full((1, 3, 8, 8), 0.3)).item() == pytest.approx(100)


def ssim_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """One channel, by Wang et al. (2004), equations 6 and 13; the border mirrored."""
    from scipy.ndimage import gaussian_filter

    def blurred(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, sigma=1.5, truncate=3.5, mode="mirror")

    mx, my = blurred(x), blurred(y)
    vx, vy, covariance = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
    return float((luminance * (2 * covariance + c2) / (vx + vy + c2)).mean())


def test_ssim_by_hand_one_value_per_image() -> None:
    x = images(3, seed=1)
    y = (x + 0.2 * images(3, seed=2) - 0.1).clamp(0, 1)
    y[2] = x[2]
    channels = [
        [ssim_by_hand(*pair) for pair in zip(*both, strict=True)]
        for both in zip(x.double().numpy(), y.double().numpy(), strict=True)
    ]
    assert ssim(x, y).tolist() == pytest.approx(np.mean(channels, 1).tolist(), abs=1e-6)
    assert ssim(x[:1], y[:1]).shape == (1,)
    assert ssim(x, y)[0] < 0.99 < ssim(x, y)[2]


def test_ssim_is_not_spoilt_by_autocast() -> None:
    x, y = images(1, seed=1), images(1, seed=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ssim(x, y)
    assert torch.equal(inside, ssim(x, y))


def test_ssim_refuses_images_smaller_than_its_window() -> None:
    assert ssim(images(1, 0, side=11), images(1, 0, side=11)).item() == pytest.approx(1)
    with pytest.raises(ValueError, match="10 x 10"):
        ssim(images(1, 0, side=10), images(1, 0, side=10))


def test_eight_bits_are_rounded_not_truncated() -> None:
    x = torch.tensor([-2.0, -1.0, 1.0, 2.0, 2 * 100.6 / 255 - 1, 2 * 100.4 / 255 - 1])
    assert (quantise8(x) * 255).tolist() == pytest.approx([0, 0, 255, 255, 101, 100])
    ramp = torch.linspace(-1, 1, 100_001)
    assert abs((quantise8(ramp) - (ramp + 1) / 2).mean().item()) < 1e-5


def test_quantise8_is_what_a_saved_picture_holds() -> None:
    from sightword.data.image import to_image

    x = images(1, seed=3)[0] * 2.4 - 1.2
    saved = torch.from_numpy(np.array(to_image(x))).permute(2, 0, 1)
    assert torch.equal((quantise8(x) * 255).round().to(torch.uint8), saved)


def test_bits_per_pixel_by_hand() -> None:
    assert bits_per_pixel(1024, 256, 256 * 256) == pytest.approx(10 / 256)


def test_a_mean_weighs_images_alike_whatever_their_batch() -> None:
    mean = Mean()
    assert math.isnan(mean.value().item())
    mean.update(torch.tensor([1.0, 2.0, 3.0]))
    mean.update(torch.tensor([6.0]))
    assert mean.value().item() == 3


@pytest.mark.slow
def test_rfid_reads_inception_from_a_file_and_is_zero_for_equal_images(tmp_path, monkeypatch):
    """The weights are drawn here: the arithmetic is real, the features mean nothing."""
    extractors = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    kind = extractors.FeatureExtractorInceptionV3
    with monkeypatch.context() as patch:
        patch.setattr(extractors, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(kind, "load_state_dict", lambda *_, **__: None)
        torch.manual_seed(0)
        torch.save(kind("inception-v3-compat", ["2048"]).state_dict(), tmp_path / "inception.pth")
    distance = frechet_distance(str(tmp_path / "inception.pth"))
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    values = []
    for shown in (images, images.flip(0), images * 0.1):
        distance.reset()
        distance.update(images, real=True)
        distance.update(shown, real=False)
        values.append(float(distance.compute()))
    assert values[2] > 1000 * max(abs(values[0]), abs(values[1]))


def test_rfid_without_its_weights_names_the_file():
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        frechet_distance("nowhere.pth")
