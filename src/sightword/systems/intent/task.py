"""The objective of reading intents, its measures and its pictures.

stage 1: total = asl_loss;  stage 2: + commitment_weight·vq_loss + semantic_consistency_weight·consistency_loss

Legend: B batch; N patches; D width; E pooled width; K codes; S streams; C classes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import Parameter

from sightword.engine.contract import Task
from sightword.metrics import codebook
from sightword.metrics.codebook import CodeUsage, perplexity
from sightword.metrics.multilabel import Decisions, best_threshold
from sightword.storage.atomic import write_atomically
from sightword.storage.cache import digest
from sightword.storage.checkpoint import load_strictly, read_weights
from sightword.systems.intent.anchors import Anchors
from sightword.systems.intent.codes import anchors_digest
from sightword.systems.intent.config import STREAMS, IntentConfig
from sightword.systems.intent.data import IntentBatch
from sightword.systems.intent.intentonomy import CLASSES
from sightword.systems.intent.loss import asymmetric_loss, consistency_loss
from sightword.systems.intent.measure import class_table, measures_of, on_grid, protocol_of
from sightword.systems.intent.model import Baseline, MultiStream, Read
from sightword.towers.base import ImageTower

CONFIG, WEIGHTS, ANCHORS = "config.json", "model.safetensors", "semantic_anchors.pth"


def make_task(system: IntentConfig) -> "IntentTask":
    """The task that a config describes."""
    if system.model == "baseline" and not system.embed_dim:
        system = replace(system, embed_dim=_joint_width(system))
    task = _make(system)
    task.system = asdict(system)
    return task


def read_exported(folder: str | Path) -> "IntentTask":
    """What `export` wrote, in eval mode."""
    folder = Path(folder).expanduser()
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        system = IntentConfig(**values | {"semantic_anchors_path": str(folder / ANCHORS)})
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} has no {CONFIG}; sightword export run=… out={folder} writes it") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged, or of another version: {error}") from error
    task = make_task(system)
    load_strictly(task, read_weights(folder / WEIGHTS), folder / WEIGHTS)
    return task.eval()


def _make(system: IntentConfig) -> "IntentTask":
    asl = (system.gamma_neg, system.gamma_pos, system.clip)
    tower = LazyTower(system.tower, system.tag)
    if system.model == "baseline":
        width = system.embed_dim
        return BaselineTask(Baseline(width, width, hidden=system.hidden), tower, asl, width)
    anchors = Anchors.read(system.semantic_anchors_path)
    anchors.check_named(system.tower, system.tag)
    streams = system.streams or list(anchors.books)
    if unknown := [name for name in system.tokens if name not in (*STREAMS, *anchors.books)]:
        raise ValueError(
            f"system.tokens names {unknown[0]!r}; the streams of {anchors.source} are {', '.join(streams)}"
        )
    model = MultiStream(
        {name: anchors[name].codes for name in streams},
        len(CLASSES),
        system.fusion,
        system.center,
        system.standardise,
        system.freeze_codebook,
        system.adapter,
    )
    token_types = {name: system.tokens.get(name, "joint") for name in streams}
    weights = {"vq_loss": system.commitment_weight, "consistency_loss": system.semantic_consistency_weight}
    return MultiStreamTask(model, token_types, anchors, tower, asl, weights)


def _joint_width(system: IntentConfig) -> int:
    """The width of a CLIP's joint space, by its config alone: no weights are read."""
    from sightword.towers.clip import checkpoint as clip_checkpoint
    from sightword.towers.clip import encoder as clip

    name, usual = clip.presets.get(system.tower, (system.tower, ""))
    try:
        return int(clip_checkpoint.find(name, system.tag or usual, clip.presets).model_cfg["embed_dim"])
    except (ValueError, FileNotFoundError, KeyError) as error:
        raise ValueError(f"system.embed_dim is not set and system.tower does not tell it: {error}") from error


