"""The objective of intent classification.

stage 1: total = asl_loss
stage 2: total = asl_loss + commitment_weight·vq_loss + semantic_consistency_weight·consistency_mean_loss

The last term is called consistency_sum_loss if the drift of codes is added up (system.semantic_consistency_reduction).

Legend: B batch; N patches; D dimension of tokens; E of the pooled vector; K codes; S streams; C classes.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from sightword.engine.class_name import difference
from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.storage.cache import digest
from sightword.systems.intent.anchors import Anchors
from sightword.systems.intent.calibration import Calibration, calibration_file, word_anchors
from sightword.systems.intent.config import STREAMS, IntentConfig
from sightword.systems.intent.data import IntentBatch
from sightword.systems.intent.ids import anchors_digest
from sightword.systems.intent.intentonomy import CLASSES
from sightword.systems.intent.loss import asymmetric_loss, consistency_loss
from sightword.systems.intent.model import Baseline, MultiStream, Read
from sightword.systems.intent.nothing import NothingMultiStream
from sightword.systems.intent.pair import named_pairs
from sightword.systems.intent.presence import PAIRS, PresenceModel, stream_words
from sightword.towers.base import ImageTower
from sightword.towers.factory import joint_width
from sightword.towers.frozen import FrozenModel

RECENT = 100  # batches over which `stats` counts used codes


def make_task(config: IntentConfig) -> "IntentTask":
    """Return the task of a config. Raises SightwordError if config, anchors and encoder do not fit each other."""
    if config.model == "baseline":
        width = config.embed_dim or joint_width(config.tower, config.tag)
        model = Baseline(width, width, len(classes_of(config)), config.hidden)
        return BaselineTask(model, replace(config, embed_dim=width))
    anchors = Anchors.read(config.semantic_anchors_path)
    anchors.check_named(config.tower, config.tag)
    streams = streams_of(config, anchors)
    if config.calibrated:
        return _calibrated_task(config, anchors, streams)
    return MultiStreamTask(
        MultiStream(
            {name: anchors[name].codes for name in streams},
            len(classes_of(config)),
            config.fusion,
            config.center,
            config.standardise,
            config.freeze_codebook,
            config.adapter,
        ),
        config,
        anchors,
    )


def _calibrated_task(config: IntentConfig, anchors: Anchors, streams: Mapping[str, str]) -> "IntentTask":
    """Return the task of a model that reads calibrated words, one code per word."""
    if PAIRS in streams:
        raise SightwordError(f"a stream is called {PAIRS!r}, as pairs of words are. Give it another name")
    calibration = read_calibration(config, anchors)
    anchors, gate, count = word_anchors(anchors), config.nothing != "z", len(classes_of(config))
    words = stream_words({name: anchors[name].codes for name in streams}, calibration, streams)
    if not config.reads_presence:
        model = NothingMultiStream(words, count, config.fusion, config.center, config.standardise, gate)
        return MultiStreamTask(model, config, anchors, calibration)
    pairs = named_pairs(config.pair_words, {name: anchors[name].names for name in streams})
    hard = config.read == "presence01"
    presence = PresenceModel(words, count, pairs, hard, config.sharpness, config.temperature)
    return PresenceTask(presence, config, anchors, calibration)


def read_calibration(config: IntentConfig, anchors: Anchors) -> Calibration:
    """Return the calibration that a config names, or that lies beside its anchors.

    Raises SightwordError if there is none, or if it is of other anchors.
    """
    calibration = Calibration.read(calibration_file(config.semantic_anchors_path, config.calibration))
    calibration.check_fits(anchors)
    return calibration


def classes_of(config: IntentConfig) -> tuple[str, ...]:
    """Return the names of the classes: the config's, or Intentonomy's."""
    return tuple(config.classes) or CLASSES


def streams_of(config: IntentConfig, anchors: Anchors) -> dict[str, str]:
    """Return stream → token type, of the streams that a config uses. Raises SightwordError for an unknown stream."""
    streams = config.streams or list(anchors.books)
    if unknown := [name for name in config.token_types if name not in (*STREAMS, *anchors.books)]:
        raise SightwordError(
            f"system.token_types names {unknown[0]!r}; the streams of {anchors.source} are {', '.join(streams)}"
        )
    return {name: config.token_types.get(name, "joint") for name in streams}


class IntentTask(Task[IntentBatch]):
    """What both models share: labels, the asymmetric loss, the image encoder, and the threshold of the scores."""

    model: nn.Module
    threshold: Tensor  # () chosen in the last validation, and applied to other splits; NaN before
    judged: Tensor  # () int64, fingerprint of the weights that the threshold was chosen for
    own_state = ("threshold", "judged")
    reads: tuple[str, ...]  # the types of patch tokens that it needs
    reads_ids: bool  # whether ids of codes will do instead
    pooled_only = False  # whether training and evaluation need no patch tokens
    calibration: Calibration | None = None  # of its words, if it reads calibrated words
    calibrated_on = ""  # the digest of the encoder that it was made with

    def __init__(self, model: nn.Module, config: IntentConfig, weights: Mapping[str, float] | None = None) -> None:
        super().__init__(weights)
        self.model, self.config, self.classes = model, config, classes_of(config)
        self.tower = FrozenModel(self.open_tower)  # opened only if a batch contains images; no part of checkpoints
        self.register_buffer("threshold", torch.tensor(torch.nan))
        self.register_buffer("judged", torch.tensor(0))

    def open_tower(self) -> ImageTower:
        """Open the image encoder of the config."""
        from sightword.towers.factory import image_tower

        tower = image_tower(self.config.tower, tag=self.config.tag).freeze()
        self.check_tower(tower)
        return tower

    def check_tower(self, tower: ImageTower) -> None:
        """Raise SightwordError unless the words of the task fit an image encoder."""
        if self.calibration is not None:
            self.calibration.check_tower(digest(tower.state_dict()), tower.name)

    def logits(self, batch: IntentBatch) -> Tensor:
        """Return (B, C)."""
        raise NotImplementedError

    def losses(self, batch: IntentBatch) -> dict[str, Tensor]:
        self.check_columns(batch)
        return {"asl_loss": self.asl(self.logits(batch), batch.targets)}

    def check_columns(self, batch: IntentBatch) -> None:
        """Raise SightwordError unless the columns of a batch's labels are this task's classes, in its order."""
        if tuple(batch.classes or self.classes) == self.classes and batch.targets.shape[1] == len(self.classes):
            return
        told = f"they have {batch.targets.shape[1]} columns, expected {len(self.classes)}"
        if batch.classes:
            told = difference(self.classes, batch.classes) or "they are in another order"
        raise SightwordError(
            f"the labels of {batch.split} are not those of the model's classes: {told}. Make the loaders with "
            "Inputs(classes=task.classes), from annotations with these classes"
        )

    def asl(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the asymmetric loss, a scalar, with the config's parameters. logits, targets: (B, C)."""
        return asymmetric_loss(logits, targets, self.config.gamma_neg, self.config.gamma_pos, self.config.margin)

    def encoded(self, batch: IntentBatch) -> tuple[dict[str, Tensor], Tensor]:
        """Return (token type → tokens (B, N, D), pooled (B, E)) of a batch, from the cache or by the image encoder."""
        if batch.images is not None:
            return self.encode_image(batch.images)
        if batch.tokens is None or batch.pooled is None:
            raise SightwordError(f"{type(self).__name__} needs tokens. Set data.cache, and leave data.ids empty")
        if lacking := [name for name in self.reads if name not in batch.tokens]:
            raise SightwordError(
                f"the cache has {', '.join(batch.tokens)} tokens and not {', '.join(lacking)}. Write another one with "
                f"sightword cache token_type={','.join(self.reads)} out=…"
            )
        return {name: batch.tokens[name].float() for name in self.reads}, batch.pooled.float()

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return (token type → tokens (B, N, D), pooled (B, E)) of images (B, 3, H, W) in [-1, 1]."""
        tower = self.tower.on(images.device)
        found = tower.token_types(tower.normalise(images), self.reads)
        return {name: encoded.tokens for name, encoded in found.items()}, next(iter(found.values())).pooled


class MultiStreamTask(IntentTask):
    """Codebooks of text embeddings: logits are exact sums over streams and patches."""

    model: MultiStream
    class_rows = ("model.head.weight", "model.head.bias")

    def __init__(
        self, model: MultiStream, config: IntentConfig, anchors: Anchors, calibration: Calibration | None = None
    ) -> None:
        """anchors: of one code per word with a calibration, which is that of the model's words."""
        consistency = f"consistency_{config.semantic_consistency_reduction}_loss"
        weights = {"vq_loss": config.commitment_weight, consistency: config.semantic_consistency_weight}
        super().__init__(model, config, weights)
        self.consistency = consistency
        self.anchors, self.token_types = anchors, streams_of(config, anchors)
        self.calibration, self.calibrated_on = calibration, calibration.tower if calibration else ""
        self.reads = tuple(sorted(set(self.token_types.values())))
        self.frozen = all(model.book(name).frozen for name in model.streams)
        self.reads_ids = self.frozen and not model.adapters and calibration is None
        self.digest = anchors_digest({name: anchors[name].codes for name in model.streams})
        self.used = {name: deque[Tensor](maxlen=RECENT) for name in model.streams}  # (K,) bool for each recent batch
        self._commitment = torch.zeros(())
        self.register_load_state_dict_pre_hook(_refuse_other_anchors)

    def check_tower(self, tower: ImageTower) -> None:
        self.anchors.check_fits(tower)
        super().check_tower(tower)

    def read(self, batch: IntentBatch) -> Read:
        """Return the output of the model. Raises SightwordError if the batch is of other anchors or another encoder."""
        if batch.counts is None:
            tokens, pooled = self.encoded(batch)
            fitting = {name: self._fitting(tokens[kind], name) for name, kind in self.token_types.items()}
            return self.model(fitting) if self.calibration is None else self.model(fitting, pooled)
        if not self.reads_ids:
            raise SightwordError(
                "data.ids contains ids of frozen codebooks. To train codes or adapters, or to read words that are "
                "present, set data.cache, too"
            )
        self._check_counts(batch, batch.counts)
        return self.model.from_counts(batch.counts)

    def logits(self, batch: IntentBatch) -> Tensor:
        return self.read(batch).logits

    def losses(self, batch: IntentBatch) -> dict[str, Tensor]:
        self.check_columns(batch)
        if self.model.norm is not None and len(batch.targets) == 1:
            raise SightwordError(
                "a batch of one image has no variance. Set data.batch_size to 2 or more, or system.standardise=false"
            )
        read = self.read(batch)
        self._note(read, batch)
        terms = {"asl_loss": self.asl(read.logits, batch.targets)}
        if read.commitment.requires_grad:
            terms["vq_loss"] = read.commitment
        if not self.frozen:
            books = [self.model.book(name) for name in self.model.streams]
            how = self.config.semantic_consistency_reduction
            terms[self.consistency] = torch.stack([consistency_loss(b.codes(), b.anchors, how) for b in books]).sum()
        return terms

    def stats(self) -> dict[str, float]:
        """Return, for each stream, the fraction of codes used in the last batches, and the drift of trained codes."""
        used = {name: torch.stack([*masks]).any(0) for name, masks in self.used.items() if masks}
        found = {f"{name}_usage": float(mask.double().mean()) for name, mask in used.items()}
        found["commitment"] = float(self._commitment)
        if not self.frozen:
            for name in self.model.streams:
                found |= {f"{name}_{what}": value for what, value in self.model.book(name).drift().items()}
        return found

    def parameter_groups(self) -> dict[str, list[Parameter]]:
        """Return head, fusion, adapter, vq_<stream> of the built-in streams, vq_other; without parameters if frozen."""
        model = self.model
        fusion = [*([model.weights] if model.weights is not None else [])]
        fusion += list(model.gate.parameters()) if model.gate is not None else []
        found = {"head": list(model.head.parameters()), "fusion": fusion, "adapter": list(model.adapters.parameters())}
        books = {name: list(model.book(name).parameters()) for name in model.streams}
        more = [p for name, parameters in books.items() if name not in STREAMS for p in parameters]
        return found | {f"vq_{name}": books.get(name, []) for name in STREAMS} | {"vq_other": more}

    def check_weights(self, weights: Mapping[str, Tensor], resumed: bool) -> None:
        """Raise SightwordError if weights were trained with other anchors: their codes would get wrong names."""
        _check_words(self, weights)
        for name in self.model.streams:
            own = self.model.book(name).anchors
            other = weights.get(f"model.books.{name}.anchors", own)
            if other.shape == own.shape and not torch.allclose(other.to(own), own, atol=1e-5):
                raise SightwordError(
                    f"these weights were trained with other anchors than {self.anchors.source} now contains ({name} "
                    "differs). Set system.semantic_anchors_path to the anchors of the run, or train again"
                )

    def _note(self, read: Read, batch: IntentBatch) -> None:
        """Keep what `stats` reports of a batch."""
        self._commitment = read.commitment.detach()
        for name in self.model.streams:
            if batch.counts is not None:
                self.used[name].append(batch.counts[name].sum(0) > 0)
            else:
                mask = torch.zeros(self.model.size(name), dtype=torch.bool, device=read.logits.device)
                self.used[name].append(mask.index_fill_(0, read.ids[name].flatten(), True))

    def _check_counts(self, batch: IntentBatch, counts: Mapping[str, Tensor]) -> None:
        """Raise SightwordError unless counts are of this task's streams, anchors and token types."""
        if counts.keys() != set(self.model.streams):
            raise SightwordError(
                f"data.ids has the streams {', '.join(sorted(counts))}, this run "
                f"{', '.join(sorted(self.model.streams))}. Look up their ids with sightword ids "
                f"streams={','.join(self.model.streams)} out=…"
            )
        if batch.anchors and batch.anchors != self.digest:
            raise SightwordError(
                f"data.ids was looked up in the anchors {batch.anchors}, system.semantic_anchors_path contains "
                f"{self.digest}. Look up the ids again with sightword ids out=…"
            )
        for name, token_type in (batch.token_types or {}).items():
            if token_type != (own := self.token_types[name]):
                raise SightwordError(
                    f"the ids of {name} in data.ids are of {token_type} tokens, system.token_types.{name} is {own}. "
                    f"Set system.token_types.{name}={token_type}, or look up others with sightword ids "
                    f"token_type={name}:{own} out=…"
                )

    def _fitting(self, tokens: Tensor, stream: str) -> Tensor:
        """The tokens. Raises SightwordError unless they have the dimension of the stream's codes."""
        width, found = self.model.book(stream).dim, tokens.shape[-1]
        if found == width:
            return tokens
        if self.token_types[stream] == "post":
            raise SightwordError(
                f"post tokens have dimension {found} and are not in the joint space, the anchors of {stream} have "
                f"{width}. Set system.token_types.{stream}=joint: the same tokens, projected into it"
            )
        raise SightwordError(
            f"tokens have dimension {found}, the anchors of {stream} ({self.anchors.source}) {width}: they are of two "
            "encoders. Write anchors for this one with sightword anchors tower=…"
        )


