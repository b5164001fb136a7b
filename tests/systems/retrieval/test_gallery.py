"""A gallery: computed once, resumable, refused to other weights; and searches in it."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from sightword.cli.main import main
from sightword.engine.config import Run
from sightword.errors import SightwordError
from sightword.storage.job import ImageJobOptions
from sightword.storage.writer import write_json
from sightword.systems.retrieval import commands
from sightword.systems.retrieval.config import RetrievalData
from sightword.systems.retrieval.gallery import Embedder, Gallery, write_gallery
from sightword.systems.retrieval.predict import PersonRetriever
from sightword.systems.retrieval.selection import Selection, read_conditions
from sightword.systems.retrieval.split import Split
from sightword.systems.retrieval.system import SYSTEM
from sightword.towers.base import TextTower
from sightword.towers.preprocess import Preprocess
from sightword.towers.tokenizer import TextTokenizer

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "white": (240, 240, 240)}
WORDS = ["<pad>", "<end>", "<unk>", *COLOURS, "a", "person", "in"]


class Words(TextTokenizer):
    def __init__(self):
        super().__init__(0, 1, 6, len(WORDS), unknown=2)
        self.special = frozenset({0, 1, 2})

    def ids_of(self, texts):
        return [[*(WORDS.index(w) if w in WORDS else 2 for w in text.lower().split()), 1] for text in texts]

    def words_of(self, ids):
        return " ".join(WORDS[id_] for id_ in ids if id_ > 2)


class Colours(TextTower):
    name = "runs/colours"

    def __init__(self):
        super().__init__()
        self.tokenizer = Words()


class ByColour(nn.Module):
    """A dual encoder whose embedding is the mean colour."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.table = nn.Parameter(torch.zeros(len(WORDS), 3))
        for word, rgb in COLOURS.items():
            self.table.data[WORDS.index(word)] = torch.tensor(rgb) / 127.5 - 1
        self.image = SimpleNamespace(preprocess=Preprocess((24, 8)))
        self.text = Colours()
        self.tokenizer = self.text.tokenizer
        self.embed_dim = 3
        self.seen = 0

    def encode_image(self, images):
        assert images.shape[1:] == (3, 24, 8)
        assert images.amin() >= -1.001
        assert images.amax() <= 1.001
        self.seen += len(images)
        return F.normalize(self.scale * images.mean((2, 3)), dim=1)

    def encode_text(self, ids, mask):
        return F.normalize((self.table[ids] * mask[..., None]).sum(1), dim=1)


class Ready:
    def __init__(self, model):
        self.model = model

    def open(self):
        return Embedder(self.model, "runs/colours").freeze()


@pytest.fixture
def model():
    return ByColour()


@pytest.fixture
def people(tmp_path):
    """A folder of four people in one colour each, one of them in a folder below."""
    root = tmp_path / "people"
    (root / "cam").mkdir(parents=True)
    for name, rgb in COLOURS.items():
        Image.new("RGB", (20, 60), rgb).save(root / ("cam" if name == "red" else ".") / f"{name}.png")
    return root


@pytest.fixture
def command(monkeypatch, model):
    """The command line over this model: what its words give back, and its lines."""
    answers(monkeypatch, model)
    return main


def answers(monkeypatch, model):
    """Have every model= of a command be this model."""
    monkeypatch.setattr(commands.Source, "retriever", lambda self: PersonRetriever(model, name=self.run))


def write(model, people, out, **options):
    return write_gallery(
        Ready(model),
        people,
        out,
        {"run": "runs/colours", "checkpoint": "best"},
        ImageJobOptions(**{"shard_size": 1024} | options),
    )


def vectors(gallery):
    return {path: gallery.rows[path]["pooled"] for path in gallery.rows}


def test_a_vector_is_what_the_encoder_gives_of_the_squashed_image(model, people, tmp_path):
    gallery = write(model, people, tmp_path / "out")
    assert len(gallery) == 4
    pixels = np.asarray(Image.open(people / "blue.png").resize((8, 24), Image.Resampling.BICUBIC)) / 127.5 - 1
    wanted = pixels.mean((0, 1)) / np.linalg.norm(pixels.mean((0, 1)))
    np.testing.assert_allclose(vectors(gallery)["blue.png"], wanted, atol=1e-6)
    header = gallery.rows.header
    assert header["shapes"] == {"pooled": [3]}
    assert header["writer"] == "sightword index"
    assert header["preprocessing"]["resize"] == "squash"


