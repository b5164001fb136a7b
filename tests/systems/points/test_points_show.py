"""Colours mean the same all over a scene; up is up."""

import numpy as np
import pytest
import torch
from PIL import Image

from sightword.systems.points import show


def features(n, seed=0):
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(seed)) * torch.tensor([5, 3, 2, *[0.01] * 13])


def colours_of(some):
    colours = show.Colours(some)
    return colours(colours.values(some))


def test_colours_are_the_directions_in_which_features_differ_most():
    some = features(500)
    values = show.Colours(some).values(some).numpy()
    for channel in range(3):
        shown = np.corrcoef(values[:, channel], some[:, channel])[0, 1]
        assert abs(shown) > 0.97


def test_a_feature_has_its_colour_whatever_is_asked_beside_it():
    some = features(500)
    shown = colours_of(some)
    colours = show.Colours(some)
    assert np.array_equal(shown[100:120], colours(colours.values(some[100:120])))
    assert np.array_equal(colours_of(some), shown)


def test_colours_do_not_hang_on_the_sign_of_a_direction():
    some = features(500)
    assert abs(colours_of(some).astype(int) - colours_of(some.flip(0))[::-1]).max() <= 3


@pytest.mark.parametrize("some", [torch.zeros(0, 8), torch.zeros(5, 8), torch.ones(1, 8), torch.randn(2, 2)])
def test_few_or_equal_features_have_some_colour(some):
    assert colours_of(some).shape == (len(some), 3)


def test_points_face_who_saw_them():
    poses = torch.stack([torch.eye(4), torch.eye(4)])
    poses[0, :3, 3], poses[1, :3, 3] = torch.tensor([2.0, 0, 0]), torch.tensor([0, 4.0, 0])
    xyz = torch.tensor([[1.0, 1, 1], [1, 1, 1], [1, 1, 1]])
    found = show.facing(xyz, poses, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
    assert found.tolist() == [[1, -1, -1], [0, 1, -1], [0, 1, -1]]


def test_unseen_points_are_grey():
    colours = np.full((2, 3), 7, np.uint8)
    assert show.painted(colours, torch.tensor([True, False])).tolist() == [[7, 7, 7], list(show.UNSEEN)]


def test_points_stand_on_the_photo_where_they_are_seen():
    photo = Image.new("RGB", (64, 48))
    uv = torch.tensor([[0.0, 0.0], [47.0, 35.0]])
    page = np.asarray(show.frame_picture(photo, uv, np.array([(255, 0, 0), (0, 255, 0)], np.uint8), (36, 48), "frame"))
    painted = page[24:, show.WIDE + 16 :].astype(int)
    red, green = (np.argwhere((painted == colour).all(-1)).mean(0) for colour in ((255, 0, 0), (0, 255, 0)))
    assert red == pytest.approx([4, 4], abs=2)
    assert green == pytest.approx([296, 396], abs=2)
