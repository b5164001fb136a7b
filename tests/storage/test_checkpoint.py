import builtins
import contextlib
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sightword.storage.atomic import write_atomically
from sightword.storage.checkpoint import read_checkpoint, read_weights

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1, 2], dtype=torch.int32)}


class Reduces:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def vanished_callback(monkeypatch):
    """An instance, with state, of a class whose module is gone when the file is read."""
    module = types.ModuleType("vanished_lightning")
    monkeypatch.setitem(sys.modules, "vanished_lightning", module)
    exec("class ModelCheckpoint: pass", module.__dict__)
    callback = module.ModelCheckpoint()
    callback.best = 1.5
    return callback


def put_pickle(path, source, data):
    """A torch zip file `path` like `source`, whose pickle is `data`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("under", [None, "state_dict", "model"])
def test_weights_are_found_in_torch_files_old_and_new(tmp_path, zipped, under):
    held = {under: WEIGHTS, "epoch": 3} if under else WEIGHTS
    torch.save(held, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    assert_same(read_weights(tmp_path / "x.ckpt"), WEIGHTS)


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
def test_a_safetensors_file_is_known_by_what_it_holds(tmp_path, name):
    save_file(WEIGHTS, tmp_path / name)
    assert_same(read_weights(tmp_path / name), WEIGHTS)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_full_of_vanished_classes_gives_its_weights(tmp_path, monkeypatch, zipped):
    callback = vanished_callback(monkeypatch)
    model = nn.Linear(3, 2).to(torch.bfloat16)
    held = {
        "state_dict": OrderedDict(model.state_dict()) | {"p": nn.Parameter(torch.ones(2)), "t": model.weight.data.t()},
        "callbacks": {type(callback): callback},
        "shape": torch.Size([2, 3]),
        "dtype": torch.float16,
    }
    torch.save(held, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "vanished_lightning")
    with pytest.raises(Exception, match="vanished_lightning"):  # so this file does need the second reader
        torch.load(tmp_path / "x.ckpt", weights_only=True)

    checkpoint = read_checkpoint(tmp_path / "x.ckpt")
    assert_same(read_weights(tmp_path / "x.ckpt"), {k: v.detach() for k, v in held["state_dict"].items()})
    assert (checkpoint["shape"], checkpoint["dtype"]) == (torch.Size([2, 3]), torch.float16)
    assert [repr(value) for value in checkpoint["callbacks"].values()] == ["<inert vanished_lightning.ModelCheckpoint>"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", ["system", "eval", "exec"])
def test_a_hostile_file_runs_nothing(tmp_path, function, zipped):
    marker = tmp_path / "marker"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    attack = (
        Reduces(os.system, f"touch {marker}") if function == "system" else Reduces(getattr(builtins, function), code)
    )
    file = tmp_path / "x.ckpt"
    torch.save({"state_dict": WEIGHTS, "attack": attack}, file, _use_new_zipfile_serialization=zipped)

    assert_same(read_weights(file), WEIGHTS)
    assert repr(read_checkpoint(file)["attack"]).startswith("<inert ")
    assert not marker.exists()
    torch.load(file, weights_only=False)  # the file is what it claims to be
    assert marker.exists()


def test_attributes_of_a_module_cannot_be_fetched(tmp_path):
    torch.save({"state_dict": WEIGHTS, "attack": Reduces(getattr, "text", "upper")}, tmp_path / "x.ckpt")
    assert repr(read_checkpoint(tmp_path / "x.ckpt")["attack"]) == "<inert __builtin__.getattr>"


@pytest.mark.parametrize(
    ("module", "name"), [("torch", "Size"), ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2")]
)
def test_a_pickle_cannot_change_what_it_may_name(tmp_path, module, name):
    torch.save(WEIGHTS, tmp_path / "good.ckpt")
    # GLOBAL module.name, then BUILD with (None, {"hacked": 1}), which sets the attribute `hacked` of it.
    build = f"c{module}\n{name}\n".encode() + b"N}X\x06\x00\x00\x00hackedK\x01s\x86b"
    put_pickle(tmp_path / "x.ckpt", tmp_path / "good.ckpt", b"\x80\x02}X\x01\x00\x00\x00a" + build + b"s.")
    with contextlib.suppress(ValueError):
        read_checkpoint(tmp_path / "x.ckpt")
    assert not hasattr(getattr(sys.modules[module], name), "hacked")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_module_is_refused_and_its_source_not_compared(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nn.Linear, "dump_patches", True)
    torch.save(nn.Linear(2, 2), "x.pt", _use_new_zipfile_serialization=zipped)
    if not zipped:
        data = Path("x.pt").read_bytes()
        assert b"class Linear(" in data
        Path("x.pt").write_bytes(data.replace(b"class Linear(", b"class Linear:"))  # so that it differs
    with pytest.raises(
        ValueError, match=r"x\.pt (contains <inert torch\.nn|cannot be read, .* pickles a whole module)"
    ):
        read_checkpoint("x.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt"]


def test_an_archive_of_code_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for name in ("constants.pkl", "data.pkl", "version"):
            archive.writestr(f"x/{name}", "3\n")
    with pytest.raises(ValueError, match=r"x\.pt cannot be read"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a checkpoint, it begins with b''"),
        (b"version https://git-lfs.github.com/spec/v1", "begins with b'version https://git-lfs"),
        (pickle.dumps(WEIGHTS), "is a pickle, but not one that torch.save wrote"),
    ],
)
def test_another_file_is_named_as_such_in_one_line(tmp_path, content, said):
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_checkpoint(tmp_path / "x.ckpt")
    assert str(error.value).startswith(str(tmp_path / "x.ckpt"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_file_cut_short_is_said_to_be(tmp_path, kind, kept):
    file = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.ckpt")
    weights = {"w": torch.zeros(100)}
    if kind == "safetensors":
        save_file(weights, file)
    else:
        torch.save(weights, file, _use_new_zipfile_serialization=kind == "zip")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ValueError, match=r"cannot be read, it is damaged|not a whole safetensors file") as error:
        read_checkpoint(file)
    assert "\n" not in str(error.value)


def test_what_is_missing_or_empty_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.ckpt does not exist"):
        read_checkpoint(tmp_path / "no.ckpt")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_checkpoint(tmp_path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt contains a list, not a dictionary"):
        read_checkpoint(tmp_path / "list.pt")
    torch.save({"epoch": 1, "net": WEIGHTS}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"net\.pt contains no weights, .* under state_dict, model; it has epoch, net"):
        read_weights(tmp_path / "net.pt")
    assert_same(read_weights(tmp_path / "net.pt", under=["net"]), WEIGHTS)


def test_weights_are_as_readable_as_any_file(tmp_path):
    """safetensors makes files that only their owner reads."""
    (tmp_path / "any").touch()
    with write_atomically(tmp_path / "x.safetensors") as beside:
        save_file(WEIGHTS, beside)
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "x.txt"
    with write_atomically(file) as beside:
        beside.write_text("old")
    with file.open() as reader:
        with write_atomically(file) as beside:
            beside.write_text("newer")
        assert reader.read() == "old"  # who has it open keeps a whole file
    assert file.read_text() == "newer"

    def fail_half_way():
        with write_atomically(file) as beside:
            beside.write_text("ne")
            assert file.read_text() == "newer"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert file.read_text() == "newer"
    assert [each.name for each in tmp_path.iterdir()] == ["x.txt"]
