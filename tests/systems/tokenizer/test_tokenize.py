"""sightword tokenize: a folder of images to a cache of ids, killed and started again at will, with the same bytes."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_tokenizer import tokenizer_of

from sightword.cli.main import main
from sightword.data.image import center_crop, read_image, squash
from sightword.engine import run as runs
from sightword.errors import SightwordError
from sightword.storage.cache import FeatureCache
from sightword.towers.vq import ids as vq_ids
from sightword.towers.vq.ids import IdCache
from sightword.towers.vq.image import VQImage


@pytest.fixture(scope="module")
def exported(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    tokenizer_of(photos, 0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(photos, exported, tmp_path_factory):
    """The cache of one job that nobody stopped: four shards."""
    out = tmp_path_factory.mktemp("undisturbed") / "ids"
    assert tokenize(photos, exported, out) == 0
    return out


@pytest.fixture
def folder(photos, tmp_path):
    return shutil.copytree(photos, tmp_path / "photos")


def arguments(images, model, out, *more):
    source = [f"model={model}"] if model else []
    return ["tokenize", f"images={images}", f"out={out}", *source, "size=32", "shard_size=2", "batch_size=2", *more]


def tokenize(images, model, out, *more):
    return main(arguments(images, model, out, *more))


def shards(out):
    return {path.name: path.read_bytes() for path in sorted(out.glob("*/*.safetensors"))}


def times(out):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*") if path.is_file()}


def stacked(photos):
    return torch.stack([center_crop(32)(read_image(path)) for path in sorted(photos.iterdir())])


def test_keys_are_paths_and_ids_a_grid_of_small_integers(photos, undisturbed):
    cache = IdCache(undisturbed)
    assert list(cache) == [f"{n}.png" for n in range(8)]
    assert cache["3.png"]["ids"].shape == (8, 8)
    assert cache["3.png"]["ids"].dtype == np.uint16
    assert len(shards(undisturbed)) == 4
    header = cache.header
    assert (header["num_codes"], header["writer"], header["shapes"]) == (16, "sightword tokenize", {"ids": [8, 8]})
    assert header["preprocessing"]["range"] == [-1, 1]


def test_keys_keep_the_folders_and_any_size_fits(photos, exported, tmp_path):
    nested = tmp_path / "nested"
    shutil.copytree(photos, nested / "deep" / "er")
    assert main(["tokenize", f"images={nested}", f"out={tmp_path / 'ids'}", f"model={exported}", "size=30"]) == 0
    assert IdCache(tmp_path / "ids")["deep/er/0.png"]["ids"].shape == (8, 8)  # 30 pixels, padded to 8 tokens of 4


def test_a_folder_at_home_is_found(photos, exported, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert tokenize(f"~/{photos.name}", exported, tmp_path / "ids") == 0


def test_ids_are_what_the_model_encodes_and_decode_to_its_reconstruction(photos, exported, undisturbed):
    model, cache = VQImage.from_pretrained(exported), IdCache(undisturbed)
    ids = torch.from_numpy(np.stack([cache[key]["ids"] for key in cache]).astype(np.int64))
    with torch.no_grad():
        expected, shown = model.encode(stacked(photos)), model(stacked(photos)).images
        assert torch.equal(ids, expected)
        assert len(ids.unique()) > 4
        assert torch.allclose(model.decode(ids), shown, atol=1e-6)


def test_a_size_of_height_and_width_resizes_whole_images_and_the_header_says_so(photos, exported, tmp_path):
    assert tokenize(photos, exported, tmp_path / "ids", "size=48x16") == 0
    model, cache = VQImage.from_pretrained(exported), IdCache(tmp_path / "ids")
    assert cache.header["shapes"] == {"ids": [12, 4]}
    assert cache.header["preprocessing"] == {"resize": "48x16, bicubic", "crop": "none", "range": [-1, 1]}
    with torch.no_grad():
        expected = model.encode(squash(48, 16)(read_image(photos / "3.png"), None)[None])[0]
    assert cache["3.png"]["ids"].tolist() == expected.tolist()


def test_a_run_gives_the_ids_of_its_best_checkpoint_and_its_export_the_same_cache(photos, tiny, tmp_path, capsys):
    train = [
        *tiny,
        "trainer.steps=4",
        "trainer.val_every=2",
        "data.val_crops=1",
        "optim.ema=0.5",
        f"out={tmp_path / 'runs'}",
    ]
    assert main(["train", "experiment=tokenizer/mini", *train]) == 0
    (run,) = (tmp_path / "runs" / "tokenizer" / "mini").iterdir()
    assert tokenize(photos, "", tmp_path / "ids", f"model={run}") == 0
    task = runs.restore(run)[0]
    cache = IdCache(tmp_path / "ids")
    ids = np.stack([cache[key]["ids"] for key in cache])
    assert np.array_equal(ids, task.model.encode(stacked(photos)).numpy())
    assert main(["export", f"run={run}", f"out={tmp_path / 'exported'}"]) == 0
    capsys.readouterr()
    assert tokenize(photos, tmp_path / "exported", tmp_path / "ids") == 0  # the same weights: the same cache
    assert "0 encoded now" in capsys.readouterr().out


def test_a_second_start_does_nothing(photos, exported, undisturbed, monkeypatch, capsys):
    before = times(undisturbed)
    monkeypatch.setattr(vq_ids, "_Writer", lambda *_: pytest.fail("work was begun"))
    assert tokenize(photos, exported, undisturbed) == 0
    assert "8 of 8 images" in capsys.readouterr().out
    assert times(undisturbed) == before


def test_it_ends_by_saying_what_to_type_next(photos, exported, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tokenize(photos, exported, "ids") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("read it: ")
    assert eval(last.removeprefix("read it: "), {"IdCache": IdCache}).shape == (8, 8)


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from sightword.cli.main import main
write = Path.write_bytes
def deadly(self, data):
    if "00002" not in self.name: return write(self, data)
    write(self, data[:len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = deadly
main(sys.argv[1:])
"""


