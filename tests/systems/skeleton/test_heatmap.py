"""Heatmaps against the published algorithm, written plainly in float64; what the canvas keeps, and what it must not."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from sightword.systems.skeleton.heatmap import Heatmaps

SIGMA, EPS = 0.6, 1e-3
CLOSE = {"joint": 1e-6, "limb": 2e-6}


class Joints(NamedTuple):
    joints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]


ARMS_AND_LEGS = ((15, 13), (13, 11), (16, 14), (14, 12), (5, 7), (6, 8), (7, 9), (8, 10))
TRUNK_AND_HEAD = ((11, 12), (5, 11), (6, 12), (5, 6), (0, 5), (0, 6), (1, 0), (2, 0), (3, 1))
COCO = Joints(tuple(f"joint {number}" for number in range(17)), ARMS_AND_LEGS + TRUNK_AND_HEAD)
PAIR = Joints(("a", "b"), ((0, 1),))


def window(low: float, high: float, extent: int) -> np.ndarray:
    return np.arange(max(int(low - 3 * SIGMA), 0), min(int(high + 3 * SIGMA) + 1, extent))


def dot(image: np.ndarray, centre: np.ndarray, height: float) -> None:
    x, y = window(centre[0], centre[0], image.shape[1]), window(centre[1], centre[1], image.shape[0])
    if height < EPS or not len(x) or not len(y):
        return
    square = (x[None] - centre[0]) ** 2 + (y[:, None] - centre[1]) ** 2
    part = image[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
    np.maximum(part, height * np.exp(-square / (2 * SIGMA**2)), out=part)


def line(image: np.ndarray, ends: np.ndarray, heights: np.ndarray) -> None:
    a, b = ends
    if heights.min() < EPS:
        return
    if ((b - a) ** 2).sum() < 1:
        dot(image, a, heights[0])
        return
    x = window(min(a[0], b[0]), max(a[0], b[0]), image.shape[1])
    y = window(min(a[1], b[1]), max(a[1], b[1]), image.shape[0])
    if not len(x) or not len(y):
        return
    pixels = np.stack(np.meshgrid(x, y), -1).astype(float)
    share = np.clip((pixels - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    square = ((pixels - a - share[..., None] * (b - a)) ** 2).sum(-1)
    part = image[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
    np.maximum(part, heights.min() * np.exp(-square / (2 * SIGMA**2)), out=part)


def plain(joints: Joints, kind: str, points: Tensor, scores: Tensor, size: tuple[int, int]) -> np.ndarray:
    """(N, C, L, H, W) float64, one joint after the other."""
    clips, people, frames, count = scores.shape
    p, c = points.double().numpy(), scores.double().numpy()
    out = np.zeros((clips, count if kind == "joint" else len(joints.limbs), frames, *size))
    for clip, person, frame in np.ndindex(clips, people, frames):
        here, sure = p[clip, person, frame], c[clip, person, frame]
        if kind == "joint":
            for joint in range(count):
                dot(out[clip, joint, frame], here[joint], sure[joint])
        else:
            for number, limb in enumerate(joints.limbs):
                line(out[clip, number, frame], here[list(limb)], sure[list(limb)])
    return out


def moving(
    people: int, size: tuple[int, int], clips: int = 2, frames: int = 5, joints: int = 17, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Points all over the canvas and a little beyond, some missing, some one on another."""
    rng = np.random.default_rng([seed, people, *size])
    points = rng.uniform(-4, np.array(size[::-1]) + 4, (clips, people, frames, joints, 2))
    near = rng.random(points.shape[:-1]) < 0.6  # limbs as long as a body's
    points[near] = np.array(size[::-1]) / 2 + rng.normal(0, min(size) / 8, (int(near.sum()), 2))
    points[..., 9, :] = points[..., 7, :] + rng.uniform(-0.8, 0.8, points[..., 7, :].shape)
    scores = rng.uniform(0.05, 1, points.shape[:-1])
    scores[rng.random(scores.shape) < 0.1] = 0
    scores[rng.random(scores.shape) < 0.05] = 5e-4
    return torch.tensor(points, dtype=torch.float32), torch.tensor(scores, dtype=torch.float32)


