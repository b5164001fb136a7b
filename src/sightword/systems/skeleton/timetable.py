"""Timelines as lines to print, tables and figures on disk.

segments.csv     recording, person, start_s, end_s, action, confidence, most_probable
windows.csv      recording, person, start_s, end_s, action, confidence: every window
timelines.json   the same for each recording and person, with the rules that were applied
timeline_….png   a figure of some recordings
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sightword.storage.atomic import write_atomically
from sightword.storage.writer import write_json, write_png
from sightword.systems.skeleton.timeline import ActionTimeline, rules
from sightword.systems.skeleton.window import NOBODY

PRINTED = 40  # lines


def lines(timelines: Sequence[ActionTimeline]) -> list[str]:
    """Return a line for each of the first segments: recording, person, seconds, action, probability."""
    cells = [
        (one.name, who, f"{segment.start:.1f} to {segment.end:.1f} s", segment.name, f"{segment.confidence:.2f}")
        for one in timelines
        for who, segment in one.segments
    ]
    shown = cells[:PRINTED]
    widths = [max((len(row[column]) for row in shown), default=0) for column in range(5)]
    found = ["  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip() for row in shown]
    found += [f"… and {len(cells) - PRINTED} more segments, in the table"] if len(cells) > PRINTED else []
    nobody = [one.name for one in timelines if not one.people]
    return found + [f"{name}: {NOBODY}" for name in nobody[:PRINTED]]


def rules_of(timelines: Sequence[ActionTimeline]) -> dict[str, str]:
    """Return the rules of the first timeline, and how many recordings have an assumed frame rate."""
    found = rules(timelines[0]) if timelines else {}
    if assumed := [one for one in timelines if one.assumed]:
        found["seconds"] = (
            f"{len(assumed)} of {len(timelines)} recordings do not state their frames in a second: "
            f"{assumed[0].fps:g} are assumed; fps= sets another number"
        )
    return found


def write(folder: Path, timelines: Sequence[ActionTimeline], drawn: int, note: Mapping[str, object]) -> list[Path]:
    """Write the tables, the JSON file and the figures of `drawn` recordings, evenly spread. Return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [
        _table(folder / "segments.csv", _segment_rows(timelines)),
        _table(folder / "windows.csv", _window_rows(timelines)),
        folder / "timelines.json",
    ]
    write_json(files[-1], {**note, "recordings": [one.to_dict() for one in timelines]}, indent=1)
    taken: set[str] = set()
    for number in sorted({place * len(timelines) // drawn for place in range(drawn)}) if timelines else ():
        name = _file_name(timelines[number].name, taken)
        write_png(timelines[number].plot(), folder / name)
        files.append(folder / name)
    return files


def _file_name(recording: str, taken: set[str]) -> str:
    """A file name for the figure of a recording that no other has."""
    plain = re.sub(r"[^\w.-]+", "_", recording)[:80].strip("._") or "recording"
    name, number = f"timeline_{plain}.png", 1
    while name in taken:
        number += 1
        name = f"timeline_{plain}_{number}.png"
    taken.add(name)
    return name


def _segment_rows(timelines: Sequence[ActionTimeline]) -> Iterator[list[object]]:
    yield ["recording", "person", "start_s", "end_s", "action", "confidence", "most_probable"]
    for one in timelines:
        for who, part in one.segments:
            times = f"{part.start:.3f}", f"{part.end:.3f}"
            yield [one.name, who, *times, part.name, f"{part.confidence:.4f}", part.action]


def _window_rows(timelines: Sequence[ActionTimeline]) -> Iterator[list[object]]:
    yield ["recording", "person", "start_s", "end_s", "action", "confidence"]
    for one in timelines:
        for person in one.people:
            for part in person.windows:
                times = f"{part.start:.3f}", f"{part.end:.3f}"
                yield [one.name, person.who, *times, one.classes[part.best], f"{part.probability:.4f}"]


def _table(file: Path, rows: Iterator[list[object]]) -> Path:
    with write_atomically(file) as part, open(part, "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows(rows)
    return file
