import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from sightword import cli, job
from sightword.tokens import INDEX, Source, TokenCache, cache_tokens, content_key, index_images
from sightword.towers import image_tower


@pytest.fixture
def source(random_clip):
    return Source(str(random_clip[0]), {"dtype": torch.float32})


@pytest.fixture
def pictures(photos, tmp_path):
    """A copy of the photos that a test may change."""
    shutil.copytree(photos, tmp_path / "pictures")
    return tmp_path / "pictures"


def computed(monkeypatch):
    """A list that gets the number of images of every batch that is encoded."""
    from sightword.towers.clip import CLIPImage

    counts, forms = [], CLIPImage.forms

    def counting(self, images, names):
        if not torch.equal(images, torch.zeros_like(images)):  # the probe that asks for shapes
            counts.append(len(images))
        return forms(self, images, names)

    monkeypatch.setattr(CLIPImage, "forms", counting)
    return counts


def test_what_is_read_is_what_the_tower_gives(source, pictures, tmp_path):
    cache = cache_tokens(source, pictures, tmp_path / "out", ["post", "kk+gauss"], disk="float32", batch_size=3)
    tower = source.open()
    assert sorted(cache) == sorted(file.name for file in pictures.iterdir())
    for path in cache:
        picture = Image.open(pictures / path).convert("RGB")
        with torch.no_grad():
            wanted = tower.forms(tower.preprocess(picture)[None], ["post", "kk+gauss"])
        for name in ("post", "kk+gauss"):
            np.testing.assert_allclose(cache[path][name], wanted[name].tokens[0], atol=1e-5)
        np.testing.assert_allclose(cache.get(path, "pooled"), wanted["post"].pooled[0], atol=1e-5)
    assert cache[path]["post"].shape == (16, 48)
    assert cache[path]["kk+gauss"].shape == (16, 24)


def test_half_precision_on_disk_is_the_default_and_near(source, pictures, tmp_path):
    full = cache_tokens(source, pictures, tmp_path / "full", ["post"], disk="float32")
    half = cache_tokens(source, pictures, tmp_path / "half", ["post"])
    assert half["0.png"]["post"].dtype == np.float16
    np.testing.assert_allclose(half["0.png"]["post"], full["0.png"]["post"], atol=4e-3)


def test_a_second_run_computes_nothing_and_changes_no_file(source, pictures, tmp_path, monkeypatch):
    counts = computed(monkeypatch)
    cache_tokens(source, pictures, tmp_path / "out", ["post"])
    assert sum(counts) == 8
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}
    cache_tokens(source, pictures, tmp_path / "out", ["post"])
    assert sum(counts) == 8
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}


def test_only_what_is_new_is_computed_and_copies_once(source, pictures, tmp_path, monkeypatch):
    counts = computed(monkeypatch)
    cache_tokens(source, pictures, tmp_path / "out", ["post"])
    (pictures / "deep").mkdir()
    shutil.copy(pictures / "0.png", pictures / "deep" / "copy.png")
    os.rename(pictures / "1.png", pictures / "deep" / "moved.png")
    Image.new("RGB", (40, 40), "red").save(pictures / "new.png")
    cache = cache_tokens(source, pictures, tmp_path / "out", ["post"])
    assert sum(counts) == 9
    assert len(cache) == 9
    assert "1.png" not in cache
    np.testing.assert_array_equal(cache["deep/copy.png"]["post"], cache["0.png"]["post"])
    assert "deep/moved.png" in cache


def test_an_image_that_changed_is_computed_again(source, pictures, tmp_path, monkeypatch):
    counts = computed(monkeypatch)
    before = cache_tokens(source, pictures, tmp_path / "out", ["post"])["3.png"]["post"]
    Image.new("RGB", (50, 40), "blue").save(pictures / "3.png")
    after = cache_tokens(source, pictures, tmp_path / "out", ["post"])["3.png"]["post"]
    assert sum(counts) == 9
    assert not np.array_equal(before, after)


def test_an_image_is_found_by_its_bytes_wherever_it_lies(source, pictures, tmp_path):
    cache = cache_tokens(source, pictures, tmp_path / "out", ["post"])
    elsewhere = tmp_path / "elsewhere.png"
    shutil.copy(pictures / "5.png", elsewhere)
    np.testing.assert_array_equal(cache[elsewhere]["post"], cache["5.png"]["post"])
    with pytest.raises(KeyError, match="has no tokens"):
        cache["nobody.png"]


@pytest.mark.parametrize(
    ("options", "forms", "told"),
    [
        ({"size": (48, 32)}, ["post"], "preprocessing.size"),
        ({"dtype": torch.bfloat16}, ["post"], "weights is"),
        ({}, ["value"], "dtypes.value"),
    ],
)
def test_rows_of_another_recipe_never_mix(random_clip, pictures, tmp_path, options, forms, told):
    cache_tokens(Source(str(random_clip[0]), {}), pictures, tmp_path / "out", ["post"])
    with pytest.raises(ValueError, match=told) as error:
        cache_tokens(Source(str(random_clip[0]), options), pictures, tmp_path / "out", forms)
    assert "\n" not in str(error.value)


def test_a_reader_says_what_it_relies_on(source, pictures, tmp_path):
    cache_tokens(source, pictures, tmp_path / "out", ["post"])
    TokenCache(tmp_path / "out", expect={"shapes": {"post": [16, 48]}})
    with pytest.raises(ValueError, match="shapes.post"):
        TokenCache(tmp_path / "out", expect={"shapes": {"post": [16, 24]}})
    with pytest.raises(ValueError, match="holds no tokens"):
        TokenCache(tmp_path)


