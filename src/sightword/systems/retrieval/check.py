"""Is a data set of persons and captions whole? Every record is read, every image that one names is decoded once."""

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from sightword.data.archive import archive_of, is_there, read_member
from sightword.data.check import find_bad_images, missing_images
from sightword.data.content import doubles_of
from sightword.data.finding import CheckReport, Finding, Level
from sightword.systems.retrieval.formats.published import FORMATS
from sightword.systems.retrieval.record import SPLITS, Listing, Record, unknown_split
from sightword.systems.retrieval.split import Source, find_misfits

SURELY_CUT = 75  # words: each is a token at least, and CLIP takes 77 with the two at the ends


def check_pairs(source: Source) -> CheckReport:
    """Return what is wrong with a data set of images and captions.

    Errors: records that cannot be read, captions without a word, images that are missing, broken, listed twice or
    equal in two splits, identities in two splits, splits of an unknown name. Warnings: captions that several people
    share or that over 5 % of the images have, equal images of several people, paths that differ in spelling alone.
    Notes: how one's own captions were read; the counts of each split, beside those of a published set; captions that
    CLIP cuts.
    """
    listing = source.read()
    records, folder = listing.records, listing.folder
    named = list(dict.fromkeys(record.path for record in records))
    there = [folder / path for path in named if is_there(folder / path)]
    findings = [*_unreadable(listing), *listing.findings]
    findings += missing_images([folder / path for path in named], "images" if source.dataset == "captions" else "root")
    findings += [*find_misfits(records), *_long_captions(records), *_doubles(records, folder)]
    findings += find_bad_images(there, f"check {folder}")
    notes = [Finding("note", "what was assumed", listing.assumed)] if listing.assumed else []
    notes += [
        Finding("note", f"counts of {split}", line, (str(listing.file),))
        for split, line in zip(SPLITS, _counted(records, source.dataset), strict=True)
    ]
    return CheckReport(len(named), tuple(notes + findings))


def _error(kind: str, message: str, file: Path | None = None) -> Finding:
    return Finding("error", kind, message, () if file is None else (str(file),))


def _unreadable(listing: Listing) -> list[Finding]:
    """A finding for each record that cannot be read or has a caption without a word, and for each unknown split."""
    file, foreign = listing.file, Counter[str]()
    findings = [_error("unreadable records", str(problem), file) for problem in listing.problems]
    stated = any(record.split for record in listing.records)
    for record in listing.records:
        if record.blank or not record.captions:
            what = f"{record.blank} captions without a word" if record.blank else "no caption"
            message = f"{file}: {record.place}captions: {record.path} has {what}"
            findings.append(_error("captions without a word", message, file))
        if record.split not in SPLITS and (record.split or stated):
            foreign[record.split] += 1
    for name, count in foreign.items():
        message = f"{file}: {count} records have a split that is unknown: {unknown_split(name)}"
        findings.append(Finding("error", f"split {name}", message, (str(file),), count))
    return findings


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
    groups = [*copies, *links, *_archived_doubles(list(of))]
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


def _archived_doubles(paths: Sequence[Path]) -> list[list[Path]]:
    """Groups of equal files in archives."""
    groups: dict[bytes, list[Path]] = {}
    for path in paths:
        if not path.is_file() and (inside := archive_of(path)) and is_there(path):
            groups.setdefault(blake2b(read_member(*inside), digest_size=16).digest(), []).append(path)
    return [group for group in groups.values() if len(group) > 1]


def _counted(records: Sequence[Record], dataset: str) -> list[str]:
    """A line for each split: what was found, beside what is published."""
    published, lines = FORMATS[dataset].published if dataset in FORMATS else {}, []
    divided = any(record.split for record in records)
    for split in SPLITS:
        found = [record for record in records if record.split == split or (split == "train" and not divided)]
        ids = {record.id for record in found}
        counts = (len(ids), len(found), sum(len(record.captions) for record in found))
        if not found and split == "test" and not published:
            lines.append("test: not in this data set")
            continue
        if not found and split not in published:
            lines.append(f"{split}: not in this data set; training holds identities out (data.hold_out)")
            continue
        known = published.get(split)
        if not published:
            lines.append(f"{split}: {_told(counts)}")
            continue
        beside = "as published" if counts == known else f"published: {_told(known) if known else 'no such split'}"
        gaps = f"; ids {min(ids)} to {max(ids)} with gaps" if ids and max(ids) - min(ids) + 1 != len(ids) else ""
        lines.append(f"{split}: {_told(counts)} ({beside}){gaps}")
    return lines


def _told(counts: tuple[int, int, int]) -> str:
    return "{} identities, {} images, {} captions".format(*counts)
