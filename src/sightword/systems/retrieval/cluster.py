"""Search a gallery on disk by Ray: each actor keeps some of its shards in memory, and their answers are merged.

Exact: the answer is that of one process. The machines share the gallery's folder; vectors do not cross the network.

Legend: E width of the embedding; n texts or images.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sightword.metrics.shortlist import Shortlist
from sightword.storage import shards
from sightword.storage.cache import FeatureCache
from sightword.systems.retrieval.gallery import Gallery


class Sums(NamedTuple):
    """What mean and deviation of cosines are made of, for each of n texts."""

    rows: int
    total: Tensor  # (n,) float64
    squares: Tensor  # (n,) float64


class Part:
    """The vectors of some shards, which an actor keeps."""

    def __init__(self, places: Mapping[Path, Container[int]], order: Mapping[str, int]) -> None:
        """places: numbers of shards, by segment. order: of the images that are searched, by content."""
        self.order = order
        keys: list[str] = []
        parts: list[Tensor] = []
        for segment, numbers in places.items():
            for own, rows in FeatureCache(segment).stacks("pooled", numbers):
                kept = [at for at, key in enumerate(own) if key in order]
                keys += [own[at] for at in kept]
                parts.append(torch.from_numpy(rows)[kept])
        sequence = sorted(range(len(keys)), key=lambda at: order[keys[at]])
        self.keys = [keys[at] for at in sequence]
        self.shortlist = Shortlist(torch.cat(parts)[sequence] if parts else torch.empty(0, 1))

    def chosen(self, among: frozenset[str] | None) -> Tensor | None:
        """Return the rows of a selection, ascending; None for no selection."""
        if among is None:
            return None
        return torch.tensor([at for at, key in enumerate(self.keys) if key in among], dtype=torch.int64)

    def search(self, vector: Tensor, top: int, among: frozenset[str] | None) -> list[tuple[float, int, str]]:
        """Return (score, place in the order, content) of the images nearest to a unit vector (1, E)."""
        if not self.keys:
            return []
        scores, rows = self.shortlist.search(vector[0], top, self.chosen(among))
        keys = [self.keys[row] for row in rows.tolist()]
        return [(score, self.order[key], key) for score, key in zip(scores.tolist(), keys, strict=True)]

    def sums(self, vectors: Tensor, among: frozenset[str] | None) -> Sums:
        """Return sums over the cosines of each unit vector (n, E)."""
        rows = self.chosen(among)
        count = len(self.keys) if rows is None else len(rows)
        if not count:
            return Sums(0, torch.zeros(len(vectors), dtype=torch.float64), torch.zeros(len(vectors)).double())
        spread = torch.tensor(self.shortlist.moments(vectors, rows), dtype=torch.float64)
        mean, deviation = spread[:, 0], spread[:, 1]
        return Sums(count, count * mean, count * (deviation.square() + mean.square()))


class Reference(Protocol):
    """A value in Ray's store, or one that will be there."""


class Method(Protocol):
    """A method of an actor."""

    def remote(self, *arguments: object) -> Reference: ...


class Actor(Protocol):
    """A process that has a `Part`."""

    search: Method
    sums: Method


class Share(NamedTuple):
    """An actor and the shards that it searches, which it opens again if it was started again."""

    actor: Actor
    places: Mapping[Path, Container[int]]


class RayGallery(Gallery):
    """A gallery on disk that Ray's actors search; made by `opened`."""

    shares: Sequence[Share] = ()
    order: Reference | None = None  # of the images, for the actors
    started: frozenset[str] = frozenset()  # contents that the actors search

    def start(self, workers: int) -> None:
        """Start the actors. workers: how many; 0: as many as fit. Raises SightwordError if there is room for none."""
        import ray

        places = [(part.path.absolute(), number) for part in self.rows.segments for number in range(part.shards)]
        count = min(len(places), shards.fitting(ray.available_resources(), workers, 0))
        self.started = frozenset(self.rows.keys() & self.paths.keys())
        live = sorted(self.started, key=lambda key: self.paths[key][0])
        self.order = ray.put({key: at for at, key in enumerate(live)})

        class RayPart:
            def __init__(self) -> None:
                self.part: Part | None = None

            def opened(self, places: Mapping[Path, Container[int]], order: Sequence[Reference]) -> Part:
                self.part = self.part or shards.in_one_thread(lambda: Part(places, ray.get(order[0])))
                return self.part

            def search(
                self,
                places: Mapping[Path, Container[int]],
                order: Sequence[Reference],  # in a list, else Ray would read it for each call
                vector: Tensor,
                top: int,
                among: frozenset[str] | None,
            ) -> list[tuple[float, int, str]]:
                return self.opened(places, order).search(vector, top, among)

            def sums(
                self,
                places: Mapping[Path, Container[int]],
                order: Sequence[Reference],
                vectors: Tensor,
                among: frozenset[str] | None,
            ) -> Sums:
                return self.opened(places, order).sums(vectors, among)

        kind = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(RayPart)
        self.shares = [Share(kind.remote(), _by_segment(places[first::count])) for first in range(count)]

    def _search(self, vector: Tensor, top: int, among: frozenset[str] | None) -> list[tuple[float, str]]:
        import ray

        wanted, chosen = top + len(self.started - self.paths.keys()), ray.put(among)
        parts: list[list[tuple[float, int, str]]] = ray.get(
            [actor.search.remote(places, [self.order], vector, wanted, chosen) for actor, places in self.shares]
        )
        merged = sorted((hit for part in parts for hit in part), key=lambda hit: (-hit[0], hit[1]))
        return [(score, key) for score, _, key in merged if key in self.paths][:top]

    def moments(self, vectors: Tensor, among: frozenset[str] | None = None) -> list[tuple[float, float]]:
        """Return mean and standard deviation of the cosines of each unit vector (n, E) with all images, or some."""
        import ray

        chosen = ray.put(among)
        parts: list[Sums] = ray.get(
            [actor.sums.remote(places, [self.order], vectors, chosen) for actor, places in self.shares]
        )
        count = max(1, sum(part.rows for part in parts))
        mean = sum((part.total for part in parts), torch.zeros(len(vectors)).double()) / count
        squares = sum((part.squares for part in parts), torch.zeros(len(vectors)).double()) / count
        deviation = (squares - mean.square()).clamp_min(0).sqrt()
        return list(zip(mean.tolist(), deviation.tolist(), strict=True))


def _by_segment(places: Sequence[tuple[Path, int]]) -> dict[Path, set[int]]:
    found: dict[Path, set[int]] = {}
    for segment, number in places:
        found.setdefault(segment, set()).add(number)
    return found


@contextmanager
def opened(out: str | Path, workers: int = 0) -> Iterator[RayGallery]:
    """Open a gallery for searches by Ray, as long as the block is executed. workers: actors; 0: as many as fit."""
    shards.check_engine("ray")
    gallery = RayGallery(out)
    with shards.connected(workers):
        gallery.start(workers)
        yield gallery
