"""A job's output is the same, shard for shard, whoever did it and however often it was stopped."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sightword.storage import shards
from sightword.storage.cache import FeatureCache, header_for

KEYS = [f"{i:03d}" for i in range(22)]
SHARDS = 6

# A program that writes a cache, in a process of its own so that it may be killed; `calls` keeps what was begun.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_shards

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored in what it starts in the background

def halfway(descriptor):
    if os.environ.get("HANG_AT") == Path("last").read_text():
        os.truncate(f"/proc/self/fd/{{descriptor}}", 50)  # it was opened for reading
        Path("hangs").touch()
        time.sleep(60)

os.fsync = halfway
test_shards.write(Path("cache"))
"""


def write(path, engine="inline", **options):
    """The smallest offline verb: the cache, its worker, the run. Rows are drawn from their place, so never alike."""
    rows = {"ids": ("uint16", (8,))}
    header = header_for(KEYS, rows, writer="test", weights="", shard_size=4)
    cache = FeatureCache.create(path, header)

    def factory():
        note(path, "factory")

        def work(number):
            note(path, number)
            keys = KEYS[number * 4 : number * 4 + 4]
            ids = [np.random.default_rng(int(key)).integers(0, 999, 8, "uint16") for key in keys]
            cache.write_shard(number, keys, {"ids": np.stack(ids)})

        return work

    return shards.execute(factory, cache.shards, cache.missing, engine, desc="test", **options)


def note(path, what):
    (path.parent / "last").write_text(str(what))
    with open(path.parent / "calls", "a") as calls:
        calls.write(f"{what}\n")


def calls(path):
    return (path.parent / "calls").read_text().split()


def files(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def start(folder, **environment):
    """The program above, running in `folder`."""
    (folder / "last").touch()
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=folder, env=os.environ | environment, stderr=subprocess.PIPE, text=True
    )


def hung(process, folder):
    """Wait until the program is in the middle of the file it was to hang at."""
    while not (folder / "hangs").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


@pytest.fixture
def undisturbed(tmp_path):
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    write(folder / "cache")
    return files(folder / "cache")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache"


def test_inline_does_every_shard_once_in_order_with_one_factory(path, capsys):
    summary = write(path)
    assert calls(path) == ["factory", "0", "1", "2", "3", "4", "5"]
    assert summary[:2] == (SHARDS, 0)
    assert list(FeatureCache(path)) == KEYS
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "test: 6 of 6 shards to do"
    assert lines[-1].startswith("test: 6 shards done, 0 already there")


def test_only_what_is_missing_is_done_and_for_nothing_no_model_is_loaded(path):
    write(path)
    (path.parent / "calls").write_text("")
    (path / "00003.safetensors").unlink()
    assert write(path)[:2] == (1, 5)
    assert calls(path) == ["factory", "3"]
    assert write(path)[:2] == (0, 6)
    assert calls(path) == ["factory", "3"]


def test_killed_within_a_shard_the_cache_is_readable_and_the_next_start_does_the_rest(path, undisturbed, tmp_path):
    process = start(tmp_path, HANG_AT="3")
    hung(process, tmp_path)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    cache = FeatureCache(path)
    assert list(cache) == KEYS[:12]
    assert cache.missing() == [3, 4, 5]
    assert any(file.name.startswith(".00003") for file in path.iterdir())
    (tmp_path / "calls").write_text("")

    assert write(path)[:2] == (3, 3)
    assert calls(path) == ["factory", "3", "4", "5"]
    assert list(cache) == KEYS
    assert files(path) == undisturbed


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stopped_it_says_how_far_it_came_and_leaves_nothing_half_written(path, undisturbed, tmp_path, how):
    process = start(tmp_path, HANG_AT="2")
    hung(process, tmp_path)
    process.send_signal(how)
    _, said = process.communicate(timeout=30)
    assert process.returncode not in (0, -signal.SIGTERM)
    assert "KeyboardInterrupt" in said
    assert "test: stopped, 2 of 6 shards done; run the same command again to do the rest" in said
    assert sorted(files(path)) == ["00000.safetensors", "00001.safetensors", "header.json"]
    write(path)
    assert files(path) == undisturbed


