"""One bounded reader: every fault of a file is one SightwordError that names the file and the place."""

import json
import math
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from sightword.errors import MissingFileError, SightwordError
from sightword.storage import reader
from sightword.storage.reader import (
    parse_json,
    read_csv,
    read_dataclass,
    read_json,
    read_json_list,
    read_text,
    read_yaml,
)

READERS = [read_json, read_json_list, read_yaml, read_csv, read_text]


def put(folder: Path, content: str | bytes, name: str = "a.json") -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def refused(file: Path, read=read_json, **options) -> str:
    """The message, which is one line and begins with the file."""
    with pytest.raises(SightwordError) as caught:
        read(file, **options)
    text = str(caught.value)
    assert text.startswith(str(file))
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    return text.removeprefix(str(file))


# -------------------------------------------------------------------------------------------------------- any file


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_says_what_would_write_it(tmp_path, read):
    with pytest.raises(MissingFileError, match=r"none.json does not exist. Write it with: sightword cache$"):
        read(tmp_path / "none.json", missing="Write it with: sightword cache")
    with pytest.raises(FileNotFoundError):
        read(put(tmp_path, "") / "below_a_file.json")


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_file_is_refused(tmp_path, read):
    assert refused(tmp_path, read) == ": is a folder, expected a file"
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe", read) == ": is not a regular file"
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert refused(loop, read).startswith(": cannot be read: ")
    assert refused(tmp_path / ("x" * 300), read).startswith(": cannot be read: ")
    for name in ("zero\0byte", "half\ud800"):
        with pytest.raises(SightwordError, match="is not a file name"):
            read(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    file = put(tmp_path, "{}")
    file.chmod(0)
    assert "cannot be read: Permission denied" in refused(file)


@pytest.mark.parametrize("read", READERS)
def test_a_file_over_the_bound_is_not_read(tmp_path, read, monkeypatch):
    file = put(tmp_path, b"[" * 1001)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("it was opened"))
    assert refused(file, read, most=1000) == ": has 1,001 bytes, at most 1,000 are read"


@pytest.mark.parametrize("read", READERS)
def test_bytes_that_are_no_utf8_are_named_with_their_line(tmp_path, read):
    assert refused(put(tmp_path, b'{\n"a": "\xe9"}'), read).startswith(": line 2: the byte 0xe9 is not UTF-8")
    assert "UTF-16" in refused(put(tmp_path, "{}".encode("utf-16")), read)


def test_a_byte_order_mark_is_accepted(tmp_path):
    mark = b"\xef\xbb\xbf"
    assert read_json(put(tmp_path, mark + b'{"a": 1}')).integer("a") == 1
    assert read_yaml(put(tmp_path, mark + b"a: 1")).integer("a") == 1
    assert read_csv(put(tmp_path, mark + b"id\n1")).columns == ("id",)
    assert read_text(put(tmp_path, mark + b"a")) == "a"


def test_advice_for_a_damaged_file_ends_every_message(tmp_path):
    file = put(tmp_path, '{"images": 3}')
    with pytest.raises(SightwordError, match=r"images: expected a list, got 3\. Download it again$"):
        read_json(file, damaged="Download it again").sequence("images")
    assert refused(put(tmp_path, "{"), damaged="Download it again").endswith(". Download it again")


# ------------------------------------------------------------------------------------------------------------ JSON


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty, expected JSON"),
        ('{"a": [1, 2', "it was cut short"),
        ('{"a": "tex', "it was cut short"),
        ("{'a': 1}", "is not JSON: Expecting property name"),
        ('{"a": 1} x', "Extra data (line 1, column 10)"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', 'the field "c" stands twice in one object'),
        ('{"a": NaN}', "contains NaN, which is not JSON"),
        ('{"a": -Infinity}', "contains -Infinity, which is not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "contains a number of too many digits"),
        ("[]", "expected an object, got an empty list"),
        ("null", "expected an object, got null"),
    ],
)
def test_json_is_refused_with_the_reason(tmp_path, content, message):
    assert message in refused(put(tmp_path, content))


