"""Every experiment composes at every scale with the published recipe, and so does every preset."""

import dataclasses
import re
from pathlib import Path

import pytest
import skeleton_fakes  # noqa: F401  what is not there yet
import yaml

import sightword
from sightword.cli.compose import compose_config
from sightword.cli.main import main
from sightword.systems.skeleton.config import SkeletonConfig
from sightword.systems.skeleton.labels import read_labels

EXPERIMENTS = ["slowonly", "visece", "visece_itm", "visece_mo", "visece_pacl", "visece_mean"]
FILE = Path(sightword.__file__).parent / "configs" / "preset" / "skeleton.yaml"
PRESETS = yaml.safe_load(FILE.read_text())

# The published tables: base, video, text, top-1.
RATES = {
    "visece/debug1": (1e-4, 1e-4, 1e-4, "90.85"),
    "visece/debug2": (1e-2, 1e-2, 1e-4, "91.89"),
    "visece/debug3": (1e-3, 1e-3, 1e-5, "92.32"),
    "visece/debug4": (1e-4, 1e-4, 1e-5, "91.11"),
    "visece/debug5": (1e-3, 1e-3, 1e-4, "89.93"),
    "visece/debug6": (1e-2, 1e-2, 1e-5, "91.73"),
    "visece/debug7": (1e-3, 1e-3, 0, "91.83"),
    "visece/debug8": (1e-5, 1e-3, 1e-5, "92.63"),
    "visece/debug9": (1e-4, 1e-3, 1e-5, "92.48"),
    "43090/visece/itmdebug1": (1e-3, 1e-3, 1e-5, "93.05"),
    "83090/visece/itmdebug2": (1e-5, 1e-3, 1e-5, "92.79"),
    "83090/visece/itmdebug1": (1e-3, 1e-3, 1e-5, "92.52"),
    "43090/visece/itmdebug2": (1e-3, 1e-3, None, "91.91"),
    "43090/visece/modebug1": (1e-3, 1e-3, 1e-5, "92.36"),
    "83090/visece/modebug1": (1e-3, 1e-3, 1e-5, "92.32"),
    "83090/visece/modebug2": (1e-3, 1e-2, 1e-5, "92.66"),
    "43090/visece/modebug2": (1e-5, 1e-3, 1e-5, "92.37"),
    "43090/visece/modebug3": (1e-5, 1e-3, 1e-5, "89.03"),
}
# Classes or batch, what is weighed, by what, gain, norm at the end, projector; top-1.
PACL = {
    "pacldebug1": ("batch", "raw", "sigmoid", 10, True, "residual", "none"),
    "pacldebug2": ("batch", "norm", "softmax", 1, False, "residual", "none"),
    "pacldebug3": ("batch", "raw", "softmax", 1, True, "residual", "none"),
    "pacldebug4": ("batch", "norm", "softmax", 1, True, "residual", "none"),
    "paclmod1": ("classes", "norm", "softmax", 1, True, "residual", "89.62"),
    "paclmod2": ("classes", "norm", "sigmoid", 10, True, "residual", "88.82"),
    "paclmod3": ("classes", "raw", "softmax", 1, True, "residual", "89.73"),
    "paclmod4": ("classes", "raw", "sigmoid", 10, True, "residual", "88.84"),
    "paclmod5": ("classes", "raw", "softmax", 1, True, "linear", "90.06"),
}
MEAN = {
    "visecemod1": ("residual", "before", "88.22"),
    "visecemod2": ("residual", "after", "88.06"),
    "visecemod3": ("linear", "after", "88.39"),
    "visecemod4": ("linear", "before", "88.21"),
}


MSR = {
    "msr/classifier": "classifier",
    "msr/limb": "classifier",
    "msr/mean": "text",
    "msr/pacl": "text",
}  # measured here, not published


def composed(*words):
    return compose_config(["data.annotations=x.pkl", "system.labels=x.json", *words])


def preset(name):
    return composed(*PRESETS[name].split())


def told(name):
    """What stands behind a preset's line."""
    (line,) = (line for line in FILE.read_text().splitlines() if line.startswith(f"{name}:"))
    return line.partition("  # ")[2]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_with_the_published_names_and_recipe(name):
    config = composed(f"experiment=skeleton/{name}", "scale=full")
    assert config == composed(f"experiment=skeleton/{name}", "scale=full", "system.base=32")
    assert (config.system.text, config.system.depths, config.system.embed_dim) == ("bert_base", [4, 6, 3], 256)
    assert (config.data.frames, config.data.size, config.data.test_size) == (48, [56, 56], [64, 64])
    assert (config.optim.name, config.optim.weight_decay, config.optim.max_grad_norm) == ("adamw", 0.01, 40.0)
    assert (config.optim.schedule, config.data.batch_size, config.trainer.epochs) == ("cosine", 16, 240)
    assert config.trainer.monitor == "val/top1"


