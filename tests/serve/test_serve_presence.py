"""The server's explanation of a model that reads which words are present."""

import pytest

from sightword.serve.intent import explained
from sightword.systems.intent.predict import IntentClassifier


@pytest.fixture(scope="module")
def found(world, tmp_path_factory):
    from worlds import arguments_of

    from sightword.cli.train import train_in

    folder = tmp_path_factory.mktemp("present") / "pairs"
    assert train_in(folder, [*arguments_of("intent/pairs", world), "trainer.steps=20", "system.pairs=6"])
    picture = sorted((world["root"] / "intent" / "low").iterdir())[0]
    return IntentClassifier.from_pretrained(folder, "last")(picture).explanation


def test_terms_and_bias_sum_to_the_logits(found):
    told = explained(found)
    for number, (name, logit) in enumerate(told["logits"].items()):
        total = told["bias"][name] + sum(term["adds"][number] for term in told["terms"])
        assert total == pytest.approx(logit, abs=1e-3)


def test_each_term_says_where_it_is_and_how_surely(found):
    *terms, rest = explained(found)["terms"]
    assert rest["word"] == ""
    assert terms
    for term in terms:
        assert sum(map(sum, term["where"])) == pytest.approx(1, abs=1e-2)
        assert (term["presence"] is None) == (term["stream"] == "pairs")


def test_a_patch_that_is_nothing_has_no_certainty(found):
    for stream in explained(found)["streams"].values():
        for row, sure in zip(stream["grid"], stream["margins"], strict=True):
            for number, value in zip(row, sure, strict=True):
                assert (stream["words"][number] == "nothing") == (value == 0)
