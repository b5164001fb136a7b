"""The points section of the demo: text queries in a room, and an encoder that also predicts points no image shows."""

import shutil
from pathlib import Path

from sightword.data.loader import moved
from sightword.engine.run import held_out, make_evaluator, restore
from sightword.systems.points import ask
from sightword.systems.points.data import LISTS
from sightword.systems.points.predict import SceneQuery
from sightword.systems.points.scannet.reader import read_scenes_file
from sightword.viz.page import Figure, Section, Train, seconds

QUERIES = ("a chair", "a bed")
SIZE, TOKEN_TYPE = (96, 128), "value"  # at which the tiny CLIP is best
ANSWERS = (
    "Every point with all nine text queries at once: its colours, what it is, what lifted CLIP predicts, and what the "
    "trained encoder predicts, also for points that no image shows."
)


def section(out: Path, train: Train) -> Section:
    """Train the encoder on six rooms, then query another, on which nothing was trained and nothing chosen."""
    small, run = out.parent / "miniature", out / "run"
    if (run / "summary.json").exists():
        shutil.rmtree(run)
    shutil.rmtree(out / "clip", ignore_errors=True)  # a second's work, and perhaps another version's CLIP
    rooms, tower = small / "rooms", small / "towers" / "clip"
    arguments = ["experiment=points/bifusion_mini", f"system.clip={tower}", f"system.labels={rooms}"]
    arguments += [f"data.root={rooms}", f"data.cache={out / 'clip'}", "trainer.epochs=8"]
    if not train(run, arguments):
        raise KeyboardInterrupt
    name = read_scenes_file(rooms / LISTS["test"])[0]
    metrics, answers = _measured(run)
    return _section(metrics, [_queried(rooms / "2D" / name, run), answers], run, rooms, tower, name)


def _measured(run: Path) -> tuple[dict[str, float], Figure]:
    """Metrics on the test rooms, and a figure of the predictions for the first."""
    task, config, _ = restore(run)
    evaluator, loader = make_evaluator(config, task), held_out(config, "test", task)
    for batch in loader:
        evaluator.update(moved(batch, "cpu"))
    return evaluator.compute(), Figure(evaluator.images(next(iter(loader)))["answers"], ANSWERS)


def _queried(room: Path, run: Path) -> Figure:
    """Two text queries to a room, as `sightword ask` does."""
    answer = SceneQuery.from_pretrained(run)(room, QUERIES)
    said = ask.summary_lines(answer, ask.classes_near(room))
    lines = [line.strip() for line in said if line.startswith("  by the cloud's labels")]  # one for each query
    told = "; ".join(f"“{query}”: {line}" for query, line in zip(QUERIES, lines, strict=True))
    unseen = int((~answer.visible).sum())
    points = f"{len(answer.points):,} points, {unseen:,} of which no image shows"
    return Figure(answer.plot(), f"Two text queries to {points}, answered by the trained encoder. {told}.")


def _section(
    metrics: dict[str, float], figures: list[Figure], run: Path, rooms: Path, tower: Path, name: str
) -> Section:
    seeing = f"tower={tower} token_type={TOKEN_TYPE} size={SIZE[0]}x{SIZE[1]} dtype=fp32"
    return Section(
        title="points: CLIP features on a 3-D point cloud",
        lead=(
            "Ten images of a room, with the depth of each pixel and the pose of the camera. CLIP's features of them "
            "are carried onto the points of the room, which text queries then find; nobody ever labelled a point."
        ),
        figures=figures,
        metrics={
            "lifted CLIP": (
                f"{metrics['clip_miou']:.0f} %",
                f"mIoU of nine classes, all points; {metrics['clip_accuracy_seen']:.0f} % of the points that an image "
                f"shows are right (majority-class baseline: {metrics['majority']:.0f} %)",
            ),
            "fused": (
                f"{metrics['text_miou']:.0f} %",
                f"mIoU of the fused features, all points; {metrics['text_accuracy_seen']:.0f} % of those that an image "
                f"shows are right. CLIP's features averaged over like points, without training: "
                f"{metrics['spread_miou']:.0f} %",
            ),
            "never seen": (
                f"{metrics['text_accuracy_unseen']:.0f} %",
                f"of the {100 - metrics['coverage']:.0f} % of points that no image shows are right, by geometry and "
                "colour",
            ),
        },
        commands=[
            (
                "Query the room by the trained encoder:",
                f'sightword ask scene={rooms}/2D/{name} model={run} "a dog, a chair"',
            ),
            (
                "Lift your own posed RGB-D frames (color/, depth/, pose/, intrinsic/), and query them:",
                f"sightword lift root={rooms} {seeing} out=lifted vis=1\n"
                f'sightword ask scene={rooms}/2D/{name} {seeing} "a dog, a chair"',
            ),
            ("Is it whole?", "sightword check dataset=scannet root=/data/scannet"),
        ],
        page_note=(
            f"Trained in {seconds(run):.0f} s on six rooms; measured on four others, on which nothing was trained or "
            "chosen. The CLIP is the synthetic dataset's own, trained above on drawn scenes."
        ),
    )
