"""Files of labels, and the embeddings of classes."""

import json

import pytest
import torch
import torch.nn.functional as F
from skeleton_fakes import LABELS, write_world
from torch import nn

from sightword.systems.skeleton.labels import Labels, built_in, named_labels, read_labels
from sightword.systems.skeleton.model import ClassTexts
from sightword.towers.factory import text_tower


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("texts"))


def written(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_labels_are_read_as_json_csv_and_names(tmp_path):
    found = read_labels(written(tmp_path, "a.json", '{"喝水": ["drinking water", "a drink"], "sit": "sitting"}'))
    assert found[:2] == (("喝水", "sit"), (("drinking water", "a drink"), ("sitting",)))
    found = read_labels(written(tmp_path, "b.csv", "id,name\n1,sitting down\n0, drinking water\n"))
    assert found[:2] == (("drinking water", "sitting down"), (("drinking water",), ("sitting down",)))
    assert read_labels(written(tmp_path, "c.txt", "drink\n\nsit down \n")).classes == ("drink", "sit down")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "[1]", "expected an object, got a list of 1"),
        ("a.json", "{", "ends in the middle of its JSON"),
        ("a.json", "{}", "names no class"),
        ("a.json", '{"sit": []}', "'sit' needs a list of prompts"),
        ("a.json", '{"sit": ["", "x"]}', "'sit' needs a list"),
        ("a.json", '{"sit": 3}', "sit: expected a list, got 3"),
        ("a.json", '{"sit": ["a"], "sit": ["b"]}', '"sit" stands twice'),
        ("a.csv", "number,name\n0,sit\n", "expected the columns id, name; id is missing"),
        ("a.csv", "id,name\n1,sit\n2,stand\n", "not 0 to 1"),
        ("a.csv", "id,name\n0,sit\n0,stand\n", "not 0 to 1"),
        ("a.csv", "id,name\n0\n1,stand\n", "row 2: has 1 cells for 2 columns"),
        ("a.csv", "id,name\n0, \n1,stand\n", "row 2: name: the cell is empty"),  # or 1 would become 0
        ("a.csv", "id,name\n0,sit, on a chair\n1,stand\n", "row 2: has 3 cells for 2 columns, too many: quote a text"),
        ("a.txt", "sit\nsit\n", "'sit' twice"),
        ("a.yaml", "sit", "not a file of labels"),
    ],
)
def test_a_file_that_is_no_file_of_labels_is_a_line(tmp_path, name, text, said):
    with pytest.raises(ValueError, match=said) as error:
        read_labels(written(tmp_path, name, text))
    assert "\n" not in str(error.value)


def test_no_file_is_a_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        read_labels(tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"system\.labels is not set"):
        read_labels("")


def test_a_class_is_the_mean_of_its_prompts_at_length_one(world):
    tower, head = text_tower(world["text"]), nn.Linear(64, 8)
    texts = ClassTexts(read_labels(world["labels"]), tower.tokenizer)
    with torch.no_grad():
        read = texts.embed(tower, head)
        for number, prompts in enumerate(LABELS.values()):
            each = F.normalize(head(tower.encode(list(prompts)).pooled), dim=1)
            torch.testing.assert_close(read.unit[number], F.normalize(each.mean(0), dim=0))
            first = tower.encode([prompts[0]])
            width = first.tokens.shape[1]
            assert read.mask[number].sum() == width
            torch.testing.assert_close(read.tokens[number, :width], first.tokens[0])


@pytest.mark.parametrize("frozen", [False, True])
def test_some_classes_are_read_as_all_of_them_are(world, frozen):
    tower, head = text_tower(world["text"]), nn.Linear(64, 8)
    if frozen:
        tower.freeze()
    texts = ClassTexts(read_labels(world["labels"]), tower.tokenizer)
    chosen = torch.tensor([1, 2])
    with torch.no_grad():
        every, some = texts.embed(tower, head), texts.embed(tower, head, chosen)
    torch.testing.assert_close(some.unit, every.unit[chosen])
    torch.testing.assert_close(some.tokens, every.tokens[chosen])
    assert torch.equal(some.mask, every.mask[chosen])


class Counted(nn.Module):
    def __init__(self, tower):
        super().__init__()
        self.tower, self.calls, self.frozen = tower, 0, tower.frozen

    def forward(self, ids, mask):
        self.calls += 1
        return self.tower(ids, mask)


def test_a_frozen_tower_reads_the_prompts_once_for_all(world):
    for frozen, calls in ((True, 1), (False, 3)):
        tower = text_tower(world["text"])
        counted = Counted(tower.freeze() if frozen else tower)
        texts = ClassTexts(read_labels(world["labels"]), tower.tokenizer)
        for head in (nn.Linear(64, 8), nn.Linear(64, 8), nn.Linear(64, 8)):
            texts.embed(counted, head).unit.sum().backward()
            assert head.weight.grad.any()
        assert counted.calls == calls


def test_a_prompt_longer_than_the_tower_reads_is_a_line(world):
    tower = text_tower(world["text"], length=6)
    labels = Labels.of({"sit": ["sit"], "fan": ["using a fan with hand or feeling warm"]}, "ntu60.json")
    with pytest.raises(ValueError, match=r"ntu60\.json: 'using a fan.*class 'fan'.* tokens .* 6. Shorten.*text_length"):
        ClassTexts(labels, tower.tokenizer)


def test_the_numbers_of_prompts_do_not_enter_a_checkpoint(world):
    texts = ClassTexts(read_labels(world["labels"]), text_tower(world["text"]).tokenizer)
    assert not texts.state_dict()
    assert json.loads(json.dumps(LABELS))  # the fixture is what JSON can hold


def test_names_with_commas_are_labels_and_a_path_is_a_file(tmp_path):
    found = named_labels("waving,  sitting   down , ")
    assert found[:2] == (("waving", "sitting down"), (("waving",), ("sitting down",)))
    assert named_labels("pick up/put down, sit. stand").classes == ("pick up/put down", "sit. stand")
    assert len(named_labels(", ".join(f"action {number}" for number in range(400))).classes) == 400
    file = written(tmp_path, "a.txt", "drink\nsit")
    assert named_labels(str(file)).classes == ("drink", "sit")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("waving", "names 1 action. Pass two or more with commas"),
        (" , ", "names no action"),
        ("waving, waving", "'waving' twice"),
        ("gone.json", "gone.json does not exist"),
        ("folder/gone", "not a file of labels"),
    ],
)
def test_what_is_neither_names_nor_a_file_is_a_line(text, said):
    with pytest.raises(ValueError, match=said):
        named_labels(text)


def test_the_built_in_lists_are_complete():
    assert set(built_in()) == {"msr_actions", "msr_names", "msr_parts", "msr_phases"}
    labels = read_labels("msr_actions")
    assert len(labels.classes) == 20
    assert labels.classes[0] == "high arm wave"
    assert labels.classes[-1] == "pick up and throw"
    prompts = [text for texts in labels.prompts for text in texts]
    assert len(set(prompts)) == len(prompts) == 40
