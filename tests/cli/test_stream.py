"""Jobs outlive their audience, and say when something is left undone. Each program here is a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = f"{sys.executable} -m sightword.cli"


def shell(command, **variables):
    """Run a line of the shell, in which `sightword` is this program."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    line = f'sightword() {{ {PROGRAM} "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", line], capture_output=True, timeout=120, env=environment)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    import torch

    from sightword.ops.quantize import VectorQuantizerEMA
    from sightword.towers.vq.image import VQImage
    from sightword.towers.vq.network import Decoder, Encoder

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    VQImage(Encoder(3, (8, 8), 8, 1), VectorQuantizerEMA(16, 8), Decoder(8, (8, 8), 3, 1)).save_pretrained(folder)
    return folder


def tokenize(photos, model, out):
    return f"sightword tokenize images={photos} model={model} out={out} size=16 shard_size=1"


def shards(out):
    return len(list(out.rglob("*.safetensors")))


@pytest.mark.parametrize("tail", ["2>&1 | true", ">&- 2>&-"])
def test_a_job_finishes_whoever_listens(tail, photos, tokenizer, tmp_path):
    done = shell(f"set -o pipefail; {tokenize(photos, tokenizer, tmp_path / 'ids')} {tail}")
    assert shards(tmp_path / "ids") == 8, done.stderr.decode()
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error():
    done = shell("set -o pipefail; sightword list | head -1")
    assert done.returncode == 0
    assert done.stdout.count(b"\n") == 1
    assert not done.stderr


def test_output_that_does_not_fit_on_the_disk_is_an_error(tmp_path):
    done = shell(f"ulimit -f 1; sightword list > {tmp_path / 'out'}")  # a file may have 1024 bytes
    assert done.returncode == 1
    assert b"part of the output is lost: File too large" in done.stderr
    assert (tmp_path / "out").stat().st_size == 1024


@pytest.mark.parametrize("command", ["--help", "list", "train --help", "tokenize --help"])
def test_a_terminal_of_ascii_gets_replacement_characters(command):
    done = shell(f"sightword {command}", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert len(done.stdout) > 200


def test_control_characters_of_names_are_escaped(photos, tmp_path):
    nasty = tmp_path / "a\x1b[31mred\x07.png"
    nasty.write_bytes(b"no image")
    done = shell(f"sightword check dataset=images root={tmp_path}")
    assert done.returncode == 1
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"\\x1b[31mred\\x07.png" in done.stdout
    done = shell("sightword tokenize $'x\\x1b[2J\\ny=1'")
    assert done.returncode == 2
    assert b"\x1b" not in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_names_that_are_no_unicode_can_be_printed(tmp_path):
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))).write_bytes(b"no image")
    done = shell(f"sightword check dataset=images root={tmp_path}")
    assert done.returncode == 1
    assert b"caf" in done.stdout
    assert b"Traceback" not in done.stderr


def test_without_a_home_it_works():
    assert shell("unset HOME; sightword list").returncode == 0
    assert shell("unset HOME; sightword check dataset=image root=~/x").returncode == 2


def test_a_closed_error_stream_is_nobodys_file(tmp_path):
    """What a library writes to file descriptor 2 would else end up in the first file that is opened."""
    code = (
        "import os, sys; from sightword.cli.stream import lasting_streams\n"
        "with lasting_streams():\n"
        f"    file = open({str(tmp_path / 'mine')!r}, 'w'); assert file.fileno() > 2, file.fileno()\n"
        "    os.write(2, b'a library'); print('said', file=sys.stderr); file.write('mine'); file.close()\n"
    )
    assert shell(f"{sys.executable} -c {code!r} 2>&-".replace(repr(code), '"$CODE"'), CODE=code).returncode == 0
    assert (tmp_path / "mine").read_text() == "mine"


def test_captured_streams_are_left_alone(capsys):
    from sightword.cli.stream import lasting_streams

    before = sys.stdout, sys.stderr
    with lasting_streams() as streams:
        assert (sys.stdout, sys.stderr) == before
        assert streams.failure() is None
