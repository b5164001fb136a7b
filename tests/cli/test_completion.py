"""What Tab offers, and the scripts that ask for it."""

import shutil
import subprocess
import sys

import pytest

from sightword.cli.commands import COMMANDS
from sightword.cli.completion import complete
from sightword.cli.main import main
from sightword.engine.system import system_commands


def offered(line):
    return complete(f"sightword {line}", {**COMMANDS, **system_commands()})


def test_commands_are_offered():
    assert offered("tok") == ["tokenize"]
    assert {"train", "prepare", "list", "cache", "--help"} <= set(offered(""))


def test_keys_that_are_not_given_yet_are_offered():
    assert {"images=", "out=", "model=", "engine=", "on_error="} <= set(offered("tokenize "))
    assert "images=" not in offered("tokenize images=x ")
    assert offered("tokenize images=x mo") == ["model="]


def test_values_are_offered():
    assert offered("tokenize engine=r") == ["engine=ray"]
    assert "dtype=bf16" in offered("cache dtype=b")
    assert offered("cache token_type=post,jo") == ["token_type=post,joint"]
    assert offered("completion ") == ["bash", "zsh", "fish"]


def test_experiments_scales_presets_and_fields_are_offered_for_train():
    assert "experiment=tokenizer/mini" in offered("train experiment=tok")
    assert offered("train experiment=tokenizer/mini scale=") == ["scale=mini"]
    assert "preset=slowonly" in offered("train preset=slow")
    assert "data.root=" in offered("train experiment=tokenizer/mini data.r")
    assert "optim.lr=" in offered("prepare optim.l")
    assert "data.root=" not in offered("train data.")
    assert offered("train experiment=tokenizer/mini data.flip=t") == ["data.flip=true"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "new").mkdir(parents=True)
    (tmp_path / "photos" / "a b.png").touch()
    (tmp_path / "phonebook.txt").touch()
    (tmp_path / ".hidden").touch()
    return tmp_path


def test_files_are_offered_where_a_path_is_wanted(files):
    assert offered("tokenize images=pho") == ["images=phonebook.txt", "images=photos/"]
    assert offered("tokenize images=photos/n") == ["images=photos/new/"]
    assert offered("train experiment=tokenizer/mini data.root=photos/n") == ["data.root=photos/new/"]
    assert offered(f"export out={files}/photos/n") == [f"out={files}/photos/new/"]
    assert "images=.hidden" not in offered("tokenize images=")
    assert offered("tokenize images=nowhere/") == []


def test_nonsense_offers_nothing():
    for line in ("nonsense ", "nonsense x=", "tokenize nonsense=", "train experiment=nonsense/x data.", "train 'x"):
        assert offered(line) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(shell, tmp_path, capsys):
    assert main(["completion", shell]) == 0
    script = tmp_path / f"sightword.{shell}"
    script.write_text(capsys.readouterr().out)
    if shutil.which(shell):
        assert subprocess.run([shell, "-n", str(script)], capture_output=True).stderr == b""


def test_an_unknown_shell_is_one_line(capsys):
    for argv in ([], ["tcsh"], ["bash", "zsh"]):
        assert main(["completion", *argv]) == 2
        assert "expected one of bash, zsh, fish" in capsys.readouterr().err


BASH = """
sightword() {{ {python} -m sightword.cli "$@"; }}
compopt() {{ :; }}
source <(sightword completion bash)
complete_line() {{
    COMP_LINE="$1"; COMP_POINT=${{#1}}; COMP_WORDS=(sightword); COMP_CWORD=1
    _sightword; printf '%s\\n' "${{COMPREPLY[@]}}"; echo ---
}}
complete_line 'sightword tok'
complete_line 'sightword tokenize images=pho'
complete_line 'sightword tokenize images=photos/'
complete_line 'sightword train experiment=tokenizer/m'
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_bash_completes_what_follows_the_equals_sign(files):
    done = subprocess.run(["bash", "-c", BASH.format(python=sys.executable)], capture_output=True, text=True)
    replies = [part.split("\n") for part in done.stdout.strip("-\n").split("\n---\n")]
    assert replies == [
        ["tokenize"],
        ["phonebook.txt", "photos/"],
        ["photos/a\\ b.png", "photos/new/"],
        ["tokenizer/mini"],
    ]
