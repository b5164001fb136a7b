"""Which tower a name, a folder or a repository in Hugging Face's cache is opened with."""

import json
import shutil
import socket
import time

import pytest
import test_bert
import test_siglip
import test_t5
import torch
from transformers import CLIPConfig, Dinov2Config, ViTConfig

from sightword.towers.bert import BertText
from sightword.towers.clip.encoder import CLIPImage, CLIPText
from sightword.towers.factory import image_tower, text_tower, tower_pair
from sightword.towers.siglip.encoder import SigLIPImage, SigLIPText
from sightword.towers.t5 import T5Text


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Puts a folder into a cache of Hugging Face's, under the name of a repository; there is no network."""
    place = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place))

    def put(folder, repository):
        commit = "0" * 40
        stored = place / f"models--{repository.replace('/', '--')}"
        (stored / "refs").mkdir(parents=True)
        (stored / "refs" / "main").write_text(commit)
        shutil.copytree(folder, stored / "snapshots" / commit)
        return stored / "snapshots" / commit

    return put


def refused(error, call, *args, **options):
    with pytest.raises(error) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def image():
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_both_sides_of_a_pair_are_opened_at_once(random_clip, tmp_path):
    folder, _ = random_clip
    pair = tower_pair(folder, size=(48, 16), length=20)
    assert (type(pair.image), type(pair.text)) == (CLIPImage, CLIPText)
    assert (pair.image.preprocess.size, pair.text.tokenizer.length) == ((48, 16), 20)
    t5 = test_t5.write(tmp_path / "t5")
    assert "both read by a CLIP or a SigLIP" in refused(ValueError, tower_pair, t5)


# Folders.


def test_a_folder_is_opened_with_the_tower_that_it_is_of(tmp_path, random_clip):
    test_siglip.write_hf(tmp_path / "siglip")
    test_siglip.write_open_clip(tmp_path / "theirs")
    for folder in (tmp_path / "siglip", tmp_path / "theirs"):
        assert (type(image_tower(folder)), type(text_tower(folder))) == (SigLIPImage, SigLIPText)
    assert (type(image_tower(random_clip[0])), type(text_tower(random_clip[0]))) == (CLIPImage, CLIPText)
    assert type(text_tower(test_t5.write(tmp_path / "t5"))) is T5Text
    assert type(text_tower(test_bert.write(tmp_path / "roberta", "RobertaForMaskedLM", pad_token_id=1))) is BertText


def test_open_clips_prefixes_are_as_good_as_none(random_clip):
    plain, prefixed = image_tower(random_clip[0]), image_tower(f"local-dir:{random_clip[0]}")
    assert torch.equal(plain(image()).pooled, prefixed(image()).pooled)
    assert type(text_tower(f"local-dir:{random_clip[0]}")) is CLIPText


def test_a_hugging_face_clip_is_sent_to_the_formats_that_are_read(tmp_path):
    CLIPConfig().save_pretrained(tmp_path)
    for tower in (image_tower, text_tower):
        told = refused(ValueError, tower, tmp_path)
        assert "is a CLIP as Hugging Face keeps it" in told
        assert "vit_b16" in told
        assert "open_clip_config.json" in told


@pytest.mark.parametrize("config", [ViTConfig(), Dinov2Config()])
def test_a_kind_that_no_tower_reads_is_called_what_it_is(tmp_path, config):
    config.save_pretrained(tmp_path)
    kind = config.model_type
    assert f"is a {kind}; images are read by a CLIP or a SigLIP" in refused(ValueError, image_tower, tmp_path)
    assert f"is a {kind}, not an encoder that reads both ways" in refused(ValueError, text_tower, tmp_path)


def test_an_encoder_of_texts_is_no_image_tower_and_says_what_it_is(tmp_path):
    test_bert.write(tmp_path / "roberta", "RobertaForMaskedLM", pad_token_id=1)
    assert "is a roberta; images are read by" in refused(ValueError, image_tower, tmp_path / "roberta")
    assert "is a bert; images are read by" in refused(ValueError, image_tower, test_bert.write(tmp_path / "bert"))
    assert "only CLIPs and SigLIPs of open_clip have tags" in refused(
        ValueError, text_tower, tmp_path / "bert", tag="openai"
    )


