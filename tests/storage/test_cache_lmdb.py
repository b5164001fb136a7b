"""A cache in LMDB gives back what one in files does, to any process, whatever became of its writer."""

import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from torch.utils.data import DataLoader

pytest.importorskip("lmdb")

from sightword.storage import cache_lmdb
from sightword.storage.cache import FeatureCache, header_for

KEYS = [f"scène{scene}/{frame}" for scene in range(3) for frame in range(4)]
ROWS = {"tokens": ("float16", (6, 100)), "pooled": ("float32", (5,)), "one": ("uint8", ())}


def rows_of(cache):
    """The rows of a cache, opened once more."""
    header = cache.header
    return cache_lmdb.Rows(cache.path, header["dtypes"], header["shapes"], header["items"])


def header(backend="lmdb", **changes):
    fields = {"writer": "sightword lift", "weights": "aaaa", "shard_size": 4}
    return header_for(KEYS, ROWS, backend=backend, **{**fields, **changes})


def arrays(keys, by=1.0):
    place = np.array([KEYS.index(key) for key in keys])
    tokens = (np.arange(600).reshape(6, 100) / 8 + place[:, None, None]) * by
    return {
        "one": place.astype("uint8"),
        "tokens": tokens.astype("float16"),
        "pooled": np.repeat(place[:, None] / 3, 5, 1).astype("float32"),
    }


def fill(cache, *numbers, by=1.0):
    for number in numbers:
        keys = KEYS[number * 4 : number * 4 + 4]
        cache.write_shard(number, keys, arrays(keys, by))


@pytest.fixture
def cache(tmp_path):
    return FeatureCache.create(tmp_path / "cache", header())


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert one[name].shape == other[name].shape
        assert one[name].tobytes() == other[name].tobytes()


def test_rows_are_those_of_a_cache_in_files(cache, tmp_path):
    files = FeatureCache.create(tmp_path / "files", header("safetensors"))
    fill(files, 2, 0)
    fill(cache, 2, 0)
    assert list(cache) == list(files) == KEYS[:4] + KEYS[8:]
    for key in files:
        same(cache[key], files[key])
        assert np.array_equal(cache.get(key, "pooled"), files.get(key, "pooled"))
    for (own, stack), (theirs, wanted) in zip(cache.stacks("tokens"), files.stacks("tokens"), strict=True):
        assert own == theirs
        assert np.array_equal(stack, wanted)
    assert (cache.missing(), files.missing()) == ([1], [1])
    assert sorted(os.listdir(cache.path)) == ["header.json", "rows.mdb", "rows.mdb-lock"]


def test_a_row_read_is_the_readers_to_change(cache):
    fill(cache, 0)
    cache[KEYS[0]]["tokens"][:] = 9
    same(cache[KEYS[0]], {name: rows[0] for name, rows in arrays(KEYS[:1]).items()})


def test_a_reader_sees_the_cache_grow_and_a_shard_written_anew(cache):
    reader = FeatureCache(cache.path)
    assert len(reader) == 0
    fill(cache, 0)
    assert KEYS[1] in reader
    assert KEYS[5] not in reader
    fill(cache, 1, 2)
    assert reader.done
    fill(cache, 0, by=2.0)
    assert np.array_equal(reader.get(KEYS[1], "tokens"), arrays([KEYS[1]], 2.0)["tokens"][0])


def test_a_shard_written_anew_with_fewer_rows_keeps_none_of_the_others(cache):
    fill(cache, 0, 1)
    cache.write_shard(0, KEYS[:1], arrays(KEYS[:1]))
    assert list(FeatureCache(cache.path)) == [KEYS[0], *KEYS[4:8]]
    with rows_of(cache)._reading() as txn:
        assert txn.stat()["entries"] == 5 + 2  # rows and shards


def test_files_and_lmdb_are_not_mixed_in_a_folder(cache):
    with pytest.raises(ValueError, match="already contains another cache: backend is 'lmdb', expected None"):
        FeatureCache.create(cache.path, header("safetensors"))
    with pytest.raises(ValueError, match="backend='hdf5' is none of safetensors, lmdb"):
        header("hdf5")


def test_the_usual_backend_leaves_the_header_as_it_was():
    assert "backend" not in header("safetensors")


