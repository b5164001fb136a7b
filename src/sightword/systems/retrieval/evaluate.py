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
from sightword.metrics.ranking import PROTOCOL, Ranking, best, both_ways, ranking
from sightword.systems.retrieval import show
from sightword.systems.retrieval.config import HIDE_WAYS
from sightword.systems.retrieval.data import Batch, ImageRows, Measured, PedesBatch, TextRows, generated_rows
from sightword.systems.retrieval.gallery import Embedder
from sightword.systems.retrieval.task import RetrievalTask
from sightword.viz import grid as grid_viz
from sightword.viz import overlay

SHOWN = 6  # images of a figure
ACCEPTANCE = {
    "accepted": "% of searches with the person in the gallery whose best score reaches the threshold of validation",
    "false_accepted": "the same, with the person taken out of the gallery",
}
TRUTH = {
    "rank1_ceiling": "Rank-1 of a reader that makes no mistake: it finds the people of whom all is true that a caption "
    "mentions, and takes one of their images at random; from attributes.json beside the annotations",
    "rank1_family": "% of captions whose best image shows the person or one of their family, who are nearly alike; "
    "families are those of attributes.json",
}
RANKING = ("rank1", "rank5", "rank10", "map", "minp", "chance", "unmatched")


class Rows(NamedTuple):
    """Embeddings of a split, on the CPU."""

    vectors: Tensor  # (N, E) float32
    pids: Tensor  # (N,)
    number: Tensor  # (N,), which of the split
    truth: Tensor  # (N,) float64, an image's family or a caption's ceiling; NaN if unknown

    @classmethod
    def of(cls, vectors: Tensor, batch: ImageRows | TextRows) -> "Rows":
        known = batch.families if isinstance(batch, ImageRows) else batch.ceiling
        truth = torch.full((len(vectors),), math.nan, dtype=torch.float64)
        if known is not None:
            truth = known.double().cpu()
        return cls(vectors.float().cpu(), batch.pids.cpu().clone(), batch.index.cpu().clone(), truth)  # no loader's own


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
        self._gains = {way: Mean() for way in ("", *HIDE_WAYS)}

    def metric_names(self) -> frozenset[str]:
        ways = self._gains if self.task.generator is not None else ()
        gains = {f"text_gain_{way}".rstrip("_") for way in ways}
        return frozenset({*RANKING, *(f"i2t_{name}" for name in RANKING), *ACCEPTANCE, *TRUTH} | gains)

    def update(self, batch: Batch) -> None:
        if isinstance(batch, ImageRows):
            self.split = batch.split
            self._images.append(Rows.of(self.model.encode_image(batch.images), batch))
        elif isinstance(batch, TextRows):
            self._texts.append(Rows.of(self.model.encode_text(batch.caption_ids, batch.caption_attn_mask), batch))
        elif self.task.generator is not None:
            gains = self.task.text_gain(batch)
            self._gains[""].update(gains)
            if batch.hide_way is not None:
                self._gains[HIDE_WAYS[int(batch.hide_way[0])]].update(gains)

    def compute(self) -> Metrics:
        """Per cent, from captions to images, and i2t_… from images to captions; text_gain in nats per id: over all
        ways to hide cells, and for each.

        On validation it chooses the thresholds of `metrics.acceptance`, which are saved with the weights.
        """
        images, texts = gathered(Rows, self._images), gathered(Rows, self._texts)
        gains = {way: gain.reduce() for way, gain in self._gains.items()}
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
            found |= _with_truth(images, texts)
        return found | {
            f"text_gain_{way}".rstrip("_"): float(gain.value()) for way, gain in gains.items() if gain.sum[1]
        }

    def _acceptance(self, images: Rows, texts: Rows) -> Metrics:
        rows = texts.vectors, images.vectors, texts.pids, images.pids
        if self.split == "val":
            self.task.acceptance.copy_(torch.stack(list(choose(*rows))))
        measured = rates(Acceptance(*self.task.acceptance.cpu()), *rows)
        if measured is None:
            return {}
        return {"accepted": 100 * measured.right, "false_accepted": 100 * measured.wrong}

    def notes(self) -> dict[str, str]:
        return ACCEPTANCE | TRUTH

    def protocol(self) -> dict[str, str]:
        return {
            **PROTOCOL,
            "embeddings": "each computed without its counterpart",
            "text_gain": "cross-entropy of hidden ids with another person's text less that with the own, nats per id, "
            "over all ways to hide cells and for each: random, a band of rows, the person, all but one cell",
            "truth": "rank1_ceiling: the more the captions omit, the lower; known of drawn people only",
            "acceptance": f"the threshold is chosen on validation: {100 * RATE:g} % of captions whose person is taken "
            "out of the gallery reach it; scores are standardised over the gallery, for each caption",
            "split": SPLITS[self.split],
        }

    def images(self, batch: Batch) -> dict[str, Image]:
        """The images that the generator is given, and at which ids their texts help it (red) or mislead it (blue)."""
        if self.task.generator is None or not isinstance(batch, PedesBatch):
            return {}
        some = PedesBatch._make(None if part is None else part[:SHOWN] for part in generated_rows(batch))
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


def _with_truth(images: Rows, texts: Rows) -> Metrics:
    """Return the ceiling of Rank-1 and the right-family share, in per cent, if both are known."""
    if images.truth.isnan().any() or texts.truth.isnan().any():
        return {}
    families = dict(zip(images.pids.tolist(), images.truth.tolist(), strict=True))
    nearest = best(texts.vectors, images.vectors, 1)[1][:, 0]  # (C,)
    own = torch.tensor([families.get(pid, math.nan) for pid in texts.pids.tolist()], dtype=torch.float64)
    right = (images.truth[nearest] == own).double()
    return {"rank1_ceiling": 100 * float(texts.truth.mean()), "rank1_family": 100 * float(right.mean())}
