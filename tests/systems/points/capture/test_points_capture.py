"""Recordings of other tools become scenes: each layout is written from one rendered room and read back."""

import importlib.util
import json
import shutil

import capture_layouts as layouts
import numpy as np
import pytest
from PIL import Image

from sightword.errors import SightwordError
from sightword.systems.points.capture.frame import Options
from sightword.systems.points.capture.write import REPORT, import_capture
from sightword.systems.points.scannet.check import check_scannet
from sightword.systems.points.scannet.reader import find_scenes, read_color, read_depth, read_scene

NONE = Options()


def installed(name):
    return importlib.util.find_spec(name) is not None


def lz4(raw):
    import lz4.block

    return lz4.block.compress(raw, store_size=False)


def lzfse(raw):
    import liblzfse

    return liblzfse.compress(raw)


needs_av = pytest.mark.skipif(not installed("av"), reason="needs PyAV")
needs_lz4 = pytest.mark.skipif(not installed("lz4"), reason="needs lz4")
needs_lzfse = pytest.mark.skipif(not installed("liblzfse"), reason="needs pyliblzfse")


@pytest.fixture(scope="module")
def frames():
    return layouts.rendered()


@pytest.fixture(scope="module")
def kinect():
    """The room by a camera of 640 x 480 with the focal length of published sets, half as large."""
    return layouts.rendered(4, (120, 160), (120, 160), focal=525 / 480)


def imported(source, out, name="", most=200, options=NONE):
    done = import_capture(source, out, name, most, options)
    return done, read_scene(out)


def same_poses(scene, frames, places=1e-6):
    assert len(scene.frames) == len(frames)
    for got, frame in zip(scene.frames, frames, strict=True):
        np.testing.assert_allclose(got.pose.numpy(), frame.pose, atol=places)


def typed(K):
    return Options(tuple(layouts.four_of(K)))


CASES = {
    "tum": (layouts.tum, "tum", True),
    "icl": (layouts.icl, "icl", True),
    "redwood": (layouts.redwood, "open3d", False),
    "open3d": (layouts.open3d, "open3d", False),
    "replica": (layouts.replica, "replica", False),
    "nerfstudio": (layouts.nerfstudio, "nerfstudio", False),
    "polycam": (layouts.polycam, "polycam", False),
    "arkitscenes": (layouts.arkitscenes, "arkitscenes", False),
    "3dscanner": (layouts.scanner3d, "3dscanner", False),
    "record3d": (lambda folder, frames: layouts.record3d(folder / "a.r3d", frames), "record3d", False),
    "sens": (lambda folder, frames: layouts.sens(folder / "scene0000_00.sens", frames), "sens", False),
    "sens, raw depth": (lambda folder, frames: layouts.sens(folder / "scene0000_00.sens", frames, 0), "sens", False),
    "scannetpp": (layouts.scannetpp, "scannetpp", False),
    "scannetpp, deflate": (lambda folder, frames: layouts.scannetpp(folder, frames, "deflate"), "scannetpp", False),
    "scannetpp, lz4": (lambda folder, frames: layouts.scannetpp(folder, frames, "lz4", lz4), "scannetpp", False),
    "stray": (lambda folder, frames: layouts.stray(folder, frames, layouts.av_video), "stray", False),
    "record3d, lzfse": (lambda folder, frames: layouts.record3d(folder / "a.r3d", frames, lzfse), "record3d", False),
}
MARKS = {"stray": needs_av, "scannetpp, lz4": needs_lz4, "record3d, lzfse": needs_lzfse}


@pytest.mark.parametrize("case", [pytest.param(name, marks=MARKS.get(name, ())) for name in CASES])
def test_a_recording_is_recognised_and_read_back_as_it_was_written(case, frames, tmp_path):
    write, name, by_hand = CASES[case]
    source = tmp_path / "recording"
    write(source, frames)
    file = source / "a.r3d" if name == "record3d" else source
    done, scene = imported(file, tmp_path / "scene", options=typed(frames[0].K) if by_hand else NONE)
    assert done.format == name
    assert (done.frames, done.left_out) == (len(frames), [])
    wanted = frames
    if name == "icl":  # fy was typed above 0: the poses are those of the file
        mirror = np.diag((1.0, -1.0, 1.0, 1.0))
        wanted = [frame._replace(pose=mirror @ frame.pose @ mirror) for frame in frames]
    same_poses(scene, wanted)
    for got, frame in zip(scene.frames, frames, strict=True):
        depth = read_depth(got).numpy()
        of_depth = frame.K_depth
        if name in ("tum", "icl", "open3d", "replica"):
            expected, of_depth = layouts.sized(frame), frame.K
        elif name == "scannetpp":
            expected = np.kron(frame.depth, np.ones((4, 4)))
            of_depth = layouts.room.intrinsics((192, 256))
        else:
            expected = frame.depth
        sure = slice(None) if name != "polycam" else slice(4, None)
        np.testing.assert_allclose(depth[:, sure], expected[:, sure], atol=0.00061)
        np.testing.assert_allclose(got.K_depth, of_depth, atol=1e-5)
        if name != "arkitscenes":
            np.testing.assert_allclose(got.K_color, frame.K, atol=1e-5)
            difference = np.asarray(read_color(got)).astype(int) - frame.color
            assert np.abs(difference).mean() < (8 if name == "stray" else 1e-9)


def test_a_sequence_of_7_scenes_has_its_two_cameras_apart(tmp_path, frames):
    layouts.seven_scenes(tmp_path / "seq-01", frames)
    done, scene = imported(tmp_path / "seq-01", tmp_path / "scene")
    assert done.format == "7scenes"
    same_poses(scene, frames)
    place = scene.frames[0].place.numpy()
    np.testing.assert_allclose(place[:3, 3], (0.025, 0, 0), atol=1e-9)
    assert scene.frames[0].K_color[0, 0] * 480 / 96 == pytest.approx(525)
