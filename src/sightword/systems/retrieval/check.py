"""Is a data set of persons and captions whole? Every record is read, every image that one names is decoded once."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from sightword.data.check import find_bad_images
from sightword.data.finding import CheckReport, Finding
from sightword.errors import SightwordError
from sightword.systems.retrieval.pedes import (
    FORMATS,
    SPLITS,
    Record,
    annotation_file,
    image_folder,
    read_entries,
    read_record,
)


def check_pedes(root: str, dataset: str) -> CheckReport:
    """Return what is wrong with a copy of a data set.

    Errors: records that cannot be read, captions without a word, images that are missing, broken, or listed twice,
    identities in two splits, splits of an unknown name. Notes: the counts of each split beside the published ones.
    """
    file = annotation_file(root, dataset)
    records, findings = _readable(file, dataset)
    if not records:
        raise SightwordError(str(findings[0]))
    folder = image_folder(file)
    named = list(dict.fromkeys(record.path for record in records))
    there = [folder / path for path in named if (folder / path).is_file()]
    findings += [
        _error("missing images", f"{folder / path} is missing", folder / path)
        for path in named
        if not (folder / path).is_file()
    ]
    findings += _misfits(records) + find_bad_images(there, f"check {folder}")
    notes = [Finding("note", "counts of splits", line, (str(file),)) for line in _counted(records, dataset)]
    return CheckReport(len(named), tuple(notes + findings))


def _error(kind: str, message: str, file: Path | None = None) -> Finding:
    return Finding("error", kind, message, () if file is None else (str(file),))


def _readable(file: Path, dataset: str) -> tuple[list[Record], list[Finding]]:
    """The records that can be read, and a finding for each that cannot, or that has a caption without a word.

    And one for each split of an unknown name: its records are read as val, which is most likely not meant.
    """
    records, findings, foreign = [], [], Counter[str]()
    entries = read_entries(file)
    for number in range(len(entries)):
        try:
            entry = entries.mapping(number)
            record = read_record(entry, dataset)
        except SightwordError as error:
            findings.append(_error("unreadable records", str(error), file))
            continue
        if record.blank or not record.captions:
            what = f"{record.blank} captions without a word" if record.blank else "no caption"
            findings.append(
                _error("captions without a word", str(entry.error(f"{record.path} has {what}", "captions")), file)
            )
        records.append(record)
        foreign.update({entry.text("split")} - set(SPLITS))
    findings += [
        _error("unknown splits", f"{file}: {count} records have the split {name!r}, read as val", file)
        for name, count in foreign.items()
    ]
    return records, findings


def _misfits(records: Sequence[Record]) -> list[Finding]:
    """Images that are listed twice, identities that are in two splits."""
    findings = [
        _error("images listed twice", f"{path} is listed twice", Path(path))
        for path in _repeated(record.path for record in records)
    ]
    splits: dict[int, set[str]] = {}
    for record in records:
        splits.setdefault(record.id, set()).add(record.split)
    for id_, found in splits.items():
        if len(found) > 1:
            both = " and in ".join(split for split in SPLITS if split in found)
            findings.append(_error("identities in two splits", f"identity {id_} is in {both}"))
    return findings


def _counted(records: Sequence[Record], dataset: str) -> list[str]:
    """A line for each split: what was found, beside what is published."""
    published, lines = FORMATS[dataset].published, []
    for split in SPLITS:
        found = [record for record in records if record.split == split]
        ids = {record.id for record in found}
        counts = (len(ids), len(found), sum(len(record.captions) for record in found))
        if not found and split not in published:
            lines.append(f"{split}: not in this data set; training holds identities out (data.hold_out)")
            continue
        known = published.get(split)
        beside = "as published" if counts == known else f"published: {_told(known) if known else 'no such split'}"
        gaps = f"; ids {min(ids)} to {max(ids)} with gaps" if ids and max(ids) - min(ids) + 1 != len(ids) else ""
        lines.append(f"{split}: {_told(counts)} ({beside}){gaps}")
    return lines


def _told(counts: tuple[int, int, int]) -> str:
    return "{} identities, {} images, {} captions".format(*counts)


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
