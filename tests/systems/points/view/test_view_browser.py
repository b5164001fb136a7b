"""The window in a real browser: `make test-browser`."""

import time

import numpy as np
import pytest

from sightword.systems.points.view import local
from sightword.systems.points.view.record import write_recording
from sightword.systems.points.view.window import Window

pytestmark = pytest.mark.browser


@pytest.fixture
def page(chromium):
    """A page that fails the test if it asks anybody but this machine for anything, or if it has an error."""
    opened = chromium.new_page(viewport={"width": 1280, "height": 800})
    opened.set_default_timeout(30_000)
    wrong = []
    near = ("http://127.0.0.1:", "data:", "blob:", "file:")
    opened.on("request", lambda request: request.url.startswith(near) or wrong.append(request.url))
    opened.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    yield opened
    opened.close()
    assert wrong == []


def colourful(page):
    """Pixels of the page beside the panel and the notices that are neither grey nor white."""
    from io import BytesIO

    from PIL import Image

    image = np.asarray(Image.open(BytesIO(page.screenshot())).convert("RGB")).astype(int)[160:, 340:870]
    return int((image.max(2) - image.min(2) > 60).sum())


def until(page, true):
    ends = time.monotonic() + 30
    while not true():
        assert time.monotonic() < ends
        page.wait_for_timeout(100)


def test_a_question_that_is_typed_is_answered_and_colours_the_points(page, stage):
    server = local.open_server()
    try:
        window = Window(server, stage)
        page.goto(f"http://127.0.0.1:{server.get_port()}/")
        until(page, lambda: colourful(page) > 500)
        box = page.locator("input:visible").first
        box.fill("chair, bed")
        box.press("Enter")
        page.get_by_text("chair", exact=True).first.wait_for()
        until(page, lambda: stage.answer is not None and window.colouring == "query")
        assert stage.answer.queries == ("chair", "bed")
        assert page.get_by_text("points").count() >= 1
    finally:
        server.stop()


def test_a_recording_opens_without_a_server(page, stage, tmp_path):
    server = local.open_server()
    try:
        Window(server, stage)
        write_recording(server.get_scene_serializer(), tmp_path / "room.html", "room", stage.told())
    finally:
        server.stop()
    page.goto((tmp_path / "room.html").as_uri())
    until(page, lambda: colourful(page) > 500)
    assert page.title() == "room"
    assert page.get_by_text("room", exact=True).count() == 1
