"""Synthetic people: their attributes, their captions, and the three published layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightword.miniature import person as miniature_person
from sightword.miniature.figure import COLOURS, Person, draw
from sightword.miniature.person import (
    CHOICES,
    FAMILY,
    SHOWN_BY,
    SYNONYMS,
    Sizes,
    describe,
    people,
    shows,
    vocabulary,
    write_cuhk,
    write_icfg,
    write_rstp,
)

SOMEBODY = Person(
    *("woman", "long", "blond", "coat", "green", "logo", "purple", "trousers", "black", "boots", "white"),
    *("handbag", "brown", "left", "cap", "red", "glasses"),
)


def differing(one: Person, other: Person) -> list[str]:
    return [name for name in CHOICES if getattr(one, name) != getattr(other, name)]


def test_a_person_is_seventeen_words_that_can_be_chosen() -> None:
    assert len(CHOICES) == 17
    assert tuple(CHOICES) == Person._fields
    assert all(getattr(SOMEBODY, name) in words for name, words in CHOICES.items())


def test_siblings_differ_from_the_first_of_their_family_in_one_word_each_that_shows() -> None:
    found = [person for person, _ in people(80, seed=3)]
    for start in range(0, 80, FAMILY):
        first, *others = found[start : start + FAMILY]
        changed = [differing(first, other) for other in others]
        assert [len(names) for names in changed] == [1, 1, 1]
        assert len({names[0] for names in changed}) == 3
        assert all(shows(first, names[0]) for names in changed)


def test_no_two_identities_look_the_same_and_no_pattern_has_its_garments_colour() -> None:
    found = [person for person, _ in people(200, seed=0)]
    looks = {tuple(word for name, word in person._asdict().items() if shows(person, name)) for person in found}
    assert len(looks) == 200
    assert not [person for person in found if person.pattern != "plain" and person.top_colour == person.pattern_colour]


def words_of(text: str) -> set[str]:
    return set(text.lower().replace(".", "").replace(",", "").split())


def test_a_caption_tells_what_it_says_it_tells_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    mentioned = 0
    for person, _ in people(60, seed=1):
        for _ in range(5):
            text, names = describe(person, rng)
            mentioned += len(names)
            words = words_of(text)
            for name in names:
                assert shows(person, name)
                value = getattr(person, name)
                forms = {"striped": {"stripes"}, "dotted": {"dots"}, "none": {"no"}}.get(value)
                assert words & (forms or set(SYNONYMS.get(value, (value,)))), (name, value, text)
            if "bag_side" not in names:
                assert not words & {"left", "right"}
            if "sex" not in names:
                assert not words & {"he", "she", "his", "her", *SYNONYMS["man"], *SYNONYMS["woman"]}
    assert 6 < mentioned / 300 < 12


def test_an_attribute_is_left_out_one_time_in_five() -> None:
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(CHOICES, 0)
    for _ in range(1000):
        for name in describe(SOMEBODY, rng)[1]:
            counts[name] += 1
    for name in ("sex", "hair", "top", "top_colour", "bottom", "shoes", "bag", "cap", "glasses"):
        assert counts[name] == pytest.approx(800, abs=50), name


def test_captions_mention_nothing_that_an_image_from_behind_hides() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        text, names = describe(SOMEBODY, rng, behind=True)
        assert not words_of(text) & {"logo", "glasses", "spectacles", "purple", "violet"}
        assert not {"glasses", "pattern", "pattern_colour"} & set(names)
    assert shows(SOMEBODY._replace(pattern="striped"), "pattern", behind=True)
    assert not shows(SOMEBODY._replace(hair="bald"), "hair_colour")


def test_the_vocabulary_has_every_word_of_the_captions() -> None:
    known, rng = set(vocabulary()), np.random.default_rng(9)
    for person, _ in people(100, seed=5):
        assert words_of(describe(person, rng)[0]) <= known


def near(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(H, W) bool: pixels of about a colour, whatever the light."""
    pixels = image.astype(float)
    return np.abs(pixels - np.array(colour)).max(-1) < 40


def test_a_bag_is_in_the_persons_own_hand_so_mirrored_from_the_front() -> None:
    carrier = SOMEBODY._replace(bag_colour="yellow", top_colour="black", pattern="plain", cap="none", hair="short")
    places: dict[bool, list[float]] = {True: [], False: []}
    for number in range(60):
        with_bag, without = (
            draw(carrier._replace(bag=bag), 0, np.random.default_rng(number), (96, 32)) for bag in ("handbag", "none")
        )
        changed = np.abs(with_bag.image.astype(int) - without.image).sum(-1) > 60
        assert changed.any()
        places[with_bag.behind].append(float(np.argwhere(changed)[:, 1].mean()))
    assert len(places[True]) > 5
    assert min(places[False]) > 16 > max(places[True])  # the left hand: right of the middle from the front


@pytest.mark.parametrize("name", ["top_colour", "bottom_colour", "shoe_colour"])
def test_a_mentioned_colour_is_in_the_image(name: str) -> None:
    plain = SOMEBODY._replace(pattern="plain", top="jacket", hair="short", bag="none")
    for number, colour in enumerate(CHOICES[name]):
        other = next(word for word in ("blue", "red") if word != colour)
        dressed = plain._replace(**dict.fromkeys(("top_colour", "bottom_colour", "shoe_colour"), other))
        shots = [
            draw(person, 0, np.random.default_rng(number), (96, 32)).image
            for person in (dressed._replace(**{name: colour}), dressed)
        ]
        gained = near(shots[0], COLOURS[colour]).sum() - near(shots[1], COLOURS[colour]).sum()
        assert gained > 5, colour