def test_the_nearest_image_comes_first(model, people, tmp_path):
    gallery = write(model, people, tmp_path / "out")
    embedder = Ready(model).open()
    hits = gallery.search(embedder.encode_text(["a person in red"]), 3)
    assert hits[0].path == people / "cam" / "red.png"
    assert hits[0].score == pytest.approx(1, abs=0.02)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_search_over_many_shards_is_the_search_over_one(model, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "many").mkdir()
    for number in range(30):
        Image.new("RGB", (8, 24), tuple(rng.integers(0, 256, 3).tolist())).save(tmp_path / "many" / f"{number}.png")
    one, many = (write(model, tmp_path / "many", tmp_path / f"out{size}", shard_size=size) for size in (100, 4))
    assert len(list(many.rows.segments[0].path.glob("*.safetensors"))) == 8
    question = Ready(model).open().encode_text(["green"])
    assert one.search(question, 7) == many.search(question, 7)
    every = np.stack([vectors(one)[path] for path in one.rows.index]) @ question.numpy()[0]
    wanted = [list(one.rows.index)[row] for row in np.argsort(-every)[:7]]
    assert [hit.path.name for hit in many.search(question, 7)] == wanted


def test_images_that_are_added_are_all_that_is_computed(model, people, tmp_path):
    write(model, people, tmp_path / "out")
    before = model.seen
    Image.new("RGB", (20, 60), (90, 90, 0)).save(people / "new.png")
    shutil.copy(people / "blue.png", people / "blue_again.png")
    (people / "green.png").rename(people / "moved.png")
    gallery = write(model, people, tmp_path / "out")
    assert model.seen == before + 1 + 1  # the new one, and the probe that tells the width
    assert len(gallery) == 5
    hits = gallery.search(Ready(model).open().encode_text(["blue"]), 9)
    assert len(hits) == 5
    assert (hits[0].path.name, hits[0].copies) == ("blue.png", 1)
    assert "moved.png" in [hit.path.name for hit in hits]


def test_an_image_that_is_gone_is_not_found(model, people, tmp_path):
    write(model, people, tmp_path / "out")
    (people / "cam" / "red.png").unlink()
    hits = write(model, people, tmp_path / "out").search(Ready(model).open().encode_text(["red"]), 9)
    assert len(hits) == 3
    assert "red.png" not in [hit.path.name for hit in hits]


