"""Every experiment composes, also with the published checkpoints, and names what its phase is."""

import pytest

from sightword.cli.compose import compose_config
from sightword.cli.main import main
from sightword.engine.config import Optim
from sightword.engine.system import experiments

EXPERIMENTS = ["irra", "phase1", "phase2", "phase2_siglip_text", "phase3", "phase4"]


def composed(name, *words):
    return compose_config([f"experiment=retrieval/{name}", "data.root=x", *words])


def test_the_phases_are_names_of_experiments():
    assert {f"retrieval/{name}" for name in EXPERIMENTS} <= {name for name, _ in experiments()}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_with_the_published_names(name):
    system = composed(name, "scale=full").system
    assert (system.clip, system.clip_tag) == ("ViT-B-16-quickgelu", "openai")
    assert (system.siglip, system.t5) == ("siglip2_b16", "flan_t5_base")
    assert system.image_size == [384, 128]
    assert composed(name, "scale=full") == composed(name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_towers_take_images_and_texts_as_the_data_gives_them(name):
    config = composed(name, "data.image_size=[48,16]", "data.text_length=20")
    assert config.system.image_size == config.data.image_size == [48, 16]
    assert config.data.text_length == 20
    assert config.system.text_length == (20 if name != "phase2_siglip_text" else 0)  # a SigLIP has one length
    assert config.trainer.monitor == "val/rank1"


def test_each_phase_is_what_the_document_says():
    parts = {name: composed(name).system for name in EXPERIMENTS}
    assert [(s.image, s.text) for s in parts.values()] == [
        ("clip", "clip"),
        ("clip", "t5"),
        ("siglip", "t5"),
        ("siglip", "siglip"),
        ("siglip", "t5"),
        ("siglip", "t5"),
    ]
    assert [name for name, s in parts.items() if s.shared] == ["phase3", "phase4"]
    assert [name for name, s in parts.items() if s.enable_gen] == ["phase4"]
    assert [name for name, s in parts.items() if s.id_weight and s.mlm_weight] == ["irra"]
    assert [name for name, s in parts.items() if s.align == "itc_then_sdm"] == EXPERIMENTS[1:]
    assert all(s.grid_bias and not s.mask_global_text and s.logit_scale == 50 for s in parts.values())


def test_irra_is_trained_as_published():
    config = composed("irra")
    assert config.data.mask_text == 0.15
    assert isinstance(config.optim, Optim)
    assert (config.optim.name, config.optim.lr, config.optim.weight_decay) == ("adam", 1e-5, 4e-5)
    assert config.optim.lr_scale == {"training": 5.0}
    assert config.system.align == "sdm"


def test_a_typo_is_a_line(capsys):
    assert main(["train", "experiment=retrieval/phase3", "data.root=x", "system.shard=true"]) != 0
    assert "shard" in capsys.readouterr().err
