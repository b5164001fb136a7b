import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import PureWindowsPath

import numpy as np
import pytest
import torch
from made import write_clip
from PIL import Image

from sightword.cli.main import main
from sightword.data.image import list_images
from sightword.errors import SightwordError
from sightword.storage import shards as job
from sightword.storage.cache import FeatureCache
from sightword.storage.segments import INDEX, Index, content_key, index_images, read_index, write_index
from sightword.towers.clip.encoder import CLIPImage
from sightword.towers.factory import image_tower
from sightword.towers.token_cache import Source, TokenCache, cache_tokens


@pytest.fixture
def source(random_clip):
    return Source(str(random_clip[0]), {"dtype": torch.float32})


@pytest.fixture
def pictures(photos, tmp_path):
    """A copy of the photos that a test may change."""
    shutil.copytree(photos, tmp_path / "pictures")
    return tmp_path / "pictures"


def stop_after(monkeypatch, shards):
    """Ctrl-C as soon as so many shards are written, in the run that is started next and only in that."""
    write, left = FeatureCache.write_shard, [shards]

    def writing(self, *args):
        if left == [0]:
            monkeypatch.setattr(FeatureCache, "write_shard", write)
            raise KeyboardInterrupt
        left[0] -= 1
        write(self, *args)

    monkeypatch.setattr(FeatureCache, "write_shard", writing)


def stopped(monkeypatch, shards, *args, **options):
    stop_after(monkeypatch, shards)
    with pytest.raises(KeyboardInterrupt):
        cache_tokens(*args, **options)


def spoil(monkeypatch, change):
    """Let CLIPs give other tokens."""
    token_types = CLIPImage.token_types
    monkeypatch.setattr(
        CLIPImage,
        "token_types",
        lambda *args: {k: v._replace(tokens=change(v.tokens)) for k, v in token_types(*args).items()},
    )


def rows_on_disk(out):
    """Every key of every shard, sorted: one that is there twice is there twice."""
    return sorted(key for file in out.glob("*/header.json") for key in FeatureCache(file.parent))


def shard_bytes(out):
    return {file.relative_to(out): file.read_bytes() for file in out.glob("*/*.safetensors")}


def index_of(root, out):
    """Index a folder as a run does."""
    index = index_images(root, list_images(root), read_index(out))
    write_index(index, out)
    return index


def computed(monkeypatch):
    """A list that gets the number of images of every batch that is encoded."""
    counts, token_types = [], CLIPImage.token_types

    def counting(self, images, names):
        if not torch.equal(images, torch.zeros_like(images)):  # the probe that asks for shapes
            counts.append(len(images))
        return token_types(self, images, names)

    monkeypatch.setattr(CLIPImage, "token_types", counting)
    return counts


def test_what_is_read_is_what_the_tower_gives(source, pictures, tmp_path):
    cache = cache_tokens(source, pictures, tmp_path / "out", ["post", "kk+gauss"], disk="float32", batch_size=3)
    tower = source.open()
    assert sorted(cache) == sorted(file.name for file in pictures.iterdir())
    for path in cache:
        picture = Image.open(pictures / path).convert("RGB")
        with torch.no_grad():
            wanted = tower.token_types(tower.preprocess(picture)[None], ["post", "kk+gauss"])
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
    ("options", "token_types", "told"),
    [
        ({"size": (48, 32)}, ["post"], "preprocessing.size"),
        ({"dtype": torch.bfloat16}, ["post"], "weights is"),
        ({}, ["value"], "dtypes.value"),
        ({}, ["post", "value"], "dtypes.value is None"),
    ],
)
def test_rows_of_another_recipe_never_mix(random_clip, pictures, tmp_path, options, token_types, told):
    cache_tokens(Source(str(random_clip[0]), {}), pictures, tmp_path / "out", ["post"])
    with pytest.raises(ValueError, match=told) as error:
        cache_tokens(Source(str(random_clip[0]), options), pictures, tmp_path / "out", token_types)
    assert "\n" not in str(error.value)


