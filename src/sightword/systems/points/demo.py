"""Its part of the demo: a room asked in words, and a network that learns to answer where no picture looked."""

import shutil
from pathlib import Path

import torch

from sightword.engine.run import held_out, restore
from sightword.systems.points import ask
from sightword.systems.points.lift.features import FrameEncoder, features_of
from sightword.systems.points.scannet.reader import Scene, read_color, read_scene, read_scenes_file
from sightword.towers.factory import tower_pair
from sightword.viz.page import Figure, Section, Train, seconds

QUESTIONS = ("a chair", "a bed")
SPLITS = {"": "train", "val_": "val", "test_": "test"}
SIZE, FORM = (96, 128), "value"  # how the tiny CLIP sees best
ANSWERS = (
    "Every point asked for all nine words at once: its colours, what it is, what lifted CLIP says, and what the "
    "trained network says, also of points that no picture shows."
)


def section(out: Path, train: Train) -> Section:
    """Train the encoder on three rooms, then ask another one, which nothing was trained on and nothing chosen by."""
    small, run = out.parent / "miniature", out / "run"
    if (run / "summary.json").exists():
        shutil.rmtree(run)
    shutil.rmtree(out / "clip", ignore_errors=True)  # a second's work, and perhaps another version's CLIP
    rooms, tower = small / "rooms", small / "towers" / "clip"
    lists = rooms / "meta_data"
    words = ["experiment=points/bifusion", "scale=mini", f"system.clip={tower}", f"system.labels={rooms}"]
    words += [f"data.root={rooms}", f"data.cache={out / 'clip'}", "trainer.epochs=20"]
    words += [f"data.{name}scenes={lists}/scannetv2_{split}.txt" for name, split in SPLITS.items()]
    if not train(run, words):
        raise KeyboardInterrupt
    task, config, _ = restore(run)
    loader = held_out(config, "test", task)
    with torch.no_grad():
        for batch in loader:
            task.evaluate(batch)
    found, answers = task.measures(), task.pictures(next(iter(loader)))["answers"]
    name = read_scenes_file(lists / "scannetv2_test.txt")[0]
    return _section(found, [_asked(read_scene(rooms, name), tower), Figure(answers, ANSWERS)], run, rooms, tower, name)


@torch.no_grad()
def _asked(scene: Scene, tower: Path) -> Figure:
    """Two questions to the room, as `sightword ask` puts them."""
    clip = tower_pair(tower, size=SIZE)
    encoder = FrameEncoder(clip.image, FORM)
    features = features_of(encoder.rows([read_color(frame) for frame in scene.frames]), encoder.grid)
    lifted = ask.lift_scene(scene, features)
    classes = ask.classes_near(scene.folder)
    answered = ask.answer(lifted.features, lifted.seen, clip.text, QUESTIONS, ask.competitors(classes))
    lines = [line.strip() for line in ask.told(lifted, answered, classes) if line.startswith(" ")]
    told = "; ".join(f"“{question}”: {line}" for question, line in zip(QUESTIONS, lines, strict=True))
    return Figure(ask.picture(lifted, answered, "the room"), f"Two questions to {len(lifted.seen):,} points. {told}.")


def _section(found: dict[str, float], figures: list[Figure], run: Path, rooms: Path, tower: Path, name: str) -> Section:
    seeing = f"tower={tower} token_type={FORM} size={SIZE[0]}x{SIZE[1]} dtype=fp32"
    return Section(
        title="points: CLIP's words on a 3-D point cloud",
        lead=(
            "Ten pictures of a room, with the depth of each pixel and where the camera stood. What a CLIP sees in them "
            "is carried onto the points of the room, so that they can be asked in words; nobody ever labelled a point."
        ),
        figures=figures,
        measures={
            "lifted CLIP": (
                f"{found['clip_accuracy_seen']:.0f} %",
                f"of the points seen are told right, of nine words (always the commonest: {found['majority']:.0f} %)",
            ),
            "fused": (
                f"{found['text_accuracy_seen']:.0f} %",
                "of the same points by the network that was taught by CLIP and also reads the geometry",
            ),
            "never seen": (
                f"{found['text_accuracy_unseen']:.0f} %",
                f"of the {100 - found['coverage']:.0f} % of points that no picture shows, by geometry and colour alone",
            ),
        },
        commands=[
            (
                "Lift your own posed RGB-D frames (color/, depth/, pose/, intrinsic/), and ask:",
                f"sightword lift root={rooms} {seeing} output_dir=lifted vis=1\n"
                f'sightword ask scene={rooms}/2D/{name} {seeing} "a dog, a chair"',
            ),
            ("Is it whole?", "sightword check dataset=scannet root=/data/scannet"),
        ],
        page_note=(
            f"Trained in {seconds(run):.0f} s on three rooms; measured on a fifth, on which nothing was trained or "
            "chosen. CLIP is the small world's own, trained above on drawn scenes."
        ),
    )
