"""Its part of the demo: people of the small world, found by what is said of them."""

import shutil
from pathlib import Path
from typing import Any

import torch

from sightword.engine.run import restore
from sightword.metrics.ranking import measures_of
from sightword.systems.retrieval import show
from sightword.systems.retrieval.gallery import Embedder
from sightword.systems.retrieval.pedes import Split, read_pedes
from sightword.viz.page import Figure, Section, Train, seconds

ASKED = 3


def section(out: Path, train: Train) -> Section:
    """Train phase 3, then ask for people whom it has never seen. The small world is the demo's, beside this part."""
    small, run = out.parent / "miniature", out / "run"
    if (run / "summary.json").exists():
        shutil.rmtree(run)
    towers = [f"system.{name}={small / 'towers' / name}" for name in ("clip", "siglip", "t5")]
    if not train(run, ["experiment=retrieval/phase3", "scale=mini", *towers, f"data.root={small / 'people'}"]):
        raise KeyboardInterrupt
    task, config, _ = restore(run)
    embedder = Embedder(task.model, str(run)).freeze()
    return _section(embedder, read_pedes(config.data.root, config.data.dataset, "test"), run, config.data.root)


def _section(embedder: Embedder, test: Split, run: Path, people: str) -> Section:
    texts, images = embedder.embed(test.captions), embedder.embed_files(test.images)
    found = measures_of(images, torch.from_numpy(test.pids), texts, torch.from_numpy(test.caption_pids))
    chosen = show.spread(len(test.captions), ASKED)
    asked = show.ask(test.captions, test.caption_image, texts, test.images, test.pids, images, chosen)
    swaps = show.sensitivity(embedder.embed, test.captions, images[test.caption_image], len(test.captions))
    persons = len(set(test.pids.tolist()))
    return Section(
        title="retrieval: find the person a sentence describes",
        lead=(
            f"{len(test.images)} pictures of {persons} people, whom the model has never seen, and a sentence about "
            "one of them. Everybody has three doubles who differ in a single word: the colour of a shoe, the side of a "
            "bag."
        ),
        figures=[
            *(Figure(question.strip(), "The ten nearest of all pictures, the nearest first.") for question in asked),
            Figure(swaps.picture(), "What it reads: how far the score falls if one word of the sentence is changed."),
        ],
        measures={
            "Rank-1": _percent(found, "rank1", "sentences whose nearest picture shows the right person"),
            "Rank-10": _percent(found, "rank10", "sentences with the right person among the ten nearest"),
            "mAP": _percent(found, "map", "mean average precision: of all three pictures of the person"),
        },
        commands=[
            (
                "Keep the vectors of a folder of pictures, and ask:",
                f"sightword index run={run} images={people}/CUHK-PEDES/imgs out=gallery\n"
                'sightword search index=gallery "a woman in a red coat with a white handbag"',
            ),
            ("The real thing, once its pictures are there:", "sightword check dataset=cuhk_pedes root=/data"),
        ],
        page_note=(
            f"Phase 3 of four, trained from nothing in {seconds(run):.0f} s on 600 other people: one encoder reads "
            "both pictures and sentences. Measured on its test people; its checkpoint was chosen on validation."
        ),
    )


def _percent(found: dict[str, Any], name: str, meaning: str) -> tuple[str, str]:
    return f"{found[name]:.0f} %", f"{meaning}" + (f" (by chance {found['chance']:.1f} %)" if name == "rank1" else "")
