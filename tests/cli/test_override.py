"""A text field gets the text as typed, whichever way it comes; other fields get their type."""

import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from sightword.cli.arguments import read_arguments
from sightword.cli.compose import change_config, compose_config, expand_preset
from sightword.cli.main import main
from sightword.cli.override import for_hydra, kind_of, typed_value
from sightword.engine import run as runs
from sightword.engine.argument import Overrides
from sightword.engine.config import Run
from sightword.engine.system import systems
from sightword.errors import SightwordError
from sightword.systems.tokenizer.config import TokenizerConfig, TokenizerData

TEXTS = [
    *("2024_01_15", "2024_11_30", "1e3", "1.10", "0x10", "010", "1_000", "12:30:00", "2024-01-15", "+1", "-", "."),
    *("true", "True", "yes", "null", "None", "~", "nan", ".inf", "[]", "{}", "[x]", "{a: b}", "a,b", "a, b", "(1)"),
    *("a b", " a ", "it's", 'say "x"', "a\\b", "a\\", "\\'", "#1", "a#b", "a: b", "x=y", "&x", "*x", "!x", "%d", "|"),
    *("$x", "${x}", "${oc.env:HOME}", "\\${x}", "图像", "é", "a/b.c", "'x'", '"x"', "-1", "1,2", "a=1,b=2", ""),
]


FIELDS = ["data.root", "data.val_root", "system.lpips_weights", "system.fid_weights", "out", "project"]
FIELDS += ["trainer.monitor", "trainer.accelerator", "trainer.strategy"]
SAFE = [text for text in TEXTS if "/" not in text and text not in (".", "")]


def overrides_of(texts):
    return [f"{key}={text}" for key, text in zip(FIELDS, texts, strict=False)]


def texts_of(config, count):
    parts = [key.split(".") for key in FIELDS[:count]]
    return [getattr(getattr(config, part[0]), part[1]) if part[1:] else getattr(config, part[0]) for part in parts]


def by_train(texts):
    return compose_config(["experiment=tokenizer/mini", *overrides_of(texts)])


def by_resume_and_evaluate(texts):
    config = Run(experiment="tokenizer/mini", system=TokenizerConfig(use_lpips=False), data=TokenizerData(root="x"))
    return change_config(config, overrides_of(texts))


def after_another_change(texts):
    return change_config(by_resume_and_evaluate(texts), ["data.batch_size=3"])


def by_a_runs_config(texts):
    plain = by_resume_and_evaluate(texts).plain()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return runs.read_config(file.parent)


@pytest.mark.parametrize("way", [by_train, by_resume_and_evaluate, after_another_change, by_a_runs_config])
def test_a_text_is_taken_as_typed(way):
    for start in range(0, len(TEXTS), len(FIELDS)):
        texts = TEXTS[start : start + len(FIELDS)]
        assert texts_of(way(texts), len(texts)) == texts


def test_random_texts_are_taken_as_typed():
    draw = random.Random(0)
    drawn = ["".join(draw.choice("\\'\"${}[](),:= a#%1e._\té") for _ in range(draw.randint(1, 8))) for _ in range(900)]
    parser = OverridesParser.create()
    for text in drawn:
        quoted = parser.parse_override(for_hydra(f"data.root={text}", "tokenizer")).value()
        assert OmegaConf.to_container(OmegaConf.create({"text": str(quoted)}), resolve=True) == {"text": text}
    for way in (by_train, after_another_change):
        assert texts_of(way(drawn[: len(FIELDS)]), len(FIELDS)) == drawn[: len(FIELDS)]


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_a_command_takes_a_text_as_typed(text):
    def find(root: str, overrides: Overrides = ()) -> None: ...

    given = read_arguments("find", find, [f"root={text}", f"data.root={text}"])
    assert given == {"root": text, "overrides": [f"data.root={text}"]}


def test_the_name_of_a_run_is_taken_as_typed():
    config = compose_config(["experiment=tokenizer/mini"])
    for text in SAFE:
        assert change_config(config, [f"name={text}"]).name == text
    assert compose_config(["experiment=tokenizer/mini", "name=2024_11_30"]).name == "2024_11_30"


