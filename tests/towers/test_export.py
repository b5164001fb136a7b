"""An encoder in an exported model: written or named, and the same again."""

import shutil

import pytest
import torch
from made import write_clip
from PIL import Image

from sightword.errors import SightwordError
from sightword.miniature import tower
from sightword.towers.clip import encoder as clip
from sightword.towers.export import ExportedTower, is_local, write_image_tower, write_text_tower
from sightword.towers.factory import image_tower, text_tower

WORDS = ["a person raises both arms", "sitting down"]


@pytest.fixture
def own(tmp_path):
    """Kind → a folder of a small encoder of the user's own."""
    write_clip(tmp_path / "own" / "clip")
    tower.write_siglip(tmp_path / "own" / "siglip", WORDS)
    tower.write_t5(tmp_path / "own" / "t5", WORDS)
    tower.write_bert(tmp_path / "own" / "bert", WORDS)
    return tmp_path / "own"


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_an_image_encoder_of_the_users_own_is_written_and_encodes_the_same_bits(kind, own, tmp_path):
    image = Image.effect_noise((60, 50), 80).convert("RGB")
    first = image_tower(own / kind).freeze()
    expected = first.encode([image])
    exported = write_image_tower(first, str(own / kind), "", tmp_path / "files")
    assert (exported.name, exported.tag) == ("", "")
    shutil.rmtree(own)
    again = exported.checked(image_tower(exported.source(tmp_path / "files")))
    found = again.encode([image])
    assert torch.equal(found.pooled, expected.pooled)
    assert torch.equal(found.tokens, expected.tokens)


@pytest.mark.parametrize("kind", ["clip", "siglip", "t5", "bert"])
def test_a_trained_text_encoder_is_written_with_its_trained_weights(kind, own, tmp_path):
    first = text_tower(own / kind)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.mul_(1.1)
        expected = first.encode(WORDS)
    exported = write_text_tower(first, str(own / kind), True, tmp_path / "files")
    shutil.rmtree(own)
    again = exported.checked(text_tower(exported.source(tmp_path / "files")))
    with torch.no_grad():
        found = again.encode(WORDS)
    assert torch.equal(found.pooled, expected.pooled)
    assert torch.equal(found.tokens, expected.tokens)


def test_a_published_encoder_keeps_its_name_and_nothing_is_written(own, tmp_path, monkeypatch):
    monkeypatch.setitem(clip.presets, "vit_test", (str(own / "clip"), ""))
    exported = write_image_tower(image_tower("vit_test"), "vit_test", "", tmp_path / "files")
    assert (exported.name, exported.source(tmp_path / "files")) == ("vit_test", "vit_test")
    assert not (tmp_path / "files").exists()
    text = text_tower("vit_test")
    assert write_text_tower(text, "vit_test", False, tmp_path / "files").name == "vit_test"
    assert write_text_tower(text, "vit_test", True, tmp_path / "files").name == ""
    assert (tmp_path / "files").is_dir()


def test_other_weights_and_missing_files_are_one_line(own, tmp_path):
    first = image_tower(own / "clip")
    exported = write_image_tower(first, str(own / "clip"), "", tmp_path / "files")
    with torch.no_grad():
        first.visual.proj.mul_(1.001)
    with pytest.raises(SightwordError, match=f"has the weights [0-9a-f]+, .* exported with {exported.weights}"):
        exported.checked(first)
    with pytest.raises(FileNotFoundError, match="nowhere is missing. Copy the exported folder as a whole"):
        exported.source(tmp_path / "nowhere")
    assert ExportedTower("0", "vit_h14").source(tmp_path / "nowhere") == "vit_h14"


def test_a_folder_or_a_file_of_weights_is_the_users_own_and_a_name_is_not(own, tmp_path, monkeypatch):
    weights = own / "clip" / "open_clip_model.safetensors"
    assert is_local(str(own / "clip"))
    assert is_local(f"local-dir:{own / 'clip'}")
    assert is_local("ViT-B-16", str(weights))
    for name, tag in (("vit_h14", ""), ("ViT-B-16", "openai"), ("google/siglip-base-patch16-224", ""), ("t5_base", "")):
        assert not is_local(name, tag)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit_h14").mkdir()
    assert not is_local("vit_h14"), "a preset counts before a folder of its name, as where it is opened"
