"""What is known of drawn people: what a perfect reader of the captions would reach, and who is of one family."""

import json
from pathlib import Path

import numpy as np
import pytest

from sightword.miniature.person import Sizes, write_cuhk
from sightword.systems.retrieval.record import Listing
from sightword.systems.retrieval.split import Split
from sightword.systems.retrieval.truth import Truth, read_truth

PEOPLE = {"7": ("red", "boots"), "8": ("red", "sneakers"), "9": ("blue", "boots")}
TOLD = {"a.png": [["top"], ["top", "shoes"]], "b.png": [[]], "c.png": [["shoes"]], "d.png": [["top"]]}


def written(folder: Path, **more: object) -> Truth | None:
    """Three people, of whom the first has two images: read as a split of five captions."""
    identities = {name: {"top": top, "shoes": shoes} for name, (top, shoes) in PEOPLE.items()}
    images = {path: {"mentioned": told} for path, told in TOLD.items()}
    content = {"identities": identities, "families": {"7": 0, "8": 0, "9": 4}, "images": images, **more}
    (folder / "attributes.json").write_text(json.dumps(content))
    paths, pids = [folder / "imgs" / path for path in TOLD], np.array([7, 7, 8, 9])
    split = Split("test", paths, pids, ["…"] * 5, np.array([0, 0, 1, 2, 3]))
    return read_truth(Listing(folder / "reid_raw.json", folder / "imgs", []), split)


def test_a_perfect_reader_finds_those_of_whom_all_is_true_and_takes_any_of_their_images(tmp_path: Path) -> None:
    found = written(tmp_path)
    assert found is not None
    assert found.families.tolist() == [0, 0, 0, 4]
    # red: three images, two are right; red boots: both; nothing told: 2 of 4; sneakers: one; blue: one
    assert found.ceiling.tolist() == pytest.approx([2 / 3, 1, 2 / 4, 1, 1])


def test_a_file_of_another_kind_is_named_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert written(tmp_path, images={**{path: {} for path in TOLD}}) is None
    assert "attributes.json" in (said := capsys.readouterr().err)
    assert "The ceiling and the right-family share are not computed" in said
    assert (
        written(tmp_path, images={**{p: {"mentioned": told} for p, told in TOLD.items()}, "b.png": {"mentioned": []}})
        is None
    )
    assert "mentions attributes of 0 captions, and the annotations have 1" in capsys.readouterr().err
    (tmp_path / "attributes.json").write_text("[1, 2]")
    split = Split("test", [], np.array([], dtype=np.int64), [], np.array([], dtype=np.int64))
    assert read_truth(Listing(tmp_path / "reid_raw.json", tmp_path, []), split) is None
    (tmp_path / "attributes.json").unlink()
    capsys.readouterr()
    assert read_truth(Listing(tmp_path / "reid_raw.json", tmp_path, []), split) is None
    assert capsys.readouterr().err == ""


def test_of_drawn_people_both_are_known(tmp_path: Path) -> None:
    from sightword.systems.retrieval.split import Source, read_split

    write_cuhk(tmp_path, Sizes(4, 4, 8), 2, size=(48, 16))
    source = Source("cuhk_pedes", tmp_path)
    found = read_truth(source.read(), read_split(source, "test"))
    assert found is not None
    assert found.families.tolist() == [2] * 8 + [3] * 8
    assert 0.5 < found.ceiling.mean() <= 1
