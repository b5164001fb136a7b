"""Every code block of the README runs, in a folder that holds `photos`; the Chinese one has the same blocks."""

import re
import shlex
import shutil
import subprocess
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest

import sightword
from sightword.cli.main import main
from sightword.miniature import motion, person, room

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TINY = ["trainer.steps=2", "trainer.threads=1", "data.val_crops=1", "data.crops=1", "data.batch_size=2"]
TINY += ["system.encoder_channels=[8,8]", "system.decoder_channels=[8,8]", "system.num_embeddings=32"]

SMALLER = {"train experiment=tokenizer": TINY, "train experiment=intent": ["trainer.epochs=2"]}
SMALLER |= {"train experiment=retrieval": ["trainer.steps=2"], "train experiment=skeleton": ["trainer.steps=2"]}
SMALLER |= {"train experiment=points": ["trainer.steps=2"]}


def blocks(name):
    return BLOCK.findall((ROOT / name).read_text())


@pytest.fixture
def tiny_modules(monkeypatch):
    """The Trainer and the model of the README, at a size a test can afford."""
    from sightword.compat.lightning import AnimeDataModule, VQVAEModel

    small = {"encoder_channels": (8, 8), "decoder_channels": (8, 8), "latent_channels": 8, "embedding_dim": 8}
    monkeypatch.setattr(sightword, "VQVAEModel", partial(VQVAEModel, **small), raising=False)

    def data(*args, **more):
        return AnimeDataModule(*args, **(more | {"batch_size": 2, "image_size": 16, "num_workers": 0}))

    monkeypatch.setattr(sightword, "AnimeDataModule", data, raising=False)


def run_console(line):
    """One line of a console block."""
    if line.startswith("make "):
        subprocess.run([*line.split()[:1], "-n", *line.split()[1:]], cwd=ROOT, check=True, capture_output=True)
        return
    program, *words = shlex.split(line)
    assert program == "sightword"
    runs = sorted(Path("runs/tokenizer/mini").glob("*"))
    words = [re.sub(r"runs/tokenizer/mini/\S+", lambda _: str(runs[-1]), word) for word in words]
    assert main(words + SMALLER.get(" ".join(words[:2]).partition("/")[0], [])) == 0, line


def test_every_block_of_the_readme_runs_in_order(photos, tmp_path, monkeypatch, tiny_modules):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(person, "write_cuhk", partial(person.write_cuhk, sizes=person.Sizes(24, 8, 8)))
    monkeypatch.setattr(motion, "write_motion", partial(motion.write_motion, sizes=motion.Sizes(2, 1, 1, 2)))
    monkeypatch.setattr(
        room, "write_rooms", partial(room.write_rooms, frames=3, color=(48, 64), voxel=0.15, splits=room.FEW)
    )
    shutil.copytree(photos, "photos")
    found = blocks("README.md")
    assert [language for language, _ in found].count("python") >= 3
    for language, text in found:
        if language == "python":
            with monkeypatch.context() as patch:
                patch.setattr(pl, "Trainer", partial(pl.Trainer, fast_dev_run=True, accelerator="cpu", logger=False))
                exec(compile(text, "README.md", "exec"), {})
        elif language == "bash":
            for line in text.strip().splitlines():
                run_console(line)
    assert {language for language, _ in found} == {"bash", "python", ""}  # "" shows what is printed
    assert Path("decoded.png").exists()
    assert Path("cache/photos/index.json").exists()


def test_the_chinese_readme_has_the_same_blocks_and_links():
    assert blocks("README.zh-CN.md") == blocks("README.md")
    links = [set(re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text())) for name in ("README.md", "README.zh-CN.md")]
    assert links[0] ^ links[1] == {"README.md", "README.zh-CN.md"}


def test_what_the_readme_shows_and_links_is_there():
    for name in (
        "README.md",
        "README.zh-CN.md",
        "src/sightword/systems/tokenizer/README.md",
        "src/sightword/systems/intent/README.md",
        "src/sightword/systems/retrieval/README.md",
        "src/sightword/systems/skeleton/README.md",
        "src/sightword/systems/points/README.md",
    ):
        for link in re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text()):
            assert link.startswith("https://") or ((ROOT / name).parent / link).exists(), link
