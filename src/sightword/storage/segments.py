"""A cache that grows: a folder of segments, one FeatureCache for each time that rows were added.

    out/<16 hex>/         a segment; its name is the digest of its keys, and a suffix for its kind
    out/<16 hex>/         …

A key has one row in all segments together. Rows that were made in different ways never mix: their headers differ in the
fields of the recipe, and the folder is refused. A segment that was begun ends with the same bytes however often it was
stopped, and processes that plan the same keys at once plan the same segment.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sightword.errors import SightwordError
from sightword.storage.cache import FeatureCache, Header, MissingRowError, differences, flatten, items_digest


class Plan(NamedTuple):
    """What has to be added to a cache."""

    segment: FeatureCache | None  # begun before, to resume; None: `SegmentedCache.begin` begins one
    keys: list[str]  # of the segment, in its order


class SegmentedCache:
    """The segments of a folder, read as one. Pickles, and serves DataLoader workers."""

    def __init__(self, out: str | Path, expect: Mapping[str, object] | None = None) -> None:
        """expect: the fields of the headers that the reader relies on, as for FeatureCache."""
        self.out = Path(out).expanduser()
        self.segments = [FeatureCache(file.parent, expect) for file in sorted(self.out.glob("*/header.json"))]

    @property
    def header(self) -> Header:
        """The header of the first segment; those of the others have the same recipe."""
        if not self.segments:
            raise SightwordError(f"{self.out} contains no cached features")
        return self.segments[0].header

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        files = (file for segment in self.segments for file in segment.path.iterdir())
        return sum(file.stat().st_size for file in files if file.is_file())

    def __getitem__(self, key: str) -> dict[str, np.ndarray]:
        return self.segment_of(key)[key]

    def get(self, key: str, name: str) -> np.ndarray:
        """Return one array of a row, the others left unread."""
        return self.segment_of(key).get(key, name)

    def __contains__(self, key: object) -> bool:
        return any(key in segment for segment in self.segments)

    def __iter__(self) -> Iterator[str]:
        """The keys that have a row, segment by segment."""
        return (key for segment in self.segments for key in segment)

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    def segment_of(self, key: str) -> FeatureCache:
        """Return the segment that has a key's row. Raises MissingRowError if none has."""
        for segment in self.segments:
            if key in segment:
                return segment
        raise MissingRowError(f"no row {key!r} in {self.out}, which has {len(self)}")

    def refuse_other_recipe(self, header: Mapping[str, object], fields: Sequence[str], what: str, option: str) -> None:
        """Raise SightwordError unless the rows that are there were made as those that `header` describes.

        fields: of the header, the recipe. what: the maker of the rows, option: the key that names the folder, both for
        the message.
        """
        wanted = flatten({name: header[name] for name in fields})
        for segment in self.segments:
            found = flatten({name: segment.header.get(name, {}) for name in fields})
            if told := differences(found, wanted, sorted(found | wanted)):
                raise SightwordError(f"{self.out} was written by a different {what}: {told}. Give another {option}=")

    def plan(self, keys: Sequence[str], kind: str = "") -> Plan:
        """Find which of these keys the cache does not contain, in their order.

        Resumes a segment if it was begun for just what the others lack today; otherwise begins one for the rest. So no
        key gets two rows, and no row is computed again when keys come and go. kind: a suffix of the segment's name,
        for what else decides which rows are missing.
        """
        rows = [set(segment) for segment in self.segments]
        written = set().union(*rows)
        for segment, own in zip(self.segments, rows, strict=True):
            others = written - own
            lacking = [key for key in keys if key not in others]
            if segment.path.name == items_digest(lacking) + kind:
                return Plan(segment, lacking)
        return Plan(None, [key for key in keys if key not in written])

    def begin(self, keys: Sequence[str], header: Mapping[str, object], kind: str = "") -> FeatureCache:
        """Return a new segment for keys that a plan gave, as `header_for` described it."""
        segment = FeatureCache.create(self.out / (items_digest(keys) + kind), header)
        self.segments.append(segment)
        return segment
