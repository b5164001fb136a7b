"""From posed frames to features on points: lifting beside one grid_sample per frame, neighbours beside cdist.

Five frames of 480 × 640 of a furnished room's shell, 20 000 points on it, maps of 512 channels at 14 × 19. Peers, as
documents and papers have them: every frame projects all points, samples its map at all of them with one grid_sample,
drops by a mask what is hidden and adds up; once more with the mask first, so that only what is seen is sampled. For
neighbours the whole matrix of distances and topk. The cache is timed on a ViT-B/16 of random weights, opening it too.
"""

import json
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from measure import at_least, at_most, cpu_ms, peak_mib, publish
from safetensors.torch import save_file
from torch import Tensor
from towers import in_turns

from sightword.systems.points.lift.geometry import (
    Links,
    Views,
    back_project,
    ball_query,
    lift,
    link,
    project,
    to_grid,
    visible,
)
from sightword.systems.points.lift.uv_index import PatchChain
from sightword.towers.token_cache import Source

FRAMES, POINTS, CHANNELS, GRID, SIZE = 5, 20_000, 512, (14, 19), (480, 640)
RADIUS, NEIGHBOURS = 0.1, 16
ROOM = torch.tensor([6.0, 5.0, 2.6], dtype=torch.float64)  # metres, its corner in the origin
K = torch.tensor([[577.9, 0, 319.5], [0, 577.9, 239.5], [0, 0, 1]], dtype=torch.float64)  # ScanNet's depth camera

# --------------------------------------------------------------------------------------------------------- the world


def surface(count: int) -> Tensor:
    """(N, 3) points on the six faces of the room, as many on each."""
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    axis, side = (torch.randint(0, n, (count,), generator=generator) for n in (3, 2))
    xyz[torch.arange(count), axis] = side.double()
    return (xyz * ROOM).float()


def frames(count: int = FRAMES) -> Views:
    """Cameras on a circle that look across the room, and how far its shell is: exact depth."""
    depth, poses = [], []
    for number in range(count):
        turn = torch.tensor(2 * torch.pi * number / count, dtype=torch.float64)
        out = torch.stack([turn.cos(), turn.sin(), turn.new_zeros(())])
        ahead = F.normalize(-3.5 * out + turn.new_tensor([0, 0, -0.5]), dim=0)
        right = F.normalize(torch.linalg.cross(ahead, turn.new_tensor([0, 0, 1])), dim=0)
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = torch.stack([right, torch.linalg.cross(ahead, right), ahead], 1)
        pose[:3, 3] = ROOM / 2 + 1.5 * out
        rays = back_project(torch.ones(SIZE, dtype=torch.float64), K, pose) - pose[:3, 3]
        ends = torch.maximum((ROOM - pose[:3, 3]) / rays, -pose[:3, 3] / rays)  # of two walls the one ahead
        depth.append(ends.amin(1).view(SIZE))
        poses.append(pose)
    scene = torch.zeros(count, dtype=torch.int64)
    return Views(torch.stack(depth).float(), K.expand(count, 3, 3).float(), torch.stack(poses).float(), scene)


# ----------------------------------------------------------------------------------------------------- links and lift


def frame_by_frame(maps: Tensor, xyz: Tensor, views: Views, mask_first: bool) -> Tensor:
    total, weight = torch.zeros(len(xyz), maps.shape[1]), torch.zeros(len(xyz), 1)
    for number in range(len(maps)):
        uv, z = project(xyz, views.K[number], views.pose[number])
        ok, conf = visible(uv, z, views.depth[number])
        grid = to_grid(uv[ok] if mask_first else uv, SIZE)
        read = F.grid_sample(maps[number][None], grid[None, None], padding_mode="border", align_corners=False)[0, :, 0]
        total[ok] += (read if mask_first else read[:, ok]).T * conf[ok, None]
        weight[:, 0] += conf
    return total / weight.clamp(min=1e-9)


