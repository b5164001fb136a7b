"""The small world's part of the demo: scenes, and what each of their patches is in the words of a CLIP trained here."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sightword.miniature import contents
from sightword.miniature.clip import measure
from sightword.miniature.scene import ACTIONS, HELD_OUT, OBJECTS, PLACES, Scene, draw
from sightword.towers.clip.encoder import CLIP
from sightword.towers.prompt import word_vectors
from sightword.viz import grid, overlay
from sightword.viz.page import Figure, Section, Train

SHOWN, SIDE = ("beach", "bedroom", "street"), 232  # places, and how large their scenes are drawn


def section(out: Path, train: Train) -> Section:
    """Write the small world, train its CLIP if this machine has not, and ask its patches."""
    parts = contents.write_all(out)
    clip = CLIP.load(out / "towers" / "clip")
    found = measure(clip)
    percent = {name: f"{100 * value:.0f} %" for name, value in found.items()}
    return Section(
        title="the small world: patches that know their words",
        lead=(
            f"Everything on this page runs on small worlds drawn here. This one has {len(PLACES)} places and "
            f"{len(OBJECTS)} things, and people in {len(ACTIONS)} actions. A CLIP, trained on the spot on such scenes "
            "and sentences about them, is asked which word each patch of a new scene is nearest to; nobody ever told "
            "it where anything is."
        ),
        figures=[Figure(picture(clip, scene), f"“{scene.caption}”, which it was not told.") for scene in _scenes()],
        measures={
            "place": (percent["place"], f"of new scenes are given the right one of {len(PLACES)} places"),
            "thing": (percent["object"], f"of new scenes with one thing, the right one of {len(OBJECTS)}"),
            "action": (
                percent["action"],
                f"of new scenes in which a person does something, the right one of {len(ACTIONS)}",
            ),
            "patch, thing": (
                percent["object/value"],
                f"of the patches that a thing covers, named right by their “value” tokens ({percent['object/joint']} "
                "by their “joint” ones)",
            ),
            "patch, place": (
                percent["place/joint"],
                f"of the patches without a thing, by their “joint” tokens ({percent['place/value']} by “value”)",
            ),
        },
        commands=[
            ("Write the small world and its towers to a folder of your own:", "sightword mini out=mini"),
            (
                "Keep the tokens of a folder of images; with vit_b16 instead of the folder, a published CLIP's:",
                f"sightword cache tower={out}/towers/clip images={out}/scenes/images out=cache/scenes token_type=value",
            ),
        ],
        page_note=(
            f"Measured on 600 scenes that it was not trained on. {out} has {len(parts)} folders in the real libraries' "
            "formats; the CLIP is trained once, in a minute, and kept."
        ),
    )


def _scenes() -> list[Scene]:
    """The first held-out scene of each place shown that has two things, and nobody who does something with a third."""
    found: dict[str, Scene] = {}
    for number in range(200):
        scene = draw(HELD_OUT, number)
        if scene.place in SHOWN and len(scene.objects) == 2 and scene.action is None:
            found.setdefault(scene.place, scene)
    return [found[place] for place in SHOWN]


@torch.no_grad()
def picture(clip: CLIP, scene: Scene) -> Image.Image:
    """A scene, what is where, and two streams of words: each patch's thing, read from its “value” token, and its place,
    from its “joint” token. A word counts for a patch by its cosine with the patch and with the whole picture, added;
    the thing of a patch is drawn where it counts for more than any place.
    """
    image = Image.fromarray(scene.image)
    found = clip.image.forms(clip.image.preprocess.batch([image]), ("value", "joint"))

    def count(form: str, words: Iterable[str]) -> Tensor:
        vectors = word_vectors(clip.text, list(words)).T  # (E, K)
        tokens, pooled, _ = found[form]
        return (F.normalize(tokens[0], dim=-1) + F.normalize(pooled, dim=-1)) @ vectors  # (N, K)

    thing, place = count("value", OBJECTS), count("joint", PLACES)
    is_thing = (thing.amax(-1) > place.amax(-1)).float()
    things, places, is_thing = (x.view(clip.image.grid()) for x in (thing.argmax(-1), place.argmax(-1), is_thing))

    large = image.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    own = np.array([(255, 255, 255), *(thing.colour for thing in OBJECTS.values())], np.uint8)
    of_places = np.array([place.colour for place in PLACES.values()], np.uint8)
    truth = overlay.class_map(scene.labels, ["the place", *OBJECTS], large, scene.labels > 0, own, top=4, opacity=1)
    return grid.titled(
        {
            "a new scene": large,
            "what is where": truth,
            "patches: the thing": overlay.class_map(things, list(OBJECTS), large, is_thing, own[1:], 4, 0.9),
            "patches: the place": overlay.class_map(places, list(PLACES), large, colours=of_places, top=4),
        }
    )
