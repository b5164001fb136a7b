"""Walls two metres before cameras that only step aside: what is seen where is known by hand."""

import torch

from sightword.systems.points.config import PointsConfig
from sightword.systems.points.data import RoomBatch
from sightword.systems.points.lift.geometry import Views
from sightword.systems.points.scannet.label import LabelSet
from sightword.systems.points.task import PointsTask, make_encoder

SIZE = (12, 16)  # H, W of a depth image
FOCAL = 10.0


def wall(count=60, views=3, seed=0, clip_dim=8, grid=(3, 4), hidden=0.3):
    """One scene: xyz (N, 3), rgb, views at x = 0, 0.1, … and CLIP maps; a share of the points lies behind the wall."""
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.rand(count, 3, generator=generator) * torch.tensor([2.4, 1.6, 0.0]) - torch.tensor([1.2, 0.8, -2.0])
    xyz[: int(hidden * count), 2] = 3.0
    rgb = torch.rand(count, 3, generator=generator) * 2 - 1
    pose = torch.eye(4).repeat(views, 1, 1)
    pose[:, 0, 3] = 0.1 * torch.arange(views)
    K = torch.tensor([[FOCAL, 0, (SIZE[1] - 1) / 2], [0, FOCAL, (SIZE[0] - 1) / 2], [0, 0, 1]]).repeat(views, 1, 1)
    depth = torch.full((views, *SIZE), 2.0)
    scene = torch.zeros(views, dtype=torch.int64)
    maps = torch.randn(views, clip_dim, *grid, generator=generator)
    pooled = torch.randn(views, clip_dim, generator=generator)
    return xyz, rgb, Views(depth, K, pose, scene), maps, pooled


def batch_of(*scenes):
    """Scenes as one ragged batch: the arguments of an encoder."""
    xyz, rgb, views, maps, pooled = zip(*scenes, strict=True)
    point_scene = torch.cat([torch.full((len(part),), number) for number, part in enumerate(xyz)])
    view_scene = torch.cat([torch.full((len(part.depth),), number) for number, part in enumerate(views)])
    joined = Views(*(torch.cat(parts) for parts in zip(*[part[:3] for part in views], strict=True)), view_scene)
    return torch.cat(xyz), torch.cat(rgb), point_scene, joined, torch.cat(maps), torch.cat(pooled)


NAMES = ("wall", "chair", "bed")


class AxisClip:
    """A CLIP whose class embeddings are the axes of its space."""

    name, tag = "axes", "none"

    def class_embeddings(self, names, templates):
        return torch.eye(8)[: len(names)]


def task_for(seed=0, **values):
    system = PointsConfig(**{"dim": 16, "heads": 2, "radius": 0.3, "k": 6, "use_amp": False, **values})
    torch.manual_seed(seed)
    return PointsTask(system, make_encoder(system, 8), AxisClip(), LabelSet(NAMES, (1, 5, 6), "three names"))


def batch_for(*rooms, split="val"):
    """Walls whose maps say "chair" on the left and "bed" on the right, and whose points are labelled so."""
    xyz, rgb, scene, views, maps, pooled = batch_of(*(rooms or (wall(80), wall(60, 2, 1))))
    maps = torch.zeros_like(maps)
    maps[:, 1, :, :2], maps[:, 2, :, 2:] = 1, 1
    label = torch.where(xyz[:, 0] < 0.1, 1, 2)
    names = [f"room {number}" for number in range(int(scene.max()) + 1)]
    return RoomBatch(
        xyz, rgb, label, scene, torch.zeros(len(xyz)).bool(), views, maps, pooled, None, names, [[]] * len(names), split
    )
