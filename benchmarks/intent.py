"""Reading intents: five codebooks looked up at once, an epoch of stage 1 from ids, and what lies on the disk.

Peer of the look-up: five quantisers in the document's way, each of which normalises the tokens, multiplies, takes the
argmax and multiplies its one-hot row with the codebook again. Peer of the epoch: the same epoch from the photos. Two
towers stand for a user's: the tiny CLIP of the small world (64², one layer), far cheaper than any, and a ViT-B/16 of
random weights, a ninth of a ViT-H/14. The loop's own work (Lightning, logs, checkpoints) is left out of
both sides. Ids cost one pass of the tower over all photos, once: no epoch's figure has it.
"""

import json
import math
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from measure import at_least, at_most, publish
from PIL import Image
from torch import Tensor
from towers import OpenTower, in_turns, tower

from sightword.miniature import scene
from sightword.miniature.clip import tiny_clip
from sightword.systems.intent.anchors import Anchors, Book, generate_semantic_anchors
from sightword.systems.intent.config import TOKEN_TYPES, IntentConfig, IntentData
from sightword.systems.intent.data import Inputs, make_loaders
from sightword.systems.intent.ids import write_ids
from sightword.systems.intent.intentonomy import CLASSES
from sightword.systems.intent.loss import asymmetric_loss
from sightword.systems.intent.model import MultiStream
from sightword.systems.intent.task import make_task
from sightword.towers.factory import text_tower
from sightword.towers.frozen import FrozenModel
from sightword.towers.preprocess import Preprocess
from sightword.towers.token_cache import Source, cache_tokens

SIZES = {"coco": 256, "places": 512, "emotion": 128, "ava": 256, "actions": 256}
PHOTOS, PATCHES, WIDTH = 14_455, 256, 1024  # Intentonomy's, a ViT-H/14's

# ------------------------------------------------------------------------------------------------------- the look-up


def random_codes(width: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: F.normalize(torch.randn(k, width, generator=generator), dim=1) for name, k in SIZES.items()}


