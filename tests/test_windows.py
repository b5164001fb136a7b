"""What differs on Windows: it has no fork and none of POSIX's modules, its paths have backslashes, folders no flush."""

import json
import os
import pkgutil
import subprocess
import sys

import pytest

import sightword
from sightword.storage import atomic

#: The libraries that modules import at their top: each has a way of its own on Windows.
LIBRARIES = "torch numpy scipy.optimize lightning.pytorch torchmetrics.image.fid tqdm yaml safetensors.torch PIL.Image"
#: These need an extra.
EXTRAS = {"sightword.ops.nearest.triton"}
IMPORT_ALL = """
import importlib, json, os, sys
for name in sys.argv[1].split():
    importlib.import_module(name)
for name in ("register_at_fork", "sched_getaffinity", "posix_fallocate", "fork", "getuid", "geteuid", "mkfifo"):
    delattr(os, name)
for name in ("fcntl", "pwd", "grp", "resource", "termios"):
    sys.modules[name] = None
failed = {}
for name in json.loads(sys.argv[2]):
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = repr(error)
print(json.dumps(failed))
"""


@pytest.mark.skipif(os.name == "nt", reason="takes away what Windows does not have")
def test_every_module_is_imported_without_what_windows_does_not_have():
    names = [
        module.name for module in pkgutil.walk_packages(sightword.__path__, "sightword.", onerror=lambda name: None)
    ]
    assert len(names) > 100
    wanted = json.dumps(sorted({*names} - EXTRAS - {name for name in names if name.endswith("__main__")}))
    command = [sys.executable, "-c", IMPORT_ALL, LIBRARIES, wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {}


def test_a_file_is_written_where_folders_cannot_be_flushed_and_files_only_if_they_are_open_for_writing(
    monkeypatch, tmp_path
):
    opened, real = [], os.open

    def as_on_windows(path, flags, *rest):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        opened.append(flags)
        return real(path, flags, *rest)

    monkeypatch.setattr(atomic, "WINDOWS", True)
    monkeypatch.setattr(os, "open", as_on_windows)
    with atomic.write_atomically(tmp_path / "notes.txt") as part:
        part.write_text("kept")
    monkeypatch.undo()
    assert (tmp_path / "notes.txt").read_text() == "kept"
    assert os.O_RDWR in opened
