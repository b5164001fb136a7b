"""A cache that can grow: a folder of segments, each a FeatureCache with the rows of one addition.

    out/<16 hex>/         a segment; its name is the digest of its keys, and a suffix for its kind
    out/<16 hex>/         …

A key has one row in all segments together. Rows of different recipes never mix: their headers differ in the fields of
the recipe, and the folder is refused. A segment has the same bytes in the end however often its writer was stopped.
Processes that plan the same keys at the same time plan the same segment.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sightword.errors import SightwordError
from sightword.storage.cache import FeatureCache, Header, MissingRowError, differences, flatten, items_digest


class Plan(NamedTuple):
    """The rows to add to a cache."""

    segment: FeatureCache | None  # begun before, to resume; None: `SegmentedCache.begin` begins one
    keys: list[str]  # of the segment, in its order

    @property
    def todo(self) -> list[str]:
        """The keys whose shards are missing."""
        if self.segment is None:
            return self.keys
        size = self.segment.header["shard_size"]
        return [key for shard in self.segment.missing() for key in self.keys[shard * size : (shard + 1) * size]]


class SegmentedCache:
    """The segments of a folder, read as one. Pickles, and serves DataLoader workers."""

    def __init__(self, out: str | Path, expect: Mapping[str, object] | None = None) -> None:
        """Open all segments. expect: header fields that must have these values, as for FeatureCache."""
        self.out = Path(out).expanduser()
        self.segments = [FeatureCache(file.parent, expect) for file in sorted(self.out.glob("*/header.json"))]

    @property
    def header(self) -> Header:
        """Header of the first segment; the other segments have the same recipe."""
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
        """Return one array of a row without reading the others."""
        return self.segment_of(key).get(key, name)

    def __contains__(self, key: object) -> bool:
        return any(key in segment for segment in self.segments)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys that have a row, segment by segment."""
        return (key for segment in self.segments for key in segment)

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    def segment_of(self, key: str) -> FeatureCache:
        """Return the segment with the row of a key. Raises MissingRowError if there is none."""
        for segment in self.segments:
            if key in segment:
                return segment
        raise MissingRowError(f"no row {key!r} in {self.out}, which has {len(self)}")

    def refuse_other_recipe(self, header: Mapping[str, object], fields: Sequence[str], what: str, option: str) -> None:
        """Raise SightwordError unless the present rows have the recipe of `header`.

        fields: the header fields of the recipe. what: the source of the rows, and option: the key that names the
        folder, both for the message.
        """
        expected = flatten({name: header[name] for name in fields})
        for segment in self.segments:
            found = flatten({name: segment.header.get(name, {}) for name in fields})
            if difference := differences(found, expected, sorted(found | expected)):
                raise SightwordError(
                    f"{self.out} was written by a different {what}: {difference}. Give another {option}="
                )

    def plan(self, keys: Sequence[str], kind: str = "") -> Plan:
        """Return which of these keys the cache does not contain, in their order.

        Resumes a segment if it was begun for exactly the keys that the other segments do not contain; otherwise plans a
        new one. So no key gets two rows, and no row is computed again when keys are added or removed. kind: a suffix of
        the segment's name, for anything else that decides which rows are missing.
        """
        rows = [set(segment) for segment in self.segments]
        written = set().union(*rows)
        for segment, own in zip(self.segments, rows, strict=True):
            others = written - own
            missing = [key for key in keys if key not in others]
            if segment.path.name == items_digest(missing) + kind:
                return Plan(segment, missing)
        return Plan(None, [key for key in keys if key not in written])

    def begin(self, keys: Sequence[str], header: Mapping[str, object], kind: str = "") -> FeatureCache:
        """Return a new segment for the keys of a plan. header: from `header_for`."""
        segment = FeatureCache.create(self.out / (items_digest(keys) + kind), header)
        self.segments.append(segment)
        return segment