class LazyTower:
    """A frozen tower, opened when pictures come and kept out of the checkpoint: it is its own file."""

    def __init__(self, name: str, tag: str = "") -> None:
        self.name, self.tag = name, tag
        self._open: ImageTower | None = None

    def __call__(self, device: torch.device) -> ImageTower:
        if self._open is None:
            from sightword.towers.factory import image_tower

            self._open = image_tower(self.name, tag=self.tag).freeze()
        return self._open.to(device)

    @torch.no_grad()
    def see(self, images: Tensor, token_types: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """Images (B, 3, H, W) in [-1, 1] to (form → tokens (B, N, D), pooled (B, E))."""
        tower = self(images.device)
        found = tower.token_types(tower.normalise(images), token_types)
        return {token_type: encoded.tokens for token_type, encoded in found.items()}, next(iter(found.values())).pooled


class IntentTask(Task):
    """What both models share: the asymmetric loss and the measures of many labels."""

    model: nn.Module
    system: dict[str, Any]  # what it was made of
    threshold: Tensor  # () of the last validation, for other splits; NaN: there was none
    judged: Tensor  # () int64, the fingerprint of the weights that it is of

    def __init__(
        self, model: nn.Module, tower: LazyTower, asl: tuple[float, float, float], weights: Mapping[str, float]
    ):
        super().__init__(weights)
        self.model, self.tower, self.asl = model, tower, asl
        self.register_buffer("threshold", torch.tensor(torch.nan))
        self.register_buffer("judged", torch.tensor(0))
        self.decisions, self.split = Decisions(), "val"
        self.missing, self.skipped = 0, 0
        self._fingerprint, self._images, self._classes = 0, 0, list[dict[str, Any]]()  # of the last measures

    def logits(self, batch: IntentBatch) -> Tensor:
        """(B, C)"""
        raise NotImplementedError

    def losses(self, batch: IntentBatch) -> dict[str, Tensor]:
        return {"asl_loss": asymmetric_loss(self._logits(batch), batch.targets, *self.asl)}

    def _logits(self, batch: IntentBatch) -> Tensor:
        """(B, C), of as many classes as there are labels."""
        _check_classes(batch)
        return self.logits(batch)

    @torch.no_grad()
    def evaluate(self, batch: IntentBatch) -> None:
        if not len(self.decisions):
            self._fingerprint = fingerprint(self.model)
        if batch.split != "val":
            self._check_threshold(batch.split)
        self.split, self.missing, self.skipped = batch.split, batch.missing, self.skipped + batch.skipped
        if len(batch.targets):
            self.decisions.update(self._judge(batch).float().sigmoid(), batch.targets > 0)

    def _judge(self, batch: IntentBatch) -> Tensor:
        """Logits (B, C) of a batch that is measured."""
        return self._logits(batch)

    def measures(self) -> dict[str, float]:
        """F1 at the one threshold that validation images give (kept for other splits), and by other rules; AP."""
        gathered, skipped = self.decisions.reduce(), self.skipped
        self.decisions, self.skipped = Decisions(), 0
        if not len(gathered):
            raise ValueError(
                f"not one of the {skipped} images of {self.split} can be read: sightword check dataset=intentonomy "
                "root=… says why"
            )
        scores, targets = gathered.scores, gathered.targets
        if self.split == "val":
            self.threshold.fill_(best_threshold(scores, targets))
            self.judged.fill_(self._fingerprint)
        threshold = on_grid(float(self.threshold))
        self._images, self._classes = len(gathered), class_table(scores, targets, threshold)
        values = measures_of(scores, targets, threshold)
        return values | {name: float(n) for name, n in (("missing", self.missing), ("skipped", skipped)) if n}

    def _check_threshold(self, split: str) -> None:
        """ValueError unless the threshold was chosen for these very weights."""
        if self.threshold.isnan():
            told = "have none, they are from before the first validation"
        elif int(self.judged) != self._fingerprint:
            told = "have that of others: they were trained on, or changed, since the validation that gave it"
        else:
            return
        raise ValueError(
            f"{split} is judged by the threshold that validation gave, and these weights {told}; take checkpoint=best, "
            "or resume the run to its next validation"
        )

    def protocol(self) -> dict[str, Any]:
        return protocol_of(self.split, self._images)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        return {"classes": self._classes} if self._classes else {}

    def export(self, folder: Path) -> None:
        """The weights without the tower's, and what `read_exported` makes the task of."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        with write_atomically(folder / WEIGHTS) as part:
            save_file({name: value for name, value in weights.items() if isinstance(value, Tensor)}, part)
        with write_atomically(folder / CONFIG) as part:
            part.write_text(json.dumps(self.system, indent=2) + "\n", encoding="utf-8")

    def _seen(self, batch: IntentBatch, token_types: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """(form → tokens (B, N, D), pooled (B, E)) of a batch, from the cache or by the tower."""
        if batch.images is not None:
            return self.tower.see(batch.images, token_types)
        if batch.tokens is None or batch.pooled is None:
            raise ValueError(f"{type(self).__name__} needs tokens: set data.cache, and leave data.codes empty")
        if lacking := [token_type for token_type in token_types if token_type not in batch.tokens]:
            raise ValueError(
                f"the cache has {', '.join(batch.tokens)} tokens and not {', '.join(lacking)}: sightword cache "
                f"tokens={','.join(token_types)} writes one that has"
            )
        return {token_type: batch.tokens[token_type].float() for token_type in token_types}, batch.pooled.float()


def fingerprint(model: nn.Module) -> int:
    """Tells weights apart, 63 bits; those that never move are left out."""
    moving = {name: value for name, value in model.named_buffers() if name.startswith("norm.")}
    return int(digest({**dict(model.named_parameters()), **moving}), 16) >> 1


def _check_classes(batch: IntentBatch) -> None:
    if batch.targets.shape[1] != len(CLASSES):
        raise ValueError(
            f"the annotations of {batch.split} have {batch.targets.shape[1]} categories, intents are {len(CLASSES)}: "
            "data.root is the folder of Intentonomy, or of a set with its categories"
        )


class MultiStreamTask(IntentTask):
    """Intents as sums of words at places."""

    model: MultiStream

    def __init__(
        self,
        model: MultiStream,
        token_types: Mapping[str, str],
        anchors: Anchors,
        tower: LazyTower,
        asl: tuple[float, float, float],
        weights: Mapping[str, float],
    ) -> None:
        super().__init__(model, tower, asl, weights)
        self.token_types, self.anchors = dict(token_types), anchors
        self.frozen = all(model.book(name).frozen for name in model.streams)
        self.digest = anchors_digest({name: anchors[name].codes for name in model.streams})
        self.usage = {name: CodeUsage(model.book(name).num_codes, window=100) for name in model.streams}
        self.words, self._words = self._unseen(), list[dict[str, Any]]()
        self._commitment = torch.zeros(())
        self.register_load_state_dict_pre_hook(_refuse_other_anchors)

    def read(self, batch: IntentBatch) -> Read:
        if batch.counts is None:
            if batch.images is not None:
                self.anchors.check_fits(self.tower(batch.images.device))
            tokens, _ = self._seen(batch, sorted(set(self.token_types.values())))
            return self.model(
                {name: self._fitting(tokens[token_type], name) for name, token_type in self.token_types.items()}
            )
        if not self.frozen or self.model.adapters:
            raise ValueError(
                "data.codes holds the words of frozen codebooks: to train codes or adapters set data.cache"
            )
        self._check_counts(batch, batch.counts)
        return self.model.from_counts(batch.counts)

    def logits(self, batch: IntentBatch) -> Tensor:
        return self.read(batch).logits

    def _judge(self, batch: IntentBatch) -> Tensor:
        _check_classes(batch)
        read = self.read(batch)
        for name in self.model.streams:
            self.words[name] += self._counts(read, batch, name)
        return read.logits

    def measures(self) -> dict[str, float]:
        self._words = [
            {
                "stream": name,
                "codes": len(counts),
                "used": int((counts > 0).sum()),
                "usage": float(codebook.usage(counts)),
                "perplexity": float(perplexity(counts)),
            }
            for name, counts in self.words.items()
        ]
        self.words = self._unseen()
        return super().measures()

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Besides the classes, how much of each codebook the images that were measured made use of."""
        return super().tables() | ({"codebooks": self._words} if self._words else {})

    def losses(self, batch: IntentBatch) -> dict[str, Tensor]:
        _check_classes(batch)
        if self.model.norm is not None and len(batch.targets) == 1:
            raise ValueError("one image has no variance: data.batch_size is 2 at least, or system.standardise=false")
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
        self.anchors.check_fits(self.tower(images.device))
        tokens, _ = self.tower.see(images, sorted(set(self.token_types.values())))
        ids = self.model.nearest(
            self.model.adapted({name: tokens[token_type] for name, token_type in self.token_types.items()})
        )
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
        """head, fusion, adapter, vq_<stream> of the document's five, vq_other of more; empty where nothing moves."""
        model = self.model
        fusion = [*([model.weights] if model.weights is not None else [])]
        fusion += list(model.gate.parameters()) if model.gate is not None else []
        found = {"head": list(model.head.parameters()), "fusion": fusion, "adapter": list(model.adapters.parameters())}
        books = {name: list(model.book(name).parameters()) for name in model.streams}
        more = [p for name, parameters in books.items() if name not in STREAMS for p in parameters]
        return found | {f"vq_{name}": books.get(name, []) for name in STREAMS} | {"vq_other": more}

    def export(self, folder: Path) -> None:
        self.anchors.write(folder / ANCHORS)
        super().export(folder)

    def _unseen(self) -> dict[str, Tensor]:
        """Stream → (K,) int64, how often each code was seen in what is being measured: not yet."""
        return {name: torch.zeros(self.model.book(name).num_codes, dtype=torch.int64) for name in self.model.streams}

    def _counts(self, read: Read, batch: IntentBatch, name: str) -> Tensor:
        """(K,) int64, on the CPU."""
        if batch.counts is not None:
            return batch.counts[name].sum(0).long().cpu()
        return torch.bincount(read.ids[name].flatten().cpu(), minlength=len(self.words[name]))

    def _note(self, read: Read, batch: IntentBatch) -> None:
        self._commitment = read.commitment.detach()
        for name in self.model.streams:
            if read.ids:
                self.usage[name].update(read.ids[name])
            elif batch.counts is not None:
                self.usage[name].update(batch.counts[name].sum(0).nonzero().flatten())

    def _check_counts(self, batch: IntentBatch, counts: Mapping[str, Tensor]) -> None:
        """ValueError unless they are of this task's streams, of its anchors and of the tokens that it reads."""
        if counts.keys() != set(self.model.streams):
            raise ValueError(
                f"data.codes has the words of {', '.join(sorted(counts))}, this run's streams are "
                f"{', '.join(sorted(self.model.streams))}: sightword codes "
                f"streams={','.join(self.model.streams)} out=… finds those"
            )
        if batch.anchors and batch.anchors != self.digest:
            raise ValueError(
                f"data.codes was read with the anchors {batch.anchors}, system.semantic_anchors_path is {self.digest}: "
                "sightword codes finds the words of these"
            )
        for name, token_type in (batch.token_types or {}).items():
            if token_type != self.token_types[name]:
                raise ValueError(
                    f"the words of {name} in data.codes are of {token_type} tokens, system.tokens.{name} is "
                    f"{self.token_types[name]}: set system.tokens.{name}={token_type}, or find others with sightword codes "
                    f"token_types={name}:{self.token_types[name]} out=…"
                )

    def _fitting(self, tokens: Tensor, stream: str) -> Tensor:
        width, token_type = self.model.book(stream).dim, self.token_types[stream]
        if tokens.shape[-1] != width and token_type == "post":
            raise ValueError(
                f"post tokens are {tokens.shape[-1]} wide here and not in the space of the texts, the anchors of "
                f"{stream} are {width}: system.tokens.{stream}=joint is the same tokens in it"
            )
        if tokens.shape[-1] != width:
            raise ValueError(
                f"tokens are {tokens.shape[-1]} wide, the anchors of {stream} ({self.anchors.source}) {width}: they "
                "are of two towers; sightword anchors tower=… writes those of this one"
            )
        return tokens


def _refuse_other_anchors(task: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Weights bring their codes along and not their names: those of another file would be called by wrong words."""
    assert isinstance(task, MultiStreamTask)
    for name in task.model.streams:
        own = task.model.book(name).anchors
        other = state.get(f"{prefix}model.books.{name}.anchors", own)
        if other.shape == own.shape and not torch.allclose(other.to(own), own, atol=1e-5):
            raise ValueError(
                f"these weights were trained with other anchors than {task.anchors.source} now holds ({name} differs): "
                "set system.semantic_anchors_path to those of the run, or train anew"
            )


class BaselineTask(IntentTask):
    """Frozen CLIP's pooled vector and mean patch through an MLP: what exact words cost."""

    model: Baseline

    def __init__(self, model: Baseline, tower: LazyTower, asl: tuple[float, float, float], width: int) -> None:
        super().__init__(model, tower, asl, {})
        self.width = width

    def logits(self, batch: IntentBatch) -> Tensor:
        tokens, pooled = self._seen(batch, ("joint",))
        if (found := pooled.shape[1]) != self.width or tokens["joint"].shape[2] != self.width:
            raise ValueError(
                f"tokens are {tokens['joint'].shape[2]} and pooled vectors {found} wide, the baseline is made for "
                f"{self.width}: system.tower is not the tower of the cache, or system.embed_dim is wrong (0 reads it)"
            )
        return self.model(pooled, tokens["joint"])
