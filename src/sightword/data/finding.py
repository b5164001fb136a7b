"""Findings about data, as checks and readers report them: errors, warnings and notes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sightword.errors import printable

Level = Literal["error", "warning", "note"]
NOTES = 5  # notes of one kind that a report prints


@dataclass(frozen=True)
class Finding:
    """One problem in data, or one fact worth knowing."""

    level: Level  # error: a result would be wrong or impossible; warning: it may be; note: only worth knowing
    kind: str  # the same short words for findings that are alike: "unreadable image"
    message: str  # one line: what is wrong, with the value
    files: tuple[str, ...] = ()  # concerned, the first of them at least
    count: int = 1  # of things concerned
    fix: str = ""  # what to do, as a command or a config key; one line

    def __str__(self) -> str:
        return f"{self.message}: {self.fix}" if self.fix else self.message


@dataclass(frozen=True)
class CheckReport:
    """The findings of a check; `str()` is the text to print."""

    count: int  # things looked at
    findings: tuple[Finding, ...] = ()
    unit: str = "images"
    undecided: str = ""  # what could not be judged: where nothing is wrong, the verdict says so instead of "readable"

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]

    def __str__(self) -> str:
        """Return the report: notes, warnings, errors, then a verdict. Each kind is one line, with count and first."""
        problems = sum(finding.count for finding in self.errors)
        sound = f"cannot tell: {self.undecided}" if self.undecided else "all readable"
        verdict = f"{problems} with a problem" if problems else sound
        return "\n".join([*grouped(self.findings), f"{self.count} {self.unit}, {verdict}"])

    def listed(self) -> str:
        """Return every finding in full, one line each: level, kind, message; then the further files it concerns."""
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.level}\t{finding.kind}\t{printable(str(finding))}")
            lines += [f"\t\t{printable(file)}" for file in finding.files if len(finding.files) > 1]
        return "".join(f"{line}\n" for line in lines)


def grouped(findings: Iterable[Finding], levels: Iterable[Level] = ("note", "warning", "error")) -> list[str]:
    """Return a line for each kind of finding: the finding itself, or of several their count and the first.

    Notes are facts of single things: at most `NOTES` of a kind are given one by one.
    """
    lines = []
    for level in levels:
        kinds: dict[str, list[Finding]] = {}
        for finding in findings:
            if finding.level == level:
                kinds.setdefault(finding.kind, []).append(finding)
        for kind, found in kinds.items():
            if level == "note":
                lines += [str(finding) for finding in found[:NOTES]]
                lines += [f"… and {len(found) - NOTES} more: {kind}"] if len(found) > NOTES else []
                continue
            total = sum(finding.count for finding in found)
            lines.append(f"{total} {kind}, the first: {found[0]}" if len(found) > 1 else str(found[0]))
    return lines
