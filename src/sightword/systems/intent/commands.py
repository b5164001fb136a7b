"""The commands of the system `intent`. Nothing heavy is imported before one is executed."""

from pathlib import Path
from typing import TYPE_CHECKING

from sightword.errors import SightwordError

if TYPE_CHECKING:
    from sightword.data.finding import CheckReport
    from sightword.systems.intent.anchors import Anchors, Recipe


def anchors(
    tower: str,
    out: str,
    tag: str = "",
    expand: str = "noise",
    noise: float = 0.1,
    seed: int = 0,
    sizes: str = "",
    extra: str = "",
    streams: str = "",
    vocabulary: str = "",
    batch_size: int = 256,
) -> None:
    """Write codebooks of text embeddings: CLIP's vectors of the names of things, places, emotions, styles and actions.

    tower: vit_h14 (dimension 1024), vit_l14, vit_b16, siglip_b16 …, an open_clip model with tag=, or a folder.
    out: the folder to write, or a file that ends in .pth.
    expand: how a class gets several codes. noise: copies moved by noise= times the vector's length (0.1); synonyms: its
    own words; templates: several wordings; none: one code per class. Emotions always get one code per word.
    seed: of the noise, and of which classes get the codes that do not divide evenly.
    sizes: other numbers of codes, coco:256,places:512,emotion:128,ava:256,actions:256.
    extra: more names, actions:surfing,actions:riding wave. streams: only these, coco,places.
    vocabulary: JSON files that add streams, in the format that systems/intent/vocabulary.py describes; or a folder of
    such files, which replaces the built-in vocabularies unless streams= names them.
    """
    pairs = _pairs("extra", extra)
    numbers = {stream: _number("sizes", stream, value) for stream, value in _pairs("sizes", sizes)}
    if batch_size < 1:
        raise SightwordError(f"batch_size={batch_size} is too small. Pass at least 1")
    names = {stream: [name for other, name in pairs if other == stream] for stream, _ in pairs}

    from sightword.systems.intent.anchors import Recipe
    from sightword.systems.intent.vocabulary import chosen_vocabularies

    chosen, files = chosen_vocabularies(vocabulary, _listed(streams))
    _write_anchors(Recipe(tower, tag, chosen, files, names, numbers, expand, noise, seed, batch_size), out)


def _write_anchors(recipe: "Recipe", out: str) -> None:
    """Write anchors, and print what they are and what to type next."""
    from sightword.systems.intent.anchors import write_anchors

    made, file, notes = write_anchors(recipe, out)
    for note in notes:
        print(f"note: {note}")
    print(_table(made))
    print(f"every prompt's nearest code is of its own class; written to {file}, with names in {file.stem}.safetensors")
    tagged = f" tag={recipe.tag}" if recipe.tag else ""
    print(f"next: sightword cache tower={recipe.tower}{tagged} images=… token_type=value,joint out=cache/tokens")
    print(f"then: sightword ids anchors={file} tokens=cache/tokens out=cache/ids")


def ids(
    anchors: str,
    tokens: str,
    out: str,
    token_type: str = "",
    streams: str = "",
    shard_size: int = 256,
    engine: str = "inline",
    workers: int = 0,
    gpus: float = 0,
) -> None:
    """Look up the nearest code of every patch of every cached image: 2 bytes per patch and stream, for stage 1.

    anchors: what `sightword anchors` wrote. tokens: what `sightword cache` wrote. out: the folder to write.
    token_type: of a stream's tokens, if not the default: coco:joint,places:value. streams: only these.
    engine: inline (also under torchrun), or ray with so many workers, each with a share of so many gpus.
    """
    from sightword.systems.intent.anchors import Anchors
    from sightword.systems.intent.config import TOKEN_TYPES
    from sightword.systems.intent.ids import write_ids

    read = Anchors.read(anchors)
    chosen = {name: read[name].codes for name in _listed(streams) or read.books}
    types = {**dict.fromkeys(chosen, "joint"), **TOKEN_TYPES, **dict(_pairs("token_type", token_type))}
    folder = Path(out).expanduser()
    kept = write_ids(Path(tokens).expanduser(), chosen, types, folder, shard_size, engine, workers, gpus)
    print(f"{len(kept)} images in {folder}: {', '.join(f'{name} by {types[name]} tokens' for name in chosen)}")
    print(f"next: sightword train experiment=intent/stage1 system.semantic_anchors_path={anchors} data.ids={folder}")


def show(model: str, image: str = "", out: str = "show", checkpoint: str = "best") -> None:
    """Explain a model: the words of an image's patches, and what each of them adds to each intent.

    model: a run directory, or what `sightword export` wrote. image: a file; without one only the table of the whole
    model is drawn: what every word adds to every intent. out: the folder of figures, each with its values as JSON.
    """
    from sightword.engine.run import load_predictor
    from sightword.systems.intent import show as figures
    from sightword.systems.intent.predict import IntentClassifier

    classifier, folder = load_predictor(IntentClassifier, model, checkpoint), Path(out).expanduser()
    files = figures.write_table(classifier.codebooks(), folder)
    if image:
        explanation = classifier([image])[0].explanation
        assert explanation is not None
        files += figures.write_explanation(explanation, folder)
    for file in files:
        print(file)


def check_intentonomy(root: str, images: str = "") -> "CheckReport":
    """Intentonomy's three files and every image that they name. images: the folder with low/<id>.jpg; root if empty."""
    from sightword.systems.intent import intentonomy

    return intentonomy.check_intentonomy(root, images)


def _table(made: "Anchors") -> str:
    rows = [("stream", "classes", "codes", "dimension")]
    rows += [
        (stream, str(len(set(book.class_ids))), str(len(book.codes)), str(made.dim))
        for stream, book in made.books.items()
    ]
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"  {row[0]:<{width}}" + "".join(f"{cell:>11}" for cell in row[1:]) for row in rows)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pairs(key: str, text: str) -> list[tuple[str, str]]:
    """ "coco:256,places:512" as pairs."""
    pairs = []
    for part in _listed(text):
        stream, colon, value = part.partition(":")
        if not colon or not value.strip():
            raise SightwordError(f"{key}={text}: {part!r} is not stream:value")
        pairs.append((stream.strip(), value.strip()))
    return pairs


def _number(key: str, stream: str, value: str) -> int:
    if not value.isdecimal():
        raise SightwordError(f"{key}={stream}:{value} is not a whole number. Pass, for example, {key}={stream}:256")
    return int(value)
