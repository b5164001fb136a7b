"""Batches with people who are alike: hard negatives, found by their captions, so no truth about them is needed.

A person is the mean of its captions' tokens, weighted as in TF-IDF; the nearest by cosine are alike. On the people of
`sightword mini` the nearest one is of the same family for three of four. Such batches are for a second stage of
training: from the first batch on they hinder it, as coarse differences, which are learned first, hardly occur in them.

Legend: C captions; P persons; V vocabulary; T tokens of all captions.
"""

import numpy as np

from sightword.data.loader import Shuffled, mix

NEAREST = 3  # people beside the one that a group is drawn for
BLOCK = 1024  # persons that are compared with all at a time
WORDS = 8192  # most tokens that count, the most frequent ones: bounds the memory


def nearest_people(ids: np.ndarray, lengths: np.ndarray, pids: np.ndarray, count: int = NEAREST) -> np.ndarray:
    """Return for each person those with the most similar captions, nearest first, (P, min(count, P - 1)) int64.

    ids: (T,) of the captions, one after another. lengths: (C,) tokens of each. pids: (C,) from 0 to P - 1.
    """
    persons = int(pids.max()) + 1
    vectors = _vectors(ids, np.repeat(pids, lengths), np.bincount(pids, minlength=persons))
    count = min(count, persons - 1)
    found = np.empty((persons, count), dtype=np.int64)
    for start in range(0, persons, BLOCK):
        scores = vectors[start : start + BLOCK] @ vectors.T
        scores[np.arange(len(scores)), start + np.arange(len(scores))] = -np.inf
        found[start : start + BLOCK] = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return found


def _vectors(ids: np.ndarray, persons: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """Return unit rows (P, V) float32. persons: (T,), whose a token is. captions: how many each person has, (P,)."""
    used = np.bincount(ids)
    kept = np.argsort(-used, kind="stable")[: min(WORDS, int((used > 0).sum()))]
    column = np.full(len(used), -1)
    column[kept] = np.arange(len(kept))
    here = column[ids] >= 0
    flat = persons[here] * len(kept) + column[ids[here]]
    counts = np.bincount(flat, minlength=len(captions) * len(kept)).reshape(len(captions), len(kept))
    frequency = np.minimum(counts / captions[:, None], 1).astype(np.float32)  # of a caption; twice counts once
    rarity = np.log(len(captions) / np.maximum((counts > 0).sum(0), 1)).astype(np.float32)
    vectors = frequency * rarity
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return unit


class Alike(Shuffled):
    """Batches of which a part is groups of people who are alike, `instances` captions each; the others are random.

    There is one group at least.
    Epochs before `after` are random. A person can be in two groups of a batch: equal persons are positives.
    """

    def __init__(
        self,
        pids: np.ndarray,
        nearest: np.ndarray,
        batch_size: int,
        instances: int,
        share: float = 0.5,
        after: int = 0,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        """pids: (C,) of the captions. nearest: as of `nearest_people`. batch_size: of one rank. share: of a batch."""
        _, inverse, counts = np.unique(pids, return_inverse=True, return_counts=True)
        self.members = np.split(np.argsort(inverse, kind="stable"), counts.cumsum()[:-1])  # captions of each person
        self.nearest, self.instances, self.share, self.after = nearest, instances, share, after
        super().__init__(len(pids), batch_size, seed, rank=rank, world=world)

    def order(self, epoch: int) -> np.ndarray:
        """Return captions, batch after batch of all ranks, (N,) int64."""
        if epoch < self.after:
            return super().order(epoch)
        rng, step = np.random.default_rng(mix(self.seed, epoch)), self.batch_size * self.place()[1]
        group = (self.nearest.shape[1] + 1) * self.instances
        groups = max(1, int(self.share * step) // group)
        others, rest = rng.permutation(self.size), max(0, step - groups * group)
        chosen = []
        for batch in range(self.size // step):
            chosen.append(others[batch * rest : (batch + 1) * rest])
            for person in rng.choice(len(self.members), groups, replace=groups > len(self.members)).tolist():
                people = [person, *self.nearest[person].tolist()]
                chosen += [rng.permutation(self._filled(self.members[each]))[: self.instances] for each in people]
            chosen = [np.concatenate(chosen)[: (batch + 1) * step]]  # a group larger than a batch is cut
        return chosen[0]

    def _filled(self, own: np.ndarray) -> np.ndarray:
        """A person's captions, over again until there are enough."""
        return np.resize(own, max(len(own), self.instances))
