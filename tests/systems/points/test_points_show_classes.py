import numpy as np
import torch
from PIL import Image

from sightword.systems.points.show import NO_CLASS, coloured, keyed, palette_of

PALETTE = np.array([(200, 30, 30), (30, 30, 200)], np.uint8)


def test_points_have_the_colour_of_their_class_and_grey_for_none():
    found = coloured(torch.tensor([1, -1, 0]), PALETTE)
    assert found.dtype == np.uint8
    assert found.tolist() == [[30, 30, 200], [NO_CLASS] * 3, [200, 30, 30]]


def test_a_key_names_every_colour_below_the_image_and_breaks_its_lines():
    image = Image.new("RGB", (260, 40), (1, 2, 3))
    page = keyed(image, ["a chair", "a bed"], PALETTE)
    assert page.width == 260
    assert page.crop((0, 0, 260, 40)).tobytes() == image.tobytes()
    below = np.asarray(page)[40:]
    for colour in (*PALETTE, (NO_CLASS,) * 3):
        assert (below == colour).all(-1).sum() > 80
    narrow = keyed(image.resize((70, 40)), ["a chair", "a bed"], PALETTE)
    assert narrow.height > page.height


def test_the_colours_of_twenty_classes_differ():
    palette = palette_of(20).astype(int)
    apart = np.abs(palette[:, None] - palette).sum(-1) + 1000 * np.eye(20)
    assert apart.min() > 40
    assert palette_of(0).shape == (0, 3)
