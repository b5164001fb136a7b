"""What is trained on and what is held out: whole images, never both, the same for the same seed."""

import shutil

import pytest
import torch
from PIL import Image, ImageOps

from sightword.cli.main import main
from sightword.systems.tokenizer.config import TokenizerData
from sightword.systems.tokenizer.data import make_loaders, split

TINY = {"image_size": 16, "batch_size": 2, "num_workers": 0}


def data_of(root, **options):
    return TokenizerData(**({"root": str(root)} | TINY | options))


@pytest.fixture
def folder(photos, tmp_path):
    """Photos that a test may spoil."""
    return shutil.copytree(photos, tmp_path / "photos")


def seen(loader, epochs=1):
    return {path for _ in range(epochs) for batch in loader for path in batch.paths}


@pytest.mark.parametrize("options", [{}, {"crops": 3, "val_crops": 2}], ids=["once", "many crops"])
def test_held_out_images_are_never_trained_on(photos, options):
    loaders = make_loaders(data_of(photos, val_split=0.25, **options))
    trained, held_out = seen(loaders.train, epochs=3), seen(loaders.val)
    assert not trained & held_out
    assert len(held_out) == 2
    assert trained | held_out == {str(path) for path in photos.iterdir()}


def test_the_split_depends_on_the_seed_only(photos):
    first = split(data_of(photos, val_split=0.25), 0)
    assert split(data_of(photos, val_split=0.25, crops=5, val_crops=3, image_size=64, flip=False), 0) == first
    others = {tuple(split(data_of(photos, val_split=0.25), seed)[1]) for seed in range(8)}
    assert len(others) > 3


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.25, 2), (0.5, 4), (0.99, 8 - 1)])
def test_the_share_is_held_out_and_something_is_left_on_both_sides(photos, share, count):
    train, val = split(data_of(photos, val_split=share), 0)
    assert (len(train), len(val)) == (8 - count, count)


def test_a_validation_folder_of_its_own_leaves_the_other_whole(photos, folder):
    for path in folder.iterdir():
        with Image.open(path) as image:
            ImageOps.mirror(image).save(path)
    train, val = split(data_of(photos, val_root=str(folder)), 0)
    assert train == sorted(photos.iterdir())
    assert val == sorted(folder.iterdir())


def test_a_validation_folder_inside_the_other_is_not_trained_on(folder):
    inside = folder / "val"
    inside.mkdir()
    for name in ("0.png", "1.png"):
        (folder / name).rename(inside / name)
    (folder / "link.png").symlink_to(inside / "0.png")
    train, val = split(data_of(folder, val_root=str(inside)), 0)
    assert [path.name for path in val] == ["0.png", "1.png"]
    assert [path.name for path in train] == [f"{n}.png" for n in range(2, 8)]


def test_the_same_folder_twice_is_refused(photos):
    with pytest.raises(ValueError, match="none is left to train on"):
        split(data_of(photos, val_root=str(photos)), 0)


def test_one_image_cannot_be_split(folder):
    for path in sorted(folder.iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match=r"contains one image, which cannot be split: .* data.val_root"):
        make_loaders(data_of(folder))


