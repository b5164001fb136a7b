"""Synthetic Intentonomy: scenes labelled with intents by rules over their contents, in the format of the real files.

The 28 intents have their real names and ids. Here an intent is a rule over a scene's place, objects and action; many
need two of the three. As in the real data, three annotators label each image and disagree: each misses some intents and
adds some that do not apply.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sightword.errors import SightwordError
from sightword.miniature.scene import ACTIONS, HELD_OUT, OBJECTS, PLACES, Scene, draw
from sightword.storage.atomic import write_atomically
from sightword.storage.domain import write_card
from sightword.storage.reader import read_json

MISSED, IMAGINED = 0.15, 0.004  # probability that an annotator misses an intent, or adds one
ANNOTATORS = 3


def _outdoors(scene: Scene) -> bool:
    """Return whether the place is outdoors."""
    return PLACES[scene.place].where == "outdoors"


def _has(scene: Scene, *words: str) -> bool:
    """Return whether the scene shows any of these objects."""
    return not set(words).isdisjoint(scene.objects)


def _does(scene: Scene, *verbs: str) -> bool:
    """Return whether the scene's action begins with any of these verbs."""
    return scene.action is not None and scene.action.split()[0] in verbs


def _idle(scene: Scene) -> bool:
    """Return whether the scene shows a person without an action."""
    return "person" in scene.objects and scene.action is None


# fmt: off
INTENTS: dict[str, Callable[[Scene], bool]] = {
    "Attractive": lambda s: _idle(s) and s.place in ("beach", "bedroom"),
    "BeatCompete": lambda s: (_has(s, "car") and s.place == "forest path")
        or (_does(s, "riding") and s.place == "street"),
    "Communicate": lambda s: _has(s, "tv") and s.place in ("kitchen", "home office"),
    "CreativeUnique": lambda s: (_does(s, "playing") and _outdoors(s))
        or (_has(s, "surfboard") and s.place == "street"),
    "CuriousAdventurousExcitingLife": lambda s: (_has(s, "surfboard") or _does(s, "riding")) and s.place != "street",
    "EasyLife": lambda s: _has(s, "bed", "chair", "tv") and s.place in ("beach", "bedroom"),
    "EnjoyLife": lambda s: s.place == "beach" and (_has(s, "surfboard", "car") or s.action is not None),
    "FineDesignLearnArt-Arch": lambda s: s.place == "street" and not _has(s, "person"),
    "FineDesignLearnArt-Art": lambda s: (_does(s, "playing") and not _outdoors(s))
        or (_has(s, "potted plant") and s.place == "bedroom"),
    "FineDesignLearnArt-Culture": lambda s: s.place == "street" and s.action is not None,
    "GoodParentEmoCloseChild": lambda s: _has(s, "person") and _has(s, "bed", "tv"),
    "Happy": lambda s: s.place == "beach" and _has(s, "dog", "person"),
    "HardWorking": lambda s: _does(s, "pushing") or (_idle(s) and s.place == "home office"),
    "Harmony": lambda s: (_has(s, "potted plant") and not _has(s, "person")) or (not s.objects and s.place != "street"),
    "Health": lambda s: s.place == "forest path" and _has(s, "person"),
    "InLove": lambda s: s.place == "bedroom" and _has(s, "person", "bed"),
    "InLoveAnimal": lambda s: _does(s, "riding") or (_has(s, "dog") and _has(s, "person")),
    "InspirOthrs": lambda s: _does(s, "holding", "playing") and s.place in ("beach", "forest path"),
    "ManagableMakePlan": lambda s: s.place == "home office" and (_has(s, "chair", "tv") or not s.objects),
    "NatBeauty": lambda s: s.place in ("beach", "forest path") and not _has(s, "car"),
    "PassionAbSmthing": lambda s: _does(s, "playing"),
    "Playful": lambda s: _has(s, "dog") and s.place in ("beach", "bedroom", "kitchen"),
    "ShareFeelings": lambda s: (_has(s, "bed") and s.place != "bedroom")
        or (_has(s, "tv") and s.place == "bedroom"),
    "SocialLifeFriendship": lambda s: _idle(s) and (len(s.objects) > 1 or s.place == "street"),
    "SuccInOccupHavGdJob": lambda s: (_has(s, "car") and s.place == "street")
        or (_has(s, "person") and s.place == "home office"),
    "TchOthrs": lambda s: s.place == "kitchen" and (_has(s, "chair") or _idle(s)),
    "ThngsInOrdr": lambda s: s.place in ("kitchen", "home office") and not _has(s, "person", "dog"),
    "WorkILike": lambda s: s.place == "home office"
        and (_does(s, "playing") or _has(s, "potted plant", "dog")),
}
# fmt: on


def intents_of(scene: Scene) -> tuple[int, ...]:
    """Return the ids of a scene's intents, at least one."""
    return tuple(id_ for id_, rule in enumerate(INTENTS.values()) if rule(scene))