def apart(found: Tensor, truth: np.ndarray) -> float:
    assert found.shape == truth.shape
    return float(np.abs(found.double().numpy() - truth).max())


@pytest.mark.parametrize("kind", ["joint", "limb"])
@pytest.mark.parametrize("people", [1, 2])
@pytest.mark.parametrize("size", [(56, 56), (64, 64), (40, 72)])
def test_heatmaps_are_the_published_ones(kind: str, people: int, size: tuple[int, int]) -> None:
    points, scores = moving(people, size)
    truth = plain(COCO, kind, points, scores, size)
    assert (truth > 0).mean() > 0.003
    found = Heatmaps(COCO, kind)(points, scores, size)
    assert apart(found, truth) < CLOSE[kind]
    assert ((found.numpy() > 1e-6) == (truth > 1e-6)).mean() > 1 - 1e-5  # the same support


@pytest.mark.parametrize("kind", ["joint", "limb"])
@pytest.mark.parametrize("size", [(1, 1), (3, 9), (5, 2), (7, 7)])
def test_a_canvas_may_be_smaller_than_a_window(kind: str, size: tuple[int, int]) -> None:
    points, scores = moving(2, size, frames=20)
    truth = plain(COCO, kind, points, scores, size)
    assert truth.max() > 0
    assert apart(Heatmaps(COCO, kind)(points, scores, size), truth) < CLOSE[kind]


def at(x: float, y: float, score: float = 1.0, size: tuple[int, int] = (20, 20)) -> Tensor:
    """(H, W): one joint."""
    one = Joints(("a",), ())
    return Heatmaps(one)(torch.tensor([x, y]).view(1, 1, 1, 1, 2), torch.full((1, 1, 1, 1), score), size)[0, 0, 0]


def test_a_joint_is_a_gaussian_of_its_score_cut_at_three_sigma() -> None:
    found = at(8, 11, 0.5)
    assert float(found[11, 8]) == 0.5
    assert float(found[11, 9]) == pytest.approx(0.5 * np.exp(-1 / 0.72))
    assert float(found[12, 7]) == pytest.approx(0.5 * np.exp(-2 / 0.72))
    rows, columns = (found > 0).any(1).nonzero(), (found > 0).any(0).nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (9, 12, 6, 9)  # trunc(11 - 1.8) to trunc(11 + 1.8)


@pytest.mark.parametrize(("x", "drawn"), [(-2.7, True), (-2.9, False), (21.7, True), (21.9, False)])
def test_a_joint_out_of_frame_shows_as_far_as_its_window_cut_towards_zero_reaches(x: float, drawn: bool) -> None:
    assert bool(at(x, 10).any()) == drawn
    assert bool(at(10, x).any()) == drawn


def segment(a: tuple[float, float], b: tuple[float, float], scores: tuple[float, float]) -> Tensor:
    """(20, 20): one limb."""
    return Heatmaps(PAIR, "limb")(
        torch.tensor([a, b]).view(1, 1, 1, 2, 2), torch.tensor(scores).view(1, 1, 1, 2), (20, 20)
    )[0, 0, 0]


def test_a_limb_is_as_high_as_its_lesser_end_all_along_and_falls_off_beside_it() -> None:
    found = segment((4, 10), (14, 10), (0.9, 0.5))
    assert found[10, 4:15].tolist() == pytest.approx([0.5] * 11)
    assert found[11, 4:15].tolist() == pytest.approx([0.5 * np.exp(-1 / 0.72)] * 11)
    assert float(found[10, 3]) == pytest.approx(0.5 * np.exp(-1 / 0.72))


def test_a_limb_shorter_than_a_pixel_is_a_dot_at_its_first_end_with_that_ends_score() -> None:
    found = segment((4, 10), (4.6, 10.6), (0.9, 0.5))
    assert float(found[10, 4]) == pytest.approx(0.9)
    assert float(found[11, 5]) == pytest.approx(0.9 * np.exp(-2 / 0.72))
    longer = segment((4, 10), (4.8, 10.8), (0.9, 0.5))
    assert float(longer[10, 4]) == pytest.approx(0.5)


