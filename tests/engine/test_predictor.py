"""sightword.load: a run directory, an exported folder or a hub id; exports are whole, and refuse other folders."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import sightword
from sightword.cli.main import main
from sightword.engine.predictor import Predictor, load
from sightword.errors import MissingFileError, SightwordError
from sightword.systems.tokenizer.predict import ImageTokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def run(tiny, tmp_path):
    assert main(["train", "experiment=tokenizer/mini", *tiny, f"out={tmp_path}", "name=it", "trainer.steps=2"]) == 0
    return tmp_path / "tokenizer" / "mini" / "it"


def ids_of(model, photos):
    return model(photos / "0.png").ids.tolist()


def test_a_run_its_export_and_a_hub_id_give_the_same_predictor(run, photos, tmp_path):
    model = sightword.load(run)
    assert isinstance(model, ImageTokenizer)
    model.save_pretrained(tmp_path / "export")
    cache = tmp_path / "hub" / "models--someone--tokenizer"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(COMMIT)
    model.save_pretrained(cache / "snapshots" / COMMIT)
    hub = {"cache_dir": tmp_path / "hub", "local_files_only": True}
    others = [load(tmp_path / "export"), load("someone/tokenizer", **hub)]
    others.append(ImageTokenizer.from_pretrained(str(tmp_path / "export")))
    for other in others:
        assert type(other) is ImageTokenizer
        assert ids_of(other, photos) == ids_of(model, photos)


def test_the_model_card_has_the_metrics_and_the_protocol_of_the_run_and_survives_a_second_export(run, tmp_path):
    load(run).save_pretrained(tmp_path / "one")
    load(tmp_path / "one").save_pretrained(tmp_path / "two")
    summary = json.loads((run / "summary.json").read_text())
    for folder in ("one", "two"):
        card = (tmp_path / folder / "README.md").read_text()
        assert card.startswith("---\n")
        assert "library_name: sightword" in card
        assert "experiment `tokenizer/mini`" in card.replace("Experiment", "experiment")
        for name, value in summary["best"].items():
            assert name == "batches" or f"| {name} | {value:.4g} |" in card
        for topic, text in summary["protocol"].items():
            assert not isinstance(text, str) or f"- **{topic}**: {text}" in card
    assert (tmp_path / "one" / "config.json").read_text() == (tmp_path / "two" / "config.json").read_text()


def test_an_export_over_an_export_replaces_it_and_other_folders_are_refused(run, tmp_path):
    model = load(run)
    for _ in range(2):
        model.save_pretrained(tmp_path / "export")
    with pytest.raises(SightwordError, match="is a run directory. Pass another folder"):
        model.save_pretrained(run)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SightwordError, match="was written by another program"):
        model.save_pretrained(tmp_path / "other")
    assert (tmp_path / "other" / "config.json").read_text() == '{"model_type": "bert"}'
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("# My project")
    with pytest.raises(SightwordError, match="is not a model card of Sightword"):
        model.save_pretrained(tmp_path / "project")
    assert [file.name for file in (tmp_path / "project").iterdir()] == ["README.md"]


def test_an_export_that_was_killed_half_way_is_no_model(run, tmp_path, monkeypatch):
    model = load(run)
    model.save_pretrained(tmp_path / "export")

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("sightword.towers.vq.image.write_weights", killed)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(tmp_path / "export")
    with pytest.raises(SightwordError, match=r"nor an exported model \(config.json is missing\)"):
        load(tmp_path / "export")


def test_what_is_no_model_is_one_line(run, tmp_path):
    with pytest.raises(SightwordError, match="neither a run directory"):
        load(tmp_path)
    with pytest.raises(
        MissingFileError, match="Pass a run directory, a folder that sightword export wrote, or a hub id"
    ):
        load(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match="could not be fetched"):
        load("someone/nothing", cache_dir=tmp_path / "hub", local_files_only=True)
    with pytest.raises(SightwordError, match="is a model of tokenizer. Pass one of retrieval"):
        sightword.PersonRetriever.from_pretrained(run)
    (tmp_path / "config.json").write_text('{"system": "tokeniser"}')
    with pytest.raises(SightwordError, match="did you mean 'tokenizer'"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SightwordError, match="export the run again"):
        load(tmp_path)


def test_a_predictor_is_made_without_copying_its_networks(photos, run):
    model = load(run)
    assert isinstance(model, Predictor)
    assert type(model)(model.model).model is model.model


def test_a_result_shows_itself_in_a_notebook(photos, run):
    html = load(run)(photos / "0.png")._repr_html_()
    assert html.startswith('<figure><img src="data:image/png;base64,')
    assert "<figcaption>" in html


def test_one_input_gives_one_result_and_many_a_list(photos, run):
    model, image = load(run), Image.open(photos / "0.png")
    array = torch.from_numpy(np.array(image.convert("RGB")))
    tensor = array.permute(2, 0, 1)
    one = model(photos / "0.png")
    for other in (image, array.numpy(), tensor, tensor.float() / 255):
        assert model(other).ids.tolist() == one.ids.tolist()
    assert [each.ids.tolist() for each in model([photos / "0.png", tensor])] == [one.ids.tolist()] * 2
    assert [each.ids.tolist() for each in model(torch.stack([tensor, tensor]))] == [one.ids.tolist()] * 2
    assert model([]) == []
