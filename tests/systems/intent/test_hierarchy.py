"""Every intent has a title and its place in the published tree; one's own classes have neither."""

import re
from importlib.resources import files

import pytest
import torch

from sightword.systems.intent.evaluate import level_table, metrics_of
from sightword.systems.intent.hierarchy import GROUPS, INTENTS, groups_of, levels, titles
from sightword.systems.intent.intentonomy import CLASSES

# HLEG's code, by number of class and of group
FIFTEEN = [
    [24, 27],
    [5],
    [13],
    [11],
    [3, 7, 8, 9, 19],
    [4, 6, 20, 21],
    [14],
    [15, 16],
    [2, 22, 23],
    [0],
    [17, 25],
    [10],
]
FIFTEEN += [[1], [12], [18, 26]]
NINE = [[0, 1], [2, 3], [4, 5], [6], [7, 8, 9], [10], [11], [12], [13, 14]]


def test_the_tree_is_the_published_one():
    found = levels(CLASSES)
    assert [[CLASSES.index(name) for name in own] for own in found[15].values()] == FIFTEEN
    above = [[number for number, group in enumerate(GROUPS) if GROUPS[group] == name] for name in found[9]]
    assert sorted(above) == sorted(NINE)
    for own in found.values():
        assert sorted(name for names in own.values() for name in names) == sorted(CLASSES)


def test_every_intent_has_a_title_of_its_own():
    assert tuple(INTENTS) == CLASSES
    assert len({intent.title for intent in INTENTS.values()}) == 28
    assert titles(CLASSES)["TchOthrs"] == "Teach others"


def test_the_page_has_the_same_titles():
    script = (files("sightword.serve") / "page" / "words.js").read_text(encoding="utf-8")
    table = script.split("const INTENTS = {")[1].split("};")[0]
    shown = {a or b: title for a, b, title in re.findall(r'(?:"([^"]+)"|(\w+)): \["([^"]+)",', table)}
    assert shown == titles(CLASSES)


@pytest.mark.parametrize("names", [("Happy", "Health"), (*CLASSES, "Tired")])
def test_ones_own_classes_keep_their_names_and_have_no_groups(names):
    assert titles(names) == {name: name for name in names}
    assert levels(names) == {}
    assert groups_of(dict.fromkeys(names, 0.5)) == {}
    scores = torch.rand(4, len(names))
    assert level_table(scores, scores > 0.5, 0.5, names) == []
    assert not any(name.startswith("level") for name in metrics_of(scores, scores > 0.5, 0.5, names))


def test_a_group_is_predicted_if_any_of_its_intents_is():
    scores = dict.fromkeys(CLASSES, 0.1) | {"InLoveAnimal": 0.8, "Health": 0.3}
    found = groups_of(scores)
    assert (found[15]["Intimacy"], found[9]["Security and belonging"], found[9]["Health"]) == (0.8, 0.8, 0.3)
    assert found[15]["Relate and belong"] == 0.1
    said, true = torch.zeros(3, 28), torch.zeros(3, 28, dtype=torch.bool)
    said[0, CLASSES.index("InLove")] = true[0, CLASSES.index("InLoveAnimal")] = 1  # wrong of 28, right of 15
    rows = {(row["level"], row["group"]): row for row in level_table(said, true, 0.5, CLASSES)}
    assert len(rows) == 15 + 9
    assert rows[15, "Intimacy"]["f1"] == rows[9, "Security and belonging"]["f1"] == 1
    assert metrics_of(said, true, 0.5, CLASSES)["macro_f1"] == 0
    assert metrics_of(said, true, 0.5, CLASSES)["level15_macro_f1"] == pytest.approx(1 / 15)


def test_the_order_of_the_classes_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    scores, order = torch.rand(40, 28, generator=generator), torch.randperm(28, generator=generator)
    targets = torch.rand(40, 28, generator=generator) < 0.2
    one = metrics_of(scores, targets, 0.5, CLASSES)
    other = metrics_of(scores[:, order], targets[:, order], 0.5, [CLASSES[number] for number in order])
    assert one["level9_macro_f1"] == pytest.approx(other["level9_macro_f1"])
