"""The figures of the trust protocol, by hand: words, contributions, corrections, deletions."""

from types import SimpleNamespace

import pytest
import torch

from sightword.systems.intent.faithful.deletion import Removed, by_stream, summed_up
from sightword.systems.intent.faithful.head import Labelled, fit_head
from sightword.systems.intent.faithful.intervention import corrected_presence, independent, intervention
from sightword.systems.intent.faithful.reading import AreaWords, PresentWords, Reading, Word, Words
from sightword.systems.intent.faithful.truth import Truth
from sightword.systems.intent.faithful.word import (
    absent_share,
    counted,
    image_words,
    known_of,
    patch_words,
    shuffled_orders,
    with_maps,
)

DOG, CAR, BEACH, STREET = range(4)
NAMES = ["Dog", "car", "beach", "street"]


class Four(Words):
    """Four words of two streams, and the pair of dog and beach; two intents: Happy likes both, Away likes cars."""

    kind = certainty = "as told"

    def __init__(self):
        super().__init__(SimpleNamespace())
        self.words = [Word("coco" if n < BEACH else "places", name) for n, name in enumerate(NAMES)]
        self.members = [(0,), (1,), (2,), (3,), (DOG, BEACH)]

    def head(self):
        return torch.tensor([[1.0, 0, 1, 0, 2], [0, 2, 0, 1, 0]]), torch.tensor([-1.0, -1.0])

    def corrected(self, strength, before, after):
        return torch.cat([after, after[:, :1] * after[:, 2:3]], 1)

    def learn(self, strength, present): ...
    def logits(self, tokens, pooled): ...
    def strength(self, tokens, pooled): ...
    def present(self, tokens, pooled): ...
    def named(self, tokens, pooled): ...
    def found(self, tokens, pooled, word): ...


Four.__abstractmethods__ = frozenset()


def reading_of(present, named, targets=((True, False), (False, True))):
    present = torch.tensor(present)
    strength = torch.cat([present, present[:, :1] * present[:, 2:3]], 1)
    names = [f"{n}.jpg" for n in range(len(present))]
    named = {stream: torch.tensor(rows) for stream, rows in named.items()}
    weight, bias = Four().head()
    return Reading(names, torch.tensor(targets), strength @ weight.T + bias, strength, present, present, {}, named)


#: Of image 0 a dog and a beach are said, of image 1 a dog; image 0 shows both, image 1 a car at a street.
READ = reading_of(
    [[0.9, 0.1, 0.8, 0.1], [0.6, 0.4, 0.2, 0.1]],
    {"coco": [[DOG, -1, DOG, CAR], [DOG, CAR, -1, -1]], "places": [[BEACH] * 4, [-1] * 4]},
)
TRUTH = Truth(
    {"0": frozenset({"dog", "beach"}), "1": frozenset({"car", "street"})}, frozenset({"dog", "car", "beach"}), "told"
)


@pytest.fixture
def known():
    return known_of(Four(), READ, TRUTH, ["0", "1"])


def test_words_are_matched_without_case_and_unlisted_ones_are_unknown(known):
    assert known.shown.tolist() == [[True, False, True, False], [False, True, False, True]]
    assert known.spoken.tolist() == [True, True, True, False]


def test_precision_and_recall_of_images(known):
    found = image_words(Four(), READ, known)
    assert found["coco"] == (0.5, 0.5, 2, 2)  # dog right once and wrong once; car is missed
    assert found["places"] == (1.0, 1.0, 1, 1)
    assert counted(torch.zeros(2, 2, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool))[:2] == (None, None)


def test_patches_in_the_image_and_in_the_patch(known):
    covered = [{"dog": torch.tensor([[1.0, 0.6], [0.0, 0.2]]), "car": torch.zeros(2, 2)}, None]
    found = patch_words(Four(), READ, with_maps(known, Four(), covered, ["dog", "car"]))["coco"]
    assert found.named == 5 / 8
    assert found.in_image == 3 / 5  # two of dog and one of car are in their image; of the others one is not
    assert found.visible == 1 / 3  # of dog, dog and car in image 0: the first
    assert found.recall == 1 / 2  # of the two patches that the dog covers to half
    assert patch_words(Four(), READ, known)["coco"].visible is None
    with pytest.raises(ValueError, match="none of the images has a map"):
        with_maps(known, Four(), [None, None], ["dog"])
    with pytest.raises(ValueError, match=r"none of the words in words\.txt"):
        with_maps(known, Four(), covered, ["cat"])


