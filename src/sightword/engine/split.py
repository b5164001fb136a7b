"""What a run trains on and what it holds out: chosen once, kept in its directory, and used whenever the run is used.

    <run>/data.json     data: the fields of `data.` that are paths, absolute
                        splits: train and val, each name → [content, facts, stamp] (see `Entry`)

A data set changes while runs exist: images are added, replaced, removed, renamed. An item keeps the side that its run
put it on. What is new belongs to neither side. Each difference is a finding, with its count.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from sightword.data.content import Item, digest_of, stamp_of
from sightword.data.finding import Finding, Level
from sightword.engine.config import DataConfig, Run
from sightword.engine.contract import Names
from sightword.engine.run import is_first_process
from sightword.engine.system import system_of
from sightword.errors import MissingFileError, SightwordError
from sightword.storage.reader import read_json
from sightword.storage.writer import write_json

FILE = "data.json"


class Entry(NamedTuple):
    """An item as a run knows it."""

    content: str  # digest of the bytes it is read from
    facts: str  # digest of its annotations
    stamp: str  # sizes and times of its files; while they stay, the files are not read again


class Record(NamedTuple):
    """The data of a run."""

    data: Mapping[str, str]  # fields of the data config that are paths
    splits: Mapping[str, Mapping[str, Entry]]

    @property
    def names(self) -> Names:
        return {split: list(entries) for split, entries in self.splits.items()}

    def shared(self, unit: str) -> list[Finding]:
        """Return a finding on items of validation that equal one that is trained on."""
        trained = {entry.content: name for name, entry in self.splits.get("train", {}).items()}
        both = {name: trained[e.content] for name, e in self.splits.get("val", {}).items() if e.content in trained}
        if not both:
            return []
        name, twin = next(iter(both.items()))
        text = f"{len(both)} of {len(self.splits['val'])} {unit} of val are trained on, too: {name} equals {twin}"
        return [Finding("warning", f"{unit} on both sides", text, (name, twin), len(both))]

    def write(self, folder: Path) -> None:
        """Write <folder>/data.json."""
        splits = {split: {name: list(entry) for name, entry in each.items()} for split, each in self.splits.items()}
        write_json(folder / FILE, {"data": dict(self.data), "splits": splits}, indent=1)


class Chosen(NamedTuple):
    """The items of a run's splits, found again."""

    names: Names
    findings: list[Finding]
    digest: str = ""  # of all of them and their annotations, whatever their names; empty without a record


def first_record(config: Run) -> Record:
    """Return the record of a run that begins: its items to train on and to validate on, by content.

    Empty for a system that names no items. Reads each file once, with a progress bar.
    """
    splits = _entries(config, ("train", "val"), {})
    return Record(_paths(config.data), splits if any(splits.values()) else {})


def read_record(folder: Path) -> Record | None:
    """Return the record of a run; None if it has none, as runs from before records."""
    if not (folder / FILE).is_file():
        return None
    fields = read_json(folder / FILE, damaged="Restore it from a copy of the run directory")
    data, splits = fields.mapping("data"), fields.mapping("splits")
    return Record(
        {name: data.text(name) for name in data},
        {
            split: {name: Entry(*(each.sequence(name).text(number) for number in range(3))) for name in each}
            for split, each in ((split, splits.mapping(split)) for split in splits)
        },
    )


def choose(config: Run, folder: Path, splits: Sequence[str] = ("train", "val")) -> Chosen:
    """Return which items the splits of an existing run have now, and what changed since it began.

    The run's own items, found by name and content. Of another data set, which the config may name for an evaluation,
    all items but those that the run was trained on.
    Raises SightwordError if a split has none left.
    """
    record = read_record(folder)
    if record is None or not record.splits:
        return Chosen({}, [])
    before = {name: entry for each in record.splits.values() for name, entry in each.items()}
    divides = system_of(config.experiment).divides(config.data)
    names: dict[str, list[str]] = {}
    findings: list[Finding] = []
    divided = [split for split in splits if divides and split in record.splits]
    now = _entries(config, [*splits, *(_other(split) for split in divided if _other(split) not in splits)], before)
    for split in splits:
        own = now[split]
        pool = own | now[_other(split)] if split in divided else own
        names[split], found = _Comparison(config, record, split, own, pool).result()
        findings += found
        if not names[split]:
            raise _nothing_left(config, split, record)
    known = {name: entry for each in now.values() for name, entry in each.items()}
    return Chosen(names, findings, digest_of_items(known[name] for split in splits for name in names[split]))


def digest_of_items(entries: Iterable[Entry]) -> str:
    """Return 32 hexadecimal digits for the contents of items and their annotations, in any order."""
    return digest_of([], "\n".join(sorted(f"{entry.content} {entry.facts}" for entry in entries)))


def trained_on(folder: Path, items: Sequence[Item]) -> list[str]:
    """Return the names of those items that a run was trained on, by content; none for what is not a run directory."""
    record = read_record(folder)
    if record is None:
        return []
    before = record.splits.get("train", {})
    seen = {entry.content for entry in before.values()}
    return [item.name for item in items if _entry(item, before.get(item.name)).content in seen]


def tell(findings: Sequence[Finding]) -> None:
    """Print findings on stderr, one line each, if this process prints."""
    for finding in findings if is_first_process() else ():
        print(f"{finding.level}: {finding}", file=sys.stderr)