def test_forms_fewer_than_the_cache_has_are_another_recipe_too(source, pictures, tmp_path):
    cache_tokens(source, pictures, tmp_path / "out", ["post", "value"])
    with pytest.raises(ValueError, match="shapes.value is .*, expected None"):
        cache_tokens(source, pictures, tmp_path / "out", ["post"])


@pytest.mark.parametrize(
    ("options", "vision", "told"),
    [
        ({"quick_gelu": True}, {}, "quick_gelu is False, expected True"),
        ({}, {"head_width": 24}, "vision_cfg.head_width is 16, expected 24"),
        ({}, {"pool_type": "avg"}, "vision_cfg.pool_type is 'tok', expected 'avg'"),
    ],
)
def test_a_network_of_the_same_weights_that_computes_otherwise_is_another(
    random_clip, pictures, tmp_path, options, vision, told
):
    write_clip(tmp_path / "other", vision, **options)
    one, other = (Source(str(folder), {}) for folder in (random_clip[0], tmp_path / "other"))
    cache_tokens(one, pictures, tmp_path / "out", ["post"])
    with pytest.raises(ValueError, match=rf"architecture\.{told}") as error:
        cache_tokens(other, pictures, tmp_path / "out", ["post"])
    assert "weights" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_reader_says_what_it_relies_on(source, pictures, tmp_path):
    cache_tokens(source, pictures, tmp_path / "out", ["post"])
    TokenCache(tmp_path / "out", expect={"shapes": {"post": [16, 48]}})
    with pytest.raises(ValueError, match="shapes.post"):
        TokenCache(tmp_path / "out", expect={"shapes": {"post": [16, 24]}})
    with pytest.raises(ValueError, match="contains no cached tokens"):
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
    spoil(monkeypatch, lambda tokens: tokens * 1e5)
    with pytest.raises(ValueError, match=r"\.png: post reaches .* more than float16 can represent: disk=float32"):
        cache_tokens(source, pictures, tmp_path / "out", ["post"])
    assert len(cache_tokens(source, pictures, tmp_path / "full", ["post"], disk="float32")) == 8


