"""The files that a run's model is made of (local encoders, anchors, labels), kept in its directory.

    <run>/inputs/inputs.json            config field → its value, the absolute path it had, and the digest of each file
    <run>/inputs/<field>/…              the files: copies; of large ones hard links, where the file system has them

A run directory that is copied elsewhere is opened with these. Published encoders, which the config names by a preset or
hub id, are opened by that name. What is larger than `MOST` and cannot be linked stays where it is: it is found by the
absolute path, and its files must have the digests of the training.
"""

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from sightword.engine.config import Run, SystemConfig
from sightword.engine.system import system_of
from sightword.errors import MissingFileError, SightwordError
from sightword.storage.domain import record_domain
from sightword.storage.reader import read_json
from sightword.storage.writer import write_json

FOLDER, INDEX = "inputs", "inputs.json"
LARGE = 2**26  # bytes of a file that is linked, not copied: it is not one that an editor changes in place
MOST = 2**30  # bytes of one input that are copied where they cannot be linked


def keep_inputs(config: Run, folder: Path) -> None:
    """Write the local files that `System.inputs` names below folder/inputs, and the run's domain.

    Does nothing if that is done.
    """
    if (folder / FOLDER / INDEX).is_file():
        return
    inputs = [str(getattr(config.system, name)) for name in system_of(config.experiment).inputs]
    data = [str(getattr(config.data, name, "")) for name in ("root", "images", "annotations")]
    record_domain(folder, [*inputs, config.init_from], data)
    entries: dict[str, object] = {}
    for name in system_of(config.experiment).inputs:
        value = getattr(config.system, name)
        source = Path(value).expanduser()
        if value and source.exists():
            entries[name] = {"value": value, **_kept(source, folder / FOLDER / name)}
    if entries:
        write_json(folder / FOLDER / INDEX, entries)


def with_inputs(config: Run, folder: Path) -> Run:
    """Return a run's config with the paths of the files in its directory, for fields that have the run's own values.

    Raises SightwordError for a file that is missing, or outside of the directory and not the one of the training.
    """
    index = folder / FOLDER / INDEX
    if not index.is_file():
        return config
    entries = read_json(index)
    found = {}
    for name in entries:
        entry = entries.mapping(name)
        if getattr(config.system, name, None) != entry.text("value"):  # the user named another one
            continue
        digests = entry.mapping("files")
        files = {file: digests.text(file) for file in digests}
        found[name] = str(_place(folder, name, entry.text("from"), entry.text("name"), files))
    return dataclasses.replace(config, system=_replaced(config.system, found))


def _replaced(system: SystemConfig, values: Mapping[str, str]) -> SystemConfig:
    return dataclasses.replace(system, **values)


def _kept(source: Path, target: Path) -> dict[str, object]:
    """Link or copy a file, with those beside it of the same stem, or a folder. Return its entry in the index."""
    if source.is_dir():
        root, files = source, sorted(file for file in source.rglob("*") if file.is_file())
    else:
        root, files = source.parent, sorted(source.parent.glob(f"{source.stem}.*"))
    names = [file.relative_to(root).as_posix() for file in files]
    digests = {name: _digest(root / name) for name in names}
    if not _copied(root, names, target):
        shutil.rmtree(target, ignore_errors=True)
    return {"from": str(source.resolve()), "name": "" if source.is_dir() else source.name, "files": digests}


def _copied(root: Path, names: Sequence[str], target: Path) -> bool:
    """Copy files below `target`, or link the large ones. Return False if they are too large to be copied."""
    room = MOST
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).unlink(missing_ok=True)  # of an earlier start that was killed
        size = (root / name).stat().st_size
        if size > LARGE and _linked((root / name).resolve(), target / name):
            continue
        room -= size
        if room < 0:
            return False
        shutil.copyfile(root / name, target / name)
    return True


def _linked(file: Path, target: Path) -> bool:
    try:
        os.link(file, target)
    except OSError:  # another file system, or one without hard links
        return False
    return True


def _place(folder: Path, field: str, before: str, name: str, files: Mapping[str, str]) -> Path:
    """Return where an input is: in the run directory, or else at its path of the training, with the same bytes."""
    own = folder / FOLDER / field
    if own.is_dir():
        if missing := [file for file in files if not (own / file).is_file()]:
            raise MissingFileError(f"{own / missing[0]}, which the run needs, is missing. Copy the run directory whole")
        return (own / name).resolve() if name else own.resolve()
    outside = Path(before)
    if not outside.exists():
        raise MissingFileError(
            f"system.{field} of {folder} is not in its directory, being larger than {MOST // 2**30} GiB, and not at "
            f"{before} any more. Move it back there"
        )
    root = outside if outside.is_dir() else outside.parent
    for file, digest in files.items():
        if not (root / file).is_file() or _digest(root / file) != digest:
            raise SightwordError(
                f"{root / file} is not the file that {folder} was trained with. Restore it, or train again"
            )
    return outside


def _digest(file: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