def test_nan_is_kept_where_it_is_asked_for(tmp_path):
    fields = read_json(put(tmp_path, '{"a": NaN, "b": Infinity, "c": 1e999}'), nan=True)
    assert math.isnan(fields.number("a", finite=False))
    assert fields.number("b", finite=False) == math.inf
    for name in "abc":
        with pytest.raises(SightwordError, match=f"{name}: expected a number"):
            fields.number(name)


def test_json_in_hand_is_named_by_its_caller():
    assert parse_json(b'{"a": 1}', "model.safetensors").integer("a") == 1
    with pytest.raises(SightwordError, match="^model.safetensors: its config: a: expected a text, got 1$"):
        parse_json('{"a": 1}', "model.safetensors: its config").text("a")


# -------------------------------------------------------------------------------------------------- depth and bombs


def test_a_repeated_field_among_many_is_found_at_once(tmp_path):
    names = ", ".join(f'"{number}": 0' for number in range(100_000))
    assert 'the field "99999" stands twice' in refused(put(tmp_path, f'{{{names}, "99999": 1}}'))


@pytest.mark.parametrize("opening", ['{"a":', "[", '[{"a":', '{"a": ['])
@pytest.mark.parametrize("read", [read_json, read_json_list, read_yaml])
def test_deep_nesting_is_one_line(tmp_path, read, opening):
    started = time.perf_counter()
    assert "nested" in refused(put(tmp_path, opening * 100_000), read)
    assert time.perf_counter() - started < 2


def test_nesting_that_json_takes_is_not_handed_out(tmp_path):
    deep = read_json(put(tmp_path, '{"a":' + "[" * 200 + "]" * 200 + "}"))
    for hand_out in (deep.plain, lambda: deep.value("a")):
        with pytest.raises(SightwordError, match="nested more than 64 deep"):
            hand_out()
    assert read_json(put(tmp_path, '{"a":' + "[" * 63 + "]" * 63 + "}")).plain()


def test_yaml_nested_64_deep_is_read_and_65_is_not(tmp_path):
    assert read_yaml(put(tmp_path, "a: " + "[" * 63 + "]" * 63)).plain()
    assert "nested more than 64 deep" in refused(put(tmp_path, "a: " + "[" * 64 + "]" * 64), read_yaml)


def test_a_billion_laughs_are_refused_at_once(tmp_path):
    lines = ["a0: &a0 [lol, lol]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    started = time.perf_counter()
    assert "line 3: an alias of what has aliases" in refused(put(tmp_path, "\n".join(lines)), read_yaml)
    assert "aliases" in refused(put(tmp_path, "a: &a [*a]"), read_yaml)
    assert "more than 100 aliases" in refused(put(tmp_path, "a: &a [1]\nb: [" + "*a, " * 101 + "]"), read_yaml)
    assert "not of type int" in refused(put(tmp_path, "a: 1" + ":1" * 100_000), read_yaml)
    assert time.perf_counter() - started < 1


# ------------------------------------------------------------------------------------------------------------ YAML


def test_yaml_gives_plain_values(tmp_path):
    text = "a: 1\nb: 1.5\nc: yes\nd: null\ne: text\nf: 2024-01-15\ng: [1, two]\nh: &x {i: 2}\nj: *x\nk: '1'\nl: 1.0e-05"
    assert read_yaml(put(tmp_path, text)).plain() == {
        "a": 1, "b": 1.5, "c": True, "d": None, "e": "text", "f": "2024-01-15", "g": [1, "two"], "h": {"i": 2},
        "j": {"i": 2}, "k": "1", "l": 1e-5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "is not YAML"),
        ("a: 1\na: 2", 'the field "a" stands twice'),
        ("1: a", 'line 1: a field\'s name is a text, got "1"'),
        ("[1]: a", "a field's name is a text, got a list"),
        ("a: !!python/object/apply:os.system [ls]", "the tag tag:yaml.org,2002:python/object/apply:os.system is not"),
        ("a: !!set {b}", "is not read"),
        ("a: !!int word", '"word" is not of type int'),
        ("a: !!bool word", '"word" is not of type bool'),
        ("a: 1\n---\nb: 2", "is not YAML"),
        ("a: *b", "is not YAML"),
        ("a: \x07", "is not YAML"),
        ("", "expected an object, got null"),
        ("- 1", "expected an object, got a list of 1"),
    ],
)
def test_yaml_is_refused_with_the_reason(tmp_path, content, message):
    assert message in refused(put(tmp_path, content), read_yaml)