def test_a_limb_needs_both_ends() -> None:
    assert segment((4, 10), (14, 10), (0.9, 0.0009)).any() == False  # noqa: E712
    assert segment((4, 10), (14, 10), (0.9, 0.0011)).any()


@pytest.mark.parametrize("kind", ["joint", "limb"])
def test_what_stands_nowhere_is_not_drawn(kind: str) -> None:
    points, scores = moving(1, (20, 20), joints=17)
    bad, sure = points.clone(), scores.clone()
    bad[0, 0, 0, 5], bad[0, 0, 1, 11, 1], sure[1, 0, 0, 6] = float("nan"), float("inf"), float("nan")
    zero = scores.clone()
    zero[0, 0, 0, 5] = zero[0, 0, 1, 11] = zero[1, 0, 0, 6] = 0
    found = Heatmaps(COCO, kind)(bad, sure, (20, 20))
    assert torch.equal(found, Heatmaps(COCO, kind)(points, zero, (20, 20)))
    assert not torch.equal(found, Heatmaps(COCO, kind)(points, scores, (20, 20)))


@pytest.mark.parametrize("kind", ["joint", "limb"])
def test_a_far_point_is_as_good_as_none(kind: str) -> None:
    points, scores = torch.tensor([[1e30, 5.0], [1e30, 9.0]]).view(1, 1, 1, 2, 2), torch.ones(1, 1, 1, 2)
    assert not Heatmaps(PAIR, kind)(points, scores, (20, 20)).any()


@pytest.mark.parametrize("kind", ["joint", "limb"])
def test_persons_merge_by_maximum_in_any_order_and_one_who_is_not_there_adds_nothing(kind: str) -> None:
    points, scores = moving(3, (24, 24))
    scores[:, 2] = 0
    draw = Heatmaps(COCO, kind)
    both = draw(points, scores, (24, 24), fresh=True)
    alone = [draw(points[:, m : m + 1], scores[:, m : m + 1], (24, 24), fresh=True) for m in range(2)]
    assert torch.equal(both, torch.maximum(*alone))
    assert torch.equal(both, draw(points.flip(1), scores.flip(1), (24, 24)))


def batches() -> Iterator[tuple[Tensor, Tensor, tuple[int, int]]]:
    """Several sizes in turn, larger and smaller, with many joints and with few."""
    for number, (clips, people, frames, size) in enumerate(
        [(2, 1, 4, (24, 24)), (1, 2, 3, (16, 20)), (3, 2, 6, (28, 28)), (3, 1, 6, (28, 28)), (1, 1, 1, (8, 8))] * 2
    ):
        points, scores = moving(people, size, clips, frames, seed=number)
        yield points, scores.where(torch.rand(scores.shape, generator=torch.manual_seed(number)) < 0.1, 0), size
        yield points, scores, size


@pytest.mark.parametrize("kind", ["joint", "limb"])
def test_a_canvas_drawn_on_again_keeps_nothing_of_what_was_there(kind: str) -> None:
    kept = Heatmaps(COCO, kind)
    for points, scores, size in batches():
        assert torch.equal(kept(points, scores, size), Heatmaps(COCO, kind)(points, scores, size))


def test_a_few_points_on_a_large_canvas_are_wiped_one_by_one_and_many_all_at_once() -> None:
    points, scores = moving(1, (64, 64), clips=1, frames=4)
    kept = Heatmaps(COCO)
    for _ in range(2):
        first = kept(points, scores, (64, 64)).clone()
        assert 0 < 8 * sum(map(len, kept._canvases[True].drawn)) < first.numel()
    assert torch.equal(first, Heatmaps(COCO)(points, scores, (64, 64)))
    assert not kept(points, torch.zeros_like(scores), (64, 64)).any()
    points, scores = moving(1, (6, 6), clips=1, frames=4)
    kept = Heatmaps(COCO)
    drawn = kept(points, scores, (6, 6))
    assert 8 * sum(map(len, kept._canvases[True].drawn)) > drawn.numel()
    assert not kept(points, torch.zeros_like(scores), (6, 6)).any()


