"""The objective of reading intents, its measures and its pictures.

stage 1: total = asl_loss;  stage 2: + commitment_weight·vq_loss + semantic_consistency_weight·consistency_loss

Legend: B batch; N patches; D width; E pooled width; K codes; S streams; C classes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import Parameter

from sightword import metrics
from sightword.atomic import write_atomically
from sightword.checkpoint import load_strictly, read_weights
from sightword.systems.intent.anchors import Anchors
from sightword.systems.intent.codes import anchors_digest
from sightword.systems.intent.config import STREAMS, System
from sightword.systems.intent.data import IntentBatch
from sightword.systems.intent.intentonomy import CLASSES, SUBSETS
from sightword.systems.intent.loss import asymmetric_loss, consistency_loss
from sightword.systems.intent.model import Baseline, MultiStream, Read
from sightword.task import Task
from sightword.towers.tower import ImageTower

CONFIG, WEIGHTS, ANCHORS = "config.json", "model.safetensors", "semantic_anchors.pth"


def make_task(system: System) -> "Reading":
    """The task that a config describes."""
    task = _make(system)
    task.system = asdict(system)
    return task


def read_exported(folder: str | Path) -> "Reading":
    """What `export` wrote, in eval mode."""
    folder = Path(folder).expanduser()
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        system = System(**values | {"semantic_anchors_path": str(folder / ANCHORS)})
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} has no {CONFIG}; sightword export run=… out={folder} writes it") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged, or of another version: {error}") from error
    task = make_task(system)
    load_strictly(task, read_weights(folder / WEIGHTS), folder / WEIGHTS)
    return task.eval()


def _make(system: System) -> "Reading":
    asl = (system.gamma_neg, system.gamma_pos, system.clip)
    tower = LazyTower(system.tower, system.tag)
    if system.model == "baseline":
        return BaselineReading(Baseline(system.embed_dim, system.embed_dim, hidden=system.hidden), tower, asl)
    anchors = Anchors.read(system.semantic_anchors_path)
    streams = system.streams or list(anchors.books)
    model = MultiStream(
        {name: anchors[name].codes for name in streams},
        len(CLASSES),
        system.fusion,
        system.center,
        system.standardise,
        system.freeze_codebook,
        system.adapter,
    )
    forms = {name: system.tokens.get(name, "joint") for name in streams}
    weights = {"vq_loss": system.commitment_weight, "consistency_loss": system.semantic_consistency_weight}
    return WordReading(model, forms, anchors, tower, asl, weights)


class LazyTower:
    """A frozen tower, opened when pictures come and kept out of the checkpoint: it is its own file."""

    def __init__(self, name: str, tag: str = "") -> None:
        self.name, self.tag = name, tag
        self._open: ImageTower | None = None

    def __call__(self, device: torch.device) -> ImageTower:
        if self._open is None:
            from sightword.towers import image_tower

            self._open = image_tower(self.name, tag=self.tag).freeze()
        return self._open.to(device)

    @torch.no_grad()
    def see(self, images: Tensor, forms: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """Images (B, 3, H, W) in [-1, 1] to (form → tokens (B, N, D), pooled (B, E))."""
        tower = self(images.device)
        found = tower.forms(tower.preprocess.normalise(images), forms)
        return {form: encoded.tokens for form, encoded in found.items()}, next(iter(found.values())).pooled


class Reading(Task):
    """What both models share: the asymmetric loss and the measures of many labels."""

    model: nn.Module
    system: dict[str, Any]  # what it was made of
    threshold: Tensor  # () of the last validation, for splits that have none of their own

    def __init__(
        self, model: nn.Module, tower: LazyTower, asl: tuple[float, float, float], weights: Mapping[str, float]
    ):
        super().__init__(weights)
        self.model, self.tower, self.asl = model, tower, asl
        self.register_buffer("threshold", torch.tensor(0.5))
        self.decisions = metrics.Decisions()
        self.missing, self.skipped = 0, 0

    def logits(self, batch: IntentBatch) -> Tensor:
        """(B, C)"""
        raise NotImplementedError

    def losses(self, batch: IntentBatch) -> dict[str, Tensor]:
        return {"asl_loss": asymmetric_loss(self.logits(batch), batch.targets, *self.asl)}

    @torch.no_grad()
    def evaluate(self, batch: IntentBatch) -> None:
        self.missing, self.skipped = batch.missing, self.skipped + batch.skipped
        if len(batch.targets):
            self.decisions.update(self.logits(batch).float().sigmoid(), batch.targets > 0)

    def measures(self) -> dict[str, float]:
        """F1 at the one threshold that is best for macro F1 on these images, AP without any, and what is trivial."""
        gathered, skipped = self.decisions.reduce(), self.skipped
        self.decisions, self.skipped = metrics.Decisions(), 0
        scores, targets = gathered.scores, gathered.targets
        threshold = metrics.best_threshold(scores, targets)
        self.threshold.fill_(threshold)
        values = measures_at(scores, targets, threshold) | {"threshold": threshold}
        values["all_ones_macro_f1"] = float(metrics.f1(torch.ones_like(targets), targets))
        return values | {name: float(n) for name, n in (("missing", self.missing), ("skipped", skipped)) if n}

    def protocol(self) -> dict[str, Any]:
        return {
            "threshold": "of 0.05, 0.10 … 0.95 the first with the best macro F1 on the validation images; score > t",
            "f1": "as sklearn: a class, or an image, with neither label nor prediction counts 0",
            "map": "step average precision (sklearn's); map_voc: interpolated at all points, as papers have it",
            "subsets": {name: [CLASSES[number] for number in ids] for name, ids in SUBSETS.items()},
            "threshold_found": float(self.threshold),
        }

    def export(self, folder: Path) -> None:
        """The weights without the tower's, and what `read_exported` makes the task of."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        with write_atomically(folder / WEIGHTS) as part:
            save_file({name: value for name, value in weights.items() if isinstance(value, Tensor)}, part)
        with write_atomically(folder / CONFIG) as part:
            part.write_text(json.dumps(self.system, indent=2) + "\n", encoding="utf-8")

    def _seen(self, batch: IntentBatch, forms: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """(form → tokens (B, N, D), pooled (B, E)) of a batch, from the cache or by the tower."""
        if batch.images is not None:
            return self.tower.see(batch.images, forms)
        if batch.tokens is None or batch.pooled is None:
            raise ValueError(f"{type(self).__name__} needs tokens: set data.cache, and leave data.codes empty")
        if lacking := [form for form in forms if form not in batch.tokens]:
            raise ValueError(
                f"the cache has {', '.join(batch.tokens)} tokens and not {', '.join(lacking)}: sightword cache "
                f"tokens={','.join(forms)} writes one that has"
            )
        return {form: batch.tokens[form].float() for form in forms}, batch.pooled.float()


def measures_at(scores: Tensor, targets: Tensor, threshold: float) -> dict[str, float]:
    """Scores, targets (N, C) to the measures of document 000's field, F1 at one threshold."""
    predicted = scores.double() > threshold
    values = {f"{name}_f1": float(metrics.f1(predicted, targets, name)) for name in ("macro", "micro", "samples")}
    values["map"] = float(metrics.mean_average_precision(scores, targets))
    values["map_voc"] = float(metrics.mean_average_precision(scores, targets, interpolated=True))
    each = metrics.f1(predicted, targets, None)  # (C,)
    if len(each) == len(CLASSES):
        values |= {f"{name}_f1": float(each[list(ids)].mean()) for name, ids in SUBSETS.items()}
    return values


class WordReading(Reading):
    """Intents as sums of words at places."""

    model: MultiStream

    def __init__(
        self,
        model: MultiStream,
        forms: Mapping[str, str],
        anchors: Anchors,
        tower: LazyTower,
        asl: tuple[float, float, float],
        weights: Mapping[str, float],
    ) -> None:
        super().__init__(model, tower, asl, weights)
        self.forms, self.anchors = dict(forms), anchors
        self.frozen = all(model.book(name).frozen for name in model.streams)
        self.digest = anchors_digest({name: anchors[name].codes for name in model.streams})
        self.usage = {name: metrics.CodeUsage(model.book(name).num_codes, window=100) for name in model.streams}
        self._commitment = torch.zeros(())

    def read(self, batch: IntentBatch) -> Read:
        if batch.counts is None:
            tokens, _ = self._seen(batch, sorted(set(self.forms.values())))
            return self.model({name: self._fitting(tokens[form], name) for name, form in self.forms.items()})
        if not self.frozen or self.model.adapters:
            raise ValueError(
                "data.codes holds the words of frozen codebooks: to train codes or adapters set data.cache"
            )
        if batch.anchors and batch.anchors != self.digest:
            raise ValueError(
                f"data.codes was read with the anchors {batch.anchors}, system.semantic_anchors_path is {self.digest}: "
                "sightword codes finds the words of these"
            )
        return self.model.from_counts(batch.counts)

    def logits(self, batch: IntentBatch) -> Tensor:
        return self.read(batch).logits

    def losses(self, batch: IntentBatch) -> dict[str, Tensor]:
        read = self.read(batch)
        self._note(read, batch)
        terms = {"asl_loss": asymmetric_loss(read.logits, batch.targets, *self.asl)}
        if read.commitment.requires_grad:
            terms["vq_loss"] = read.commitment
        if not self.frozen:
            books = [self.model.book(name) for name in self.model.streams]
            terms["consistency_loss"] = torch.stack([consistency_loss(b.codes(), b.anchors) for b in books]).sum()
        return terms

    @torch.no_grad()
    def get_code_indices(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        """Which word each patch of images (B, 3, H, W) in [-1, 1] was read as, in the image's orientation.

        Stream → {"codes": (B, h, w) rows of the codebook, "classes": (B, h, w) class ids, which copies share}.
        Document 000, "visual check".
        """
        tokens, _ = self.tower.see(images, sorted(set(self.forms.values())))
        ids = self.model.nearest({name: tokens[form] for name, form in self.forms.items()})
        grid = self.tower(images.device).grid((images.shape[2], images.shape[3]))
        found = {}
        for name, each in ids.items():
            classes = torch.tensor(self.anchors[name].class_ids, device=each.device)
            found[name] = {"codes": each.unflatten(1, grid), "classes": classes[each].unflatten(1, grid)}
        return found

    def stats(self) -> dict[str, float]:
        """Of each stream: the share of codes used in the last 100 batches, and how far moving codes have drifted."""
        found = {f"{name}_usage": float(usage.usage()) for name, usage in self.usage.items()} | {
            "commitment": float(self._commitment)
        }
        if not self.frozen:
            for name in self.model.streams:
                found |= {f"{name}_{what}": value for what, value in self.model.book(name).drift().items()}
        return found

    def roles(self) -> dict[str, list[Parameter]]:
        """head, fusion, adapter, and vq_<stream> of each codebook; empty where nothing moves."""
        model = self.model
        fusion = [*([model.weights] if model.weights is not None else [])]
        fusion += list(model.gate.parameters()) if model.gate is not None else []
        found = {"head": list(model.head.parameters()), "fusion": fusion, "adapter": list(model.adapters.parameters())}
        books = {name: list(model.book(name).parameters()) for name in model.streams}
        return found | {f"vq_{name}": books.get(name, []) for name in [*STREAMS, *books]}

    def export(self, folder: Path) -> None:
        self.anchors.write(folder / ANCHORS)
        super().export(folder)

    def _note(self, read: Read, batch: IntentBatch) -> None:
        self._commitment = read.commitment.detach()
        for name in self.model.streams:
            if read.ids:
                self.usage[name].update(read.ids[name])
            elif batch.counts is not None:
                self.usage[name].update(batch.counts[name].sum(0).nonzero().flatten())

    def _fitting(self, tokens: Tensor, stream: str) -> Tensor:
        width = self.model.book(stream).dim
        if tokens.shape[-1] != width:
            raise ValueError(
                f"tokens are {tokens.shape[-1]} wide, the anchors of {stream} ({self.anchors.source}) {width}: they "
                "are of two towers; sightword anchors tower=… writes those of this one"
            )
        return tokens


class BaselineReading(Reading):
    """Frozen CLIP's pooled vector and mean patch through an MLP: what exact words cost."""

    model: Baseline

    def __init__(self, model: Baseline, tower: LazyTower, asl: tuple[float, float, float]) -> None:
        super().__init__(model, tower, asl, {})

    def logits(self, batch: IntentBatch) -> Tensor:
        tokens, pooled = self._seen(batch, ("joint",))
        return self.model(pooled, tokens["joint"])
