import numpy as np
import torch
from PIL import Image

from sightword.systems.points.show import NO_CLASS, class_colours, coloured, keyed
from sightword.viz.style import OTHER, PALETTE, rgb

TWO = np.array([(200, 30, 30), (30, 30, 200)], np.uint8)
ENTRIES = {"a chair": (200, 30, 30), "a bed": (30, 30, 200)}


def test_points_have_the_colour_of_their_class_and_grey_for_none():
    found = coloured(torch.tensor([1, -1, 0]), TWO)
    assert found.dtype == np.uint8
    assert found.tolist() == [[30, 30, 200], [NO_CLASS] * 3, [200, 30, 30]]


def test_a_key_names_every_colour_below_the_image_and_breaks_its_lines():
    image = Image.new("RGB", (260, 40), (1, 2, 3))
    page = keyed(image, ENTRIES)
    assert page.width == 260
    assert page.crop((0, 0, 260, 40)).tobytes() == image.tobytes()
    below = np.asarray(page)[40:]
    for colour in (*TWO, (NO_CLASS,) * 3):
        assert (below == colour).all(-1).sum() > 80
    narrow = keyed(image.resize((70, 40)), ENTRIES)
    assert narrow.height > page.height


def test_the_ten_most_frequent_classes_have_a_colour_and_the_others_share_a_grey():
    names = [f"class {number}" for number in range(20)]
    numbers = torch.tensor([number for number in range(4, 17) for _ in range(number)] + [-1] * 99)
    palette, key = class_colours(names, numbers)
    assert palette.dtype == np.uint8
    assert list(key) == [*(f"class {number}" for number in range(16, 6, -1)), "3 other classes"]
    assert [tuple(row) for row in palette[16:6:-1].tolist()] == [*key.values()][:10] == [*map(rgb, PALETTE)]
    assert {tuple(row) for row in palette[4:7].tolist()} == {key["3 other classes"]} == {rgb(OTHER)}


def test_a_scene_without_classes_has_an_empty_legend():
    palette, key = class_colours([], torch.tensor([-1, -1]))
    assert (palette.shape, key) == ((0, 3), {})
