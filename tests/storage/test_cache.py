"""A cache gives back what was put in, to the right reader, at any time, whatever became of its writer."""

import json
import os
import pickle

import numpy as np
import pytest

from sightword.storage.atomic import write_atomically
from sightword.storage.cache import FeatureCache, digest, header_for, id_dtype

KEYS = [f"scène/{i:03d}" for i in range(10)]
ROWS = {"ids": ("uint16", (4, 2)), "score": ("float16", ())}


def header(**changes):
    fields = {"writer": "sightword tokenize", "weights": "aaaa", "shard_size": 4, "num_codes": 512}
    return header_for(KEYS, ROWS, **{**fields, "preprocessing": {"resize": 224, "crop": "center"}, **changes})


def arrays(keys):
    """Rows that tell by themselves whose they are."""
    place = np.array([KEYS.index(key) for key in keys])
    ids = (place[:, None, None] * 8 + np.arange(8).reshape(4, 2)).astype("uint16")
    return {"ids": ids, "score": (place / 8).astype("float16")}


def fill(cache, *numbers):
    for number in numbers:
        keys = KEYS[number * 4 : number * 4 + 4]
        cache.write_shard(number, keys, arrays(keys))


@pytest.fixture
def cache(tmp_path):
    return FeatureCache.create(tmp_path / "cache", header())


def test_every_row_comes_back_bit_for_bit(cache):
    fill(cache, 2)
    read, wanted = FeatureCache(cache.path), arrays(KEYS)
    assert list(read) == KEYS[8:]
    fill(cache, 0, 1)
    assert list(read) == KEYS
    for place, key in enumerate(KEYS):
        row = read[key]
        assert set(row) == {"ids", "score"}
        for name, array in row.items():
            assert array.dtype == wanted[name].dtype
            assert array.shape == wanted[name][place].shape
            assert array.tobytes() == wanted[name][place].tobytes()
            assert np.array_equal(read.get(key, name), array)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "uint32", "float16", "float32", "float64"])
def test_every_dtype_keeps_its_bits(tmp_path, dtype):
    values = np.arange(24).reshape(2, 3, 4).transpose(0, 2, 1).astype(dtype)  # not contiguous
    fields = header_for(["a", "b"], {"x": (dtype, (4, 3))}, writer="w", weights="", shard_size=2)
    cache = FeatureCache.create(tmp_path, fields)
    cache.write_shard(0, ["a", "b"], {"x": values})
    assert cache.get("b", "x").dtype == dtype
    assert np.array_equal(cache.get("b", "x"), values[1])


def test_a_row_read_is_the_readers_to_change(cache):
    fill(cache, 0)
    cache[KEYS[0]]["ids"][:] = 9
    assert np.array_equal(cache.get(KEYS[0], "ids"), arrays(KEYS[:1])["ids"][0])


def test_the_header_says_how_much_is_to_come(cache):
    kept = json.loads((cache.path / "header.json").read_text())
    assert (kept["items"], kept["shards"], kept["shapes"]["ids"]) == (10, 3, [4, 2])
    assert (cache.shards, cache.missing(), cache.done) == (3, [0, 1, 2], False)
    fill(cache, 1)
    assert (cache.missing(), cache.done, len(cache)) == ([0, 2], False, 4)
    fill(cache, 0, 2)
    assert (cache.missing(), cache.done, len(cache)) == ([], True, 10)


def test_the_header_tells_other_keys_and_another_order_apart():
    made = {header_for(keys, ROWS, writer="", weights="", shard_size=4)["items_digest"]
            for keys in (KEYS, KEYS[::-1], KEYS[:-1], ["".join(KEYS)])}  # fmt: skip
    assert len(made) == 4


def test_other_weights_are_refused_with_both_values(cache):
    with pytest.raises(ValueError) as caught:
        FeatureCache.create(cache.path, header(weights="bbbb", preprocessing={"resize": 256, "crop": "center"}))
    line = str(caught.value)
    assert "weights is 'aaaa', expected 'bbbb'" in line
    assert "preprocessing.resize is 224, expected 256" in line
    assert "out=" in line
    assert "crop" not in line
    assert "\n" not in line


def test_a_field_more_or_less_is_another_header(cache):
    with pytest.raises(ValueError, match="already contains another cache: flip is None, expected True"):
        FeatureCache.create(cache.path, header(flip=True))
    with pytest.raises(ValueError, match=r"preprocessing\.crop is 'center', expected None"):
        FeatureCache.create(cache.path, header(preprocessing={"resize": 224}))


def test_the_same_header_goes_on_where_it_stopped(cache):
    fill(cache, 1)
    assert FeatureCache.create(cache.path, header()).missing() == [0, 2]


def test_a_reader_refuses_what_does_not_fit_and_says_what_differs(cache):
    FeatureCache(cache.path, expect={"num_codes": 512, "shapes": {"ids": (4, 2)}})
    with pytest.raises(ValueError) as caught:
        FeatureCache(cache.path, expect={"num_codes": 1024, "shapes": {"ids": (16, 16)}, "weights": "aaaa"})
    line = str(caught.value)
    assert "num_codes is 512, expected 1024; shapes.ids is [4, 2], expected [16, 16]" in line
    assert "aaaa" not in line
    assert "\n" not in line


