"""Is a data set of persons and captions whole? Every record is read, every image that one names is decoded once."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sightword.data.check import find_bad_images, missing_images
from sightword.data.content import doubles_of
from sightword.data.finding import CheckReport, Finding, Level
from sightword.errors import SightwordError
from sightword.systems.retrieval.pedes import (
    FORMATS,
    SPLITS,
    Record,
    annotation_file,
    find_misfits,
    image_folder,
    read_entries,
    read_record,
    unknown_split,
)

SURELY_CUT = 75  # words: each is a token at least, and CLIP takes 77 with the two at the ends


def check_pedes(root: str, dataset: str) -> CheckReport:
    """Return what is wrong with a copy of a data set.

    Errors: records that cannot be read, captions without a word, images that are missing, broken, listed twice or
    equal in two splits, identities in two splits, splits of an unknown name. Warnings: captions that several people
    share, equal images of several people, paths that differ in spelling alone. Notes: the counts of each split beside
    the published ones, captions that CLIP cuts.
    """
    file = annotation_file(root, dataset)
    records, findings = _readable(file, dataset)
    if not records:
        raise SightwordError(str(findings[0]))
    folder = image_folder(file)
    named = list(dict.fromkeys(record.path for record in records))
    there = [folder / path for path in named if (folder / path).is_file()]
    findings += missing_images([folder / path for path in named], "root")
    findings += [*find_misfits(records), *_long_captions(records), *_doubles(records, folder)]
    findings += find_bad_images(there, f"check {folder}")
    notes = [
        Finding("note", f"counts of {split}", line, (str(file),))
        for split, line in zip(SPLITS, _counted(records, dataset), strict=True)
    ]
    return CheckReport(len(named), tuple(notes + findings))


def _error(kind: str, message: str, file: Path | None = None) -> Finding:
    return Finding("error", kind, message, () if file is None else (str(file),))


def _readable(file: Path, dataset: str) -> tuple[list[Record], list[Finding]]:
    """The records that can be read, and a finding for each that cannot, or that has a caption without a word.

    And one for each split of an unknown name.
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
        Finding(
            "error",
            f"split {name}",
            f"{file}: {count} records have a split that is unknown: {unknown_split(name)}",
            (str(file),),
            count,
        )
        for name, count in foreign.items()
    ]
    return records, findings


def _long_captions(records: Sequence[Record]) -> list[Finding]:
    captions = [caption for record in records for caption in record.captions]
    long = [caption for caption in captions if len(caption.split()) > SURELY_CUT]
    if not long:
        return []
    most = max(len(caption.split()) for caption in long)
    message = f"{len(long)} of {len(captions)} captions have more than {SURELY_CUT} words (up to {most})"
    fix = "a CLIP cuts them to its 77 tokens; a text encoder with more, as siglip or t5, does not"
    return [Finding("note", "long captions", message, (), len(long), fix)]


def _doubles(records: Sequence[Record], folder: Path) -> list[Finding]:
    """Images with the bytes of another: in another split, of another person, or only listed under two names."""
    of = {folder / record.path: record for record in records}
    copies, links = doubles_of(list(of))
    groups = [*copies, *links]
    splits = [group for group in groups if len({of[path].split for path in group}) > 1]
    people = [group for group in groups if group not in splits and len({of[path].id for path in group}) > 1]
    rest = [group for group in groups if group not in splits and group not in people]
    found: list[Finding] = []
    kinds: tuple[tuple[list[list[Path]], Level, str], ...] = (
        (splits, "error", "equal images in two splits"),
        (people, "warning", "equal images of several people"),
        (rest, "note", "equal images of one person"),
    )
    for some, level, what in kinds:
        if some:
            files = tuple(str(path) for group in some for path in group)
            message = f"{len(some)} {what}, {some[0][0]} and {some[0][1]} the first"
            found.append(Finding(level, what, message, files, len(some)))
    return found


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