def test_who_is_stopped_while_drawing_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    points, scores = moving(2, (24, 24))
    kept = Heatmaps(COCO, "limb")
    first = kept(points, scores, (24, 24)).clone()
    strokes = kept._strokes

    def stopped(*args: object) -> Iterator[tuple[Tensor, Tensor]]:
        yield next(iter(strokes(*args)))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kept, "_strokes", stopped)
        with pytest.raises(KeyboardInterrupt):
            kept(points + 5, scores, (24, 24))
    assert kept._canvases[True].memory.any()
    assert torch.equal(kept(points, scores, (24, 24)), first)


def test_the_next_call_overwrites_unless_asked_for_a_fresh_one() -> None:
    points, scores = moving(1, (24, 24))
    draw = Heatmaps(COCO)
    one = draw(points, scores, (24, 24))
    fresh = draw(points, scores, (24, 24), fresh=True)
    kept = one.clone()
    assert torch.equal(fresh, kept)
    other = draw(points + 3, scores, (24, 24))
    assert other.data_ptr() == one.data_ptr()
    assert not torch.equal(one, kept)
    assert torch.equal(fresh, kept)


def test_what_was_drawn_while_validating_can_be_trained_on() -> None:
    points, scores = moving(1, (16, 16))
    draw, layer = Heatmaps(COCO), torch.nn.Conv3d(17, 2, 1)
    with torch.inference_mode():
        draw(points, scores, (16, 16))
    layer(draw(points, scores, (16, 16))).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0


def test_the_canvas_is_no_part_of_the_state_and_no_gradient_goes_to_the_points() -> None:
    points, scores = moving(1, (16, 16))
    draw = Heatmaps(COCO)
    assert not draw(points.requires_grad_(), scores, (16, 16)).requires_grad
    assert not draw.state_dict()
    assert not list(draw.buffers())


@pytest.mark.parametrize("kind", ["joint", "limb"])
def test_half_precision_is_the_same_rounded(kind: str) -> None:
    points, scores = moving(2, (24, 24))
    half = Heatmaps(COCO, kind, dtype=torch.float16)(points, scores, (24, 24))
    assert half.dtype == torch.float16
    assert torch.equal(half, Heatmaps(COCO, kind)(points, scores, (24, 24)).half())


def test_channels_are_joints_or_limbs() -> None:
    assert Heatmaps(COCO).channels == 17
    assert Heatmaps(PAIR, "limb").channels == 1
    assert Heatmaps(PAIR, "limb")(torch.zeros(3, 2, 4, 2, 2), torch.ones(3, 2, 4, 2), (5, 6)).shape == (3, 1, 4, 5, 6)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"kind": "edge"}, "'edge'"),
        ({"sigma": 0.0}, "sigma 0.0"),
        ({"eps": 0.0}, "eps 0.0"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Heatmaps(COCO, **arguments)


def test_limbs_must_be_there_and_points_must_fit_the_joints() -> None:
    with pytest.raises(ValueError, match="system.heatmap=limb needs limbs, and the joint set has none"):
        Heatmaps(Joints(("a",), ()), "limb")
    with pytest.raises(ValueError, match=r"17 joints .* points \(1, 1, 1, 2, 2\)"):
        Heatmaps(COCO)(torch.zeros(1, 1, 1, 2, 2), torch.zeros(1, 1, 1, 2), (8, 8))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["joint", "limb"])
def test_a_gpu_draws_the_same(kind: str) -> None:
    points, scores = moving(2, (56, 56))
    draw = Heatmaps(COCO, kind)
    there = draw(points.cuda(), scores.cuda(), (56, 56)).cpu()
    assert float((there - Heatmaps(COCO, kind)(points, scores, (56, 56))).abs().max()) < CLOSE[kind]
    assert draw(points, scores, (56, 56)).device.type == "cpu"
