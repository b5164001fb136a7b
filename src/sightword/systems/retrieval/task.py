"""The objective of finding a described person, and its measures.

    total = itc_weight·itc_loss, later sdm_weight·sdm_loss             (or either, or both from the start)
            + id_weight·id_loss + mlm_weight·mlm_loss                  (the baseline, IRRA)
            + gen_weight·min(1, batches / gen_ramp)·gen_loss           (phase 4)

Legend: B batch; L text tokens; E width of the common space; h, w cells of a grid of image codes.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import Parameter

from sightword.data.image import to_image, to_tensor
from sightword.engine.contract import SPLITS, Task
from sightword.metrics.gather import Mean, gathered
from sightword.ops import align
from sightword.systems.retrieval.config import RetrievalConfig
from sightword.systems.retrieval.data import ImageRows, PedesBatch, TextRows
from sightword.systems.retrieval.export import read_exported as read_exported
from sightword.systems.retrieval.export import write_exported
from sightword.systems.retrieval.generation import Generator, LazyCodes, other_texts
from sightword.systems.retrieval.loss import Alignment, IdentityHead, MaskedLanguage
from sightword.systems.retrieval.model import DualEncoder, Seen, SharedEncoder, make_encoder
from sightword.towers.base import ImageTower, TextTower
from sightword.towers.factory import image_tower, tower_pair
from sightword.towers.t5 import T5Decoder, T5Text
from sightword.viz import grid as grid_viz
from sightword.viz import overlay
from sightword.viz.grid import titled

SHOWN = 6  # images of a picture


def make_task(system: RetrievalConfig) -> "RetrievalTask":
    """The task that a config describes."""
    image, text, pair = open_towers(system)
    model = make_encoder(image, text, system.embed_dim, system.project, system.shared, system.image_pooling)
    alignment = Alignment(
        system.align,
        system.scale,
        system.switch_at,
        system.switch_by,
        {"itc_loss": system.itc_weight, "sdm_loss": system.sdm_weight},
    )
    persons = IdentityHead(model.embed_dim, system.num_ids) if system.id_weight else None
    words = None
    if system.mlm_weight:
        image_width = text.width if system.shared else image.width
        words = MaskedLanguage(text.width, image_width, text.vocabulary(), system.mlm_layers, system.mlm_heads)
    task = RetrievalTask(model, alignment, persons, words, _make_generator(system, text))
    task.weights |= {"id_loss": system.id_weight, "mlm_loss": system.mlm_weight}
    task.gen_weight, task.gen_ramp, task.mask_global_text = system.gen_weight, system.gen_ramp, system.mask_global_text
    if system.enable_gen and system.vq_weights:
        task.codes = LazyCodes(
            system.vq_weights, system.vq_layout, system.num_codes, (system.vq_grid[0], system.vq_grid[1])
        )
    task.system, task.pair = asdict(system), (pair,)
    return task


def open_towers(system: RetrievalConfig) -> tuple[ImageTower, TextTower, Any]:
    """Both towers of a config, frozen where it says so, and the CLIP or SigLIP that they are the two sides of, or None.

    Of a CLIP or SigLIP beside a T5 only the image side is kept.
    """
    size = (system.image_size[0], system.image_size[1])
    name, tag = getattr(system, system.image), getattr(system, f"{system.image}_tag")
    length: dict[str, Any] = {"length": system.text_length} if system.text_length else {}
    image: ImageTower
    text: TextTower
    pair: Any = None
    if system.image == system.text:
        if length and system.text == "siglip":
            raise ValueError("a SigLIP reads texts of the one length that it was trained with: set text_length=0")
        pair = tower_pair(name, tag=tag, size=size, **length)
        image, text = pair.image, pair.text
    else:
        image = image_tower(name, tag=tag, size=size)
        grid = image.grid(size) if system.shared and system.grid_bias else None
        text = T5Text.load(system.t5, system.text_pooling, grid, **length)
    if system.freeze_image:
        image.freeze()
    if system.freeze_text:
        text.freeze()
        if isinstance(text, T5Text) and text.grid_bias is not None:  # new, whatever is done with the T5
            text.grid_bias.requires_grad_(True)
    return image, text, pair


def _make_generator(system: RetrievalConfig, text: TextTower) -> Generator | None:
    if not system.enable_gen:
        return None
    assert isinstance(text, T5Text)
    grid = (system.vq_grid[0], system.vq_grid[1])
    decoder = T5Decoder.like(text, system.num_codes, grid, system.gen_layers)
    return Generator(decoder, system.gen_way, system.gen_target, system.show_codes)


class RetrievalTask(Task):
    """Images and captions to one space; what else is asked of the encoders is asked in training only."""

    system: dict[str, Any]  # what it was made of
    # pair: the CLIP or SigLIP that both towers are the sides of, or None; in a tuple, where nn.Module does not look.

    def __init__(
        self,
        model: DualEncoder,
        alignment: Alignment,
        persons: IdentityHead | None = None,
        words: MaskedLanguage | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.model, self.alignment, self.persons, self.words = model, alignment, persons, words
        self.generator = generator
        self.gen_weight, self.gen_ramp, self.mask_global_text = 1.0, 0, False
        self.pair: tuple[Any] = (None,)
        self.codes: LazyCodes | None = None
        self.split = "val"  # that was measured last
        self._last: PedesBatch | None = None
        self._seen: tuple[Rows, Rows] | None = None  # images and captions of the last measures
        self._forget()

    @property
    def encoder(self) -> SharedEncoder:
        """The model, known to read images and texts together."""
        assert isinstance(self.model, SharedEncoder)
        return self.model

    # ------------------------------------------------------------------------------------------------------ training

    def losses(self, batch: PedesBatch) -> dict[str, Tensor]:
        self._last = batch if self.generator is not None else None  # for `stats`
        image, text = self.model.see(batch.images), self._read(batch)
        persons = align.gather(batch.pids)
        terms = self.alignment(align.gather(image.unit), align.gather(text.unit), persons, self.batches)
        self.weights |= self.alignment.weights()
        if self.persons is not None:
            terms["id_loss"] = self.persons(image.vector, text.vector, batch.pids)
        if self.words is not None:
            terms["mlm_loss"] = self._hidden_words(image, text, batch)
        if self.generator is not None:
            self.weights["gen_loss"] = self.gen_weight * min(1.0, self.batches / max(1, self.gen_ramp))
            terms["gen_loss"] = self._generated(batch)
        return terms

    def _read(self, batch: PedesBatch) -> Seen:
        """The texts as the global losses see them: whole, unless the config says otherwise."""
        ids = batch.caption_ids
        if self.mask_global_text:
            ids, _ = _masked(batch)
        return self.model.read(ids, batch.caption_attn_mask)

    def _hidden_words(self, image: Seen, text: Seen, batch: PedesBatch) -> Tensor:
        assert self.words is not None
        ids, labels = _masked(batch)
        if not self.mask_global_text:
            text = self.model.read(ids, batch.caption_attn_mask)
        return self.words.loss(text.tokens, batch.caption_attn_mask, image.tokens, labels)

    def _generated(self, batch: PedesBatch) -> Tensor:
        assert self.generator is not None
        images, ids, hidden = self._generation_view(batch)
        condition = self.encoder.condition(self.encoder.image_words(images), batch.caption_ids, batch.caption_attn_mask)
        return self.generator(condition.tokens, condition.mask, ids, hidden)

    def _generation_view(self, batch: PedesBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Masked images (B, 3, H, W), ids and what is hidden (B, h·w). Of the whole image at most the ids are taken."""
        ids = batch.vq_target_ids
        if ids is None and batch.vq_images is not None and self.codes is not None:
            ids = self.codes(batch.vq_images)
        if batch.masked_images is None or ids is None or batch.vq_target_attn_mask is None:
            raise ValueError(
                "the generator predicts codes of hidden cells: set data.hide=0.5 and data.vq_codes to what `sightword "
                "tokenize` wrote, or system.enable_gen=false"
            )
        return batch.masked_images, ids, batch.vq_target_attn_mask

    def stats(self) -> dict[str, float]:
        """positive_share: running mean of how much of the softmax lies on positives; sdm: 1 where SDM is trained.

        text_gain, generation alone: nats a code that the true text is better than another's, on the last batch.
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
        """Nats a code, one value a row that can be given another person's text; (≤ B,)."""
        gains, counted, there = self._gains(batch)
        return (gains.sum(1) / counted.sum(1).clamp(min=1))[there]

    @torch.no_grad()
    def _gains(self, batch: PedesBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Nats of each code (B, h·w) that its row's text is worth, where it counts (B, h·w), and of which rows (B,)."""
        assert self.generator is not None
        images, ids, hidden = self._generation_view(batch)
        words = self.encoder.image_words(images)
        others, there = other_texts(batch.pids)
        entropies = []
        for rows in (torch.arange(len(ids), device=ids.device), others):
            condition = self.encoder.condition(words, batch.caption_ids[rows], batch.caption_attn_mask[rows])
            each, counted = self.generator.each(condition.tokens, condition.mask, ids, hidden)
            entropies.append(each)
        return entropies[1] - entropies[0], counted, there

    def roles(self) -> dict[str, list[Parameter]]:
        """image, text: what was pretrained; head: what is new and stays; generator, and training: what does not."""
        kept = {"image": self.model.image, "text": self.model.text}
        found = {name: list(tower.parameters()) for name, tower in kept.items()}
        if (bias := getattr(self.model.text, "grid_bias", None)) is not None:
            new = set(bias.parameters())
            found["text"] = [p for p in found["text"] if p not in new]
        old = {p for parameters in found.values() for p in parameters}
        found["head"] = [p for p in self.model.parameters() if p not in old]
        extra = {"training": (self.persons, self.words), "generator": (self.generator,)}
        for name, modules in extra.items():
            found[name] = [p for module in modules if module is not None for p in module.parameters()]
        return {name: [p for p in parameters if p.requires_grad] for name, parameters in found.items()}

    def reads(self) -> dict[str, Any]:
        found: dict[str, Any] = {"tokenizer": self.model.tokenizer, "patch": self.model.image.patch}
        if self.generator is not None:
            decoder = self.generator.decoder
            found["expect"] = {"num_codes": decoder.num_codes, "shapes": {"ids": list(decoder.grid_bias.grid)}}
            found["factor"] = self.codes.factor if self.codes is not None else 0
            found["expect"] |= {"weights": self.codes.digest} if self.codes is not None else {}
        return found

    # ------------------------------------------------------------------------------------------------------ measures

    @torch.no_grad()
    def evaluate(self, batch: PedesBatch | ImageRows | TextRows) -> None:
        """Images and captions apart, each once. Of a training batch, the text gain."""
        if isinstance(batch, ImageRows):
            self.split = batch.split
            self._images.append(Rows.of(self.model.encode_image(batch.images), batch))
        elif isinstance(batch, TextRows):
            self._texts.append(Rows.of(self.model.encode_text(batch.caption_ids, batch.caption_attn_mask), batch))
        elif self.generator is not None:
            self._gain.update(self.text_gain(batch))

    def measures(self) -> dict[str, float]:
        """Percent, from captions to images, and i2t_… from images to captions; text_gain in nats a code."""
        from sightword.metrics.ranking import measures_of

        images, texts, gain = (
            gathered(Rows, self._images),
            gathered(Rows, self._texts),
            self._gain.reduce(),
        )
        self._forget()
        found: dict[str, float] = {}
        if images is not None and texts is not None:
            self._seen = images, texts
            found |= measures_of(images.vectors, images.pids, texts.vectors, texts.pids)
        if gain.sum[1]:
            found["text_gain"] = float(gain.value())
        return found

    @torch.no_grad()
    def pictures(self, batch: PedesBatch | ImageRows | TextRows) -> dict[str, Image]:
        """What the generator is shown of some images, and where their texts help it (red) or mislead it (blue)."""
        if self.generator is None or not isinstance(batch, PedesBatch):
            return {}
        some = PedesBatch._make(None if part is None else part[:SHOWN] for part in batch)
        gains, _, there = self._gains(some)
        if not there.any():
            return {}
        shown, grid = self._generation_view(some)[0][there], self.generator.decoder.grid_bias.grid
        maps = gains[there].unflatten(1, grid)  # (S, h, w)
        limit = max(float(maps.abs().max()), 1e-6)
        laid = [overlay.heat_map(cells, to_image(image), limit) for cells, image in zip(maps, shown, strict=True)]
        both = {
            "what is shown": shown,
            f"where the text helps, up to {limit:.2g} nats": torch.stack([to_tensor(image) for image in laid]),
        }
        scale = max(1, math.ceil(64 / min(shown.shape[2:])))
        side = {title: grid_viz.grid(images, SHOWN, scale=scale) for title, images in both.items()}
        return {"text_gain": titled(side)}

    def draw(self, loader: Any, folder: Path) -> list[Path]:
        """Captions with their best images, and what one changed word does to a score, as `sightword probe` has them."""
        from sightword.systems.retrieval import show
        from sightword.systems.retrieval.gallery import Embedder

        if self._seen is None:
            return []
        images, texts = self._seen
        embedder = Embedder(self.model, "this run")
        return show.draw(embedder.embed, loader.dataset.split, texts.vectors, images.vectors, folder)

    def protocol(self) -> dict[str, Any]:
        from sightword.metrics.ranking import PROTOCOL

        return {
            **PROTOCOL,
            "embeddings": "each computed without its counterpart",
            "text_gain": "cross-entropy of hidden codes with another person's text less that with the own, nats a code",
            "split": SPLITS[self.split],
        }

    def _forget(self) -> None:
        self._images: list[Rows] = []
        self._texts: list[Rows] = []
        self._gain = Mean()

    # ------------------------------------------------------------------------------------------------------ the result

    def export(self, folder: Path) -> None:
        """The encoder alone; `read_exported` reads it."""
        write_exported(self.model, self.system, folder, self.pair[0])


class Rows(NamedTuple):
    """Embeddings of a validation, on the CPU."""

    vectors: Tensor  # (N, E) float32
    pids: Tensor  # (N,)
    number: Tensor  # (N,), which of the split

    @classmethod
    def of(cls, vectors: Tensor, batch: ImageRows | TextRows) -> "Rows":
        return cls(vectors.float().cpu(), batch.pids.cpu().clone(), batch.index.cpu().clone())  # the loader's memory


def _masked(batch: PedesBatch) -> tuple[Tensor, Tensor]:
    if batch.masked_ids is None or batch.masked_labels is None:
        raise ValueError("the masked-language head needs hidden words: set data.mask_text=0.15, or system.mlm_weight=0")
    return batch.masked_ids, batch.masked_labels
