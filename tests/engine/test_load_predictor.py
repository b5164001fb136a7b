"""A model is a run directory, an exported folder or a hub id."""

import huggingface_hub
import pytest

from sightword.engine.run import load_predictor
from sightword.errors import MissingFileError
from sightword.systems.tokenizer.predict import ImageTokenizer


class Opened(ImageTokenizer):
    """Keeps where it was opened."""

    @classmethod
    def from_folder(cls, folder):
        made = cls.__new__(cls)
        made.__dict__["folder"] = folder
        return made


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The hub ids that were asked for; each is fetched to a folder."""
    found = []

    def snapshot_download(name, allow_patterns):
        found.append(name)
        assert "*.safetensors" in allow_patterns
        return str(tmp_path / "cache" / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return found


def test_a_hub_id_is_fetched_and_opened_as_an_exported_folder(asked, tmp_path):
    assert load_predictor(Opened, "someone/tokenizer").folder == tmp_path / "cache" / "someone" / "tokenizer"
    assert asked == ["someone/tokenizer"]


def test_a_folder_of_that_name_counts_before_the_hub(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    assert str(load_predictor(Opened, "runs/first").folder) == "runs/first"
    for path in (tmp_path / "nowhere", "nowhere", "runs/tokenizer/first"):  # no owner/name
        load_predictor(Opened, path)
    assert asked == []


def test_what_is_neither_a_folder_nor_at_the_hub_is_one_line(monkeypatch):
    def snapshot_download(name, allow_patterns):
        raise OSError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(MissingFileError, match="runs/first is no folder, nor on this machine, and could not be fetch"):
        load_predictor(Opened, "runs/first")