# ------------------------------------------------------------------------------------------------------------- CSV


def test_csv_cells_are_converted_on_access(tmp_path):
    file = put(tmp_path, 'id, name, x\n0, "walk, slowly", 0.5\n\n1, run,\n', "a.csv")
    columns, rows = read_csv(file, ["id", "name"])
    assert columns == ("id", "name", "x")
    assert [(row.integer("id"), row.text("name"), row.number("x", -1.0)) for row in rows] == [
        (0, "walk, slowly", 0.5),
        (1, "run", -1.0),
    ]
    assert "x" not in rows[1]
    for ask, message in [
        (lambda: rows[1].number("x"), "row 4: x: the cell is empty"),
        (lambda: rows[0].integer("name"), 'row 2: name: expected a whole number, got "walk, slowly"'),
        (lambda: rows[0].integer("id", least=1), 'row 2: id: expected a whole number from 1 on, got "0"'),
        (lambda: rows[0].text("y"), "row 2: y: there is no such column"),
    ]:
        with pytest.raises(SightwordError) as caught:
            ask()
        assert str(caught.value) == f"{file}: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("id,id\n", 'row 1: names the column "id" twice'),
        ("id\n1", 'name is missing in "id"'),
        ("id,name\n0,a\n1", "row 3: has 1 cells for 2 columns, too few"),
        ("id,name\n0,a,b", "row 2: has 3 cells for 2 columns, too many"),
        ('id,name\n0,"a', "row 2: is not CSV: unexpected end of data"),
        ("id,name\n0,\0", "contains a zero byte"),
        ("id,name\n0," + "a" * 200_000, "row 2: is not CSV: field larger than field limit"),
    ],
)
def test_csv_is_refused_with_the_row(tmp_path, content, message):
    assert message in refused(put(tmp_path, content, "a.csv"), read_csv, needed=["id", "name"])


# ---------------------------------------------------------------------------------------------------- typed access


def test_an_error_names_the_path_of_its_field(tmp_path):
    images = [{"caption": "a", "size": [1, 2]}] * 3 + [{"caption": [], "size": [1, "2"], "odd key\n": {"b": 1}}]
    file = put(tmp_path, json.dumps({"images": images}))
    last = list(read_json(file).mappings("images"))[3]
    for ask, message in [
        (lambda: last.text("caption"), "images[3].caption: expected a text, got an empty list"),
        (lambda: last.integers("size"), 'images[3].size[1]: expected a whole number, got "2"'),
        (lambda: last.mapping("odd key\n").text("b"), r'images[3]."odd key\n".b: expected a text, got 1'),
        (lambda: last.text("id"), r'images[3]: has no id; its fields are caption, size, "odd key\n"'),
        (lambda: last.sequence("size").text(2), "images[3].size: has 2 items, none at [2]"),
    ]:
        with pytest.raises(SightwordError) as caught:
            ask()
        assert str(caught.value) == f"{file}: {message}"


