"""Make a calibration: cosines of words with cached patch tokens, and presence from some labelled images.

Legend: B images; K words of a stream; D dimension of the joint space.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sightword.data.image import read_image
from sightword.errors import SightwordError
from sightword.ops.nearest import unit
from sightword.storage import shards
from sightword.storage.cache import digest
from sightword.systems.intent.anchors import Anchors
from sightword.systems.intent.calibration import (
    POOLED,
    Calibration,
    Moments,
    Presence,
    Sums,
    described,
    fit_presence,
    word_anchors,
)
from sightword.systems.intent.concept import Concepts, read_concepts
from sightword.towers.token_cache import Source, TokenCache

LEAST, MOST = 10, 400  # labelled images: below, a curve is a guess; more hardly change it
CHUNK = 64  # images whose tokens are read together


@dataclass(frozen=True)
class Request:
    """What to calibrate on."""

    anchors: Path
    tokens: Path
    labels: Path | None = None  # labels of words; None: presence is not calibrated
    images: Path | None = None  # the folder of the labelled images; None: it is looked for
    tower: str = ""  # encodes labelled images that are not in `tokens`; empty: the one of the anchors
    tag: str = ""


class Calibrated(NamedTuple):
    """A calibration, and what was assumed when it was made."""

    calibration: Calibration
    notes: list[str]


def calibrate(request: Request, keys: Sequence[str] = ()) -> Calibrated:
    """Return the calibration of all streams for every token type of a cache.

    keys: content keys of the unlabelled images, such as those of the training split; none: all that are cached.
    Raises SightwordError if the tokens are of another dimension, or the labelled images of another encoder.
    """
    read = Anchors.read(request.anchors)
    anchors, cache = word_anchors(read), TokenCache(request.tokens)
    cache.refuse_earlier()
    chosen = sorted(set(keys) or cache.keys())
    kinds = _kinds(cache, anchors)
    moments = _moments(cache, anchors, kinds, chosen)
    words = {stream: tuple(book.names) for stream, book in anchors.books.items()}
    notes, curves, labelled = (
        [f"{len(chosen)} unlabelled images of {request.tokens}"],
        dict[str, Presence](),
        list[str](),
    )
    if request.labels is not None:
        concepts = read_concepts(request.labels, request.images).some(MOST)
        pooled, labelled = _pooled_of(concepts, cache, request, anchors)
        curves, told = _curves(concepts, pooled, anchors, {name: kinds_[POOLED] for name, kinds_ in moments.items()})
        notes += [concepts.how, *told]
    header = cache.header
    meta = described(header["weights"], header["preprocessing"], read, chosen, labelled)
    meta |= {"tower_name": read.tower, "unlabelled": str(request.tokens), "labels": str(request.labels or "")}
    return Calibrated(Calibration(moments, curves, words, meta), notes)


def _kinds(cache: TokenCache, anchors: Anchors) -> list[str]:
    """Return the token types in the joint space, and "pooled"."""
    shapes = cache.header["shapes"]
    if POOLED not in shapes:
        raise SightwordError(
            f"{cache.out} has {', '.join(shapes)} and no pooled vectors: it is no cache of tokens. Write one with: "
            "sightword cache tower=… images=… token_type=value,joint out=…"
        )
    if shapes[POOLED][-1] != anchors.dim:
        raise SightwordError(
            f"the tokens of {cache.out} have dimension {shapes[POOLED][-1]}, the anchors {anchors.dim}: "
            "they are of two encoders. Write anchors and tokens with the same tower="
        )
    return [kind for kind, shape in shapes.items() if shape[-1] == anchors.dim and kind != "post"]


def _moments(
    cache: TokenCache, anchors: Anchors, kinds: Sequence[str], keys: Sequence[str]
) -> dict[str, dict[str, Moments]]:
    """Return stream → token type or "pooled" → moments over the images of these keys."""
    if len(keys) < 2:
        raise SightwordError(f"{cache.out} has {len(keys)} images to calibrate on. Cache more: {cache.again()}")
    streams = list(anchors.books)
    device = shards.device()
    every = torch.cat([anchors[stream].codes for stream in streams]).to(device)  # (ΣK, D)
    sums = {kind: Sums(every) for kind in kinds}
    with tqdm(total=len(keys), desc="calibrating", unit=" images", disable=None) as bar:
        for rows in _chunks(cache, keys, kinds):
            for kind, tokens in rows.items():
                sums[kind].add(tokens.to(device))
            bar.update(len(rows[POOLED]))
    names = _names(anchors)
    sizes = [len(anchors[stream].codes) for stream in streams]
    found: dict[str, dict[str, Moments]] = {stream: {} for stream in streams}
    for kind, total in sums.items():
        whole = total.moments(names, "the pooled vectors" if kind == POOLED else f"{kind} tokens")
        for stream, mean, std in zip(streams, whole.mean.split(sizes), whole.std.split(sizes), strict=True):
            found[stream][kind] = Moments(mean, std)
    return found


def _chunks(cache: TokenCache, keys: Sequence[str], kinds: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(keys), CHUNK):
        some = keys[start : start + CHUNK]
        rows = [cache.rows.segment_of(key) for key in some]
        yield {
            kind: torch.from_numpy(
                np.stack([part.get(key, kind) for part, key in zip(rows, some, strict=True)])
            ).float()
            for kind in kinds
        }


def _curves(
    concepts: Concepts, pooled: Tensor, anchors: Anchors, moments: dict[str, Moments]
) -> tuple[dict[str, Presence], list[str]]:
    """Return stream → curves, and notes on the labels. pooled: (B, D)."""
    table = concepts.table({stream: book.names for stream, book in anchors.books.items()})
    z = torch.cat([moments[s].z(unit(pooled.float()) @ book.codes.T) for s, book in anchors.books.items()], 1)
    whole = fit_presence(z, table.targets, table.known)
    sizes = [len(book.codes) for book in anchors.books.values()]
    split = zip(anchors.books, whole.slope.split(sizes), whole.middle.split(sizes), strict=True)
    notes = [f"{len(pooled)} labelled images; {int(table.known.sum())} of {sum(sizes)} words have labels"]
    if not bool(table.known.all()):
        notes.append(f"{int((~table.known).sum())} words without labels share one curve with all others")
    if never := [
        n for n, seen, k in zip(_names(anchors), table.targets.sum(0), table.known, strict=True) if k and not seen
    ]:
        notes.append(f"{len(never)} words are in none of the labelled images: {', '.join(never[:6])}")
    if table.unused:
        notes.append(f"{len(table.unused)} labels are no word of the anchors: {', '.join(table.unused[:6])}")
    if len(pooled) < LEAST:
        notes.append(f"{len(pooled)} labelled images are few: 25 to 50 are recommended")
    return {stream: Presence(slope, middle) for stream, slope, middle in split}, notes


def _names(anchors: Anchors) -> list[str]:
    return [name for book in anchors.books.values() for name in book.names]


def _pooled_of(concepts: Concepts, cache: TokenCache, request: Request, anchors: Anchors) -> tuple[Tensor, list[str]]:
    """Return the pooled vectors (B, D) of labelled images, and their content keys; encodes those not cached."""
    from sightword.storage.segments import content_key

    keys = [content_key(file) for file in concepts.files]
    there = cache.keys()
    rows = {key: torch.from_numpy(cache.rows.get(key, POOLED)).float() for key in keys if key in there}
    if len(rows) < len(set(keys)):
        todo = {key: file for key, file in zip(keys, concepts.files, strict=True) if key not in rows}
        rows |= zip(todo, _encoded(list(todo.values()), cache, request, anchors), strict=True)
    return torch.stack([rows[key] for key in keys]), keys


@torch.no_grad()
def _encoded(files: Sequence[Path], cache: TokenCache, request: Request, anchors: Anchors) -> Tensor:
    """Return pooled vectors (B, D) of files by the encoder that made the tokens."""
    name = request.tower or anchors.tower
    if not name:
        raise SightwordError(f"{anchors.source} does not say which encoder made it. Pass tower=, to encode {files[0]}")
    tag = request.tag or ("" if request.tower else str(anchors.meta.get("tag", "")))
    tower = Source(name, {"tag": tag}).open().to(shards.device())
    if (weights := digest(tower.state_dict())) != cache.header["weights"]:
        raise SightwordError(
            f"{name} has the weights {weights}, the tokens of {cache.out} are of {cache.header['weights']}. Pass the "
            "tower= (and tag=) that made the tokens"
        )
    found = []
    for start in tqdm(range(0, len(files), 32), "encoding labelled images", disable=None):
        pictures = [tower.preprocess(read_image(file)) for file in files[start : start + 32]]
        found.append(tower(torch.stack(pictures).to(tower.device)).pooled.float().cpu())
    return torch.cat(found)


def write_calibration(request: Request, out: Path, keys: Sequence[str] = ()) -> Calibrated:
    """Calibrate and write the file.

    Raises SightwordError if there is another program's file, or one with labels and these are without.
    """
    if out.exists() and Calibration.read(out).labelled and request.labels is None:  # one of others is an error
        raise SightwordError(f"{out} was made with labels, which would be lost. Pass labels=, or another out=")
    made = calibrate(request, keys)
    made.calibration.write(out)
    return made._replace(calibration=replace(made.calibration, source=str(out)))