def test_a_killed_job_leaves_a_readable_cache_and_its_restart_the_same_bytes(photos, exported, undisturbed, tmp_path):
    out = tmp_path / "ids"
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, *arguments(photos, exported, out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, capture_output=True, timeout=120, env=environment).returncode == -signal.SIGKILL
    assert any("00002" in path.name for path in out.rglob("*"))  # the half that was written
    half = IdCache(out)
    assert len(list(half)) == 4
    assert not half.done
    for path in half:
        assert np.array_equal(half[path]["ids"], IdCache(undisturbed)[path]["ids"])
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/*.safetensors")}
    assert tokenize(photos, exported, out) == 0
    assert shards(out) == shards(undisturbed)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert sorted(path.name for path in out.rglob("*")) == sorted(path.name for path in undisturbed.rglob("*"))


def test_ranks_do_their_own_shards_only(photos, exported, undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "ids"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, there in (("1", [1, 3]), ("0", [0, 1, 2, 3])):
        monkeypatch.setenv("RANK", rank)
        assert tokenize(photos, exported, out) == 0
        assert list(shards(out)) == [f"{n:05d}.safetensors" for n in there]
    assert shards(out) == shards(undisturbed)


def test_a_cache_of_other_weights_is_refused_with_both_digests(photos, undisturbed, tmp_path, capsys):
    tokenizer_of(photos, 1).save_pretrained(tmp_path / "other")
    before = shards(undisturbed)
    assert tokenize(photos, tmp_path / "other", undisturbed) == 2
    said = capsys.readouterr().err
    fresh = tmp_path / "ids"
    assert tokenize(photos, tmp_path / "other", fresh) == 0
    digests = [IdCache(out).header["weights"] for out in (undisturbed, fresh)]
    assert digests[0] != digests[1]
    assert all(digest in said for digest in digests)
    assert said.count("\n") == 1
    assert shards(undisturbed) == before


def test_a_cache_of_another_size_is_refused(photos, exported, undisturbed, capsys):
    assert tokenize(photos, exported, undisturbed, "size=16") == 2
    assert "was written by a different tokenizer or size: preprocessing.resize is" in capsys.readouterr().err


def test_a_photo_that_is_added_or_replaced_is_all_that_is_encoded(folder, exported, tmp_path, capsys):
    out = tmp_path / "ids"
    assert tokenize(folder, exported, out) == 0
    old = IdCache(out)["3.png"]["ids"]
    shutil.copy(folder / "1.png", folder / "copy.png")
    (folder / "2.png").rename(folder / "moved.png")
    Image.new("RGB", (40, 40), "red").save(folder / "new.png")
    Image.new("RGB", (40, 40), "blue").save(folder / "3.png")
    with pytest.raises(SightwordError, match=r"3\.png changed since it was cached .* Run again: sightword tokenize"):
        IdCache(out)["3.png"]
    assert "3.png" not in IdCache(out)
    capsys.readouterr()
    assert tokenize(folder, exported, out, "shard_size=5") == 0
    assert "10 of 10 images of size 32" in (said := capsys.readouterr().out)
    assert "2 encoded now" in said
    cache, model = IdCache(out), VQImage.from_pretrained(exported)
    assert not np.array_equal(cache["3.png"]["ids"], old)
    for path in cache:
        expected = model.encode(center_crop(32)(read_image(folder / path), None)[None])[0]
        assert cache[path]["ids"].tolist() == expected.tolist()


def test_a_cache_of_an_earlier_version_is_read_and_never_added_to(photos, exported, undisturbed, tmp_path, capsys):
    new, keys = IdCache(undisturbed), ["0.png", "1.png"]
    header = {**new.header, "items": 2, "shards": 1, "shard_size": 2, "items_digest": ""}
    old = FeatureCache.create(tmp_path / "old", header)
    old.write_shard(0, keys, {"ids": np.stack([new[key]["ids"] for key in keys])})
    assert list(IdCache(tmp_path / "old")) == keys
    assert np.array_equal(IdCache(tmp_path / "old")["1.png"]["ids"], new["1.png"]["ids"])
    assert tokenize(photos, exported, tmp_path / "old") == 2
    assert "by an earlier version, whose rows do not know their images. Pass another out=" in capsys.readouterr().err


def test_a_broken_image_stops_the_job_or_is_skipped(folder, exported, tmp_path, capsys):
    (folder / "2.png").write_bytes(b"no image")
    (folder / "4.png").write_bytes(b"no image")
    (folder / "5.png").write_bytes(b"no image")  # with 4 a whole shard, and a whole batch
    out = tmp_path / "ids"
    assert tokenize(folder, exported, out) == 2
    said = capsys.readouterr().err
    assert "2.png is not readable as an image" in said.splitlines()[-1]
    assert "on_error=skip" in said.splitlines()[-1]
    assert tokenize(folder, exported, out, "on_error=skip") == 0
    assert "5 of 8 images" in (said := capsys.readouterr().out)
    assert "3 unreadable images skipped" in said
    assert list(IdCache(out)) == [f"{n}.png" for n in (0, 1, 3, 6, 7)]
    assert IdCache(out).done


def test_a_model_has_to_be_given(photos, tmp_path, capsys):
    assert tokenize(photos, "", tmp_path / "ids") == 2
    said = capsys.readouterr().err
    assert "sightword tokenize needs model=…" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "ids").exists()


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["on_error=ignore"], "on_error='ignore' is not one of raise, skip"),
        (["engine=slurm"], "engine='slurm' is not one of inline, ray"),
        (["size=large"], "size='large' is not a size in pixels. Pass one side, 256, or height x width, 384x128"),
        (["layout=taming"], "layout='taming' is not known"),
        (["size=0"], "size='0' is not a size in pixels"),
        (["batch_size=0"], "batch_size='0' is not a whole number from 1 on"),
        (["shard_size=-1"], "shard_size='-1' is not a whole number from 1 on"),
        (["engine=ray"], "engine=ray needs Ray"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_cache(photos, exported, more, line, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert tokenize(photos, exported, tmp_path / "ids", *more) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
    assert not (tmp_path / "ids").exists()


def test_no_cache_is_begun_among_the_images(folder, exported, capsys):
    assert tokenize(folder, exported, folder) == 2
    assert "contains other files (0.png, 1.png, 2.png, …)" in capsys.readouterr().err
    assert not (folder / "header.json").exists()


def test_the_hint_names_a_key_that_is_there(folder, exported, tmp_path, capsys):
    (folder / "0.png").write_bytes(b"no image")
    assert tokenize(folder, exported, tmp_path / "ids", "on_error=skip") == 0
    assert "['1.png']['ids']" in capsys.readouterr().out
    for path in folder.iterdir():
        path.write_bytes(b"no image")
    assert tokenize(folder, exported, tmp_path / "none", "on_error=skip") == 0
    said = capsys.readouterr().out
    assert "0 of 8 images" in said
    assert "read it" not in said


def test_the_network_is_loaded_once(photos, exported, tmp_path, monkeypatch):
    loads, load = [], VQImage.from_pretrained
    monkeypatch.setattr(VQImage, "from_pretrained", lambda path: loads.append(path) or load(path))
    assert tokenize(photos, exported, tmp_path / "ids") == 0
    assert len(loads) == 1


def test_images_that_are_passed_over_are_counted(folder, exported, tmp_path, capsys):
    (folder / "raw.cr2").touch()
    assert tokenize(folder, exported, tmp_path / "ids") == 0
    assert f"warning: 1 images are passed over (1 .cr2), {folder / 'raw.cr2'} the first" in capsys.readouterr().err


def test_a_folder_without_images_is_one_line(exported, tmp_path, capsys):
    assert tokenize(tmp_path, exported, tmp_path / "ids") == 2
    assert "contains no image" in capsys.readouterr().err
