"""The predictor: what it keeps of a run, and how it encodes, indexes and searches."""

import json

import numpy as np
import pytest
import torch
from fakes import CAPTIONS, CONTROL, IRRA, PHASE1, PHASE3, PHASES, batch_for, system, write_towers
from PIL import Image

from sightword import load
from sightword.cli.main import main
from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.storage.cache import digest
from sightword.storage.checkpoint import read_weights, write_weights
from sightword.systems.retrieval import pretrained
from sightword.systems.retrieval.gallery import Embedder, Hit
from sightword.systems.retrieval.predict import PersonRetriever, SearchResult
from sightword.systems.retrieval.task import make_task


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return write_towers(tmp_path_factory.mktemp("towers"))


def task_of(towers, **values):
    torch.manual_seed(0)
    return make_task(system(towers, **values)).eval()


def exported(task, folder):
    PersonRetriever.from_task(task).save_pretrained(folder)


VARIANTS = {
    **PHASES,
    "short texts": {**PHASE1, "text_length": 40},
    "cls and lines": {**PHASE3, "image_pooling": "cls", "grid_bias": False},
    "separate heads": {**CONTROL, "project": "separate"},
}


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_an_export_gives_the_same_bits_from_anywhere_without_the_towers(tmp_path, name, monkeypatch):
    towers = write_towers(tmp_path / "towers")
    task = task_of(towers, **VARIANTS[name]).eval()
    for parameter in task.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter))  # trained: no longer what the towers' files hold
    batch = batch_for(task.model.tokenizer)
    exported(task, tmp_path / "out")
    (tmp_path / "far").mkdir()
    (tmp_path / "out").rename(tmp_path / "far" / "moved")
    (tmp_path / "towers").rename(tmp_path / "gone")
    monkeypatch.chdir(tmp_path / "far")
    for file in (tmp_path / "far").rglob("*.json"):
        assert str(tmp_path) not in file.read_text()  # where the towers were is nobody's business
    retriever = load("moved")
    expected = task.model.encode_text(*batch[2:4])
    assert torch.equal(retriever.encode_text(CAPTIONS), expected)  # by the text side alone
    assert retriever._embedder is None
    assert retriever.identity.weights == digest(Embedder(task.model, "").state_dict())
    model = retriever.embedder.model
    assert not model.training
    assert torch.equal(model.encode_image(batch.images), task.model.encode_image(batch.images))
    assert torch.equal(retriever.encode_text(CAPTIONS), expected)
    assert model.state_dict().keys() == task.model.state_dict().keys()
    assert model.image.preprocess == task.model.image.preprocess
    weights = retriever.task_weights()
    assert weights.keys() <= task.state_dict().keys()
    assert all(torch.equal(weights[f"model.{key}"], value) for key, value in task.model.state_dict().items())


def test_an_export_of_phase_four_holds_no_weights_of_the_generator_and_needs_no_tokenizer(towers, tmp_path):
    from safetensors.torch import load_file

    sizes = {}
    for name in ("phase3", "phase4"):
        exported(task_of(towers, **PHASES[name], vq_weights="nowhere"), tmp_path / name)
        files = sorted((tmp_path / name).rglob("*.safetensors"))
        weights = {f"{file.parent.name}/{key}": value for file in files for key, value in load_file(file).items()}
        assert not [key for key in weights if "generator" in key or "decoder" in key]
        sizes[name] = {key.split("/")[1]: tuple(value.shape) for key, value in weights.items()}
        assert load(tmp_path / name).encode_text("a man").shape == (24,)
        assert json.loads((tmp_path / name / "config.json").read_text())["config"]["vq_weights"] == ""
    assert sizes["phase3"] == sizes["phase4"]


