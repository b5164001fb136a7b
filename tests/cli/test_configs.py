"""Every YAML composes, builds tiny, and takes one step; those of `intent` in tests/systems/intent/test_intent_train."""

import dataclasses

import pytest
import yaml

import sightword
from sightword.cli.compose import compose_config
from sightword.cli.main import main
from sightword.engine.system import config_folders, experiments

EXPERIMENTS = [name for name, _ in experiments()]
SMALL = [name for name in EXPERIMENTS if name.endswith("_mini")]
REAL = {"skeleton/msr", "skeleton/msr_unseen"}  # of small real sets, which are small themselves
SCALES = [file for folder in config_folders() for file in sorted(folder.glob("scale/*/*.yaml"))]

# What a scale may set: names, sizes, lengths of a run.
LENGTHS = {"optim.warmup", "trainer.steps", "trainer.epochs", "trainer.val_every", "trainer.log_every"}
LENGTHS |= {"trainer.threads", "data.num_workers", "data.batch_size", "data.root"}
SIZES = {
    "tokenizer": "system: latent_channels encoder_channels decoder_channels num_embeddings embedding_dim; "
    "data: image_size crops val_crops val_split",
    "intent": "system: tower vocabulary semantic_anchors_path calibration_labels embed_dim; data: cache ids image_size",
    "retrieval": "system: clip clip_tag siglip siglip_tag t5 embed_dim num_ids mlm_layers num_codes vq_grid "
    "switch_by gen_ramp; data: image_size text_length",
    "skeleton": "system: joints base depths labels text embed_dim fusion_layers fusion_heads queue; "
    "data: annotations val test frames size test_size test_views",
    "points": "system: clip clip_tag clip_size labels dim radius; data: cache frames points voxel",
}
# What a _mini experiment may set: a recipe. The method is that of the experiment it is named for; irra's objective is
# the one exception.
RECIPES = {
    "tokenizer": "data: min_scale",
    "retrieval": "system: align slots logit_scale project gen_from vq_weights; "
    "data: pad erase flip hide_way hide_rows vq_ids keep_images paraphrase sampler alike alike_after instances; "
    "optim: lr lr_scale; trainer: precision steps val_every monitor",
    "skeleton": "system: dropout text_pooling soft_ramp segments; optim: lr max_grad_norm lr_scale",
    "points": "system: token_type clip_dtype spread; optim: lr; trainer: monitor",
}


def keys(told):
    """The keys that a text names: system: a b; data: c → system.a, system.b, data.c."""
    parts = [part.split(":") for part in told.split("; ")]
    return {f"{node}.{key}" for node, fields in parts for key in fields.split()}


def values(config):
    """Key → value of a config, without the experiment's name."""
    nodes = {node: dataclasses.asdict(getattr(config, node)) for node in ("system", "data", "optim", "trainer")}
    return {f"{node}.{key}": value for node, fields in nodes.items() for key, value in fields.items()}


def composed(name, *words):
    return values(compose_config([f"experiment={name}", *words]))


def test_there_are_experiments():
    assert {"tokenizer/vqvae", "tokenizer/vqgan", "tokenizer/lowdim", "tokenizer/mini"} <= set(EXPERIMENTS)


@pytest.mark.parametrize(("name", "file"), list(experiments()))
def test_a_yaml_opens_with_its_command_and_says_what_data_cost_and_score(name, file):
    lines = file.read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].split()[:4] == ["#", "sightword", "train", f"experiment={name}"]
    assert all(line.startswith("# ") and len(line) > 15 for line in lines[2:6])


@pytest.mark.parametrize("file", SCALES, ids=[f"{file.parent.name}/{file.stem}" for file in SCALES])
def test_a_scale_sets_names_sizes_and_lengths_only(file):
    nodes = yaml.safe_load(file.read_text())
    told = {f"{node}.{key}" for node, fields in nodes.items() for key in fields}
    assert told - LENGTHS <= keys(SIZES[file.parent.name])


def test_every_experiment_has_a_small_one_where_the_small_recipe_is_another():
    for system in ("retrieval", "skeleton", "points"):
        names = {name for name in EXPERIMENTS if name.startswith(f"{system}/")}
        names -= REAL
        full = {name for name in names if not name.endswith("_mini")}
        assert names == full | {f"{name}_mini" for name in full}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_experiment_brings_its_scale_and_sets_a_recipe_only(name):
    system = name.split("/")[0]
    named_for = "tokenizer/mini" if name == "tokenizer/people_mini" else name.removesuffix("_mini")
    small, other = composed(name), composed(named_for, "scale=mini")
    changed = {key for key, value in small.items() if other[key] != value}
    assert changed
    assert changed <= keys(RECIPES[system])


@pytest.mark.parametrize("name", SMALL)
def test_a_scale_given_beside_a_small_experiment_counts_and_leaves_its_recipe(name):
    small = composed(name)
    assert composed(name, "scale=mini") == small
    assert composed(name, "optim.lr=0.5", "scale=mini", "data.batch_size=3") == small | {
        "optim.lr": 0.5,
        "data.batch_size": 3,
    }


@pytest.mark.parametrize("name", [name for name in SMALL if not name.startswith("tokenizer/")])
def test_the_published_sizes_beside_a_small_experiment_replace_the_small_ones_whole(name):
    full, recipe = composed(name, "scale=full"), composed(name)
    plain = composed(name.removesuffix("_mini"), "scale=full")
    for key in keys(RECIPES[name.split("/")[0]]):
        plain[key] = recipe[key]
    assert full == plain


def test_an_experiments_values_count_more_than_those_of_the_scale_it_brings(tmp_path, monkeypatch):
    folder = tmp_path / "configs" / "experiment" / "skeleton"
    folder.mkdir(parents=True)
    lines = ["# @package _global_", "defaults: [/experiment/skeleton/visece_mini, _self_]", "data: {frames: 5}"]
    (folder / "short_mini.yaml").write_text("\n".join(lines))
    monkeypatch.setattr(sightword, "__path__", [*sightword.__path__, str(tmp_path)])
    expected = composed("skeleton/visece_mini") | {"data.frames": 5}
    for words in ([], ["scale=mini"]):
        assert composed("skeleton/short_mini", *words) == expected
    assert composed("skeleton/short_mini", "data.frames=7")["data.frames"] == 7


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith("tokenizer/")])
def test_an_experiment_builds_tiny_and_takes_one_step(name, tiny, tmp_path, capsys):
    words = [f"experiment={name}", *tiny, f"out={tmp_path}", "trainer.steps=1", "data.val_crops=1"]
    assert main(["train", *words]) == 0
    (folder,) = (tmp_path / name).iterdir()
    for file in ("config.yaml", "metrics.csv", "summary.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert (folder / file).exists(), file
    assert str(folder) in capsys.readouterr().out


def test_the_defaults_are_the_documents():
    config = compose_config(["experiment=tokenizer/vqvae", "data.root=x"])
    system = config.system
    assert (system.num_embeddings, system.embedding_dim, system.decay) == (1024, 256, 0.99)
    assert (system.encoder_channels, system.decoder_channels) == ([128, 256, 256, 256], [256, 256, 256, 128])
    assert (system.lambda_rec, system.lambda_vq, system.lambda_commit, system.lambda_perc) == (1.0, 1.0, 0.25, 0.5)
    assert (config.optim.lr, config.optim.betas) == (2e-4, [0.9, 0.99])
