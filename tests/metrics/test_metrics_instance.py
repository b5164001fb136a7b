"""AP by ScanNet's rules, beside a slow reading of the same rules."""

import numpy as np
import pytest

from sightword.metrics.instance import OVERLAPS, Predictions, agnostic, average_precision, overlaps

LABELS = (2, 5)


def truth_of(*parts):
    """Numbers of points: (label, instance, points), one after the other."""
    return np.concatenate([np.full(count, 1000 * label + number) for label, number, count in parts])


def masks_of(total, *ranges):
    masks = np.zeros((len(ranges), total), bool)
    for row, places in zip(masks, ranges, strict=True):
        row[slice(*places)] = True
    return masks


def measured(scenes, labels=LABELS):
    return average_precision([overlaps(truth, found, labels) for truth, found in scenes], labels)


def predicted(total, *rows):
    ranges, labels, scores = zip(*rows, strict=True)
    return Predictions(masks_of(total, *ranges), np.array(labels), np.array(scores, float))


def slow_ap(scenes, label, limit):
    """The published rules, instance by instance and mask by mask."""
    true, score, missed, has_truth, has_found = [], [], 0, False, False
    for truth, found in scenes:
        void = {i for i, number in enumerate(truth) if number // 1000 not in LABELS}
        instances = []
        for number in sorted(set(truth.tolist())):
            if number and number // 1000 == label:
                instances.append({i for i, value in enumerate(truth) if value == number})
        guesses = []
        for mask, of, value in zip(found.masks, found.labels, found.scores, strict=True):
            points = set(np.flatnonzero(mask).tolist())
            if of == label and len(points) >= 100:
                guesses.append((points, value))
        has_found |= bool(guesses)
        visited = set()
        for points in instances:
            if len(points) < 100:
                continue
            has_truth, matched = True, None
            for place, (guess, value) in enumerate(guesses):
                if place in visited or len(points & guess) / len(points | guess) <= limit:
                    continue
                if matched is None:
                    matched = value
                    visited.add(place)
                else:
                    true.append(0)
                    score.append(min(matched, value))
                    matched = max(matched, value)
            if matched is None:
                missed += 1
            else:
                true.append(1)
                score.append(matched)
        for guess, value in guesses:
            if any(len(points & guess) / len(points | guess) > limit for points in instances):
                continue
            skipped = len(guess & void) + sum(len(guess & points) for points in instances if len(points) < 100)
            if skipped / len(guess) <= limit:
                true.append(0)
                score.append(value)
    if not has_truth:
        return np.nan
    if not has_found or not true:
        return 0.0
    pairs = [(1.0, 0.0)]
    for least in sorted(set(score), reverse=True):
        kept = [hit for hit, value in zip(true, score, strict=True) if value >= least]
        pairs.append((sum(kept) / len(kept), sum(kept) / (sum(true) + missed)))
    recalls = [pairs[0][1], *(recall for _, recall in pairs), pairs[-1][1]]
    return sum(p * (recalls[i + 2] - recalls[i]) / 2 for i, (p, _) in enumerate(pairs))


def test_perfect_masks_have_an_ap_of_one():
    truth = truth_of((2, 1, 200), (2, 2, 150), (5, 1, 300))
    found = predicted(650, ((0, 200), 2, 0.9), ((200, 350), 2, 0.8), ((350, 650), 5, 0.5))
    for values in measured([(truth, found)]):
        assert values.tolist() == pytest.approx([1, 1])


def test_one_of_two_instances_is_half_of_the_recall():
    truth = truth_of((2, 1, 200), (2, 2, 200))
    found = measured([(truth, predicted(400, ((0, 200), 2, 0.9)))], (2,))
    assert [float(part[0]) for part in found] == pytest.approx([0.5, 0.5, 0.5])


def test_a_mask_of_three_fifths_counts_up_to_that_overlap():
    truth = truth_of((2, 1, 200), (5, 1, 200))
    found = measured([(truth, predicted(400, ((0, 121), 2, 0.9)))])
    assert (found.ap50[0], found.ap25[0]) == (1, 1)
    assert found.ap[0] == pytest.approx(3 / 9)  # 0.50, 0.55 and 0.60 of nine thresholds
    assert found.ap[1] == 0  # an instance that no mask has


def test_a_second_mask_of_one_instance_is_false():
    truth = truth_of((2, 1, 200), (2, 2, 200))
    rows = [((0, 200), 2, 0.9), ((0, 190), 2, 0.8), ((200, 400), 2, 0.7)]
    one, two = (measured([(truth, predicted(400, *part))], (2,)) for part in (rows[::2], rows))
    assert one.ap50[0] == pytest.approx(1)
    assert 0.7 < two.ap50[0] < 1


def test_masks_in_void_and_on_small_instances_are_ignored():
    truth = truth_of((2, 1, 200), (0, 0, 200), (9, 3, 200), (2, 2, 90))
    good = ((0, 200), 2, 0.5)
    others = [((200, 400), 2, 0.9), ((400, 600), 2, 0.9), ((500, 690), 2, 0.9)]
    for other in others:
        assert measured([(truth, predicted(690, good, other))], (2,)).ap50[0] == pytest.approx(1)
    counted = truth_of((2, 1, 200), (5, 1, 490))
    assert measured([(counted, predicted(690, good, others[0]))]).ap50[0] < 1  # in another class it is false
    assert measured([(truth, predicted(690, good, ((600, 690), 2, 0.9)))], (2,)).ap50[0] == 1  # too small itself


def test_a_class_without_instances_is_not_measured():
    truth = truth_of((2, 1, 200))
    found = measured([(truth, predicted(200, ((0, 200), 5, 0.9)))])
    assert found.ap50.tolist() == [0, pytest.approx(np.nan, nan_ok=True)]


@pytest.mark.parametrize("seed", range(6))
def test_ap_is_that_of_the_published_rules_on_random_scenes(seed):
    rng = np.random.default_rng(seed)
    scenes = []
    for _ in range(2):
        labels, count = rng.choice([0, 2, 2, 5, 9], 8), rng.integers(60, 200, 8)
        truth = truth_of(
            *((label, 1 + number, size) for number, (label, size) in enumerate(zip(labels, count, strict=True)))
        )
        ends = np.cumsum(count)
        rows = []
        for _ in range(14):
            number = rng.integers(8)
            start = max(0, ends[number] - count[number] + rng.integers(-60, 60))
            rows.append(((start, start + rng.integers(80, 200)), rng.choice([2, 5]), rng.choice([0.2, 0.5, 0.7, 0.9])))
        scenes.append((truth, predicted(len(truth), *rows)))
    found = measured(scenes)
    for place, label in enumerate(LABELS):
        slow = [slow_ap(scenes, label, limit) for limit in OVERLAPS]
        expected = [np.mean(slow[:-1]), slow[0], slow[-1]]
        assert [part[place] for part in found] == pytest.approx(expected, nan_ok=True)


def test_without_classes_every_instance_counts_alike():
    truth = truth_of((2, 1, 200), (5, 1, 150), (9, 1, 120))
    found = predicted(470, ((0, 200), 5, 0.9), ((200, 350), 2, 0.8), ((350, 470), 2, 0.95))
    one, alike = agnostic(truth, found, LABELS)
    assert sorted(set(one.tolist())) == [0, 1000, 1001]
    assert average_precision([overlaps(one, alike, (1,))], (1,)).ap50.tolist() == [1]


def test_masks_of_other_points_are_refused():
    with pytest.raises(ValueError, match="do not fit 200 points"):
        overlaps(truth_of((2, 1, 200)), predicted(100, ((0, 100), 2, 0.9)), LABELS)
