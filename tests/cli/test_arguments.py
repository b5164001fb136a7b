"""One grammar: the same key is read in the same way by every command."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from sightword.cli.arguments import options_of, read_arguments
from sightword.cli.commands import COMMANDS
from sightword.cli.help import written
from sightword.engine.argument import (
    Amount,
    Count,
    Counts,
    Dtype,
    ImageJobOptions,
    Model,
    NamedTokenTypes,
    Names,
    Others,
    Out,
    Overrides,
    Pairs,
    Positive,
    Size,
    TokenType,
    TokenTypes,
    file_in,
    folder_in,
)
from sightword.engine.system import system_commands
from sightword.errors import SightwordError


def read(kind, text):
    def command(key: kind) -> None: ...

    return read_arguments("command", command, [f"key={text}"])["key"]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "32", 32),
        (int, "-3", -3),
        (float, "1e-3", 1e-3),
        (bool, "true", True),
        (bool, "0", False),
        (Count, "1", 1),
        (Amount, "0", 0),
        (Positive, "0.03", 0.03),
        (Size, "256", 256),
        (Size, "384x128", (384, 128)),
        (Size | None, "", None),
        (Dtype, "bf16", "bfloat16"),
        (Dtype, "float32", "float32"),
        (Dtype, "fp16", "float16"),
        (TokenType, "kk+gauss2.5", "kk+gauss2.5"),
        (TokenType, "plain", "joint"),
        (TokenTypes, "post, qq+gauss", ("post", "qq+gauss")),
        (Names, "coco, places", ("coco", "places")),
        (Names, "", ()),
        (Pairs, "coco:256,ava:a b", (("coco", "256"), ("ava", "a b"))),
        (NamedTokenTypes, "coco:plain,ava:kk", (("coco", "joint"), ("ava", "kk"))),
        (Counts, "coco:256,ava:512", (("coco", 256), ("ava", 512))),
        (Out, "runs/x", Path("runs/x")),
        (Path | None, "", None),
        (Model, "user/name", "user/name"),
        (Literal["a", "b"], "b", "b"),
        (str, "2024_01_15", "2024_01_15"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_value_is_read_by_the_type_of_its_parameter(kind, text, value):
    found = read(kind, text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        (int, "many", "key='many' is not an int. Pass a whole number, for example 32"),
        (int, "1.5", "is not an int"),
        (float, "fast", "key='fast' is not a number"),
        (bool, "perhaps", "is not true or false"),
        (Count, "0", "key='0' is not a whole number from 1 on. Pass 1 or more"),
        (Amount, "-1", "key='-1' is not a whole number from 0 on. Pass 0 or more"),
        (Positive, "0", "key='0' is not a number above 0. Pass a number above 0"),
        (Positive, "inf", "is not a number above 0"),
        (Positive, "nan", "is not a number above 0"),
        (NamedTokenTypes, "coco:valu", "key='coco:valu' is not a list of name:token type. Pass a:value,b:joint"),
        (Counts, "coco:many", "key='coco:many' is not a list of name:count"),
        (Size, "large", "key='large' is not a size in pixels. Pass one side, 256, or height x width, 384x128"),
        (Size, "0", "is not a size"),
        (Size, "3x0", "is not a size"),
        (Dtype, "int8", "key='int8' is not a dtype. Pass fp32, bf16 or fp16"),
        (TokenType, "value+gauss", "is not a token type. Pass one of post, joint, value, qq, kk"),
        (TokenTypes, "post,", "is not a list of token types"),
        (Pairs, "coco", "is not a list of name:value"),
        (Out, "", "key='' is not a path. Pass where to write; out=. is this folder"),
        (Literal["a", "b"], "c", "key='c' is not one of a, b"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_value_of_another_type_is_named_with_what_to_pass(kind, text, told):
    with pytest.raises(SightwordError) as caught:
        read(kind, text)
    assert told in str(caught.value)


def test_token_types_are_those_of_the_tower():
    from sightword.towers.clip.dense import TokenType as InTower

    for name in ("post", "joint", "value", "qq", "kk", "qq+gauss", "kk+gauss2.5", "kk+gauss3"):
        InTower.parse(read(TokenType, name))
    for name in ("valu", "post+gauss", "qq+gaus", "", "kk+gauss1.2.3"):
        for parse in (InTower.parse, lambda text: read(TokenType, text)):
            with pytest.raises(ValueError):
                parse(name)


def test_a_home_directory_is_found_and_none_is_no_error(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert read(Path, "~/x") == Path("/home/somebody/x")
    assert read(Model, "~/x") == "/home/somebody/x"
    assert read(Path, "~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")


def test_plain_values_can_be_used_from_python():
    assert (file_in(Path("a.json"), "x.json"), file_in(Path("a"), "x.json")) == (Path("a.json"), Path("a/x.json"))
    assert folder_in(Path("a")) == Path("a")
    with pytest.raises(SightwordError, match="is a file. Pass a folder"):
        folder_in(Path(__file__))


def test_the_fields_of_a_jobs_options_are_keys_of_the_command():
    def job_of(*argv):
        def embed(out: Out, job: ImageJobOptions = ImageJobOptions(shard_size=9)) -> None: ...

        return read_arguments("embed", embed, ["out=x", *argv]).get("job")

    assert job_of() is None  # the function's own default
    assert job_of("workers=2", "gpus=0.5") == ImageJobOptions(workers=2, gpus=0.5, shard_size=9)
    for argument, told in {
        "engine=slurm": "engine='slurm' is not one of inline, ray",
        "batch_size=0": "batch_size='0' is not a whole number from 1 on. Pass 1 or more",
        "on_error=ignore": "on_error='ignore' is not one of raise, skip",
        "workers=-1": "workers='-1' is not a whole number from 0 on. Pass 0 or more",
        "gpus=nan": "gpus=nan is too small",
    }.items():
        with pytest.raises(SightwordError) as caught:
            job_of(argument)
        assert told in str(caught.value)


def test_a_field_of_a_dataclass_can_be_none_and_that_one_was_typed_can_be_told():
    @dataclass(frozen=True)
    class Seen:
        size: Size | None = (224, 304)
        name: str = "vit_b16"

    usual = Seen()

    def ask(scene: str, seen: Seen = usual) -> None: ...

    assert "seen" not in read_arguments("ask", ask, ["scene=s"])
    assert read_arguments("ask", ask, ["scene=s", "size="])["seen"] == Seen(size=None)
    typed = read_arguments("ask", ask, ["scene=s", "name=vit_b16"])["seen"]
    assert typed == usual
    assert typed is not usual


def test_what_is_not_a_key_goes_where_the_command_collects_it():
    def find(index: str, top: int = 3, sentence: Sequence[str] = ()) -> None: ...

    given = read_arguments("find", find, ["index=here", "a shirt with x=1", "top=2", "on it"])
    assert given == {"index": "here", "top": 2, "sentence": ["a shirt with x=1", "on it"]}
    with pytest.raises(SightwordError, match="^find has no key 'tpo' .did you mean 'top'"):
        read_arguments("find", find, ["index=here", "tpo=2"])

    def measure(run: str, overrides: Overrides = (), others: Others = ()) -> None: ...

    given = read_arguments("measure", measure, ["data.root=x", "run=r", "images=y"])
    assert given == {"run": "r", "overrides": ["data.root=x"], "others": ["images=y"]}


def test_a_missing_key_is_named():
    def find(index: str) -> None: ...

    with pytest.raises(SightwordError, match=r"sightword find needs index=…"):
        read_arguments("find", find, [])


def test_a_type_that_nothing_reads_is_a_defect():
    def find(index: dict) -> None: ...

    with pytest.raises(TypeError, match="find.index.: the command line cannot read"):
        options_of(find)


EVERY = {**COMMANDS, **system_commands()}
SAME = {
    "size": "size",
    "dtype": "dtype",
    "engine": "choice",
    "workers": "count or 0",
    "gpus": "float",
    "on_error": "choice",
}
SAME |= {"out": "path", "images": "path", "root": "path", "model": "model", "checkpoint": "text", "tower": "text"}
SAME |= {
    "batch_size": "count",
    "shard_size": "count",
    "frames": "count",
    "top": "count",
    "vis": "bool",
    "voxel": "number",
}


def test_a_model_is_model_except_where_it_must_be_a_run():
    assert [name for name, command in EVERY.items() if "run" in options_of(command)] == [
        "evaluate",
        "export",
        "faithful",
    ]


@pytest.mark.parametrize("name", EVERY)
def test_every_key_has_a_help_text(name):
    for option in options_of(EVERY[name]).values():
        assert written(option.owner)[option.key].comment, f"{name} {option.key}="


@pytest.mark.parametrize("name", EVERY)
def test_a_key_means_the_same_in_every_command(name):
    for key, option in options_of(EVERY[name]).items():
        assert option.parser.name == SAME.get(key, option.parser.name), f"{name} {key}="


def arrange(size: Size, names: Names = (), vis: bool = False, out: Out | None = None, rate: Positive = 1.0) -> None:
    """A command."""


def test_arguments_come_from_a_file_and_what_is_typed_wins(tmp_path):
    file = tmp_path / "composer.yaml"
    file.write_text("size: 32x64\nnames: [a chair, bed]\nvis: true\nout:\nrate: 0.5\n")
    found = read_arguments("arrange", arrange, [f"config={file}", "rate=2"])
    assert found == {"size": (32, 64), "names": ("a chair", "bed"), "vis": True, "out": None, "rate": 2.0}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rats: 1\n", "arrange has no key 'rats'"),
        ("rate: {a: 1}\n", "rate holds keys of its own"),
        ("- 1\n", "expected"),
        (None, "does not exist"),
    ],
)
def test_a_wrong_file_of_arguments_is_one_line(tmp_path, text, told):
    file = tmp_path / "composer.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SightwordError, match=told):
        read_arguments("arrange", arrange, [f"config={file}", "size=8"])
