"""What a model reads in images, in one form for every kind of intent model: words, terms, and a linear head on them.

    logit_c = b_c + Σ_t weight_ct · strength_t

A term is a code (how much of the image has it) or a word (how surely the image shows it) or a pair of words. `members`
are the words of each term: a contribution is of an absent word if any of its words is absent.

Legend: B images of a batch, M of a split; N patches; K words of all streams; T terms; C intents; F features.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sightword.errors import SightwordError
from sightword.systems.intent.data import IntentBatch
from sightword.systems.intent.nothing import NothingMultiStream
from sightword.systems.intent.task import IntentTask, MultiStreamTask, PresenceTask

Tokens = Mapping[str, Tensor]  # stream → (B, N, D)
ENOUGH = 2  # patches that make a word present in a model that reads areas
HALF = 0.5  # of a word's map: the patches that hold so much of it are where it is, if no patch has its name


class Word(NamedTuple):
    """A word of a stream."""

    stream: str
    text: str


class Words(ABC):
    """The words that a model reads, its terms and its head."""

    words: list[Word]  # K
    members: list[tuple[int, ...]]  # T, the words of each term
    kind: str  # how a word counts, for people
    certainty: str  # how certain a word is, for people

    def __init__(self, task: IntentTask) -> None:
        self.task = task

    @abstractmethod
    def head(self) -> tuple[Tensor, Tensor]:
        """Return weight (C, T) and bias (C,)."""

    @abstractmethod
    def logits(self, tokens: Tokens, pooled: Tensor) -> Tensor:
        """Return (B, C), as the model itself computes them."""

    @abstractmethod
    def strength(self, tokens: Tokens, pooled: Tensor) -> Tensor:
        """Return (B, T), what each term counts."""

    @abstractmethod
    def present(self, tokens: Tokens, pooled: Tensor) -> Tensor:
        """Return (B, K) in [0, 1]: a word is said to be present above 0.5; near 0.5 it is uncertain."""

    @abstractmethod
    def named(self, tokens: Tokens, pooled: Tensor) -> dict[str, Tensor]:
        """Return stream → the word of each patch (B, N), a number in `words`; −1 is nothing."""

    @abstractmethod
    def found(self, tokens: Tokens, pooled: Tensor, word: int) -> Tensor:
        """Return (B, N) bool: the patches where a word was found."""

    @abstractmethod
    def corrected(self, strength: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Return strengths (M, T) after words were corrected. before, after: presence (M, K)."""

    @abstractmethod
    def learn(self, strength: Tensor, present: Tensor) -> None:
        """Note what `corrected` needs of validation images: strength (M, T), present (M, K)."""

    def of(self, stream: str) -> list[int]:
        """Return the numbers of a stream's words."""
        return [number for number, word in enumerate(self.words) if word.stream == stream]

    @property
    def streams(self) -> list[str]:
        return list(dict.fromkeys(word.stream for word in self.words))

    def containing(self) -> Tensor:
        """Return (K, T) float: 1 where a term contains a word."""
        table = torch.zeros(len(self.words), len(self.members))
        for term, own in enumerate(self.members):
            table[list(own), term] = 1
        return table


