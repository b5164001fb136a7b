import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from sightword.errors import SightwordError
from sightword.serve import command
from sightword.serve.command import serve
from sightword.serve.model import _names_of_paths, _unique


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "0.0.0.0"}, "Set a token"),
        ({"host": "192.168.1.5"}, "Set a token"),
        ({"host": "0.0.0.0", "token": "x" * 32}, "names="),
        ({"token": "short"}, "under 16"),
        ({"token": "with a blank in it"}, "under 16"),
        ({"port": 70000}, "port=70000"),
        ({"models": ("nowhere",)}, "nowhere"),
        ({"gallery": ("nowhere",)}, "gallery=nowhere is not a folder"),
        ({"images": Path("nowhere")}, "images=nowhere is not a folder"),
        ({"scenes": Path("nowhere")}, "scenes=nowhere is not a folder"),
    ],
)
def test_a_server_that_would_be_unsafe_or_empty_does_not_start(options, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIGHTWORD_TOKEN", raising=False)
    with pytest.raises(SightwordError, match=words):
        serve(**{"port": 0, **options})


def test_without_models_and_without_the_demo_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SightwordError, match="sightword demo"):
        serve(port=0)


def test_an_address_that_is_taken_is_named(monkeypatch, tmp_path, model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SightwordError, match="Pass another port="):
            serve(models=(str(model),), port=taken.getsockname()[1])


def test_without_the_extra_it_names_it(monkeypatch):
    monkeypatch.setattr(command, "NEEDED", ("fastapi", "no_such_module"))
    with pytest.raises(SightwordError, match=r"needs no_such_module.*sightword\[serve\]"):
        serve()


def test_models_have_short_names_that_differ():
    assert _unique(["runs/intent/stage1/a", "runs/intent/stage2/a"]) == ["stage1/a", "stage2/a"]
    assert _unique(["model"]) == ["model"]
    assert len(set(_unique(["runs/a", "runs/a"]))) == 2


def test_a_path_is_told_by_its_name():
    assert _names_of_paths(["/data/people"])["/data/people"] == "people"


def status_of(address):
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_server_answers_while_it_loads_and_stops_when_it_is_told(model, tmp_path):
    argv = [sys.executable, "-m", "sightword.cli", "serve", f"models={model}", "port=0"]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=os.environ
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[2]
            assert status_of(f"{address}healthz") == 200
            until = time.monotonic() + 60
            while (status := status_of(f"{address}readyz")) != 200:
                assert status == 503
                assert time.monotonic() < until
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=30)
            assert process.returncode == 0, told
            assert "stopped" in told
            assert "Traceback" not in told
        finally:
            process.kill()
