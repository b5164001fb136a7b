import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from sightword.serve.guard import Guard, hosts_of
from sightword.serve.problem import add_handlers
from sightword.serve.setting import Limits

TOKEN = "a" * 32
HERE = {"host": "127.0.0.1:8000"}


def client(token=""):
    app = FastAPI()

    @app.post("/v1/echo")
    async def echo(request: Request) -> dict[str, int]:
        return {"length": len(await request.body())}

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    @app.get("/v1/defect")
    async def defect() -> None:
        raise RuntimeError("a secret")

    add_handlers(app)
    hosts = hosts_of((), "127.0.0.1", 8000)
    app.add_middleware(Guard, hosts=hosts, token=token, limits=Limits(body=1000, json=100))
    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:9999", "127.0.0.1", "", "127.0.0.1:8000.evil.example"])
def test_another_host_is_refused(host):
    answer = client().get("/healthz", headers={"host": host})
    assert answer.status_code == 421
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST:8000", "[::1]:8000"])
def test_the_names_of_this_machine_are_accepted(host):
    assert client().get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8001"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_another_sites_page_is_refused(headers):
    assert client().post("/v1/echo", content=b"x", headers=HERE | headers).status_code == 403


@pytest.mark.parametrize("headers", [{}, {"origin": "http://127.0.0.1:8000"}, {"sec-fetch-site": "same-origin"}])
def test_the_own_page_and_programs_are_accepted(headers):
    assert client().post("/v1/echo", content=b"x", headers=HERE | headers).json() == {"length": 1}


@pytest.mark.parametrize("given", [None, "Bearer wrong", "bearer", TOKEN, f"Bearer {TOKEN}x", "Bearer é"])
def test_without_the_token_nothing_is_answered_but_health(given):
    headers = HERE | ({} if given is None else {"authorization": given.encode()})
    answer = client(TOKEN).post("/v1/echo", content=b"x", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert client(TOKEN).get("/healthz", headers=headers).status_code == 200


def test_with_the_token_it_is_answered():
    headers = HERE | {"authorization": f"Bearer {TOKEN}"}
    assert client(TOKEN).post("/v1/echo", content=b"x", headers=headers).status_code == 200


def test_a_body_that_is_too_long_is_refused_with_and_without_its_length():
    def chunks():
        yield from (b"x" * 60 for _ in range(3))

    for content in (b"x" * 101, chunks()):
        answer = client().post("/v1/echo", content=content, headers=HERE)
        assert answer.status_code == 413, answer.text
    form = HERE | {"content-type": "multipart/form-data; boundary=x"}
    assert client().post("/v1/echo", content=b"x" * 900, headers=form).status_code == 200


@pytest.mark.parametrize("length", ["-1", "1e9", "9" * 30, "x"])
def test_a_length_that_is_no_number_is_refused(length):
    assert client().get("/healthz", headers=HERE | {"content-length": length}).status_code == 400


def test_every_answer_has_the_headers_of_safety():
    for host in ("127.0.0.1:8000", "evil.example"):
        headers = client().get("/healthz", headers={"host": host}).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_a_defect_is_answered_without_what_went_wrong():
    answer = client().get("/v1/defect", headers=HERE)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_wildcard_address_has_no_name_of_its_own():
    assert hosts_of(("example.org",), "0.0.0.0", 8000) == {"example.org", "example.org:8000"}
    assert hosts_of((), "192.168.1.5", 8000) == {"192.168.1.5:8000"}