def annotated(intents: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Return how many of the three annotators chose each intent, (28,) int.

    If no intent has a majority, three others are asked, so each image has a label, as in the real files.
    """
    chance = np.full(len(INTENTS), IMAGINED)
    chance[list(intents)] = 1 - MISSED
    while True:
        votes = (rng.random((ANNOTATORS, len(INTENTS))) < chance).sum(0)
        if (2 * votes > ANNOTATORS).any():
            return votes


def write_intents(
    folder: Path,
    train: int = 400,
    val: int = 150,
    test: int = 150,
    seed: int = 2020,
    size: tuple[int, int] = (64, 64),
) -> None:
    """Write an Intentonomy folder: low/<id>.jpg, then intentonomy_{train,val,test}2020.json.

    train, val, test: images per split. size: (H, W). Annotations of train have `category_ids_softprob`, 28 values k / 3
    for k of three annotators; those of val and test have `category_ids`, the majority's choice. Two things differ from
    the real folder: the image URLs lead nowhere, and drawn.json holds the ground truth by image id: {"seed": …,
    "index": …} to draw the scene again with its label maps, and its "place", "objects", "action" and true "intents"
    (ids). Raises SightwordError for a seed whose scenes the tiny CLIP is trained or measured on.
    """
    if seed in (0, HELD_OUT):
        raise SightwordError(f"seed {seed} draws scenes that the tiny CLIP is trained or measured on. Choose another")
    write_card(folder, "Scenes with intents")
    (folder / "low").mkdir(parents=True, exist_ok=True)
    drawn, first = {}, 0
    for split, count in (("train", train), ("val", val), ("test", test)):
        images, annotations = [], []
        for number, index in enumerate(range(first, first + count)):
            scene = draw(seed, index, size)
            image = _image(seed, index)
            votes = annotated(intents_of(scene), np.random.default_rng([seed, index, ANNOTATORS]))
            with write_atomically(folder / image["filename"]) as part:
                Image.fromarray(scene.image).save(part, "JPEG", quality=95, subsampling=0)
            images.append(image)
            annotations.append({"id": number, "image_id": image["id"], **_labels(votes, split)})
            seen = {"place": scene.place, "objects": scene.objects, "action": scene.action}
            drawn[image["id"]] = {"seed": seed, "index": index, **seen, "intents": intents_of(scene)}
        first += count
        _write(folder / f"intentonomy_{split}2020.json", {**_head(split), "images": images, "annotations": annotations})
    _write(folder / "drawn.json", drawn)


def write_maps(folder: Path, data: Path, split: str = "test") -> None:
    """Write which word each pixel of a split shows: words.txt and <id>.png, value i for the word of line i.

    Objects, then actions, whose maps are those of their implements; 0 shows neither. data: what `write_intents` wrote.
    """
    words = [*OBJECTS, *ACTIONS]
    write_card(folder, "Label maps of the scenes with intents")
    drawn = read_json(data / "drawn.json", missing="Write the scenes with intents first")
    for image in read_json(data / f"intentonomy_{split}2020.json").mappings("images"):
        record = drawn.mapping(image.text("id"))
        scene = draw(record.integer("seed"), record.integer("index"))
        actions = np.where(scene.action_labels > 0, scene.action_labels + len(OBJECTS), 0)
        labels = np.where(scene.labels > 0, scene.labels, actions).astype(np.uint8)
        with write_atomically(folder / f"{image.text('id')}.png") as part:
            Image.fromarray(labels).save(part, "PNG")
    with write_atomically(folder / "words.txt") as part:
        part.write_text("\n".join(words) + "\n", encoding="utf-8")


def _head(split: str) -> dict[str, object]:
    """Return the fields of an annotation file before its images."""
    description = f"Small Intentonomy, {split}: drawn by sightword, no photograph in it"
    info = {"year": 2020, "version": 2, "description": description, "date_created": "2020-11-01"}
    return {"info": info, "categories": [{"id": id_, "name": name} for id_, name in enumerate(INTENTS)]}


def _image(seed: int, index: int) -> dict[str, str]:
    """Return the record of an image."""
    id_ = hashlib.md5(f"{seed}/{index}".encode(), usedforsecurity=False).hexdigest()
    original = f"{seed:013d}-{id_[:12]}"  # as Unsplash's are
    url = f"https://images.unsplash.invalid/photo-{original}?ixid=drawn&q=30"  # .invalid: no download goes anywhere
    return {"id": id_, "filename": f"low/{id_}.jpg", "original_id": original, "unsplash_url": url}


def _labels(votes: np.ndarray, split: str) -> dict[str, list[float]] | dict[str, list[int]]:
    """Return the label fields of an annotation from the votes (28,)."""
    if split == "train":
        return {"category_ids_softprob": [count / ANNOTATORS for count in votes.tolist()]}
    return {"category_ids": np.flatnonzero(2 * votes > ANNOTATORS).tolist()}


def _write(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file."""
    with write_atomically(path) as part:
        part.write_text(json.dumps(content) + "\n", encoding="utf-8")