def test_sigterm_is_given_back_after_the_run(path):
    before = signal.getsignal(signal.SIGTERM)
    write(path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_two_ranks_share_the_shards_and_neither_waits(path, undisturbed, tmp_path):
    write(path)  # a rank answers for its own shards only, whatever is there
    (path / "00001.safetensors").unlink()
    (path / "00002.safetensors").unlink()
    (path / "00003.safetensors").unlink()
    (tmp_path / "calls").unlink()
    first = start(tmp_path, RANK="1", WORLD_SIZE="2")
    assert "test (rank 1 of 2): 2 shards done, 1 already there" in first.communicate()[1]
    assert (first.returncode, calls(path)) == (0, ["factory", "1", "3"])
    assert FeatureCache(path).missing() == [2]
    second = start(tmp_path, RANK="0", WORLD_SIZE="2")
    assert "test (rank 0 of 2): 1 shards done, 2 already there" in second.communicate()[1]
    assert (second.returncode, calls(path)[3:]) == (0, ["factory", "2"])
    assert files(path) == undisturbed


def test_two_ranks_at_once_write_what_one_process_does(path, undisturbed, tmp_path):
    ranks = [start(tmp_path, RANK=rank, WORLD_SIZE="2") for rank in "01"]
    said = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert sorted(calls(path)) == ["0", "1", "2", "3", "4", "5", "factory", "factory"]
    assert files(path) == undisturbed


def test_a_workers_error_passes_and_what_was_done_stays(tmp_path):
    def work(number):
        if number == 2:
            raise ValueError("image 2 is unreadable")
        (tmp_path / str(number)).touch()

    def missing():
        return [number for number in range(4) if not (tmp_path / str(number)).exists()]

    with pytest.raises(ValueError, match="image 2 is unreadable"):
        shards.execute(lambda: work, 4, missing)
    assert missing() == [2, 3]


def test_a_worker_that_writes_nothing_is_found_out():
    with pytest.raises(ValueError, match="3 shards were done but do not exist, 0 the first"):
        shards.execute(lambda: lambda number: None, 3, lambda: [0, 1, 2])


def test_an_engine_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"^engine=rya is none of inline, ray$"):
        shards.execute(lambda: lambda number: None, 1, lambda: [0], engine="rya")


def test_without_ray_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"^engine=ray needs Ray: pip install 'sightword\[ray\]'$"):
        shards.execute(lambda: lambda number: None, 1, lambda: [0], engine="ray")
    with pytest.raises(ValueError, match=r"^engine=ray needs Ray"):
        shards.check_engine("ray")
    shards.check_engine("inline")


def test_as_many_ray_workers_as_fit_and_none_is_an_error():
    assert shards.fitting({"CPU": 4}, workers=0, gpus=0) == 4
    assert shards.fitting({"CPU": 4}, workers=3, gpus=0) == 3
    assert shards.fitting({"CPU": 4}, workers=9, gpus=0) == 4
    assert shards.fitting({"CPU": 16, "GPU": 2}, workers=0, gpus=0.5) == 4
    with pytest.raises(ValueError, match="Ray has 8 CPUs and 0 GPUs free, a worker needs 1 and 1"):
        shards.fitting({"CPU": 8}, workers=2, gpus=1)


def on_ray(path, body, **options):
    """Run shards on Ray, each a file with its number; `body` (may be None) is called first. Returns the summary."""
    pytest.importorskip("ray")
    path.mkdir()

    def factory():
        def work(number):
            if body:
                body(number)
            (path / f"{number}.beside").write_text(str(number))
            (path / f"{number}.beside").rename(path / str(number))

        return work

    def missing():
        return [number for number in range(12) if not (path / str(number)).exists()]

    return shards.execute(factory, 12, missing, engine="ray", workers=2, **options)


@pytest.mark.slow
def test_a_ray_worker_killed_within_a_shard_costs_no_row(path):
    marker = path.parent / "killed"

    def die_once(number):
        if number == 5 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    assert on_ray(path, die_once)[:2] == (12, 0)
    assert marker.exists()
    assert {name: data.decode() for name, data in files(path).items()} == {str(n): str(n) for n in range(12)}


@pytest.mark.slow
def test_ray_writes_the_same_bytes_and_resumes_what_inline_began(path, undisturbed, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # its workers import this very file
    write(path)
    (path / "00001.safetensors").unlink()
    (path / "00004.safetensors").unlink()
    assert write(path, engine="ray", workers=2)[:2] == (2, 4)
    assert files(path) == undisturbed


@pytest.mark.slow
def test_a_ray_workers_error_comes_in_its_own_words(path):
    def fail(number):
        raise ValueError("image is unreadable")

    with pytest.raises(ValueError, match=r"^image is unreadable$"):
        on_ray(path, fail)


def test_each_process_of_torchrun_takes_a_gpu_of_its_own(monkeypatch):
    assert shards.device() == ("cuda:0" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for local, device in (("0", "cuda:0"), ("3", "cuda:3"), ("5", "cuda:1")):
        monkeypatch.setenv("LOCAL_RANK", local)
        assert shards.device() == device


@pytest.mark.parametrize("listener", ["none", "closed", "gone"])
def test_a_job_whose_audience_is_gone_is_done_all_the_same(monkeypatch, listener):
    read, write = os.pipe()
    stream = None if listener == "none" else open(write, "w")  # noqa: SIM115
    if listener == "closed":
        stream.close()
    os.close(read)
    monkeypatch.setattr("sys.stderr", stream)
    done = []
    summary = shards.execute(lambda: done.append, 3, lambda: sorted({0, 1, 2} - set(done)))
    monkeypatch.undo()
    assert done == [0, 1, 2]
    assert summary.missing == ()
    if listener == "gone":
        with contextlib.suppress(BrokenPipeError):
            stream.close()


def test_a_summary_names_the_shards_that_are_left(capsys):
    there = {1}

    def work(number):
        if number != 2:
            there.add(number)

    with pytest.raises(ValueError, match="1 shards were done but do not exist, 2 the first"):
        shards.execute(lambda: work, 3, lambda: sorted({0, 1, 2} - there))
    summary = shards.execute(lambda: lambda number: there.add(2), 3, lambda: sorted({0, 1, 2} - there))
    assert summary._replace(seconds=0) == (1, 2, 0, ())
