"""The import rules of the house, read from the source with `ast`."""

import ast
from pathlib import Path

import pytest

import sightword

ROOT = Path(sightword.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Which other rooms a room imports, from the top floor down: exactly these.
ROOMS: dict[str, set[str]] = {
    "cli": {"data", "engine", "errors", "metrics", "miniature", "storage", "towers", "version", "viz"},
    "compat": {"data", "engine", "errors", "metrics", "systems"},
    "serve": {"data", "engine", "errors", "storage", "systems", "version"},
    "systems": {"data", "engine", "errors", "metrics", "ops", "storage", "towers", "version", "viz"},
    "miniature": {"errors", "ops", "storage", "towers", "viz"},
    "engine": {"data", "errors", "storage", "version"},
    "towers": {"data", "errors", "ops", "storage"},
    "metrics": {"errors", "ops", "storage"},
    "viz": {"storage", "version"},
    "data": {"errors", "version"},
    "storage": {"errors", "version"},
    "ops": {"errors"},
    "configs": set(),
    "errors": set(),
    "version": set(),
    "__init__": {"version"},  # its public names are imported when they are first used
}
FLOORS = [
    {"cli", "compat", "serve"},
    {"systems", "miniature"},
    {"engine", "towers", "metrics", "viz"},
    {"data", "storage", "ops"},
    {"configs", "errors", "version"},
]


def module_of(path: Path) -> str:
    parts = ("sightword", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


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
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module or "")
    return found


IMPORTS = {module: imports_of(path) & MODULES.keys() for module, path in MODULES.items()}


def room_of(module: str) -> str:
    """sightword.data.image → data."""
    return module.split(".")[1] if "." in module else "__init__"


def system_of(module: str) -> str:
    """sightword.systems.intent.task → intent; nothing for what is no part of a system."""
    parts = module.split(".")
    return parts[2] if parts[1:2] == ["systems"] and len(parts) > 2 else ""


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """What is left when all that imports nothing that is left is taken away, again and again."""
    left = {name: set(others) - {name} for name, others in arrows.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_every_rule_reads_the_whole_package():
    assert len(FILES) > 100
    assert {"intent", "points", "retrieval", "skeleton", "tokenizer"} <= {system_of(module) for module in MODULES}


def test_the_rooms_are_those_that_are_named_and_import_exactly_what_is_said():
    used: dict[str, set[str]] = {room_of(module): set() for module in MODULES}
    for module, imported in IMPORTS.items():
        used[room_of(module)] |= {room_of(other) for other in imported} - {room_of(module)}
    assert used == ROOMS


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_file_imports_what_its_room_may(module):
    for imported in IMPORTS[module]:
        assert room_of(imported) in {room_of(module), *ROOMS[room_of(module)]}, f"{module} imports {imported}"


def test_imports_go_down_the_floors():
    for room, allowed in ROOMS.items():
        for other in allowed if room != "__init__" else set():
            assert floor_of(room) < floor_of(other), f"{room} imports {other}"


def test_no_rooms_and_no_files_import_each_other_in_a_circle():
    assert circles(ROOMS) == []
    assert circles(IMPORTS) == []


@pytest.mark.parametrize("module", [module for module in sorted(MODULES) if system_of(module)])
def test_no_system_imports_another(module):
    for imported in IMPORTS[module]:
        assert system_of(imported) in ("", system_of(module)), f"{module} imports {imported}"


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("lightning", {"engine.fit", "engine.callbacks", "engine.logger", "compat.lightning"}),
        ("pytorch_lightning", set()),
        ("hydra", {"cli.compose"}),
        ("omegaconf", {"cli.compose"}),
        ("triton", {"ops.nearest.triton"}),
        ("uvicorn", {"serve.command"}),
        ("viser", {"systems.points.view.local", "systems.points.view.window"}),
    ],
)
def test_frameworks_stay_in_their_files(library, homes):
    users = {
        module.removeprefix("sightword.")
        for module, path in MODULES.items()
        if any(name.split(".")[0] == library for name in imports_of(path))
    }
    assert users == homes
