"""Videos as frames at a fixed rate: what is kept, what is turned, and what is said of a broken file."""

import struct
from pathlib import Path

import numpy as np
import pytest
from filmed import animate, frames
from PIL import Image

from sightword.errors import SightwordError
from sightword.systems.skeleton.video.decode import Timed, Video, at_rate, is_video, numbered


def shown(times: list[float], fps: float) -> list[int]:
    """Which of the frames with these times are shown at a rate."""
    images = [np.full((1, 1, 3), number, np.uint8) for number in range(len(times))]
    stream = at_rate([Timed(time, image) for time, image in zip(times, images, strict=True)], fps)
    return [int(image[0, 0, 0]) for image, count in stream for _ in range(count)]


def test_a_rate_of_its_own_keeps_every_frame_once():
    for rate in (24, 25, 30000 / 1001, 30):
        assert shown([5 + number / rate for number in range(200)], rate) == list(range(200))


def test_frames_are_left_out_or_repeated_so_that_time_is_kept():
    assert shown([number / 30 for number in range(9)], 10) == [0, 3, 6]
    assert shown([number / 10 for number in range(3)], 30) == [0, 0, 1, 1, 1, 2, 2]
    assert shown([0, 0.1, 0.2, 0.6, 1.0], 10) == [0, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4]


def test_times_that_do_not_rise_are_left_out():
    assert shown([0, 0.1, 0.1, 0.05, 0.2], 10) == [0, 1, 4]


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png"])
def test_an_animated_image_is_a_video(tmp_path, ending):
    made = frames(10)
    file = animate(tmp_path / f"a{ending}", made)
    video = Video(file)
    read = list(video)
    assert (is_video(file), video.fps, len(video), len(read)) == (True, pytest.approx(10), 10, 10)
    for one, other in zip(read, made, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 8  # a GIF has 256 colours
    assert video.notes == []
    assert len(list(video)) == 10  # a second time


def test_an_animation_of_variable_speed_keeps_its_time(tmp_path):
    file = animate(tmp_path / "a.png", frames(6), [100, 100, 100, 300, 300, 100])
    left = [int((image[30, :, 0] > 200).argmax()) for image in Video(file, 10)]
    assert left == [4, 6, 8, 10, 10, 12, 12, 12, 14, 14]  # the last frame has no end


def test_numbered_images_are_a_video_in_the_order_of_their_numbers(tmp_path):
    for number, image in enumerate(frames(12)):
        Image.fromarray(image).save(tmp_path / f"frame_{number}.png")
    Image.fromarray(frames(1)[0]).save(tmp_path / "cover.png")  # without a number
    (tmp_path / "notes_1.txt").write_text("x")
    assert [file.stem for file in numbered(tmp_path)] == [f"frame_{number}" for number in range(12)]
    video = Video(tmp_path)
    np.testing.assert_array_equal(np.stack(list(video)), np.stack(frames(12)))
    assert video.notes == ["a folder of 12 images is taken for 30 frames a second"]


def test_a_rate_that_is_asked_for_is_said(tmp_path):
    video = Video(animate(tmp_path / "a.gif", frames(10)), 5)
    assert (len(list(video)), video.notes) == (5, ["its 10 frames a second are read as 5"])


def test_frames_of_another_size_are_refused(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "1.png")
    Image.new("RGB", (10, 20)).save(tmp_path / "2.png")
    with pytest.raises(SightwordError, match=r"frame 1 is \(20, 10, 3\), the first is \(10, 20, 3\)"):
        list(Video(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.gif", b"GIF89a", "x.gif is not an image that can be read"),
        ("x.webp", b"hello", "x.webp is not an image that can be read"),
        ("gone.mp4", None, "gone.mp4 does not exist"),
    ],
)
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SightwordError, match=message):
        Video(tmp_path / name)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(SightwordError, match="is a folder without videos or numbered images"):
        Video(tmp_path)


# ------------------------------------------------------------------------------------------------------------- OpenCV


