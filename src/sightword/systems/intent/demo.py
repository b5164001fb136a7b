"""Intent's part of the demo: the intents of the synthetic data set, from words to explanations."""

import shutil
from pathlib import Path

from sightword.storage.reader import read_json
from sightword.systems.intent import intentonomy, show
from sightword.systems.intent.predict import IntentClassifier, IntentPrediction
from sightword.viz.page import Figure, Section, Train

EXPERIMENTS = {
    "stage1": "frozen codebooks, a linear head",
    "stage2": "the codes are trained, too",
    "baseline": "no codebooks: CLIP's vectors and an MLP",
    "pairs": "words that are present, and pairs of them",
}


def section(out: Path, train: Train) -> Section:
    """Train four experiments and explain two predictions. Uses the synthetic data that the demo wrote beside `out`."""
    data = out.parent / "miniature" / "intentonomy"
    if all((out / "runs" / name / "summary.json").exists() for name in EXPERIMENTS):
        for name in ("anchors", "tokens", "ids"):  # a second demo may be of another version
            shutil.rmtree(out / name, ignore_errors=True)
    best, seconds = dict[str, dict[str, float]](), 0.0
    for name in EXPERIMENTS:
        folder = _run(out, name, data, train)
        summary = read_json(folder / "summary.json")
        found = summary.mapping("best")
        best[name] = {key.removeprefix("val/"): found.number(key) for key in found}
        seconds = seconds or summary.mapping("cost").number("seconds")
    return _section(best, seconds, data, out)


def _run(out: Path, name: str, data: Path, train: Train) -> Path:
    """Train one experiment, again if it was finished. Anchors, tokens and ids are made before the first one."""
    folder, small = out / "runs" / name, data.parent
    if (folder / "summary.json").exists():
        shutil.rmtree(folder)
    paths = {
        "system.tower": small / "towers" / "clip",
        "system.vocabulary": small / "vocabulary",
        "system.semantic_anchors_path": out / "anchors",
        "data.root": data,
        "data.cache": out / "tokens",
        "data.ids": out / "ids",
    }
    paths |= {"system.calibration_labels": small / "scenes" / "captions.json"} if name == "pairs" else {}
    paths |= {"init_from": out / "runs" / "stage1"} if name == "stage2" else {}
    given = [f"{key}={path}" for key, path in paths.items()]
    if not train(folder, [f"experiment=intent/{name}", "scale=mini", *given]):
        raise KeyboardInterrupt
    return folder


def _section(best: dict[str, dict[str, float]], seconds: float, data: Path, out: Path) -> Section:
    classifier = IntentClassifier.from_pretrained(out / "runs" / "pairs")
    stage1 = best["stage1"]
    times = stage1["macro_f1"] / stage1["all_ones_macro_f1"]
    return Section(
        title="intent: why was this photo posted? An exact sum over words and patches",
        lead=(
            "An image is read as words of codebooks: which are there, and in which patches. 28 intents are predicted "
            "from the words, and pairs of them, alone. A score is therefore a sum that you can check by hand: so much "
            "for the beach in these patches, so much against the car in those."
        ),
        figures=[
            *(figure for found, said in _predictions(classifier, data) for figure in _figures(found, said)),
            Figure(
                classifier.table(),
                "The whole model in one table: what a word, or a pair, adds to an intent if it is there.",
            ),
        ],
        metrics={
            "words and pairs": (f"{100 * best['pairs']['macro_f1']:.0f} %", "macro F1 of words that are present"),
            "stage 1": (
                f"{100 * stage1['macro_f1']:.0f} %",
                f"the published model: areas of words; {times:.1f} times the all-positive baseline",
            ),
            "stage 2": (f"{100 * best['stage2']['macro_f1']:.0f} %", "the same, with trained codes"),
            "without words": (
                f"{100 * best['baseline']['macro_f1']:.0f} %",
                "an MLP on the image encoder: what explanations cost",
            ),
            "threshold": (
                f"{best['pairs']['threshold']:.2f}",
                "the one with the best macro F1 on validation, as in the papers",
            ),
        },
        commands=[
            (
                "Explain the prediction for an image of your own:",
                f"sightword show model={out / 'runs/pairs'} image={_file(data)} out=show",
            ),
            (
                "Check the real data set, once you have its photos:",
                "sightword check dataset=intentonomy root=/data/intentonomy",
            ),
        ],
        page_note=(
            f"{seconds:.0f} s of training from ids. The labels are rules, applied by three "
            "noisy annotators, so no model reaches 100 %. Measured on the validation images."
        ),
    )


def _figures(prediction: IntentPrediction, said: str) -> list[Figure]:
    """The words of an image, and what follows from them."""
    assert prediction.explanation is not None
    return [
        Figure(
            show.maps(prediction.explanation),
            "The word of each patch: fainter where it is doubtful that the image shows it, without colour where it is "
            "none of these.",
        ),
        Figure(
            prediction.plot(),
            "The three likeliest intents: red contributes positively, blue negatively, and the lines add up to the "
            f"score. Its annotators said: {said}.",
        ),
    ]


def _predictions(classifier: IntentClassifier, data: Path) -> list[tuple[IntentPrediction, str]]:
    """Of two test images, one without and one with an action: the prediction, and what the annotators said."""
    notes = intentonomy.read_annotations(intentonomy.annotation_file(data, "test"))
    drawn = read_json(data / "drawn.json")
    found: dict[bool, tuple[IntentPrediction, str]] = {}
    for file, row in zip(notes.files, notes.targets, strict=True):
        scene = drawn.mapping(Path(file).stem)
        active = scene.value("action") is not None
        if active not in found and len(scene.texts("objects")) > 1 and (row > 0).sum() > 1:
            said = ", ".join(name for name, share in zip(notes.names, row, strict=True) if share > 0)
            found[active] = classifier(data / file), said
    return [found[True], found[False]]


def _file(data: Path) -> Path:
    return data / intentonomy.read_annotations(intentonomy.annotation_file(data, "test")).files[0]
