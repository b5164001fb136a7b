"""JSON is written whole, and so that any reader accepts it."""

import errno
import json
import math
from pathlib import Path

import pytest

from sightword.errors import SightwordError
from sightword.storage.reader import read_json
from sightword.storage.writer import write_json


def test_numbers_that_are_not_finite_become_null(tmp_path):
    value = {"loss": math.nan, "rows": [(1.5, -math.inf)], "name": "一", "n": 3, "ok": True}
    write_json(tmp_path / "summary.json", value)
    expected = {"loss": None, "rows": [[1.5, None]], "name": "一", "n": 3, "ok": True}
    assert read_json(tmp_path / "summary.json").plain() == expected
    assert math.isnan(value["loss"])


def test_a_name_that_is_no_unicode_is_written_as_an_escape(tmp_path):
    write_json(tmp_path / "a.json", {"file": "caf\udce9"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"file": "caf\udce9"}


def test_what_stood_there_stays_if_the_disk_is_full(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SightwordError, match=r"a.json cannot be written: No space left on device$"):
        write_json(file, {"a": 2})
    assert read_json(file).plain() == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_value_without_a_form_in_json_is_a_defect_of_the_caller(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert not list(tmp_path.iterdir())