def filmed(path: Path, images: list[np.ndarray], fps: float, code: str = "mp4v") -> Path:
    import cv2

    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), fps, (width, height))
    for image in images:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    return path


def red(image: np.ndarray) -> tuple[float, float]:
    """x and y of the middle of what is red."""
    rows, columns = np.nonzero((image[..., 0] > 180) & (image[..., 1] < 80) & (image[..., 2] < 80))
    return float(columns.mean()), float(rows.mean())


@pytest.mark.real
def test_a_video_file_has_its_frames_and_rate(tmp_path):
    pytest.importorskip("cv2")
    video = Video(filmed(tmp_path / "a.mp4", frames(20, size=(64, 96)), 25))
    read = list(video)
    assert (len(read), video.fps, video.notes) == (20, 25, [])
    for time, image in enumerate(read):
        assert red(image) == pytest.approx((2 * time + 9.5, 31.5), abs=1)


@pytest.mark.real
def test_the_rotation_of_a_file_is_applied_and_said(tmp_path):
    pytest.importorskip("cv2")
    content = bytearray(filmed(tmp_path / "a.mp4", frames(4, size=(64, 96)), 25).read_bytes())
    plain = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    at = content.index(plain, content.index(b"tkhd"))  # of the track, not of the film
    content[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    video = Video(tmp_path / "turned.mp4")
    read = list(video)
    assert read[0].shape == (96, 64, 3)
    assert red(read[0]) == pytest.approx((63 - 31.5, 9.5), abs=1)  # a quarter clockwise
    assert video.notes == ["frames are turned by 90°, as the file says"]


@pytest.mark.real
def test_a_video_of_variable_rate_keeps_its_time(tmp_path):
    pytest.importorskip("cv2")
    content = bytearray(filmed(tmp_path / "a.mp4", frames(20, size=(64, 96)), 20).read_bytes())
    at = content.index(b"stts")  # from frame 10 on each lasts twice as long
    _, _, count, duration = struct.unpack(">4I", content[at + 4 : at + 20])
    content[at + 4 : at + 20] = struct.pack(">6I", 0, 2, 10, duration, count - 10, 2 * duration)
    content[at - 4 : at] = struct.pack(">I", 32)
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        place = content.index(box) - 4
        content[place : place + 4] = struct.pack(">I", struct.unpack(">I", content[place : place + 4])[0] + 8)
    edits = content.index(b"edts")  # they end where the film of constant rate did
    content[edits : edits + 4] = b"free"
    (tmp_path / "variable.mp4").write_bytes(content)
    read = list(Video(tmp_path / "variable.mp4", 20))
    assert len(read) == 29
    wide = [red(image)[0] for image in read]
    assert np.diff(wide[:9]) == pytest.approx(2, abs=1)
    assert (wide[-1] - wide[10]) / 18 == pytest.approx(1, abs=0.1)


@pytest.mark.real
def test_fast_videos_are_read_at_thirty_and_cut_ones_say_so(tmp_path):
    pytest.importorskip("cv2")
    file = filmed(tmp_path / "a.avi", [image for image in frames(30) for _ in range(4)], 120, "MJPG")
    video = Video(file)
    assert (len(list(video)), video.notes) == (30, ["its 120 frames a second are read as 30"])
    (tmp_path / "cut.avi").write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    video = Video(tmp_path / "cut.avi")
    assert len(list(video)) < 20
    assert any("of the 120 frames that its header names could be read" in note for note in video.notes)


@pytest.mark.real
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello\n", "is not a video that OpenCV can open: it begins with b'hello"),
        (b"\0\0\0\x20ftypisom" + bytes(100), r"its index is missing \(moov\)"),
    ],
)
def test_a_video_file_that_is_none_says_what_it_is(tmp_path: Path, content: bytes, message: str):
    pytest.importorskip("cv2")
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(SightwordError, match=message):
        Video(tmp_path / "x.mp4")
