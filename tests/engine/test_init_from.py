"""init_from=: a run, an export, a published file or an experiment's name; what fits is reported, strict refuses."""

import json

import pytest
import torch
import worlds
from safetensors.torch import save_file

from sightword.cli.compose import compose_config
from sightword.cli.main import main
from sightword.engine.init import compare, initialise, origin_of
from sightword.engine.predictor import load
from sightword.engine.run import make_task, read_config, restore
from sightword.errors import MissingFileError, SightwordError


def tokenizer(tiny, out, *more):
    return compose_config(["experiment=tokenizer/mini", *tiny, f"out={out}", *map(str, more)])


@pytest.fixture
def first(tiny, tmp_path):
    """A run of two batches."""
    assert main(["train", "experiment=tokenizer/mini", *tiny, f"out={tmp_path}", "name=first", "trainer.steps=2"]) == 0
    return tmp_path / "tokenizer" / "mini" / "first"


def weights_of(task):
    return {name: value for name, value in task.state_dict().items() if isinstance(value, torch.Tensor)}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_a_run_starts_from_the_best_weights_of_another_and_says_so(first, tiny, tmp_path, capfd):
    more = ["trainer.steps=1", "optim.lr=1e-12", f"init_from={first}", "seed=5", "name=second"]
    assert main(["train", "experiment=tokenizer/mini", *tiny, f"out={tmp_path}", *more]) == 0
    told = capfd.readouterr().err
    assert f"starting from {first / 'checkpoints' / 'best.ckpt'}" in told
    second = first.with_name("second")
    report = json.loads((second / "init.json").read_text())
    assert report["missing"] == report["unexpected"] == []
    assert report["matched"]
    begun = {n: w for n, w in weights_of(restore(second, "last").task).items() if "quantizer" not in n}  # EMA moves
    before = weights_of(restore(first).task)
    for name, value in begun.items():
        if value.is_floating_point():
            assert torch.allclose(value, before[name], atol=1e-6), name


def test_every_kind_of_source_gives_the_same_weights(first, tiny, tmp_path):
    load(first).save_pretrained(tmp_path / "export")
    sources = [first, first / "checkpoints" / "best.ckpt", tmp_path / "export", "tokenizer/mini"]
    found = []
    for source in sources:
        config = tokenizer(tiny, tmp_path, f"init_from={source}")
        task = make_task(config)
        initialise(task, origin_of(config), config)
        found.append({name: w for name, w in weights_of(task).items() if "quantizer" not in name})
    for other in found[1:]:
        assert_same(found[0], other)


def test_strict_refuses_with_names_and_both_shapes(first, tiny, tmp_path):
    config = tokenizer(tiny, tmp_path, f"init_from={first}", "system.num_embeddings=32")
    before = weights_of(task := make_task(config))
    with pytest.raises(
        SightwordError, match=r"of another shape, so new: .*\(16, 64\) there, \(32, 64\) here.*init_strict="
    ):
        initialise(task, origin_of(config), config)
    assert_same(before, weights_of(task))


def test_not_strict_takes_what_fits_and_leaves_the_rest_new(first, tiny, tmp_path):
    config = tokenizer(tiny, tmp_path, f"init_from={first}", "system.num_embeddings=32", "init_strict=false")
    task, source = make_task(config), weights_of(restore(first).task)
    new = weights_of(task)
    report = initialise(task, origin_of(config), config)
    assert report.shapes
    assert set(report.shapes) <= {name for name in new if "quantizer" in name}
    for name, value in weights_of(task).items():
        assert torch.equal(value, (new if name in report.shapes else source)[name])


