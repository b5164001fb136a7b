"""The small worlds, written once."""

import pytest
from worlds import write_worlds


@pytest.fixture(scope="session")
def world(tmp_path_factory, random_clip, photos):
    """Name → folder, see `worlds`."""
    return write_worlds(tmp_path_factory.mktemp("world"), random_clip[0], photos)
