"""A size is typed as 256 or as height x width."""

import pytest

from sightword.data.size import height_width, read_size, size_text
from sightword.errors import SightwordError


@pytest.mark.parametrize(
    ("text", "size"), [("256", 256), ("384x128", (384, 128)), ("384×128", (384, 128)), ("64x64", (64, 64))]
)
def test_a_size_is_a_side_or_height_before_width(text, size):
    assert read_size(text) == size


def test_a_size_is_written_as_it_is_read():
    assert (height_width(8), height_width((4, 6))) == ((8, 8), (4, 6))
    assert (size_text(8), size_text((4, 6))) == ("8", "4x6")


@pytest.mark.parametrize("wrong", ["", "0", "384x", "x128", "384x0", "384x00", "-1", "1.5", "384x128x3", "a", "٣"])
def test_anything_else_is_refused_with_how_to_type_it(wrong):
    with pytest.raises(SightwordError, match="384x128") as error:
        read_size(wrong)
    assert repr(wrong) in str(error.value)