def test_no_root_is_said_before_anything_else():
    with pytest.raises(ValueError, match=r"data.root is not set: .* data.root="):
        make_loaders(TokenizerData())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "data.root is not set"),
        (["data.root=/nowhere"], "/nowhere does not exist"),
        (["data.root=x", "data.val_split=1.5"], "data.val_split=1.5 is not a fraction in (0, 1)"),
        (["data.root=x", "data.on_error=ignore"], "data.on_error is raise or skip, got 'ignore'"),
    ],
)
def test_a_mistake_in_the_data_is_one_line(words, line, tmp_path, capsys):
    assert main(["train", "experiment=tokenizer/mini", *words, f"out={tmp_path / 'runs'}"]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("val_crops", [1, 3])
def test_crops_for_validation_stay_the_same(photos, val_crops):
    loaders = make_loaders(data_of(photos, val_split=0.25, val_crops=val_crops))
    first, second = ([batch.images for batch in loaders.val] for _ in range(2))
    again = [batch.images for batch in make_loaders(data_of(photos, val_split=0.25, val_crops=val_crops)).val]
    crops = torch.cat(first)
    assert torch.equal(crops, torch.cat(second))
    assert torch.equal(crops, torch.cat(again))
    assert len(crops) == 2 * val_crops
    assert len({tuple(crop.flatten().tolist()) for crop in crops}) == 2 * val_crops


def test_crops_for_training_differ_from_epoch_to_epoch(photos):
    train = make_loaders(data_of(photos, val_split=0.25)).train
    by_path = [
        {path: image for batch in train for path, image in zip(batch.paths, batch.images, strict=True)} for _ in "ab"
    ]
    assert by_path[0].keys() == by_path[1].keys()
    assert not any(torch.equal(by_path[0][path], by_path[1][path]) for path in by_path[0])


def test_an_epoch_takes_so_many_crops_of_each_image(photos):
    train = make_loaders(data_of(photos, val_split=0.25, crops=3)).train
    paths = [path for batch in train for path in batch.paths]
    assert len(paths) == 6 * 3
    assert all(paths.count(path) == 3 for path in paths)


def test_batches_are_squares_between_minus_one_and_one(photos):
    for batch in make_loaders(data_of(photos)).train:
        assert batch.images.shape == (2, 3, 16, 16)
        assert batch.images.dtype == torch.float32
        assert -1 <= batch.images.min() < batch.images.max() <= 1
        assert batch.skipped == 0


def test_an_unreadable_image_stops_a_run_with_its_name(folder):
    for path in folder.iterdir():
        path.write_bytes(b"no image: " + path.name.encode())
    with pytest.raises(ValueError, match=r"\d.png is not readable as an image"):
        next(iter(make_loaders(data_of(folder)).train))


def test_skipped_images_are_counted_in_the_batch(folder):
    broken = sorted(split(data_of(folder, val_split=0.25), 0)[0])[0]
    broken.write_bytes(b"no image: " + broken.name.encode())
    batches = list(make_loaders(data_of(folder, val_split=0.25, on_error="skip", batch_size=6)).train)
    assert [(len(batch.images), batch.skipped) for batch in batches] == [(6, 1)]  # another in its place
    assert str(broken) not in batches[0].paths
    broken = split(data_of(folder, val_split=0.25), 0)[1][0]
    broken.write_bytes(b"no image: " + broken.name.encode())
    batches = list(make_loaders(data_of(folder, val_split=0.25, on_error="skip", batch_size=2)).val)
    assert [(len(batch.images), batch.skipped) for batch in batches] == [(1, 1)]  # none counts twice


def test_batches_in_which_nothing_is_readable_do_not_end_a_run(folder, tiny, tmp_path):
    train, val = split(data_of(folder, val_split=0.5), 0)
    for path in (*train[:3], *val[:2]):
        path.write_bytes(b"no image: " + path.name.encode())
    words = [*tiny, f"data.root={folder}", "data.on_error=skip", "data.val_split=0.5", "data.batch_size=2"]
    words += ["data.crops=1", "data.val_crops=1", "trainer.steps=4", "trainer.val_every=2", f"out={tmp_path / 'runs'}"]
    assert main(["train", "experiment=tokenizer/mini", *words]) == 0
    (file,) = (tmp_path / "runs").rglob("metrics.csv")
    header, *rows = (line.split(",") for line in file.read_text().splitlines())
    assert [row[header.index("val/skipped_images")] for row in rows][-1] == "2"


@pytest.mark.parametrize(
    ("half", "line"), [(0, "none of the 4 images is readable"), (1, "none of the 4 validation images")]
)
def test_nothing_readable_at_all_is_one_line(folder, tiny, half, line, tmp_path, capsys):
    for path in split(data_of(folder, val_split=0.5), 0)[half]:
        path.write_bytes(b"no image: " + path.name.encode())
    words = [*tiny, f"data.root={folder}", "data.on_error=skip", "data.val_split=0.5", "data.val_crops=1"]
    words += ["trainer.steps=2", "trainer.val_every=2", f"out={tmp_path / 'runs'}"]
    assert main(["train", "experiment=tokenizer/mini", *words]) == 2
    assert line in capsys.readouterr().err.splitlines()[-1]


def test_skipped_images_are_reported_by_the_run(folder, tiny, tmp_path, capsys):
    train, val = split(data_of(folder, val_split=0.5), 0)
    for path in (train[0], val[0]):
        path.write_bytes(b"no image: " + path.name.encode())
    words = [*tiny, f"data.root={folder}", "data.on_error=skip", "data.val_split=0.5", "data.batch_size=4"]
    words += ["data.crops=1", "data.val_crops=1", "trainer.steps=3", f"out={tmp_path / 'runs'}"]
    assert main(["train", "experiment=tokenizer/mini", *words]) == 0
    assert "skipped_images" in capsys.readouterr().out
    (file,) = (tmp_path / "runs").rglob("metrics.csv")
    header, *rows = (line.split(",") for line in file.read_text().splitlines())
    counts = [row[header.index("train/skipped_images")] for row in rows]
    assert [count for count in counts if count] == ["1", "2", "3"]
    assert [row[header.index("val/skipped_images")] for row in rows][-1] == "1"
