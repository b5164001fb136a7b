"""A run keeps which items it trains on and which it holds out, and says what changed since."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from made import assert_same
from PIL import Image
from worlds import arguments_of

from sightword.cli.main import main
from sightword.cli.train import train_in
from sightword.data.image import list_images
from sightword.engine import run as runs
from sightword.engine.split import choose, read_record
from sightword.storage.writer import write_png


@pytest.fixture
def folder(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def run(folder, tiny, tmp_path, monkeypatch):
    """A run of two batches, six photos to train on and two held out, started in the directory above them."""
    monkeypatch.chdir(tmp_path)
    arguments = [*tiny[1:], "data.root=photos", "data.val_split=0.25", "trainer.steps=2", "name=a"]
    assert main(["train", "experiment=tokenizer/mini", *arguments]) == 0
    return tmp_path / "runs" / "tokenizer" / "mini" / "a"


@pytest.fixture
def measured(run, capsys):
    """Return a function: evaluate the run, and return its metrics and what was said on stderr."""

    def measure(*overrides):
        capsys.readouterr()
        assert main(["evaluate", f"run={run}", *overrides]) == 0
        return json.loads((run / "evaluation.json").read_text())["metrics"], capsys.readouterr().err

    return measure


def sides(run):
    return {split: sorted(entries) for split, entries in read_record(run).splits.items()}


def photo(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def test_an_added_photo_is_left_out_and_counted(folder, measured):
    before, said = measured()
    assert "val:" not in said
    for number in range(10, 14):
        photo(number).save(folder / f"0{number}.png")
    after, said = measured()
    assert after == before
    assert "note: val: 4 of 2 images are new and left out" not in said
    assert "val: 4 images are new and left out" in said


def test_a_resumed_run_trains_on_its_own_photos_alone(run, folder, capsys):
    shutil.copytree(run, run.with_name("b"))
    assert main(["train", f"resume={run}", "trainer.steps=4"]) == 0
    photo(10).save(folder / "0a.png")
    capsys.readouterr()
    assert main(["train", f"resume={run.with_name('b')}", "trainer.steps=4"]) == 0
    assert "1 images are new and left out" in capsys.readouterr().err
    one, other = (
        torch.load(each / "checkpoints" / "last.ckpt", weights_only=True) for each in (run, run.with_name("b"))
    )
    assert_same(one["state_dict"], other["state_dict"])


def test_what_changed_is_named_with_its_count(run, folder, measured):
    held, trained = sides(run)["val"], sides(run)["train"]
    photo(20).save(folder / held[0])
    (folder / held[1]).rename(folder / "renamed.png")
    _, said = measured()
    assert f"warning: val: 1 of 2 images have another content than in the training, the first is {held[0]}" in said
    assert f"note: val: 1 of 2 images are found under another name, the first is {held[1]}" in said
    (folder / "renamed.png").unlink()
    (folder / trained[0]).unlink()
    _, said = measured()
    assert f"warning: val: 1 of 2 images are gone, the first is {held[1]}" in said
    assert json.loads((run / "evaluation.json").read_text())["data"]
    assert choose(runs.read_config(run), run).findings[0].message.startswith("train: 1 of 6 images are gone")


def test_a_photo_never_slides_to_the_other_side(run, folder, measured):
    held, trained = sides(run)["val"], sides(run)["train"]
    shutil.copyfile(folder / trained[0], folder / held[0])
    _, said = measured()
    assert "warning: val: 1 images equal images of the other side and are left out" in said
    (folder / held[1]).unlink()
    assert main(["evaluate", f"run={run}"]) == 2


def test_a_run_without_any_of_its_photos_says_so(run, folder, capsys):
    for name in sides(run)["val"]:
        (folder / name).unlink()
    assert main(["evaluate", f"run={run}"]) == 2
    assert f"It was trained with data.root={folder}" in capsys.readouterr().err


def test_equal_photos_and_links_are_on_one_side(folder, run, tiny, tmp_path):
    shutil.rmtree(run)
    (folder / "again").mkdir()
    for number in range(8):
        shutil.copyfile(folder / f"{number}.png", folder / "again" / f"{number}.png")
        os.symlink(folder / f"{number}.png", folder / f"link{number}.png")
    arguments = [*tiny[1:], f"data.root={folder}", "data.val_split=0.25", "trainer.steps=2", "name=a"]
    assert main(["train", "experiment=tokenizer/mini", *arguments]) == 0
    record = read_record(run)
    train, val = ({entry.content for entry in record.splits[split].values()} for split in ("train", "val"))
    assert not train & val
    assert [len(record.splits[split]) for split in ("train", "val")] == [18, 6]


def test_a_folder_of_its_own_for_validation_is_disjoint_by_content(run, folder, tiny, tmp_path):
    (tmp_path / "held").mkdir()
    shutil.copyfile(folder / "3.png", tmp_path / "held" / "other_name.png")
    arguments = [*tiny[1:], f"data.root={folder}", "data.val_root=held", "trainer.steps=2", "name=b"]
    assert main(["train", "experiment=tokenizer/mini", *arguments]) == 0
    assert sides(run.with_name("b")) == {
        "train": [f"{number}.png" for number in range(8) if number != 3],
        "val": ["other_name.png"],
    }


def test_the_working_directory_changes_nothing(run, measured, tmp_path, monkeypatch):
    before, _ = measured()
    (tmp_path / "elsewhere" / "photos").mkdir(parents=True)
    photo(30).save(tmp_path / "elsewhere" / "photos" / "0.png")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert measured() == (before, "")


def test_photos_that_moved_are_found_by_their_content(folder, measured, tmp_path):
    before, _ = measured()
    folder.rename(tmp_path / "moved")
    after, said = measured(f"data.root={tmp_path / 'moved'}", "data.val_split=0.5")
    assert (after, said) == (before, "")


def test_other_photos_are_measured_without_those_that_were_trained_on(run, folder, measured, tmp_path):
    trained = sides(run)["train"]
    (tmp_path / "other").mkdir()
    photo(40).save(tmp_path / "other" / "new.png")
    shutil.copyfile(folder / trained[0], tmp_path / "other" / "seen.png")
    _, said = measured(f"data.val_root={tmp_path / 'other'}")
    assert "warning: val: 1 of 2 images are left out: this run was trained on them, the first is seen.png" in said


def test_what_sightword_wrote_is_never_data(folder, run, tiny, tmp_path, monkeypatch):
    write_png(photo(50), folder / "figure.png")
    monkeypatch.chdir(folder)
    arguments = [*tiny[1:], "data.root=.", "trainer.steps=2", "trainer.images_every=1", "name=c"]
    assert main(["train", "experiment=tokenizer/mini", *arguments]) == 0
    assert list(folder.glob("runs/**/*.png"))
    assert [path.name for path in list_images(".")] == [f"{number}.png" for number in range(8)]


# ------------------------------------------------------------------------------------------------ the other systems


@pytest.mark.parametrize(
    "experiment", ["intent/stage1", "retrieval/irra_mini", "skeleton/slowonly", "points/lift_mini"]
)
def test_every_system_keeps_what_it_used(experiment, world, tmp_path, capsys):
    arguments = [*arguments_of(experiment, world), "trainer.steps=1", f"out={tmp_path}", "name=a"]
    assert main(["train", *arguments]) == 0
    run = tmp_path / experiment / "a"
    record = read_record(run)
    assert set(record.splits) == {"train", "val"}
    assert all(record.splits.values())
    capsys.readouterr()
    assert main(["evaluate", f"run={run}", "checkpoint=last"]) == 0
    assert "train:" not in capsys.readouterr().err
    assert not choose(runs.read_config(run), run).findings


def test_a_recording_that_the_file_moved_to_validation_is_not_measured(world, tmp_path, capsys):
    pickled = pickle.loads((world["root"] / "motion" / "annotations.pkl").read_bytes())
    mine = tmp_path / "annotations.pkl"
    pickled["split"]["val"] = pickled["split"]["xsub_val"]
    mine.write_bytes(pickle.dumps(pickled))
    arguments = [*arguments_of("skeleton/slowonly", world), f"data.annotations={mine}", "data.val=val", "name=a"]
    assert main(["train", *arguments, "trainer.steps=1", f"out={tmp_path}"]) == 0
    moved = pickled["split"]["xsub_train"].pop(0)
    pickled["split"]["val"].insert(0, moved)
    mine.write_bytes(pickle.dumps(pickled))
    run = tmp_path / "skeleton" / "slowonly" / "a"
    chosen = choose(runs.read_config(run), run)
    assert moved not in chosen.names["val"]
    assert any("val: 1 recordings equal recordings of the other side" in finding.message for finding in chosen.findings)


def test_recognise_says_how_many_recordings_were_trained_on(world, tmp_path, capsys):
    arguments = [*arguments_of("skeleton/slowonly", world), "trainer.steps=1", f"out={tmp_path}", "name=a"]
    assert main(["train", *arguments]) == 0
    run = tmp_path / "skeleton" / "slowonly" / "a"
    trained = len(read_record(run).splits["train"])
    capsys.readouterr()
    assert main(["recognise", f"model={run}", "checkpoint=last", f"out={tmp_path / 'named'}"]) == 0
    assert f"trained on: {trained} of these" in capsys.readouterr().out


def test_a_run_in_a_folder_of_the_callers_choice_keeps_its_data(folder, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [*tiny[1:], "data.root=photos", "data.val_split=0.25", "trainer.steps=2"]
    assert train_in(tmp_path / "deep" / "run", ["experiment=tokenizer/mini", *arguments])
    assert read_record(tmp_path / "deep" / "run").data == {"root": str(folder)}