def test_no_cache_somebody_elses_folder_and_a_later_format_each_get_their_line(tmp_path):
    with pytest.raises(ValueError, match=r"contains no cache \(no header.json\)"):
        FeatureCache(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"contains other files \(model.safetensors\) and no header.json"):
        FeatureCache.create(tmp_path, header())
    (tmp_path / "header.json").write_text(json.dumps(header() | {"format": 2}))
    with pytest.raises(ValueError, match="has format 2, expected 1"):
        FeatureCache(tmp_path)
    (tmp_path / "header.json").write_text("{")
    with pytest.raises(ValueError, match=r"header.json: ends in the middle of its JSON.*Delete the folder"):
        FeatureCache(tmp_path)


def test_a_reader_sees_the_cache_grow(cache):
    fill(cache, 0)
    reader = FeatureCache(cache.path)
    assert len(reader) == 4
    assert KEYS[5] not in reader
    with pytest.raises(KeyError) as caught:
        reader[KEYS[5]]
    for part in (KEYS[5], str(cache.path), "4 of 10 rows", "sightword tokenize"):
        assert part in caught.value.args[0]
    fill(cache, 1)
    assert np.array_equal(reader[KEYS[5]]["ids"], arrays([KEYS[5]])["ids"][0])
    fill(cache, 2)
    assert KEYS[9] in reader


def test_a_shard_written_twice_is_the_same_file(cache):
    fill(cache, 0)
    first = (cache.path / "00000.safetensors").read_bytes()
    (cache.path / "00000.safetensors").unlink()
    fill(cache, 0)
    assert (cache.path / "00000.safetensors").read_bytes() == first


def test_a_shard_written_anew_is_read_anew(cache):
    fill(cache, 0)
    assert cache.get(KEYS[0], "score") == 0
    changed = arrays(KEYS[:4])
    changed["score"] += 1
    cache.write_shard(0, KEYS[:4], changed)
    assert cache.get(KEYS[0], "score") == 1


@pytest.mark.parametrize(
    ("number", "keys", "change", "line"),
    [
        (3, KEYS[:2], {}, "announces shards 0 to 2"),
        (0, [KEYS[0], KEYS[0]], {}, "is there twice"),
        (0, KEYS[:2], {"ids": np.zeros((2, 4, 2), "int64")}, "int64"),
        (0, KEYS[:2], {"ids": np.zeros((2, 4, 3), "uint16")}, "4, 3"),
        (0, KEYS[:2], {"ids": np.zeros((3, 4, 2), "uint16")}, "3, 4, 2"),
        (0, KEYS[:2], {"more": np.zeros(2)}, "more"),
    ],
)
def test_a_shard_that_breaks_the_header_is_not_written(cache, number, keys, change, line):
    with pytest.raises(ValueError, match=line):
        cache.write_shard(number, keys, arrays(keys) | change)
    assert [path.name for path in cache.path.iterdir()] == ["header.json"]


def test_a_key_in_two_shards_is_an_error_that_names_both(cache):
    cache.write_shard(0, KEYS[:2], arrays(KEYS[:2]))
    cache.write_shard(2, KEYS[1:3], arrays(KEYS[1:3]))
    with pytest.raises(ValueError, match=rf"00002.safetensors: key '{KEYS[1]}' is in 00000.safetensors, too"):
        FeatureCache(cache.path).missing()


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_truncated_shard_is_named_with_what_to_do(cache, size):
    fill(cache, 0, 1)
    shard = cache.path / "00001.safetensors"
    os.truncate(shard, size if size >= 0 else shard.stat().st_size + size)
    for look in (len, list, FeatureCache.missing, lambda cache: cache[KEYS[0]]):
        with pytest.raises(ValueError) as caught:
            look(FeatureCache(cache.path))
        assert str(caught.value).startswith(f"{shard} is damaged")
        assert "delete it and start the job again" in str(caught.value)
        assert "\n" not in str(caught.value)
    shard.unlink()
    assert FeatureCache(cache.path).missing() == [1, 2]


def test_another_caches_shard_is_not_read_as_ours(cache, tmp_path):
    rows = {"ids": ("uint16", (2, 4)), "score": ("float16", ())}
    other = FeatureCache.create(tmp_path / "other", header_for(KEYS, rows, writer="", weights="", shard_size=4))
    other.write_shard(0, KEYS[:1], {"ids": np.zeros((1, 2, 4), "uint16"), "score": np.zeros(1, "float16")})
    (other.path / "00000.safetensors").rename(cache.path / "00000.safetensors")
    with pytest.raises(ValueError, match=r"ids is \[1, 2, 4\], not \[1, 4, 2\]"):
        len(cache)