def test_shards_of_unlike_sizes_are_announced_as_such(tmp_path):
    fields = header(shards=2, shard_size=9)
    cache = FeatureCache.create(tmp_path / "c", fields)
    cache.write_shard(0, KEYS[:9], arrays(KEYS[:9]))
    cache.write_shard(1, KEYS[9:], arrays(KEYS[9:]))
    assert cache.done
    assert list(cache) == KEYS


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loader_workers_read_what_the_parent_has_opened(cache, start):
    fill(cache, 0, 1, 2)
    assert cache[KEYS[0]]["one"] == 0  # open here, when the workers are started
    loader = DataLoader(
        cache, sampler=list(cache), num_workers=2, multiprocessing_context=start, batch_size=None, collate_fn=dict
    )
    for _ in range(2 if start == "fork" else 1):
        rows = list(loader)
        assert [int(row["one"]) for row in rows] == list(range(12))
        assert cache[KEYS[7]]["one"] == 7


def _write(path, number):
    fill(FeatureCache(path), number)


def test_processes_that_write_at_once_each_keep_their_shards(cache):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(cache.path, number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert list(cache) == KEYS


def _killed_while_writing(path):
    """All rows are put, and the shard's keys are about to be."""
    cache = FeatureCache(path)
    cache_lmdb.json = SimpleNamespace(loads=json.loads, dumps=lambda keys: os.kill(os.getpid(), signal.SIGKILL))
    fill(cache, 1)


def test_a_writer_killed_in_a_shard_leaves_the_others_and_nothing_of_it(cache):
    fill(cache, 0)
    child = multiprocessing.get_context("fork").Process(target=_killed_while_writing, args=(cache.path,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    reader = FeatureCache(cache.path)
    assert list(reader) == KEYS[:4]
    assert reader.missing() == [1, 2]
    fill(reader, 1)
    assert list(cache) == KEYS[:8]


def test_threads_share_what_is_open(cache):
    fill(cache, 0, 1, 2)
    assert cache.done  # all has been looked for; of that, FeatureCache knows no lock
    found = []

    def read():
        for key in KEYS * 5:
            found.append(int(cache.get(key, "one")) == KEYS.index(key))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 * 5 * 12
    assert all(found)


def test_two_readers_in_one_process_do_not_open_the_file_twice(cache):
    fill(cache, 0)
    readers = [FeatureCache(cache.path), FeatureCache(f"{cache.path}/../cache"), pickle.loads(pickle.dumps(cache))]
    assert [int(reader[KEYS[2]]["one"]) for reader in readers] == [2, 2, 2]


def test_a_cache_made_anew_in_the_same_place_is_read_anew(cache, tmp_path):
    fill(cache, 0)
    for file in cache.path.iterdir():
        file.unlink()
    anew = FeatureCache.create(cache.path, header())
    assert len(anew) == 0
    fill(anew, 1)
    assert list(anew) == KEYS[4:8]


def _read_in_new_process(path, answers):
    try:
        answers.put(list(FeatureCache(path)))
    except ValueError as error:
        answers.put(str(error))


@pytest.mark.parametrize("size", [0, 100, 5000, -4096])
def test_a_truncated_file_is_one_line_and_no_crash(cache, size):
    fill(cache, 0, 1, 2)
    file = cache.path / "rows.mdb"
    cache_lmdb._before_fork()  # closes what is open
    cache_lmdb._lock.release()
    os.truncate(file, size if size >= 0 else file.stat().st_size + size)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_read_in_new_process, args=(cache.path, answers))
    child.start()
    answer = answers.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    if size == 0:  # LMDB takes an empty file for a new one
        assert answer == []
    else:
        assert "rows.mdb" in answer
        assert "damaged" in answer
        assert "\n" not in answer


def test_a_marker_without_its_rows_is_a_damaged_shard(cache):
    fill(cache, 0)
    rows = rows_of(cache)
    with cache_lmdb._lock, cache_lmdb._environment(rows.file, rows.room).begin(write=True) as txn:
        txn.put(cache_lmdb._shard(1), json.dumps(KEYS[4:8]).encode())
    with pytest.raises(ValueError, match=r"shard 1 of .*rows.mdb is damaged \(row 0 has 0 bytes, not 1221\)"):
        FeatureCache(cache.path).missing()


def test_a_map_that_is_full_grows_and_other_readers_follow(cache, monkeypatch):
    monkeypatch.setattr(cache_lmdb, "SPARE", 0)
    monkeypatch.setattr(cache_lmdb, "PAGE", 0)
    small = FeatureCache.create(cache.path.parent / "small", header(shard_size=12))
    rows = small._store
    rows.room = 1 << 15
    for _ in range(7):
        small.write_shard(0, KEYS, arrays(KEYS))
    assert list(small) == KEYS
    assert cache_lmdb._open[os.path.realpath(rows.file)][1].info()["map_size"] > 1 << 15


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ValueError, match=r"pip install 'sightword\[lmdb\]'"):
        FeatureCache.create(tmp_path / "cache", header())
    assert not (tmp_path / "cache").exists()
