"""A room that formulas know: an empty box of 6 × 5 × 2.6 m with a pillar in it, and cameras that see it exactly."""

import math

import torch

from sightword.systems.points.lift.geometry import Views, back_project

SIZE = torch.tensor([6.0, 5.0, 2.6], dtype=torch.float64)
PILLAR = torch.tensor([[2.4, 2.0, 0.0], [3.4, 2.8, 2.0]], dtype=torch.float64)


def camera(place, target):
    """(4, 4) float64, camera-to-world: z towards the target, u right, v down."""
    place, target = (torch.tensor(x, dtype=torch.float64) for x in (place, target))
    ahead = (target - place) / (target - place).norm()
    right = torch.linalg.cross(ahead, torch.tensor([0, 0, 1.0], dtype=torch.float64))
    right /= right.norm()
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.stack([right, torch.linalg.cross(ahead, right), ahead], 1)
    pose[:3, 3] = place
    return pose


def intrinsics(size):
    """(3, 3) float64 of an image (H, W) some 58° wide, its principal point off the middle."""
    height, width = size
    return torch.tensor([[0.9 * width, 0, 0.49 * width], [0, 0.9 * width, 0.52 * height], [0, 0, 1]]).double()


def hit(origin, rays):
    """How many of `rays` (P, 3) from `origin` reach the pillar or the room's shell first: (P,) float64."""
    out = torch.where(rays > 0, (SIZE - origin) / rays, (0 - origin) / rays).amin(1)
    near, far = (PILLAR[:, None] - origin) / rays
    enter, leave = torch.minimum(near, far).amax(1), torch.maximum(near, far).amin(1)
    return torch.where((enter < leave) & (enter > 0), enter, out)


def depth_of(pose, K, size):
    """(H, W) float64 metres along z."""
    rays = back_project(torch.ones(size, dtype=torch.float64), K, pose) - pose[:3, 3]
    return hit(pose[:3, 3], rays).view(size)


def orbit(count, turn=2 * math.pi):
    """`count` cameras on a circle around the pillar, looking across."""
    angles = [turn * number / count for number in range(count)]
    return torch.stack(
        [
            camera((3 + 2.4 * math.cos(a), 2.5 + 1.9 * math.sin(a), 1.5), (3 - math.cos(a), 2.5 - math.sin(a), 1.0))
            for a in angles
        ]
    )


def views(count=4, size=(120, 160), scene=0):
    K, poses = intrinsics(size), orbit(count)
    depth = torch.stack([depth_of(pose, K, size) for pose in poses]).float()
    return Views(depth, K.expand(count, 3, 3).float(), poses.float(), torch.full((count,), scene))


def surface(count, seed=0):
    """Points (N, 3) float32 on the walls, floor and ceiling and on the pillar, a fifth of them."""
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    axis, side = (torch.randint(0, n, (count,), generator=generator) for n in (3, 2))
    xyz[torch.arange(count), axis] = side.double()
    few = count // 5
    return torch.cat([PILLAR[0] + xyz[:few] * (PILLAR[1] - PILLAR[0]), xyz[few:] * SIZE]).float()


def seen(xyz, pose):
    """(N,) bool: whether nothing stands between the points and the camera."""
    rays = xyz.double() - pose[:3, 3].double()
    return hit(pose[:3, 3].double(), rays) > 1 - 1e-5
