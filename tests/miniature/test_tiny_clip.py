import json
import os
import time

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from sightword.errors import SightwordError
from sightword.miniature import clip
from sightword.miniature.clip import HELD_OUT, Recipe, measure, tiny_clip
from sightword.towers.clip.encoder import CLIP, CONFIG, WEIGHTS

SHORT = Recipe(scenes=64, steps=3, batch=8)


@pytest.fixture(scope="module")
def metrics(small_clip):
    return measure(CLIP.load(small_clip), 400)


def test_new_images_are_classified_by_place_object_and_action(metrics):
    assert metrics["place"] >= 0.95
    assert metrics["object"] >= 0.95
    assert metrics["action"] >= 0.95


def test_value_tokens_classify_the_object_and_the_action_of_a_patch(metrics):
    assert metrics["object/value"] >= 0.8
    assert metrics["action/value"] >= 0.8


def test_joint_tokens_classify_patches_worse_than_dense_ones_as_in_published_clips(metrics):
    """SCLIP, ClearCLIP and NACLIP found it: dense token types classify patches better than those of the last layer."""
    for token_type in ("value", "qq", "kk", "kk+gauss"):
        assert metrics[f"object/{token_type}"] > metrics["object/joint"] + 0.05


def test_joint_tokens_classify_the_place_better_than_value_tokens(metrics):
    assert metrics["place/joint"] > metrics["place/value"] + 0.1


def test_it_is_trained_once(small_clip, monkeypatch):
    monkeypatch.setattr(clip, "train", None)
    assert tiny_clip(small_clip.parent) == small_clip


def test_open_clip_itself_reads_the_folder(small_clip):
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{small_clip}")
    tokens = open_clip.get_tokenizer(f"local-dir:{small_clip}")(["a photo of a dog"])
    ours = CLIP.load(small_clip)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.eval().encode_image(images), ours.image(images).pooled, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.encode_text(tokens), ours.text(tokens).pooled, rtol=0, atol=1e-5)
    assert ours.image.preprocess.resize == "squash"
    assert (small_clip / WEIGHTS).stat().st_size < 15e6


def test_training_is_the_same_each_time_and_leaves_the_global_generator_alone(tmp_path):
    before = torch.get_rng_state()
    one = tiny_clip(tmp_path / "one", SHORT)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    two = tiny_clip(tmp_path / "two", SHORT)
    for name in (CONFIG, WEIGHTS):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_another_recipe_has_another_folder_and_other_weights(tmp_path):
    one, other = tiny_clip(tmp_path, SHORT), tiny_clip(tmp_path, Recipe(seed=1, scenes=64, steps=3, batch=8))
    assert one != other
    assert (one / WEIGHTS).read_bytes() != (other / WEIGHTS).read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted([one, other])


def test_training_that_is_stopped_leaves_nothing(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(clip, "save_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        tiny_clip(tmp_path, SHORT)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_training_left_is_swept_away_a_day_later(tmp_path):
    for name, age in (("old", 25), ("new", 1)):
        (tmp_path / f".{name}").mkdir()
        os.utime(tmp_path / f".{name}", (time.time() - 3600 * age,) * 2)
    folder = tiny_clip(tmp_path, SHORT)
    assert set(tmp_path.iterdir()) == {folder, tmp_path / ".new"}


def test_two_processes_at_once_end_with_one_whole_folder(tmp_path, monkeypatch):
    train = clip.train

    def meanwhile(recipe):
        monkeypatch.setattr(clip, "train", train)
        tiny_clip(tmp_path, SHORT)
        return train(recipe)

    monkeypatch.setattr(clip, "train", meanwhile)
    folder = tiny_clip(tmp_path, SHORT)
    assert list(tmp_path.iterdir()) == [folder]
    CLIP.load(folder)


def test_only_the_words_of_the_world_have_vectors(small_clip):
    table = load_file(small_clip / WEIGHTS)["token_embedding.weight"]
    assert table.shape[0] == 49408
    known = table.abs().sum(1) > 0
    ids = open_clip.SimpleTokenizer()(["a photo of a dog and a potted plant on a beach"])
    assert known[ids[ids > 0]].all()
    assert known.sum() < 100


def test_the_held_out_scenes_are_not_trained_on():
    with pytest.raises(SightwordError, match="held-out scenes"):
        Recipe(seed=HELD_OUT)


def test_its_config_is_open_clips(small_clip):
    config = json.loads((small_clip / CONFIG).read_text())
    assert set(config) == {"domain", "model_cfg", "preprocess_cfg"}
    assert config["preprocess_cfg"]["resize_mode"] == "squash"
