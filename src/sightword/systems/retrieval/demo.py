"""Retrieval's part of the demo: people of the synthetic data set, found by a sentence that describes them."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from sightword.engine import run as runs
from sightword.metrics.ranking import retrieval_metrics
from sightword.systems.retrieval import show
from sightword.systems.retrieval.config import RetrievalData
from sightword.systems.retrieval.predict import PersonRetriever
from sightword.systems.retrieval.sensitivity import sensitivity, spread
from sightword.systems.retrieval.split import Source, Split, read_split
from sightword.systems.retrieval.truth import Truth, read_truth
from sightword.viz.page import Figure, Section, Train, seconds

SHOWN = 3  # captions
SHORT = ("trainer.steps=700", "trainer.val_every=350", "data.alike_after=2")  # of what the experiment trains


def section(out: Path, train: Train) -> Section:
    """Train phase 3, then search for people that it was not trained on. The data are of the demo's first part."""
    small, run = out.parent / "miniature", out / "run"
    if (run / "summary.json").exists():
        shutil.rmtree(run)
    towers = [f"system.{name}={small / 'towers' / name}" for name in ("clip", "siglip", "t5")]
    if not train(run, ["experiment=retrieval/phase3_mini", *towers, f"data.root={small / 'people'}", *SHORT]):
        raise KeyboardInterrupt
    data = runs.read_config(run).data
    assert isinstance(data, RetrievalData)
    retriever = PersonRetriever.from_pretrained(run)
    source = Source(data.dataset, data.root)
    test = read_split(source, "test")
    return _section(retriever, test, read_truth(source.read(), test), run, data.root)


def _section(retriever: PersonRetriever, test: Split, truth: Truth | None, run: Path, people: str) -> Section:
    texts, images = retriever.encode_text(test.captions), retriever.encode_image(test.images)
    found = retrieval_metrics(images, torch.from_numpy(test.pids), texts, torch.from_numpy(test.caption_pids))
    chosen = spread(len(test.captions), SHOWN)
    queries = show.search(test, texts, images, chosen)
    own, count = images[test.caption_image], len(test.captions)
    swaps = sensitivity(retriever.encode_text, test.captions, own, count, persons=test.caption_pids)
    persons = len(set(test.pids.tolist()))
    ceiling = f"; a reader without a mistake: {100 * truth.ceiling.mean():.0f} %" if truth else ""
    return Section(
        title="retrieval: find the person that a sentence describes",
        lead=(
            f"{len(test.images)} images of {persons} people that the model was not trained on, and a sentence that "
            "describes one of them. For everybody there are three hard negatives, people whose descriptions differ in "
            "a single word: the colour of a shoe, the side of a bag."
        ),
        figures=[
            *(Figure(query.strip(), "The ten nearest of all images, the nearest first.") for query in queries),
            Figure(swaps.plot(), "Sensitivity: how far the score falls if one word of the sentence is changed."),
        ],
        metrics={
            "Rank-1": _percent(found, "rank1", f"sentences whose nearest image shows the right person{ceiling}"),
            "Rank-10": _percent(found, "rank10", "sentences with the right person among the ten nearest"),
            "mAP": _percent(found, "map", "mean average precision: of all three images of the person"),
        },
        commands=[
            (
                "Encode a folder of images once, and search it:",
                f"sightword index model={run} images={people}/RSTPReid/imgs out=gallery\n"
                'sightword search index=gallery "a woman in a green coat and blue shorts with a yellow cap"',
            ),
            ("The real data, once its images are there:", "sightword check dataset=cuhk_pedes root=/data"),
        ],
        page_note=(
            f"Phase 3 of four, trained from random weights in {seconds(run):.0f} s on 3,200 other people: one encoder "
            "for images and sentences. Measured on the test people; the checkpoint was chosen on validation."
        ),
    )


def _percent(found: Mapping[str, float], name: str, meaning: str) -> tuple[str, str]:
    return f"{found[name]:.0f} %", f"{meaning}" + (f" (by chance {found['chance']:.1f} %)" if name == "rank1" else "")
