"""The page in a real browser, over models of all five systems: `make test-browser`."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

pytestmark = pytest.mark.browser
SYSTEMS = ("intent", "retrieval", "tokenizer", "skeleton", "points")
TOKEN = "0123456789abcdef"


class Served:
    """A server in a thread, on a port of its own."""

    def __init__(self, settings, **changed):
        import uvicorn

        from sightword.serve.app import make_app

        self.listening = socket.create_server(("127.0.0.1", 0))
        port = self.listening.getsockname()[1]
        app = make_app(replace(settings, port=port, names=(), **changed))
        self.address = f"http://127.0.0.1:{port}/"
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]}, daemon=True)
        self.thread.start()

    def wait(self):
        """Wait until the models are loaded."""
        ends = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}readyz", timeout=20):
                    return
            except urllib.error.HTTPError:
                assert time.monotonic() < ends
                time.sleep(0.1)

    def stop(self):
        self.server.should_exit = True
        self.thread.join(20)
        self.listening.close()


@pytest.fixture(scope="module")
def served(settings):
    found = Served(settings)
    found.wait()
    yield found
    found.stop()


@pytest.fixture
def page(chromium, served):
    """A page that fails the test if it asks another site for anything, or if its console has an error."""
    opened = chromium.new_page(viewport={"width": 1440, "height": 1000})
    opened.set_default_timeout(15_000)
    wrong = []
    opened.on(
        "request",
        lambda request: request.url.startswith((served.address, "data:", "blob:")) or wrong.append(request.url),
    )
    opened.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    yield opened
    opened.close()
    assert [each for each in wrong if "status of 4" not in each] == []


def until(page, expression):
    """Wait for an expression. Playwright's own waiting is refused by the page's policy, which allows no eval."""
    ends = time.monotonic() + 15
    while not page.evaluate(expression):
        assert time.monotonic() < ends, expression
        page.wait_for_timeout(30)


def open_page(page, served, query="theme=light&lang=en", answered=True):
    page.goto(f"{served.address}?{query}")
    if answered:
        for system in SYSTEMS:
            page.locator(f"#{system} .answer > *").first.wait_for()
            until(page, f"!document.querySelector('#{system} .answer').hasAttribute('aria-busy')")


def test_every_card_opens_with_an_answer_of_its_model(page, served):
    open_page(page, served)
    for system in SYSTEMS:
        card = page.locator(f"#{system}")
        assert card.locator(".model").get_attribute("data-state") == "ready"
        assert card.locator(".notice.bad").count() == 0
    assert page.locator("#intent .bar").count() >= 6
    assert page.locator("#retrieval .person").count() == 15
    assert page.locator("#points .cam").count() >= 2
    drawn = "[...document.querySelectorAll('canvas')].every((one) => one.width > 0 && one.height > 0)"
    assert page.evaluate(drawn)


def sum_of(page):
    values = [text.replace("−", "-") for text in page.locator("#intent .term .num").all_inner_texts()]
    return sum(float(text) for text in values), float(
        page.locator("#intent .total strong").first.inner_text().replace("−", "-")
    )


def test_a_word_that_is_struck_out_changes_the_sum_by_exactly_its_term(page, served):
    open_page(page, served)
    terms, total = sum_of(page)
    rows = page.locator("#intent .term").count()
    assert terms == pytest.approx(total, abs=0.006 * rows)
    box = page.locator("#intent .term input").first
    term = float(page.locator("#intent .term .num").first.inner_text().replace("−", "-"))
    box.focus()
    page.keyboard.press("Space")
    assert sum_of(page)[1] == pytest.approx(total - term, abs=0.011)
    assert page.evaluate("document.activeElement.matches('#intent .term input')")
    page.get_by_role("button", name="Undo strikes").click()
    assert sum_of(page)[1] == pytest.approx(total, abs=1e-9)


def test_arrow_keys_move_over_the_patches(page, served):
    open_page(page, served)
    before = page.locator("#intent .here caption").inner_text()
    page.locator("#intent .stage canvas").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#intent .here caption").inner_text() != before


def test_a_photo_that_is_dropped_is_answered_and_a_text_file_is_refused_by_name(page, served, photos, tmp_path):
    open_page(page, served)
    page.locator("#intent input[type=file]").set_input_files(photos / "0.png")
    until(page, "document.querySelector('#intent .code code').textContent.includes('@0.png')")
    until(page, "!document.querySelector('#intent .answer').hasAttribute('aria-busy')")
    text = tmp_path / "text.png"
    text.write_text("no picture")
    page.locator("#intent input[type=file]").set_input_files(text)
    assert "text.png is not readable" in page.locator("#intent .notice.bad").inner_text()
    assert page.locator("#intent .bar").count() >= 6  # the old answer stays


def test_a_sentence_is_answered_filtered_and_refused_if_it_is_empty(page, served):
    open_page(page, served)
    card = page.locator("#retrieval")
    card.locator("input[type=search]").fill("a man in a green coat")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('#retrieval .said .w').length === 6")
    for word in card.locator(".said .w").all():
        word.click()
    assert card.locator(".person").count() < 15
    card.get_by_role("button", name="Clear filters").click()
    assert card.locator(".person").count() == 15
    card.locator("input[type=search]").fill(" ")
    page.keyboard.press("Enter")
    assert "the text is empty" in card.locator(".notice.bad").inner_text()


def test_own_pictures_of_people_are_searched(page, served, photos):
    open_page(page, served)
    page.locator("#retrieval input[type=file]").set_input_files([photos / "0.png", photos / "1.png"])
    until(page, "document.querySelectorAll('#retrieval .person').length === 2")
    assert page.locator("#retrieval [role=radio][aria-checked=true]").inner_text() == "your pictures"


def test_codes_are_painted_over_by_keys_and_the_network_paints_again(page, served):
    open_page(page, served)
    card = page.locator("#tokenizer")
    card.get_by_role("radio", name="paint").click()
    card.locator(".stage canvas").focus()
    for key in ("ArrowLeft", "Space", "ArrowUp", "Space"):
        page.keyboard.press(key)
    card.get_by_text("painted from the changed codes").wait_for()
    card.get_by_role("button", name="Undo all").click()
    until(page, "!document.querySelector('#tokenizer [role=status].hint').textContent.includes('changed')")


def test_own_words_are_compared_and_removed(page, served):
    open_page(page, served)
    card = page.locator("#skeleton")
    card.get_by_label("Add your own words").fill("raising one arm")
    page.keyboard.press("Enter")
    card.get_by_role("button", name="Remove raising one arm").wait_for()
    assert card.locator(".tag", has_text="yours").count() == 1
    card.get_by_role("button", name="Remove raising one arm").click()
    until(page, "document.querySelectorAll('#skeleton .tag').length === 0")
    card.get_by_role("radio", name="clip 2").click()
    until(page, "!document.querySelector('#skeleton .answer').hasAttribute('aria-busy')")


def test_a_room_is_asked_turned_and_coloured(page, served):
    open_page(page, served)
    card = page.locator("#points")
    card.locator("input[type=text]").fill("chairs, a bed")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#points .code code').textContent.includes('a chair')")
    until(page, "!document.querySelector('#points .answer').hasAttribute('aria-busy')")
    assert card.locator(".things > *").count() >= 2
    pixels = (
        "(() => { const c = document.querySelector('#points .room'); return c.toDataURL ? c.width * c.height : 0; })()"
    )
    assert page.evaluate(pixels) > 10_000
    before = card.locator(".stage").screenshot()
    card.locator("canvas.room").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(150)
    assert card.locator(".stage").screenshot() != before
    for name in ("objects", "score", "photo"):
        card.get_by_role("radio", name=name).click()
    card.locator(".cam").first.click()
    assert card.locator(".cam").first.get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize(("width", "language"), [(320, "en"), (320, "zh"), (820, "zh"), (1440, "en")])
def test_nothing_is_cut_off_and_every_control_has_a_name_and_a_size(page, served, width, language):
    page.set_viewport_size({"width": width, "height": 900})
    open_page(page, served, f"theme=dark&lang={language}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    controls = page.evaluate(
        """[...document.querySelectorAll('button, input:not(.sr), select, summary, a[href]')]
        .filter((one) => one.offsetParent && !one.matches('.skip'))
        .map((one) => [one.outerHTML.slice(0, 80), one.getBoundingClientRect().height,
          (one.getAttribute('aria-label') || one.textContent || one.labels?.[0]?.textContent || '').trim()])"""
    )
    assert [one for one in controls if one[1] < 16 or not one[2]] == []
    if language == "zh":
        english = page.locator("h3, .btn").all_inner_texts()
        assert [text for text in english if text and text.isascii() and any(map(str.isalpha, text))] == []


@pytest.mark.parametrize("state", ["busy", "failed", "absent", "loading", "empty"])
def test_every_state_is_shown_in_every_card(page, served, state):
    open_page(page, served, f"lang=en&theme=light&state={state}", answered=False)
    sign = {
        "busy": ".busy",
        "failed": ".notice.bad",
        "absent": ".answer .notice",
        "loading": "progress",
        "empty": ".empty",
    }
    for system in SYSTEMS:
        page.locator(f"#{system} {sign[state]}").first.wait_for()
    if state == "busy":
        page.locator("#intent .busy button").click()
        until(page, "!document.querySelector('#intent .busy')")


def test_theme_and_language_are_kept(page, served):
    open_page(page, served, "", answered=False)
    page.locator("#lang").click()
    language = page.evaluate("document.documentElement.lang")
    page.locator("#theme").click()
    theme = page.evaluate("document.documentElement.dataset.theme")
    page.reload()
    assert page.evaluate("document.documentElement.lang") == language
    assert page.evaluate("document.documentElement.dataset.theme") == theme


def test_the_list_of_requests_asks_no_other_site(page, served):
    page.goto(f"{served.address}docs")
    page.get_by_text("/v1/retrieval/search").first.wait_for()
    assert page.locator("section.card").count() > 12


def test_twenty_clients_are_answered_while_the_page_is_open(page, served):
    open_page(page, served)

    def ask(number):
        path, body = [
            ("retrieval/search", {"text": "a woman in a red coat"}),
            ("skeleton", {"sample": 0}),
            ("points/ask", {"queries": ["a chair"]}),
        ][number % 3]
        content, headers = json.dumps(body).encode(), {"content-type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{served.address}v1/{path}", content, headers), timeout=60
        ) as answer:
            return answer.status

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(ask, range(60))) == {200}
    page.locator("#retrieval .btn.main").click()
    until(page, "!document.querySelector('#retrieval .answer').hasAttribute('aria-busy')")
    assert page.locator("#retrieval .person").count() == 15


def test_a_token_is_asked_for_once_and_the_card_opens_when_its_model_is_loaded(chromium, settings):
    served = Served(replace(settings, models=settings.models[2:3]), token=TOKEN)
    try:
        opened = chromium.new_page()
        opened.goto(f"{served.address}?lang=en")
        opened.get_by_label("This server asks for a token").fill("wrong")
        opened.keyboard.press("Enter")
        opened.get_by_label("This server asks for a token").fill(TOKEN)
        opened.keyboard.press("Enter")
        opened.locator("#retrieval .person img").first.wait_for()
        until(
            opened,
            "[...document.querySelectorAll('#retrieval .person img')].slice(0, 5).every((one) => one.naturalWidth > 0)",
        )
        opened.close()
    finally:
        served.stop()