class OneHot:
    """A quantiser as papers have it: tokens x (B, N, D) and codes (K, D), through a matrix of zeros and ones."""

    def __init__(self, codes: Tensor) -> None:
        self.codes = codes

    def ids(self, x: Tensor) -> Tensor:
        """(B·N,)"""
        return self._look(x)[2]

    def __call__(self, x: Tensor, loss: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """ids (B·N,), codes (B, N, D), 2 − 2cos or 0."""
        flat, codes, ids = self._look(x)
        found = F.one_hot(ids, len(codes)).to(x.dtype) @ codes
        return ids, found.view_as(x), (flat - found).square().sum(1).mean() if loss else x.new_zeros(())

    def _look(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat, codes = F.normalize(x.flatten(0, 1), dim=1), F.normalize(self.codes, dim=1)
        return flat, codes, (flat @ codes.T).argmax(1)


@torch.no_grad()
def look_up() -> list[dict[str, Any]]:
    """All in turns, so that the same moments of a busy machine are everybody's.

    In a fresh process, as the peer's many (B, N, D) tensors then cost the page faults that a user has: after other
    work glibc keeps such memory, and the peer was seen to take 1.6 times ours and not 2.2 to 2.4.
    """
    codes, x = random_codes(WIDTH), torch.randn(16, PATCHES, WIDTH, generator=torch.Generator().manual_seed(1))
    model, tokens = MultiStream(codes, center=False).eval(), dict.fromkeys(SIZES, x)
    peers = [OneHot(book) for book in codes.values()]
    flat, stack, out = x.flatten(0, 1), torch.cat(list(codes.values())).T.contiguous(), torch.empty(4096, 1408)

    def fuse() -> Tensor:
        ids = model.nearest(tokens)
        return model.classify({name: model.pool(name, model.count(name, ids[name])) for name in SIZES})[2]

    def fuse_one_hot(loss: bool) -> tuple[list[Tensor], Tensor, Tensor]:
        ids, each, losses = zip(*(peer(x, loss) for peer in peers), strict=True)
        return list(ids), sum(each[1:], each[0]).mean(1), torch.stack(losses).sum()

    read, (ids, fused, loss) = model(tokens), fuse_one_hot(loss=True)
    assert all(torch.equal(read.ids[name].flatten(), theirs) for name, theirs in zip(SIZES, ids, strict=True))
    torch.testing.assert_close((read.fused, read.commitment), (fused, loss), rtol=1e-4, atol=1e-6)
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "ids": (lambda: model.nearest(tokens), lambda: [peer.ids(x) for peer in peers]),
        "ids, mean of the summed codes": (fuse, lambda: fuse_one_hot(loss=False)),
        "ids, mean of the summed codes, commitment (the model's forward)": (
            lambda: model(tokens),
            lambda: fuse_one_hot(loss=True),
        ),
        "ids, codes of every patch, commitment (SemanticSpatialVQ, one by one)": (
            lambda: [model.book(name)(x).ids for name in SIZES],
            lambda: [peer(x)[0] for peer in peers],
        ),
    }
    calls = [call for pair in pairs.values() for call in pair]
    times = in_turns(*calls, lambda: torch.mm(flat, stack, out=out), rounds=9)
    *took, product = (statistics.median(column) for column in zip(*times, strict=True))
    rows = []
    for number, (name, ms, peer) in enumerate(zip(pairs, took[::2], took[1::2], strict=True)):
        row = {"what": name, "CPU ms": ms, "five one-hot ms": peer, "product alone ms": product, "ids": "equal"}
        row |= {"product / ours": product / ms, "one-hot / ours": peer / ms}
        rows.append(row | (at_least(peer / ms, 2) if number in (1, 2) else {"target": "", "met": ""}))
    return rows


# --------------------------------------------------------------------------------------------------------- the epoch


class Case(NamedTuple):
    """A tower and photos for it."""

    name: str
    source: Source
    size: int  # of the tower's images
    anchors: Anchors
    photos: Callable[[int], Image.Image]
    count: int
    batch: int
    rounds: int
    real: bool  # whether its tower is one that people use


def small_world() -> Case:
    """The tiny CLIP and the words that it knows."""
    folder = tiny_clip()
    text, words = text_tower(folder).freeze(), {"coco": scene.OBJECTS, "places": scene.PLACES}
    with tempfile.TemporaryDirectory() as beside:
        files = []
        for stream, names in words.items():
            files.append(Path(beside) / f"{stream}.json")
            told = {"stream": stream, "size": 3 * len(names), "templates": {"word": ["a photo of a {}"]}}
            files[-1].write_text(json.dumps(told | {"classes": list(names)}))
        anchors = generate_semantic_anchors(text, list(words), files)
    photos = lambda number: Image.fromarray(scene.draw(77, number).image)  # noqa: E731
    return Case("tiny CLIP, scenes of 64²", Source(str(folder), {}), 64, anchors, photos, 256, 64, 5, real=False)


def vit_b16() -> Case:
    """Photos as people have them: 640 × 480, JPEG."""
    books = {}
    for name, codes in random_codes(512).items():
        words = [f"{name} {number}" for number in range(len(codes))]
        books[name] = Book(codes, words, list(range(len(codes))), [0] * len(codes), words)
    torch.manual_seed(0)
    photos = lambda number: Image.effect_noise((640, 480), 60 + number).convert("RGB")  # noqa: E731
    return Case("ViT-B/16, photos of 640 × 480", OpenTower(tower()), 224, Anchors(books), photos, 16, 16, 2, real=True)


class World:
    """A case's photos in Intentonomy's form, its anchors and its caches."""

    def __init__(self, case: Case, root: Path) -> None:
        self.case, self.root = case, root
        case.anchors.write(root / "anchors")
        (root / "low").mkdir()
        files = [f"low/{number:032x}.jpg" for number in range(case.count)]
        for number, file in enumerate(files):
            case.photos(number).save(root / file, quality=90)
        said = np.random.default_rng(0).random((len(files), len(CLASSES))) < 0.07
        content: dict[str, Any] = {"categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES)]}
        content["images"] = [{"id": Path(file).stem, "filename": file} for file in files]
        shares = [{"category_ids_softprob": row.astype(float).tolist()} for row in said]
        labels = [{"category_ids": np.flatnonzero(row).tolist()} for row in said]
        for split, of_each in (("train", shares), ("val", labels)):
            notes = [{"id": n, "image_id": Path(file).stem, **of_each[n]} for n, file in enumerate(files)]
            told = json.dumps({"info": {}} | content | {"annotations": notes})
            (root / f"intentonomy_{split}2020.json").write_text(told)

    def ids(self, disk: str) -> Path:
        """The ids of tokens that were kept in this precision."""
        tokens, ids = self.root / f"tokens_{disk}", self.root / f"ids_{disk}"
        token_types = {name: TOKEN_TYPES[name] for name in self.case.anchors.books}
        cache_tokens(self.case.source, self.root, tokens, sorted(set(token_types.values())), disk=disk)
        write_ids(tokens, self.case.anchors.tensors(), token_types, ids)
        return ids

    def training(self, ids: Path | None = None) -> Callable[[], float]:
        """An epoch of stage 1 from photos or ids, and the next at each call: the mean of its losses."""
        size = self.case.size
        data = IntentData(root=str(self.root), batch_size=self.case.batch, num_workers=0)
        data.ids = str(ids or "")
        torch.manual_seed(0)
        task = make_task(IntentConfig(semantic_anchors_path=str(self.root / "anchors"))).train()
        task.tower = FrozenModel(self.case.source.open)
        optimizer = torch.optim.AdamW(task.model.head.parameters(), 1e-2)
        return partial(
            epoch,
            make_loaders(data, Inputs(preprocess=lambda: Preprocess((size, size)))).train,
            lambda b: task.total(task.losses(b)),
            optimizer,
        )

    def bare(self) -> Callable[[], float]:
        """The limit: the head alone, on a matrix of features that is there."""
        features, targets = torch.randn(self.case.count, self.case.anchors.dim), torch.zeros(self.case.count, 28)
        head = torch.nn.Linear(self.case.anchors.dim, 28)
        optimizer = torch.optim.AdamW(head.parameters(), 1e-2)
        rows = torch.arange(self.case.count).split(self.case.batch)
        return partial(epoch, rows, lambda some: asymmetric_loss(head(features[some]), targets[some]), optimizer)


def epoch(batches: Iterable[Any], loss_of: Callable[[Any], Tensor], optimizer: torch.optim.Optimizer) -> float:
    losses = []
    for batch in batches:
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return statistics.mean(losses)


def epochs(case: Case, root: Path) -> list[dict[str, Any]]:
    """From ids beside the photos, in turns; ids of tokens in half precision, as they are kept, and in full.

    Half precision moves a patch here and there to a word that is as near. In full the loss is the same.
    """
    world = World(case, root)
    by_photos, bare = world.training(), world.bare()
    by_ids = {disk: world.training(world.ids(disk)) for disk in ("float16", "float32")}
    loss, losses = by_photos(), {disk: call() for disk, call in by_ids.items()}
    calls = [by_photos, *(partial(repeat, call, 10) for call in (bare, *by_ids.values()))]
    times = zip(*in_turns(*calls, rounds=case.rounds), strict=True)
    photos_ms, *tenfold = (statistics.median(column) / case.count for column in times)
    bare_ms, *ids_ms = (ms / 10 for ms in tenfold)
    rows = []
    for disk, ms in zip(by_ids, ids_ms, strict=True):
        faster, off = photos_ms / ms, abs(losses[disk] / loss - 1)
        row = {"tower": case.name, "images × streams": f"{case.count} × {len(case.anchors.books)}", "tokens": disk}
        row |= {"photos, CPU ms an image": photos_ms, "ids": ms, "bare head": bare_ms, "times faster": faster}
        row |= {"with the bare head": photos_ms / bare_ms, "loss by photos": loss, "loss off by": f"{off:.1g}"}
        speed, equal = not case.real or faster >= 100, disk == "float16" or off < 1e-6
        target = [*(["≥ 100"] if case.real else []), *(["equal loss"] if disk == "float32" else [])]
        rows.append(row | {"target": ", ".join(target), "met": speed and equal if target else ""})
    return rows


def repeat(call: Callable[[], object], count: int) -> None:
    for _ in range(count):
        call()


# ---------------------------------------------------------------------------------------------------------- the disk


def sizes(root: Path) -> list[dict[str, Any]]:
    """An image's files beside its shapes, measured with a ViT-B/16; all of Intentonomy with a ViT-H/14."""
    with_vit_h14 = {
        "tokens": {"value": (PATCHES, WIDTH), "joint": (PATCHES, WIDTH), "pooled": (WIDTH,)},
        "ids": {"ids": (len(SIZES), PATCHES)},
    }
    rows = []
    for name, shapes in with_vit_h14.items():
        (header,) = (root / f"{name}_float16").rglob("header.json")
        there = json.loads(header.read_text())
        found = sum(file.stat().st_size for file in header.parent.glob("*.safetensors")) / there["items"]
        row = {"kept": f"{name}: {', '.join(shapes)}", "bytes an image": found, "by shapes": two_bytes(there["shapes"])}
        rows.append(
            row
            | {
                "ratio": found / row["by shapes"],
                **of_intentonomy(two_bytes(shapes)),
                **at_most(found / row["by shapes"], 1.1),
            }
        )
    row = {"kept": "tokens of one type alone", "bytes an image": "", "by shapes": "", "ratio": ""}
    return [*rows, row | {**of_intentonomy(2 * PATCHES * WIDTH), "target": "", "met": ""}]


def two_bytes(shapes: Mapping[str, Sequence[int]]) -> int:
    """float16 and uint16 alike."""
    return sum(2 * math.prod(shape) for shape in shapes.values())


def of_intentonomy(count: int) -> dict[str, Any]:
    return {"with ViT-H/14, by shapes": count, f"{PHOTOS} photos": size(count * PHOTOS)}


def size(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def main() -> None:
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as large:
        tables = {
            "16 × 256 tokens of 1024 against five codebooks, 1408 codes in all, one thread": look_up(),
            "An epoch of stage 1": [*epochs(vit_b16(), Path(large)), *epochs(small_world(), Path(small))],
            "On the disk": sizes(Path(large)),
        }
    publish("intent", tables, ["torch", "open_clip_torch"])


if __name__ == "__main__":
    main()
