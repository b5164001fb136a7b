"""The commands of the system `skeleton`. Nothing heavy is imported before one is executed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from sightword.engine.argument import Amount, Count, JobOptions, Model, Names, Out, Size, choice, file_in, folder_in
from sightword.errors import SightwordError
from sightword.systems.skeleton.config import POSE, Reading, VideoOptions
from sightword.systems.skeleton.span import Windows

if TYPE_CHECKING:
    from sightword.data.finding import CheckReport
    from sightword.systems.skeleton.annotations import Recordings
    from sightword.systems.skeleton.predict import ActionPrediction, ActionRecognizer

FORMATS: tuple[str, ...] = (  # names of `formats.known`, which is not imported for --help
    *("openpose", "alphapose", "coco", "mmpose", "mmpose_images", "mediapipe", "yolo"),
    *("ntu", "kinect", "mhad", "kpfiles", "npy"),
)

#: A format of key points, by its name.
FormatName: TypeAlias = Annotated[str, choice("format", ("", *FORMATS))]

PRINTED = 40  # recordings that are printed; the table has all


def recognise(
    model: Model,  # a run directory, an exported folder, or a hub id
    annotations: Path | None = None,  # a .pkl in pyskl's format, or an .npz; if empty, the run's own
    video: Path | None = None,  # instead: a video, or a folder of videos; their people are found first
    labels: str = "",  # other classes, for a model with a text encoder: "waving, sitting down", or a file of them
    split: str = "",  # of the annotations; if empty, all recordings
    out: Out = Path("recognised"),  # the folder of tables and figures
    top: Count = 5,  # classes of a recording in the table
    strips: Amount = 6,  # recordings that are drawn, evenly spread
    truth: bool = True,  # whether labels in the annotations are numbers of these classes; false: ignore them
    checkpoint: str = "best",  # of a run: best, last, or a file
    pose: str = POSE,  # of a video: what finds people, as of sightword skeletons
    people: Count = 2,  # of a video: persons that are kept
    windows: Windows = Windows(),
    reading: Reading = Reading(),
) -> None:
    """Name the actions of recordings, also of classes that were never trained: labels= is then their words.

    window=2 gives a long recording a timeline: a name and a probability for every person and window, and segments. A
    video has windows of 2 s unless you say otherwise. Otherwise the first recordings are printed and the table has all.
    Recordings without a label, or a whole file of them, are named as well. The run's own annotations are read as in its
    training, others as the keys from joints= on say.
    """
    from sightword.storage import shards
    from sightword.systems.skeleton.predict import ActionRecognizer

    folder = folder_in(out)
    if video and annotations:
        raise SightwordError(f"video={video} and annotations={annotations} are two sources. Pass one of them")
    recognizer = ActionRecognizer.from_pretrained(model, checkpoint).to(shards.device())
    if labels:
        recognizer = _renamed(recognizer, labels)
    if video:
        annotations, windows = _filmed(video, folder, pose, people, windows, reading)
        reading = Reading()
    if not (file := annotations or recognizer.data.annotations):
        raise SightwordError("the model names no annotations of its own. Give the recordings, annotations=<file>")
    recordings = recognizer.recordings(file, _reading(recognizer, annotations, reading))
    rows = recordings.split(split)
    if windows.timed:
        _write_timelines(recognizer, recordings, rows, folder, windows, strips, model)
    else:
        truth = truth and _has_truth(recognizer, recordings, rows)
        _write_predictions(recognizer, recordings, rows, folder, truth, strips, top, model)


def _renamed(recognizer: "ActionRecognizer", labels: str) -> "ActionRecognizer":
    """The recognizer of the classes that somebody typed or has in a file."""
    from sightword.systems.skeleton.labels import named_labels
    from sightword.towers.tokenizer import unknown_line

    renamed = recognizer.for_classes(named_labels(labels))
    if renamed.unknown_words:
        print(f"{renamed.labels.source}: {unknown_line(renamed.unknown_words)}")
    return renamed


def _filmed(
    video: Path, folder: Path, pose: str, people: int, windows: Windows, reading: Reading
) -> tuple[Path, Windows]:
    """Find the people of videos. Return the file of their skeletons, and windows of 2 s unless others are wanted."""
    from dataclasses import replace

    from sightword.systems.skeleton.span import Span
    from sightword.systems.skeleton.video.job import extract

    if reading != Reading(mirrored=reading.mirrored):
        raise SightwordError(
            f"video={video} needs no keys that say how annotations are read, but mirrored=. Remove them"
        )
    file = folder / "skeletons.pkl"
    extract(video, file, VideoOptions(pose, people, windows.fps, mirrored=reading.mirrored), JobOptions())
    if not windows.window.given and windows.each is None:
        windows = replace(windows, window=Span(2.0))
    return file, windows


def _has_truth(recognizer: "ActionRecognizer", recordings: "Recordings", rows: Sequence[int]) -> bool:
    """Whether recordings have labels; these have to be of the recognizer's classes."""
    from sightword.storage import shards

    if (highest := int(recordings.labels[rows].max())) < 0:
        shards.say(f"{recordings.path} has no labels: predictions are not compared with any")
        return False
    if highest >= len(recognizer.classes):
        raise SightwordError(
            f"{recordings.path} has the label {highest} and there are {len(recognizer.classes)} classes. Add "
            "truth=false if its labels are of another list, or name a split= that these classes are of"
        )
    return True


