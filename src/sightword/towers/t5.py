"""T5 as a text tower, as the encoder that image and text tokens share, and as a decoder of image codes.

    ids → T5Text → tokens (B, L, D), pooled (B, D)
    image tokens (B, N, D) and ids → T5Text(image_tokens=…) → tokens (B, N + L, D)
    tokens and code ids (B, N) → T5Decoder → logits (B, N, K)

Legend: B batch; L tokens of a text; h, w cells of a grid, N = h·w, row by row; M tokens of a memory; D token width;
A attention heads; K codes.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import SightwordError
from sightword.ops.init import init_linear
from sightword.towers.base import Encoded
from sightword.towers.foreign import Foreign
from sightword.towers.hugging_face import (
    HFText,
    check_vocabulary,
    config_of,
    open_tokenizer,
    open_weights,
    sentence_of,
)
from sightword.towers.sentence import POOLINGS, pool
from sightword.towers.tokenizer import HFTokenizer

#: Our names → Hugging Face's.
presets = {
    "t5_small": "google-t5/t5-small",
    "t5_base": "google-t5/t5-base",
    "t5_large": "google-t5/t5-large",
    "t5_v1_1_base": "google/t5-v1_1-base",
    "flan_t5_small": "google/flan-t5-small",
    "flan_t5_base": "google/flan-t5-base",
    "flan_t5_large": "google/flan-t5-large",
    "mt5_base": "google/mt5-base",  # its tokenizer is a SentencePiece file alone, and needs protobuf
    "umt5_base": "google/umt5-base",
}
#: What a config calls itself → the class of its encoder.
FAMILY = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}

EXACT, FAR, BUCKETS = 8, 32, 16  # of distances: 8 exact ones, then 8 evenly spaced in log up to 32 (T5's rule)


class T5Text(HFText):
    """The encoder of a T5, mT5 or UMT5.

    With `image_tokens` it encodes those too, first in the sequence: so the padding behind the text moves nothing.
    Without `grid` they are a text to T5, read row by row, and its 1-D bias takes the last cell of a row and the first
    of the next for neighbours. With `grid`, pairs of cells have a bias of their own, `GridBias`; pairs of words keep
    T5's; and between a cell and a word stands T5's bias for whatever is far off, one for each direction, as no word
    is nearer to one cell than to another. A text alone is encoded as by the stock T5 in either case.

    `grid_bias` is not part of the Hugging Face folder that `save` writes; it is kept in the state_dict of whatever
    the tower is trained in.
    """

    poolings = ("mean", *(pooling for pooling in POOLINGS if pooling not in ("mean", "cls")))

    def __init__(
        self,
        model: Foreign,
        tokenizer: HFTokenizer,
        name: str = "T5",
        pooling: str = "mean",
        grid: tuple[int, int] | None = None,
    ) -> None:
        """model: transformers' T5EncoderModel or its like. grid: (h, w) of the image tokens."""
        super().__init__(model, tokenizer, name, pooling)
        self.grid_bias: GridBias | None = None
        if grid is None:
            return
        if model.config.model_type == "umt5":
            raise SightwordError(
                f"{name} is a UMT5, with another position bias in every layer; grid= needs a T5 or mT5"
            )
        attention = _first_attention(model.encoder)
        self.grid_bias = GridBias(grid, model.config.num_heads).to(self.dtype)
        with torch.no_grad():
            self.grid_bias.start(attention.compute_bias(max(grid), max(grid))[0])

    @classmethod
    def load(
        cls,
        name: str | Path,
        pooling: str = "",
        grid: tuple[int, int] | None = None,
        length: int = 512,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """In eval mode. Raises SightwordError for a checkpoint, a name or an option that does not fit.

        name: one of `presets`, a Hugging Face name, or a folder, of the whole T5 or its encoder; a folder is read
        without network. length: the most tokens of a text; T5 has no limit of its own, its pretraining had 512.
        pooling: of `poolings`; empty: as the 1_Pooling/config.json of a sentence-T5 states, or else the mean.
        dtype: bfloat16 works, float16 overflows in many published T5s.
        """
        import transformers

        name = presets.get(str(name), str(name))
        config = config_of(name)
        if config.model_type not in FAMILY:
            raise SightwordError(f"{name} is a {config.model_type}; T5Text reads {', '.join(FAMILY)}, BertText a BERT")
        tokenizer = HFTokenizer(open_tokenizer(name), length)
        model = open_weights(getattr(transformers, FAMILY[config.model_type]), name, config, dtype)
        check_vocabulary(tokenizer.hf, model, name)
        sentence = sentence_of(name)
        pooling = pooling or (sentence.pooling if sentence else "mean")
        return cls(model, tokenizer, name, pooling, grid).follow(sentence).eval()

    def forward(
        self,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        image_tokens: Tensor | None = None,
    ) -> Encoded:
        """A text, image tokens, or image tokens and a text; the vector is pooled over all of them.

        ids, mask: (B, L). inputs_embeds: (B, L, D) instead of ids. image_tokens: (B, N, D), all of them real, of about
        the size of `embed`'s vectors: T5 does not normalise what it is given. The mask that is returned is of all.
        """
        try:
            vectors = self._vectors(ids, mask, inputs_embeds, image_tokens)  # (B, N + L, D)
        except Exception:
            self.check_all(ids, mask, inputs_embeds, image_tokens)  # raises an error that explains, if one is at fault
            raise
        mask = None if mask is None else mask.bool()
        if image_tokens is not None and mask is not None:
            mask = torch.cat([mask.new_ones(image_tokens.shape[:2]), mask], 1)
        if image_tokens is not None and self.grid_bias is not None:
            bias = self._bias(vectors.shape[1] - image_tokens.shape[1])
            additive = None if mask is None else _additive(mask[:, None, None], vectors)
            tokens = run_blocks(self.model.encoder, vectors, bias, additive)
        else:
            attention_mask = None if mask is None else mask.long()
            tokens = self.model(inputs_embeds=vectors, attention_mask=attention_mask).last_hidden_state
        tokens = tokens.float()
        return Encoded(tokens, self.pool(tokens, mask), mask)

    def pool(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (B, N, D) float32 to (B, E); padding has no part in it.

        Raises SightwordError for a row that is padding only. This is checked on the CPU alone: on a GPU, the check
        would wait for the device.
        """
        if mask is not None and mask.is_cpu and not torch.compiler.is_compiling() and not (some := mask.any(1)).all():
            number = int(some.int().argmin())
            raise SightwordError(f"text {number} of {len(mask)} is all padding by its mask; {self.name} cannot pool it")
        pooled: Tensor = self.behind(pool(tokens, mask, self.pooling))
        return pooled

    def check_all(
        self, ids: Tensor | None, mask: Tensor | None, inputs_embeds: Tensor | None, image_tokens: Tensor | None
    ) -> None:
        """Raise SightwordError unless `forward` can encode these."""
        texts = ids if inputs_embeds is None else inputs_embeds
        if texts is not None or image_tokens is None:
            self.check_either(ids, mask, inputs_embeds)
        elif mask is not None:
            raise SightwordError("mask= belongs to a text, and neither ids nor inputs_embeds is given")
        if image_tokens is None:
            return
        if image_tokens.ndim != 3 or image_tokens.shape[2] != self.width:
            raise SightwordError(f"expected image tokens (B, N, {self.width}), got {tuple(image_tokens.shape)}")
        if self.grid_bias is not None and image_tokens.shape[1] != self.grid_bias.length:
            (h, w), number = self.grid_bias.grid, image_tokens.shape[1]
            raise SightwordError(f"{number} image tokens do not fill the grid {h} × {w} of {self.name}")
        if texts is not None and len(texts) != len(image_tokens):
            raise SightwordError(f"{len(image_tokens)} images and {len(texts)} texts; give as many of both")

    def _vectors(
        self, ids: Tensor | None, mask: Tensor | None, inputs_embeds: Tensor | None, image_tokens: Tensor | None
    ) -> Tensor:
        """The input of the first block, (B, N + L, D), image tokens first. Its errors are explained by `check_all`."""
        parts, dtype = [], self.model.dtype
        if image_tokens is not None:
            assert self.grid_bias is None or image_tokens.shape[1] == self.grid_bias.length
            parts.append(image_tokens.to(dtype))
        if ids is not None or inputs_embeds is not None:
            assert ids is None or inputs_embeds is None
            words = self.model.get_input_embeddings()(ids) if inputs_embeds is None else inputs_embeds.to(dtype)
            assert words.numel()
            assert words.shape[1] <= self.tokenizer.length
            assert mask is None or mask.shape == words.shape[:2]
            parts.append(words)
        else:
            assert mask is None
        assert parts[0].shape[2:] == (self.width,)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _bias(self, words: int) -> Tensor:
        """(1, A, N + L, N + L), to be added to the attention's logits."""
        assert self.grid_bias is not None
        attention = _first_attention(self.model.encoder)
        table = attention.relative_attention_bias.weight  # (buckets, A): keys before the query, then those behind it
        before, behind = table[len(table) // 2 - 1], table[-1]  # (A,), the farthest of either
        cells = self.grid_bias()  # (A, N, N)
        size = (*cells.shape[:2], words)
        to_words, to_cells = behind[:, None, None].expand(size), before[:, None, None].expand(size).transpose(1, 2)
        own = attention.compute_bias(words, words)[0]  # (A, L, L)
        return torch.cat([torch.cat([cells, to_words], 2), torch.cat([to_cells, own], 2)], 1)[None]


class GridBias(nn.Module):
    """A position bias for attention between the cells of a grid: one number a head for each (rows, columns) between.

    Along either axis, distances below 8 are all told apart; from 8 on, up to four share a number, and from 27 on all
    do. So a grid of 24 × 8, with 705 offsets, has 435 numbers a head, and none for more than four offsets.
    """

    cells: Tensor  # (N, N) int64, which number stands between two cells

    def __init__(self, grid: tuple[int, int], heads: int) -> None:
        super().__init__()
        self.grid, self.length = (int(grid[0]), int(grid[1])), int(grid[0]) * int(grid[1])
        if min(self.grid) < 1:
            raise SightwordError(f"a grid is (height, width) in cells, both positive, not {tuple(grid)}")
        rows, columns = (_axis(side) for side in self.grid)  # (h, h), (w, w)
        number = rows[:, None, :, None] * (columns.max() + 1) + columns[None, :, None, :]  # (h, w, h, w)
        self.register_buffer("cells", number.reshape(self.length, self.length), persistent=False)
        self.weight = nn.Parameter(torch.zeros(int(number.max()) + 1, heads))

    def forward(self) -> Tensor:
        """(A, N, N): query, key."""
        return F.embedding(self.cells, self.weight).permute(2, 0, 1)

    @torch.no_grad()
    def start(self, line: Tensor) -> None:
        """Begin with what a 1-D bias (A, n, n) knows of distances: the mean of what it says for rows and columns."""
        h, w = self.grid
        rows, columns = line[:, :h, :h], line[:, :w, :w]
        bias = (rows[:, :, None, :, None] + columns[:, None, :, None, :]) / 2  # (A, h, w, h, w)
        flat, cells = bias.reshape(len(line), -1).T.to(self.weight), self.cells.flatten()
        count = torch.bincount(cells, minlength=len(self.weight))[:, None]
        self.weight.copy_(torch.zeros_like(self.weight).index_add_(0, cells, flat) / count)


class T5Decoder(nn.Module):
    """Predicts the N code ids of an image, a grid of h × w cells, from a memory (B, M, D) such as a tower's tokens.

    Two ways, on the same weights. `parallel`: some codes are hidden, and all of them are predicted at once, from the
    visible ones on all sides and the memory. `autoregressive`: each code from those before it and the memory; most of
    a code can be told from its left and upper neighbours, so the memory matters less. `fill` and `generate` make
    images in the one way and the other.

    The stack is T5's, the vocabulary its own: K codes, START (id K), MASK (id K + 1), and a head with K outputs, so
    neither can be predicted. Learned rows and columns are added to the input: the biases only know distances, and
    cells that are all hidden would all be told the same. In the autoregressive way position t tells where code t is,
    the one to be predicted, and START stands at distance zero, which no code before t can have.

    What a system does for its loss (0 is a code: never ignore_index=0):

        logits = decoder.parallel(memory, mask, ids, hidden)  # (B, N, K)
        loss = F.cross_entropy(logits.mT, ids.masked_fill(~hidden, -100))
        loss = F.cross_entropy(decoder.autoregressive(memory, mask, ids).mT, ids)

    Either is ln K before training. All of it is in the state_dict of the system, there is no file of its own.
    """

    def __init__(
        self,
        num_codes: int,
        grid: tuple[int, int],
        width: int = 512,
        layers: int = 2,
        heads: int = 8,
        head_width: int = 64,
        hidden_width: int = 2048,
        feed_forward: str = "gated-gelu",
        dropout: float = 0.1,
        memory_width: int | None = None,
    ) -> None:
        """feed_forward: as T5's config has it, "relu" or "gated-gelu". memory_width: D of the memory, if not width."""
        super().__init__()
        self.num_codes, self.start, self.mask = num_codes, num_codes, num_codes + 1
        self.stack = _bare_stack(
            vocab_size=num_codes + 2,
            d_model=width,
            d_kv=head_width,
            d_ff=hidden_width,
            num_layers=layers,
            num_heads=heads,
            feed_forward_proj=feed_forward,
            dropout_rate=dropout,
        )
        self.grid_bias = GridBias(grid, heads)
        h, w = self.grid_bias.grid
        self.rows, self.columns = nn.Parameter(torch.randn(h, width) / 2), nn.Parameter(torch.randn(w, width) / 2)
        memory_width = memory_width or width
        self.from_memory = nn.Identity() if memory_width == width else nn.Linear(memory_width, width)
        self.head = nn.Linear(width, num_codes)
        init_linear(self.head, 0.1 * width**-0.5)

    @classmethod
    def like(cls, tower: T5Text, num_codes: int, grid: tuple[int, int], layers: int = 2, **options: Foreign) -> Self:
        """A new decoder with the sizes of a tower, whose tokens are its memory. options: as for a new one."""
        config = tower.model.config
        sizes = {
            "width": config.d_model,
            "heads": config.num_heads,
            "head_width": config.d_kv,
            "hidden_width": config.d_ff,
            "feed_forward": config.feed_forward_proj,
            "dropout": config.dropout_rate,
            "memory_width": tower.width,
        }
        return cls(num_codes, grid, layers=layers, **{**sizes, **options})

    @property
    def length(self) -> int:
        """N: codes of an image."""
        return self.grid_bias.length

    def parallel(self, memory: Tensor, memory_mask: Tensor | None, ids: Tensor, hidden: Tensor) -> Tensor:
        """Logits (B, N, K), float32. hidden: (B, N) bool; what `ids` has there is never looked at, it may be -100."""
        _check_hidden(ids, hidden)
        codes = self._check(ids.masked_fill(hidden, 0)).masked_fill(hidden, self.mask)
        nothing = self.head.weight.new_zeros(1, 1, 1, 1)  # a mask, if an empty one: without any, T5's stack is causal
        return self._logits(codes, self._places(), self.grid_bias()[None], nothing, *self._memory(memory, memory_mask))

    def autoregressive(self, memory: Tensor, memory_mask: Tensor | None, ids: Tensor) -> Tensor:
        """Logits (B, N, K), float32, of every code given the true ones before it."""
        self._check(ids)
        shifted = torch.cat([ids.new_full((len(ids), 1), self.start), ids[:, :-1]], 1)
        future = torch.ones(self.length, self.length, dtype=torch.bool, device=ids.device).triu(1)
        causal = _additive(~future[None, None], self.head.weight)
        return self._logits(
            shifted, self._places(), self._bias_of_steps()[None], causal, *self._memory(memory, memory_mask)
        )

    @torch.no_grad()
    def generate(
        self,
        memory: Tensor,
        memory_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Ids (B, N), one code after the other; each step computes only its own. temperature 0 takes the likeliest."""
        return self.decode(memory, memory_mask, lambda logits: draw(logits, temperature, generator))[0]

    @torch.no_grad()
    def decode(
        self, memory: Tensor, memory_mask: Tensor | None, choose: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Ids (B, N) and the logits (B, N, K) that they were chosen from. choose: logits (B, K) to ids (B,)."""
        from transformers import DynamicCache, EncoderDecoderCache

        with _evaluating(self):
            given = self._memory(memory, memory_mask)
            places, bias = self._places(), self._bias_of_steps()
            nothing = self.head.weight.new_zeros(1, 1, 1, 1)
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            codes = torch.full((len(memory), 1), self.start, device=memory.device)
            ids, logits = [], []
            for step in range(self.length):
                upto = bias[None, :, step : step + 1, : step + 1]  # (1, A, 1, step + 1)
                logits.append(self._logits(codes, places[step : step + 1], upto, nothing, *given, cache=cache)[:, 0])
                codes = choose(logits[-1])[:, None]
                ids.append(codes)
            return torch.cat(ids, 1), torch.stack(logits, 1)

    @torch.no_grad()
    def fill(
        self,
        memory: Tensor,
        memory_mask: Tensor | None,
        ids: Tensor,
        hidden: Tensor,
        steps: int = 8,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Ids (B, N) with codes where `hidden`; visible ones stay as they are (MaskGIT, Chang 2022).

        Each step predicts all that is hidden and keeps what it is surest of, so many that a cosine of the share of
        steps done is left hidden. temperature: of the draw, and of the Gumbel noise on how sure it is, which falls to
        none at the last step; 0 takes the likeliest, and needs no generator.
        """
        if steps < 1:
            raise SightwordError(f"codes are filled in one step or more, not {steps}")
        _check_hidden(ids, hidden)
        ids, left = ids.masked_fill(hidden, 0), hidden
        total = hidden.sum(1, keepdim=True)  # (B, 1)
        with _evaluating(self):
            for step in range(1, steps + 1):
                logits = self.parallel(memory, memory_mask, ids, left)  # (B, N, K)
                drawn = draw(logits, temperature, generator)  # (B, N)
                sure = logits.log_softmax(2).gather(2, drawn[..., None])[..., 0]
                noise = temperature * (1 - step / steps)
                sure = sure + noise * _gumbel(sure, generator) if noise else sure
                ids = torch.where(left, drawn, ids)
                rank = sure.masked_fill(~left, math.inf).argsort(1).argsort(1)  # the least sure first
                left = left & (rank < (total * math.cos(math.pi / 2 * step / steps)).floor())
        return ids

    def _logits(
        self,
        codes: Tensor,
        places: Tensor,
        bias: Tensor,
        mask: Tensor,
        memory: Tensor,
        memory_mask: Tensor | None,
        cache: Foreign = None,
    ) -> Tensor:
        vectors = self.stack.embed_tokens(codes) + places  # (B, N, D)
        tokens = run_blocks(self.stack, vectors, bias, mask, memory, memory_mask, cache)
        return self.head(tokens).float()

    def _places(self) -> Tensor:
        """(N, D)"""
        return (self.rows[:, None] + self.columns).flatten(0, 1)

    def _bias_of_steps(self) -> Tensor:
        """(A, N, N) of step t, which predicts cell t, and the code that step s is given: START, or cell s - 1's."""
        cells = self.grid_bias()
        zero = cells.diagonal(dim1=1, dim2=2)[..., None]  # (A, N, 1)
        return torch.cat([zero, cells[:, :, :-1]], 2)

    def _memory(self, memory: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if mask is not None and mask.shape != memory.shape[:2]:
            raise SightwordError(f"the memory's mask is {tuple(mask.shape)}, the memory {tuple(memory.shape)}")
        memory = self.from_memory(memory.to(self.head.weight.dtype))  # (B, M, D)
        return memory, None if mask is None else _additive(mask[:, None, None].bool(), memory)

    def _check(self, ids: Tensor) -> Tensor:
        if ids.ndim != 2 or ids.shape[1] != self.length or ids.is_floating_point():
            h, w = self.grid_bias.grid
            raise SightwordError(f"ids are integers (B, {h} · {w}), these are {ids.dtype} {tuple(ids.shape)}")
        if ids.numel() and not 0 <= (worst := int(ids.max() if ids.min() >= 0 else ids.min())) < self.num_codes:
            raise SightwordError(f"id {worst} is not one of {self.num_codes} codes")
        return ids


def _bare_stack(**sizes: Foreign) -> Foreign:
    """transformers' T5Stack of a decoder, without a position bias of its own: every call brings one."""
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Stack

    stack: Foreign = T5Stack(T5Config(**sizes, is_decoder=True, pad_token_id=None, eos_token_id=None))
    nn.init.normal_(stack.embed_tokens.weight)  # as T5's own; a stack by itself gets another
    attention = _first_attention(stack)
    del attention.relative_attention_bias
    attention.has_relative_attention_bias = False
    return stack


def run_blocks(
    stack: Foreign,
    vectors: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    memory: Tensor | None = None,
    memory_mask: Tensor | None = None,
    cache: Foreign = None,
) -> Tensor:
    """The blocks of transformers' T5Stack as it runs them, but with a position bias (1, A, L, L) from outside.

    The masks are what is added to the logits, (B or 1, 1, L or 1, L).
    """
    tokens = stack.dropout(vectors)
    for block in stack.block:
        tokens = block(tokens, mask, bias, memory, memory_mask, None, past_key_values=cache)[0]
    return stack.dropout(stack.final_layer_norm(tokens))


def draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Ids (…) from logits (…, K), on the generator's numbers alone; of temperature 0, the likeliest."""
    if temperature <= 0:
        return logits.argmax(-1)
    if generator is None:
        raise SightwordError(
            "codes are drawn with a seeded generator=torch.Generator(), or temperature=0 for the likeliest"
        )
    chances = (logits / temperature).softmax(-1).flatten(0, -2).to(generator.device)
    return torch.multinomial(chances, 1, generator=generator).view(logits.shape[:-1]).to(logits.device)


def _gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    assert generator is not None  # draw has asked for it
    uniform = torch.rand(like.shape, generator=generator, device=generator.device).clamp(min=1e-20)
    return -(-uniform.log()).clamp(min=1e-20).log().to(like.device)


def _check_hidden(ids: Tensor, hidden: Tensor) -> None:
    if hidden.shape != ids.shape or hidden.dtype != torch.bool:
        raise SightwordError(
            f"hidden is bool {tuple(ids.shape)} as the ids, this is {hidden.dtype} {tuple(hidden.shape)}"
        )


def _axis(side: int) -> Tensor:
    """(side, side): a number for the way from one place on an axis to another, from 0 on."""
    place = torch.arange(side)
    way = place[None] - place[:, None]
    far = EXACT + (BUCKETS - EXACT) * (way.abs().clamp(min=EXACT) / EXACT).double().log() / math.log(FAR / EXACT)
    distance = torch.where(way.abs() < EXACT, way.abs(), (far + 1e-9).long().clamp(max=BUCKETS - 1))
    signed = distance * way.sign()
    return signed - signed.min()


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask, True where attention may look, as T5's blocks add it to their logits, in the dtype of `like`."""
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(~mask, torch.finfo(like.dtype).min)


def _first_attention(stack: Foreign) -> Foreign:
    """The one self-attention of a T5 that has a position bias, which the others share."""
    return stack.block[0].layer[0].SelfAttention


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Without dropout, which would draw from the global generator."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