def lifting() -> list[dict[str, Any]]:
    views, xyz, scene = frames(), surface(POINTS), torch.zeros(POINTS, dtype=torch.int64)
    maps = torch.randn(FRAMES, CHANNELS, *GRID, generator=torch.Generator().manual_seed(0))
    half = maps.bfloat16()
    links = link(xyz, scene, views)

    def ours(maps: Tensor) -> Tensor:
        return lift(maps, link(xyz, scene, views), POINTS)

    wanted = frame_by_frame(maps, xyz, views, mask_first=False)
    torch.testing.assert_close(ours(maps), wanted, atol=1e-4, rtol=0)
    times = in_turns(
        lambda: ours(maps),
        lambda: frame_by_frame(maps, xyz, views, mask_first=False),
        lambda: frame_by_frame(maps, xyz, views, mask_first=True),
        lambda: link(xyz, scene, views),
        lambda: lift(maps, links, POINTS),
        lambda: ours(half),
        lambda: torch.zeros(POINTS, CHANNELS),
    )
    both, every, seen, linking, sampling, in_half, empty = (statistics.median(c) for c in zip(*times, strict=True))
    none = {"target": "", "met": ""}
    rows = [
        {"what": f"links + lift, {len(links.point)} links", "CPU ms": both, "peer's / ours": 1.0} | none,
        {"what": "peer: one grid_sample a frame, then its mask", "CPU ms": every, "peer's / ours": every / both},
        {"what": "peer: the mask first", "CPU ms": seen, "peer's / ours": seen / both} | none,
        {"what": "links alone", "CPU ms": linking, "peer's / ours": ""} | none,
        {"what": "lift alone", "CPU ms": sampling, "peer's / ours": ""} | none,
        {"what": "links + lift of bfloat16 maps", "CPU ms": in_half, "peer's / ours": every / in_half} | none,
        {"what": "writing zeros as large as the result", "CPU ms": empty, "peer's / ours": ""} | none,
    ]
    rows[1] |= at_least(every / both, 8)
    return rows


