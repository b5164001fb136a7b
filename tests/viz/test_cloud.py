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


def drawn(xyz, rgb, *args, **options):
    return cloud.clouds(xyz, [rgb], *args, **options)[0]


def pixels_of(image, rgb):
    """(n, 2) rows and columns of the pixels of a hue, in whatever light."""
    pixels = np.asarray(image).astype(int)
    channel = int(np.argmax(rgb))
    others = np.delete(pixels, channel, axis=2).max(-1)
    return np.argwhere((pixels[..., channel] > 90) & (others < 60))


def test_the_near_covers_the_far():
    xyz, rgb = joined(plane(0.0, BLUE, half=0.6), plane(1.0, RED))
    image = drawn(xyz, rgb, elevation=89)
    assert len(pixels_of(image, RED)) > 5000
    assert not len(pixels_of(image, BLUE))
    upside_down = drawn(xyz, rgb, up=(0, 0, -1), elevation=89)
    assert len(pixels_of(upside_down, BLUE)) > 1000


def test_what_faces_away_is_left_out():
    xyz, rgb = joined(plane(0.0, BLUE, half=0.6), plane(1.0, RED))
    facing = np.where(xyz[:, 2:] > 0.5, (0, 0, -1.0), (0, 0, 1.0))  # a ceiling looks down
    image = drawn(xyz, rgb, facing=facing, elevation=89)
    assert not len(pixels_of(image, RED))
    assert len(pixels_of(image, BLUE)) > 1000


def test_a_ceiling_seen_from_the_side_is_left_out_too():
    """What is far off looks level at the middle of the cameras: it is the surface that has to face away."""
    xyz, rgb = joined(plane(0.0, BLUE), plane(1.0, RED))
    image = drawn(xyz, rgb, facing=np.array((0, 0, 0.5)) - xyz, elevation=30, azimuth=20)
    assert not len(pixels_of(image, RED))
    assert len(pixels_of(image, BLUE)) > 1000


@pytest.mark.parametrize("azimuth", [-130, 0, 75])
def test_the_cloud_is_inside_the_image_and_fills_it(azimuth):
    rng = np.random.default_rng(0)
    xyz = rng.random((4000, 3)) * (6, 4, 2.5) + (100, -50, 7)
    image = drawn(xyz, np.tile(np.array(RED, np.uint8), (4000, 1)), (320, 240), azimuth=azimuth)
    assert image.size == (320, 240)
    rows, columns = pixels_of(image, RED).T
    at_the_edge = (rows < 1) | (columns < 1) | (rows > 238) | (columns > 318)
    assert at_the_edge.mean() < 0.001  # an outlier may be cut
    assert max(np.ptp(rows) / 240, np.ptp(columns) / 320) > 0.85


def test_up_is_up_and_the_eye_is_where_it_was_seen_from():
    low, high = plane(0.0, BLUE, half=0.2), plane(1.5, RED, half=0.2)
    xyz, rgb = joined(low, high)
    image = drawn(xyz, rgb, elevation=10)
    assert pixels_of(image, RED)[:, 0].mean() < pixels_of(image, BLUE)[:, 0].mean()
    left, right = plane(0.0, BLUE, half=0.2), plane(0.0, RED, half=0.2)
    xyz, rgb = joined((left[0] - (1, 0, 0), left[1]), (right[0] + (1, 0, 0), right[1]))
    seen = np.tile((0.0, -1.0, 0.5), (len(xyz), 1))  # from the front
    image = drawn(xyz, rgb, facing=seen)
    assert pixels_of(image, BLUE)[:, 1].mean() < pixels_of(image, RED)[:, 1].mean()


def test_one_point_and_many_in_one_place_are_drawn():
    for xyz in (np.zeros((1, 3)), np.zeros((50, 3)), np.array([[0, 0, 0], [1.0, 0, 0]])):
        image = drawn(xyz, np.tile(np.array(RED, np.uint8), (len(xyz), 1)), (64, 48))
        assert len(pixels_of(image, RED))


def test_each_colouring_is_drawn_as_it_would_be_alone():
    rng = np.random.default_rng(0)
    xyz, rgbs = rng.random((500, 3)), rng.integers(0, 256, (2, 500, 3), np.uint8)
    towards = rng.normal(size=(500, 3))
    both = cloud.clouds(xyz, rgbs, (80, 60), facing=towards)
    for image, rgb in zip(both, rgbs, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(drawn(xyz, rgb, (80, 60), facing=towards)))


def test_a_later_disc_covers_earlier_ones_and_the_border_cuts_it(monkeypatch):
    """One disc after another, pixel by pixel; in whatever portions they are drawn."""
    rng = np.random.default_rng(0)
    u, v, reach = rng.uniform(-8, 48, 300), rng.uniform(-8, 38, 300), np.linspace(0.2, 6, 300)
    expected = np.full((30, 40), -1)
    rows, columns = np.mgrid[:30, :40]
    for number in range(300):
        at = (rows - np.rint(v[number])) ** 2 + (columns - np.rint(u[number])) ** 2 <= reach[number] ** 2
        expected[at] = number
    for portion in (7, 2048):
        monkeypatch.setattr(cloud, "AT_ONCE", portion)
        assert np.array_equal(cloud.splat(u, v, reach, (40, 30)), expected)
    assert (cloud.splat(u[:0], v[:0], reach[:0], (40, 30)) == -1).all()


def test_a_cloud_of_another_shape_is_one_line():
    with pytest.raises(ValueError, match=r"xyz \(N, 3\) and rgb \(N, 3\), N at least 1; got \(0, 3\)"):
        drawn(np.zeros((0, 3)), np.zeros((0, 3), np.uint8))
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(3, 3\)"):
        drawn(np.zeros((4, 3)), np.zeros((3, 3), np.uint8))
