"""A gallery in LanceDB: brought in line with the gallery on disk, and the exact answer with and without filters."""

import csv
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_gallery import ByColour, Ready, answers

from sightword.cli.main import main
from sightword.errors import SightwordError
from sightword.storage.job import ImageJobOptions
from sightword.systems.retrieval.gallery import Gallery, write_gallery
from sightword.systems.retrieval.selection import Condition, Selection, read_conditions, read_rows

pytest.importorskip("lancedb")

from sightword.systems.retrieval import lance_sync
from sightword.systems.retrieval.lance import NOTE, LanceGallery
from sightword.systems.retrieval.lance_sync import sync
from sightword.systems.retrieval.lance_table import ALL, Effort, open_table, read

WIDTH = 16


class Patches(ByColour):
    """A dual encoder whose embedding is a fixed projection of the pixels."""

    def __init__(self, scale=1.0):
        super().__init__(scale)
        self.embed_dim = WIDTH
        self.register_buffer("mix", torch.randn(3 * 24 * 8, WIDTH, generator=torch.Generator().manual_seed(0)))

    def encode_image(self, images):
        return F.normalize(self.scale * images.flatten(1) @ self.mix, dim=1)


def draw(folder, numbers):
    folder.mkdir(exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (24, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


def write(root, out, scale=1.0):
    note = {"run": "runs/patches", "checkpoint": "best"}
    return write_gallery(Ready(Patches(scale)), root, out, note, ImageJobOptions(shard_size=16))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A gallery of 60 pictures, its CSV file and its table, which tests only read."""
    base = tmp_path_factory.mktemp("lance")
    draw(base / "photos", range(60))
    gallery = write(base / "photos", base / "out")
    cells = ["3", "3.0", "12", "", "O'Neil", 'it\'s \\ "q"', "über", "-2e1", "nan", "2024-05-01T10:02"]
    with open(base / "about.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["Image", "camera", "Who is `it`; --", "相机"])
        rows.writerows([f"{n:03}.png", cells[n % 10], cells[n % 7], n % 4] for n in range(57))
    report = sync(gallery, str(base / "lake"), read_rows(gallery, base / "about.csv"))
    assert (report.rows, report.added, report.recall) == (60, 60, (1, 1))
    return base


def vector(seed=0):
    return F.normalize(torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=1)


def names(hits):
    return [(hit.path.name, round(hit.score, 6)) for hit in hits]


def keys(place):
    return sorted(key for (key,) in read(open_table(str(place)), ["key"]))


def test_a_search_is_the_exact_answer(made):
    for seed in range(5):
        wanted = Gallery(made / "out").search(vector(seed), 7)
        assert names(LanceGallery(made / "out", str(made / "lake")).search(vector(seed), 7)) == names(wanted)


@pytest.mark.parametrize(
    "where",
    [
        ["camera=3"],
        ["camera!=3"],
        ["camera>=-20", "相机<2"],
        ["camera="],
        ["camera!="],
        ["camera<zzz"],
        ["camera>it"],
        ["Who is `it`; --=O'Neil"],
        ["camera=nan"],
        ["camera>=2024-05"],
        ["camera<1e400"],
        ["camera=über"],
    ],
)
def test_a_filter_is_the_exact_answer_among_the_same_images(made, where):
    conditions = read_conditions(where)
    chosen = Selection(Gallery(made / "out"), made / "about.csv", conditions)
    found = LanceGallery(made / "out", str(made / "lake"), conditions)
    assert len(found) == len(chosen)
    assert names(found.search(vector(), 60)) == names(chosen.search(vector(), 60))
    if len(chosen):
        for one, other in zip(found.moments(vector()), chosen.moments(vector()), strict=True):
            assert one == pytest.approx(other, abs=1e-6)


def test_one_of_each_group_is_what_a_csv_file_gives(made):
    chosen = Selection(Gallery(made / "out"), made / "about.csv", (), "相机")
    found = LanceGallery(made / "out", str(made / "lake"), (), "相机")
    assert names(found.search(vector(), 3)) == names(chosen.search(vector(), 3))
    assert len(found.search(vector(), 30)) == 4


@pytest.mark.parametrize(
    "value",
    ["' OR 1=1 --", "'; DROP TABLE sightword; --", "\\' OR 1=1 --", "a' OR '1'='1", "') OR (1=1", "3 OR 1=1"],
)
def test_sql_in_a_value_is_a_text_that_no_image_has(made, value):
    for relation in ("=", ">=", "!="):
        condition = (Condition("camera", relation, value),)
        chosen = Selection(Gallery(made / "out"), made / "about.csv", condition)
        assert len(LanceGallery(made / "out", str(made / "lake"), condition)) == len(chosen)
    with pytest.raises(SightwordError, match="has no column"):
        LanceGallery(made / "out", str(made / "lake"), (Condition("camera` = '3' OR 1=1 --", "=", "3"),))
    assert len(keys(made / "lake")) == 60


def test_rows_are_added_removed_and_replaced_and_the_rest_stays(tmp_path, capsys):
    root, lake = tmp_path / "photos", str(tmp_path / "lake")
    draw(root, range(12))
    sync(write(root, tmp_path / "out"), lake)
    (root / "000.png").unlink()
    (root / "011.png").unlink()
    draw(root, [20])
    (root / "001.png").write_bytes((root / "020.png").read_bytes())  # replaced, by what is there twice now
    (root / "002.png").rename(root / "moved.png")
    open_again = LanceGallery(tmp_path / "out", lake)
    assert len(open_again) == 9
    assert "000.png" not in {name for name, _ in names(open_again.search(vector(), 30))}
    assert "1 of 12 images changed since" in (told := capsys.readouterr().err)
    assert f"gallery=lancedb uri={lake}" in told
    report = sync(write(root, tmp_path / "out"), lake)
    assert report[1:5] == (10, 1, 3, 1)
    found = LanceGallery(tmp_path / "out", lake)
    assert names(found.search(vector(), 30)) == names(Gallery(tmp_path / "out").search(vector(), 30))
    assert sync(Gallery(tmp_path / "out"), lake)[1:5] == (10, 0, 0, 0)


def test_cells_follow_their_csv_file_and_stay_without_one(tmp_path):
    root, lake, about = tmp_path / "photos", str(tmp_path / "lake"), tmp_path / "about.csv"
    draw(root, range(4))
    gallery = write(root, tmp_path / "out")
    sync(gallery, lake)
    about.write_text("image,camera\n000.png,1\n001.png,2\n")
    assert sync(gallery, lake, read_rows(gallery, about)).changed == 2
    (root / "000.png").rename(root / "moved.png")
    assert sync(write(root, tmp_path / "out"), lake).changed == 1
    (hit,) = LanceGallery(tmp_path / "out", lake, read_conditions(["camera=1"])).search(vector(), 9)
    assert hit.path.name == "moved.png"
    about.write_text("image,person\n001.png,x\n")
    gallery = Gallery(tmp_path / "out")
    sync(gallery, lake, read_rows(gallery, about))
    with pytest.raises(SightwordError, match=r"has no column 'camera': its columns are person"):
        LanceGallery(tmp_path / "out", lake, read_conditions(["camera=1"]))


def test_copies_with_other_cells_are_counted(tmp_path, capsys):
    draw(tmp_path / "photos", range(2))
    (tmp_path / "photos" / "copy.png").write_bytes((tmp_path / "photos" / "000.png").read_bytes())
    (about := tmp_path / "about.csv").write_text("image,camera\n000.png,1\ncopy.png,2\n")
    gallery = write(tmp_path / "photos", tmp_path / "out")
    assert sync(gallery, str(tmp_path / "lake"), read_rows(gallery, about)).rows == 2
    assert "1 images have copies with other cells" in capsys.readouterr().err


SLOWLY = """
import sys
from sightword.systems.retrieval import lance_sync
from sightword.systems.retrieval.gallery import Gallery
lance_sync.ROWS = 16
before = lance_sync.Table
def told(batches):
    for number, rows in enumerate(batches):
        if number == 2:
            print("two", flush=True)
            sys.stdin.read()
        yield rows
each = lance_sync._batches
lance_sync._batches = lambda *given: told(each(*given))
lance_sync.sync(Gallery(sys.argv[1]), sys.argv[2])
"""


def test_killed_while_inserting_it_is_resumed_to_the_same_rows_and_a_reader_sees_whole_ones(made, tmp_path):
    lake = tmp_path / "lake"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SLOWLY), str(made / "out"), str(lake)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == b"two\n"
    reader = LanceGallery(made / "out", str(lake))
    assert len(reader) == 32
    wanted = names(reader.search(vector(), 5))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    report = sync(Gallery(made / "out"), str(lake))
    assert (report.rows, report.added) == (60, 28)
    assert keys(lake) == keys(made / "lake")
    assert names(reader.search(vector(), 5)) == wanted
    reader.look()
    assert names(reader.search(vector(), 5)) == names(Gallery(made / "out").search(vector(), 5))


def test_a_key_that_two_writers_added_is_there_once_again(tmp_path):
    draw(tmp_path / "photos", range(5))
    gallery, lake = write(tmp_path / "photos", tmp_path / "out"), str(tmp_path / "lake")
    sync(gallery, lake)
    table = open_table(lake)
    table.add(table.search().select(table.schema.names).limit(2).to_arrow())
    assert len({name for name, _ in names(LanceGallery(tmp_path / "out", lake).search(vector(), 5))}) == 5
    assert sync(gallery, lake).rows == 5
    assert len(set(keys(lake))) == 5


def test_another_model_and_another_gallery_are_refused(made, tmp_path):
    draw(tmp_path / "photos", range(100, 104))
    with pytest.raises(SightwordError, match="the table was made with other weights"):
        sync(write(tmp_path / "photos", tmp_path / "other", scale=2.0), str(made / "lake"))
    with pytest.raises(SightwordError, match="has the gallery of .*photos, not of .*photos"):
        sync(write(tmp_path / "photos", tmp_path / "out"), str(made / "lake"))
    with pytest.raises(SightwordError, match="the table was made with other weights"):
        LanceGallery(tmp_path / "other", str(made / "lake"))
    assert len(keys(made / "lake")) == 60


def test_an_index_answers_at_least_95_of_100_and_says_how_many(tmp_path, monkeypatch):
    monkeypatch.setattr(lance_sync, "EXACT", 256)
    draw(tmp_path / "photos", range(400))
    gallery = write(tmp_path / "photos", tmp_path / "out")
    report = sync(gallery, str(tmp_path / "lake"))
    assert report.effort == Effort(200, 5)
    assert min(report.recall) >= 0.95
    assert "IVF_HNSW_SQ, ef 200, refined 5×; recall@10" in str(report)
    found = LanceGallery(tmp_path / "out", str(tmp_path / "lake"))
    assert found.used == report.effort
    right = {hit.content for hit in found.search(vector(), 10)} & {h.content for h in gallery.search(vector(), 10)}
    assert len(right) >= 9
    (tmp_path / "out" / NOTE).unlink()
    assert LanceGallery(tmp_path / "out", str(tmp_path / "lake")).used == Effort(1000, 20)
    monkeypatch.setattr(lance_sync, "ENOUGH", 1.1)
    assert sync(gallery, str(tmp_path / "lake")).effort == ALL


def test_a_damaged_table_is_one_line(tmp_path):
    draw(tmp_path / "photos", range(3))
    gallery, lake = write(tmp_path / "photos", tmp_path / "out"), tmp_path / "lake"
    sync(gallery, str(lake))
    reader = LanceGallery(tmp_path / "out", str(lake))
    for file in lake.rglob("*.lance"):
        if file.is_file():
            file.write_bytes(b"nothing")
    with pytest.raises(SightwordError, match=r"^uri=.*lake cannot be used: .*[^\n]*$"):
        LanceGallery(tmp_path / "out", str(lake)).search(vector(), 2)
    with pytest.raises(SightwordError, match=r"cannot be used"):
        reader.moments(vector())
        sync(gallery, str(lake))
    for file in lake.rglob("*.manifest"):
        file.write_bytes(b"nothing")
    with pytest.raises(SightwordError, match=r"cannot be used"):
        LanceGallery(tmp_path / "out", str(lake))


@pytest.fixture
def command(monkeypatch):
    answers(monkeypatch, ByColour())
    return main


def test_by_the_command_line_index_writes_a_table_and_search_reads_it(tmp_path, command, capsys):
    root, about = tmp_path / "photos", tmp_path / "about.csv"
    root.mkdir()
    for name, colour in {"red": (220, 30, 30), "blue": (30, 40, 220), "pink": (230, 90, 90)}.items():
        Image.new("RGB", (20, 60), colour).save(root / f"{name}.png")
    about.write_text("image,camera\nred.png,1\nblue.png,2\npink.png,2\n")
    place = ["gallery=lancedb", f"uri={tmp_path / 'my lake'}"]
    out = tmp_path / "out"
    assert command(["index", "model=runs/a", f"images={root}", f"out={out}", *place, f"table={about}"]) == 0
    told = capsys.readouterr().out
    assert "3 rows in" in told
    assert "3 added, 0 removed, 0 changed; all compared; recall@10 1.000, filtered 1.000" in told
    assert f"gallery=lancedb 'uri={tmp_path / 'my lake'}'" in told
    assert command(["search", f"index={out}", *place, "where=camera=2", "out=", "a", "red", "person"]) == 0
    assert [line.split("/")[-1] for line in capsys.readouterr().out.splitlines()] == ["pink.png", "blue.png"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["gallery=lancedb"], "gallery=lancedb needs uri="),
        (["uri=lake"], "uri=lake is for gallery=lancedb"),
        (["gallery=lancedb", "uri=nowhere/lake"], "uri=nowhere/lake has no gallery. sightword index"),
        (["gallery=lancedb", "uri=db://mine"], "uri='db://mine' is no place of a LanceDB table"),
        (["gallery=lancedb", "uri=lake", "engine=ray"], ""),
        (["gallery=lancedb", "uri=LAKE", "where=camera=3,who=4"], "has no column 'who'"),
        (["gallery=lancedb", "uri=LAKE", "where=camera=77"], "no image of the gallery fulfils where='camera=77'"),
    ],
)
def test_a_table_that_cannot_be_searched_is_one_line(made, tmp_path, monkeypatch, command, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("LAKE", str(made / "lake")) for word in words]
    assert command(["search", f"index={made / 'out'}", "out=", *words, "red"]) == 2
    error = capsys.readouterr().err.strip()
    assert told in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())
