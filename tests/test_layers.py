"""The import rules of the house, read from the source with `ast`."""

import ast
from pathlib import Path

import pytest

import sightword

ROOT = Path(sightword.__file__).parent
TOP = {"cli", "run", "modules", "demo", "miniature"}  # stand on top and may see all
FILES = sorted(path for path in ROOT.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = ("sightword", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Every module a file imports, at its top or inside a function; not what only type checkers read."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(module: str) -> str:
    """core, top, or a system's name."""
    parts = module.split(".")
    if len(parts) > 2 and parts[1] == "systems":
        return parts[2]
    return "top" if len(parts) > 1 and parts[1] in TOP else "core"


def test_every_rule_reads_the_whole_package():
    assert len(FILES) > 20
    assert {room_of(module_of(path)) for path in FILES} >= {"core", "top", "tokenizer"}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_core_imports_no_system_and_no_system_another(path):
    room = room_of(module_of(path))
    for module in imports_of(path):
        if room != "top" and module.startswith("sightword.systems."):
            assert room_of(module) == room, f"{module_of(path)} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_core_and_systems_do_not_stand_on_the_top(path):
    module = module_of(path)
    if room_of(module) == "top" or path.name in ("verbs.py", "demo.py"):  # a system's share of the top
        return
    for imported in imports_of(path):
        assert imported.split(".")[:2] not in [["sightword", top] for top in TOP], f"{module} imports {imported}"


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("lightning", {"sightword.train", "sightword.modules"}),
        ("pytorch_lightning", set()),
        ("hydra", {"sightword.cli"}),
        ("omegaconf", {"sightword.cli"}),
    ],
)
def test_frameworks_stay_in_their_rooms(library, homes):
    users = {module_of(p) for p in FILES if any(name.split(".")[0] == library for name in imports_of(p))}
    assert users <= homes
    assert users or not homes


def test_train_knows_no_system():
    assert not [name for name in imports_of(ROOT / "train.py") if name.startswith("sightword.systems")]


def test_towers_build_on_the_core_only():
    allowed = {"towers", "quantize", "nearest", "align", "cache", "data", "metrics", "pictures", "checkpoint", "atomic"}
    for path in (ROOT / "towers").glob("*.py"):
        for module in imports_of(path):
            if module.startswith("sightword."):
                assert module.split(".")[1] in allowed, f"{path.name} imports {module}"


# Which rooms of the core a room may import, besides itself.
CHAIN = {
    "__init__": set(),
    "align": set(),
    "atomic": set(),
    "cache": {"atomic", "cache_lmdb"},
    "cache_lmdb": set(),
    "checkpoint": {"atomic"},
    "configs": set(),
    "data": set(),
    "job": set(),
    "metrics": {"checkpoint"},
    "momentum": set(),
    "nearest": {"nearest_triton"},
    "nearest_triton": {"nearest"},
    "pictures": set(),
    "quantize": {"nearest"},
    "ranking": {"nearest"},
    "systems": set(),
    "task": set(),
    "tokens": {"atomic", "cache", "data", "job", "towers"},
    "towers": {"atomic", "checkpoint", "nearest", "quantize"},
    "train": {"atomic", "checkpoint", "configs", "data", "task"},
}


def core_room(module: str) -> str:
    """sightword.data.image → data."""
    return module.split(".")[1] if "." in module else "__init__"


CORE = [path for path in FILES if room_of(module_of(path)) == "core"]


@pytest.mark.parametrize("path", CORE, ids=module_of)
def test_the_core_is_a_chain(path):
    room = core_room(module_of(path))
    assert room in CHAIN, f"{module_of(path)} has no place in the chain: say what it may import"
    used = {core_room(module) for module in imports_of(path) if module.startswith("sightword.")} - {room}
    assert used <= CHAIN[room], f"{module_of(path)} imports {', '.join(sorted(used - CHAIN[room]))}"


def test_the_chain_names_no_room_that_is_gone():
    rooms = {core_room(module_of(path)) for path in CORE}
    assert set(CHAIN) == rooms
    assert {room for allowed in CHAIN.values() for room in allowed} <= rooms


def test_the_chain_has_no_circle():
    """Save one: nearest asks its twin for a GPU's ids inside a function."""
    left = {room: allowed - {"nearest_triton"} for room, allowed in CHAIN.items()}
    while left:
        free = {room for room, allowed in left.items() if not allowed & left.keys()}
        assert free, f"a circle among {', '.join(sorted(left))}"
        left = {room: allowed for room, allowed in left.items() if room not in free}