def absolute(config: Run) -> Run:
    """Return a config whose paths do not depend on the working directory."""
    system = system_of(config.experiment)
    data = {name: _absolute(value) for name, value in _paths(config.data).items()}
    kept = {name: getattr(config.system, name) for name in (*config.system.paths, *system.inputs)}
    local = {
        name: _absolute(value)
        for name, value in kept.items()
        if value and (name in config.system.paths or Path(value).expanduser().exists())
    }
    start = config.init_from
    start = _absolute(start) if start and Path(start).expanduser().exists() else start
    return replace(config, system=replace(config.system, **local), data=replace(config.data, **data), init_from=start)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _paths(data: DataConfig) -> dict[str, str]:
    return {name: value for name in data.paths if (value := getattr(data, name))}


def _other(split: str) -> str:
    return "val" if split == "train" else "train"


# --------------------------------------------------------------------------------------------------------- comparison


class _Comparison:
    """Compares a split as it was with the data as they are."""

    def __init__(
        self, config: Run, record: Record, split: str, own: Mapping[str, Entry], pool: Mapping[str, Entry]
    ) -> None:
        """own: the items of the split now. pool: where its former items are looked for: own, or both sides' items."""
        self.split, self.own, self.pool = split, own, pool
        self.unit = system_of(config.experiment).unit
        self.stored, self.other = record.splits.get(split, {}), record.splits.get(_other(split), {})
        self.others = {entry.content for entry in self.other.values()}
        self.same_place = _paths(config.data) == dict(record.data)

    def result(self) -> tuple[list[str], list[Finding]]:
        """Return the names of the split's items, and what to say of them."""
        places: dict[str, str] = {}
        for name, entry in self.pool.items():
            places.setdefault(entry.content, name)
        known = [*self.stored.values(), *(self.other.values() if self.pool is not self.own else ())]
        if not any(entry.content in places for entry in known):
            return self._elsewhere()
        kept: list[str] = []
        gone, replaced, moved, changed, taken = [], [], [], [], []
        for name, entry in self.stored.items():
            now = self.pool.get(name)
            if now is not None and now.content == entry.content:
                kept.append(name)
                changed += [name] if now.facts != entry.facts else []
            elif (place := places.get(entry.content)) is not None and place not in self.stored:
                kept.append(place)
                moved.append(name)
            elif now is None:
                gone.append(name)
            elif now.content in self.others:
                taken.append(name)
            else:
                kept.append(name)
                replaced.append(name)
        if self.pool is self.own:  # which items are on this side is stated by the data: some of the other may be now
            taken += [name for name, now in self.own.items() if name not in self.stored and now.content in self.others]
        used = {*kept, *taken, *self.other}
        renamed = {entry.content for name, entry in self.other.items() if name not in self.pool}
        new = [name for name, entry in self.pool.items() if name not in used and entry.content not in renamed]
        of = len(self.stored)
        return kept, [
            *self._told("warning", gone, "are gone", "{} missing", of),
            *self._told("warning", replaced, "have another content than in the training", "{} replaced", of),
            *self._told("warning", changed, "have other annotations than in the training", "{} annotated anew", of),
            *self._told("note", moved, "are found under another name", "{} renamed", of),
            *self._told("warning", taken, f"equal {self.unit} of the other side and are left out", "{} on both sides"),
            *self._told("note", new, "are new and left out: they belong to neither side of this run", "new {}"),
        ]

    def _elsewhere(self) -> tuple[list[str], list[Finding]]:
        """Data that the run has not seen: everything but what it was trained on."""
        if self.split == "train":
            return list(self.own), []
        kept = [name for name, entry in self.own.items() if entry.content not in self.others]
        seen = [name for name, entry in self.own.items() if entry.content in self.others]
        told = "are left out: this run was trained on them"
        if self.stored and self.same_place:
            text = (
                f"{self.split}: none of the run's {len(self.stored)} {self.unit} is left, {len(kept)} others are used"
            )
            return kept, [Finding("warning", f"other {self.unit}", text, tuple(kept[:1]), len(kept))]
        return kept, self._told("warning", seen, told, "{} that were trained on", len(self.own))

    def _told(self, level: Level, names: Sequence[str], what: str, kind: str, of: int = 0) -> list[Finding]:
        """Return a finding on some items; of: of how many, 0 if they are none of the run's."""
        if not names:
            return []
        count = f"{len(names)} of {of}" if of else str(len(names))
        text = f"{self.split}: {count} {self.unit} {what}, the first is {names[0]}"
        return [Finding(level, kind.format(self.unit), text, (names[0],), len(names))]


def _entries(config: Run, splits: Sequence[str], before: Mapping[str, Entry]) -> dict[str, dict[str, Entry]]:
    """Return the items of some splits. before: entries by name; their files are not read again while stamps stay."""
    found = {}
    for split, items in system_of(config.experiment).items(config.data, config.seed, splits).items():
        bar = tqdm(items, desc=f"reading {split}", unit=" items", disable=None, delay=2, leave=False)
        found[split] = {item.name: _entry(item, before.get(item.name)) for item in bar}
    return found


def _entry(item: Item, before: Entry | None) -> Entry:
    facts = digest_of([], item.facts)
    if item.content:
        return Entry(item.content, facts, "")
    try:
        stamp = stamp_of(item.files)
        if before is not None and before.stamp == stamp:
            return before._replace(facts=facts)
        return Entry(digest_of(item.files), facts, stamp)
    except OSError as error:
        raise MissingFileError(f"{error.filename} of {item.name} cannot be read: {error.strerror}") from error


def _nothing_left(config: Run, split: str, record: Record) -> SightwordError:
    unit = system_of(config.experiment).unit
    roots = ", ".join(f"data.{name}={value}" for name, value in record.data.items())
    return SightwordError(
        f"none of the {len(record.splits.get(split, {}))} {unit} of {split} is left that this run may use. It was "
        f"trained with {roots}; give other data that it has not seen, or restore these"
    )
