"""Files of other tools are called what they are."""

import io
import json

import numpy as np
import pytest

from sightword.errors import SightwordError
from sightword.systems.skeleton.annotations import read_annotations
from sightword.systems.skeleton.foreign import describe_file


def npy():
    file = io.BytesIO()
    np.save(file, np.zeros((2, 3)))
    return file.getvalue()


NTU = "2\n1\n72057594037931101 0 1 1 1 1 0 0.02 -0.1 2\n25\n0.2 0.1 3.9 280 210 1040 530 0.2 0 0 0 2\n"
FILES = {
    "JSON as OpenPose writes it for one frame": {"version": 1.3, "people": [{"pose_keypoints_2d": [0, 0, 0]}]},
    "JSON as AlphaPose or COCO's results are": [{"image_id": "1.jpg", "keypoints": [1, 2, 0.5], "score": 2.1}],
    "JSON as COCO's key points are": {"images": [], "annotations": [], "categories": []},
    "JSON as MMPose writes it for a video": {"meta_info": {}, "instance_info": []},
    "JSON with a, b": {"a": 1, "b": 2},
    "damaged JSON": b'{"people": [',
    "one NumPy array, .npy": npy(),
    "NTU's text form of Kinect skeletons": NTU.encode(),
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
