"""`sightword mini`: synthetic datasets and tiny encoders in one folder, in the formats of the real ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sightword.miniature import intent, motion, person, room, scene, tower
from sightword.storage.atomic import write_atomically
from sightword.storage.reader import read_json_list

SCENES, SEED = 48, 7  # the tiny CLIP is trained on another seed


class Part(NamedTuple):
    """A folder that `sightword mini` writes."""

    folder: str
    what: str
    opened: str  # how to open it, a line of Python or of the shell; {} is the folder
    write: Callable[[Path], None]


def write_people(folder: Path) -> None:
    """Write people in the three published layouts, side by side; nobody is in two of them."""
    fewer = person.Sizes(24, 8, 8)
    person.write_cuhk(folder)
    person.write_icfg(folder, fewer, seed=8)
    person.write_rstp(folder, fewer, seed=9)


def write_vocabulary(folder: Path) -> None:
    """Write one vocabulary file per stream, in the format of those that come with the system `intent`."""
    folder.mkdir(parents=True, exist_ok=True)
    streams = {"coco": list(scene.OBJECTS), "places": list(scene.PLACES), "actions": list(scene.ACTIONS)}
    for stream, words in streams.items():
        prompt = "a photo of a person {}" if stream == "actions" else "a photo of a {}"
        fields = {"stream": stream, "size": 4 * len(words), "templates": {"word": [prompt]}, "classes": words}
        with write_atomically(folder / f"{stream}.json") as part:
            part.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def write_clip(folder: Path) -> None:
    """Write the tiny CLIP; the first call on a machine trains it."""
    from sightword.miniature.clip import tiny_clip
    from sightword.towers.clip.encoder import CLIP

    CLIP.load(tiny_clip()).save(folder)


def captions_beside(tower: Path) -> list[str]:
    """Return all texts that a tokenizer in <out>/towers/<name> must cover: captions of <out>/scenes, and all words."""
    scenes = read_json_list(tower.parents[1] / "scenes" / "captions.json", missing="Write the scenes first")
    words = ["a photo of a person", *scene.PLACES, *scene.OBJECTS, *scene.ACTIONS, *person.vocabulary()]
    return [entry.text("caption") for entry in scenes.all_mappings()] + words


def write_bert(folder: Path) -> None:
    """Write the BERT, whose tokenizer also covers the words of the synthetic actions."""
    tower.write_bert(folder, [*captions_beside(folder), " ".join(motion.vocabulary())])


PARTS = (  # in this order: the tokenizers of the towers read the captions of the scenes
    Part(
        "scenes",
        f"{SCENES} scenes of {len(scene.PLACES)} places and {len(scene.OBJECTS)} objects: images, captions, label maps",
        "sightword check dataset=images root={}/images",
        lambda folder: scene.write(folder, SCENES, SEED),
    ),
    Part(
        "intentonomy",
        "700 such scenes in Intentonomy's format, labelled with its 28 intents by rules over what they show",
        "sightword check dataset=intentonomy root={}",
        lambda folder: intent.write_intents(folder),
    ),
    Part(
        "intentonomy_maps",
        "which object or action each pixel of its 150 test scenes shows",
        "sightword faithful run=… truth=mini/intentonomy/drawn.json maps={}",
        lambda folder: intent.write_maps(folder, folder.parent / "intentonomy"),
    ),
    Part(
        "vocabulary",
        "the words of objects, places and actions, as `sightword anchors` takes them",
        "sightword anchors tower=mini/towers/clip vocabulary={} out=mini/anchors",
        write_vocabulary,
    ),
    Part(
        "people",
        f"images and descriptions of {sum(person.SIZES):,} people in CUHK-PEDES's layout, and of fewer in that of "
        "ICFG-PEDES and RSTPReid",
        "sightword check dataset=cuhk_pedes root={}",
        write_people,
    ),
    Part(
        "motion",
        f"skeletons of {sum(motion.SIZES[:3])} people in {len(motion.ACTIONS)} actions, and in {len(motion.UNSEEN)} "
        "more for zero-shot recognition, in pyskl's format",
        "sightword check dataset=pyskl path={}/annotations.pkl",
        lambda folder: motion.write_motion(folder),
    ),
    Part(
        "rooms",
        f"{len(room.SEEDS)} furnished rooms recorded by a moving depth camera, in scannet200-mv's layout: frames, "
        "poses, intrinsics, labelled point clouds",
        "sightword check dataset=scannet root={}",
        lambda folder: room.write_rooms(folder),
    ),
    Part(
        "towers/clip",
        "a CLIP trained on such scenes and their captions, whose patch tokens are aligned with words",
        "from sightword import image_tower; image_tower('{}', token_type='value')",
        write_clip,
    ),
    Part(
        "towers/siglip",
        "a SigLIP with random weights",
        "from sightword import image_tower; image_tower('{}')",
        lambda folder: tower.write_siglip(folder, captions_beside(folder)),
    ),
    Part(
        "towers/t5",
        "a T5 with random weights",
        "from sightword import text_tower; text_tower('{}')",
        lambda folder: tower.write_t5(folder, captions_beside(folder)),
    ),
    Part(
        "towers/bert",
        "a BERT with random weights",
        "from sightword import text_tower; text_tower('{}')",
        write_bert,
    ),
    Part(
        "towers/vq",
        "an image tokenizer with random weights",
        "sightword tokenize images=… model={} out=…",
        tower.write_vq,
    ),
)


def write_all(out: Path) -> tuple[Part, ...]:
    """Write every part below `out` and return them. Writing again replaces their files by the same bytes."""
    for part in PARTS:
        (out / part.folder).mkdir(parents=True, exist_ok=True)
        part.write(out / part.folder)
    return PARTS
