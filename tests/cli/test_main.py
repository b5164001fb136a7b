"""How a command ends: the status, and what is said."""

import errno
import os
import subprocess
import sys

import pytest

from sightword.cli import main as front
from sightword.cli.main import main
from sightword.errors import MissingFileError, SightwordError, Unfinished


@pytest.fixture
def raising(monkeypatch):
    """A command that raises what it is given."""

    def install(error):
        def fail() -> None:
            """Fail."""
            raise error

        monkeypatch.setitem(front.COMMANDS, "fail", fail)
        return main(["fail"])

    return install


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (SightwordError("size=3 is\ntoo\x1b small"), 2, "size=3 is too\\x1b small"),
        (MissingFileError("there is no x"), 2, "there is no x"),
        (Unfinished("2 of 5 scenes were not lifted"), 1, "2 of 5 scenes were not lifted"),
        (KeyboardInterrupt(), 1, "stopped"),
        (OSError(errno.ENOSPC, "No space left on device", "out/a.bin"), 2, "out/a.bin: No space left on device"),
        (OSError(errno.EXDEV, "Invalid link", "a", None, "b"), 2, "a and b: Invalid link"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device"),
        (OSError(errno.EACCES, "Permission denied", b"caf\xe9"), 2, "Permission denied"),
        (FileExistsError(errno.EEXIST, "File exists", "out"), 2, "out: a file is where a folder has to be"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "out/a"), 2, "out/a: a file is where a folder has to be"),
        (OSError("no words"), 2, "no words"),
        (ConnectionError(), 2, "ConnectionError"),
        (MemoryError(), 2, "out of memory. Use smaller sizes or batches"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), 2, "out of memory"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64"), 2, "Is the disk full?"),
        (Exception("Error: No space left on device (os error 28)"), 2, "Error: No space left on device"),
    ],
    ids=repr,
)
def test_what_a_user_can_mend_is_one_line(error, status, line, raising, capsys):
    assert raising(error) == status
    said = capsys.readouterr().err
    assert said.startswith("sightword: ")
    assert line in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("ids"), IndexError(3), TypeError("y"), AssertionError(), RuntimeError("z")]
)
def test_anything_else_is_a_defect_with_its_traceback(error, raising, capsys):
    assert raising(error) == 3
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert type(error).__name__ in said
    assert said.splitlines()[-1].startswith("sightword: this is a defect of Sightword. Please report it")


def test_debug_shows_where_an_error_was_raised(monkeypatch):
    def fail() -> None:
        raise SightwordError("x")

    monkeypatch.setitem(front.COMMANDS, "fail", fail)
    with pytest.raises(SightwordError):
        main(["fail", "--debug"])


def test_a_command_that_does_not_exist_is_likened_to_one_that_does(capsys):
    assert main(["tokenise"]) == 2
    assert "there is no command 'tokenise' (did you mean 'tokenize'?)" in capsys.readouterr().err


def test_help_says_what_the_statuses_mean(capsys):
    assert main(["--help"]) == 0
    assert "Exit status: 0 done; 1 stopped" in capsys.readouterr().out


def test_listing_imports_neither_torch_nor_hydra():
    heavy = "torch, hydra, omegaconf, numpy, PIL, lightning, transformers"
    code = (
        f"import sys; from sightword.cli.main import main; main(sys.argv[1:]); print([m for m in {heavy!r}.split(', ') "
    )
    code += "if m in sys.modules], file=sys.stderr)"
    for argv in (["list"], ["--help"], ["train", "--help"], ["cache", "--help"], ["--complete", "sightword tok"]):
        done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, env=os.environ)
        assert (done.returncode, done.stderr) == (0, "[]\n"), argv


def test_list_names_experiments_scales_and_presets(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for part in ("tokenizer/vqvae", "scale=", "mini", "preset= of skeleton"):
        assert part in said