def _write_timelines(
    recognizer: "ActionRecognizer",
    recordings: "Recordings",
    rows: Sequence[int],
    folder: Path,
    windows: Windows,
    drawn: int,
    model: str,
) -> None:
    """Recognise, print and write the timelines of recordings."""
    from tqdm import tqdm

    from sightword.systems.skeleton import timetable

    found = recognizer.timelines(recordings, rows, windows, recognizer.data.num_workers)
    made = list(tqdm(found, "recognising", len(rows), unit=" recordings", disable=None))
    print("\n".join(timetable.lines(made)))
    protocol = _protocol(recognizer, "window")
    files = timetable.write(folder, made, drawn, {"model": model, "protocol": protocol})
    for what, text in {**protocol, **timetable.rules_of(made)}.items():
        print(f"  {what}: {text}")
    print(f"{len(made)} recordings; written to {', '.join(map(str, files))}")


def _write_predictions(
    recognizer: "ActionRecognizer",
    recordings: "Recordings",
    rows: Sequence[int],
    folder: Path,
    truth: bool,
    strips: int,
    top: int,
    model: str,
) -> None:
    """Recognise recordings as a whole, print and write what they are."""
    predictions = _predictions(recognizer, recordings, rows, truth, strips)
    print("\n".join(_lines(predictions)))
    metrics, protocol = _metrics(predictions), _protocol(recognizer)
    if metrics and (seen := _trained_on(Path(model), recordings, rows)):
        protocol["trained on"] = f"{seen} of these {len(rows)} recordings: what is right there says little"
    files = _write(folder, predictions, top, metrics, {"model": model, "protocol": protocol})
    for what, number in metrics.items():
        print(f"  {what:<20} {number:.4g}")
    for what, text in protocol.items():
        print(f"  {what}: {text}")
    print(f"{len(predictions)} recordings; written to {', '.join(map(str, files))}")


