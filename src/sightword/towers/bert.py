"""BERT and its kind as text towers: encoders that read a text in both directions, with positions of their own.

    ids → BertText → tokens (B, L, D), pooled (B, D)

Legend: B batch; L tokens of a text; D token width.
"""

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from sightword.errors import SightwordError
from sightword.towers.base import Encoded, readable
from sightword.towers.foreign import Foreign
from sightword.towers.hugging_face import (
    HFText,
    check_vocabulary,
    config_of,
    open_tokenizer,
    open_weights,
    quiet,
    sentence_of,
)
from sightword.towers.sentence import POOLINGS, pool
from sightword.towers.tokenizer import HFTokenizer

#: Our names → Hugging Face's.
presets = {
    "bert_base": "google-bert/bert-base-uncased",
    "bert_base_cased": "google-bert/bert-base-cased",
    "bert_large": "google-bert/bert-large-uncased",
    "bert_multilingual": "google-bert/bert-base-multilingual-cased",
    "distilbert_base": "distilbert/distilbert-base-uncased",
    "roberta_base": "FacebookAI/roberta-base",
    "roberta_large": "FacebookAI/roberta-large",
    "xlm_roberta_base": "FacebookAI/xlm-roberta-base",
    "albert_base": "albert/albert-base-v2",
    "electra_base": "google/electra-base-discriminator",
    "mpnet_base": "microsoft/mpnet-base",
}


