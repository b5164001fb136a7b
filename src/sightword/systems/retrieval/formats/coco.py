"""Captions of COCO: one file, images[{id, file_name}] and annotations[{image_id, caption}], five for an image."""

from pathlib import Path

from sightword.errors import SightwordError
from sightword.storage.fields import Fields
from sightword.systems.retrieval.formats.pair import Pair, Pairs


def read_coco(file: Path, content: Fields) -> Pairs:
    """Return the images, in the file's order, with their captions.

    Raises SightwordError for another of COCO's files, as that of boxes, which has no captions.
    """
    names: dict[int | str, str] = {}
    for image in content.mappings("images"):
        names[_id(image, "id")] = image.text("file_name")
    texts: dict[int | str, list[str]] = {number: [] for number in names}
    problems = []
    for number, note in enumerate(content.mappings("annotations", least=1)):
        if "caption" not in note:
            if not number:
                raise SightwordError(
                    f"{file} is no file of captions: its annotations have {', '.join(note)}. Pass captions_….json"
                )
            problems.append(note.error("has no caption"))
            continue
        image_id = _id(note, "image_id")
        if image_id not in texts:
            problems.append(note.error(f"{image_id} is the id of no image", "image_id"))
            continue
        texts[image_id].append(note.text("caption"))
    pairs = [Pair(name, texts[id_], f"images[{number}]: ") for number, (id_, name) in enumerate(names.items())]
    return Pairs(file, pairs, "COCO's captions, each image another person", problems)


def _id(entry: Fields, name: str) -> int | str:
    return entry.text(name) if isinstance(entry.value(name), str) else entry.integer(name)
