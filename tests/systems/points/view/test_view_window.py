"""The window on viser's server: what it answers, whom it refuses, and what its handles hold."""

import http.client
import os
import signal
import socket
import threading
import time
import urllib.request

import numpy as np
import pytest

from sightword.cli.main import main
from sightword.errors import SightwordError
from sightword.miniature import room
from sightword.systems.points.view import local
from sightword.systems.points.view.record import MARK
from sightword.systems.points.view.stage import Box, Known
from sightword.systems.points.view.window import CHOSEN, PLAIN, Window


@pytest.fixture
def server():
    opened = local.open_server()
    yield opened
    opened.stop()


@pytest.fixture
def window(server, stage):
    return Window(server, stage)


def test_the_server_answers_at_this_machines_own_address_alone(server):
    assert server.get_host() == "127.0.0.1"
    with urllib.request.urlopen(f"http://127.0.0.1:{server.get_port()}/", timeout=10) as answer:
        assert answer.status == 200
        assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "<title>" in answer.read().decode()
    with pytest.raises(OSError):  # another address of this machine
        socket.create_connection(("127.0.0.2", server.get_port()), timeout=2).close()


UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "c2lnaHR3b3JkIHZpZXcgMQ==",
    "Sec-WebSocket-Protocol": "viser-v1.1.1",
}


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}", 101),
        ("localhost:8080", "http://localhost:8080", 101),  # the end of a tunnel
        ("127.0.0.1:{port}", "http://other.example", 403),
        ("127.0.0.1:{port}", "http://127.0.0.1:1", 403),
        ("127.0.0.1:{port}", "null", 403),
        ("other.example:{port}", "http://other.example:{port}", 421),
        ("127.0.0.1.other.example", "http://127.0.0.1.other.example", 421),
    ],
)
def test_pages_of_other_sites_get_no_socket(server, host, origin, status):
    port = server.get_port()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Host": host.format(port=port), "Origin": origin.format(port=port)}
    connection.request("GET", "/", headers={**headers, **UPGRADE})
    assert connection.getresponse().status == status
    connection.close()


def test_nobody_can_ask_for_a_share_address(server, monkeypatch):
    import viser._viser

    def opened(*given):
        raise AssertionError("a tunnel was opened")

    monkeypatch.setattr(viser._viser, "ViserTunnel", opened)
    assert server.request_share_url() is None


def test_a_port_that_is_taken_is_refused_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(SightwordError, match="cannot be listened on"):
            local.open_server(taken.getsockname()[1])
    with pytest.raises(SightwordError, match="port=70000 is not a port"):
        local.open_server(70_000)


def test_a_server_that_lets_other_sites_in_is_not_used(monkeypatch):
    monkeypatch.setattr(local, "refusal", lambda hosts, origins: None)
    with pytest.raises(SightwordError, match="does not refuse pages of other sites"):
        local.open_server()


def test_after_a_question_the_points_have_its_colours_and_the_objects_their_boxes(window, stage):
    photo = window.cloud.colors.copy()
    window.ask("chair, bed")
    assert window.colouring == window.choice.value == "query"
    assert (window.cloud.colors == stage.colours("query")[window._rows]).all()
    assert (window.cloud.colors != photo).any()
    labels = [mark.text for mark in window._marks if hasattr(mark, "text")]
    assert labels == [box.label for box in stage.boxes("query")]
    assert "<b>chair</b>" in window.answer.content
    window.paint("photo")
    assert (window.cloud.colors == photo).all()
    window.ask("")
    assert window._marks == []


def test_a_camera_that_is_clicked_lights_its_points_and_a_second_click_none(window, stage):
    index = stage.frames[1].index
    window._clicked(index)
    assert (window.cloud.colors == stage.lit(stage.seen(1))[window._rows]).all()
    assert window.photo.visible
    assert window._cameras[1].color == CHOSEN
    assert f"frame {index} sees" in window.told.content
    window._clicked(index)
    assert (window.cloud.colors == stage.colours("photo")[window._rows]).all()
    assert not window.photo.visible
    assert window._cameras[1].color == PLAIN


def test_cameras_stand_and_look_as_the_frames_say(window, stage):
    frame, handle = stage.frames[0], window._cameras[0]
    assert handle.position == pytest.approx(frame.pose[:3, 3].tolist(), abs=1e-5)
    w, x, y, z = handle.wxyz
    forward = [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]
    assert forward == pytest.approx(frame.pose[:3, 2].tolist(), abs=1e-5)