def test_contributions_of_absent_words_are_shares_of_all(known):
    found = absent_share(Four(), READ, known)
    # both images, both intents: dog .9 + .6·1, car .1·2 + .4·2, beach .8 + .2, pair .72·2 + .12·2; street is not judged
    total = 0.9 + 0.6 + 0.2 + 0.8 + 0.8 + 0.2 + 1.44 + 0.24
    assert found["all"] == pytest.approx((0.6 + 0.2 + 0.2 + 0.24) / total)
    assert found["pairs"] == pytest.approx(0.24 / 1.68)
    assert found["coco"] == pytest.approx((0.6 + 0.2) / 2.5)


def test_the_least_certain_words_are_corrected_first(known):
    after = corrected_presence(READ.present, known, 1)
    assert after[0].tolist() == pytest.approx([0.9, 0.1, 1.0, 0.1])
    assert after[1, CAR] + after[1, DOG] in (pytest.approx(1.6), pytest.approx(0.4))  # both were 0.1 from 0.5
    assert corrected_presence(READ.present, known, -1)[:, :3].tolist() == [[1, 0, 1], [0, 1, 0]]
    assert corrected_presence(READ.present, known, -1)[1, STREET] == pytest.approx(0.1)  # the truth never speaks of it


def test_the_curve_rises_where_words_were_wrong(known):
    curve = intervention(Four(), READ, known, 0.5)
    assert [point.words for point in curve] == [0, 1, 2, 4, -1]
    assert curve[0].macro_f1 < 1
    assert curve[-1].macro_f1 == 1
    unknown = known_of(Four(), READ, Truth({"1": frozenset()}, frozenset({"dog"}), ""), ["0", "1"])
    none = known_of(Four(), READ, Truth({}, frozenset({"dog"}), ""), ["0", "1"])
    assert independent(Four(), [(READ, none), (READ, unknown), (READ, unknown)]) is None


def test_shuffled_names_are_names_of_other_words_of_the_stream():
    for order in shuffled_orders(Four(), seed=0):
        assert sorted(order.tolist()) == [0, 1, 2, 3]
        assert not (order == torch.arange(4)).any()
        assert set(order[:2].tolist()) == {DOG, CAR}


def test_the_slope_is_one_where_falls_equal_contributions():
    removed = [Removed("a", "Happy", "dog", "coco" if n else "places", 2, n, n + 0.5, 0.1) for n in range(6)]
    found = summed_up(removed)
    assert (found.slope, found.rank_correlation) == (pytest.approx(1), pytest.approx(1))
    assert (found.mean_fall, found.mean_random_fall) == (pytest.approx(3), pytest.approx(0.1))
    turned = summed_up([each._replace(fall=-each.fall) for each in removed])
    assert (turned.slope, turned.rank_correlation) == (pytest.approx(-1), pytest.approx(-1))
    assert summed_up(removed[:2]).slope is None
    assert summed_up([each._replace(contribution=1.0) for each in removed]).slope is None
    assert [len(own) for own in by_stream(removed).values()] == [1, 5]


def test_a_small_head_learns_what_can_be_learned():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(90, 5, generator=generator)
    y = torch.stack([x[:, 0] > 0.5, x[:, 1] > 0.7], 1)
    sets = [Labelled(x[:60], y[:60]), Labelled(x[60:], y[60:])]
    assert fit_head(*sets).validation > 0.85
    shuffled = Labelled(x[:60], y[torch.randperm(60, generator=generator)])
    assert fit_head(shuffled, sets[1]).score(sets[1]) < fit_head(*sets).score(sets[1])


def test_every_kind_of_words_has_every_method():
    for kind in (AreaWords, PresentWords):
        assert not kind.__abstractmethods__