def test_a_variant_differs_from_its_relatives_in_what_it_is_named_for():
    parts = {name: composed(f"experiment=skeleton/{name}").system for name in EXPERIMENTS}
    assert [n for n, s in parts.items() if s.recognise_by == "classifier"] == ["slowonly"]
    assert [n for n, s in parts.items() if s.match_weight] == ["visece_itm"]
    assert [n for n, s in parts.items() if s.momentum] == ["visece_mo"]
    assert [n for n, s in parts.items() if s.frames == "pacl"] == ["visece_pacl"]
    assert [n for n, s in parts.items() if s.contrast == "batch"] == ["visece", "visece_itm", "visece_mo"]
    mean, pacl = (dataclasses.asdict(parts[name]) for name in ("visece_mean", "visece_pacl"))
    assert {key for key in mean if mean[key] != pacl[key]} <= {"frames", "pool"}
    optim = [composed(f"experiment=skeleton/{name}").optim for name in ("visece_mean", "visece_pacl")]
    assert optim[0] == optim[1]


def test_every_row_of_the_documents_tables_is_a_preset():
    assert set(PRESETS) == {"slowonly", *RATES, *PACL, *MEAN, *MSR}
    lines = [line for line in FILE.read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(PRESETS)
    lines = [line for line in lines if not line.startswith("msr/")]
    assert all(re.search(r"  # (\d\d\.\d\d|none given)", line) for line in lines)
    assert preset("slowonly").optim.lr == 1e-2
    assert told("slowonly") == "93.12"


@pytest.mark.parametrize("name", MSR)
def test_a_preset_of_the_small_real_set_needs_its_annotations_only(name):
    config = compose_config(["data.annotations=x.pkl", *PRESETS[name].split()])
    assert (config.system.recognise_by, config.system.joints) == (MSR[name], "msr20")
    assert len(read_labels(config.system.labels).classes) == 20
    assert config.system.freeze_text == (MSR[name] == "text")
    assert (config.data.train, config.data.test) == ("xsub_train", "xsub_val")
    assert (config.data.fade, config.data.flat) == ((0.5, 0.2) if MSR[name] == "text" else (0, 0))


@pytest.mark.parametrize("name", RATES)
def test_a_preset_has_the_rates_and_the_accuracy_of_its_row(name):
    base, video, text, accuracy = RATES[name]
    config = preset(name)
    optim, scale = config.optim, config.optim.lr_scale
    assert told(name).split(",")[0] == accuracy
    assert optim.lr == base
    assert optim.lr * scale["video"] == pytest.approx(video)
    assert config.system.freeze_text == (text is None)
    if text is not None:
        assert optim.lr * scale["text"] == pytest.approx(text)
    assert optim.name == ("sgd" if name.endswith("modebug3") else "adamw")
    assert config.trainer.devices == (int(name[0]) if name[0].isdigit() else 1)
    assert config.experiment == "skeleton/visece" + ("_itm" if "itm" in name else "_mo" if "modebug" in name else "")
    assert config.system.queue_texts == ("modebug" in name)


@pytest.mark.parametrize("name", PACL)
def test_a_pacl_preset_is_named_for_how_frames_are_weighed(name):
    *values, accuracy = PACL[name]
    system = preset(name).system
    found = [system.contrast, system.pacl_target, system.pacl_weight, system.pacl_gain]
    assert [*found, system.pacl_final_norm, system.projector] == values
    assert system.frames == "pacl"
    assert not system.frame_linear
    assert told(name).startswith(accuracy)
    assert preset(name).trainer.epochs == (24 if "mod" in name else 240)


@pytest.mark.parametrize("name", MEAN)
def test_a_mean_preset_is_named_for_its_projector_and_where_it_stands(name):
    projector, pool, accuracy = MEAN[name]
    system = preset(name).system
    assert (system.projector, system.pool, system.frames, system.contrast) == (projector, pool, "mean", "batch")
    assert not system.frame_linear
    assert told(name) == accuracy


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"frames": "max"}, r"system\.frames='max' is none of mean, pacl"),
        ({"contrast": "classes", "match_weight": 1.0}, r"Set system\.contrast=batch"),
        ({"contrast": "classes", "momentum": 0.995}, r"Set system\.contrast=batch"),
        ({"contrast": "batch", "momentum": 0.995, "frames": "pacl"}, r"Set system\.frames=mean"),
        ({"recognise_by": "classifier", "frames": "pacl"}, "has no text encoder"),
        ({"temperature": 0.0}, r"temperature=0\.0 is not within \[0\.001, 0\.5\]"),
        ({"depths": []}, r"as \[4,6,3\]"),
        ({"momentum": 1.0}, r"system\.momentum=1\.0 is not in \[0, 1\)"),
        ({"soft": 1.4}, r"system\.soft=1\.4 is not a fraction"),
        ({"pacl_gain": 0.0}, "pacl_gain=0.0 is not above 0"),
        ({"queue": 0}, r"system\.queue=0 is too small\. Pass at least 1"),
    ],
)
def test_values_that_do_not_fit_each_other_are_a_line(values, said):
    with pytest.raises(ValueError, match=said) as error:
        SkeletonConfig(**values)
    assert "\n" not in str(error.value)


def test_a_typo_is_a_line(capsys):
    assert main(["train", "experiment=skeleton/visece", "system.pacl_gian=3"]) == 2
    assert "pacl_gian" in capsys.readouterr().err
