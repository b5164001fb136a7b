"""Help is made of the signatures and dataclasses: names, types, defaults, the comments beside them."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from sightword.cli.arguments import options_of
from sightword.cli.commands import COMMANDS
from sightword.cli.help import config_help, kind_name, usage, written
from sightword.cli.main import main
from sightword.engine.argument import Count, JobOptions, Out, Positional, Size
from sightword.engine.system import system_commands, systems


@dataclass
class Base:
    """A base."""

    first: int = 1_000  # of the base


@dataclass
class Derived(Base):
    """A string with a # that is no comment, and a field = 3."""

    rate: float = 2e-4  # how fast; "quoted # sign"
    text: str = "# no comment"
    several: list[int] = field(
        default_factory=lambda: [1, 2],
    )  # over lines


def test_comments_are_read_from_the_source():
    found = written(Derived)
    assert {name: each.comment for name, each in found.items()} == {
        "first": "of the base",
        "rate": 'how fast; "quoted # sign"',
        "text": "",
        "several": "over lines",
    }
    assert found["rate"].number == "2e-4"
    assert found["text"].number == ""


def test_a_class_without_source_has_no_comments():
    made = dataclass(type("Made", (), {"__annotations__": {"x": int}, "x": 1}))
    assert written(made) == {}


def test_the_help_of_a_command_has_types_defaults_and_comments():
    def lift(
        root: str,  # scenes
        out: Out,  # a folder
        frames: Count = 5,  # of each scene
        size: Size = (224, 304),  # of the frames
        rate: float = 1e-3,
        job: JobOptions = JobOptions(workers=2),
    ) -> None:
        """Lift."""

    lines = usage("lift", lift).splitlines()
    assert lines[0] == "sightword lift: Lift."
    shown = [" ".join(line.split()) for line in lines[2:]]
    assert shown == [
        "root=… text required, scenes",
        "out=… path required, a folder",
        "frames=5 count of each scene",
        "size=224x304 size of the frames",
        "rate=1e-3 float",
        "engine=inline choice inline (also under torchrun), or ray",
        "workers=2 count or 0 Ray actors; 0: as many as fit",
        "gpus=0.0 float GPUs of each Ray actor; a fraction shares one",
    ]


def test_the_help_of_a_choice_lists_what_can_be_chosen_and_words_have_a_line():
    def find(
        query: Positional,  # required, a sentence
        vis: Literal["none", "pca"] = "none",  # the images
    ) -> None:
        """Find."""

    shown = [" ".join(line.split()) for line in usage("find", find).splitlines()[2:]]
    assert shown == ["query words required, a sentence", "vis=none choice none | pca: the images"]


@pytest.mark.parametrize("name", [*COMMANDS, *system_commands()])
def test_every_command_explains_itself_and_its_keys(name, capsys):
    command = {**COMMANDS, **system_commands()}[name]
    assert main([name, "--help"]) == 0
    said = capsys.readouterr().out
    for key in options_of(command):
        assert f"  {key}=" in said


def test_the_help_of_train_shows_every_field_of_every_system():
    import dataclasses

    said = config_help(systems())
    for name, system in systems().items():
        for prefix, kind in (("system", system.Config), ("data", system.Data)):
            for each in dataclasses.fields(kind):
                assert f"  {prefix}.{each.name}=" in said, name
    assert "optim.lr=2e-4" in said
    assert "list of float" in said


def test_the_help_of_train_can_be_of_one_experiment(capsys):
    assert main(["train", "experiment=tokenizer/mini", "--help"]) == 0
    said = capsys.readouterr().out
    assert "tokenizer:" in said
    assert [line for line in said.splitlines() if line.endswith(":") and " " not in line] == ["tokenizer:"]


def test_types_have_the_parsers_names():
    assert [kind_name(kind) for kind in (str, int, list[float], dict[str, float], str | None)] == [
        *("text", "int", "list of float", "text:float", "text")
    ]