def test_nothing_in_common_is_refused_even_if_not_strict(tiny, tmp_path):
    save_file({"other.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    config = compose_config(
        ["experiment=skeleton/slowonly_mini", f"init_from={tmp_path / 'other.safetensors'}", "init_strict=false"]
    )
    with pytest.raises(SightwordError, match=r"not a PoseC3D"):
        origin_of(config).read(worlds_task(tmp_path))


def worlds_task(root):
    from sightword.miniature import motion

    motion.write_motion(root / "motion", motion.Sizes(2, 1, 1, 1))
    labels = f"system.labels={root / 'motion' / 'labels.json'}"
    return make_task(compose_config(["experiment=skeleton/slowonly_mini", labels]))


def test_a_model_of_another_system_and_a_path_that_is_nothing_are_a_line(first, tiny, tmp_path):
    with pytest.raises(SightwordError, match=r"is a model of tokenizer, the run is intent/stage1"):
        origin_of(compose_config(["experiment=intent/stage1", f"init_from={first}", "system.semantic_anchors_path=x"]))
    with pytest.raises(SightwordError, match="neither a run directory"):
        origin_of(tokenizer(tiny, tmp_path, f"init_from={tmp_path}"))
    with pytest.raises(MissingFileError, match=r"Pass a run directory|does not exist"):
        origin_of(tokenizer(tiny, tmp_path, f"init_from={tmp_path / 'nowhere'}"))


def test_resuming_does_not_start_from_elsewhere_again(first, tiny, tmp_path, capfd):
    more = ["trainer.steps=1", f"init_from={first}", "name=second"]
    assert main(["train", "experiment=tokenizer/mini", *tiny, f"out={tmp_path}", *more]) == 0
    first.rename(tmp_path / "moved")
    capfd.readouterr()
    assert main(["train", f"resume={tmp_path / 'tokenizer' / 'mini' / 'second'}", "trainer.steps=2"]) == 0
    assert "starting from" not in capfd.readouterr().err


def test_stage_2_starts_from_the_newest_run_of_stage_1_and_refuses_without_one(world, tmp_path, capfd):
    stage1, stage2 = (worlds.arguments_of(f"intent/{name}", world) for name in ("stage1", "stage2"))
    stage2 = [argument for argument in stage2 if not argument.startswith("init_from=")]
    short = [f"out={tmp_path}", "trainer.steps=2", "trainer.epochs=1"]
    assert main(["train", *stage2, *short]) == 2
    assert "intent/stage2 starts from a run of intent/stage1" in capfd.readouterr().err
    for name in ("old", "new"):
        assert main(["train", *stage1, *short, f"name={name}", f"seed={len(name)}"]) == 0
    assert main(["train", *stage2, *short, "name=it", "optim.lr=1e-12"]) == 0
    told = capfd.readouterr().err
    assert "new/checkpoints/" in told
    assert "the newest run of intent/stage1" in told
    report = json.loads((tmp_path / "intent" / "stage2" / "it" / "init.json").read_text())
    assert (report["missing"], report["unexpected"], report["shapes"]) == ([], [], {})
    before, after = (restore(tmp_path / "intent" / name, "last").task.model for name in ("stage1/new", "stage2/it"))
    assert torch.allclose(after.head.weight, before.head.weight, atol=1e-6)


def test_phase_4_starts_from_phase_3_with_a_new_generator(world, tmp_path, capfd):
    phase3, phase4 = (worlds.arguments_of(f"retrieval/{name}_mini", world) for name in ("phase3", "phase4"))
    short = [f"out={tmp_path}", "trainer.steps=1"]
    assert main(["train", *phase3, *short, "name=it"]) == 0
    source = f"init_from={tmp_path / 'retrieval' / 'phase3_mini' / 'it'}"
    assert main(["train", *phase4, *short, source, "name=strict"]) == 2
    assert "init_strict=false" in capfd.readouterr().err
    assert main(["train", *phase4, *short, source, "init_strict=false", "name=it"]) == 0
    report = json.loads((tmp_path / "retrieval" / "phase4_mini" / "it" / "init.json").read_text())
    assert report["unexpected"] == []
    assert report["missing"]
    assert all(name.startswith("generator.") for name in report["missing"])


def test_counters_of_the_other_training_count_on_neither_side(world):
    config = compose_config([*worlds.arguments_of("skeleton/slowonly", world), "init_from="])
    task = make_task(config)
    weights = {name: value for name, value in weights_of(task).items() if name != "learned"}
    assert compare(task, weights, "x").fits
    assert compare(task, weights | {"learned": torch.tensor(60)}, "x").fits


def test_a_run_from_before_decay_norms_is_read_with_the_decay_it_had(first):
    file = first / "config.yaml"
    assert read_config(first).optim.decay_norms is False
    file.write_text("".join(line for line in file.read_text().splitlines(True) if "decay_norms" not in line))
    assert read_config(first).optim.decay_norms is True
