"""Files that are of no format are called what they are."""

import json

import pytest

from sightword.errors import SightwordError
from sightword.systems.skeleton.annotations import read_annotations
from sightword.systems.skeleton.foreign import describe_file

FILES = {
    "JSON as a joint set is": {"joints": ["a"], "limbs": []},
    "JSON with a, b": {"a": 1, "b": 2},
    "damaged JSON": b'{"people": [',
    "compressed by gzip": b"\x1f\x8b\x08rest",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
    "HTML or XML": b"<!DOCTYPE html>",
    "a video: sightword skeletons video=": b"\0\0\0\x20ftypisom" + bytes(20),
}


@pytest.mark.parametrize("what", FILES)
def test_a_foreign_file_is_called_what_it_is(tmp_path, what):
    content, file = FILES[what], tmp_path / "x.pkl"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    assert describe_file(file).startswith(what)
    with pytest.raises(SightwordError, match="x.pkl is not a pickle of annotations but") as caught:
        read_annotations(file)
    assert what in str(caught.value)
    assert "ownload" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_told_is_not_told(tmp_path):
    (tmp_path / "x").write_bytes(b"\x80\x04\x95\x00")
    assert describe_file(tmp_path / "x") == ""
    assert describe_file(tmp_path / "none") == ""