def ensemble(
    runs: Names,  # two or more run directories of the same labels and data, with commas between them
    split: str = "val",  # val, or test where the data have one
    checkpoint: str = "best",  # best, last, or a file
    out: Out = Path("ensemble"),  # the JSON file, or a folder for it
) -> None:
    """Measure several runs as one: the mean of their probabilities, as of joint and limb heatmaps.

    Writes evaluation.json (evaluation_test.json for split=test), with the metrics of each run alone beside it.
    """
    from sightword.storage.writer import write_json
    from sightword.systems.skeleton.ensemble import ensemble_of

    made = ensemble_of([Path(run) for run in runs], split, checkpoint)
    file = file_in(out, "evaluation.json" if split == "val" else f"evaluation_{split}.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    metrics, protocol = made.metrics(), made.protocol()
    write_json(file, {"runs": [run.run.as_posix() for run in made.members], "metrics": metrics, "protocol": protocol})
    for what, number in metrics.items():
        print(f"  {what:<20} {number:.4g}")
    for what, text in protocol.items():
        print(f"  {what}: {text}")
    print(f"{len(made.scores)} recordings of {split}; written to {file}")


def convert(
    annotations: Path,  # a file or folder of any format that is read, or a .pkl in pyskl's form
    out: Out,  # the .npz or .pkl to write, or a folder for annotations.npz; .pkl keeps 3-D as 3-D
    format: FormatName = "",  # of the file; if empty, recognised by its content
    labels: str = "",  # a CSV of recording,label, JSON {recording: label}, or folders: each folder is a class
    size: Size | None = None,  # height x width of the images, where files do not state it, as 1080x1920
    people: Count = 2,  # most persons that are kept of a recording
    world: bool = False,  # MediaPipe: landmarks in metres, 3-D, instead of those in the image
    mirrored_video: bool = False,  # the video was mirrored, as NTU's colour video: exchange left and right, turn x over
    reading: Reading = Reading(),
) -> None:
    """Read skeletons of OpenPose, AlphaPose, MediaPipe, COCO, MMPose, YOLO, NTU, Kinect and others; or rewrite pyskl's.

    Of a folder every file or sub-folder is a recording. Labels are not needed. Nothing in a file is executed. What is
    written is in pixels, or in 3-D in a Kinect's frame, whatever keys it was read by; what was assumed stands in
    <out>.json. joints= names a joint set that is not the format's, axes= the order of an .npy.
    """
    from sightword.systems.skeleton import conversion

    file = file_in(out, "annotations.npz")
    sides = (size, size) if isinstance(size, int) else size
    wanted = conversion.Wanted(format, labels, sides, people, world, mirrored_video)
    done = conversion.convert(annotations, file, wanted, reading)
    print("\n".join(f"  {note}" for note in done.notes))
    print(f"{len(done.recordings)} recordings written to {file}; what was assumed, to {file}.json")
    print(f"next: {conversion.next_command(done, file)}")


def skeletons(
    video: Path,  # a video, an animated image, a folder of numbered images, or a folder of any of these
    out: Out = Path("skeletons.pkl"),  # the .pkl or .npz to write, or a folder for it
    options: VideoOptions = VideoOptions(),
    job: JobOptions = JobOptions(),
) -> None:
    """Find the people in videos and write their skeletons as annotations, without labels, for recognise and train.

    People are followed from frame to frame and keep an id. A folder is resumable: after an interruption the same
    command reads the remaining videos. BlazePose's networks: npm install @mediapipe/pose@0.5.1675469404.
    """
    from sightword.systems.skeleton.video.job import extract

    file = file_in(out, "skeletons.pkl")
    extract(video, file, options, job)
    print(f"next: sightword recognise model=<run> annotations={file}")


def check_pyskl(root: Path, classes: Amount = 0, reading: Reading = Reading()) -> "CheckReport":
    """An annotation file in pyskl's format: its keys, shapes, numbers, splits, and whether bodies are read as bodies.

    classes: how many labels there are. reading: conventions to try, as recognise takes them.
    """
    from sightword.systems.skeleton import check

    return check.check_pyskl(str(root), classes, reading)


def _reading(recognizer: "ActionRecognizer", annotations: Path | None, given: Reading) -> Reading:
    """How annotations are read: as typed; the run's own as in its training, unless anything is typed."""
    from dataclasses import fields

    from sightword.storage import shards

    keys = [field.name for field in fields(Reading)]
    trained = Reading(**{key: getattr(recognizer.data, key) for key in keys})
    if trained == Reading() or given != Reading():
        return given
    if annotations is None:
        return trained
    typed = " ".join(f"{key}={getattr(trained, key)}" for key in keys if getattr(trained, key) != getattr(given, key))
    shards.say(f"the model was trained on recordings read with {typed}; {annotations} is read without")
    return given


def _predictions(
    recognizer: "ActionRecognizer", recordings: "Recordings", rows: Sequence[int], truth: bool, strips: int
) -> "list[ActionPrediction]":
    """The prediction of each recording, in order, with the poses of `strips` of them, evenly spread."""
    from tqdm import tqdm

    kept = {number * len(rows) // strips for number in range(strips)}
    found = recognizer.stream(recordings, rows, truth, recognizer.data.num_workers)
    stream = tqdm(found, "recognising", len(rows), unit=" recordings", disable=None)
    return [one if number in kept else one.without_poses() for number, one in enumerate(stream)]


def _lines(predictions: "Sequence[ActionPrediction]") -> list[str]:
    """A line for each of the first recordings: its name, its class, the probability, and the true class if another."""
    shown = predictions[:PRINTED]
    names = max((len(one.name) for one in shown), default=0)
    actions = max((len(one.action) for one in shown), default=0)
    lines = []
    for one in shown:
        wrong = f"  it is {one.truth}" if one.label not in (None, one.best) else ""
        lines.append(f"{one.name:<{names}}  {one.action:<{actions}}  {one.probability:.2f}{wrong}")
    return [*lines, f"… and {len(predictions) - PRINTED} more, in the table"] if len(predictions) > PRINTED else lines


def _metrics(predictions: "Sequence[ActionPrediction]") -> dict[str, float]:
    """Percent of the recordings whose class is known, and how well the weights point at their key moments."""
    import numpy as np
    import torch

    from sightword.metrics.classes import mean_class_accuracy, top_k
    from sightword.systems.skeleton.prediction import confusion_of
    from sightword.systems.skeleton.weight import weights_against_truth

    known = [one for one in predictions if one.label is not None]
    found: dict[str, float] = {}
    if known:
        classes = len(known[0].classes)
        scores = torch.from_numpy(np.stack([one.scores for one in known]))
        labels = torch.tensor([one.label for one in known])
        found["top1"] = 100 * float(top_k(scores, labels, 1))
        if classes > 5:
            found["top5"] = 100 * float(top_k(scores, labels, 5))
        mean = float(mean_class_accuracy(confusion_of(known, classes)))
        found |= {"mean_class": 100 * mean, "chance": 100 / classes}
    weights = [one.weights for one in predictions if one.weights is not None]
    if weights:
        found |= weights_against_truth(np.stack(weights), np.stack([one.key for one in predictions]))
    return found


def _protocol(recognizer: "ActionRecognizer", what: str = "recording") -> dict[str, str]:
    """How it was done: the views of each `what`, the probabilities, the classes."""
    data = recognizer.data
    mirrored = ", each mirrored too" if data.test_flip else ""
    size = "×".join(map(str, data.test_size))
    views = f"{data.test_views} of {data.frames} frames at {size} of each {what}{mirrored}; probabilities averaged"
    return {
        "views": views,
        "probabilities": recognizer.describe_probabilities(),
        "classes": f"{len(recognizer.classes)} of {recognizer.labels.source}",
    }


def _trained_on(model: Path, recordings: "Recordings", rows: Sequence[int]) -> int:
    """Return how many of these recordings a run was trained on; 0 for what is not a run directory."""
    from sightword.data.content import Item
    from sightword.engine.split import read_record, trained_on

    if read_record(model) is None:
        return 0
    return len(trained_on(model, [Item(recordings.names[row], content=recordings.content(row)) for row in rows]))


def _write(
    folder: Path,
    predictions: "Sequence[ActionPrediction]",
    top: int,
    metrics: Mapping[str, float],
    note: Mapping[str, object],
) -> list[Path]:
    """Write recognised.csv, recognised.json and the images. Return the files."""
    from sightword.storage.writer import write_json
    from sightword.systems.skeleton import prediction

    folder.mkdir(parents=True, exist_ok=True)
    table, summary = _write_table(folder / "recognised.csv", predictions, top), folder / "recognised.json"
    write_json(summary, {**note, "recordings": len(predictions), "metrics": metrics})
    known = [one for one in predictions if one.label is not None]
    counts = prediction.confusion_of(known, len(known[0].classes)) if known else None
    return [table, summary, *prediction.draw(predictions, folder, counts)]


def _write_table(file: Path, predictions: "Sequence[ActionPrediction]", top: int) -> Path:
    """A row for each recording: its name, its class if it is known, and the best classes with their probabilities."""
    import csv

    from sightword.storage.atomic import write_atomically

    top = min(top, len(predictions[0].classes))
    with write_atomically(file) as part, open(part, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        columns = [f"{what}_{place}" for place in range(1, top + 1) for what in ("class", "probability")]
        writer.writerow(["recording", "truth", "right", *columns])
        for one in predictions:
            right = "" if one.label is None else int(one.label == one.best)
            ranked = [cell for name, chance in one.ranked(top) for cell in (name, f"{chance:.6f}")]
            writer.writerow([one.name, one.truth, right, *ranked])
    return file