class AreaWords(Words):
    """The words of a model that reads how much of an image has each code, as published."""

    kind = "the fraction of the patches that are nearest to the word"
    certainty = f"present from {ENOUGH} patches on; the nearer to that, the less certain"

    def __init__(self, task: MultiStreamTask) -> None:
        super().__init__(task)
        self.model, self.anchors = task.model, task.anchors
        self.words, self.members, self.column = [], [], dict[str, Tensor]()
        for stream in self.model.streams:
            book, rows = task.anchors[stream], dict[str, int]()
            for name in book.names:
                if name not in rows:
                    rows[name] = len(self.words)
                    self.words.append(Word(stream, name))
            self.members += [(rows[name],) for name in book.names]
            self.column[stream] = torch.tensor([rows[name] for name in book.names] + [-1])  # the last: nothing
        self.typical = torch.zeros(len(self.words), len(self.members))

    def head(self) -> tuple[Tensor, Tensor]:
        tables = [self.model.table(stream)[: len(self.anchors[stream].names)] for stream in self.model.streams]
        return torch.cat(tables).T.detach().cpu(), self.model.bias().detach().cpu()

    def logits(self, tokens: Tokens, pooled: Tensor) -> Tensor:
        if isinstance(self.model, NothingMultiStream):
            return self.model(tokens, pooled).logits
        return self.model(tokens).logits

    def ids(self, tokens: Tokens, pooled: Tensor) -> dict[str, Tensor]:
        """Return stream → (B, N), codes; the number of codes is nothing."""
        if isinstance(self.model, NothingMultiStream):
            return self.model.named(tokens, pooled)
        return self.model.nearest(self.model.adapted(tokens))

    def strength(self, tokens: Tokens, pooled: Tensor) -> Tensor:
        ids = self.ids(tokens, pooled)
        counts = {stream: self.model.count(stream, ids[stream]) for stream in self.model.streams}
        means = {stream: self.model.pool(stream, counts[stream]) for stream in counts}
        gates = self.model.gates(torch.stack([means[stream] for stream in self.model.streams], 1))  # (B, S)
        parts = [
            counts[stream][:, : len(self.anchors[stream].names)] / ids[stream].shape[1] * gates[:, number, None]
            for number, stream in enumerate(self.model.streams)
        ]
        return torch.cat(parts, 1)

    def present(self, tokens: Tokens, pooled: Tensor) -> Tensor:
        found = torch.zeros(len(pooled), len(self.words))
        for own in self.named(tokens, pooled).values():
            for number in own.unique().tolist():
                if number >= 0:
                    found[:, number] = (own == number).sum(1).float()
        return (found / (2 * ENOUGH) + 1e-4 * (found >= ENOUGH)).clamp(max=1)  # above 0.5 from ENOUGH patches on

    def named(self, tokens: Tokens, pooled: Tensor) -> dict[str, Tensor]:
        return {stream: self.column[stream][ids.cpu()] for stream, ids in self.ids(tokens, pooled).items()}

    def found(self, tokens: Tokens, pooled: Tensor, word: int) -> Tensor:
        return self.named(tokens, pooled)[self.words[word].stream] == word

    def learn(self, strength: Tensor, present: Tensor) -> None:
        own = self.containing()
        for word in range(len(self.words)):
            here = present[:, word] > 0.5
            if bool(here.any()):
                self.typical[word] = strength[here].mean(0) * own[word]

    def corrected(self, strength: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """An absent word gets the area 0, a present one that was not seen the usual area of validation images."""
        own, found = self.containing(), strength.clone()
        gone = ((before > 0) & (after < 0.5)).float() @ own > 0  # (M, T)
        found[gone] = 0
        new = ((before <= 0.5) & (after > 0.5)).float()  # (M, K)
        return torch.where(new @ own > 0, new @ self.typical, found)


class PresentWords(Words):
    """The words of a model that reads which words are present, whatever their size, and pairs of them."""

    certainty = "the calibrated probability; the nearer to 0.5, the less certain"

    def __init__(self, task: PresenceTask) -> None:
        super().__init__(task)
        self.model, self.gated = task.model, task.config.nothing != "z"
        self.words = [Word(*word) for word in task.words]
        pairs = zip(self.model.first.tolist(), self.model.second.tolist(), strict=True)
        self.members = [*((number,) for number in range(len(self.words))), *pairs]
        self.kind = "1 if the word is present, 0 if not" if self.model.hard else "how probably the image shows the word"

    def head(self) -> tuple[Tensor, Tensor]:
        return self.model.weight().detach().cpu(), self.model.bias().detach().cpu()

    def logits(self, tokens: Tokens, pooled: Tensor) -> Tensor:
        return self.model(pooled)

    def strength(self, tokens: Tokens, pooled: Tensor) -> Tensor:
        return self.model.terms(self.present(tokens, pooled))

    def present(self, tokens: Tokens, pooled: Tensor) -> Tensor:
        return self.model.presence(pooled)

    def named(self, tokens: Tokens, pooled: Tensor) -> dict[str, Tensor]:
        found, first = {}, 0
        for stream, size in zip(self.model.streams, self.model.sizes, strict=True):
            own = self.model.of(stream).named(tokens[stream], pooled, self.gated).cpu()
            found[stream] = torch.where(own < size, own + first, -1)
            first += size
        return found

    def found(self, tokens: Tokens, pooled: Tensor, word: int) -> Tensor:
        named = self.named(tokens, pooled)[self.words[word].stream] == word  # (B, N)
        share = self.model.attention(tokens)[..., word]  # (B, N), of sum 1
        most, order = share.sort(1, descending=True)
        needed = most.cumsum(1) - most < HALF  # the fewest patches that hold so much of its map
        largest = torch.zeros_like(needed).scatter(1, order, needed).cpu()
        return torch.where(named.any(1, keepdim=True), named, largest)

    def learn(self, strength: Tensor, present: Tensor) -> None:
        """Note nothing: a word that is present counts 1."""

    def corrected(self, strength: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return self.model.terms(after.to(self.model.first.device)).cpu()


def words_of(task: IntentTask) -> Words:
    """Return the words of a model. Raises SightwordError for the baseline, which has none."""
    if isinstance(task, PresenceTask):
        return PresentWords(task)
    if isinstance(task, MultiStreamTask):
        return AreaWords(task)
    raise SightwordError("the baseline has no words to judge. Pass a run of intent/stage1, stage2 or presence")


class Reading(NamedTuple):
    """What a model reads in the images of a split."""

    names: list[str]  # M, ids of images
    targets: Tensor  # (M, C) bool
    logits: Tensor  # (M, C), the model's own
    strength: Tensor  # (M, T)
    present: Tensor  # (M, K)
    features: Tensor  # (M, F): pooled vector and mean patch, each of length one; no words
    extra: dict[str, Tensor]  # what the probes return, (M, …) each
    named: dict[str, Tensor]  # stream → (M, N), see `Words.named`


class Probe(ABC):
    """Something else to compute of the same tokens, such as other words."""

    name: str

    @abstractmethod
    def __call__(self, tokens: Tokens, pooled: Tensor) -> Tensor:
        """Return (B, …)."""


@torch.no_grad()
def read_batches(words: Words, batches: Iterable[IntentBatch], probes: Sequence[Probe]) -> Reading:
    """Return what a model and some probes read in batches of one split."""
    rows: dict[str, list[Tensor]] = {}
    names: list[str] = []
    for batch in batches:
        if not len(batch.targets):
            continue
        tokens, pooled = tokens_of(words.task, batch)
        found = {
            "targets": batch.targets > 0,
            "logits": words.logits(tokens, pooled),
            "strength": words.strength(tokens, pooled),
            "present": words.present(tokens, pooled),
            "features": features_of(tokens, pooled),
        }
        found |= {f"extra/{probe.name}": probe(tokens, pooled) for probe in probes}
        found |= {f"named/{stream}": own.to(torch.int32) for stream, own in words.named(tokens, pooled).items()}
        for key, value in found.items():
            rows.setdefault(key, []).append(value.cpu())
        names += batch.image_ids
    if not names:
        raise SightwordError("none of the images can be read")
    whole = {key: torch.cat(values) for key, values in rows.items()}
    return Reading(
        names,
        whole["targets"],
        whole["logits"],
        whole["strength"],
        whole["present"],
        whole["features"],
        {key.removeprefix("extra/"): value for key, value in whole.items() if key.startswith("extra/")},
        {key.removeprefix("named/"): value for key, value in whole.items() if key.startswith("named/")},
    )


def tokens_of(task: IntentTask, batch: IntentBatch) -> tuple[Tokens, Tensor]:
    """Return (stream → (B, N, D), pooled (B, D)) of a batch."""
    device = task.threshold.device
    if batch.images is not None:
        batch = batch._replace(images=batch.images.to(device))
    tokens, pooled = task.encoded(batch)
    assert isinstance(task, MultiStreamTask | PresenceTask)
    return {name: tokens[kind].float().to(device) for name, kind in task.token_types.items()}, pooled.float().to(device)


def features_of(tokens: Tokens, pooled: Tensor) -> Tensor:
    """Return (B, F): the pooled vector and the mean patches of each token type, each of length one."""
    different = {id(own): own for own in tokens.values()}.values()
    return torch.cat([F.normalize(pooled, dim=1), *(F.normalize(own.mean(1), dim=1) for own in different)], 1)