VALUES = {
    "text": ("text", "integer"), "integer": (3, "text"), "number": (1.5, "integer"), "flag": (True, "integer"),
    "mapping": ({}, "sequence"), "sequence": ([], "mapping"), "texts": (["a"], "integers"),
    "integers": ([1], "texts"), "numbers": ([1.5], "integers"),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_each_type_is_read_as_itself_and_as_no_other(name):
    value, other = VALUES[name]
    fields = parse_json(json.dumps({"a": value, "null": None}), "a.json")
    found = getattr(fields, name)("a")
    assert (found.plain() if hasattr(found, "plain") else found) == value
    for key, ask in (("a", other), ("null", name)):
        with pytest.raises(SightwordError, match=rf"^a.json: {key}(\[0\])?: expected "):
            getattr(fields, ask)(key)
    with pytest.raises(SightwordError, match=r"has no b"):
        getattr(fields, name)("b")


def test_values_out_of_range_are_refused():
    fields = parse_json('{"k": 0, "x": 1.5, "b": true, "big": 1' + "0" * 400 + ', "half": "\\ud800", "f": 3.0}', "a")
    for ask in (
        lambda: fields.integer("k", least=1),
        lambda: fields.integer("k", most=-1),
        lambda: fields.number("x", most=1),
        lambda: fields.integer("b"),
        lambda: fields.number("b"),
        lambda: fields.number("big"),
        lambda: fields.number("big", finite=False),
        lambda: fields.text("half"),
        lambda: fields.integer("f"),
        lambda: fields.choice("half", ["a", "b"]),
    ):
        with pytest.raises(SightwordError) as caught:
            ask()
        assert str(caught.value).encode()
    assert fields.number("k", least=0) == 0


def test_defaults_stand_in_for_missing_fields_only():
    fields = parse_json('{"a": null}', "a")
    assert fields.text("b", "x") == "x"
    assert fields.integer("b", 0) == 0
    assert fields.flag("b", False) is False
    assert fields.texts("b", optional=True) == []
    assert len(fields.mapping("b", optional=True)) == 0
    with pytest.raises(SightwordError):
        fields.text("a", "x")


def test_a_single_text_may_stand_for_a_list():
    fields = parse_json('{"a": "x", "b": ["x", "y"]}', "a")
    assert [fields.texts(name, alone=True) for name in fields] == [["x"], ["x", "y"]]
    with pytest.raises(SightwordError):
        fields.texts("a")


def test_unknown_fields_are_named_with_what_was_meant():
    fields = parse_json('{"a": {"lerning_rate": 1}}', "a.json").mapping("a")
    with pytest.raises(SightwordError, match=r"^a.json: a.lerning_rate: unknown field; did you mean learning_rate\?$"):
        fields.refuse_unknown(["learning_rate", "epochs"])
    fields.refuse_unknown(["lerning_rate"])


def test_records_are_made_one_at_a_time(tmp_path):
    items = read_json_list(put(tmp_path, json.dumps([{"id": 0}, 7])))
    each = items.all_mappings()
    assert next(each).integer("id") == 0
    with pytest.raises(SightwordError, match=r"\[1\]: expected an object, got 7$"):
        next(each)


# ------------------------------------------------------------------------------------------------------ dataclasses


@dataclass
class Optim:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optim.lr={self.lr} is not above 0")


@dataclass
class Config:
    name: str
    size: list[int] = field(default_factory=list)
    optim: Optim = field(default_factory=Optim)
    weights: dict[str, float] = field(default_factory=dict)
    seed: int | None = None
    width: int | Literal["auto"] = "auto"
    fast: bool = False
    more: object = None


@pytest.mark.parametrize("name", ["config.json", "config.yaml"])
def test_a_dataclass_is_filled_from_a_file(tmp_path, name):
    content = {
        "name": "a", "size": [1, 2], "optim": {"lr": 1, "betas": [0, 1]}, "weights": {"x": 2}, "seed": None, "width": 3,
        "fast": True, "more": {"a": [None]},
    }  # fmt: skip
    found = read_dataclass(put(tmp_path, json.dumps(content), name), Config)
    assert found == Config("a", [1, 2], Optim(1.0, (0.0, 1.0)), {"x": 2.0}, None, 3, True, {"a": [None]})
    assert type(found.optim.lr) is float
    assert read_dataclass(put(tmp_path, '{"name": "a"}', name), Config) == Config("a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nam": 1}, ": nam: unknown field; did you mean name?"),
        ({"size": [1, "2"]}, ': size[1]: expected a whole number, got "2"'),
        ({"optim": {"lr": "x"}}, ': optim.lr: expected a number, got "x"'),
        ({"optim": {"lr": 0}}, ": optim.lr=0.0 is not above 0"),
        ({"optim": {"betas": [1]}}, ": optim.betas: expected a list of 2, got 1 items"),
        ({"weights": {"x": None}}, ": weights.x: expected a number, got null"),
        ({"seed": 1.5}, ": seed: expected a whole number, got 1.5"),
        ({"width": "wide"}, ': width: expected one of auto, got "wide"'),
        ({"fast": 1}, ": fast: expected true or false, got 1"),
    ],
)
def test_a_dataclass_is_refused_with_the_field(tmp_path, change, message):
    assert refused(put(tmp_path, json.dumps({"name": "a"} | change)), read_dataclass, kind=Config) == message