class BertText(HFText):
    """BERT, DistilBERT, RoBERTa, XLM-R, ALBERT, ELECTRA, MPNet, …: encoders trained on masked words.

    Pooled is the last hidden state of the first token ("cls"), without BERT's tanh pooler, which is not built; the
    "mean" of the real tokens; or another of `sentence.POOLINGS`. A folder of sentence-transformers states its own.
    """

    poolings = tuple(POOLINGS)

    def __init__(self, model: Foreign, tokenizer: HFTokenizer, name: str = "BERT", pooling: str = "cls") -> None:
        super().__init__(model, tokenizer, name, pooling)

    @classmethod
    def load(
        cls,
        name: str | Path,
        pooling: str = "",
        special: Sequence[str] = (),
        length: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """In eval mode. Raises SightwordError for a checkpoint, a name or an option that does not fit.

        name: one of `presets`, a Hugging Face name, or a folder, read without network; vocab.txt, config.json and
        weights are enough. pooling: of `poolings`; empty: as the folder's 1_Pooling/config.json states, or else cls.
        special: tokens to add, as "[ENC]", "[DEC]"; what is new to the tokenizer begins with small
        random vectors, the same each time. length: the most tokens of a text, if not as many as there are positions.
        """
        name = presets.get(str(name), str(name))
        config = config_of(name)
        kind = _kind(config, name)
        tokenizer = open_tokenizer(name)
        unpooled = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}
        model = open_weights(kind, name, config, dtype, **unpooled)
        check_vocabulary(tokenizer, model, name)
        most, sentence = positions(model), sentence_of(name)
        if sentence is not None:
            most = min(sentence.length or sys.maxsize, most or sys.maxsize)
            pooling = pooling or sentence.pooling
        if length is None and most is None:
            raise SightwordError(f"{name} has no limit of positions; say how long texts may be, length=128")
        if length is not None and not 0 < length <= (most or length):
            raise SightwordError(f"texts of {length} tokens do not fit {name}, which has {most} positions")
        _add_tokens(model, tokenizer, special)
        return cls(model, HFTokenizer(tokenizer, length or most or 0), name, pooling or "cls").follow(sentence).eval()

    def special_id(self, token: str) -> int:
        """The id of a special token, to write into ids: `ids[:, 0] = tower.special_id("[ENC]")`."""
        id_ = self.tokenizer.hf.convert_tokens_to_ids(token)
        if id_ not in self.tokenizer.special or (
            id_ == self.tokenizer.unknown and token != self.tokenizer.hf.unk_token
        ):
            raise SightwordError(f"{token!r} is not a special token of {self.name}; load it with special=({token!r},)")
        return id_

    def check(self, ids: Tensor, mask: Tensor | None) -> None:
        """As for any tower, and texts begin at their first place: BERT's positions count from there, padding or not."""
        super().check(ids, mask)
        if mask is not None and readable(mask) and not mask[:, 0].all():
            raise SightwordError(f"a text begins with padding by its mask; {self.name} reads texts padded on the right")

    def forward(
        self, ids: Tensor | None = None, mask: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Encoded:
        """ids, mask: (B, L). inputs_embeds: (B, L, ·) instead of ids, as `embed` gives them."""
        try:
            words = inputs_embeds if ids is None else ids
            assert words is not None
            assert words.numel()
            assert words.shape[1] <= self.tokenizer.length
            assert mask is None or mask.shape == words.shape[:2]
            attention_mask = None if mask is None else mask.bool().long()
            vectors = None if inputs_embeds is None else inputs_embeds.to(self.model.dtype)
            tokens = self.model(input_ids=ids, inputs_embeds=vectors, attention_mask=attention_mask)[0].float()
            pooled = self._pool(tokens, mask)
        except Exception:
            self.check_either(ids, mask, inputs_embeds)  # raises an error that explains, if they are at fault
            raise
        return Encoded(tokens, pooled, None if mask is None else mask.bool())

    def _pool(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (B, L, D) float32 to (B, E). On the CPU, AssertionError for a text that begins with padding."""
        if mask is not None and mask.is_cpu and not torch.compiler.is_compiling():
            assert mask[:, 0].all()
        own = self.pooling == "cls"  # BERT's own: the first token, whatever the mask
        pooled: Tensor = self.behind(tokens[:, 0] if own else pool(tokens, mask, self.pooling))
        return pooled


def positions(model: Foreign) -> int | None:
    """The most tokens that a model has positions for. RoBERTa's kind counts its own from behind the padding's."""
    limit = getattr(model.config, "max_position_embeddings", None)
    table = next((part for name, part in model.named_modules() if name.endswith("position_embeddings")), None)
    padding = getattr(table, "padding_idx", None)
    return limit if limit is None or padding is None else limit - padding - 1


def _kind(config: Foreign, name: str) -> Foreign:
    """The class of transformers for a config, if it is an encoder of texts trained on masked words."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING

    from sightword.towers.t5 import FAMILY

    what = config.model_type
    if what in FAMILY:
        raise SightwordError(f"{name} is a {what}: load it with towers.t5.T5Text")
    if getattr(config, "is_encoder_decoder", False):
        raise SightwordError(
            f"{name} is a {what}, an encoder with a decoder; BertText reads encoders, T5Text those of a T5"
        )
    if what in ("siglip", "siglip2"):
        raise SightwordError(f"{name} is a {what}, of images and texts: load it with towers.text_tower")
    if getattr(config, "is_decoder", False) or type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise SightwordError(
            f"{name} is a {what}, not an encoder that reads both ways; BertText reads a BERT, RoBERTa, …, T5Text a T5"
        )
    return MODEL_MAPPING[type(config)]


def _add_tokens(model: Foreign, tokenizer: Foreign, special: Sequence[str]) -> None:
    """Put special tokens into the vocabulary, and rows for them into the embedding table."""
    tokens = {"additional_special_tokens": list(special)}
    added = tokenizer.add_special_tokens(tokens, replace_extra_special_tokens=False) if special else 0
    old, table = len(tokenizer) - added, model.get_input_embeddings()
    if len(tokenizer) > table.num_embeddings:
        with torch.random.fork_rng(devices=[]), quiet():  # transformers draws, and we draw again
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        table = model.get_input_embeddings()
    new = torch.randn(added, table.embedding_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        table.weight[old : len(tokenizer)] = new * getattr(model.config, "initializer_range", 0.02)
