"""From people and sentences to a gallery by the command line: every experiment, stopped and gone on with, exported."""

import json
import shutil

import pytest
import torch
from fakes import write_towers
from made import assert_same

from sightword import load
from sightword.cli.compose import compose_config
from sightword.cli.main import main
from sightword.engine.run import prepare, steps
from sightword.miniature import tower
from sightword.miniature.person import Sizes, vocabulary, write_cuhk
from sightword.storage.checkpoint import read_checkpoint
from sightword.systems.retrieval.predict import PersonRetriever
from sightword.systems.retrieval.vq import FrozenTokenizer
from sightword.towers.vq.ids import IdCache
from sightword.towers.vq.published import open_tokenizer

EXPERIMENTS = ["irra_mini", "phase1_mini", "phase2_mini", "phase2_siglip_text_mini", "phase3_mini", "phase4_mini"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """People, towers, and the codes of their pictures."""
    root = tmp_path_factory.mktemp("people")
    write_cuhk(root, Sizes(8, 4, 4), size=(96, 32))
    write_towers(root, [" ".join(vocabulary())])
    tower.write_vq(root / "vq")
    images = root / "CUHK-PEDES" / "imgs"
    words = [f"model={root / 'vq'}", f"images={images}", f"out={root / 'codes'}", "size=96x32"]
    assert main(["check", "dataset=cuhk_pedes", f"root={root}"]) == 0
    assert main(["tokenize", *words]) == 0
    return root


def words_of(world, out, name, **more):
    towers = {f"system.{kind}": world / kind for kind in ("clip", "siglip", "t5")}
    values = towers | {"data.root": world, "data.batch_size": 8, "out": out, "name": "it"}
    values |= {"system.num_ids": 8, "system.mlm_heads": 4, "optim.warmup": 2, "trainer.accelerator": "cpu"}
    values |= {"trainer.steps": 4, "trainer.log_every": 1}
    if name == "phase4_mini":
        values |= {"data.vq_ids": world / "codes", "system.vq_weights": ""}
    return [f"experiment=retrieval/{name}", *(f"{key}={value}" for key, value in (values | more).items())]


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """Experiment → its run's folder."""
    out = tmp_path_factory.mktemp("runs")
    for name in EXPERIMENTS:
        assert main(["train", *words_of(world, out, name)]) == 0
    return {name: out / "retrieval" / name / "it" for name in EXPERIMENTS}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_and_measures_both_directions(trained, name):
    best = json.loads((trained[name] / "summary.json").read_text())["best"]
    assert best["val/chance"] == pytest.approx(25)
    for measure in ("rank1", "rank5", "rank10", "map", "minp", "i2t_rank1", "i2t_map"):
        assert 0 < best[f"val/{measure}"] <= 100
    assert ("val/text_gain" in best) == (name == "phase4_mini")


@pytest.mark.parametrize("name", ["irra_mini", "phase4_mini"])
def test_a_run_that_goes_on_ends_as_if_it_had_not_been_stopped(world, trained, tmp_path, name):
    whole = words_of(world, tmp_path, name, **{"trainer.steps": 2})
    assert main(["train", *whole]) == 0
    run = tmp_path / "retrieval" / name / "it"
    assert main(["train", f"resume={run}", "trainer.steps=4"]) == 0
    straight, resumed = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (trained[name], run))
    for key in ("state_dict", "optimizer_states", "batches"):
        assert_same(straight[key], resumed[key])


def test_what_is_exported_of_phase_4_has_no_generator_and_the_same_embeddings(world, trained, tmp_path):
    assert main(["export", f"run={trained['phase4_mini']}", f"out={tmp_path}"]) == 0
    assert not [file for file in tmp_path.rglob("*") if "generator" in file.name or "vq" in file.name]
    one, other = load(tmp_path), PersonRetriever.from_pretrained(trained["phase4_mini"])
    assert not [name for name in one.embedder.state_dict() if "generator" in name or "decoder" in name]
    files = sorted((world / "CUHK-PEDES" / "imgs").rglob("*.png"))[:3]
    assert torch.equal(one.encode_image(files), other.encode_image(files))
    texts = ["a man in a red coat", "a lady with a purse"]
    assert torch.equal(one.encode_text(texts), other.encode_text(texts))


def _rounded(told):
    """Without the last digits, in which batches of other sizes differ."""
    if isinstance(told, dict):
        return {name: _rounded(value) for name, value in told.items()}
    if isinstance(told, list):
        return [_rounded(value) for value in told]
    return round(told, 3) if isinstance(told, float) else told