def test_a_field_without_default_is_required_unless_it_is_given(tmp_path):
    file = put(tmp_path, '{"optim": {"not": "looked at"}}')
    assert refused(file, read_dataclass, kind=Config, optim=Optim(2.0)).startswith(": has no name")
    assert read_dataclass(file, Config, optim=Optim(2.0), name="b") == Config("b", optim=Optim(2.0))


# ------------------------------------------------------------------------------------------------------------- fuzz

SEEDS = [
    b'{"images": [{"id": 1, "caption": "a man", "size": [1.5, -2e3], "ok": true}, {"id": null}], "name": "\xc3\xa9"}',
    b"a: 1\nb: &x [1, 2.5, yes, ~]\nc: {d: *x, e: 'text'}\nf: |\n  block\n  of text\ng: 2024-01-01\n? h\n: 1:30\n",
    b'id,name,x\n0,"walk, slowly",0.5\n1,run,nan\n\n2,"a ""quoted"" one",1e5\n',
]
TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"\n",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b"NaN",
    b"1e999",
]
TOKENS += [
    b"&x ",
    b"*x ",
    b"!!int ",
    b"!!float ",
    b"!!bool ",
    b"!!binary ",
    b"!!timestamp ",
    b"<<: ",
    b"- ",
    b"? ",
    b"|\n",
    b"%",
]
TOKENS += [
    b"---\n",
    b"'",
    b"\t",
    b"\r",
    b"9" * 5000,
    b"[" * 2000,
    b'{"a":' * 2000,
    b"=",
    b"0x",
    b".inf",
    b"\xc2\x85",
    b"_",
]


def mutated(content: bytes, draw: random.Random) -> bytes:
    raw = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, width = draw.randrange(len(raw) + 1), draw.randrange(8)
        match draw.randrange(5):
            case 0:
                raw[at:at] = draw.choice(TOKENS)
            case 1:
                del raw[at : at + width]
            case 2:
                del raw[at:]
            case 3:
                raw[at : at + 1] = bytes([draw.randrange(256)])
            case _:
                start = draw.randrange(len(raw) + 1)
                raw[at:at] = raw[start : start + 4 * width]
    return bytes(raw)


class Asking:
    """Asks questions of files; keeps the messages of our own error and lets every other error escape."""

    def __init__(self) -> None:
        self.answered, self.messages = 0, set()

    def __call__(self, ask, *values):
        try:
            answer = ask(*values)
        except SightwordError as error:
            self.messages.add(str(error))
            return None
        self.answered += 1
        return answer

    def about(self, fields: reader.Fields) -> None:
        for name in fields:
            for question in (*VALUES, "value"):
                self(getattr(fields, question), name)
        self(fields.into, Config)
        self(fields.plain)
        self(lambda: list(fields.mappings("images")))


@pytest.mark.parametrize(("loader", "rounds"), [("CSafeLoader", 400), ("SafeLoader", 60)])
def test_nothing_but_our_error_escapes_from_mutated_files(tmp_path, monkeypatch, loader, rounds):
    monkeypatch.setattr(reader, "_LOADER", getattr(yaml, loader, yaml.SafeLoader))
    draw, ask, file = random.Random(0), Asking(), tmp_path / "a"
    for content in SEEDS * rounds:
        file.write_bytes(mutated(content, draw))
        for read in (read_json, read_yaml):
            if fields := ask(read, file):
                ask.about(fields)
        for row in (ask(read_csv, file) or reader.Table((), [])).rows:
            for question in (row.text, row.integer, row.number):
                ask(question, "x")
    assert ask.answered > 3 * rounds  # enough files survive to be asked
    assert len(ask.messages) > rounds // 2
    for message in ask.messages:
        assert message.startswith(str(file))
        assert message.isprintable()
        assert message.encode()