def test_an_export_that_is_not_whole_is_refused_in_a_line(towers, tmp_path):
    task, out = task_of(towers, **PHASE3), tmp_path / "out"
    exported(task, out)
    whole = json.loads((out / "config.json").read_text())

    def said(opens_images=False):
        with pytest.raises(SightwordError) as caught:
            retriever = load(out)
            assert opens_images
            retriever.encode_image(Image.new("RGB", (8, 24)))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (out / "config.json").write_text(json.dumps(whole | {"config": {"imagge": "clip"}}))
    assert "damaged, or of another version" in said()
    (out / "config.json").write_text(json.dumps({key: whole[key] for key in ("sightword", "system", "config")}))
    assert "has no digests" in said()
    (out / "config.json").write_text(json.dumps(whole | {"digests": whole["digests"] | {"text": "0" * 16}}))
    assert "other weights of its text encoder" in said()
    (out / "config.json").write_text(json.dumps(whole))
    weights = read_weights(out / "model.safetensors")
    write_weights(out / "model.safetensors", {name: w for name, w in weights.items() if name.startswith("heads.")})
    assert "missing: image" in said(opens_images=True)
    (out / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    assert "2 missing: weight, bias" in said()
    (out / "model.safetensors").unlink()
    assert "model.safetensors does not exist" in said()
    exported(task, out)  # over what is left of it
    (out / "text" / "model.safetensors").unlink()
    assert "text" in said()
    (out / "config.json").unlink()
    assert "neither a run directory" in said()


def test_a_hub_id_is_opened_from_the_cache_of_this_machine_without_network(towers, people, tmp_path):
    task, commit = task_of(towers, **IRRA), "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub" / "models--someone--people"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    exported(task, cache / "snapshots" / commit)
    options = {"cache_dir": tmp_path / "hub", "local_files_only": True}
    again = PersonRetriever.from_pretrained("someone/people", **options)
    file = people / "blue.png"
    assert torch.equal(again.encode_image(file), PersonRetriever.from_task(task).encode_image(file))
    card = (cache / "snapshots" / commit / "README.md").read_text()
    assert "# PersonRetriever" in card
    assert "model.index(" in card


# ------------------------------------------------------------------------------------------------------------ searches


@pytest.fixture
def people(tmp_path):
    """A folder of four images of one colour each, of several sizes."""
    root = tmp_path / "people"
    (root / "below").mkdir(parents=True)
    for number, colour in enumerate(("red", "green", "blue", "white")):
        name = root / ("below" if number == 0 else ".") / f"{colour}.png"
        Image.new("RGB", (20 + number, 60), colour).save(name)
    return root


@pytest.fixture(scope="module")
def retriever(towers):
    return PersonRetriever.from_task(task_of(towers, **PHASE3))


def test_embeddings_of_one_or_many_images_of_any_kind_are_the_models_own(retriever, people):
    file = people / "blue.png"
    array = np.array(Image.open(file))
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    vectors = retriever.encode_image([file, str(file), Image.open(file), array, tensor, tensor / 255])
    assert vectors.shape == (6, 24)
    assert all(torch.equal(vectors[0], vector) for vector in vectors)
    assert torch.equal(retriever.encode_image(np.stack([array] * 6)), vectors)  # a batch
    torch.testing.assert_close(retriever.encode_image(file), vectors[0])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(6))
    assert retriever.encode_image([]).shape == (0, 24)
    ids, mask = retriever.embedder.model.tokenizer(CAPTIONS[:1])
    with torch.no_grad():
        torch.testing.assert_close(
            retriever.encode_text(CAPTIONS[0]), retriever.embedder.model.encode_text(ids, mask)[0]
        )
    assert retriever.encode_text(CAPTIONS[:2]).shape == (2, 24)


def test_a_search_gives_the_nearest_images_and_draws_them(retriever, people):
    gallery = retriever.index(people)
    assert len(gallery) == 4
    found = retriever(CAPTIONS[0], gallery, top=3)
    scores = (gallery.vectors @ retriever.encode_text(CAPTIONS[0])).tolist()
    expected = sorted(zip(scores, gallery.images, strict=True), key=lambda pair: -pair[0])[:3]
    assert found.paths == [path for _, path in expected]
    assert found.scores == pytest.approx([score for score, _ in expected], abs=1e-6)
    assert found.to_dict()["hits"][0] == {
        "path": str(found.paths[0]),
        "number": gallery.images.index(found.paths[0]),
        "score": found.scores[0],
        "copies": 0,
        "unsure": False,
    }
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
    assert repr(found).startswith(f"SearchResult({CAPTIONS[0]!r}: 3 images, first {found.paths[0]} with ")
    assert found.plot().width > 200
    one, two = retriever(CAPTIONS[:2], gallery)
    assert one.paths[:3] == found.paths
    assert (one.text, two.text) == tuple(CAPTIONS[:2])
    assert len(two.hits) == 4


def test_a_gallery_may_be_a_folder_of_images_or_images_of_any_kind_or_what_index_wrote(towers, people, tmp_path):
    exported(task_of(towers, **PHASE3), tmp_path / "model")
    retriever = load(tmp_path / "model")
    gallery = retriever.index(people)
    expected = retriever(CAPTIONS[0], gallery)
    words = [f"model={tmp_path / 'model'}", f"images={people}", f"out={tmp_path / 'gallery'}"]
    assert main(["index", *words]) == 0
    for other in (people, str(people), tmp_path / "gallery", list(gallery.images)):
        found = load(tmp_path / "model")(CAPTIONS[0], other)
        assert [path.name for path in found.paths] == [path.name for path in expected.paths]
        assert found.scores == pytest.approx(expected.scores, abs=1e-6)
    pictures = [Image.open(file) for file in gallery.images]
    found = retriever(CAPTIONS[0], [*pictures[:2], np.asarray(pictures[2]), gallery.images[3]])
    assert [gallery.images[hit.number] for hit in found.hits] == expected.paths
    assert [path is not None for path in found.paths] == [hit.number == 3 for hit in found.hits]
    assert found.plot().size == expected.plot().size
    assert f"image {found.hits[0].number}" in repr(found) or found.hits[0].number == 3


