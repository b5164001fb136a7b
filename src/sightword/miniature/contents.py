"""`sightword mini`: the small worlds and the tiny towers under one folder, in the formats of the real ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sightword.miniature import intent, motion, person, room, scene, tower
from sightword.storage.atomic import write_atomically


class Part(NamedTuple):
    """Something to write, and how one opens it."""

    folder: str
    what: str
    opened: str  # a line of Python or of the shell; {} is the folder
    write: Callable[[Path], None]


SCENES, SEED = 48, 7  # not the seed that the CLIP is trained on


def parts(captions: Callable[[], list[str]]) -> list[Part]:
    """All there is. captions: of the scenes, once they are written."""
    return [
        Part(
            "scenes",
            f"{SCENES} scenes of {len(scene.PLACES)} places and {len(scene.OBJECTS)} things: images, captions, labels",
            "sightword check dataset=images root={}/images",
            lambda folder: scene.write(folder, SCENES, SEED),
        ),
        Part(
            "intentonomy",
            "why such scenes were posted: 700 in Intentonomy's own format, 28 intents as rules over what is in them",
            "sightword check dataset=intentonomy root={}",
            intent.write_intents,
        ),
        Part(
            "vocabulary",
            "the words of its things, places and actions, as `sightword anchors` takes them",
            "sightword anchors tower=mini/towers/clip vocabulary={} out=mini/anchors",
            write_vocabulary,
        ),
        Part(
            "people",
            "700 people in families of four, drawn and described, in CUHK-PEDES's layout; fewer in that of ICFG-PEDES "
            "and of RSTPReid",
            "sightword check dataset=cuhk_pedes root={}",
            write_people,
        ),
        Part(
            "motion",
            f"the skeletons of {sum(motion.SIZES[:3])} people in {len(motion.ACTIONS)} actions, and in "
            f"{len(motion.UNSEEN)} more for recognisers that go by words, in pyskl's format",
            "sightword check dataset=pyskl path={}/annotations.pkl",
            motion.write_motion,
        ),
        Part(
            "rooms",
            f"{len(room.SEEDS)} furnished rooms, walked through with a depth camera, in scannet200-mv's layout: "
            "frames, poses, intrinsics, labelled clouds",
            "sightword check dataset=scannet root={}",
            room.write_rooms,
        ),
        Part(
            "towers/clip",
            "a CLIP, trained here on such scenes and their captions: its patches know their words",
            "from sightword import image_tower; image_tower('{}', token_type='value')",
            write_clip,
        ),
        Part(
            "towers/siglip",
            "a SigLIP, drawn at random",
            "from sightword import image_tower; image_tower('{}')",
            lambda f: tower.write_siglip(f, captions()),
        ),
        Part(
            "towers/t5",
            "a T5, drawn at random",
            "from sightword import text_tower; text_tower('{}')",
            lambda f: tower.write_t5(f, captions()),
        ),
        Part(
            "towers/bert",
            "a BERT, drawn at random",
            "from sightword import text_tower; text_tower('{}')",
            lambda f: tower.write_bert(f, [*captions(), " ".join(motion.vocabulary())]),
        ),
        Part(
            "towers/vq",
            "an image tokenizer, drawn at random",
            "sightword tokenize images=… model={} out=…",
            tower.write_vq,
        ),
    ]


def write_people(folder: Path) -> None:
    """The three published layouts side by side."""
    fewer = person.Sizes(24, 8, 8)
    person.write_cuhk(folder)
    person.write_icfg(folder, fewer)
    person.write_rstp(folder, fewer)


def write_vocabulary(folder: Path) -> None:
    """One file a stream, in the form of the vocabularies that the system `intent` brings."""
    folder.mkdir(parents=True, exist_ok=True)
    streams = {"coco": list(scene.OBJECTS), "places": list(scene.PLACES), "actions": list(scene.ACTIONS)}
    for stream, words in streams.items():
        prompt = "a photo of a person {}" if stream == "actions" else "a photo of a {}"
        told = {"stream": stream, "size": 4 * len(words), "templates": {"word": [prompt]}, "classes": words}
        with write_atomically(folder / f"{stream}.json") as part:
            part.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def write_clip(folder: Path) -> None:
    """The tiny CLIP, trained if this machine has not trained it yet."""
    from sightword.miniature.clip import tiny_clip
    from sightword.towers.clip.encoder import CLIP

    CLIP.load(tiny_clip()).save(folder)


def write_all(out: Path) -> list[Part]:
    """Write every part; a part that was there is written again, to the same bytes."""

    def captions() -> list[str]:
        return [entry["caption"] for entry in json.loads((out / "scenes" / "captions.json").read_text())] + _words()

    found = parts(captions)
    for part in found:
        (out / part.folder).mkdir(parents=True, exist_ok=True)
        part.write(out / part.folder)
    return found


def _words() -> list[str]:
    """Every word of the worlds, whether a picture shows it or not."""
    return ["a photo of a person", *scene.PLACES, *scene.OBJECTS, *scene.ACTIONS, *person.vocabulary()]