def test_a_gallery_is_asked_and_the_test_split_measured(world, trained, tmp_path, capsys):
    run, gallery = trained["phase3_mini"], tmp_path / "gallery"
    assert main(["evaluate", f"run={run}", "split=test", f"out={tmp_path / 'it.json'}"]) == 0
    report = json.loads((tmp_path / "it.json").read_text())
    assert report["metrics"]["chance"] == pytest.approx(25)
    assert report["protocol"]["split"].startswith("test: never trained on")
    assert json.loads((run / "summary.json").read_text())["protocol"]["split"].startswith("val: ")
    drawn = sorted(file.name for file in (tmp_path / "it_images").iterdir())
    assert drawn == ["strips.json", "strips.png", "word_swaps.json", "word_swaps.png"]
    assert main(["probe", f"model={run}", "split=test", f"out={tmp_path / 'probe'}"]) == 0
    for name in ("strips.json", "word_swaps.json"):  # the same, whichever way it is asked for
        first, second = (_rounded(json.loads((tmp_path / each / name).read_text())) for each in ("it_images", "probe"))
        assert first == second
    plain = ["data.hide=0", "data.vq_ids="]  # phase 4 where its codes are no longer
    assert main(["evaluate", f"run={trained['phase4_mini']}", f"out={tmp_path / 'it.json'}", *plain]) == 0
    assert "text_gain" not in json.loads((tmp_path / "it.json").read_text())["metrics"]
    assert main(["index", f"model={run}", f"images={world / 'CUHK-PEDES' / 'imgs'}", f"out={gallery}"]) == 0
    capsys.readouterr()
    words = [f"index={gallery}", "top=3", f"out={tmp_path / 'found.png'}", "a man in a red coat"]
    assert main(["search", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["1", "2", "3"]
    assert (tmp_path / "found.png").exists()
    assert main(["search", f"index={gallery}", f"model={trained['phase1_mini']}", "a man in a red coat"]) == 2
    assert capsys.readouterr().err.count("sightword: ") == 1


def rows_of(ids):
    return {str(file.relative_to(ids)): file.read_bytes() for file in ids.glob("*/*")}


def test_missing_ids_are_written_before_training_and_then_left_alone(world, tmp_path, capsys):
    """By the tokenizer of system.vq_weights, as the command that the step names writes them."""
    ids = tmp_path / "ids"
    told = {"system.vq_weights": world / "vq", "data.vq_ids": ids, "trainer.steps": 1}
    (step,) = steps(config := compose_config(words_of(world, tmp_path, "phase4_mini", **told)))
    assert not step.is_done()
    assert [done.command for done in prepare(config)] == [step.command]
    assert step.is_done()
    assert prepare(config) == []
    written = rows_of(ids)
    assert written == rows_of(world / "codes")
    shutil.rmtree(ids)
    assert main(step.command.split()[1:]) == 0
    assert written == rows_of(ids)
    shutil.rmtree(ids)
    assert main(["train", *words_of(world, tmp_path, "phase4_mini", **told)]) == 0
    assert f"preparing {ids}: VQ ids of the images in" in capsys.readouterr().err
    assert written == rows_of(ids)
    plain = words_of(world, tmp_path, "phase3_mini")
    assert steps(compose_config(plain)) == []


def test_ids_by_another_tokenizer_than_the_one_that_is_named_are_refused(world, tmp_path, capsys):
    own = FrozenTokenizer(str(world / "vq"), "", 64, (12, 4))
    assert own.digest == IdCache(world / "codes").header["weights"]
    other = open_tokenizer(world / "vq")
    with torch.no_grad():
        other.quantizer.weight.add_(0.1)
    other.save_pretrained(tmp_path / "vq")
    words = words_of(world, tmp_path, "phase4_mini", **{"system.vq_weights": tmp_path / "vq"})
    assert main(["train", *words]) == 2
    assert f"weights is '{own.digest}', expected" in capsys.readouterr().err


def test_a_mistake_gets_one_line(world, tmp_path, capsys):
    def said(name, **more):
        assert main(["train", *words_of(world, tmp_path, name, **more)]) == 2
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return err[err.index("sightword: ") :]

    assert "sightword tokenize" in said("phase4_mini", **{"data.vq_ids": ""})
    there = world / "CUHK-PEDES" / "imgs"
    command = f"sightword tokenize 'model=…' images={there} out={tmp_path / 'none'} size=96x32"
    assert command in said("phase4_mini", **{"data.vq_ids": tmp_path / "none"})
    assert "has no reid_raw.json" in said("phase1_mini", **{"data.root": world / "nowhere"})
    assert "[11, 4]" in said("phase4_mini", **{"system.vq_grid": "[11,4]"})
    assert "Set system.num_ids" in said("irra_mini", **{"system.num_ids": 3})
