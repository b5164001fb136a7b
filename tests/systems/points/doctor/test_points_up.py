"""Which way is up: by surfaces, and by cameras where there are too few."""

import numpy as np
import pytest
import torch

from sightword.systems.points.doctor.up import find_up, held_level

K = np.array([[240.0, 0, 159.5], [0, 240, 119.5], [0, 0, 1]])
ROLLED = np.array([[1, 0, 0], [0, 0.6, -0.8], [0, 0.8, 0.6]])  # 53° about x


def looking(forward, up=(0, 0, 1.0)):
    forward, up = torch.tensor(forward).double(), torch.tensor(up).double()
    forward = forward / forward.norm()
    right = torch.linalg.cross(forward, up)
    right = right / right.norm()
    pose = torch.eye(4).double()
    pose[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], 1)
    return pose


def test_up_is_found_from_cameras_that_look_down():
    poses = torch.stack([looking((np.cos(a), np.sin(a), -0.8)) for a in (0.1, 0.6, 1.2)])
    assert held_level(poses) == [0, 0, 1]
    tilted = torch.eye(4).double()
    tilted[:3, :3] = torch.tensor([[1, 0, 0], [0, 0.6, -0.8], [0, 0.8, 0.6]])
    assert held_level(tilted @ poses) == pytest.approx([0, -0.8, 0.6], abs=0.06)


def floor_below(pose):
    """Depth (240, 320) of a camera 1.5 m above a floor, and of a wall 3 m ahead of it."""
    v, u = np.mgrid[:240, :320]
    ray = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(u.shape)], -1) @ pose[:3, :3].T
    with np.errstate(divide="ignore"):
        floor = np.where(ray[..., 2] < 0, -1.5 / ray[..., 2], np.inf)
        wall = np.where(ray[..., 0] > 0, 3.0 / ray[..., 0], np.inf)
    return np.minimum(floor, wall)


@pytest.mark.parametrize("turn", [np.eye(3), ROLLED])
def test_up_is_what_the_floor_faces_whatever_cameras_look_at(turn):
    poses = np.stack([looking((np.cos(a), np.sin(a), -0.7)).numpy() for a in (-0.3, 0.1, 0.5)])
    depth = [floor_below(pose) for pose in poses]
    poses[:, :3, :3] = turn @ poses[:, :3, :3]
    found = find_up(depth, K, poses)
    assert found.direction == pytest.approx(turn[:, 2], abs=0.02)
    assert found.aligned == (turn is not ROLLED)
    assert str(found).startswith("z is up" if found.aligned else "none of its axes is vertical, up is 37° from -y")


def test_where_nothing_faces_up_nothing_is_told():
    assert find_up([np.zeros((240, 320))], K, np.eye(4)[None]) is None
    assert find_up([np.full((240, 320), 2.0)], K, looking((1, 0, 0.0)).numpy()[None]) is None