def test_a_search_on_disk_opens_no_image_encoder(towers, people, tmp_path, monkeypatch, capsys):
    exported(task_of(towers, **PHASE3), tmp_path / "model")
    words = [f"model={tmp_path / 'model'}", f"images={people}", f"out={tmp_path / 'gallery'}"]
    assert main(["index", *words]) == 0
    monkeypatch.setattr(pretrained.Exported, "open", lambda self: pytest.fail("the image encoder was opened"))
    capsys.readouterr()
    assert main(["search", f"index={tmp_path / 'gallery'}", "out=", CAPTIONS[0]]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_no_query_gives_no_result(retriever, people):
    assert retriever([], people) == []


def test_a_search_that_cannot_be_made_is_one_line(towers, retriever, people):
    gallery = retriever.index([people / "blue.png"])
    (people / "empty").mkdir()
    for text, top, told in ((" ", 1, "the text is empty"), ("a man", 0, "top=0 is too small")):
        with pytest.raises(SightwordError, match=told):
            retriever(text, gallery, top)
    with pytest.raises(SightwordError, match="no images to index"):
        retriever.index([])
    with pytest.raises(SightwordError, match="gallery='nowhere' is not a folder. Pass one that sightword index wrote"):
        retriever("a man", "nowhere")
    with pytest.raises(SightwordError, match="contains no image"):
        retriever("a man", people / "empty")
    other = PersonRetriever.from_task(task_of(towers, **PHASE1))
    with pytest.raises(SightwordError, match="made with other weights"):
        other("a man", gallery)


def test_a_predictor_read_from_a_folder_can_be_written_again(towers, retriever, people, tmp_path):
    retriever.save_pretrained(tmp_path / "one")
    load(tmp_path / "one").save_pretrained(tmp_path / "two")
    last = PersonRetriever.from_pretrained(tmp_path / "two")
    files_of = [sorted(file.relative_to(folder) for file in folder.rglob("*")) for folder in tmp_path.glob("[ot]*")]
    assert files_of[0] == files_of[1]
    assert (tmp_path / "one" / "config.json").read_bytes() == (tmp_path / "two" / "config.json").read_bytes()
    files = sorted(people.glob("*.png"))
    assert torch.equal(last.encode_image(files), retriever.encode_image(files))


def test_it_is_made_of_a_run_of_retrieval_alone(towers, tmp_path):
    with pytest.raises(SightwordError, match="is made of a run of retrieval, got a Task"):
        PersonRetriever.from_task(Task())
    task = task_of(towers, **PHASE1)
    with pytest.raises(SightwordError, match="made without a config"):
        PersonRetriever(task.model).save_pretrained(tmp_path)


def test_a_plain_clip_searches_without_training_and_says_when_nothing_fits(random_clip, people):
    plain = PersonRetriever.from_tower(random_clip[0])
    images = [Image.new("RGB", (20, 60), (25 * number, 99, 9)) for number in range(10)]
    found = plain("a man in a red coat", images, top=2)
    assert found.threshold is not None
    assert "the best of 19 generic texts, about 5 % of unrelated ones reach it" in found.calibration
    assert found.fits == (found.scores[0] >= found.threshold)
    few = plain("a man in a red coat", images[:4])
    assert (few.fits, few.threshold, few.fit_line()) == (None, None, "")
    with pytest.raises(SightwordError, match="made without a config"):
        plain.save_pretrained(people.parent / "exported")


def test_hits_below_the_threshold_are_unsure_in_lines_values_and_figure():
    hits = tuple(Hit(Image.new("RGB", (20, 60)), score, 0, number) for number, score in enumerate((0.4, 0.3)))
    some, none = (SearchResult("a red coat", hits, (), limit, "5 % reach it") for limit in (0.35, 0.5))
    assert [some.is_unsure(hit) for hit in hits] == [False, True]
    assert some.fit_line() == "best 0.400, the threshold is 0.350 (5 % reach it); 1 of 2 are below it, unsure"
    assert none.fit_line() == "nothing fits: best 0.400 under the threshold 0.500 (5 % reach it); all are unsure"
    assert (some.fits, none.fits) == (True, False)
    assert none.to_dict()["fits"] is False
    assert [hit["unsure"] for hit in some.to_dict()["hits"]] == [False, True]
    assert "(nothing fits)" in repr(none)
    assert none.plot().tobytes() != SearchResult("a red coat", hits).plot().tobytes()


def test_thresholds_of_validation_are_kept_in_an_export(retriever, tmp_path):
    assert not retriever.acceptance.known
    for part, values in zip(retriever.acceptance, ([4, 16], [1.5, 2.5], [0.5, 0.4], [0.05, 0.05]), strict=True):
        part[:2] = torch.tensor(values)
    retriever.save_pretrained(tmp_path / "model")
    again = PersonRetriever.from_pretrained(tmp_path / "model").acceptance
    assert again.at(8).score == pytest.approx(2.0)
    assert again.at(8)._asdict() == pytest.approx(retriever.acceptance.at(8)._asdict())
