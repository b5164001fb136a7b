"""What a skeleton costs until the network gets it: heatmaps beside the published algorithm in numpy, reading, the step.

The peer is pyskl's GeneratePoseTarget as its paper and its configuration describe it, written again: numpy on the
window about each joint or limb, one after the other, in float32 on a new array for each view. Views are of the
synthetic dataset, one person, 17 joints, through the whole pipeline of training.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from measure import at_least, at_most, cpu_ms, publish
from torch import Tensor, nn

from sightword.miniature.motion import ACTIONS, Sizes, write_motion
from sightword.systems.skeleton.config import SkeletonData
from sightword.systems.skeleton.data import SkeletonBatch, make_loaders
from sightword.systems.skeleton.heatmap import Heatmaps
from sightword.systems.skeleton.joints import joint_set
from sightword.systems.skeleton.model import ResNet3dSlowOnly

BATCH, SIZE, SIGMA, EPS = 8, (56, 56), 0.6, 1e-3
TARGETS = {"joint": 12, "limb": 10}
COCO = joint_set("coco17")
FULL = SkeletonData(batch_size=BATCH, persons=1, num_workers=0, val="xsub_val")
MINI = replace(FULL, frames=16, size=[28, 28])
NETWORKS: tuple[tuple[str, int, tuple[int, ...], SkeletonData, int], ...] = (  # …, base, depths, data, views at once
    ("SlowOnly, 48 × 56 × 56", 32, (4, 6, 3), FULL, 1),
    ("base 16, one block a stage, 16 × 28 × 28", 16, (1, 1, 1), MINI, BATCH),
    ("base 8, one block a stage, 16 × 28 × 28", 8, (1, 1, 1), MINI, BATCH),
)
Rows = list[dict[str, object]]


# -------------------------------------------------------------------------------------------------------------- peer


def window(low: float, high: float, extent: int) -> tuple[int, int]:
    return max(int(low - 3 * SIGMA), 0), min(int(high + 3 * SIGMA) + 1, extent)


def draw_joint(image: np.ndarray, centre: np.ndarray, height: float) -> None:
    """image: (H, W) float32, drawn on."""
    (left, right), (top, bottom) = (
        window(at, at, extent) for at, extent in zip(centre, image.shape[::-1], strict=True)
    )
    if height < EPS or right <= left or bottom <= top:
        return
    x, y = np.arange(left, right, dtype=np.float32), np.arange(top, bottom, dtype=np.float32)[:, None]
    values = height * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * SIGMA**2))
    image[top:bottom, left:right] = np.maximum(image[top:bottom, left:right], values)


def draw_limb(image: np.ndarray, a: np.ndarray, b: np.ndarray, height_a: float, height_b: float) -> None:
    """By the distance to a where the nearest point of the segment is a, to b where it is b, else to the line."""
    height = min(height_a, height_b)
    if height < EPS:
        return
    (left, right), (top, bottom) = (
        window(min(one, other), max(one, other), extent)
        for one, other, extent in zip(a, b, image.shape[::-1], strict=True)
    )
    if right <= left or bottom <= top:
        return
    length = ((a - b) ** 2).sum()
    if length < 1:
        draw_joint(image, a, height_a)
        return
    x, y = np.arange(left, right, dtype=np.float32), np.arange(top, bottom, dtype=np.float32)[:, None]
    to_a, to_b = (x - a[0]) ** 2 + (y - a[1]) ** 2, (x - b[0]) ** 2 + (y - b[1]) ** 2
    share = (to_a - to_b + length) / 2 / length
    to_line = (x - a[0] - share * (b[0] - a[0])) ** 2 + (y - a[1] - share * (b[1] - a[1])) ** 2
    nearest = np.where(share <= 0, to_a, np.where(share >= 1, to_b, to_line))
    values = height * np.exp(-nearest / (2 * SIGMA**2))
    image[top:bottom, left:right] = np.maximum(image[top:bottom, left:right], values)


def plain(kind: str, limbs: tuple[tuple[int, int], ...], points: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """One view: points (M, L, V, 2), scores (M, L, V) → (C, L, H, W) float32."""
    people, frames, joints = scores.shape
    out = np.zeros((joints if kind == "joint" else len(limbs), frames, *SIZE), np.float32)
    for person, frame in np.ndindex(people, frames):
        place, sure = points[person, frame], scores[person, frame]
        if kind == "joint":
            for joint in range(joints):
                draw_joint(out[joint, frame], place[joint], sure[joint])
        else:
            for number, (one, other) in enumerate(limbs):
                draw_limb(out[number, frame], place[one], place[other], sure[one], sure[other])
    return out


# ---------------------------------------------------------------------------------------------------------- measured


def batches(folder: Path, data: SkeletonData = FULL) -> Iterator[SkeletonBatch]:
    """Return the training batches of the synthetic dataset, read again."""
    data = replace(data, annotations=str(folder / "annotations.pkl"))
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # how many there are need not be printed each time
        return iter(make_loaders(data, 0, COCO, tuple(ACTIONS)).train)


def views(batch: SkeletonBatch) -> tuple[Tensor, Tensor]:
    return batch.points.flatten(0, 1), batch.scores.flatten(0, 1)


def heatmaps(folder: Path) -> Rows:
    """Measure both in turn, so that other load on the machine affects both."""
    points, scores = views(next(batches(folder)))
    rows: Rows = []
    for kind, target in TARGETS.items():
        draw = Heatmaps(COCO, kind, SIGMA, EPS)

        def peer(kind: str = kind) -> np.ndarray:
            each = zip(points.numpy(), scores.numpy(), strict=True)
            return np.stack([plain(kind, COCO.limbs, *view) for view in each])

        def ours(draw: Heatmaps = draw) -> Tensor:
            return draw(points, scores, SIZE)

        apart = float(np.abs(ours().numpy() - peer()).max())
        ours()
        pairs = [(cpu_ms(ours, 15, False), cpu_ms(peer, 1, False)) for _ in range(7)]
        mine, theirs = (statistics.median(times) / BATCH for times in zip(*pairs, strict=True))
        rows.append(
            {
                "kind": kind,
                "Sightword views/s": 1000 / mine,
                "numpy views/s": 1000 / theirs,
                "largest difference": apart,
                "equal to 2e-6": apart < 2e-6,
                "Sightword / numpy": theirs / mine,
                **at_least(theirs / mine, target),
            }
        )
    return rows


def network(base: int, depths: tuple[int, ...]) -> ResNet3dSlowOnly:
    torch.manual_seed(0)
    return ResNet3dSlowOnly(len(COCO.joints), base, depths)


def stepping(base: int, depths: tuple[int, ...], volumes: Tensor) -> Callable[[], None]:
    """Return a step of training: class scores from the mean over time, cross-entropy, AdamW."""
    body = network(base, depths).train()
    head = nn.Linear(body.frame_features(volumes[:1]).shape[-1], len(ACTIONS))
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()])
    labels = torch.arange(len(volumes)) % len(ACTIONS)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(body.frame_features(volumes).mean(1)), labels).backward()
        optimizer.step()

    return step


def reading(folder: Path, data: SkeletonData) -> float:
    """Return CPU milliseconds per view, from the file that is open already to a batch of key points."""
    stream, times = batches(folder, data), []
    next(stream)
    for _ in range(20):
        start = time.process_time()
        next(stream)
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times) / BATCH


def inputs(folder: Path) -> Rows:
    """Measure what a view costs until it is a volume, beside a step of the network on it."""
    rows: Rows = []
    for name, base, depths, data, count in NETWORKS:
        batch = next(batches(folder, data))
        read = reading(folder, data)
        drawn = {kind: cpu_ms(partial(Heatmaps(COCO, kind), *views(batch), batch.size), 15) / BATCH for kind in TARGETS}
        volumes = Heatmaps(COCO)(*views(batch), batch.size)
        step = cpu_ms(stepping(base, depths, volumes[:count]), 3 if count == 1 else 9) / count
        share = 100 * (read + drawn["joint"]) / step
        rows.append(
            {
                "network and view": name,
                "key points ms": read,
                "joint maps ms": drawn["joint"],
                "limb maps ms": drawn["limb"],
                "step ms": step,
                "key points and joint maps, % of the step": share,
                **at_most(share, 1 if count == 1 else 10),
            }
        )
    return rows


@torch.inference_mode()
def layouts(folder: Path) -> Rows:
    """Measure the forward pass with memory laid out in two ways, in turn."""
    rows: Rows = []
    for name, base, depths, data, count in NETWORKS:
        batch = next(batches(folder, data))
        volumes = Heatmaps(COCO)(*views(batch), batch.size)[:count]
        forms = (torch.contiguous_format, torch.channels_last_3d)
        nets = [network(base, depths).eval().to(memory_format=form) for form in forms]
        laid_out = [volumes.contiguous(memory_format=form) for form in forms]
        one, other = (net(each) for net, each in zip(nets, laid_out, strict=True))
        calls = [partial(net, each) for net, each in zip(nets, laid_out, strict=True)]
        pairs = [[cpu_ms(call, 1, False) / count for call in calls] for _ in range(5)]
        plain_ms, last_ms = (statistics.median(times) for times in zip(*pairs, strict=True))
        rows.append(
            {
                "network and view": name,
                "contiguous ms": plain_ms,
                "channels_last_3d ms": last_ms,
                "difference, of the largest": float((one - other).abs().max() / one.abs().max()),
                "contiguous / channels last": plain_ms / last_ms,
            }
        )
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        write_motion(folder, Sizes(train=3, val=1, test=0))
        tables = {
            "Heatmaps, one person, 17 joints, 48 × 56 × 56": heatmaps(folder),
            "What a view costs, CPU time of one thread": inputs(folder),
            "Forward, CPU time per view": layouts(folder),
        }
    publish("skeleton", tables, ["torch", "numpy"])


if __name__ == "__main__":
    main()
