"""sightword detokenize: a cache of ids to a folder of PNG files; keys are data, and no other file is touched."""

import json
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
from sightword.data.image import center_crop, read_image, squash, to_image
from sightword.storage.cache import FeatureCache, digest, header_for
from sightword.systems.tokenizer.predict import ImageTokenizer
from sightword.towers.vq.ids import IdCache, View
from sightword.towers.vq.image import VQImage, inference_weights


@pytest.fixture(scope="module")
def exported(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    ImageTokenizer(tokenizer_of(photos, 0)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ids(photos, exported, tmp_path_factory):
    """The ids of eight images of 30 pixels: 8 × 8 tokens of 4, of which the last are padding in part."""
    out = tmp_path_factory.mktemp("ids") / "ids"
    assert main(["tokenize", f"images={photos}", f"out={out}", f"model={exported}", "size=30", "shard_size=3"]) == 0
    return out


def detokenize(ids, model, out, *more):
    return main(["detokenize", f"ids={ids}", f"model={model}", f"out={out}", *more])


def pixels(file):
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).tolist()


def made_up(path, keys, model, **more):
    """A cache of zeros with these keys, and the digest of the model."""
    rows = {"ids": ("uint16", (2, 2))}
    weights = digest(inference_weights(model))
    header = header_for(
        keys,
        rows,
        writer="sightword tokenize",
        weights=weights,
        shard_size=99,
        **{"num_codes": model.num_codes, "preprocessing": View(8).preprocessing()} | more,
    )
    FeatureCache.create(path, header).write_shard(0, keys, {"ids": np.zeros((len(keys), 2, 2), np.uint16)})
    return path


def test_it_is_encode_and_decode_bit_for_bit(photos, exported, ids, tmp_path, capsys):
    assert detokenize(ids, exported, tmp_path / "out") == 0
    assert "8 of 8 images of size 30 in" in (said := capsys.readouterr().out)
    assert "(8 decoded now)" in said
    model = VQImage.from_pretrained(exported)
    for file in sorted(photos.iterdir()):
        image = center_crop(30)(read_image(file))
        with torch.no_grad():
            expected = to_image(model.decode(model.encode(image[None]), size=(30, 30))[0])
        assert pixels(tmp_path / "out" / file.name) == np.asarray(expected).tolist()
    assert len(list((tmp_path / "out").iterdir())) == 8


def test_folders_other_suffixes_and_sizes_of_two_sides_are_kept(photos, exported, tmp_path):
    nested = tmp_path / "photos" / "deep" / "er"
    nested.mkdir(parents=True)
    Image.open(photos / "0.png").save(nested / "0.jpg", quality=95)
    shutil.copy(photos / "0.png", nested / "0.png")
    words = [f"images={tmp_path / 'photos'}", f"out={tmp_path / 'ids'}", f"model={exported}", "size=22x10"]
    assert main(["tokenize", *words]) == 0
    assert detokenize(tmp_path / "ids", exported, tmp_path / "out") == 0
    found = sorted(file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.png"))
    assert found == ["deep/er/0.jpg.png", "deep/er/0.png"]
    model = ImageTokenizer.from_pretrained(exported)
    image = to_image(squash(22, 10)(read_image(nested / "0.png"), None))
    assert pixels(tmp_path / "out" / found[1]) == np.asarray(model(image).reconstruction).tolist()


def test_what_is_there_is_not_decoded_again(exported, ids, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert detokenize(ids, exported, out) == 0
    whole = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in out.iterdir()}
    (out / "5.png").unlink()
    calls, decode = [], ImageTokenizer.decode
    monkeypatch.setattr(ImageTokenizer, "decode", lambda *given: calls.append(1) or decode(*given))
    capsys.readouterr()
    assert detokenize(ids, exported, out) == 0
    assert "8 of 8 images of size 30 in" in (said := capsys.readouterr()).out
    assert "(1 decoded now)" in said.out
    assert "decoding: 1 of 8 images to do" in said.err
    assert len(calls) == 1
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {name: v[1] for name, v in whole.items()}
    assert all((out / name).stat().st_mtime_ns == whole[name][0] for name in whole if name != "5.png")


KILLED_WHILE_WRITING = """
import os, signal, sys
from PIL import Image
from sightword.cli.main import main
save = Image.Image.save
def deadly(self, path, *more, **options):
    if "3.png" not in path.name: return save(self, path, *more, **options)
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
Image.Image.save = deadly
main(sys.argv[1:])
"""


def test_a_killed_job_goes_on_and_ends_with_the_same_bytes(exported, ids, tmp_path):
    assert detokenize(ids, exported, tmp_path / "whole") == 0
    out = tmp_path / "out"
    words = ["detokenize", f"ids={ids}", f"model={exported}", f"out={out}"]
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, capture_output=True, timeout=300, env=environment).returncode == -signal.SIGKILL
    assert sorted(file.name for file in out.glob("*.png")) == ["0.png", "1.png", "2.png"]
    assert main(words) == 0
    for file in (tmp_path / "whole").iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()


def test_ranks_decode_their_own_images_only(exported, ids, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, there in (("1", [1, 3, 5, 7]), ("0", list(range(8)))):
        monkeypatch.setenv("RANK", rank)
        assert detokenize(ids, exported, out) == 0
        assert sorted(file.name for file in out.iterdir()) == [f"{number}.png" for number in there]


def test_ids_of_another_tokenizer_are_refused_with_both_digests(photos, exported, ids, tmp_path, capsys):
    ImageTokenizer(tokenizer_of(photos, 1)).save_pretrained(tmp_path / "other")
    assert detokenize(ids, tmp_path / "other", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "was written with another tokenizer" in said
    assert IdCache(ids).header["weights"] in said
    assert digest(inference_weights(VQImage.from_pretrained(tmp_path / "other"))) in said
    assert not (tmp_path / "out").exists()


def test_a_codebook_of_another_size_is_named(photos, exported, tmp_path, capsys):
    cache = made_up(tmp_path / "ids", ["a.png"], VQImage.from_pretrained(exported), num_codes=99)
    assert detokenize(cache, exported, tmp_path / "out") == 2
    assert "num_codes is 99 in the cache and 16 in the model" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["an image", "a text", "a folder", "another model's"])
def test_a_file_that_it_did_not_write_is_left_alone(photos, exported, ids, other, tmp_path, capsys):
    out, file = tmp_path / "out", tmp_path / "out" / "6.png"
    out.mkdir()
    if other == "an image":
        shutil.copy(photos / "6.png", file)
    elif other == "a text":
        file.write_text("mine")
    elif other == "a folder":
        file.mkdir()
    else:
        ImageTokenizer(tokenizer_of(photos, 1)).save_pretrained(tmp_path / "other")
        words = [f"images={photos}", f"out={tmp_path / 'ids'}", f"model={tmp_path / 'other'}", "size=30"]
        assert main(["tokenize", *words]) == 0
        assert detokenize(tmp_path / "ids", tmp_path / "other", out) == 0
        for number in (0, 1, 2, 3, 4, 5, 7):
            (out / f"{number}.png").unlink()
    before = file.read_bytes() if file.is_file() else None
    capsys.readouterr()
    assert detokenize(ids, exported, out) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "6.png exists and was not decoded from these ids by this model. Pass another out=" in said
    assert [path.name for path in out.iterdir()] == ["6.png"]
    assert before is None or file.read_bytes() == before


@pytest.mark.parametrize("key", ["../away.png", "/away.png", "a/../../away", "", "a/", "nul\0.png"])
def test_a_key_that_leads_out_of_the_folder_is_refused(exported, key, tmp_path, capsys):
    cache = made_up(tmp_path / "ids", ["fine.png", key], VQImage.from_pretrained(exported))
    before = sorted(tmp_path.rglob("*"))
    assert detokenize(cache, exported, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "which is not the path of a file below a folder" in said
    assert said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_that_leads_out_of_the_folder_is_refused(exported, tmp_path, capsys):
    cache = made_up(tmp_path / "ids", ["linked/a.png"], VQImage.from_pretrained(exported))
    (tmp_path / "away").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "linked").symlink_to(tmp_path / "away")
    assert detokenize(cache, exported, tmp_path / "out") == 2
    assert "is a link that leads out of" in capsys.readouterr().err
    assert not list((tmp_path / "away").iterdir())


def test_keys_that_would_be_one_file_are_refused(exported, tmp_path, capsys):
    cache = made_up(tmp_path / "ids", ["a.jpg", "a.jpg.png"], VQImage.from_pretrained(exported))
    assert detokenize(cache, exported, tmp_path / "out") == 2
    assert "has keys 'a.jpg' and 'a.jpg.png', both of which are" in capsys.readouterr().err


def test_a_cache_that_is_not_finished_is_decoded_as_far_as_it_is_and_said_to_be(exported, ids, tmp_path, capsys):
    part = shutil.copytree(ids, tmp_path / "part")
    next(part.glob("*/00002.safetensors")).unlink()
    assert detokenize(part, exported, tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "6 of 6 images" in said.out
    assert "is not finished: 6 of 8 rows. Run its sightword tokenize command again" in said.err
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_ids_in_a_npy_file_are_decoded_whole(exported, tmp_path, capsys):
    model = ImageTokenizer.from_pretrained(exported)
    made = np.random.default_rng(0).integers(0, 16, (12, 3, 5))
    np.save(tmp_path / "made.npy", made)
    assert detokenize(tmp_path / "made.npy", exported, tmp_path / "out") == 0
    assert "12 of 12 images of size 12x20 in" in capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [f"{n:02}.png" for n in range(12)]
    assert pixels(tmp_path / "out" / "07.png") == np.asarray(model.decode(made[7])).tolist()
    np.save(tmp_path / "one.npy", made[3].astype(np.uint16))
    assert detokenize(tmp_path / "one.npy", exported, tmp_path / "one") == 0
    assert pixels(tmp_path / "one" / "0.png") == np.asarray(model.decode(made[3])).tolist()


def test_what_is_no_ids_is_one_line(photos, exported, ids, tmp_path, capsys):
    np.save(tmp_path / "floats.npy", np.zeros((2, 2)))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "beyond.npy", np.full((2, 2), 16))
    (tmp_path / "text.npy").write_text("no array")
    vectors = header_for(["a"], {"pooled": ("float32", (3,))}, writer="other", weights="", shard_size=1)
    FeatureCache.create(tmp_path / "vectors", vectors)
    foreign = made_up(
        tmp_path / "foreign", ["a"], VQImage.from_pretrained(exported), preprocessing={"resize": "squash"}
    )
    for path, told in (
        (photos, "is neither a cache of ids nor a .npy file. Pass the folder that sightword tokenize wrote"),
        (tmp_path / "nowhere", "is neither a cache of ids nor a .npy file"),
        (tmp_path / "vectors", "is a cache without grids of ids"),
        (tmp_path / "floats.npy", "has float64 (2, 2). Pass whole numbers (h, w) or (n, h, w)"),
        (tmp_path / "objects.npy", "is not a .npy file of numbers"),
        (tmp_path / "text.npy", "is not a .npy file of numbers"),
        (tmp_path / "beyond.npy", "id 16 is not in the codebook of 16 codes"),
        (foreign, "was not written by sightword tokenize: its header does not state the size"),
    ):
        assert detokenize(path, exported, tmp_path / "out") == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert told in said
    assert not list((tmp_path / "out").glob("*"))


def test_a_model_without_a_file_for_out_is_one_line(exported, ids, tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    assert detokenize(ids, exported, tmp_path / "out") == 2
    assert "is a file. Pass a folder" in capsys.readouterr().err
    assert detokenize(ids, "", tmp_path / "other") == 2
    assert "model='' is not a model. Pass a run directory" in capsys.readouterr().err


def test_the_files_state_their_origin_and_nothing_of_this_machine(exported, ids, tmp_path):
    assert detokenize(ids, exported, tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / "0.png") as image:
        assert list(image.info) == ["sightword"]
        assert IdCache(ids).header["weights"] in image.info["sightword"]
        assert str(tmp_path) not in json.dumps(image.info)
