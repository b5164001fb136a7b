"""Searches of a resident model: requests that wait together are encoded together, beside one at a time.

A tiny SigLIP and T5 with random weights, 200 pictures, clients that each send their next request after an answer. The
HTTP side is left out: a request that computes nothing costs 0.2 ms of CPU.
"""

import asyncio
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import at_least, publish

from sightword.miniature import person, tower
from sightword.serve.batch import Worker
from sightword.serve.gallery import OpenGallery
from sightword.serve.retrieval import RetrievalService, SearchJob
from sightword.serve.setting import Limits, Sources
from sightword.systems.retrieval.config import RetrievalConfig
from sightword.systems.retrieval.predict import PersonRetriever
from sightword.systems.retrieval.task import make_task

SECONDS, IMAGES, CLIENTS = 3.0, 200, (1, 8, 32)
TEXT = "a woman in a red coat with a white handbag"


def service(root: Path) -> RetrievalService:
    words = [" ".join(person.vocabulary())]
    tower.write_siglip(root / "siglip", words)
    tower.write_t5(root / "t5", words)
    config = RetrievalConfig(
        siglip=str(root / "siglip"), t5=str(root / "t5"), shared=True, project="shared", image_size=[96, 32]
    )
    made = RetrievalService(PersonRetriever.from_task(make_task(config)), Sources(), Limits())
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 96, 32, 3), dtype=np.uint8)
    made.galleries["people"] = OpenGallery(made.predictor.index(pixels), None)
    return made


async def load(made: RetrievalService, clients: int, batch: int) -> dict[str, float]:
    """Requests a second, latencies in milliseconds and CPU milliseconds a request."""
    sizes: Counter[int] = Counter()
    worker = Worker("search", 256, batch, 60.0, lambda size: sizes.update([size]))
    took: list[float] = []
    began, used = time.perf_counter(), time.process_time()

    async def client() -> None:
        while (start := time.perf_counter()) < began + SECONDS:
            await worker.submit(made.search, SearchJob(TEXT, "people", 10, False, False))
            took.append(time.perf_counter() - start)

    await asyncio.gather(*(client() for _ in range(clients)))
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    worker.stop()
    p50, p99 = (1000 * float(value) for value in np.quantile(took, (0.5, 0.99)))
    mean = sizes.total() and sum(size * count for size, count in sizes.items()) / sizes.total()
    return {"a second": len(took) / wall, "p50 ms": p50, "p99 ms": p99, "CPU ms": 1000 * cpu / len(took), "batch": mean}


def rows() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        made = service(Path(folder))
        made.search([SearchJob(TEXT, "people", 10, False, False)])
        for clients in CLIENTS:
            alone, together = (asyncio.run(load(made, clients, batch)) for batch in (1, 32))
            gain = alone["CPU ms"] / together["CPU ms"]
            aim = at_least(gain, 1.5) if clients > 1 else {"target": "", "met": ""}
            found.append({"clients": clients, "batching": "no", **alone, "CPU saved ×": 1.0, "target": "", "met": ""})
            found.append({"clients": clients, "batching": "yes", **together, "CPU saved ×": gain, **aim})
    return found


if __name__ == "__main__":
    publish("serve", {"Searches of a resident model": rows()}, ["torch", "numpy"])
