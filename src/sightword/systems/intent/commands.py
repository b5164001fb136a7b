"""The commands only the reading of intents has. Nothing heavy is imported before one runs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightword.data.check import Report
    from sightword.systems.intent.anchors import Anchors


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
    """Write codebooks whose codes are words: what a CLIP's text side makes of things, places, feelings, styles, acts.

    tower: vit_h14 (1024 wide, as document 000 has it), vit_l14, vit_b16, siglip_b16 …, an open_clip model with tag=, or
    a folder. out: the folder to write, or a file that ends in .pth.
    expand: how a class gets several codes. noise: copies turned by so much (noise=0.1 of the vector's length);
    synonyms: its own words; templates: several wordings; none: one code a class. Emotions always go by their words.
    seed: of the noise, and of which classes get the codes that do not divide evenly.
    sizes: other numbers of codes, coco:256,places:512,emotion:128,ava:256,actions:256.
    extra: more names, actions:surfing,actions:riding wave. streams: only these, coco,places.
    vocabulary: JSON files with more streams, in the form that systems/intent/vocabulary.py describes; or a folder of
    such files, whose streams then are all, unless streams says more.
    """
    pairs = _pairs("extra", extra)
    numbers = {stream: _number("sizes", stream, value) for stream, value in _pairs("sizes", sizes)}
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, got {batch_size}")

    import warnings

    from sightword.storage import shards
    from sightword.systems.intent.anchors import generate_semantic_anchors, plan
    from sightword.systems.intent.vocabulary import read_folder
    from sightword.towers.factory import text_tower

    chosen, files = _listed(streams), _listed(vocabulary)
    if len(files) == 1 and Path(files[0]).is_dir():
        given = read_folder(files[0])
        chosen, files = chosen or list(given), [str(file) for file in given.values()]
    names = {stream: [name for other, name in pairs if other == stream] for stream, _ in pairs}
    plan(chosen, files, names, numbers, expand, noise)  # says a mistake before a tower is fetched
    text = text_tower(tower, tag=tag).freeze().to(shards.device())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        made = generate_semantic_anchors(
            text, chosen, files, names, numbers, expand, noise, seed, tag=tag, batch_size=batch_size
        )
    if wrong := made.check(text, batch_size):
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"nothing is written, codes do not stand for their words: {'; '.join(wrong[:3])}{more}")
    file = made.write(out)
    for line in caught:
        if line.category is UserWarning:
            print(f"note: {line.message}")
    print(_table(made))
    print(f"every code is the nearest to its own words; written to {file}, with names in {file.stem}.safetensors")
    tagged = f" tag={tag}" if tag else ""
    print(f"next: sightword cache tower={tower}{tagged} images=… tokens=value,joint out=cache/tokens")
    print(f"then: sightword codes anchors={file} tokens=cache/tokens out=cache/codes")


def codes(
    anchors: str,
    tokens: str,
    out: str,
    token_types: str = "",
    streams: str = "",
    shard_size: int = 256,
    engine: str = "inline",
    workers: int = 0,
    gpus: float = 0,
) -> None:
    """Find the word of every patch of every cached image: what stage 1 trains on, 2 bytes a patch and stream.

    anchors: the file that `sightword anchors` wrote. tokens: the cache that `sightword cache` wrote. out: the codes.
    forms: which tokens a stream reads, where it is not the config's usual: coco:joint,places:value. streams: only some.
    engine: inline (also under torchrun), or ray with so many workers, each with a share of so many gpus.
    """
    from pathlib import Path

    from sightword.systems.intent.anchors import Anchors
    from sightword.systems.intent.codes import write_codes
    from sightword.systems.intent.config import TOKEN_TYPES

    read = Anchors.read(anchors)
    chosen = {name: read[name].codes for name in _listed(streams) or read.books}
    told = {**dict.fromkeys(chosen, "joint"), **TOKEN_TYPES, **dict(_pairs("forms", token_types))}
    folder = Path(out).expanduser()
    kept = write_codes(Path(tokens).expanduser(), chosen, told, folder, shard_size, engine, workers, gpus)
    print(f"{len(kept)} images in {folder}: {', '.join(f'{name} by {told[name]} tokens' for name in chosen)}")
    print(f"next: sightword train experiment=intent/stage1 system.semantic_anchors_path={anchors} data.codes={folder}")


def show(run: str, image: str = "", out: str = "show", checkpoint: str = "best") -> None:
    """Look inside a run: the words of a picture's patches, and what each adds to each intent.

    run: a run's folder, or what `sightword export` wrote. image: a picture; without one only the table of the whole
    model is drawn, what every word adds to every intent. out: the folder of pictures, each with its numbers as JSON.
    """
    from pathlib import Path

    from sightword.data.image import read_image
    from sightword.systems.intent.show import write
    from sightword.systems.intent.task import MultiStreamTask, read_exported

    folder = Path(run).expanduser()
    if (folder / "config.yaml").is_file():
        from sightword.engine.run import restore

        task = restore(folder, checkpoint)[0]
    else:
        task = read_exported(folder)
    if not isinstance(task, MultiStreamTask):
        raise ValueError(f"{run} has no words to show: it is a {type(task).__name__}; give a run of stage1 or stage2")
    for file in write(task, Path(out).expanduser(), read_image(Path(image).expanduser()) if image else None):
        print(file)


def check_intentonomy(root: str, images: str = "") -> "Report":
    """Intentonomy's three files and every image they name. images: the folder with low/<id>.jpg; root if empty."""
    from sightword.systems.intent import intentonomy

    return intentonomy.check_intentonomy(root, images)


def _table(made: "Anchors") -> str:
    rows = [("stream", "classes", "codes", "width")]
    rows += [
        (stream, str(len(set(book.class_ids))), str(len(book.codes)), str(made.dim))
        for stream, book in made.books.items()
    ]
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"  {row[0]:<{width}}" + "".join(f"{cell:>9}" for cell in row[1:]) for row in rows)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pairs(key: str, text: str) -> list[tuple[str, str]]:
    """ "coco:256,places:512" as pairs."""
    pairs = []
    for part in _listed(text):
        stream, colon, value = part.partition(":")
        if not colon or not value.strip():
            raise ValueError(f"{key}={text}: {part!r} is not stream:value")
        pairs.append((stream.strip(), value.strip()))
    return pairs


def _number(key: str, stream: str, value: str) -> int:
    if not value.isdecimal():
        raise ValueError(f"{key}={stream}:{value}: a whole number is wanted")
    return int(value)


COMMANDS: list[Callable[..., Any]] = [anchors, codes, show]
CHECKS: dict[str, Callable[..., Any]] = {"intentonomy": check_intentonomy}
