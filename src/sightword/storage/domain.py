"""The domain of data and of weights: `drawn` is what `sightword mini` draws, and what was trained on it.

    <dataset>/README.md        a card, whose front matter says `domain: drawn`; it holds for every folder below
    open_clip_config.json, config.json of an encoder or an exported model     "domain": "drawn"
    <run>/domain.json          of a training that began with such weights, or read such data

Everything else has no domain. Weights of a drawn domain say so where they are used on other data.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from sightword.errors import SightwordError
from sightword.storage.atomic import write_atomically
from sightword.storage.reader import read_json
from sightword.storage.writer import write_json

DRAWN = "drawn"
CARD, RECORD = "README.md", "domain.json"
CONFIGS = (RECORD, "open_clip_config.json", "config.json")
FRONT = f"---\ndomain: {DRAWN}\n---\n"
MOST = 4096  # bytes of a card that are read


def write_card(folder: Path, title: str) -> None:
    """Write the card of a drawn dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "Written by `sightword mini`: drawn, not recorded. A model that is trained on it says so on other data.\n"
    with write_atomically(folder / CARD) as part:
        part.write_text(f"{FRONT}\n# {title}\n\n{text}", encoding="utf-8")


def is_drawn(path: str | Path) -> bool:
    """Return whether a file or folder is of a drawn dataset: there, or in a folder above, is its card."""
    place = Path(path).expanduser().resolve()
    return any(_is_card(folder / CARD) for folder in (place, *place.parents))


def _is_card(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            start = opened.read(MOST).replace(b"\r\n", b"\n")
    except OSError:
        return False
    front = start.split(b"\n---", 1)[0] if start.startswith(b"---\n") else b""
    return f"domain: {DRAWN}".encode() in front.splitlines()


def domain_of_weights(folder: str | Path) -> str:
    """Return the domain that the folder of an encoder, an exported model or a run states; empty for any other name."""
    place = Path(folder).expanduser()
    for name in CONFIGS:
        if (place / name).is_file():
            try:
                found = read_json(place / name, nan=True)
                return found.text("domain", "")
            except SightwordError:
                return ""  # whoever opens it says what is wrong
    return ""


def record_domain(folder: Path, weights: Iterable[str], data: Iterable[str]) -> None:
    """Write domain.json to a run directory if its weights began with drawn ones, or its data are drawn."""
    drawn = [name for name in weights if name and domain_of_weights(name) == DRAWN]
    drawn += [path for path in data if path and is_drawn(path)]
    if drawn:
        write_json(folder / RECORD, {"domain": DRAWN, "by": drawn})


def foreign(sources: Iterable[str | Path | None]) -> bool:
    """Return whether one of these is not known to be drawn. None: something without a path."""
    return any(source is None or not is_drawn(source) for source in sources)


def say_domain(weights: str | Path, data: str | Path) -> None:
    """Say on stderr that an encoder of a drawn domain, if it is one, is used on other data."""
    if domain_of_weights(weights) == DRAWN and foreign([data]):
        print(warning(str(weights)), file=sys.stderr)


def warning(name: str) -> str:
    """Return what weights of a drawn domain say on other data. name: of the model."""
    return f"warning: {name} was trained on drawn images (sightword mini); its answers on photographs mean nothing"
