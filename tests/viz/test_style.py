"""The palette of categories, measured as people with and without colour vision deficiency see it."""

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from sightword.systems.points.show import NO_CLASS
from sightword.systems.skeleton import show
from sightword.viz.style import OTHER, PALETTE, category_colours, rgb

# Linear RGB as seen with a missing cone type (Machado, Oliveira and Fernandes 2009, severity 1).
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def distances(colours, vision):
    """CIEDE2000 between all pairs of colours "#rrggbb", (n, n); infinite on the diagonal."""
    parts = np.array([rgb(colour) for colour in colours]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(VISION[vision]), 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055))
    found = deltaE_ciede2000(lab[:, None], lab[None])
    np.fill_diagonal(found, np.inf)
    return found


@pytest.mark.parametrize(("vision", "least"), [("normal", 24), ("protanopia", 15), ("deuteranopia", 15)])
def test_no_two_colours_of_a_legend_are_alike(vision, least):
    assert len(PALETTE) == 10
    assert distances(PALETTE, vision).min() >= least
    none = f"#{NO_CLASS:02x}{NO_CLASS:02x}{NO_CLASS:02x}"
    assert distances([*PALETTE, OTHER, none, "#ffffff"], vision)[:10].min() >= 15
    assert distances([OTHER, none], vision).min() >= 15


@pytest.mark.parametrize("vision", VISION)
def test_the_colours_of_a_filmstrip_are_told_apart(vision):
    assert distances([show.LEFT, show.RIGHT, show.MIDDLE, show.WEIGHT, show.KEY], vision).min() >= 15


def test_the_measure_finds_red_and_green_alike_for_who_cannot_tell_them_apart():
    pair = ["#a06020", "#6a7520"]
    assert distances(pair, "normal").min() > 20 > 8 > distances(pair, "deuteranopia").min()


def test_colours_are_given_by_rank_and_a_name_has_one():
    found = category_colours(["tv", "person", "tv", "dog"])
    assert found == {"tv": rgb(PALETTE[0]), "person": rgb(PALETTE[1]), "dog": rgb(PALETTE[2])}
