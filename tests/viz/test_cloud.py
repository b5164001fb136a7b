"""A rendered cloud: near points cover far ones, what faces away is left out, everything is in the image."""

import numpy as np
import pytest

from sightword.viz import cloud

RED, BLUE = (220, 0, 0), (0, 0, 220)


def plane(z, rgb, side=40, half=1.0):
    x, y = np.meshgrid(np.linspace(-half, half, side), np.linspace(-half, half, side))
    xyz = np.stack([x.ravel(), y.ravel(), np.full(side * side, z)], 1)
    return xyz, np.tile(np.array(rgb, np.uint8), (len(xyz), 1))


def joined(*parts):
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def pixels_of(image, rgb):
    """(n, 2) rows and columns of the pixels of a hue, in whatever light."""
    pixels = np.asarray(image).astype(int)
    channel = int(np.argmax(rgb))
    others = np.delete(pixels, channel, axis=2).max(-1)
    return np.argwhere((pixels[..., channel] > 90) & (others < 60))


def test_the_near_covers_the_far():
    xyz, rgb = joined(plane(0.0, BLUE, half=0.6), plane(1.0, RED))
    image = cloud.cloud(xyz, rgb, elevation=89)
    assert len(pixels_of(image, RED)) > 5000
    assert not len(pixels_of(image, BLUE))
    upside_down = cloud.cloud(xyz, rgb, up=(0, 0, -1), elevation=89)
    assert len(pixels_of(upside_down, BLUE)) > 1000


def test_what_faces_away_is_left_out():
    xyz, rgb = joined(plane(0.0, BLUE, half=0.6), plane(1.0, RED))
    facing = np.where(xyz[:, 2:] > 0.5, (0, 0, -1.0), (0, 0, 1.0))  # a ceiling looks down
    image = cloud.cloud(xyz, rgb, facing=facing, elevation=89)
    assert not len(pixels_of(image, RED))
    assert len(pixels_of(image, BLUE)) > 1000


def test_a_ceiling_seen_from_the_side_is_left_out_too():
    """What is far off looks level at the middle of the cameras: it is the surface that has to face away."""
    xyz, rgb = joined(plane(0.0, BLUE), plane(1.0, RED))
    image = cloud.cloud(xyz, rgb, facing=np.array((0, 0, 0.5)) - xyz, elevation=30, azimuth=20)
    assert not len(pixels_of(image, RED))
    assert len(pixels_of(image, BLUE)) > 1000


@pytest.mark.parametrize("azimuth", [-130, 0, 75])
def test_the_cloud_is_inside_the_image_and_fills_it(azimuth):
    rng = np.random.default_rng(0)
    xyz = rng.random((4000, 3)) * (6, 4, 2.5) + (100, -50, 7)
    image = cloud.cloud(xyz, np.tile(np.array(RED, np.uint8), (4000, 1)), (320, 240), azimuth=azimuth)
    assert image.size == (320, 240)
    rows, columns = pixels_of(image, RED).T
    at_the_edge = (rows < 1) | (columns < 1) | (rows > 238) | (columns > 318)
    assert at_the_edge.mean() < 0.001  # an outlier may be cut
    assert max(np.ptp(rows) / 240, np.ptp(columns) / 320) > 0.85


def test_up_is_up_and_the_eye_is_where_it_was_seen_from():
    low, high = plane(0.0, BLUE, half=0.2), plane(1.5, RED, half=0.2)
    xyz, rgb = joined(low, high)
    image = cloud.cloud(xyz, rgb, elevation=10)
    assert pixels_of(image, RED)[:, 0].mean() < pixels_of(image, BLUE)[:, 0].mean()
    left, right = plane(0.0, BLUE, half=0.2), plane(0.0, RED, half=0.2)
    xyz, rgb = joined((left[0] - (1, 0, 0), left[1]), (right[0] + (1, 0, 0), right[1]))
    seen = np.tile((0.0, -1.0, 0.5), (len(xyz), 1))  # from the front
    image = cloud.cloud(xyz, rgb, facing=seen)
    assert pixels_of(image, BLUE)[:, 1].mean() < pixels_of(image, RED)[:, 1].mean()


def test_one_point_and_many_in_one_place_are_drawn():
    for xyz in (np.zeros((1, 3)), np.zeros((50, 3)), np.array([[0, 0, 0], [1.0, 0, 0]])):
        image = cloud.cloud(xyz, np.tile(np.array(RED, np.uint8), (len(xyz), 1)), (64, 48))
        assert len(pixels_of(image, RED))


def test_a_cloud_of_another_shape_is_one_line():
    with pytest.raises(ValueError, match=r"xyz \(N, 3\) and rgb \(N, 3\), N at least 1; got \(0, 3\)"):
        cloud.cloud(np.zeros((0, 3)), np.zeros((0, 3), np.uint8))
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(3, 3\)"):
        cloud.cloud(np.zeros((4, 3)), np.zeros((3, 3), np.uint8))
