"""What is served if no model is given: what `sightword demo` trained, and the data that it wrote."""

from dataclasses import replace
from pathlib import Path

from sightword.errors import SightwordError
from sightword.serve.setting import Sources

MODELS = ("intent/runs/pairs", "retrieval/run", "tokenizer/model", "skeleton/run", "points/run")


def models_of_demo(folder: Path) -> tuple[str, ...]:
    """Return the models of the demo. Raises SightwordError if there is none."""
    found = [folder / name for name in MODELS if (folder / name).is_dir()]
    if not found:
        raise SightwordError(
            f"there are no models to serve: {folder} does not exist. Pass models=, with commas, or run: sightword demo"
        )
    return tuple(map(str, found))


def sources_of_demo(folder: Path, given: Sources) -> Sources:
    """Return the data of the demo in place of what was not given."""
    drawn = folder / "miniature"
    photos = {
        "intent": _there(drawn / "intentonomy" / "low"),
        "tokenizer": _there(folder / "tokenizer" / "photos" / "held_out"),
    }
    people = drawn / "people" / "RSTPReid" / "imgs"  # 200 pictures, none of the run's training
    clips, texts = drawn / "motion" / "annotations.pkl", drawn / "motion" / "unseen.json"
    own = Sources(
        images=given.images or photos,
        gallery=given.gallery or _there(people),
        clips=given.clips or (clips if clips.is_file() else None),
        scenes=given.scenes or _there(drawn / "rooms"),
    )
    return replace(own, texts=texts if texts.is_file() else None)


def _there(folder: Path) -> tuple[Path, ...]:
    return (folder,) if folder.is_dir() else ()