def test_what_a_dead_writer_left_is_not_read_and_goes_when_its_shard_is_written(cache):
    left = cache.path / ".00000.safetensors.elsewhere.77.tmp"
    left.write_bytes(b"half")
    assert FeatureCache(cache.path).missing() == [0, 1, 2]
    fill(cache, 0)
    assert not left.exists()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    with write_atomically(tmp_path / "file") as part:
        part.write_bytes(b"old")

    def full(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"), write_atomically(tmp_path / "file") as part:
        part.write_bytes(b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_of_two_writers_of_one_shard_the_later_one_writes_it(cache, monkeypatch):
    rename = os.replace

    def overtaken(source, target):
        monkeypatch.setattr(os, "replace", rename)
        os.unlink(source)  # as the other one does on beginning
        fill(cache, 0)
        rename(source, target)

    monkeypatch.setattr(os, "replace", overtaken)
    fill(cache, 0)
    assert sorted(path.name for path in cache.path.iterdir()) == ["00000.safetensors", "header.json"]
    assert list(cache) == KEYS[:4]


def test_a_pickled_cache_finds_its_folder_from_anywhere(cache, tmp_path, monkeypatch):
    fill(cache, 0, 1)
    monkeypatch.chdir(tmp_path)
    here = FeatureCache("cache")
    assert len(here) == 8
    packed = pickle.dumps(here)
    assert KEYS[0].encode() not in packed
    monkeypatch.chdir("/")
    assert list(pickle.loads(packed)) == KEYS[:8]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loader_workers_read_what_the_parent_has_opened(cache, start):
    from torch.utils.data import DataLoader

    fill(cache, 0, 1, 2)
    assert len(cache) == 10
    loader = DataLoader(cache, 5, sampler=list(cache), num_workers=2, multiprocessing_context=start)
    batches = list(loader)
    for name, wanted in arrays(KEYS).items():
        assert np.array_equal(np.concatenate([batch[name].numpy() for batch in batches]), wanted)


def test_digest_sees_values_names_dtypes_and_shapes_but_not_the_order():
    x = np.arange(6, dtype="float32")
    same = {digest({"a": x, "b": x + 1}), digest({"b": x + 1, "a": x.copy()})}
    others = [
        {"a": x, "b": x + 2},
        {"a": x, "c": x + 1},
        {"a": x.reshape(2, 3), "b": x + 1},
        {"a": x.view("int32"), "b": x + 1},
        {"a": x},
    ]
    assert len(same) == 1
    assert len(same | {digest(other) for other in others}) == 6
    assert all(len(text) == 16 and int(text, 16) for text in same)


def test_digest_of_a_network_is_the_same_in_torch_and_numpy():
    import torch

    x = torch.arange(6.0).reshape(2, 3)
    state = {"weight": x.T, "steps": torch.tensor(3), "on": torch.tensor([True])}
    assert digest(state) == digest({name: value.numpy() for name, value in state.items()})
    half = {"weight": x.bfloat16().requires_grad_()}
    assert digest(half) == digest({"weight": x.bfloat16()})
    assert digest(half) != digest({"weight": x.half()})
    assert digest(half) != digest({"weight": (x + 1).bfloat16()})


def test_digest_refuses_what_has_no_bytes_of_its_own():
    with pytest.raises(TypeError, match="extra is not an array but a NoneType"):
        digest({"extra": None})


@pytest.mark.parametrize(("num_codes", "dtype"), [(2, "uint16"), (65536, "uint16"), (65537, "uint32")])
def test_ids_of_every_code_fit_their_dtype(num_codes, dtype):
    assert id_dtype(num_codes) == dtype
    assert np.dtype(dtype).type(num_codes - 1) == num_codes - 1


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.png").touch()
    with pytest.raises(
        ValueError, match=r"contains other files \(0.png, 1.png, 2.png, …\) and no header.json"
    ) as caught:
        FeatureCache.create(tmp_path, header())
    assert "delete" not in str(caught.value)
    assert len(list(tmp_path.iterdir())) == 5
    with pytest.raises(ValueError, match="0.png contains other files .it is a file itself."):
        FeatureCache.create(tmp_path / "0.png", header())


def test_a_header_that_another_rank_is_writing_or_was_killed_at_is_no_other_file(tmp_path):
    with write_atomically(tmp_path / "header.json") as part:
        part.write_text(json.dumps(header()))
        assert FeatureCache.create(tmp_path, header()).missing() == [0, 1, 2]


@pytest.mark.parametrize("text", ["[]", "3", "null", '"header"'])
def test_a_header_that_is_no_object_is_one_line(tmp_path, text):
    (tmp_path / "header.json").write_text(text)
    for read in (FeatureCache, lambda path: FeatureCache.create(path, header())):
        with pytest.raises(ValueError, match="header.json: expected an object, got ") as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)


def test_stacks_give_one_array_of_every_row(cache):
    fill(cache, 2, 0)
    found = list(FeatureCache(cache.path).stacks("score"))
    assert [keys for keys, _ in found] == [KEYS[:4], KEYS[8:]]
    for keys, rows in found:
        assert rows.tobytes() == arrays(keys)["score"].tobytes()
