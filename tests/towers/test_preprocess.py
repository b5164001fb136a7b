import time

import numpy as np
import pytest
from PIL import Image

from sightword.towers import preprocess
from sightword.towers.preprocess import INTERPOLATIONS, Preprocess, _cover


def noise(width, height, low=64, high=192):
    """Not so much contrast that bicubic is cut off at black and white, between its two passes."""
    pixels = np.random.default_rng(0).integers(low, high, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", INTERPOLATIONS)
@pytest.mark.parametrize("window", [(32, 32), (24, 40), (40, 24)])
@pytest.mark.parametrize("picture", [(2, 2000), (2000, 3), (20, 4000), (4000, 31), (3000, 20)])
def test_the_window_alone_is_what_is_cut_out_of_the_whole(picture, window, name, monkeypatch):
    picture = noise(*picture)
    alone = np.asarray(_cover(picture, window, INTERPOLATIONS[name])).astype(int)
    monkeypatch.setattr(preprocess, "LONG", 10**9)
    whole = np.asarray(_cover(picture, window, INTERPOLATIONS[name])).astype(int)
    assert alone.shape == whole.shape == (window[1], window[0], 3)
    if name == "nearest":  # between two pixels rounding takes either
        assert (alone != whole).mean() < 0.1
    else:
        assert abs(alone - whole).max() <= 1


def test_a_long_picture_costs_no_more_than_another(monkeypatch):
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda *args, **box: sizes.append(args[1]) or resize(*args, **box))
    began = time.perf_counter()
    assert Preprocess((224, 224))(noise(2, 40_000)).shape == (3, 224, 224)
    assert time.perf_counter() - began < 5
    assert sizes == [(224, 224)]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"size": (32,)}, "two positive whole numbers"),
        ({"size": 32}, "two positive whole numbers"),
        ({"size": (0, 32)}, "two positive whole numbers"),
        ({"size": (32, 8.5)}, "two positive whole numbers"),
        ({"mean": 3}, "mean=3 is not three numbers"),
        ({"mean": (0.5,)}, "is not three numbers"),
        ({"mean": ("a", "b", "c")}, "is not three numbers"),
        ({"mean": (0.5, 0.5, float("nan"))}, "is not three numbers"),
        ({"std": (0.5, 0.5)}, "three numbers above 0"),
        ({"std": (0.5, 0.5, 0.0)}, "three numbers above 0"),
        ({"resize": "longest"}, "none of shortest, squash"),
        ({"interpolation": "lanczos"}, "none of bicubic"),
    ],
)
def test_a_preprocessing_that_cannot_be_is_one_line(values, told):
    with pytest.raises(ValueError, match=told) as error:
        Preprocess(**{"size": (32, 32), **values})
    assert "\n" not in str(error.value)


def test_plain_data_and_back_is_the_same():
    made = Preprocess((48, 24), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "squash", "bilinear")
    assert Preprocess.from_dict(made.as_dict()) == made
