"""The objective of text-based person retrieval.

    total = itc_weight·itc_loss, later sdm_weight·sdm_loss             (or either, or both from the start)
            + id_weight·id_loss + mlm_weight·mlm_loss                  (the baseline, IRRA)
            + gen_weight·min(1, batches / gen_ramp)·gen_loss           (phase 4; batches since gen_from)

Legend: B batch; L text tokens; E width of the common space; h, w VQ ids of an image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from sightword.engine.task import Task
from sightword.errors import SightwordError
from sightword.metrics.acceptance import Acceptance
from sightword.ops import align
from sightword.storage import shards
from sightword.storage.checkpoint import read_weights
from sightword.systems.retrieval import irra
from sightword.systems.retrieval.config import RetrievalConfig
from sightword.systems.retrieval.data import Batch, PedesBatch, generated_rows
from sightword.systems.retrieval.loss import Generator, IdentityHead, MaskedLanguage, other_texts
from sightword.systems.retrieval.model import DualEncoder, Features, SharedEncoder, make_encoder
from sightword.systems.retrieval.pretrained import Origin, open_towers
from sightword.systems.retrieval.vq import FrozenTokenizer
from sightword.towers.base import ImageTower, TextTower
from sightword.towers.t5 import T5Decoder, T5Text

KEPT = 0.95  # of the running mean, each batch


def make_task(system: RetrievalConfig) -> "RetrievalTask":
    """Return the task of a config."""
    image, text, pair = open_towers(system)
    model = make_encoder(
        image, text, system.embed_dim, system.project, system.shared, system.image_pooling, system.slots
    )
    alignment = Alignment(
        system.align,
        system.logit_scale,
        system.switch_at,
        system.switch_by,
        {"itc_loss": system.itc_weight, "sdm_loss": system.sdm_weight},
    )
    identity = IdentityHead(model.embed_dim, system.num_ids) if system.id_weight else None
    language = _masked_language(system, image, text) if system.mlm_weight else None
    generation = _generation(system, text) if system.enable_gen else None
    heads = Heads(identity, language, system.id_weight, system.mlm_weight, system.mask_global_text)
    return RetrievalTask(model, alignment, heads, generation, Origin(system, pair))


def _masked_language(system: RetrievalConfig, image: ImageTower, text: TextTower) -> MaskedLanguage:
    image_width = text.width if system.shared else image.width
    return MaskedLanguage(text.width, image_width, text.vocabulary(), system.mlm_layers, system.mlm_heads)


def _generation(system: RetrievalConfig, text: TextTower) -> "Generation":
    assert isinstance(text, T5Text)
    grid = (system.vq_grid[0], system.vq_grid[1])
    decoder = T5Decoder.like(text, system.num_codes, grid, system.gen_layers)
    tokenizer = None
    if system.vq_weights:
        tokenizer = FrozenTokenizer(system.vq_weights, system.vq_layout, system.num_codes, grid)
    generator = Generator(decoder, system.gen_way, system.gen_target, system.show_ids)
    return Generation(generator, tokenizer, system.gen_weight, system.gen_ramp, system.gen_from == "switched")


@dataclass(frozen=True)
class Heads:
    """The heads that the baseline, IRRA, trains beside the alignment, and their weights."""

    identity: IdentityHead | None = None
    language: MaskedLanguage | None = None
    id_weight: float = 0.0
    mlm_weight: float = 0.0
    mask_global_text: bool = False  # the other losses are given the masked text, too


@dataclass(frozen=True)
class Generation:
    """The generator that phase 4 trains beside the alignment, and its weight."""

    generator: Generator
    tokenizer: FrozenTokenizer | None = None  # encodes images that come without ids
    weight: float = 1.0
    ramp: int = 0  # batches over which the weight rises from 0
    waits: bool = False  # the weight is 0 until the alignment has switched: before, the texts say nothing yet

    def weight_at(self, batch: int, since: Tensor) -> float | Tensor:
        """Return the weight of gen_loss after so many batches. since: the batches since the alignment switched."""
        if not self.waits:
            return self.weight * min(1.0, batch / max(1, self.ramp))
        return self.weight * (since / max(1, self.ramp)).clamp(max=1.0)


class Alignment(nn.Module):
    """ITC, SDM, both, or ITC until enough of the softmax lies on positives and SDM from then on.

    SDM alone makes little progress with encoders that are not aligned yet, as its gradient vanishes where positives are
    unlikely (see `align.sdm`). Whether it has switched is part of the state, so a resumed run equals one
    that was not interrupted. Other kinds switch nothing but the generation that waits for it.
    """

    positive: Tensor  # (), running mean of `align.positive_share`
    switched: Tensor  # (), 1 once enough lies on positives and SDM takes over, before that 0
    since: Tensor  # (), batches since then

    def __init__(
        self,
        kind: str = "itc_then_sdm",
        logit_scale: float = 50.0,
        switch_at: float = 0.5,
        switch_by: int = 0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """switch_at: the fraction that is enough. switch_by: the batch to switch at in any case, 0 for none."""
        super().__init__()
        self.kind, self.logit_scale, self.switch_at, self.switch_by = kind, logit_scale, switch_at, switch_by
        self._weights = {"itc_loss": 1.0, "sdm_loss": 1.0, **(weights or {})}
        self.register_buffer("positive", torch.zeros(()))
        self.register_buffer("switched", torch.zeros(()))
        self.register_buffer("since", torch.zeros(()))

    def forward(self, image: Tensor, text: Tensor, ids: Tensor, batch: int = 0) -> dict[str, Tensor]:
        """Return the raw terms of unit rows (B, E) and their persons (B,). batch: how many were trained before."""
        self._update(align.positive_share(image, text, ids, self.logit_scale), batch)
        terms = {}
        if self.kind != "sdm":
            terms["itc_loss"] = align.itc(image, text, self.logit_scale, ids)
        if self.kind != "itc":
            terms["sdm_loss"] = align.sdm(image, text, ids, self.logit_scale)
        return terms

    def weights(self) -> dict[str, float | Tensor]:
        """Return the present weight of each term."""
        weights: dict[str, float | Tensor] = dict(self._weights)
        if self.kind == "itc_then_sdm":  # on the device: asking which it is would wait for a GPU
            weights["itc_loss"] = weights["itc_loss"] * (1 - self.switched)
            weights["sdm_loss"] = weights["sdm_loss"] * self.switched
        return weights

    @torch.no_grad()
    def _update(self, positive: Tensor, batch: int) -> None:
        self.since.add_(self.switched)
        due = self.positive >= self.switch_at  # of the batches before this one
        if self.switch_by and batch >= self.switch_by:
            due = torch.ones_like(due)
        self.switched.copy_(torch.maximum(self.switched, due.to(self.switched)))
        self.positive.lerp_(positive.to(self.positive), 1 - KEPT)


class RetrievalTask(Task[Batch]):
    """Images and captions to one space. Everything but the alignment is computed in training only."""

    own_state = (
        "alignment.positive",
        "alignment.switched",
        "alignment.since",
        "acceptance",
        "identity.linear.weight",  # a row for each person of the run's own data
        "identity.linear.bias",
    )
    added_state = ("acceptance", "alignment.since")
    acceptance: Tensor  # (4, S), see `metrics.acceptance.Acceptance`; chosen on validation
    identity: IdentityHead | None
    language: MaskedLanguage | None
    generator: Generator | None

    def __init__(
        self,
        model: DualEncoder,
        alignment: Alignment,
        heads: Heads | None = None,
        generation: Generation | None = None,
        origin: Origin | None = None,
    ) -> None:
        """origin: how the model was made, which `PersonRetriever.save_pretrained` writes down."""
        heads = heads or Heads()
        super().__init__({"id_loss": heads.id_weight, "mlm_loss": heads.mlm_weight})
        self.model, self.alignment, self.identity, self.language = model, alignment, heads.identity, heads.language
        self.generator = None if generation is None else generation.generator
        self.generation, self.origin, self.mask_global_text = generation, origin, heads.mask_global_text
        self._last: PedesBatch | None = None
        self.register_buffer("acceptance", torch.stack(list(Acceptance.unknown())))

    def published(self, file: Path) -> dict[str, Tensor]:
        """Return the weights of a published file: of the encoder, if it is a checkpoint of IRRA or RDE."""
        weights = read_weights(file)
        if not any(name.removeprefix("module.").startswith(irra.BASE) for name in weights):
            return weights
        encoder, left_out = irra.read_encoder(file)
        shards.say(f"{file}: {left_out}")
        sides = {True: "model.image.", False: "model.text.text."}
        return {f"{sides[name.startswith('visual.')]}{name}": weight.float() for name, weight in encoder.items()}

    @property
    def encoder(self) -> SharedEncoder:
        """The model, which encodes images and texts together, too."""
        assert isinstance(self.model, SharedEncoder)
        return self.model

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(batch, PedesBatch), "training batches are pairs"
        self._last = batch if self.generator is not None else None  # for `stats`
        image, text = self.model.image_features(batch.images), self._text_features(batch)
        persons = align.gather(batch.pids)
        terms = self.alignment(align.gather(image.unit), align.gather(text.unit), persons, self.batches)
        self.weights |= self.alignment.weights()
        if self.identity is not None:
            terms["id_loss"] = self.identity(image.vector, text.vector, batch.pids)
        if self.language is not None:
            terms["mlm_loss"] = self._masked_language_loss(self.language, image, text, batch)
        if self.generation is not None:
            self.weights["gen_loss"] = self.generation.weight_at(self.batches, self.alignment.since)
            terms["gen_loss"] = self._generation_loss(self.generation.generator, batch)
        return terms

    def _text_features(self, batch: PedesBatch) -> Features:
        """The texts for the alignment and the identity loss: not masked, unless the config says otherwise."""
        ids = batch.caption_ids
        if self.mask_global_text:
            ids, _ = _masked(batch)
        return self.model.text_features(ids, batch.caption_attn_mask)

    def _masked_language_loss(self, head: MaskedLanguage, image: Features, text: Features, batch: PedesBatch) -> Tensor:
        ids, labels = _masked(batch)
        if not self.mask_global_text:
            text = self.model.text_features(ids, batch.caption_attn_mask)
        return head.loss(text.tokens, batch.caption_attn_mask, image.tokens, labels)

    def _generation_loss(self, generator: Generator, batch: PedesBatch) -> Tensor:
        batch = generated_rows(batch)
        images, ids, hidden = self.generation_view(batch)
        condition = self.encoder.condition(self.encoder.image_words(images), batch.caption_ids, batch.caption_attn_mask)
        loss: Tensor = generator(condition.tokens, condition.mask, ids, hidden)
        return loss

    def generation_view(self, batch: PedesBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return masked images (B, 3, H, W), ids and what is hidden (B, h·w). The whole image gives at most the ids."""
        ids = batch.vq_target_ids
        tokenizer = None if self.generation is None else self.generation.tokenizer
        if ids is None and batch.vq_images is not None and tokenizer is not None:
            ids = tokenizer(batch.vq_images)
        if batch.masked_images is None or ids is None or batch.vq_target_attn_mask is None:
            raise SightwordError(
                "system.enable_gen needs hidden cells and their VQ ids. Set data.hide=0.5 and data.vq_ids to what "
                "`sightword tokenize` wrote, or system.enable_gen=false"
            )
        return batch.masked_images, ids, batch.vq_target_attn_mask

    def stats(self) -> dict[str, float]:
        """positive_share: running mean of the fraction of the softmax on positives; sdm: 1 once SDM is trained.

        text_gain, phase 4: how much better the true text predicts the ids than another person's, in nats per id, on
        the last batch.
        """
        found = {"positive_share": float(self.alignment.positive)}
        if self.alignment.kind == "itc_then_sdm":
            found["sdm"] = float(self.alignment.switched)
        if self.generator is not None and self._last is not None:
            training = self.training
            gains = self.eval().text_gain(self._last)
            self.train(training)
            if len(gains):
                found["text_gain"] = float(gains.mean())
        return found

    def text_gain(self, batch: PedesBatch) -> Tensor:
        """Return nats per id, one value for each row that can be given another person's text, (≤ B,)."""
        gains, counted, there = self.gains(batch)
        return (gains.sum(1) / counted.sum(1).clamp(min=1))[there]

    @torch.no_grad()
    def gains(self, batch: PedesBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the nats that each id gains by its row's text (B, h·w), which ids count (B, h·w), and which rows (B,).

        A row counts if the batch has a text of another person to compare with. Rows: those with a generation view.
        """
        assert self.generator is not None
        batch = generated_rows(batch)
        images, ids, hidden = self.generation_view(batch)
        words = self.encoder.image_words(images)
        others, there = other_texts(batch.pids)
        entropies = []
        for rows in (torch.arange(len(ids), device=ids.device), others):
            condition = self.encoder.condition(words, batch.caption_ids[rows], batch.caption_attn_mask[rows])
            each, counted = self.generator.each(condition.tokens, condition.mask, ids, hidden)
            entropies.append(each)
        return entropies[1] - entropies[0], counted, there

    def parameter_groups(self) -> dict[str, list[Parameter]]:
        """image, text: pretrained; head: new and kept; training, generator: new and not kept."""
        kept = {"image": self.model.image, "text": self.model.text}
        found = {name: list(tower.parameters()) for name, tower in kept.items()}
        if (bias := getattr(self.model.text, "grid_bias", None)) is not None:
            new = set(bias.parameters())
            found["text"] = [p for p in found["text"] if p not in new]
        old = {p for parameters in found.values() for p in parameters}
        found["head"] = [p for p in self.model.parameters() if p not in old]
        extra = {"training": (self.identity, self.language), "generator": (self.generator,)}
        for name, modules in extra.items():
            found[name] = [p for module in modules if module is not None for p in module.parameters()]
        return {name: [p for p in parameters if p.requires_grad] for name, parameters in found.items()}


def _masked(batch: PedesBatch) -> tuple[Tensor, Tensor]:
    if batch.masked_ids is None or batch.masked_labels is None:
        raise SightwordError("masked language modelling needs masked texts. Set data.mask_text=0.15, or mlm_weight=0")
    return batch.masked_ids, batch.masked_labels
