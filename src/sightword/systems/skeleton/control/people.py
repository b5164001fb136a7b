"""Who performs each recording, and which people are held out to choose a control's settings."""

from collections.abc import Sequence

import numpy as np

from sightword.errors import SightwordError
from sightword.systems.skeleton.formats.naming import NTU, SUBJECT, parts_of, people_by

PARTS = 5  # of recordings without known people


def people_of(names: Sequence[str], pattern: str = "") -> tuple[list[str], str]:
    """Return who performs each recording, and how that is known.

    pattern: a regular expression for the person in a name, as P\\d+; empty: names of NTU RGB+D and MSR-Action3D state
    it. Recordings of other names are put into parts at random. Raises SightwordError for a pattern that does not fit.
    """
    if pattern:
        return people_by(names, pattern, "person"), f"people by {pattern}"
    for form in (NTU, SUBJECT):
        if parts := parts_of(names, form):
            return [f"person {one['person']}" for one in parts], "people by the names of recordings"
    parted = np.random.default_rng(0).permutation(len(names)) % PARTS
    return [f"part {number}" for number in parted], "parts of the recordings, since names state no person: optimistic"


def folds(people: Sequence[str], most: int) -> list[np.ndarray]:
    """Return which recordings (N,) bool are held out in each fold: every person in one of at most `most` folds.

    Raises SightwordError for fewer than two people.
    """
    known = sorted(set(people))
    if len(known) < 2:
        raise SightwordError(f"all recordings to train on are of {known[0]}: nobody can be held out. Pass person=")
    count = min(most, len(known))
    fold_of = {person: number % count for number, person in enumerate(known)}
    return [np.array([fold_of[person] == fold for person in people]) for fold in range(count)]
