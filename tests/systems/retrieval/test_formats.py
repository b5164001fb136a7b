"""One's own images and captions: each format is read as it is published, and what is wrong in one is named."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from sightword.errors import SightwordError
from sightword.systems.retrieval.check import check_pairs
from sightword.systems.retrieval.data import read_person
from sightword.systems.retrieval.formats.layout import read_own
from sightword.systems.retrieval.record import Listing
from sightword.systems.retrieval.split import Source, items, read_split

TEXTS = {"a.jpg": ["a red coat", "someone in red"], "b.jpg": ["a blue coat"], "c.jpg": ["a green coat"]}


def write_images(folder: Path, names: list[str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names or list(TEXTS)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 32), (60 * number, 90, 30)).save(folder / name)
    return folder


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 32), (value, 90, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def texts_of(listing: Listing) -> dict[str, list[str]]:
    return {record.path: record.captions for record in listing.records}


def write(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


ROWS = [(name, text) for name, texts in TEXTS.items() for text in texts]
TABLES = {
    "captions.csv": "image,caption\n" + "".join(f'{name},"{text}"\n' for name, text in ROWS),
    "excel.csv": "\ufeffFile_Name;Text\n" + "".join(f"{name};{text}\n" for name, text in ROWS),
    "captions.tsv": "path\tsentence\n" + "".join(f"{name}\t{text}\n" for name, text in ROWS),
    "metadata.jsonl": "".join(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in ROWS),
    "lists.json": [{"img_path": name, "captions": texts} for name, texts in TEXTS.items()],
    "cells.csv": "filename,raw\n"
    + "".join(f'{n},"{json.dumps(t).replace(chr(34), chr(34) * 2)}"\n' for n, t in TEXTS.items()),
    "numbered.csv": "image,text1,text2\na.jpg,a red coat,someone in red\nb.jpg,a blue coat,\nc.jpg,a green coat,\n",
    "mapping.json": dict(TEXTS),
    "results.csv": "image_name| comment_number| comment\n"
    + "".join(f"{n}| 0| {t}\n" for n, t in ROWS[:-1])
    + "c.jpg| 4   a green coat",
    "results_20130124.token": "".join(f"{name}#0\t{text}\n" for name, text in ROWS),
}


@pytest.mark.parametrize("name", list(TABLES))
def test_every_table_gives_the_same_images_and_captions(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, TABLES[name])
    write_images(tmp_path / "photos")
    for root in (file, tmp_path):
        listing = read_own(root)
        assert texts_of(listing) == TEXTS
        assert listing.folder == tmp_path / "photos"
        assert len({record.id for record in listing.records}) == 3
        assert listing.assumed.startswith(f"{file} read as: ")
        assert "another person" in listing.assumed
        assert "no split" in listing.assumed
        assert listing.problems == ()


def test_persons_and_splits_are_read_where_they_are_stated(tmp_path: Path) -> None:
    write_images(tmp_path)
    rows = "image,caption,pid,split\na.jpg,one,p7,train\nb.jpg,two,p7,train\nc.jpg,three,p8,test\n"
    write(tmp_path / "captions.csv", rows)
    train = read_split(Source("captions", tmp_path), "test")
    assert train.captions == ["three"]
    listing = read_own(tmp_path)
    assert [record.id for record in listing.records] == [0, 0, 1]
    assert [record.called for record in listing.records] == ["p7", "p7", "p8"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "image,caption,split\na.jpg,one,dev\n",
            r"row 2: split: 'dev' is none of train, val, test. Write \"val\" for it",
        ),
        ("image,caption,split\na.jpg,one,train\nb.jpg,two,\n", "row 3: split: is empty, while other records state"),
        ("image,caption,id\na.jpg,one,1\na.jpg,two,2\n", "row 3: a.jpg has the person '2' here and '1' before. If its"),
        (
            "image,caption,split\na.jpg,one,train\na.jpg,two,test\n",
            "a.jpg has the split 'test' here and 'train' before",
        ),
        ("image,caption\nhttps://x.org/a.jpg,one\n", "is an address and no file. Download the images first"),
        ("image,caption\n,one\n", "row 2: image: the cell is empty"),
        ("image,caption\na.jpg,one,two\n", "row 2: has 3 cells for 2 columns, too many: quote a text"),
        ("photo,words\na.jpg,one\n", "has no field for the image: its fields are 'photo', 'words'. Name one image, "),
        ("image,label\na.jpg,one\n", "has no field for the caption: its fields are 'image', 'label'"),
        ("image,caption\na.jpg,\"['one', 'two']\"\n", "begins as a list of texts and is no JSON list"),
        ("image,caption\na.jpg,\nb.jpg, \n", "none of the 2 records of .* has a caption"),
        (
            "image,caption,split\nelse.jpg,one,train\nb.jpg,two,val\n",
            "images of train are missing, the first is .*else.jpg",
        ),
        ("", "is empty"),
    ],
)
def test_what_is_wrong_in_a_table_is_named_in_one_line(tmp_path: Path, rows: str, message: str) -> None:
    write_images(tmp_path)
    write(tmp_path / "captions.csv", rows)
    with pytest.raises(SightwordError, match=message) as error:
        read_split(Source("captions", tmp_path), "train")
    assert "\n" not in str(error.value)


def test_without_a_split_a_fifth_is_held_out_and_stays_held_out_when_images_are_added(tmp_path: Path) -> None:
    names = [f"{number:03}.png" for number in range(40)]
    write_images(tmp_path, [*names, "new.png"])
    table = write(tmp_path / "captions.csv", "image,caption\n" + "".join(f"{n},{n[:3]}\n" for n in names))
    source = Source("captions", tmp_path)
    before, train = read_split(source, "val"), read_split(source, "train")
    assert len(before.images) == 8
    assert not {*before.images} & {*train.images}
    write(table, "image,caption\nnew.png,new\n" + "".join(f"{n},{n[:3]}\n" for n in reversed(names)))
    assert {*before.captions} <= {*read_split(source, "val").captions} | {"new"}


def test_a_record_without_a_caption_is_left_out_and_check_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path)
    write(
        tmp_path / "captions.jsonl",
        '{"image": "a.jpg", "caption": ""}\n{"image": "b.jpg", "caption": "two"}\n\n'
        '{"image": "c.jpg", "caption": null}\n{"image": "c.jpg", "caption": "three"}\n',
    )
    assert {*read_split(Source("captions", tmp_path), "train").captions} < {"two", "three"}
    said = capsys.readouterr().err
    assert "1 of 3 records have no caption with a word and are left out, a.jpg the first" in said
    assert f"sightword check dataset=captions root={tmp_path} names" in said
    errors = [str(finding) for finding in check_pairs(Source("captions", tmp_path)).errors]
    assert any("line 1: captions: a.jpg has 1 captions without a word" in error for error in errors)


# -------------------------------------------------------------------------------------------------- published layouts


def test_coco_has_a_file_a_split_and_other_files_beside_them(tmp_path: Path) -> None:
    for split, names in (("train", ["a.jpg", "b.jpg"]), ("val", ["c.jpg"])):
        write_images(tmp_path / f"{split}2017", names)
        notes = [{"image_id": 7 - n, "caption": t, "id": n} for n, name in enumerate(names) for t in TEXTS[name]]
        images = [{"id": 7 - n, "file_name": name, "height": 2, "width": 1} for n, name in enumerate(names)]
        write(tmp_path / "annotations" / f"captions_{split}2017.json", {"images": images, "annotations": notes})
        write(
            tmp_path / "annotations" / f"instances_{split}2017.json", {"images": images, "annotations": [{"bbox": 1}]}
        )
    listing = read_own(tmp_path)
    assert texts_of(listing) == {f"{'val' if n == 'c.jpg' else 'train'}2017/{n}": TEXTS[n] for n in TEXTS}
    assert [record.split for record in listing.records] == ["train", "train", "val"]
    assert read_split(Source("captions", tmp_path), "val").captions == ["a green coat"]
    with pytest.raises(SightwordError, match=r"is no file of captions: its annotations have bbox. Pass captions_"):
        read_own(tmp_path / "annotations" / "instances_val2017.json")


def test_karpathys_restval_is_trained_on(tmp_path: Path) -> None:
    write_images(tmp_path / "flickr30k-images")
    splits = ("train", "restval", "test")
    images = [
        {"filename": n, "split": s, "imgid": 0, "sentences": [{"raw": t, "tokens": t.split()} for t in TEXTS[n]]}
        for n, s in zip(TEXTS, splits, strict=True)
    ]
    listing = read_own(write(tmp_path / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"}))
    assert [record.split for record in listing.records] == ["train", "train", "test"]
    assert texts_of(listing) == TEXTS
    assert "restval = train" in listing.assumed


def test_lupersons_four_files_are_joined_by_the_last_part_of_their_paths(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["part1/a.jpg", "part2/b.jpg"])
    for number, name in enumerate(("Ts-qwen", "Td-qwen", "Ts-shikra", "Td-shikra")):
        above = f"old/{number}/" if number else "part1/"
        write(tmp_path / f"{name}.json", {f"{above}a.jpg": f"{name} a", f"{above.replace('1', '2')}b.jpg": f"{name} b"})
    listing = read_own(tmp_path)
    assert len(listing.records) == 2
    assert sorted(listing.records[0].captions) == ["Td-qwen a", "Td-shikra a", "Ts-qwen a", "Ts-shikra a"]
    assert "joined by the last part" in listing.assumed


def test_mals_and_ufine_are_lists_of_records(tmp_path: Path) -> None:
    write_images(tmp_path / "mals", ["gene_crop/c_g_a_0/0.jpg"])
    mals = [{"image": "gene_crop/c_g_a_0/0.jpg", "caption": "a man", "image_id": "c_g_a_0_0", "label": [1, 0, -1]}]
    listing = read_own(write(tmp_path / "mals" / "g_c_g_a_0_attrs.json", mals))
    assert [(r.captions, r.called, r.split) for r in listing.records] == [(["a man"], "c_g_a_0_0", "")]
    write_images(tmp_path / "ufine" / "imgs", ["one/0.jpg"])
    long = " ".join(["word"] * 81)
    ufine = [{"split": "train", "id": 4, "file_path": "one/0.jpg", "captions": [long, f"{long} more"]}]
    write(tmp_path / "ufine" / "ufine6926.json", ufine)
    report = check_pairs(Source("captions", tmp_path / "ufine"))
    assert not report.errors
    assert "2 of 2 captions have more than 75 words (up to 82)" in str(report)


def write_shard(file: Path, samples: dict[str, bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in samples.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def test_shards_are_read_where_they_lie_and_a_name_in_one_is_never_a_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = {f"{n:09}.jpg": jpeg(20 * n) for n in range(10)} | {f"{n:09}.txt": b"coat %d" % n for n in range(8)}
    samples |= {"000000008.json": b'{"caption": "from json", "status": "success"}', "000000010.txt": b"no image"}
    samples |= {"../../evil.jpg": jpeg(1), "/evil.txt": b"evil"}
    shards = tmp_path / "shards"
    write_shard(shards / "00000.tar", samples)
    write_shard(shards / "00001.tar", {"1.png": jpeg(5), "1.txt": b"second"})
    (shards / "00000_stats.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    source = Source("captions", shards)
    train, val = read_split(source, "train"), read_split(source, "val")
    said = capsys.readouterr().err
    assert sorted(train.captions + val.captions) == [*(f"coat {n}" for n in range(8)), "from json", "second"]
    assert "1 samples have no image that is read and are left out, 00000.tar/000000010 the first" in said
    assert "1 of 11 records have no caption with a word and are left out, 00000.tar/000000009.jpg" in said
    place = next(path for path in [*train.images, *val.images] if path.name == "000000001.jpg")
    assert read_person(place).getpixel((3, 3)) == pytest.approx((20, 90, 30), abs=4)
    names = {item.name: item for item in items(source, ["train"])["train"]}
    assert len({item.content for item in names.values()}) == len(names) == len(train.images)
    report = check_pairs(source)
    assert report.count == 11
    assert not [finding for finding in report.errors if finding.kind != "captions without a word"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_shard_that_is_cut_short_or_compressed_is_refused(tmp_path: Path) -> None:
    whole = write_shard(tmp_path / "0.tar", {"1.jpg": jpeg(5) * 9, "1.txt": b"one", "2.jpg": jpeg(5) * 90})
    cut = tmp_path / "cut" / "1.tar"
    cut.parent.mkdir()
    cut.write_bytes(whole.read_bytes()[:12000])
    with pytest.raises(SightwordError, match="1.tar is (cut short|not a whole tar)"):
        read_own(cut)
    (tmp_path / "2.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(SightwordError, match="2.tar is not a whole tar archive .* compressed"):
        read_own(tmp_path / "2.tar")


def test_images_with_a_text_beside_each_are_read_from_their_folders(tmp_path: Path) -> None:
    write_images(tmp_path / "00000", ["000000000.jpg", "000000001.jpg"])
    write(tmp_path / "00000" / "000000000.txt", "one\n")
    write(tmp_path / "00000" / "000000001.json", {"caption": "two", "key": "000000001"})
    assert texts_of(read_own(tmp_path)) == {"00000/000000000.jpg": ["one"], "00000/000000001.jpg": ["two"]}


# --------------------------------------------------------------------------------------------------------- the folder


def test_images_are_looked_for_and_two_places_are_asked_about(tmp_path: Path) -> None:
    file = write(tmp_path / "data" / "captions.csv", "image,caption\nold/x/a.jpg,one\nold/x/b.jpg,two\n")
    write_images(tmp_path / "photos", ["a.jpg", "b.jpg"])
    listing = read_own(file)
    assert (listing.folder, texts_of(listing)) == (tmp_path / "photos", {"a.jpg": ["one"], "b.jpg": ["two"]})
    assert "by the last part of their paths" in listing.assumed
    write_images(tmp_path / "smaller", ["b.jpg", "a.jpg"])
    with pytest.raises(SightwordError, match=r"may be in .*photos or in .*smaller: .* Pass images="):
        read_own(file)
    assert read_own(file, tmp_path / "smaller").folder == tmp_path / "smaller"
    with pytest.raises(SightwordError, match="images=.*nowhere is not a folder"):
        read_own(file, tmp_path / "nowhere")


def test_a_folder_says_what_is_expected_of_it(tmp_path: Path) -> None:
    for root, message in (
        ("", r"data\.root is not set"),
        (tmp_path / "nowhere", "does not exist. Pass a CSV"),
        (write(tmp_path / "one" / "a.csv", TABLES["captions.csv"]).parent / "b.parquet", "does not exist"),
    ):
        with pytest.raises(SightwordError, match=message):
            read_own(root)
    write(tmp_path / "one" / "b.csv", TABLES["captions.csv"])
    with pytest.raises(SightwordError, match=r"has 2 files of captions \(a.csv, b.csv\), and their names say no split"):
        read_own(tmp_path / "one")


def test_a_check_of_own_captions_says_what_was_assumed_and_what_is_wrong(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    (tmp_path / "photos" / "c.jpg").write_bytes((tmp_path / "photos" / "a.jpg").read_bytes())
    rows = ["a.jpg,same,train", "b.jpg,same,train", "c.jpg,other,test", "A.JPG,shout,val", "d.jpg,word,gallery", ",x,"]
    write(tmp_path / "captions.csv", "image,caption,split\n" + "".join(f"{row}\n" for row in rows))
    text = str(check_pairs(Source("captions", tmp_path)))
    for line in (
        "captions.csv read as: image = image, captions = caption, each image another person, split = split; images in",
        "train: 2 identities, 2 images, 2 captions",
        "4 of 5 images are there",
        "1 equal images in two splits",
        "1 paths are spelt in several ways, 'a.jpg' and 'A.JPG'",
        "'gallery' is none of train, val, test. Write \"test\"",
        "row 7: image: the cell is empty",
        "most of all 'same' of 2: a search cannot tell these apart, 40 % of the images",
    ):
        assert line in text, text
