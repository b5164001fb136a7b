"""The predictor: what it keeps of a run, and how it encodes, indexes and searches."""

import pytest
import torch
from fakes import CAPTIONS, CONTROL, PHASE1, PHASE3, PHASES, batch_for, system, write_towers
from PIL import Image

from sightword.engine.run import load_predictor
from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.systems.retrieval.predict import PersonRetriever
from sightword.systems.retrieval.pretrained import load_encoder
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
def test_an_export_gives_the_same_embeddings_bit_for_bit_and_needs_no_other_files(towers, tmp_path, name):
    task = task_of(towers, **VARIANTS[name]).eval()
    for parameter in task.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter))  # trained: no longer what the towers' files hold
    batch = batch_for(task.model.tokenizer)
    exported(task, tmp_path / "out")
    moved = tmp_path / "elsewhere"
    (tmp_path / "out").rename(moved)
    model, _ = load_encoder(moved)
    assert not model.training
    assert torch.equal(model.encode_image(batch.images), task.model.encode_image(batch.images))
    ids, mask = model.tokenizer(CAPTIONS)
    assert torch.equal(ids, batch.caption_ids)
    assert torch.equal(model.encode_text(ids, mask), task.model.encode_text(*batch[2:4]))
    assert model.state_dict().keys() == task.model.state_dict().keys()
    assert model.image.preprocess == task.model.image.preprocess


def test_an_export_of_phase_four_holds_no_weights_of_the_generator(towers, tmp_path):
    from safetensors.torch import load_file

    sizes = {}
    for name in ("phase3", "phase4"):
        exported(task_of(towers, **PHASES[name]), tmp_path / name)
        files = sorted((tmp_path / name).rglob("*.safetensors"))
        weights = {f"{file.parent.name}/{key}": value for file in files for key, value in load_file(file).items()}
        assert not [key for key in weights if "generator" in key or "decoder" in key]
        sizes[name] = {key.split("/")[1]: tuple(value.shape) for key, value in weights.items()}
    assert sizes["phase3"] == sizes["phase4"]


def test_an_export_that_is_not_whole_is_refused_in_a_line(towers, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"sightword export run=… out="):
        load_encoder(tmp_path)
    task = task_of(towers, **PHASE3)
    exported(task, tmp_path / "out")
    (tmp_path / "out" / "config.json").write_text('{"system": {"imagge": "clip"}}')
    with pytest.raises(ValueError, match="damaged, or of another version"):
        load_encoder(tmp_path / "out")
    exported(task, tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(ValueError, match="missing: image"):
        load_encoder(tmp_path / "out")


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


def test_embeddings_of_files_and_of_opened_images_are_the_models_own(retriever, people):
    file = people / "blue.png"
    vectors = retriever.encode_image([file, str(file), Image.open(file)])
    assert vectors.shape == (3, 24)
    assert torch.equal(vectors[0], vectors[1])
    assert torch.equal(vectors[0], vectors[2])
    ids, mask = retriever.embedder.model.tokenizer(CAPTIONS[:1])
    with torch.no_grad():
        torch.testing.assert_close(retriever.encode_text(CAPTIONS[0]), retriever.embedder.model.encode_text(ids, mask))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


def test_a_search_gives_the_nearest_images_and_draws_them(retriever, people):
    gallery = retriever.index(people)
    assert len(gallery) == 4
    found = retriever(CAPTIONS[0], gallery, top=3)
    scores = (gallery.vectors @ retriever.encode_text(CAPTIONS[0])[0]).tolist()
    expected = sorted(zip(scores, gallery.paths, strict=True), key=lambda pair: -pair[0])[:3]
    assert found.paths == [path for _, path in expected]
    assert found.scores == pytest.approx([score for score, _ in expected], abs=1e-6)
    assert found.to_dict()["hits"][0] == {"path": str(found.paths[0]), "score": found.scores[0], "copies": 0}
    assert found.plot().width > 200
    one, two = retriever(CAPTIONS[:2], gallery)
    assert one.paths[:3] == found.paths
    assert (one.text, two.text) == tuple(CAPTIONS[:2])
    assert len(two.hits) == 4


def test_a_search_that_cannot_be_made_is_one_line(towers, retriever, people):
    gallery = retriever.index([people / "blue.png"])
    for text, top, told in ((" ", 1, "the text is empty"), ("a man", 0, "top=0 is too small")):
        with pytest.raises(SightwordError, match=told):
            retriever(text, gallery, top)
    with pytest.raises(SightwordError, match="no images to index"):
        retriever.index([])
    other = PersonRetriever.from_task(task_of(towers, **PHASE1))
    with pytest.raises(SightwordError, match="made with other weights"):
        other("a man", gallery)


def test_a_predictor_read_from_a_folder_can_be_written_again(towers, retriever, people, tmp_path):
    retriever.save_pretrained(tmp_path / "one")
    again = load_predictor(PersonRetriever, tmp_path / "one")
    again.save_pretrained(tmp_path / "two")
    last = PersonRetriever.from_folder(tmp_path / "two")
    files = sorted(people.glob("*.png"))
    assert torch.equal(last.encode_image(files), retriever.encode_image(files))


def test_it_is_made_of_a_run_of_retrieval_alone(towers):
    with pytest.raises(SightwordError, match="is made of a run of retrieval, got a Task"):
        PersonRetriever.from_task(Task())
    task = task_of(towers, **PHASE1)
    with pytest.raises(SightwordError, match="made without a config"):
        PersonRetriever(task.model).save_pretrained("nowhere")
