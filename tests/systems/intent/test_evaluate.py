"""Three rules for the threshold, by hand: which numbers they move, what is said of each, what a class has of them."""

import pytest
import torch

from sightword.metrics.multilabel import THRESHOLDS, f1
from sightword.systems.intent.evaluate import class_table, metrics_of, notes_of, on_grid, protocol_of
from sightword.systems.intent.intentonomy import CLASSES, CUE, HARDNESS, subsets_of


def random_set(seed=0, images=90):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.rand(images, 28, generator=generator) < 0.2
    return (torch.rand(images, 28, generator=generator) * 0.6 + 0.3 * targets), targets


def test_each_rule_takes_its_own_threshold():
    # two images, only the first has the labels: official is told 0.6, per split looks for itself, fixed is 0.5
    scores, targets = torch.tensor([[0.42], [0.31]]).expand(2, 28), torch.tensor([[True], [False]]).expand(2, 28)
    found = metrics_of(scores, targets, 0.6, CLASSES)
    assert (found["threshold"], found["per_split_threshold"]) == (0.6, pytest.approx(0.35))
    assert (found["macro_f1"], found["per_split_macro_f1"], found["fixed_macro_f1"]) == (0, 1, 0)
    higher = metrics_of(scores + 0.15, targets, 0.6, CLASSES)
    assert (higher["macro_f1"], higher["per_split_samples_f1"], higher["fixed_micro_f1"]) == (0, 0.5, 1)


def test_the_fixed_threshold_is_strict():
    scores, targets = torch.full((3, 28), 0.5), torch.ones(3, 28, dtype=torch.bool)
    assert metrics_of(scores, targets, 0.05, CLASSES)["fixed_macro_f1"] == 0
    assert metrics_of(scores + 1e-6, targets, 0.05, CLASSES)["fixed_macro_f1"] == 1


def test_the_per_split_rule_is_never_worse_than_another_splits_threshold():
    for seed in range(5):
        scores, targets = random_set(seed)
        for threshold in THRESHOLDS[::3]:
            found = metrics_of(scores, targets, float(threshold), CLASSES)
            assert found["per_split_macro_f1"] >= max(found["macro_f1"], found["fixed_macro_f1"])


def test_subsets_and_ranking_follow_the_official_rule():
    scores, targets = random_set()
    found = metrics_of(scores, targets, 0.55, CLASSES)
    each = f1(scores.double() > 0.55, targets, None)
    for name, members in subsets_of(CLASSES).items():
        of_members = [float(each[CLASSES.index(member)]) for member in members]
        assert found[f"{name}_f1"] == pytest.approx(sum(of_members) / len(members))
    order = torch.randperm(28, generator=torch.Generator().manual_seed(1))
    shuffled = [CLASSES[number] for number in order]
    assert metrics_of(scores[:, order], targets[:, order], 0.55, shuffled) == pytest.approx(found)
    assert found["all_ones_macro_f1"] == pytest.approx(float(f1(torch.ones_like(targets), targets)))
    assert found["map_voc"] >= found["map"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_every_number_has_a_word_on_how_it_was_taken(split):
    protocol = protocol_of(split, 90, CLASSES)
    assert set(metrics_of(*random_set(), 0.5, CLASSES)) <= set(notes_of(split, CLASSES))
    assert protocol["split"].startswith(f"{split}: 90 images, never trained on")
    assert ("optimistic" in notes_of(split, CLASSES)["per_split_threshold"]) == (split == "test")
    assert ("nothing was chosen" in protocol["split"]) == (split == "test")


def test_a_threshold_kept_in_float32_is_the_one_that_was_meant():
    for threshold in THRESHOLDS.tolist():
        assert on_grid(float(torch.tensor(threshold))) == threshold
    tenth = torch.full((1, 28), 0.1)  # above 0.1 in double precision, not above itself
    assert metrics_of(tenth, tenth > 0, on_grid(float(torch.tensor(0.1))), CLASSES)["macro_f1"] == 1


def test_the_table_has_a_row_for_each_class():
    scores, targets = random_set()
    targets[:, 5] = False
    scores[:, 7] = 0.0
    rows = class_table(scores, targets, 0.55, CLASSES)
    assert [row["name"] for row in rows] == list(CLASSES)
    found = metrics_of(scores, targets, 0.55, CLASSES)
    assert sum(row["f1"] for row in rows) / 28 == pytest.approx(found["macro_f1"])
    ranked = [row["ap"] for row in rows if row["ap"] is not None]
    assert len(ranked) == 27
    assert sum(ranked) / 27 == pytest.approx(found["map"])
    assert (rows[5]["support"], rows[5]["recall"], rows[5]["ap"]) == (0, 0, None)
    assert (rows[7]["predicted"], rows[7]["precision"], rows[7]["f1"]) == (0, 0, 0)
    one = rows[11]
    assert one["predicted"] * one["precision"] == pytest.approx(one["support"] * one["recall"])
    assert {row["threshold"] for row in rows} == {0.55}
    assert (rows[19]["hardness"], rows[19]["cue"], rows[0]["cue"], rows[8]["cue"]) == (
        "easy",
        "other",
        "object",
        "context",
    )
    for row in rows:
        assert (row["hardness"], row["cue"]) == (HARDNESS[row["name"]], CUE[row["name"]])
