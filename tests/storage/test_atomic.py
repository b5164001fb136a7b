"""What cannot be written is an OSError that names the user's file, and leaves what was there."""

import errno
import os

import pytest
import torch
from safetensors.torch import load_file

from sightword.storage.atomic import write_atomically
from sightword.storage.checkpoint import write_weights


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("old")
    with pytest.raises(OSError) as error, write_atomically(file) as beside:
        beside.write_text("new")
        full_disk()
    assert error.value.filename == str(file)
    assert error.value.errno == errno.ENOSPC
    assert str(error.value) == f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}: {str(file)!r}"
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_is_not_there_names_the_file_and_not_the_one_beside(tmp_path):
    file = tmp_path / "none" / "notes.txt"
    with pytest.raises(FileNotFoundError) as error, write_atomically(file) as beside:
        beside.write_text("new")
    assert error.value.filename == str(file)


def test_an_error_that_names_another_file_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError) as error, write_atomically(tmp_path / "notes.txt"):
        (tmp_path / "source.txt").read_text()
    assert error.value.filename == str(tmp_path / "source.txt")


def test_weights_are_read_back_from_any_layout(tmp_path):
    weights = {"w": torch.arange(6.0).view(2, 3).T, "b": torch.ones(2, requires_grad=True)}
    write_weights(tmp_path / "model.safetensors", weights, {"config": "{}"})
    read = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(read[name], weights[name]) for name in weights)


def test_weights_that_do_not_fit_are_an_os_error_with_the_file(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = tmp_path / "model.safetensors"
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))  # no file of this process may be larger
    try:
        with pytest.raises(OSError) as error:
            write_weights(file, {"w": torch.zeros(4096)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.errno == errno.EFBIG
    assert error.value.filename == str(file)
    assert list(tmp_path.iterdir()) == []
