"""Results of items, as files."""

import zipfile

import numpy as np
import pytest

from sightword.engine import item_result
from sightword.engine.item_result import ItemResults, read_items
from sightword.errors import SightwordError


@pytest.fixture
def items():
    arrays = {"scores": np.arange(6.0).reshape(3, 2), "right": np.array([True, False, True])}
    return ItemResults.of("people", ["b", "a", "a"], ["1", "2", "2"], arrays, {"classes": np.array(["x", "y"])})


def test_items_stand_in_the_order_of_their_ids_and_equal_ids_get_numbers(items):
    assert items.id.tolist() == ["a", "a#2", "b"]
    assert items.cluster.tolist() == ["2", "2", "1"]
    assert items.arrays["scores"].tolist() == [[2, 3], [4, 5], [0, 1]]


def test_what_is_written_is_read(items, tmp_path):
    items.write(tmp_path / "items.npz")
    again = read_items(tmp_path / "items.npz")
    assert again.unit == "people"
    assert again.digest == items.digest
    assert again.given.keys() == items.given.keys() == {"classes", "scores", "right"}
    assert all(np.array_equal(again.given[name], each) for name, each in items.given.items())


def test_arrays_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="scores"):
        ItemResults("people", np.array(["a"]), np.array(["a"]), {"scores": np.zeros(2)})


def test_damaged_pickled_and_huge_files_are_refused(items, tmp_path, monkeypatch):
    file = tmp_path / "items.npz"
    items.write(file)
    whole = file.read_bytes()
    for content in (b"", b"no zip", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(SightwordError, match="items.npz is not a whole file of items"):
            read_items(file)
    np.savez(file, id=np.array(["a"]), cluster=np.array(["a"]), unit=np.array("x"), **{"item/x": np.array([{}])})
    with pytest.raises(SightwordError, match="not a whole file"):
        read_items(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("id.npy", b"")
    with pytest.raises(SightwordError, match="not a whole file"):
        read_items(file)
    file.write_bytes(whole)
    monkeypatch.setattr(item_result, "MOST_BYTES", 10)
    with pytest.raises(SightwordError, match="at most 10 are read"):
        read_items(file)
    with pytest.raises(SightwordError, match="does not exist"):
        read_items(tmp_path / "other.npz")
