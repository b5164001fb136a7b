"""One's own labels: every layout gives the same classes and photos, and what is wrong or doubtful is named."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sightword.engine.config import Run
from sightword.errors import SightwordError
from sightword.systems.intent.config import IntentConfig, IntentData
from sightword.systems.intent.doctor import check_labels
from sightword.systems.intent.labels import read_labels
from sightword.systems.intent.system import SYSTEM
from sightword.systems.intent.vocabulary import read_folder, read_vocabulary

PHOTOS = {"a.jpg": ["sport", "snow"], "b.jpg": ["food"], "c.jpg": ["sport"], "d.jpg": ["snow", "food"], "e.jpg": []}
SPLITS = {"a.jpg": "train", "b.jpg": "train", "c.jpg": "val", "d.jpg": "test", "e.jpg": "train"}
NAMES = ["sport", "snow", "food"]


def write_photos(folder: Path, names: list[str] | None = None) -> Path:
    for number, name in enumerate(names or list(PHOTOS)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (40 * number % 256, number, 30)).save(folder / name)
    return folder


def write(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def hot(name: str, yes: str = "1", no: str = "0") -> str:
    return ",".join(yes if label in PHOTOS[name] else no for label in NAMES)


COCO = {
    "categories": [{"id": 40, "name": "snow"}, {"id": 7, "name": "sport"}, {"id": 90, "name": "food"}],
    "images": [{"id": n, "file_name": name, "split": SPLITS[name]} for n, name in enumerate(PHOTOS)],
    "annotations": [
        {"image_id": n, "category_id": {"snow": 40, "sport": 7, "food": 90}[label]}
        for n, name in enumerate(PHOTOS)
        for label in PHOTOS[name]
    ],
}
LAYOUTS = {
    "hot.csv": "image,sport,snow,food,split\n" + "".join(f"{n},{hot(n)},{SPLITS[n]}\n" for n in PHOTOS),
    "empty.csv": "image,sport,snow,food,split\n" + "".join(f"{n},{hot(n, '1.0', '')},{SPLITS[n]}\n" for n in PHOTOS),
    "excel.csv": "\ufeffFile_Name;sport;snow;food;Split\n"
    + "".join(f"{n};{hot(n).replace(',', ';')};{SPLITS[n]}\n" for n in PHOTOS),
    "listed.csv": "image,labels,split\n" + "".join(f"{n},{'; '.join(PHOTOS[n])},{SPLITS[n]}\n" for n in PHOTOS),
    "bars.csv": "image,tags,split\n" + "".join(f"{n},{'|'.join(PHOTOS[n])},{SPLITS[n]}\n" for n in PHOTOS),
    "quoted.csv": "image,labels,split\n" + "".join(f'{n},"{", ".join(PHOTOS[n])}",{SPLITS[n]}\n' for n in PHOTOS),
    "lines.jsonl": "".join(json.dumps({"image": n, "labels": PHOTOS[n], "split": SPLITS[n]}) + "\n" for n in PHOTOS),
    "list.json": [{"path": n, "labels": dict.fromkeys(PHOTOS[n], 1), "split": SPLITS[n]} for n in PHOTOS],
    "coco.json": COCO,
}


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_every_layout_gives_the_same_classes_photos_and_splits(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, LAYOUTS[name])
    write_photos(tmp_path / "photos")
    for root in (tmp_path, tmp_path / name):
        labels = read_labels(root)
        assert list(labels.names) == NAMES
        assert labels.located.folder == tmp_path / "photos"
        assert not labels.divided
        for split in ("train", "val", "test"):
            notes = labels.annotations(split)
            assert notes.files == [photo for photo in PHOTOS if SPLITS[photo] == split]
            marked = [[n for n, on in zip(notes.names, row, strict=True) if on] for row in notes.targets.tolist()]
            assert marked == [PHOTOS[photo] for photo in notes.files] or name == "coco.json"
            assert [set(row) for row in marked] == [set(PHOTOS[photo]) for photo in notes.files]
    assert f"{tmp_path / name} read as: " in labels.assumed
    assert "3 classes (sport, snow, food); split as stated; images in" in labels.assumed


@pytest.mark.parametrize("deep", [False, True])
def test_folders_are_classes(tmp_path: Path, deep: bool) -> None:
    names = [f"{folder}/{n}.png" for folder in ("zebra", "ape") for n in range(5)]
    write_photos(tmp_path, [f"{split}/{name}" for split in ("train", "val") for name in names] if deep else names)
    labels = read_labels(tmp_path)
    assert labels.names == ("ape", "zebra")
    assert labels.divided is not deep
    assert len(labels.annotations("val").files) == (10 if deep else 2)
    with pytest.raises(SightwordError, match="has no photo of split test, only of"):
        labels.annotations("test")


def test_without_a_split_photos_stay_on_their_side_when_others_are_added(tmp_path: Path) -> None:
    write_photos(tmp_path, names := [f"{n:02}.png" for n in range(30)])
    rows = [f"{name},{'a' if n % 2 else 'b'}\n" for n, name in enumerate(names)]
    write(tmp_path / "labels.csv", "image,labels\n" + "".join(rows[:25]))
    before = read_labels(tmp_path)
    write(tmp_path / "labels.csv", "image,labels\n" + "".join(reversed(rows)))
    after = read_labels(tmp_path)
    assert len(before.annotations("val").files) == 5
    assert len({*before.annotations("val").files} & {*after.annotations("train").files}) <= 1
    assert "no split: a fifth is held out as val" in after.assumed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,a,b\na.jpg,1,2\n", "row 2: b: 2 is not a number from 0 to 1"),
        ("image,a,b\na.jpg,1,nan\n", "row 2: b: nan is not a number from 0 to 1"),
        ("image,a,b\na.jpg,1,-1\n", "row 2: b: -1, unknown, is not trained with. Write 0 or 1"),
        ("image,a,note\na.jpg,1,nice\n", "row 2: note: 'nice' is not a number from 0 to 1. If the column is no class"),
        ("image,labels,split\na.jpg,x,dev\n", "row 2: split 'dev' is none of train, val, test. Write val"),
        ("image,labels,split\na.jpg,x,train\nb.jpg,y,\n", "row 3: split '' is none of train, val, test"),
        ("image,labels\na.jpg,x\na.jpg,y\n", "row 3: a.jpg is listed twice, first at row 2"),
        ("image,labels\na.jpg,Happy\nb.jpg,happy\n", "has the classes 'Happy' and 'happy', spelt in two ways"),
        ("image,labels\na.jpg,\nb.jpg,\n", "gives no photo a label"),
        ("photo,labels\na.jpg,x\n", "has no field for the image: its fields are photo, labels"),
        ("image,url\na.jpg,x\n", "has no column of labels: its columns are image, url"),
        ("image,labels\na.jpg,\"['x']\"\n", "begins as a list and is no JSON list of names"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    write_photos(tmp_path)
    with pytest.raises(SightwordError, match=message) as error:
        read_labels(write(tmp_path / "labels.csv", content))
    assert "\n" not in str(error.value)


def test_an_object_of_many_photos_is_refused_with_its_first_three_and_the_layout(tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    file.write_text("{" + ", ".join(f'"{n}.jpg": ["x"]' for n in range(40)) + "}", encoding="utf-8")
    with pytest.raises(SightwordError, match=r'one object \(0.jpg, 1.jpg, 2.jpg, …\).*Write \[\{"image"') as error:
        read_labels(file)
    assert len(str(error.value)) < 400


def test_numbers_in_json_are_names_and_shares_are_named_if_they_are_none(tmp_path: Path) -> None:
    write_photos(tmp_path)
    rows = [{"image": "a.jpg", "label": 3}, {"image": "b.jpg", "label": 0}, {"image": "c.jpg", "label": None}]
    assert read_labels(write(tmp_path / "a.json", rows)).names == ("3", "0")
    for wrong, message in (
        ({"image": "a.jpg", "labels": {"x": -1}}, "labels.x: -1, unknown, is not trained with"),
        ({"image": "a.jpg", "labels": [0.5, 1.0]}, "labels: expected names of classes"),
        ({"image": "a.jpg", "tag": "x"}, "has no field for the labels: its fields are image, tag"),
    ):
        with pytest.raises(SightwordError, match=message):
            read_labels(write(tmp_path / "b.json", [wrong]))


def test_the_doctor_names_what_cannot_be_learnt(tmp_path: Path) -> None:
    names = [f"{n:02}.png" for n in range(40)]
    write_photos(tmp_path / "photos", names)
    (tmp_path / "photos" / "39.png").write_bytes((tmp_path / "photos" / "00.png").read_bytes())
    (tmp_path / "photos" / "05.png").unlink()
    rows = []
    for n, name in enumerate(names):
        split = "val" if n >= 30 else "train"
        odd = str(n % 2)
        rows.append(f"{name},1,{odd},{odd},{int(n == 0)},{int(n >= 30)},{0.4 if n == 3 else 0},{split}\n")
    write(tmp_path / "labels.csv", "image,always,odd,uneven,rare,rares,part,split\n" + "".join(rows))
    text = str(check_labels(str(tmp_path)))
    for line in (
        "labels.csv read as: image = image, a class for each column; 6 classes",
        "train: 30 photos",
        "39 of 40 images are there",
        "'always' of every photo of train: nothing is learnt of that: remove the column",
        "3 classes in one split only, the first: 'rare' is in train only; is 'rares' meant?",
        "3 of 6 classes have fewer than 10 photos in train: 'rare' has 1, 'rares' has 0, 'part' has 1",
        "'odd' and 'uneven' are classes of the same photos",
        "1 labels are between 0 and 1: data.labels=any, the default, takes each above 0 as present",
        "1 equal photos in two splits",
    ):
        assert line in text, text


def test_photos_without_a_label_are_counted_as_having_none(tmp_path: Path) -> None:
    write(tmp_path / "hot.csv", LAYOUTS["hot.csv"])
    write_photos(tmp_path)
    assert "1 of 5 photos have no label, e.jpg the first: read as none" in str(check_labels(str(tmp_path)))


# --------------------------------------------------------------------------------------------------------- vocabularies


def test_a_text_file_is_a_vocabulary(tmp_path: Path) -> None:
    text = "\ufeff# things\nhot  dog\n\nfire_engine\nThngsInOrdr\ta tidy room\ncafe\u0301\n"
    vocabulary = read_vocabulary(write(tmp_path / "things.txt", text))
    assert (vocabulary.stream, vocabulary.size) == ("things", 4)
    assert [entry.name for entry in vocabulary.classes] == ["hot dog", "fire engine", "ThngsInOrdr", "caf\u00e9"]
    assert [vocabulary.prompt(entry) for entry in vocabulary.classes] == [
        "a photo of a hot dog",
        "a photo of a fire engine",
        "a photo of a tidy room",
        "a photo of a caf\u00e9",
    ]
    write(tmp_path / "README.txt", "no vocabulary")
    assert list(read_folder(tmp_path)) == ["things"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("things.txt", "dog\nDog\n", "things.txt: things has 'dog' .id 0. and 'Dog' .id 1."),
        ("things.txt", "# nothing\n", "is empty: expected a word or phrase in each line"),
        ("My Things.txt", "dog\n", "'My Things' is not a name of a stream. Use lowercase letters"),
        ("things.txt", "dog\n__\tx\n", "things.txt: line 2: '__' contains no letter"),
    ],
)
def test_a_text_file_that_is_no_vocabulary_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(SightwordError, match=message):
        read_vocabulary(write(tmp_path / name, text))


# ----------------------------------------------------------------------------------------------------------- a training


def test_a_training_takes_its_classes_and_sides_from_ones_own_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "labels.csv", LAYOUTS["listed.csv"])
    write_photos(tmp_path / "photos")
    data = IntentData(root=str(tmp_path / "labels.csv"))
    config = IntentConfig(model="baseline", embed_dim=8)
    run = SYSTEM.complete(Run("intent/baseline", system=config, data=data))
    assert isinstance(run.system, IntentConfig)
    assert run.system.classes == NAMES
    assert not SYSTEM.divides(data)
    found = SYSTEM.items(data, 0, ["train", "val"])
    assert [item.name for item in found["train"]] == ["a.jpg", "b.jpg", "e.jpg"]
    assert found["train"][0].facts == "snow=1 sport=1"
    assert found["val"][0].files == (tmp_path / "photos" / "c.jpg",)
    SYSTEM.prepare(run)
    said = capsys.readouterr().err
    assert "labels.csv read as: image = image, labels = labels" in said
    assert "warning: 3 of 3 classes have fewer than 10 photos in train" in said
    (tmp_path / "labels.csv").write_text("image,labels\n" + "".join(f"{n},{';'.join(PHOTOS[n])}\n" for n in PHOTOS))
    assert SYSTEM.divides(data)