@pytest.mark.parametrize("way", [by_train, by_resume_and_evaluate])
def test_a_leading_tilde_is_the_home_directory(way, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert texts_of(way(["~/photos (1)", "a~/b"]), 2) == ["/home/somebody/photos (1)", "a~/b"]


def test_lists_of_texts_are_taken_item_by_item():
    for text, wanted in {
        "[wandb,1e3]": ["wandb", "1e3"],
        "[ true , 2024_01_15 ]": ["true", "2024_01_15"],
        "wandb": ["wandb"],
        "['a b',c]": ["a b", "c"],
        "[]": [],
    }.items():
        quoted = OverridesParser.create().parse_override(for_hydra(f"logger={text}", "tokenizer")).value()
        assert list(map(str, quoted)) == wanted
        assert change_config(by_resume_and_evaluate("x"), [f"logger={text}"]).logger == wanted


@dataclass
class Texts:
    """Types that a config can have."""

    named: dict[str, str] = field(default_factory=dict)
    counted: dict[str, float] = field(default_factory=dict)
    optional: str | None = None


def test_mappings_of_texts_are_taken_item_by_item():
    hints = {"named": dict[str, str], "counted": dict[str, float]}
    assert typed_value("{coco:1e3,ava: true}", hints["named"]) == {"coco": "1e3", "ava": "true"}
    assert typed_value("{coco:1e3}", hints["counted"]) is None
    assert typed_value("null", str | None) is None
    assert typed_value("null", str) == "null"


def test_numbers_and_flags_keep_their_types():
    config = compose_config(
        [
            "experiment=tokenizer/mini",
            "data.root=x",
            "optim.lr=1e-3",
            "data.flip=false",
            "seed=7",
            "optim.betas=[0.5,1]",
        ]
    )
    assert (config.optim.lr, config.data.flip, config.seed, config.optim.betas) == (1e-3, False, 7, [0.5, 1.0])
    again = change_config(config, ["optim.lr=1", "data.flip=true", "optim.lr_scale={model:0.5}", "seed=8"])
    assert (again.optim.lr, again.data.flip, again.optim.lr_scale, again.seed) == (1.0, True, {"model": 0.5}, 8)


@pytest.mark.parametrize(
    "override", ["seed=many", "data.flip=perhaps", "optim.lr=", "optim.lr=fast", "data.x=1", "x=1"]
)
def test_a_value_of_another_type_and_an_unknown_key_are_one_line(override):
    for change in (
        lambda: compose_config(["experiment=tokenizer/mini", "data.root=x", override]),
        lambda: change_config(by_resume_and_evaluate("x"), [override]),
    ):
        with pytest.raises(SightwordError) as caught:
            change()
        assert "\n" not in str(caught.value)
        assert override.partition("=")[0].rpartition(".")[2] in str(caught.value)


def test_the_type_of_a_key_is_known_for_every_system_without_torch():
    for name in systems():
        assert kind_of("optim.lr", name) is float
        assert kind_of("optim.lr_scale.model", name) is float
        assert kind_of("+trainer.monitor", name) is str
        assert kind_of("data.nonsense", name) is None
        assert kind_of("data.root.deeper", name) is None


def test_in_a_sweep_commas_part_runs_and_each_value_is_taken_as_typed():
    assert for_hydra("optim.name=adam,1e3", "tokenizer", sweep=True) == "optim.name='adam','1e3'"
    assert for_hydra("optim.lr=1e-3,1e-4", "tokenizer", sweep=True) == "optim.lr=1e-3,1e-4"
    assert for_hydra("data.root=2024_01_15", "tokenizer", sweep=True) == "data.root='2024_01_15'"


def test_a_preset_gives_texts_too():
    assert expand_preset(["data.root=x"]) == ["data.root=x"]
    with pytest.raises(SightwordError, match="there is no preset 'nonsense'"):
        expand_preset(["preset=nonsense"])


def test_a_run_is_trained_evaluated_and_resumed_with_such_texts(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("2024_01_15", "1e3"):
        (tmp_path / name).symlink_to(photos)
    small = ["system.encoder_channels=[8,8]", "system.decoder_channels=[8,8]", "system.latent_channels=8"]
    small += ["system.num_embeddings=16", "system.embedding_dim=8", "data.image_size=16", "data.batch_size=2"]
    small += ["trainer.steps=1", "data.val_crops=1", "trainer.threads=1", "data.root=2024_01_15", "name=1e3"]
    assert main(["train", "experiment=tokenizer/mini", *small]) == 0
    run = tmp_path / "runs" / "tokenizer" / "mini" / "1e3"
    assert runs.read_config(run).data.root == str(Path("2024_01_15").absolute())
    assert main(["evaluate", f"run={run}", "data.root=1e3"]) == 0
    assert main(["train", f"resume={run}", "data.root=1e3", "trainer.steps=2"]) == 0
    assert runs.read_config(run).data.root == "1e3"


def test_epochs_that_are_typed_decide_over_the_steps_of_an_experiment():
    usual = compose_config(["experiment=tokenizer/mini", "data.root=photos"])
    assert usual.trainer.steps > 0
    typed = compose_config(["experiment=tokenizer/mini", "data.root=photos", "trainer.epochs=3"])
    assert (typed.trainer.steps, typed.trainer.epochs) == (0, 3)
    both = compose_config(["experiment=tokenizer/mini", "data.root=photos", "trainer.epochs=3", "trainer.steps=7"])
    assert both.trainer.steps == 7
    assert change_config(usual, ["trainer.epochs=2"]).trainer.steps == 0