def test_every_attribute_can_be_seen() -> None:
    """Some other word for it changes the image, where it is visible; where it does not, none does."""
    bald = SOMEBODY._replace(hair="bald")
    for name, words in CHOICES.items():
        front = next(n for n in range(20) if not draw(SOMEBODY, 0, np.random.default_rng(n), (96, 32)).behind)
        images = [draw(SOMEBODY._replace(**{name: w}), 0, np.random.default_rng(front), (96, 32)).image for w in words]
        assert any((images[0] != image).any() for image in images[1:]), name
    hidden = [
        draw(bald._replace(hair_colour=word), 0, np.random.default_rng(0), (96, 32)).image for word in ("red", "grey")
    ]
    assert (hidden[0] == hidden[1]).all()
    assert set(SHOWN_BY) < set(CHOICES)


# ------------------------------------------------------------------------------------------------------------- files


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        write_cuhk(tmp_path / name, Sizes(4, 4, 4), 2, seed=seed, size=(96, 32))
    write_cuhk(tmp_path / "one", Sizes(4, 4, 4), 2, seed=1, size=(96, 32))  # over what is there
    one, again, other = (contents(tmp_path / name) for name in ("one", "again", "other"))
    assert one == again
    assert one["CUHK-PEDES/reid_raw.json"] != other["CUHK-PEDES/reid_raw.json"]
    assert len(one) == 24 + 4  # images; annotations, attributes, paraphrases and the card


def test_cuhk_is_as_published_and_the_truth_lies_beside_it(tmp_path: Path) -> None:
    write_cuhk(tmp_path, Sizes(8, 4, 4), 3, captions=2, size=(96, 32))
    folder = tmp_path / "CUHK-PEDES"
    records = json.loads((folder / "reid_raw.json").read_text())
    assert len(records) == 48
    assert set(records[0]) == {"split", "captions", "file_path", "processed_tokens", "id"}
    assert [record["id"] for record in records[::3]] == list(range(1, 17))
    assert [record["split"] for record in records[::3]] == ["train"] * 8 + ["val"] * 4 + ["test"] * 4
    assert {record["file_path"].split("/")[0] for record in records} == {"cam_a", "cam_b", "CUHK01"}
    assert {len(record["captions"]) for record in records} == {2}
    for record in records:
        with Image.open(folder / "imgs" / record["file_path"]) as image:
            assert image.size == (32, 96)
    truth = json.loads((folder / "attributes.json").read_text())
    assert truth["identities"]["5"] == people(16, 7)[4][0]._asdict()
    assert set(truth["images"]) == {record["file_path"] for record in records}
    assert all(len(entry["mentioned"]) == 2 for entry in truth["images"].values())
    assert [truth["families"][str(number)] for number in (1, 4, 5, 16)] == [0, 0, 1, 3]


def test_more_people_to_train_on_change_nobody_else_and_all_of_these_have_paraphrases(tmp_path: Path) -> None:
    for name, sizes in (("few", Sizes(4, 4, 4)), ("more", Sizes(4, 4, 4, more=8))):
        write_cuhk(tmp_path / name, sizes, 3, size=(96, 32))
    few, more = (contents(tmp_path / name / "CUHK-PEDES" / "imgs") for name in ("few", "more"))
    assert few.items() <= more.items()
    assert len(more) == 36 + 8 * 2
    records, old = (json.loads((tmp_path / n / "CUHK-PEDES" / "reid_raw.json").read_text()) for n in ("more", "few"))
    assert records[: len(old)] == old
    assert {record["split"] for record in records[len(old) :]} == {"train"}
    others = json.loads((tmp_path / "more" / "CUHK-PEDES" / "paraphrases.json").read_text())
    assert set(others) == {record["file_path"] for record in records if record["split"] == "train"}
    assert {len(texts) for texts in others.values()} == {8}
    looks = [tuple(person.items()) for person in attributes(tmp_path / "more")]
    assert len(set(looks)) == len(looks) == 20


def attributes(folder: Path) -> list[dict[str, str]]:
    return list(json.loads((folder / "CUHK-PEDES" / "attributes.json").read_text())["identities"].values())


def test_icfg_has_one_caption_no_validation_and_folders_that_are_not_the_split(tmp_path: Path) -> None:
    write_icfg(tmp_path, Sizes(8, 4, 4), 2, size=(96, 32))
    records = json.loads((tmp_path / "ICFG-PEDES" / "ICFG-PEDES.json").read_text())
    assert {record["split"] for record in records} == {"train", "test"}
    assert sum(record["split"] == "train" for record in records) == 24
    assert {len(record["captions"]) for record in records} == {1}
    assert min(record["id"] for record in records) == 0
    assert {(record["split"], record["file_path"].split("/")[0]) for record in records} == {
        (split, folder) for split in ("train", "test") for folder in ("train", "test")
    }
    assert all((tmp_path / "ICFG-PEDES" / "imgs" / record["file_path"]).is_file() for record in records)


def test_rstp_has_img_path_and_one_flat_folder(tmp_path: Path) -> None:
    write_rstp(tmp_path, Sizes(4, 4, 4), 2, size=(96, 32))
    records = json.loads((tmp_path / "RSTPReid" / "data_captions.json").read_text())
    assert set(records[0]) == {"id", "img_path", "captions", "split"}
    assert all("/" not in record["img_path"] for record in records)
    assert len(list((tmp_path / "RSTPReid" / "imgs").iterdir())) == 24
    assert {record["split"] for record in records} == {"train", "val", "test"}


def test_nothing_is_drawn_from_a_global_generator() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    list(miniature_person.captioned_images(Sizes(4, 0, 0), 1, 1, 0, (96, 32)))
    assert np.random.get_state()[1].tolist() == before
