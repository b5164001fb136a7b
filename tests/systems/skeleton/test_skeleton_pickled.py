"""A pickle is read as data: what numpy writes comes back as it was, and nothing that a file names is called."""

import builtins
import copyreg
import io
import os
import pickle
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from posed import write

from sightword.systems.skeleton import pickled
from sightword.systems.skeleton.pickled import read_plain

PLAIN = {
    "half": np.arange(6, dtype=np.float16).reshape(1, 2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "piece": np.arange(10, dtype=np.int64)[::3],
    "big": np.arange(3, dtype=">i4"),
    "flags": np.array([True, False]),
    "texts": np.array(["left", "right"]),
    "empty": np.zeros((0, 17, 2), np.float32),
    "number": np.int64(7),
    "share": np.float32(0.5),
    "bytes": b"\x00\xff",
    "ordered": OrderedDict(a=[1, (2, 3.5, None, True)]),
}


def older(path: Path) -> None:
    """As numpy 1 would have written it."""
    data = path.read_bytes()
    data = data[:2] + data[11:] if data[2:3] == pickle.FRAME else data
    path.write_bytes(
        data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
        .replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
        .replace(b"cnumpy._core.", b"cnumpy.core.")
    )


@pytest.mark.parametrize("numpy", [1, 2])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_what_numpy_writes_comes_back_as_it_was(tmp_path, protocol, numpy):
    file = write(tmp_path / "x.pkl", PLAIN, protocol)
    if numpy == 1:
        older(file)
    assert (b"numpy._core" in file.read_bytes()) == (numpy == 2)
    read = read_plain(file)
    for name, value in PLAIN.items():
        assert type(read[name]) is (
            dict
            if name == "ordered"
            else type(value.item())
            if np.ndim(value) == 0 and isinstance(value, np.generic)
            else type(value)
        )
        np.testing.assert_array_equal(read[name], value, strict=isinstance(value, np.ndarray))


def test_texts_of_python_2_are_read(tmp_path):
    text = b"\x80\x02}U\x01aU\x03abc" + b"s."  # {"a": "abc"}, SHORT_BINSTRING
    (tmp_path / "x.pkl").write_bytes(text)
    assert read_plain(tmp_path / "x.pkl") == {"a": "abc"}


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def attacks(marker: Path) -> dict[str, Any]:
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Calls(os.system, f"touch {marker}"),
        "builtins.eval": Calls(builtins.eval, code),
        "builtins.exec": Calls(builtins.exec, code),
        "subprocess.Popen": Calls(subprocess.Popen, ["touch", str(marker)]),
        "copyreg._reconstructor": Calls(copyreg._reconstructor, io.FileIO, object, None),
        "builtins.getattr": Calls(getattr, "text", "upper"),
        "numpy.load": Calls(np.load, str(marker)),
        "numpy.fromfile": Calls(np.fromfile, str(marker)),
        "builtins.print": Calls(print, "hello"),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", attacks(Path()))
def test_a_file_that_names_a_callable_runs_nothing(tmp_path, name, protocol, capsys):
    marker = tmp_path / "marker"
    file = write(tmp_path / "x.pkl", {"annotations": [], "attack": attacks(marker)[name]}, protocol)
    with pytest.raises(
        ValueError, match=r"x\.pkl asks for \w+\.\w+, and nothing that a file asks for is called"
    ) as caught:
        read_plain(file)
    named = name.split(".")[1]
    assert f".{named}," in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    assert not capsys.readouterr().out
    if name in ("os.system", "builtins.eval"):
        pickle.loads(file.read_bytes())  # the file is what it claims to be
        assert marker.exists()


def test_an_array_of_objects_is_refused(tmp_path):
    with pytest.raises(ValueError, match="asks for an array of dtype 'O"):
        read_plain(write(tmp_path / "x.pkl", {"keypoint": np.array([{}, []], dtype=object)}))
    with pytest.raises(ValueError, match="asks for an array of dtype 'V"):
        read_plain(write(tmp_path / "x.pkl", np.zeros(2, dtype=[("a", "f4")])))


@pytest.mark.parametrize(
    "state",
    [
        (1, (1000,), np.dtype("f8"), False, b"short"),
        (1, (-1, -1), np.dtype("f8"), False, b"12345678"),
        (1, (2,), "f8", False, b"1234567812345678"),
        (1, (2,), np.dtype("f8"), False, [1, 2]),
        {"array": 3},
        None,
    ],
)
def test_a_forged_array_reaches_no_memory_but_its_own(tmp_path, state):
    class Forged:
        def __reduce__(self) -> Any:
            return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), state

    file = write(tmp_path / "x.pkl", [Forged()])
    if state is None:
        assert read_plain(file) == [None]
        return
    with pytest.raises(ValueError, match="not a complete pickle of plain arrays"):
        read_plain(file)


@pytest.mark.parametrize("name", sorted(pickled.KNOWN))
def test_a_file_cannot_change_what_it_may_name(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    module = f"numpy.core.{module}" if module in ("multiarray", "numeric") else module
    build = (
        f"c{module}\n{attribute}\n".encode() + b"N}X\x06\x00\x00\x00hackedK\x01s\x86b"
    )  # BUILD (None, {"hacked": 1})
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02" + build + b".")
    with pytest.raises(ValueError, match="not a complete pickle"):
        read_plain(tmp_path / "x.pkl")
    assert not hasattr(pickled.KNOWN[name], "hacked")


@pytest.mark.parametrize("data", [pickle.dumps(PLAIN)[:-40], pickle.dumps(PLAIN, 0)[:-40], b"\x80\x04P0\n."])
def test_a_damaged_file_is_one_line(tmp_path, data):
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.pkl is not a complete pickle of plain arrays") as caught:
        read_plain(tmp_path / "x.pkl")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "what"), [(b"", "an empty file"), (b"no pickle", "text, .*'no pickle'"), (b"PK\x03\x04", "a zip")]
)
def test_another_file_is_named_instead_of_to_be_downloaded_again(tmp_path, data, what):
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=rf"x\.pkl is not a pickle of annotations but {what}") as caught:
        read_plain(tmp_path / "x.pkl")
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_plain(tmp_path / "none.pkl")
    with pytest.raises(ValueError, match="is a folder"):
        read_plain(tmp_path)