def test_the_top_of_the_room_can_be_cut_off(window, stage):
    window.cut.value = 50
    window.renew()
    low, high = float(stage.height.min()), float(stage.height.max())
    assert len(window.cloud.points) == len(window.cloud.colors) == int((stage.height <= (low + high) / 2).sum())


def test_a_map_that_grew_is_drawn_with_its_cameras_and_objects(window, stage):
    some = Known(stage.points.visible.long() - 1, (Box("3 · 2 frames", (0.0, 0, 0), (1.0, 1, 1), (1, 2, 3)),))
    window.renew_from(stage.points, stage.frames[:2], some)
    assert sorted(window._cameras) == [0, 1]
    assert [mark.text for mark in window._marks if hasattr(mark, "text")] == ["3 · 2 frames"]


# ------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def given(small_room, random_clip):
    tower = [f"tower={random_clip[0]}", "size=32x32", "dtype=fp32", "token_type=value"]
    return [f"scene={small_room}", *tower, "trust=true"]


@pytest.mark.parametrize("more", [[], ["live=true"]])
def test_a_recording_is_one_file_without_an_outside_address(given, more, tmp_path, capsys):
    file = tmp_path / "room.html"
    assert main(["view", *given, *more, "query=chair,<b>", "colour=object", f"record={file}"]) == 0
    assert f"points in {file}" in capsys.readouterr().out
    page = file.read_text(encoding="utf-8")
    assert MARK in page[:200]
    assert "connect-src data: blob:" in page[:600]
    for outside in ('src="http', 'href="http', "src='http", "@import", "<b>:"):
        assert outside not in page
    assert "<b>&lt;b&gt;</b>" in page
    assert main(["view", *given, f"record={file}"]) == 0  # its own file is written over


def test_a_file_that_is_not_a_recording_is_not_written_over(given, tmp_path, capsys):
    file = tmp_path / "thesis.html"
    file.write_text("<head><p>mine")
    assert main(["view", *given, f"record={file}"]) != 0
    assert "is no recording of sightword view" in capsys.readouterr().err
    assert file.read_text() == "<head><p>mine"
    assert main(["view", *given, f"record={tmp_path / 'room.viser'}"]) != 0
    assert "Pass a name that ends in .html" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["masks=masks"], "Add live=true"),
        (["wait=3"], "Add live=true"),
        (["model=runs/a"], "Leave out tower="),
    ],
)
def test_options_that_do_not_go_together_are_named(given, more, told, capsys):
    assert main(["view", *given, *more]) != 0
    assert told in capsys.readouterr().err


def test_the_command_opens_the_window_and_ctrl_c_ends_it(given, capsys):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    before, answered = signal.getsignal(signal.SIGINT), []

    def end():
        ends = time.monotonic() + 60
        while signal.getsignal(signal.SIGINT) is before and time.monotonic() < ends:
            time.sleep(0.02)
        answered.append(urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).status)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=end)
    thread.start()
    assert main(["view", *given, "query=chair", f"port={port}"]) == 0
    thread.join()
    assert answered == [200]
    assert f"the window: http://127.0.0.1:{port}/" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before
    assert local.status(port, {}) == 0


def test_a_room_that_is_still_recorded_grows_in_the_window(random_clip, tmp_path, model):
    from sightword.systems.points.live import LiveMap, frames_of
    from sightword.systems.points.scannet.convention import Convention
    from sightword.systems.points.view.feed import Feed, stages

    room.write_scene(tmp_path, 1, frames=3, color=(48, 64), depth=(36, 48), voxel=0.2)
    folder = tmp_path / "2D" / "scene0001_00"
    late = sorted((folder / "pose").iterdir())[-1]
    late.rename(tmp_path / late.name)
    feed = Feed("room", LiveMap(model.clip), model.text_encoder)
    grown = stages(feed, frames_of(folder, Convention(), wait=2, limit=3), every=1)
    server = local.open_server()
    try:
        window = Window(server, next(grown))
        before = len(window.cloud.points)
        next(grown)
        (tmp_path / late.name).rename(late)
        began = time.monotonic()
        for _ in grown:
            window.renew_from(feed.points(), feed.frames, feed.known())
        assert len(feed.frames) == 3
        assert len(window.cloud.points) > before
        assert np.isfinite(window.cloud.points).all()
        assert time.monotonic() - began < 60
    finally:
        server.stop()