def _check_words(task: IntentTask, weights: Mapping[str, Tensor]) -> None:
    """Raise SightwordError if weights were trained with other words or another calibration than a task has."""
    own = {name: tensor for name, tensor in task.state_dict().items() if name.startswith("model.words.")}
    for name, tensor in own.items():
        other = weights.get(name, tensor)
        if task.calibration is None or (
            other.shape == tensor.shape and torch.allclose(other.to(tensor), tensor, atol=1e-5)
        ):
            continue
        what = "anchors" if name.endswith("vectors") else "calibration"
        raise SightwordError(
            f"these weights were trained with another {what} than {task.calibration.source} ({name} differs). Set "
            "system.semantic_anchors_path and system.calibration to those of the run, or train again"
        )


def _refuse_other_anchors(task: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    """Before any weights are loaded, wherever they come from."""
    assert isinstance(task, MultiStreamTask | PresenceTask)
    task.check_weights({name.removeprefix(prefix): weight for name, weight in state.items()}, resumed=False)


class PresenceTask(IntentTask):
    """Words that are present, and pairs of them: logits are exact sums over words, and over where they are."""

    model: PresenceModel
    class_rows = ("model.head.weight", "model.head.bias", "model.pair_head.weight")
    calibration: Calibration
    pooled_only = True

    def __init__(self, model: PresenceModel, config: IntentConfig, anchors: Anchors, calibration: Calibration) -> None:
        """anchors: of one code per word. calibration: that of the model's words."""
        super().__init__(model, config, {"l1_loss": config.l1})
        self.anchors, self.calibration, self.calibrated_on = anchors, calibration, calibration.tower
        self.token_types = streams_of(config, anchors)
        self.reads, self.reads_ids = tuple(sorted(set(self.token_types.values()))), False
        self._present = 0.0
        self.register_load_state_dict_pre_hook(_refuse_other_anchors)

    def check_tower(self, tower: ImageTower) -> None:
        self.anchors.check_fits(tower)
        super().check_tower(tower)

    def pooled(self, batch: IntentBatch) -> Tensor:
        """Return the pooled vectors (B, D) of a batch. Raises SightwordError if they are of another encoder."""
        pooled = self.encode_image(batch.images)[1] if batch.images is not None else batch.pooled
        if pooled is None:
            raise SightwordError("PresenceTask needs pooled vectors. Set data.cache, and leave data.ids empty")
        if pooled.shape[1] != self.anchors.dim:
            raise SightwordError(
                f"pooled vectors have dimension {pooled.shape[1]}, the words of {self.anchors.source} "
                f"{self.anchors.dim}: they are of two encoders. Write anchors for this one: sightword anchors tower=…"
            )
        return pooled.float()

    def presence(self, batch: IntentBatch) -> Tensor:
        """Return the calibrated probability (B, K) of the words of all streams, in the order of `words`."""
        return self.model.presence(self.pooled(batch))

    def logits(self, batch: IntentBatch) -> Tensor:
        return self.model(self.pooled(batch))

    def losses(self, batch: IntentBatch) -> dict[str, Tensor]:
        self.check_columns(batch)
        presence = self.presence(batch)
        self._present = float((presence > 0.5).float().sum(1).mean())
        terms = {"asl_loss": self.asl(self.model.from_presence(presence), batch.targets)}
        return terms | ({"l1_loss": self.model.l1()} if self.config.l1 else {})

    def stats(self) -> dict[str, float]:
        """Return how many words an image of the last batch shows."""
        return {"words_present": self._present}

    @property
    def words(self) -> list[tuple[str, str]]:
        """(stream, word) of the K columns of presence."""
        return [(name, word) for name in self.model.streams for word in self.anchors[name].names]

    @property
    def term_names(self) -> list[tuple[str, str]]:
        """(stream, or "pairs", and name) of the T terms."""
        pairs = named_pairs(self.config.pair_words, {name: self.anchors[name].names for name in self.model.streams})
        return [*self.words, *((PAIRS, pair.name) for pair in pairs)]

    def check_weights(self, weights: Mapping[str, Tensor], resumed: bool) -> None:
        """Raise SightwordError if weights were trained with other words, another calibration, or other pairs."""
        _check_words(self, weights)


class BaselineTask(IntentTask):
    """A baseline without codebooks: frozen CLIP's pooled vector and mean patch through an MLP."""

    model: Baseline
    class_rows = ("model.layers.4.weight", "model.layers.4.bias")

    def __init__(self, model: Baseline, config: IntentConfig) -> None:
        """config: with embed_dim, the dimension that the model was made for."""
        super().__init__(model, config)
        self.reads, self.reads_ids = ("joint",), False

    def logits(self, batch: IntentBatch) -> Tensor:
        tokens, pooled = self.encoded(batch)
        found, width = (tokens["joint"].shape[2], pooled.shape[1]), self.config.embed_dim
        if found != (width, width):
            raise SightwordError(
                f"tokens have dimension {found[0]} and pooled vectors {found[1]}, the baseline is made for {width}. "
                "Set system.tower to the encoder of the cache, and system.embed_dim to its dimension (0 reads it)"
            )
        return self.model(pooled, tokens["joint"])
