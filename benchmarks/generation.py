"""Retrieval in the sizes of the published networks (SigLIP-B/16, T5-base encoder, random weights), 384×128 pixels.

What phase 4 costs: a step of training beside phase 3's, and its encoders beside phase 3's, which must be as fast. And
what it saves to read captions in buckets of their length, beside padding all to the longest.
"""

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import at_least, at_most, cpu_ms, publish
from torch import Tensor

from sightword.miniature import person, tower
from sightword.systems.retrieval.config import RetrievalConfig
from sightword.systems.retrieval.data import PedesBatch
from sightword.systems.retrieval.task import RetrievalTask, make_task

BATCH, SIZE, GRID, CODES = 4, [384, 128], [24, 8], 16384
CAPTIONS = 64


def towers(root: Path) -> dict[str, str]:
    """Folders in the libraries' formats, of the published sizes."""
    from transformers import SiglipConfig, SiglipModel, T5Config, T5EncoderModel

    words = [" ".join(person.vocabulary())]
    tower.write_siglip(root / "siglip", words)
    tower.write_t5(root / "t5", words)
    sizes = {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12}
    SiglipModel(SiglipConfig()).save_pretrained(root / "siglip")
    T5EncoderModel(T5Config(vocab_size=32128, feed_forward_proj="gated-gelu", **sizes)).save_pretrained(root / "t5")
    return {"siglip": str(root / "siglip"), "t5": str(root / "t5")}


def captions(count: int) -> list[str]:
    drawn = person.pictures(person.Sizes(count, 0, 0), 1, 1, 0, (24, 8))
    return [picture.captions[0] for picture in drawn]


def task_of(names: dict[str, str], generates: bool) -> RetrievalTask:
    shared: dict[str, Any] = {"shared": True, "project": "shared", "image_size": SIZE, "text_length": 77}
    return make_task(
        RetrievalConfig(**names, **shared, enable_gen=generates, num_codes=CODES, vq_grid=GRID, gen_ramp=0)
    )


def batch_of(task: RetrievalTask) -> PedesBatch:
    generator = torch.Generator().manual_seed(0)
    ids, mask = task.model.tokenizer(captions(BATCH), truncate=True)
    images = torch.rand(BATCH, 3, *SIZE, generator=generator) * 2 - 1
    cells = GRID[0] * GRID[1]
    hidden = torch.rand(BATCH, cells, generator=generator) < 0.5
    vq_ids = torch.randint(0, CODES, (BATCH, cells), generator=generator)
    number = torch.arange(BATCH)
    return PedesBatch(images, number, ids, mask, number, None, None, images, vq_ids, hidden)


def step(task: RetrievalTask, batch: PedesBatch) -> None:
    task.zero_grad()
    task.total(task.losses(batch)).backward()


def costs(names: dict[str, str]) -> list[dict[str, Any]]:
    """Both phases in turn, so that what else the machine does falls on both."""
    tasks = [task_of(names, generates) for generates in (False, True)]
    batches = [batch_of(task) for task in tasks]
    works: dict[str, tuple[int, Callable[[RetrievalTask, PedesBatch], object]]] = {
        "a step of training": (3, step),
        "an image embedded": (7, lambda task, batch: task.model.encode_image(batch.images)),
        "a caption embedded": (15, lambda task, batch: task.model.encode_text(batch.caption_ids)),
    }
    rows = []
    for what, (repeats, work) in works.items():
        training = work is step
        pairs = []
        for _ in range(repeats + 1):
            with torch.inference_mode(not training):
                calls = [partial(work, task.train(training), batch) for task, batch in zip(tasks, batches, strict=True)]
                pairs.append([cpu_ms(call, 1, False) / BATCH for call in calls])
        three, four = (statistics.median(times) for times in zip(*pairs[1:], strict=True))
        aim = {"target": "", "met": ""} if training else at_most(100 * (four / three - 1), 5)
        rows.append({"what": what, "phase 3 ms": three, "phase 4 ms": four, "more %": 100 * (four / three - 1), **aim})
    return rows


def buckets(names: dict[str, str]) -> list[dict[str, Any]]:
    task = task_of(names, False).eval()
    texts = captions(CAPTIONS)
    ordered = sorted(texts, key=lambda text: len(text.split()))

    def read(several: list[str], length: int = 0) -> Tensor:
        vectors = []
        for start in range(0, len(several), 16):
            ids, mask = task.model.tokenizer(several[start : start + 16], truncate=True)
            if length:
                more = (0, length - ids.shape[1])
                ids, mask = (torch.nn.functional.pad(each, more, value=0) for each in (ids, mask))
            vectors.append(task.model.encode_text(ids, mask))
        return torch.cat(vectors)

    with torch.inference_mode():
        apart = float((read(ordered, 77) - read(ordered)).abs().max())
        padded, bucketed = cpu_ms(lambda: read(texts, 77), 3), cpu_ms(lambda: read(ordered), 3)
    row = {
        "captions": CAPTIONS,
        "all padded to 77, ms": padded,
        "in buckets, ms": bucketed,
        "largest difference": apart,
    }
    return [row | {"padded / buckets": padded / bucketed, **at_least(padded / bucketed, 1.2)}]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as root:
        names = towers(Path(root))
        tables = {"What the generator costs, CPU time a pair": costs(names), "Captions by length": buckets(names)}
    publish("generation", tables, ["torch", "transformers"])