def test_a_siglip_that_reads_cut_patches_is_refused_as_such(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
    assert "NaFlex" in refused(ValueError, image_tower, tmp_path)
    assert "NaFlex" in refused(ValueError, text_tower, tmp_path)


# Repositories in the cache.


@pytest.mark.parametrize("prefix", ["", "hf-hub:"])
def test_a_siglip_of_open_clips_at_hugging_face_is_read_from_the_cache(tmp_path, cache, prefix):
    test_siglip.write_open_clip(tmp_path / "m")
    cache(tmp_path / "m", "timm/ViT-B-16-SigLIP")
    assert not (tmp_path / "m" / "config.json").exists()
    name = f"{prefix}timm/ViT-B-16-SigLIP"
    assert torch.equal(image_tower(name)(image()).pooled, image_tower(tmp_path / "m")(image()).pooled)
    texts = test_siglip.TEXTS
    assert torch.equal(text_tower(name).encode(texts).pooled, text_tower(tmp_path / "m").encode(texts).pooled)
    assert refused(ValueError, image_tower, name, tag="webli").startswith("tag=webli is for open_clip's own models")


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "with Hugging Face's own files"])
@pytest.mark.parametrize("weights", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_clip_of_open_clips_at_hugging_face_is_read_from_the_cache(cache, random_clip, tmp_path, beside, weights):
    name = "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"
    put = cache(random_clip[0], name)
    if weights.endswith(".bin"):
        (put / "open_clip_model.safetensors").unlink()
        torch.save(random_clip[1].state_dict(), put / weights)
    if beside:
        CLIPConfig().save_pretrained(put)
        (put / "model.safetensors").write_bytes(b"another format")
    tower = image_tower(f"hf-hub:{name}")
    assert tower.name == name
    assert torch.equal(tower(image()).pooled, image_tower(random_clip[0])(image()).pooled)
    assert type(text_tower(name)) is CLIPText


def test_a_siglip_whose_repository_has_both_formats_is_read_as_hugging_faces(tmp_path, cache):
    model = test_siglip.write_hf(tmp_path / "m")
    (tmp_path / "m" / "open_clip_config.json").write_text(json.dumps({"model_cfg": test_siglip.model_cfg()}))
    cache(tmp_path / "m", "someone/siglip")
    with torch.no_grad():
        wanted = model.vision_model(image()).pooler_output
        torch.testing.assert_close(image_tower("someone/siglip")(image()).pooled, wanted)


def test_texts_are_read_from_the_cache(tmp_path, cache):
    cache(test_t5.write(tmp_path / "t5"), "google-t5/t5-small")
    cache(test_bert.write(tmp_path / "bert"), "someone/bert")
    for name in ("t5_small", "google-t5/t5-small", "hf-hub:google-t5/t5-small"):
        tower = text_tower(name)
        assert torch.equal(tower.encode("a man").pooled, text_tower(tmp_path / "t5").encode("a man").pooled)
    assert type(text_tower("someone/bert")) is BertText
    assert "is a bert; images are" in refused(ValueError, image_tower, "someone/bert")


# Names that are nowhere.


@pytest.fixture
def cut_off(monkeypatch):
    """No network, and nobody has said so."""

    def refuse(*args, **options):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it is tried again and again"))


def test_what_is_in_the_cache_is_read_at_once_where_there_is_no_network(tmp_path, cache, cut_off, random_clip):
    cache(test_t5.write(tmp_path / "t5"), "google-t5/t5-small")
    cache(test_bert.write(tmp_path / "bert"), "someone/bert")
    test_siglip.write_hf(tmp_path / "siglip")
    cache(tmp_path / "siglip", "google/siglip-base-patch16-224")
    cache(random_clip[0], "someone/clip")
    for name in ("t5_small", "someone/bert", "siglip_b16", "someone/clip"):
        text_tower(name)


@pytest.mark.parametrize("tower", [image_tower, text_tower])
def test_a_name_that_is_nowhere_is_refused_at_once_where_there_is_no_network(tower, tmp_path, monkeypatch, cut_off):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "hf download nobody/nothing" in refused(FileNotFoundError, tower, "nobody/nothing")


def test_a_place_that_is_no_folder_is_said_to_be_none(tmp_path):
    assert "does not exist" in refused(FileNotFoundError, image_tower, tmp_path / "nowhere")
    (tmp_path / "file.txt").touch()
    assert "is a file; name the folder" in refused(FileNotFoundError, text_tower, tmp_path / "file.txt")
    assert "has no config.json" in refused(FileNotFoundError, text_tower, tmp_path)


@pytest.mark.parametrize("model_cfg", [3, [], {"vision_cfg": 3}])
def test_a_folder_whose_config_is_none_is_said_to_have_none(tmp_path, model_cfg):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
    (tmp_path / "open_clip_model.safetensors").touch()
    with pytest.raises(ValueError, match="not (an open_clip config|the config of an open_clip model)"):
        image_tower(tmp_path)
