"""The frames of a video file come in order, with their times, and lie as they are asked for."""

import sys

import capture_layouts as layouts
import numpy as np
import pytest

from sightword.data.video import VideoFile
from sightword.errors import SightwordError


@pytest.fixture
def clip(tmp_path):
    pytest.importorskip("cv2")
    images = [np.full((48, 64, 3), 40 * number, np.uint8) for number in range(6)]
    layouts.write_video(tmp_path / "clip.mp4", images)
    return tmp_path / "clip.mp4", images


def test_frames_come_in_order_with_their_times(clip):
    file, images = clip
    video = VideoFile(file)
    assert (video.rate, video.count) == (30, 6)
    for _ in range(2):  # it can be read again
        found = [(frame.seconds, frame.pixels()) for frame in video]
        assert [pixels.shape for _, pixels in found] == [(48, 64, 3)] * 6
        assert np.diff([seconds for seconds, _ in found]) == pytest.approx(1 / 30, abs=1e-3)
        for (_, pixels), image in zip(found, images, strict=True):
            assert np.abs(pixels.astype(int) - image).max() < 12


@pytest.mark.parametrize("content", [b"nothing that is a video", b"", b"\0\0\0\x18ftypmp42"])
def test_a_file_that_is_no_video_is_named(tmp_path, content):
    pytest.importorskip("cv2")
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(SightwordError, match=r"clip\.mp4 (is not a video|is empty|cannot be opened as a video)"):
        VideoFile(tmp_path / "clip.mp4")


def test_without_a_decoder_a_line_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SightwordError, match=r"pip install 'sightword\[video\]'"):
        VideoFile(tmp_path / "clip.mp4")
