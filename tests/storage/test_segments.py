"""A cache that grows has one row a key, resumes what was begun, and refuses rows that were made differently."""

import numpy as np
import pytest

from sightword.errors import SightwordError
from sightword.storage.cache import MissingRowError, header_for
from sightword.storage.segments import SegmentedCache

ROWS = {"ids": ("uint16", (2,))}


def header(keys, weights="aaaa"):
    return header_for(keys, ROWS, writer="test", weights=weights, shard_size=2)


def fill(cache, segment, keys):
    for shard in segment.missing():
        own = keys[shard * 2 : shard * 2 + 2]
        segment.write_shard(shard, own, {"ids": np.array([[int(key), 7] for key in own], "uint16")})


def test_each_run_adds_a_segment_with_just_what_is_missing(tmp_path):
    cache = SegmentedCache(tmp_path)
    for keys, added in ((["1", "2", "3"], ["1", "2", "3"]), (["0", "1", "4"], ["0", "4"])):
        plan = cache.plan(keys)
        assert plan == (None, added)
        fill(cache, cache.begin(plan.keys, header(plan.keys)), plan.keys)
    again = SegmentedCache(tmp_path)
    assert sorted(again) == ["0", "1", "2", "3", "4"]
    assert len(again) == 5
    assert again["4"]["ids"].tolist() == [4, 7]
    assert again.get("1", "ids").tolist() == [1, 7]


def test_a_segment_that_was_begun_is_resumed_and_not_another_begun(tmp_path):
    keys = ["1", "2", "3"]
    cache = SegmentedCache(tmp_path)
    segment = cache.begin(keys, header(keys))
    segment.write_shard(0, keys[:2], {"ids": np.zeros((2, 2), "uint16")})
    plan = SegmentedCache(tmp_path).plan(keys)
    assert plan.segment.path == segment.path
    assert plan.segment.missing() == [1]
    assert plan.keys == keys
    assert SegmentedCache(tmp_path).plan(keys, "-skip").segment is None


def test_rows_of_another_recipe_are_refused_with_both_values(tmp_path):
    cache = SegmentedCache(tmp_path)
    cache.begin(["1"], header(["1"]))
    cache.refuse_other_recipe(header([]), ("weights", "shapes"), "CLIP", "cache")
    with pytest.raises(SightwordError, match="was written by a different CLIP: weights is 'aaaa', expected 'bbbb'"):
        cache.refuse_other_recipe(header([], "bbbb"), ("weights", "shapes"), "CLIP", "cache")


def test_a_row_that_is_missing_is_named_without_quotes_around_the_line(tmp_path):
    with pytest.raises(MissingRowError) as error:
        SegmentedCache(tmp_path)["9"]
    assert str(error.value) == f"no row '9' in {tmp_path}, which has 0"
    assert isinstance(error.value, KeyError)
    with pytest.raises(SightwordError, match="contains no cached features"):
        _ = SegmentedCache(tmp_path).header
