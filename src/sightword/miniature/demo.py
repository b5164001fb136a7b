"""The demo of the synthetic data: scenes, and the word of each patch as predicted by a CLIP trained on them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sightword.miniature import contents
from sightword.miniature.clip import measure
from sightword.miniature.scene import ACTIONS, HELD_OUT, OBJECTS, PLACES, Scene, draw
from sightword.towers.clip.encoder import CLIP
from sightword.towers.prompt import class_embeddings
from sightword.viz import grid, overlay
from sightword.viz.page import Figure, Section, Train

SHOWN, SIDE = ("beach", "bedroom", "street"), 232  # places of the scenes shown, and their side in pixels


def section(out: Path, train: Train) -> Section:
    """Write the synthetic datasets, train their CLIP unless this machine has done so, and classify patches with it."""
    contents.write_all(out)
    clip = CLIP.load(out / "towers" / "clip")
    return Section(
        title="synthetic data: patches aligned with words",
        lead=(
            f"Most demos on this page use synthetic data, such as scenes of {len(PLACES)} places, {len(OBJECTS)} kinds "
            f"of objects and {len(ACTIONS)} actions of people. A small CLIP, trained on such scenes and their "
            "captions, classifies each patch of a new scene; its training had no labels of patches."
        ),
        figures=[
            Figure(patch_figure(clip, scene), f"The scene's caption, which the model did not get: {scene.caption}.")
            for scene in _scenes()
        ],
        metrics=_metrics(measure(clip)),
        commands=[
            ("Write the datasets and encoders to a folder of your own:", "sightword mini out=mini"),
            (
                "Cache the patch tokens of a folder of images; tower=vit_b16 takes a published CLIP:",
                f"sightword cache tower={out}/towers/clip images={out}/scenes/images out=cache/scenes token_type=value",
            ),
        ],
        page_note=(
            f"Measured on 600 held-out scenes. {out} contains {len(contents.PARTS)} datasets and encoders in published "
            "formats. The CLIP is trained once per machine, in about a minute."
        ),
    )


def _metrics(found: Mapping[str, float]) -> dict[str, tuple[str, str]]:
    """Return what `measure` found as the page shows it."""
    percent = {name: f"{100 * value:.0f} %" for name, value in found.items()}
    return {
        "place": (percent["place"], f"accuracy over {len(PLACES)} places, whole image"),
        "object": (percent["object"], f"accuracy over {len(OBJECTS)} kinds, scenes with one object"),
        "action": (percent["action"], f"accuracy over {len(ACTIONS)} actions, scenes with one"),
        "object of a patch": (
            percent["object/value"],
            f"accuracy by “value” tokens, patches that an object covers ({percent['object/joint']} by “joint” tokens)",
        ),
        "place of a patch": (
            percent["place/joint"],
            f"accuracy by “joint” tokens, patches without object ({percent['place/value']} by “value” tokens)",
        ),
    }


def _scenes() -> list[Scene]:
    """Return the first held-out scene of each place shown that has two objects and no action."""
    found: dict[str, Scene] = {}
    for number in range(200):
        scene = draw(HELD_OUT, number)
        if scene.place in SHOWN and len(scene.objects) == 2 and scene.action is None:
            found.setdefault(scene.place, scene)
    return [found[place] for place in SHOWN]


class PatchWords(NamedTuple):
    """The predicted words of an image's patches, each (h, w)."""

    things: Tensor  # indices into OBJECTS
    is_thing: Tensor  # 1 where the object's score exceeds that of every place, else 0
    places: Tensor  # indices into PLACES


@torch.no_grad()
def patch_words(clip: CLIP, scene: Scene) -> PatchWords:
    """Predict the object of each patch from “value” tokens, and its place from “joint” tokens.

    The score of a word is its cosine with the patch plus its cosine with the whole image.
    """
    found = clip.image.token_types(clip.image.preprocess.batch([Image.fromarray(scene.image)]), ("value", "joint"))

    def scores(token_type: str, words: Iterable[str]) -> Tensor:
        embeddings = class_embeddings(clip.text, list(words)).T  # (E, K)
        tokens, pooled, _ = found[token_type]
        return (F.normalize(tokens[0], dim=-1) + F.normalize(pooled, dim=-1)) @ embeddings  # (N, K)

    thing, place = scores("value", OBJECTS), scores("joint", PLACES)
    is_thing = (thing.amax(-1) > place.amax(-1)).float()
    return PatchWords(*(x.view(clip.image.grid()) for x in (thing.argmax(-1), is_thing, place.argmax(-1))))


def patch_figure(clip: CLIP, scene: Scene) -> Image.Image:
    """Draw a scene, its label map, the predicted object of each patch and the predicted place of each patch."""
    things, is_thing, places = patch_words(clip, scene)
    large = Image.fromarray(scene.image).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    objects, labelled = ["place", *OBJECTS], torch.from_numpy(scene.labels > 0)
    panels = [
        overlay.areas(scene.labels, objects, labelled),
        overlay.areas(things, list(OBJECTS), is_thing),
        overlay.areas(places, list(PLACES)),
    ]
    colours = overlay.shared_colours(panels, top=2)
    return grid.titled(
        {
            "new scene": large,
            "label map": overlay.class_map(scene.labels, objects, large, labelled, colours, opacity=1),
            "predicted object": overlay.class_map(things, list(OBJECTS), large, is_thing, colours, opacity=0.9),
            "predicted place": overlay.class_map(places, list(PLACES), large, colours=colours),
        }
    )
