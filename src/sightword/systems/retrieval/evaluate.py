"""How well captions find their person's images, and images their captions, on persons that were not trained on.

Legend: E width of the common space; S images of a figure; h, w VQ ids of an image.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader

from sightword.data.content import short_names
from sightword.data.image import to_image, to_tensor
from sightword.engine.contract import SPLITS, Evaluator, Metrics
from sightword.engine.item_result import ItemResults
from sightword.metrics.acceptance import RATE, Acceptance, choose, rates
from sightword.metrics.gather import Mean, gathered
from sightword.metrics.ranking import PROTOCOL, Ranking, both_ways, ranking
from sightword.systems.retrieval import show
from sightword.systems.retrieval.data import Batch, ImageRows, Measured, PedesBatch, TextRows
from sightword.systems.retrieval.gallery import Embedder
from sightword.systems.retrieval.task import RetrievalTask
from sightword.viz import grid as grid_viz
from sightword.viz import overlay

SHOWN = 6  # images of a figure
ACCEPTANCE = {
    "accepted": "% of searches with the person in the gallery whose best score reaches the threshold of validation",
    "false_accepted": "the same, with the person taken out of the gallery",
}
RANKING = ("rank1", "rank5", "rank10", "map", "minp", "chance", "unmatched")


class Rows(NamedTuple):
    """Embeddings of a split, on the CPU."""

    vectors: Tensor  # (N, E) float32
    pids: Tensor  # (N,)
    number: Tensor  # (N,), which of the split

    @classmethod
    def of(cls, vectors: Tensor, batch: ImageRows | TextRows) -> "Rows":
        return cls(vectors.float().cpu(), batch.pids.cpu().clone(), batch.index.cpu().clone())  # the loader's memory


class RetrievalEvaluator(Evaluator[Batch]):
    """Encodes images and captions apart, each once, and ranks each for the other."""

    def __init__(self, task: RetrievalTask) -> None:
        self.task, self.model = task, task.model
        self._measured: tuple[Rows, Rows] | None = None  # images and captions of the last metrics
        self._ranked: tuple[Ranking, Ranking] | None = None  # of captions, of images
        self._reset()

    def _reset(self) -> None:
        self._images: list[Rows] = []
        self._texts: list[Rows] = []
        self._gain = Mean()

    def metric_names(self) -> frozenset[str]:
        gain = {"text_gain"} if self.task.generator is not None else set()
        return frozenset({*RANKING, *(f"i2t_{name}" for name in RANKING), *ACCEPTANCE} | gain)

    def update(self, batch: Batch) -> None:
        if isinstance(batch, ImageRows):
            self.split = batch.split
            self._images.append(Rows.of(self.model.encode_image(batch.images), batch))
        elif isinstance(batch, TextRows):
            self._texts.append(Rows.of(self.model.encode_text(batch.caption_ids, batch.caption_attn_mask), batch))
        elif self.task.generator is not None:
            self._gain.update(self.task.text_gain(batch))

    def compute(self) -> Metrics:
        """Per cent, from captions to images, and i2t_… from images to captions; text_gain in nats per id.

        On validation it chooses the thresholds of `metrics.acceptance`, which are saved with the weights.
        """
        images, texts = gathered(Rows, self._images), gathered(Rows, self._texts)
        gain = self._gain.reduce()
        self._reset()
        found: Metrics = {}
        if images is not None and texts is not None:
            self._measured = images, texts
            self._ranked = (
                ranking(texts.vectors, images.vectors, texts.pids, images.pids),
                ranking(images.vectors, texts.vectors, images.pids, texts.pids),
            )
            found |= both_ways(*self._ranked)
            found |= self._acceptance(images, texts)
        if gain.sum[1]:
            found["text_gain"] = float(gain.value())
        return found

    def _acceptance(self, images: Rows, texts: Rows) -> Metrics:
        rows = texts.vectors, images.vectors, texts.pids, images.pids
        if self.split == "val":
            self.task.acceptance.copy_(torch.stack(list(choose(*rows))))
        measured = rates(Acceptance(*self.task.acceptance.cpu()), *rows)
        if measured is None:
            return {}
        return {"accepted": 100 * measured.right, "false_accepted": 100 * measured.wrong}

    def notes(self) -> dict[str, str]:
        return ACCEPTANCE

    def protocol(self) -> dict[str, str]:
        return {
            **PROTOCOL,
            "embeddings": "each computed without its counterpart",
            "text_gain": "cross-entropy of hidden ids with another person's text less that with the own, nats per id",
            "acceptance": f"the threshold is chosen on validation: {100 * RATE:g} % of captions whose person is taken "
            "out of the gallery reach it; scores are standardised over the gallery, for each caption",
            "split": SPLITS[self.split],
        }

    def images(self, batch: Batch) -> dict[str, Image]:
        """The images that the generator is given, and at which ids their texts help it (red) or mislead it (blue)."""
        if self.task.generator is None or not isinstance(batch, PedesBatch):
            return {}
        some = PedesBatch._make(None if part is None else part[:SHOWN] for part in batch)
        gains, _, there = self.task.gains(some)
        if not there.any():
            return {}
        shown, grid = self.task.generation_view(some)[0][there], self.task.generator.decoder.grid_bias.grid
        maps = gains[there].unflatten(1, grid)  # (S, h, w)
        limit = max(float(maps.abs().max()), 1e-6)
        laid = [overlay.heat_map(cells, to_image(image), limit) for cells, image in zip(maps, shown, strict=True)]
        both = {
            "masked image": shown,
            f"gain by the text, up to {limit:.2g} nats": torch.stack([to_tensor(image) for image in laid]),
        }
        scale = max(1, math.ceil(64 / min(shown.shape[2:])))
        side = {title: grid_viz.grid(images, SHOWN, scale=scale) for title, images in both.items()}
        return {"text_gain": grid_viz.titled(side)}

    def items(self, loader: DataLoader[Batch]) -> ItemResults | None:
        """The ranks of captions and of images, each as a query; a person's are one cluster.

        A query without a match has rank 0. Ids are image names, with the number of the caption: a.png/0.
        """
        if self._measured is None or self._ranked is None or not isinstance(loader.dataset, Measured):
            return None
        split, persons = loader.dataset.split, [str(pid) for rows in self._measured[::-1] for pid in rows.pids.tolist()]
        images = short_names(split.images)
        captions = [f"{images[row]}/{number}" for row, number in zip(*_numbered(split.caption_image), strict=True)]
        arrays = {
            "rank_of_first": np.concatenate([each.first for each in self._ranked]).astype(np.int32),
            "ap": np.concatenate([each.precision for each in self._ranked]),
            "inp": np.concatenate([each.penalty for each in self._ranked]),
            "is_image": np.repeat([False, True], [len(captions), len(images)]),
        }
        return ItemResults.of("people", [*captions, *images], persons, arrays)

    def draw(self, loader: DataLoader[Batch], folder: Path) -> list[Path]:
        """Captions with their best images, and what one changed word does to a score, as `sightword probe` has them."""
        if self._measured is None or not isinstance(loader.dataset, Measured):
            return []
        images, texts = self._measured
        embedder = Embedder(self.model, "this run")
        return show.draw(embedder.encode_text, loader.dataset.split, texts.vectors, images.vectors, folder)


def _numbered(groups: np.ndarray) -> tuple[list[int], list[int]]:
    """The group of each element, and which of its group it is, from 0."""
    counts = dict.fromkeys(groups.tolist(), 0)
    numbers = []
    for group in groups.tolist():
        numbers.append(counts[group])
        counts[group] += 1
    return groups.tolist(), numbers