def test_killed_and_started_again_it_ends_with_the_same_bytes(model, people, tmp_path, monkeypatch):
    whole = write(model, people, tmp_path / "whole", shard_size=1)
    encode, calls = ByColour.encode_image, []

    def killed(self, images):
        calls.append(len(images))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(self, images)

    monkeypatch.setattr(ByColour, "encode_image", killed)
    with pytest.raises(KeyboardInterrupt):
        write(model, people, tmp_path / "out", shard_size=1)
    half = len(list((tmp_path / "out").glob("*/*.safetensors")))
    assert 0 < half < 4
    again = write(model, people, tmp_path / "out", shard_size=1)
    assert len(calls) == 4 + 1 + 4 - half
    for one, other in zip(sorted(whole.out.glob("*/*")), sorted(again.out.glob("*/*")), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_other_weights_are_refused_in_one_line(model, people, tmp_path, command, monkeypatch, capsys):
    out = tmp_path / "out"
    assert command(["index", "model=runs/a", f"images={people}", f"out={out}"]) == 0
    answers(monkeypatch, ByColour(2.0))
    capsys.readouterr()
    assert command(["search", f"index={out}", "red"]) == 2
    told = capsys.readouterr().err.strip()
    assert "was made with other weights" in told
    assert len(told.splitlines()) == 1
    assert command(["index", "model=runs/b", f"images={people}", f"out={out}"]) == 2
    assert "weights is" in capsys.readouterr().err
    assert json.loads((out / "gallery.json").read_text())["run"].endswith("runs/a")


def test_search_prints_paths_and_scores_and_draws_them(people, tmp_path, command, capsys):
    out, strip = tmp_path / "out", tmp_path / "strip.png"
    assert command(["index", "model=runs/a", f"images={people}", f"out={out}"]) == 0
    assert "4 images in" in capsys.readouterr().out
    assert command(["search", f"index={out}", "top=2", f"out={strip}", "a", "person", "in", "blue"]) == 0
    first, second, last = capsys.readouterr().out.strip().splitlines()
    assert first.split()[0] == "1"
    assert first.split()[2] == str(people / "blue.png")
    assert -1 <= float(second.split()[1]) < float(first.split()[1]) <= 1
    assert str(strip) in last
    assert Image.open(strip).width > 200
    assert command(["search", f"index={out}", "out=", "red"]) == 0
    assert "drawn" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "the sentence is empty"),
        (["  "], "the sentence is empty"),
        (["top=0", "red"], "top='0' is not a whole number from 1 on. Pass 1 or more"),
        (["zebra"], "no word of 'zebra' is in the vocabulary of runs/colours"),
        (["index=nowhere", "red"], "nowhere contains no gallery. sightword index"),
    ],
)
def test_a_question_that_cannot_be_asked_is_one_line(people, tmp_path, command, capsys, words, told):
    out = tmp_path / "out"
    command(["index", "model=runs/a", f"images={people}", f"out={out}"])
    capsys.readouterr()
    assert command(["search", f"index={out}", f"out={tmp_path / 'strip.png'}", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert told in error
    assert len(error.splitlines()) == 1


def test_a_long_sentence_is_cut_and_said_to_be(people, tmp_path, command, capsys):
    out = tmp_path / "out"
    command(["index", "model=runs/a", f"images={people}", f"out={out}"])
    capsys.readouterr()
    assert command(["search", f"index={out}", "out=", "a person in a red red red red"]) == 0
    assert "1 of 1 sentences cut to the 6 tokens that this run takes" in capsys.readouterr().err


def test_an_unreadable_image_is_named_or_skipped_and_counted(people, tmp_path, command, capsys):
    (people / "broken.png").write_bytes(b"no image")
    words = ["index", "model=runs/a", f"images={people}", f"out={tmp_path / 'out'}"]
    assert command(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "broken.png is not readable as an image" in error
    assert command([*words, "on_error=skip"]) == 0
    assert "4 images in" in (told := capsys.readouterr().out)
    assert "1 of" in told
    assert len(Gallery(tmp_path / "out")) == 4


def test_images_that_were_deleted_or_replaced_are_counted_and_left_out_until_they_are_indexed_again(
    people, tmp_path, command, capsys
):
    out, search = tmp_path / "out", ["search", f"index={tmp_path / 'out'}", "out=", "blue"]
    index = ["index", "model=runs/a", f"images={people}", f"out={out}"]
    assert command(index) == 0
    (people / "blue.png").unlink()
    Image.new("RGB", (20, 60), (30, 40, 200)).save(people / "green.png")
    capsys.readouterr()
    assert command(search) == 0
    said = capsys.readouterr()
    assert [line.split("/")[-1] for line in said.out.splitlines()] == ["white.png", "red.png"]
    assert "1 of 4 images changed since, green.png the first; 1 of 4 images are gone, blue.png the first" in said.err
    assert f"To add what is new: sightword index model=runs/a images={people} out={out}" in said.err
    assert command(index) == 0
    capsys.readouterr()
    assert command(search) == 0
    said = capsys.readouterr()
    assert [line.split("/")[-1] for line in said.out.splitlines()] == ["green.png", "white.png", "red.png"]
    assert said.err == ""


def test_an_image_that_was_moved_is_found_where_it_is_now(people, tmp_path, command, capsys, model):
    out = tmp_path / "out"
    command(["index", "model=runs/a", f"images={people}", f"out={out}"])
    (people / "cam" / "red.png").rename(people / "moved.png")
    seen = model.seen
    capsys.readouterr()
    assert command(["search", f"index={out}", "out=", "red"]) == 0
    said = capsys.readouterr()
    assert str(people / "moved.png") in said.out.splitlines()[0]
    assert (said.err, model.seen) == ("", seen)


def test_a_gallery_copied_with_its_images_finds_the_copies(model, people, tmp_path):
    write(model, people, tmp_path / "out")
    (tmp_path / "there").mkdir()
    for name in ("people", "out"):
        (tmp_path / name).rename(tmp_path / "there" / name)
    hits = Gallery(tmp_path / "there" / "out").search(Ready(model).open().encode_text(["red"]), 9)
    assert hits[0].path == tmp_path / "there" / "people" / "cam" / "red.png"
    assert len(hits) == 4


def test_a_gallery_without_its_folder_gives_the_old_paths_and_says_so(model, people, tmp_path, capsys):
    write(model, people, tmp_path / "out")
    people.rename(tmp_path / "archive")
    hits = Gallery(tmp_path / "out").search(Ready(model).open().encode_text(["red"]), 9)
    assert hits[0].path == people / "cam" / "red.png"
    assert f"are no longer in {people}: paths are as they were indexed. If they moved" in capsys.readouterr().err


def test_an_open_gallery_notices_what_is_deleted_under_it(model, people, tmp_path, capsys):
    gallery = write(model, people, tmp_path / "out")
    (people / "cam" / "red.png").unlink()
    hits = gallery.search(Ready(model).open().encode_text(["red"]), 4)
    assert len(hits) == 3
    assert "1 of 4 images are gone, cam/red.png the first" in capsys.readouterr().err


def test_a_gallery_of_a_plain_clip_names_it_in_the_command_that_adds_images(model, people, tmp_path, capsys):
    note = tmp_path / "out" / "gallery.json"
    write(model, people, note.parent)
    note.write_text('{"run": "", "checkpoint": "best", "tower": "ViT-B-32", "tag": "openai"}')
    (people / "cam" / "red.png").unlink()
    Gallery(note.parent)
    assert "sightword index model=ViT-B-32 tag=openai images=" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[", "[]", "{}", '{"run": 1, "checkpoint": "best"}'])
def test_a_damaged_note_is_one_line(model, people, tmp_path, text):
    write(model, people, tmp_path / "out")
    (tmp_path / "out" / "gallery.json").write_text(text)
    with pytest.raises(ValueError, match="is damaged"):
        Gallery(tmp_path / "out")


def test_a_gallery_without_its_index_finds_nothing_and_says_so(people, tmp_path, command, capsys):
    out = tmp_path / "out"
    command(["index", "model=runs/a", f"images={people}", f"out={out}"])
    (out / "index.json").unlink()
    capsys.readouterr()
    assert command(["search", f"index={out}", "out=", "red"]) == 2
    assert "has no vector of an image of its folder. sightword index" in capsys.readouterr().err


def test_a_gallery_without_its_vectors_or_its_recipe_or_its_model_is_one_line(people, tmp_path, command, capsys):
    (run := tmp_path / "run").mkdir()
    out = tmp_path / "out"
    command(["index", f"model={run}", f"images={people}", f"out={out}"])

    def said():
        capsys.readouterr()
        assert command(["search", f"index={out}", "out=", "red"]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        return error

    run.rmdir()
    assert f"{run}, the model that made {out}, does not exist. Pass model=" in said()
    run.mkdir()
    (header,) = out.glob("*/header.json")
    kept = json.loads(header.read_text())
    header.write_text(json.dumps({name: value for name, value in kept.items() if name != "weights"}))
    assert "was made with other weights (None)" in said()
    shutil.rmtree(header.parent)
    assert "contains no cached tokens. Create them with: sightword index model=… images=…" in said()


def test_a_strip_shows_the_first_and_the_lines_all(people, tmp_path, command, capsys, monkeypatch):
    out, strip = tmp_path / "out", tmp_path / "strip.png"
    command(["index", "model=runs/a", f"images={people}", f"out={out}"])
    monkeypatch.setattr("sightword.systems.retrieval.predict.DRAWN", 1)
    drawn = []
    for top in (1, 4):
        capsys.readouterr()
        assert command(["search", f"index={out}", f"top={top}", f"out={strip}", "red"]) == 0
        drawn.append(Image.open(strip).tobytes())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith("4 of 4 images; the first 1 drawn in")
    assert drawn[0] == drawn[1]


def test_a_probe_writes_figures_and_their_values(people, tmp_path, command, monkeypatch, capsys):
    files = sorted(people.glob("**/*.png"))
    captions = [f"a person in {file.stem}" for file in files]
    split = Split("test", files, np.arange(4), captions, np.arange(4))
    monkeypatch.setattr("sightword.systems.retrieval.split.read_split", lambda *args: split)
    out = tmp_path / "probe"
    assert command(["probe", "model=runs/a", f"out={out}", "dataset=cuhk_pedes", "root=here", "strips=2"]) == 0
    assert len(capsys.readouterr().out.split()) == 4
    assert {file.name for file in out.iterdir()} == {
        f"{a}.{b}" for a in ("strips", "word_swaps") for b in ("png", "json")
    }
    strips = json.loads((out / "strips.json").read_text())
    assert [strip["found"][0]["right"] for strip in strips] == [True, True]
    colour, *_ = json.loads((out / "word_swaps.json").read_text())["kinds"]
    assert colour["kind"] == "colour"
    assert colour["fell"] == 1


def test_a_probe_holds_out_whom_the_run_held_out(people, tmp_path, command, monkeypatch, capsys):
    """Else validation of ICFG-PEDES would be of people whom the run was trained on."""
    asked = []

    def read(*args):
        asked.append(args)
        raise SightwordError("enough")

    monkeypatch.setattr("sightword.systems.retrieval.split.read_split", read)
    config = Run("retrieval/phase1", data=RetrievalData(dataset="icfg_pedes", root="here", hold_out=4))
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "config.yaml", config.plain())  # JSON is YAML
    assert command(["probe", f"model={tmp_path / 'run'}"]) == 2
    assert command(["probe", f"model={tmp_path / 'exported'}", "dataset=icfg_pedes", "root=there"]) == 2
    assert asked == [(("icfg_pedes", "here", ""), "val", 4, {}), (("icfg_pedes", Path("there"), ""), "val")]


def test_what_is_neither_a_run_nor_exported_is_one_line(tmp_path, capsys):
    assert main(["search", f"index={tmp_path}", "red"]) == 2
    assert "contains no gallery" in capsys.readouterr().err
    with pytest.raises(SightwordError, match=r"config\.json does not exist\. Pass a run directory, a folder that"):
        commands.Source(str(tmp_path / "nowhere"), "best").retriever()


def test_a_broken_image_of_a_set_is_told_to_be_checked(model, people):
    (people / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png is not readable .*: sightword check names all such files"):
        Embedder(model, "runs/colours").encode_image([people / "broken.png"])


def test_the_data_sets_can_be_checked():
    assert set(SYSTEM.checks) == {"cuhk_pedes", "icfg_pedes", "rstpreid", "captions"}


# ---------------------------------------------------------------------------------------------------------- selections


@pytest.fixture
def table(people, tmp_path):
    """A CSV file on the images: cameras, times, and persons of whom there are two."""
    rows = ["image,camera,time,person", "blue.png,3,2024-05-01T10:00,ann", "cam/red.png,10,2024-05-02T09:00,ann"]
    rows += [f"{people / 'green.png'},3,2024-05-03T09:00,bob", "white.png,,2024-04-30T09:00,bob", "gone.png,3,,bob"]
    (tmp_path / "meta.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "meta.csv"


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("camera=3", {"blue", "green"}),
        ("camera>3", {"red"}),
        ("camera>=3", {"blue", "green", "red"}),
        ("camera!=3", {"red", "white"}),
        ("camera=", {"white"}),
        ("time<2024-05-02", {"blue", "white"}),
        ("camera=3, person = bob", {"green"}),
    ],
)
@pytest.mark.parametrize("held", [2**32, 0])
def test_conditions_choose_the_images_that_are_searched(
    model, people, tmp_path, table, where, names, held, monkeypatch
):
    monkeypatch.setattr("sightword.systems.retrieval.gallery.HELD", held)
    gallery = write(model, people, tmp_path / "out")
    chosen = Selection(gallery, table, read_conditions(where.split(",")))
    query = Ready(model).open().encode_text(["red"])
    assert {hit.path.stem for hit in chosen.search(query, 9)} == names
    assert len(chosen) == len(names)
    scores = [hit.score for hit in chosen.search(query, 9)]
    assert chosen.moments(query)[0] == pytest.approx((np.mean(scores), np.std(scores)), abs=1e-6)


def test_of_a_group_only_the_best_is_a_hit(model, people, tmp_path, table):
    gallery = write(model, people, tmp_path / "out")
    for word, best in (("red", "red"), ("blue", "blue")):
        hits = Selection(gallery, table, by="person").search(Ready(model).open().encode_text([word]), 5)
        assert hits[0].path.stem == best
        assert len(hits) == 2


def test_search_takes_a_table(people, tmp_path, table, command, capsys):
    out = tmp_path / "out"
    command(["index", "model=runs/a", f"images={people}", f"out={out}"])
    capsys.readouterr()
    given = ["search", f"index={out}", "out=", f"table={table}"]
    assert command([*given, "where=camera=3", "a red person"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    for wrong, told in (
        (["where=camera"], "is no condition"),
        (["where=camera=>3"], "is no condition"),
        (["where=camera==3"], "is no condition"),
        (["where=lens=3"], "has no column 'lens': its columns are image, camera, time, person"),
        (["by=name"], "has no column 'name'"),
        (["where=camera=77"], "no image of the gallery fulfils where='camera=77'"),
    ):
        assert command([*given, *wrong, "red"]) == 2
        assert told in capsys.readouterr().err
    assert command(["search", f"index={out}", "by=person", "red"]) == 2
    assert "Pass table=, the file" in capsys.readouterr().err
    table.write_text("image,camera\nother.png,3\n")
    assert command([*given, "red"]) == 2
    assert "none of the 1 images of" in capsys.readouterr().err