def test_the_size_is_said_beforehand_and_is_right(source, pictures, tmp_path, capsys):
    cache_tokens(source, pictures, tmp_path / "out", ["post", "value"])
    each = 2 * (16 * 48 + 16 * 24 + 24)
    assert f"post 16×48, value 16×24, pooled 24 in float16, {each / 1000:.3g} kB each" in capsys.readouterr().err
    stored = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*.safetensors"))
    assert 8 * each <= stored < 8 * each + 2000


def test_a_disk_too_small_is_refused_before_anything_is_written(source, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(ValueError, match=r"8 images need .* has 1 kB"):
        cache_tokens(source, pictures, tmp_path / "out", ["post"])
    assert not list((tmp_path / "out").glob("*/"))


def test_numbers_beyond_half_precision_are_refused(source, pictures, tmp_path, monkeypatch):
    from sightword.towers.clip import CLIPImage

    forms = CLIPImage.forms
    monkeypatch.setattr(
        CLIPImage, "forms", lambda *args: {k: v._replace(tokens=v.tokens * 1e5) for k, v in forms(*args).items()}
    )
    with pytest.raises(ValueError, match="more than float16 holds: disk=float32"):
        cache_tokens(source, pictures, tmp_path / "out", ["post"])


def test_an_unreadable_image_is_named_or_skipped(source, pictures, tmp_path):
    (pictures / "2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"2\.png is not readable"):
        cache_tokens(source, pictures, tmp_path / "out", ["post"], shard_size=3)
    cache = cache_tokens(source, pictures, tmp_path / "out", ["post"], shard_size=3, on_error="skip")
    assert len(cache) == 7
    assert "2.png" not in cache


def test_a_damaged_index_says_so(source, pictures, tmp_path):
    cache_tokens(source, pictures, tmp_path / "out", ["post"])
    (tmp_path / "out" / INDEX).write_text("[1")
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        TokenCache(tmp_path / "out")


def test_the_index_reads_only_files_that_changed(pictures, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("sightword.tokens.content_key", lambda path: read.append(path.name) or content_key(path))
    index_images(pictures, tmp_path / "out")
    assert len(read) == 8
    Image.new("RGB", (50, 40), "blue").save(pictures / "3.png")
    index_images(pictures, tmp_path / "out")
    assert read[8:] == ["3.png"]


def test_a_killed_job_goes_on_and_ends_with_the_same_bytes(random_clip, pictures, tmp_path):
    command = [sys.executable, "-m", "sightword.cli", "cache", f"tower={random_clip[0]}", f"images={pictures}"]
    words = ["batch_size=1", "shard_size=1", "tokens=post"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    out = tmp_path / "killed"
    process = subprocess.Popen([*command, *words, f"out={out}"], env=env, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(out.glob("*/0*.safetensors")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(out.glob("*/0*.safetensors"))) >= 1
    source = Source(str(random_clip[0]), {"size": None, "dtype": torch.float32})
    cache_tokens(source, pictures, out, ["post"], batch_size=1, shard_size=1)
    cache_tokens(source, pictures, tmp_path / "straight", ["post"], batch_size=1, shard_size=1)
    shards = {
        folder: {file.name: file.read_bytes() for file in folder.glob("*/*.safetensors")}
        for folder in (out, tmp_path / "straight")
    }
    assert len(shards[out]) == 8
    assert shards[out] == shards[tmp_path / "straight"]


def test_two_ranks_share_the_work(source, pictures, tmp_path, monkeypatch):
    counts = computed(monkeypatch)
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        cache = cache_tokens(source, pictures, tmp_path / "out", ["post"], shard_size=1)
        assert sum(counts) == (4 if rank == "1" else 8)
    assert len(cache) == 8


def test_the_verb_tells_how_to_read_what_it_wrote(random_clip, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    words = [f"tower={random_clip[0]}", f"images={pictures}", f"out={out}", "tokens=value,post", "size=32x48"]
    assert cli.main(["cache", *words, "dtype=bfloat16"]) == 0
    told = capsys.readouterr().out
    assert f"8 images in {out}" in told
    line = told.split("read it: ")[1]
    assert eval(line, {"TokenCache": TokenCache}).shape == (24, 24)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("tower=nobody", "there is no folder and no CLIP 'nobody'"),
        ("images=/nowhere", "nowhere"),
        ("tokens=patch", "value, qq, kk"),
        ("size=224", "height x width"),
        ("dtype=half", "float32, bfloat16, float16"),
        ("disk=int8", "disk is float16 or float32"),
        ("on_error=ignore", "raise or skip"),
        ("batch_size=0", "at least 1"),
        ("engine=spark", "engine=spark"),
    ],
)
def test_a_mistake_is_one_line(random_clip, pictures, tmp_path, capsys, word, told):
    words = [f"tower={random_clip[0]}", f"images={pictures}", f"out={tmp_path / 'out'}", word]
    assert cli.main(["cache", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert told in error
    assert len(error.splitlines()) == 1


def test_a_tower_without_several_forms_says_so(random_clip):
    from sightword.towers.tower import ImageTower

    tower = image_tower(random_clip[0])
    with pytest.raises(ValueError, match="has post tokens and no value"):
        ImageTower.forms(tower, torch.zeros(1, 3, 32, 32), ["post", "value"])


def test_a_worker_computes_on_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert job.device() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert job.device() == "cuda:1"


def test_the_index_is_plain_json(pictures, tmp_path):
    index_images(pictures, tmp_path / "out")
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["0.png"][2] == content_key(pictures / "0.png")
