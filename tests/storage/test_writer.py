"""JSON is written whole, and so that any reader accepts it; an image is written as text without loss."""

import base64
import errno
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightword.errors import SightwordError
from sightword.storage.reader import read_json
from sightword.storage.writer import png_data_uri, write_json


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


def test_a_data_uri_holds_the_image():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    head, data = png_data_uri(Image.fromarray(pixels)).split(",", 1)
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), pixels)
