"""Are the words right? Precision and recall of words per image and per patch, and how much absent words contribute.

Legend: M images; N patches, h·w; K words; T terms; C intents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sightword.errors import SightwordError
from sightword.systems.intent.concept import plain
from sightword.systems.intent.faithful.reading import Reading, Words
from sightword.systems.intent.faithful.truth import Truth

Numbers = dict[str, object]  # plain values, fit for JSON
TOP = 3  # likeliest intents
COVERED = 0.5  # fraction of a patch from which on it shows a word, for recall
SHUFFLES = 20


@dataclass(frozen=True)
class Known:
    """The truth about the images of a reading."""

    rows: Tensor  # (R,) int64, of the images whose words are known
    shown: Tensor  # (R, K) bool
    spoken: Tensor  # (K,) bool: words that the truth speaks of
    maps: "PatchMaps | None" = None

    def shuffled(self, order: Tensor) -> "Known":
        """Return the truth, without maps, as if word k had the name of word order[k]."""
        return Known(self.rows, self.shown[:, order], self.spoken[order])


class PatchMaps(NamedTuple):
    """What the patches of some of the images show."""

    rows: Tensor  # (Q,) int64, of the R images of a `Known`
    columns: Tensor  # (W,) int64, numbers of the words that the maps speak of
    share: Tensor  # (Q, N, W), fraction of a patch that shows a word


def known_of(words: Words, reading: Reading, truth: Truth, stems: Sequence[str]) -> Known:
    """Return what the truth says of the images of a reading. stems: M, names of the images without suffix."""
    names = [plain(word.text) for word in words.words]
    rows = [row for row, stem in enumerate(stems) if stem in truth.shown]
    shown = torch.tensor([[name in truth.shown[stems[row]] for name in names] for row in rows], dtype=torch.bool)
    spoken = torch.tensor([name in truth.names for name in names])
    return Known(torch.tensor(rows, dtype=torch.int64), shown.view(len(rows), len(names)), spoken)


def with_maps(
    known: Known, words: Words, covered: Sequence[Mapping[str, Tensor] | None], mapped: Sequence[str]
) -> Known:
    """Return the truth with label maps. covered: for each of the R images word → (h, w); None without a map.

    Raises SightwordError if no image has a map.
    """
    names = [plain(word.text) for word in words.words]
    columns = [number for number, name in enumerate(names) if name in mapped]
    rows = [row for row, each in enumerate(covered) if each is not None]
    if not rows or not columns:
        missing = "none of the images has a map" if not rows else "none of the words in words.txt is one of the model's"
        raise SightwordError(
            f"maps= do not fit: {missing}. Call each map like its image, and words as in the vocabulary"
        )
    size = next((own.numel() for each in covered if each for own in each.values()), 1)
    share = torch.zeros(len(rows), size, len(columns))
    for number, row in enumerate(rows):
        for column, word in enumerate(columns):
            own = (covered[row] or {}).get(names[word])
            if own is not None:
                share[number, :, column] = own.flatten()
    return replace(known, maps=PatchMaps(torch.tensor(rows), torch.tensor(columns), share))


# ------------------------------------------------------------------------------------------------------- right or wrong


class Counted(NamedTuple):
    """Precision and recall; None where nothing is counted."""

    precision: float | None
    recall: float | None
    said: int
    true: int


def counted(said: Tensor, true: Tensor) -> Counted:
    """Return precision and recall over all cells of two bool tensors of one shape."""
    both, all_said, all_true = int((said & true).sum()), int(said.sum()), int(true.sum())
    return Counted(both / all_said if all_said else None, both / all_true if all_true else None, all_said, all_true)


def image_words(words: Words, reading: Reading, known: Known) -> dict[str, Counted]:
    """Return stream → how right the words of images are: said above 0.5, over the words that the truth speaks of."""
    said = reading.present[known.rows] > 0.5
    found = {}
    for stream in words.streams:
        own = [number for number in words.of(stream) if bool(known.spoken[number])]
        if own:
            found[stream] = counted(said[:, own], known.shown[:, own])
    return found


class Patches(NamedTuple):
    """How right the words of patches are. Fractions, None where nothing is counted."""

    named: float  # of the patches, those with a word
    in_image: float | None  # of these, those whose word the image shows
    visible: float | None  # of these, those whose word the patch itself shows; None without label maps
    recall: float | None  # of the patches that a word covers to half or more, those named so


def patch_words(words: Words, reading: Reading, known: Known) -> dict[str, Patches]:
    """Return stream → how right the words of patches are, over the words that the truth speaks of."""
    found = {}
    for stream in words.streams:
        own = [number for number in words.of(stream) if bool(known.spoken[number])]
        if not own:
            continue
        named = reading.named[stream][known.rows].long()  # (R, N)
        judged = torch.isin(named, torch.tensor(own))
        here = known.shown.gather(1, named.clamp_min(0)) & judged  # (R, N)
        visible, recall = _in_maps(named, judged, own, known.maps)
        count = int(judged.sum())
        in_image = int(here.sum()) / count if count else None
        found[stream] = Patches(float((named >= 0).float().mean()), in_image, visible, recall)
    return found


def _in_maps(
    named: Tensor, judged: Tensor, own: Sequence[int], maps: PatchMaps | None
) -> tuple[float | None, float | None]:
    """Return the fraction of named patches that show their word, and of covered patches that are named so."""
    if maps is None or not bool((there := torch.isin(maps.columns, torch.tensor(own))).any()):
        return None, None
    columns, share = maps.columns[there], maps.share[..., there]  # (W,), (Q, N, W)
    same = named[maps.rows][..., None] == columns  # (Q, N, W)
    said = judged[maps.rows] & same.any(2)
    seen = int(((share > 0) & same & said[..., None]).sum())
    covered = share >= COVERED
    count, all_covered = int(said.sum()), int(covered.sum())
    return seen / count if count else None, int((covered & same).sum()) / all_covered if all_covered else None


# -------------------------------------------------------------------------------------------------------- contributions


def absent_share(words: Words, reading: Reading, known: Known) -> dict[str, float | None]:
    """Return the share of |contributions| to the three likeliest intents that comes from absent words.

    "all", and each stream for the terms of its words alone; "pairs" for terms of two words. A pair is absent if one of
    its words is. Terms whose words the truth does not speak of are not counted.
    """
    weight, bias = words.head()
    strength = reading.strength[known.rows]
    top = (strength @ weight.T + bias).topk(min(TOP, len(bias))).indices  # (R, 3)
    size = strength[:, None].abs() * weight[top].abs()  # (R, 3, T)
    absent, judged = torch.zeros(strength.shape, dtype=torch.bool), torch.zeros(len(words.members), dtype=torch.bool)
    groups: dict[str, list[int]] = {}
    for term, own in enumerate(words.members):
        absent[:, term] = ~known.shown[:, list(own)].all(1)
        judged[term] = bool(known.spoken[list(own)].all())
        groups.setdefault(words.words[own[0]].stream if len(own) == 1 else "pairs", []).append(term)
    shares: dict[str, float | None] = {"all": _share(size, absent, judged)}
    for name, terms in groups.items():
        shares[name] = _share(size[..., terms], absent[:, terms], judged[terms])
    return shares


def _share(size: Tensor, absent: Tensor, judged: Tensor) -> float | None:
    total = float((size * judged).sum())
    return float((size * (absent & judged)[:, None]).sum()) / total if total else None


# ------------------------------------------------------------------------------------------------------ shuffled names


def shuffled_orders(words: Words, seed: int) -> list[Tensor]:
    """Return orders (K,) that give each word the name of another word of its stream, where it has two or more."""
    generator = torch.Generator().manual_seed(seed)
    orders = []
    for _ in range(SHUFFLES):
        order = torch.arange(len(words.words))
        for stream in words.streams:
            own = torch.tensor(words.of(stream))
            mixed = own[torch.randperm(len(own), generator=generator)]
            order[mixed] = mixed.roll(1)  # one cycle: no word keeps its name
        orders.append(order)
    return orders