@pytest.mark.parametrize("disk", ["float16", "float32"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused_with_the_images_name(random_clip, pictures, tmp_path, monkeypatch, disk, number):
    blue = pictures / "blue.png"
    Image.new("RGB", (40, 40), "blue").save(blue)
    source = Source(str(random_clip[0]), {"dtype": torch.bfloat16})
    (known,) = source.open().token_types(source.open().preprocess(Image.open(blue))[None], ["post"]).values()

    def change(tokens):
        ours = (tokens - known.tokens).abs().amax((1, 2)) < 0.05
        tokens[ours, 3, 5] = number
        return tokens

    spoil(monkeypatch, change)
    with pytest.raises(ValueError, match=r"blue\.png: .* gives post that is (nan|inf): compute in dtype=float32"):
        cache_tokens(source, pictures, tmp_path / "out", ["post"], disk=disk)
    assert rows_on_disk(tmp_path / "out") == []


def test_advice_that_is_followed_already_is_not_given(source, pictures, tmp_path, monkeypatch):
    spoil(monkeypatch, lambda tokens: tokens * float("nan"))
    with pytest.raises(ValueError, match="is nan: are its weights complete") as error:
        cache_tokens(source, pictures, tmp_path / "out", ["post"], disk="float32")
    assert "float32" not in str(error.value)


def test_an_unreadable_image_is_named_or_skipped(source, pictures, tmp_path):
    (pictures / "2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"2\.png is not readable"):
        cache_tokens(source, pictures, tmp_path / "out", ["post"], shard_size=3)
    cache = cache_tokens(source, pictures, tmp_path / "out", ["post"], shard_size=3, on_error="skip")
    assert len(cache) == 7
    assert "2.png" not in cache


def test_an_image_that_was_skipped_is_not_forgotten(source, pictures, tmp_path, capsys):
    (pictures / "2.png").write_bytes(b"no image")

    def run(on_error):
        capsys.readouterr()
        cache_tokens(source, pictures, tmp_path / "out", ["post"], shard_size=3, on_error=on_error)
        return capsys.readouterr().err

    told = run("skip")
    assert "8 images, 8 to encode" in told
    assert "1 of 8 images could not be read, 2.png the first" in told
    assert "8 images, 0 to encode" in (told := run("skip"))
    assert "0 B in all; 1 could not be read, on_error=raise reports why" in told
    for _ in range(2):
        with pytest.raises(ValueError, match=r"2\.png is not readable"):
            run("raise")
    assert "0 to encode" in run("skip")
    shutil.copy(pictures / "3.png", pictures / "2.png")
    assert "7 images, 0 to encode" in run("raise")


def test_an_image_that_can_be_read_another_time_is_tried_again_with_raise_only(source, pictures, tmp_path, monkeypatch):
    counts = computed(monkeypatch)

    def fails(path):
        raise SightwordError(f"{path} is not readable")

    with monkeypatch.context() as patch:
        patch.setattr("sightword.towers.token_cache.read_image", fails)
        assert len(cache_tokens(source, pictures, tmp_path / "out", ["post"], on_error="skip")) == 0
    assert len(cache_tokens(source, pictures, tmp_path / "out", ["post"], on_error="skip")) == 0
    assert counts == []
    assert len(cache_tokens(source, pictures, tmp_path / "out", ["post"])) == 8
    assert len(rows_on_disk(tmp_path / "out")) == 8


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_stopped_job_computes_no_row_again_when_an_image_comes(
    source, pictures, tmp_path, monkeypatch, capsys, on_error
):
    counts, out = computed(monkeypatch), tmp_path / "out"
    options = {"shard_size": 1, "on_error": on_error}
    stopped(monkeypatch, 6, source, pictures, out, ["post"], **options)
    Image.new("RGB", (40, 40), "red").save(pictures / "new.png")
    capsys.readouterr()
    stopped(monkeypatch, 1, source, pictures, out, ["post"], **options)
    assert "9 images, 3 to encode" in capsys.readouterr().err
    counts.clear()
    (pictures / "new.png").rename(tmp_path / "new.png")
    cache_tokens(source, pictures, out, ["post"], **options)
    (tmp_path / "new.png").rename(pictures / "new.png")
    assert len(cache_tokens(source, pictures, out, ["post"], **options)) == 9
    assert sum(counts) == 2
    assert rows_on_disk(out) == sorted(content_key(file) for file in pictures.iterdir())


def test_to_delete_a_broken_image_costs_only_what_was_not_written(source, pictures, tmp_path, capsys):
    broken, last = pictures / "broken.png", max(map(content_key, pictures.iterdir()))
    for number in range(1000):
        broken.write_bytes(b"no image %d" % number)
        if content_key(broken) > last:  # it comes after the others, which are written then
            break
    with pytest.raises(ValueError, match=r"broken\.png is not readable"):
        cache_tokens(source, pictures, tmp_path / "out", ["post"], shard_size=1)
    broken.unlink()
    capsys.readouterr()
    assert len(cache_tokens(source, pictures, tmp_path / "out", ["post"], shard_size=1)) == 8
    assert "8 images, 0 to encode" in capsys.readouterr().err


def test_a_stopped_job_goes_on_in_its_own_part_and_needs_no_room_for_what_is_there(
    source, pictures, tmp_path, monkeypatch, capsys
):
    out, straight = tmp_path / "out", tmp_path / "straight"
    stopped(monkeypatch, 6, source, pictures, out, ["post"], shard_size=1)
    each = 2 * (16 * 48 + 24)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 2 * each))
    capsys.readouterr()
    cache_tokens(source, pictures, out, ["post"], shard_size=1)
    assert f"8 images, 2 to encode: post 16×48, pooled 24 in float16, {each / 1000:.3g} kB each, 3.17 kB in all" in (
        capsys.readouterr().err
    )
    monkeypatch.undo()
    cache_tokens(source, pictures, straight, ["post"], shard_size=1)
    assert shard_bytes(out) == shard_bytes(straight)


@pytest.mark.parametrize("shards", [0, 2])
def test_a_stopped_job_goes_on_with_the_shards_it_began(source, pictures, tmp_path, monkeypatch, shards):
    out = tmp_path / "out"
    stopped(monkeypatch, shards, source, pictures, out, ["post"], shard_size=3)
    counts = computed(monkeypatch)
    assert len(cache_tokens(source, pictures, out, ["post"], shard_size=2)) == 8
    assert sum(counts) == 8 - 3 * shards
    assert len(shard_bytes(out)) == 3


def test_a_part_that_fits_again_is_not_filled_with_rows_of_another(source, pictures, tmp_path, monkeypatch):
    out, new = tmp_path / "out", pictures / "new.png"
    stopped(monkeypatch, 6, source, pictures, out, ["post"], shard_size=1)
    Image.new("RGB", (40, 40), "red").save(new)
    cache_tokens(source, pictures, out, ["post"], shard_size=1)
    new.unlink()
    counts = computed(monkeypatch)
    cache_tokens(source, pictures, out, ["post"], shard_size=1)
    assert counts == []
    assert len(rows_on_disk(out)) == len(set(rows_on_disk(out))) == 9


def test_a_replaced_image_never_gives_the_tokens_of_the_one_before(source, pictures, tmp_path):
    cache = cache_tokens(source, pictures, tmp_path / "out", ["post"])
    before, other = cache["3.png"]["post"], cache["5.png"]["post"]
    Image.new("RGB", (40, 40), "red").save(pictures / "3.png")
    for path in ("3.png", pictures / "3.png"):
        assert path not in cache
        with pytest.raises(
            SightwordError,
            match=r"3\.png changed since it was cached .* Run again: sightword cache tower=… .* token_type=post$",
        ):
            cache[path]
    shutil.copy(pictures / "5.png", pictures / "3.png")
    np.testing.assert_array_equal(cache["3.png"]["post"], other)
    Image.new("RGB", (40, 40), "red").save(pictures / "3.png")
    again = cache_tokens(source, pictures, tmp_path / "out", ["post"])
    assert not np.array_equal(again["3.png"]["post"], before)


def test_an_image_that_is_gone_is_read_by_its_path_and_one_that_only_has_a_new_date_by_its_bytes(
    source, pictures, tmp_path, monkeypatch
):
    cache = cache_tokens(source, pictures, tmp_path / "out", ["post"])
    before = cache["3.png"]["post"]
    os.utime(pictures / "3.png", ns=(10**18, 10**18))
    np.testing.assert_array_equal(cache["3.png"]["post"], before)
    monkeypatch.setattr("sightword.storage.segments.content_key", lambda path: pytest.fail("was read"))
    cache["4.png"]
    cache[pictures / "4.png"]
    pictures.rename(tmp_path / "archive")
    np.testing.assert_array_equal(cache["3.png"]["post"], before)


def test_an_index_without_the_state_of_files_is_read_by_their_bytes(source, pictures, tmp_path):
    cache_tokens(source, pictures, tmp_path / "out", ["post"])
    file = tmp_path / "out" / INDEX
    index = json.loads(file.read_text())
    images = {path: entry[-1] if path == "0.png" else entry[-1:] for path, entry in index["images"].items()}
    file.write_text(json.dumps({"root": index["root"], "images": images}))
    Image.new("RGB", (40, 40), "red").save(pictures / "3.png")
    cache = TokenCache(tmp_path / "out")
    assert ("0.png" in cache, "1.png" in cache, "3.png" in cache) == (True, True, False)


def test_no_cache_is_begun_among_the_images(source, pictures):
    with pytest.raises(SightwordError, match=r"contains other files \(0\.png, 1\.png, 2\.png, …\)"):
        cache_tokens(source, pictures, pictures, ["post"])
    assert len(list(pictures.iterdir())) == 8


def test_a_damaged_index_says_so(source, pictures, tmp_path):
    cache_tokens(source, pictures, tmp_path / "out", ["post"])
    (tmp_path / "out" / INDEX).write_text("[1")
    with pytest.raises(ValueError, match=r"index\.json: ends in the middle of its JSON.*Delete it"):
        TokenCache(tmp_path / "out")


def test_paths_are_indexed_with_slashes_and_found_with_backslashes_too(source, pictures, tmp_path):
    (pictures / "below").mkdir()
    (pictures / "0.png").rename(pictures / "below" / "0.png")
    cache = cache_tokens(source, pictures, tmp_path / "out", ["post"])
    assert "below/0.png" in list(cache)
    assert PureWindowsPath(r"below\0.png") in cache
    assert PureWindowsPath(r"below\1.png") not in cache


def test_the_index_reads_only_files_that_changed(pictures, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        "sightword.storage.segments.content_key", lambda path: read.append(path.name) or content_key(path)
    )
    index_of(pictures, tmp_path / "out")
    assert len(read) == 8
    Image.new("RGB", (50, 40), "blue").save(pictures / "3.png")
    index_of(pictures, tmp_path / "out")
    assert read[8:] == ["3.png"]


@pytest.fixture
def twins(tmp_path):
    """A folder with two files of other contents and the same size and time of change."""
    folder = tmp_path / "twins"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.png").write_bytes(name.encode() * 10)
        os.utime(folder / f"{name}.png", ns=(10**18, 10**18))
    return folder


def test_a_file_that_keeps_its_size_and_not_its_time_is_read_again(twins, tmp_path):
    before = index_of(twins, tmp_path / "out").images["a.png"]
    (twins / "a.png").write_bytes(b"c" * 10)
    after = index_of(twins, tmp_path / "out").images["a.png"]
    assert before[0] == after[0]
    assert after[-1] == content_key(twins / "a.png") != before[-1]


@pytest.mark.parametrize("field", range(3))
def test_size_time_of_change_and_time_of_the_name_each_tell_of_a_change(twins, field):
    files = list_images(twins)
    known = index_images(twins, files, read_index(twins))
    entry = list(known.images["a.png"])
    entry[field] -= 1
    known.images["a.png"] = (*entry[:3], "stale")
    assert index_images(twins, files, known).images["a.png"][-1] == content_key(twins / "a.png")


def test_two_files_that_swap_their_names_are_read_again(twins, tmp_path):
    index_of(twins, tmp_path / "out")
    time.sleep(0.05)  # a file system's clock may tick a hundred times a second
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        (twins / f"{old}.png").rename(twins / f"{new}.png")
    index = index_of(twins, tmp_path / "out")
    assert {path: entry[-1] for path, entry in index.images.items()} == {
        path.name: content_key(path) for path in twins.iterdir()
    }


def test_another_folder_of_the_same_names_is_another(twins, tmp_path):
    files = list_images(twins)
    images = {
        path: (*entry[:3], "stale") for path, entry in index_images(twins, files, read_index(twins)).images.items()
    }
    assert set(index_images(twins, files, Index(str(twins.resolve()), images)).files()) == {"stale"}
    elsewhere = index_images(twins, files, Index(str(tmp_path / "elsewhere"), images))
    assert set(elsewhere.files()) == set(map(content_key, files))
    assert elsewhere.root == str(twins.resolve())


def test_of_copies_the_first_path_counts(pictures, tmp_path):
    for name, first in (("last.png", "0.png"), ("-first.png", "-first.png")):
        shutil.copy(pictures / "0.png", pictures / name)
        assert index_of(pictures, tmp_path / "out").files()[content_key(pictures / "0.png")] == first


def test_what_is_refused_leaves_the_index_as_it_was(source, pictures, twins, random_clip, tmp_path, monkeypatch):
    out = tmp_path / "out"
    cache_tokens(source, pictures, out, ["post"])
    before = (out / INDEX).read_bytes()
    with pytest.raises(ValueError, match="weights is"):
        cache_tokens(Source(str(random_clip[0]), {"dtype": torch.bfloat16}), twins, out, ["post"])
    with pytest.raises(ValueError, match="there is no folder"):
        cache_tokens(Source("nobody", {}), twins, out, ["post"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(ValueError, match="2 images need .* or another out="):
        cache_tokens(source, twins, out, ["post"])
    assert (out / INDEX).read_bytes() == before


def test_a_killed_job_goes_on_and_ends_with_the_same_bytes(random_clip, pictures, tmp_path):
    command = [sys.executable, "-m", "sightword.cli", "cache", f"tower={random_clip[0]}", f"images={pictures}"]
    words = ["batch_size=1", "shard_size=1", "token_type=post"]
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


def test_the_command_tells_how_to_read_what_it_wrote(random_clip, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    words = [f"tower={random_clip[0]}", f"images={pictures}", f"out={out}", "token_type=value,post", "size=32x48"]
    assert main(["cache", *words, "dtype=bfloat16"]) == 0
    told = capsys.readouterr().out
    assert f"8 images in {out}" in told
    line = told.split("read it: ")[1]
    assert eval(line, {"TokenCache": TokenCache}).shape == (24, 24)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("tower=nobody", "there is no folder and no CLIP 'nobody'"),
        ("images=/nowhere", "nowhere"),
        ("token_type=patch", "value, qq, kk"),
        ("size=224,", "height x width"),
        ("dtype=half", "float32, bfloat16, float16"),
        ("disk=int8", "disk='int8' is not a dtype"),
        ("on_error=ignore", "on_error='ignore' is not one of raise, skip"),
        ("batch_size=0", "batch_size='0' is not a whole number from 1 on"),
        ("engine=spark", "engine='spark' is not one of inline, ray"),
        ("images=", "images='' is not a path"),
        ("out=", "out='' is not a path"),
    ],
)
def test_a_mistake_is_one_line(random_clip, pictures, tmp_path, capsys, word, told):
    words = [f"tower={random_clip[0]}", f"images={pictures}", f"out={tmp_path / 'out'}", word]
    assert main(["cache", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert told in error
    assert len(error.splitlines()) == 1


def test_without_forms_a_row_is_the_pooled_vector_alone(source, pictures, tmp_path):
    alone = cache_tokens(source, pictures, tmp_path / "alone", [], writer="sightword index")
    whole = cache_tokens(source, pictures, tmp_path / "whole", ["post"])
    assert alone.header["shapes"] == {"pooled": whole.header["shapes"]["pooled"]}
    assert alone.header["writer"] == "sightword index"
    path = next(iter(whole))
    assert np.array_equal(alone[path]["pooled"], whole[path]["pooled"])


def test_the_home_folder_may_be_a_tilde(random_clip, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["cache", f"tower={random_clip[0]}", "images=~/pictures", "out=~/out"]) == 0
    assert len(TokenCache("~/out")) == 8
    assert not (tmp_path / "~").exists()
    line = capsys.readouterr().out.split("read it: ")[1]
    assert eval(line, {"TokenCache": TokenCache}).shape == (16, 48)


def test_the_small_worlds_may_be_written_below_a_tilde(tmp_path, monkeypatch, capsys):
    from sightword.miniature import contents

    folders = []
    monkeypatch.setattr(contents, "write_all", lambda out: folders.append(out) or [])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["mini", "out=~/mini"]) == 0
    assert folders == [tmp_path / "mini"]
    assert main(["mini", "out="]) == 2
    assert "out='' is not a path" in capsys.readouterr().err


def test_a_tower_without_several_forms_says_so(random_clip):
    from sightword.towers.base import ImageTower

    tower = image_tower(random_clip[0])
    with pytest.raises(ValueError, match="has post tokens and no value"):
        ImageTower.token_types(tower, torch.zeros(1, 3, 32, 32), ["post", "value"])


def test_a_worker_computes_on_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert job.device() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert job.device() == "cuda:1"


def test_the_index_is_plain_json(pictures, tmp_path):
    index_of(pictures, tmp_path / "out")
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["root"] == str(pictures.resolve())
    assert index["images"]["0.png"][3] == content_key(pictures / "0.png")