def projecting() -> list[dict[str, Any]]:
    """Beside the formula in numpy, a frame at a time, on float32."""
    views, xyz = frames(), surface(POINTS)
    points = xyz.numpy()
    turns, places = views.pose[:, :3, :3].numpy(), views.pose[:, :3, 3].numpy()
    fx, fy, cx, cy = (float(K[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))

    def bare() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        found = []
        for turn, place in zip(turns, places, strict=True):
            x, y, z = ((points - place) @ turn).T
            found.append((fx * x / z + cx, fy * y / z + cy, z))
        return found

    times = in_turns(lambda: project(xyz, views.K, views.pose), bare, rounds=51)
    ours, numpy = (statistics.median(column) for column in zip(*times, strict=True))
    row = {"pairs": FRAMES * POINTS, "CPU ms": ours, "numpy ms": numpy, "ours / numpy": ours / numpy}
    return [row | at_most(ours / numpy, 2)]


def chain() -> list[dict[str, Any]]:
    """PixelShuffle → Conv1×1(256) → sample → Linear(128), as written and folded."""
    views, xyz, scene = frames(), surface(POINTS), torch.zeros(POINTS, dtype=torch.int64)
    links: Links = link(xyz, scene, views)
    maps, literal = torch.randn(FRAMES, 768, *GRID), PatchChain()
    folded = literal.folded()
    with torch.no_grad():
        torch.testing.assert_close(folded(maps, links, POINTS), literal(maps, links, POINTS), atol=1e-5, rtol=0)
        times = in_turns(lambda: literal(maps, links, POINTS), lambda: folded(maps, links, POINTS))
    written, ours = (statistics.median(column) for column in zip(*times, strict=True))
    return [{"what": "768 → 192 → 256 → 128", "as written ms": written, "folded ms": ours, "ratio": written / ours}]


# ---------------------------------------------------------------------------------------------------------- neighbours


def all_pairs(xyz: Tensor) -> tuple[Tensor, Tensor]:
    distance, index = torch.cdist(xyz, xyz).topk(NEIGHBOURS, largest=False)
    return index, distance <= RADIUS


def neighbours() -> list[dict[str, Any]]:
    rows = []
    for name, xyz in (("a room", surface(POINTS)), ("a quarter of it, four times as dense", surface(POINTS) / 2)):
        index, mask = ball_query(xyz, xyz, RADIUS, NEIGHBOURS)
        theirs, real = all_pairs(xyz.double())
        equal = bool((mask == real).all()) and bool((index == theirs)[mask].all())
        ours = cpu_ms(lambda xyz=xyz: ball_query(xyz, xyz, RADIUS, NEIGHBOURS))
        peer = cpu_ms(lambda xyz=xyz: all_pairs(xyz), repeats=3)
        row = {
            "points": name,
            "found of 16": float(mask.sum(1).float().mean()),
            "CPU ms": ours,
            "cdist + topk ms": peer,
        }
        rows.append(row | {"ratio": peer / ours, "equals float64": equal} | at_least(peer / ours, 8))
    return rows


def prepare(who: str) -> Any:
    xyz = surface(POINTS)
    return partial(all_pairs, xyz) if who == "cdist + topk" else partial(ball_query, xyz, xyz, RADIUS, NEIGHBOURS)


def memory() -> list[dict[str, Any]]:
    ours, peer = (peak_mib(prepare, who) for who in ("ball query", "cdist + topk"))
    return [{"ball query MiB": ours, "cdist + topk MiB": peer, "N × N alone MiB": POINTS**2 * 4 / 2**20}]


# ----------------------------------------------------------------------------------------------------------- the cache


def write_room(root: Path) -> str:
    """Its name."""
    from sightword.miniature import room

    room.write_scene(root, 0, frames=FRAMES, color=SIZE, depth=SIZE)
    return room.name_of(0)


def write_clip(folder: Path) -> Path:
    """A ViT-B/16 of random weights, as it would lie on a disk."""
    folder.mkdir()
    weights = open_clip.create_model("ViT-B-16").state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "open_clip_model.safetensors")
    config = {"model_cfg": open_clip.get_model_config("ViT-B-16"), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def kept() -> list[dict[str, Any]]:
    """A scene of five frames of 480 × 640 lifted, and lifted again with the same cache; and one frame's maps read."""
    from sightword.systems.points.lift.extract import Job, extract
    from sightword.systems.points.lift.features import FrameCache

    with tempfile.TemporaryDirectory() as beside:
        source = Source(str(write_clip(Path(beside) / "clip")), {"size": (224, 304)})
        root, cache = Path(beside) / "world", Path(beside) / "cache"
        name, numbers = write_room(root), iter(range(10))

        def once() -> None:
            extract(source, "qq", root, [name], Path(beside) / f"out{next(numbers)}", job=Job(FRAMES, cache))

        first = cpu_ms(once, repeats=1, warm=False)
        again = cpu_ms(once, repeats=3, warm=False)
        report = json.loads((Path(beside) / f"out{next(numbers) - 1}" / "report.json").read_text())
        alone = 1000 * sum(report["stages"]["cpu_seconds"].values())
        reader = FrameCache(cache)
        read = cpu_ms(lambda: reader.maps(name, [0]), repeats=51)
    row = {"first lift ms": first, "again ms": again, "of it the scene alone ms": alone, "first / again": first / again}
    row |= at_least(first / again, 15)
    return [row, dict(zip(row, ["a frame's maps read", read, "", "", *at_most(read, 1).values()], strict=True))]


def main() -> None:
    tables = {
        f"Projection: {POINTS} points in {FRAMES} frames": projecting(),
        f"Correspondences and lift: {POINTS} points, {FRAMES} frames, {CHANNELS} channels": lifting(),
        "The published chain": chain(),
        f"Ball query: radius {RADIUS} m, {NEIGHBOURS} of {POINTS} points": neighbours(),
        "Ball query: memory besides the points": memory(),
        "Maps of frames, kept": kept(),
    }
    publish("points", tables, ["torch", "numpy", "open_clip_torch"])


if __name__ == "__main__":
    main()
