"""Findings about data, as checks and readers report them: errors, warnings and notes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]
SHOWN = 5  # findings of one kind that a report prints


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
        """Return the report: notes, warnings, errors, then a verdict. Each kind shows at most `SHOWN` findings."""
        lines = [line for level in ("note", "warning", "error") for line in self._lines(level)]
        sound = f"cannot tell: {self.undecided}" if self.undecided else "all readable"
        verdict = f"{len(self.errors)} with a problem" if self.errors else sound
        return "\n".join([*lines, f"{self.count} {self.unit}, {verdict}"])

    def _lines(self, level: str) -> Iterable[str]:
        kinds: dict[str, list[Finding]] = {}
        for finding in self.findings:
            if finding.level == level:
                kinds.setdefault(finding.kind, []).append(finding)
        for kind, found in kinds.items():
            yield from (str(finding) for finding in found[:SHOWN])
            if len(found) > SHOWN:
                yield f"… and {len(found) - SHOWN} more: {kind}"
