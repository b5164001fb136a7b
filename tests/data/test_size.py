"""A size is typed as 256 or as height x width."""

import pytest

from sightword.data.size import size_of
from sightword.errors import SightwordError


def test_a_size_is_a_square_or_height_before_width():
    assert size_of("256") == size_of(256) == (256, 256)
    assert size_of("384x128") == size_of(" 384×128 ") == (384, 128)


@pytest.mark.parametrize("wrong", ["", "0", "384x", "x128", "384x0", "-1", "1.5", "384x128x3", "a"])
def test_anything_else_is_refused_with_how_to_type_it(wrong):
    with pytest.raises(SightwordError, match="384x128") as error:
        size_of(wrong)
    assert repr(wrong) in str(error.value)
