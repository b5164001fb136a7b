"""Videos are decoded frame by frame by whichever decoder is installed."""

import sys

import capture_layouts as layouts
import numpy as np
import pytest

from sightword.data import video
from sightword.errors import SightwordError


def _clip(file):
    pytest.importorskip("av")
    images = [np.full((48, 64, 3), 40 * number, np.uint8) for number in range(6)]
    layouts.av_video(file, images)
    return images


@pytest.mark.parametrize("decoder", video.DECODERS)
def test_frames_come_in_order_with_their_times(tmp_path, monkeypatch, decoder):
    pytest.importorskip(decoder)
    images = _clip(tmp_path / "clip.mp4")
    monkeypatch.setattr(video, "DECODERS", (decoder,))
    found = [(frame.seconds, frame.pixels()) for frame in video.frames(tmp_path / "clip.mp4")]
    assert [pixels.shape for _, pixels in found] == [(48, 64, 3)] * 6
    assert np.diff([seconds for seconds, _ in found]) == pytest.approx(1 / 30, abs=1e-3)
    for (_, pixels), image in zip(found, images, strict=True):
        assert np.abs(pixels.astype(int) - image).max() < 6


def test_a_file_that_is_no_video_is_named(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "clip.mp4").write_bytes(b"nothing")
    with pytest.raises(SightwordError, match=r"clip\.mp4 is not readable as a video"):
        list(video.frames(tmp_path / "clip.mp4"))


def test_without_a_decoder_a_line_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(b"")
    for name in video.DECODERS:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SightwordError, match=r"pip install 'sightword\[video\]'"):
        video.frames(tmp_path / "clip.mp4")
