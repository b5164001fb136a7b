"""Its part of the demo: the intents of the small world, from anchors to reasons."""

import json
import shutil
from pathlib import Path
from typing import Any

from sightword.data.image import read_image
from sightword.engine.run import restore
from sightword.systems.intent import commands, intentonomy, show
from sightword.systems.intent.task import MultiStreamTask
from sightword.towers.token_cache import Source, cache_tokens
from sightword.viz.page import Figure, Section, Train

EXPERIMENTS = {
    "stage1": "frozen words, a linear head",
    "stage2": "the words may move a little",
    "baseline": "no words: CLIP's vectors and an MLP",
}


def section(out: Path, train: Train) -> Section:
    """Anchors, tokens, codes, three runs, and a look inside. The small world is the demo's, beside this part."""
    small = out.parent / "miniature"
    tower, data = small / "towers" / "clip", small / "intentonomy"
    commands.anchors(str(tower), str(out / "anchors"), vocabulary=str(small / "vocabulary"))
    _tokens(tower, data, out)
    commands.codes(str(out / "anchors"), str(out / "tokens"), str(out / "codes"))
    runs = {name: _run(out, name, tower, data, train) for name in EXPERIMENTS}
    task, _, _ = restore(out / "runs" / "stage1")
    return _section(runs, task, data, out)


def _tokens(tower: Path, data: Path, out: Path) -> None:
    """What the CLIP sees; made anew if what is there is of another version's."""
    try:
        cache_tokens(Source(str(tower), {}), data, out / "tokens", ["value", "joint"])
    except ValueError:
        for folder in ("tokens", "codes"):
            shutil.rmtree(out / folder, ignore_errors=True)
        cache_tokens(Source(str(tower), {}), data, out / "tokens", ["value", "joint"])


def _run(out: Path, name: str, tower: Path, data: Path, train: Train) -> dict[str, Any]:
    """One experiment on the small world, anew if it was finished; its summary."""
    folder = out / "runs" / name
    if (folder / "summary.json").exists():
        shutil.rmtree(folder)
    source = f"data.codes={out / 'codes'}" if name == "stage1" else f"data.cache={out / 'tokens'}"
    places = [f"system.tower={tower}", f"system.semantic_anchors_path={out / 'anchors'}", f"data.root={data}"]
    if not train(folder, [f"experiment=intent/{name}", "scale=mini", *places, source]):
        raise KeyboardInterrupt
    return json.loads((folder / "summary.json").read_text())


def _section(runs: dict[str, dict[str, Any]], task: MultiStreamTask, data: Path, out: Path) -> Section:
    best = {name: {key.removeprefix("val/"): v for key, v in run["best"].items()} for name, run in runs.items()}
    stage1 = best["stage1"]
    times = stage1["macro_f1"] / stage1["all_ones_macro_f1"]
    return Section(
        title="intent: why was this posted, as an exact sum of words at places",
        lead=(
            "Every patch of a picture is replaced by the nearest word of each codebook, and 28 intents are read from "
            "the words alone. So a score is a sum that can be checked by hand: so much for the beach here, so much "
            "against the car there."
        ),
        figures=[
            *(figure for inside, said in _pictures(task, data) for figure in _figures(task, inside, said)),
            Figure(
                show.table(task), "The whole model on one page: what a word adds to an intent, if it is everywhere."
            ),
        ],
        measures={
            "stage 1": (f"{100 * stage1['macro_f1']:.0f} %", f"macro F1, {times:.1f} times that of saying yes to all"),
            "stage 2": (f"{100 * best['stage2']['macro_f1']:.0f} %", "the same, the codes moving near their words"),
            "without words": (
                f"{100 * best['baseline']['macro_f1']:.0f} %",
                "an MLP on the tower: the price of reasons",
            ),
            "threshold": (
                f"{stage1['threshold']:.2f}",
                "the one with the best macro F1 on validation, as the papers do",
            ),
        },
        commands=[
            (
                "Why was a picture of your own posted, in the small world's eyes:",
                f"sightword show run={out / 'runs/stage1'} image={_file(data)} out=show",
            ),
            (
                "The real thing, once its photos are there:",
                "sightword check dataset=intentonomy root=/data/intentonomy",
            ),
        ],
        page_note=(
            f"{runs['stage1']['cost']['seconds']:.0f} s of training from codes. The labels are the small world's rules "
            "as three noisy annotators see them, so no model reaches 100 %. Measured on its validation pictures."
        ),
    )


def _figures(task: MultiStreamTask, inside: show.Inside, said: str) -> list[Figure]:
    """What was read in a picture, and what follows from it."""
    return [
        Figure(show.maps(task, inside), "What it read, patch by patch; pale where two words were nearly as near."),
        Figure(
            show.reasons(task, inside),
            "The three likeliest intents: red speaks for one, blue against it, and the lines add up to its score. "
            f"Its annotators said: {said}.",
        ),
    ]


def _pictures(task: MultiStreamTask, data: Path) -> list[tuple[show.Inside, str]]:
    """Two test pictures of several things, one of somebody who does something, and what people said of each."""
    notes = intentonomy.read_annotations(intentonomy.annotation_file(data, "test"))
    drawn = json.loads((data / "drawn.json").read_text(encoding="utf-8"))
    found: dict[bool, tuple[show.Inside, str]] = {}
    for file, row in zip(notes.files, notes.targets, strict=True):
        scene = drawn[Path(file).stem]
        active = scene["action"] is not None
        if active not in found and len(scene["objects"]) > 1 and (row > 0).sum() > 1:
            said = ", ".join(name for name, share in zip(intentonomy.CLASSES, row, strict=True) if share > 0)
            found[active] = show.look(task, read_image(data / file)), said
    return [found[True], found[False]]


def _file(data: Path) -> Path:
    return data / intentonomy.read_annotations(intentonomy.annotation_file(data, "test")).files[0]
