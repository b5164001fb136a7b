"""What is known of people beyond their captions: attributes.json beside the annotations, as `sightword mini` writes it.

    identities  id → {attribute: word}
    families    id → number, which people who are nearly alike share
    images      file → {mentioned: for each caption, the attributes that it mentions}

With it, a reader that makes no mistake is computed: for each caption it finds the people of whom all is true that the
caption mentions. Rank-1 of that reader is the ceiling of any other, as captions omit what would tell two people apart.

Legend: M images, C captions, P people of a split; A attributes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sightword.errors import SightwordError
from sightword.storage import shards
from sightword.storage.fields import Fields
from sightword.storage.reader import read_json
from sightword.systems.retrieval.record import Listing
from sightword.systems.retrieval.split import Split

FILE = "attributes.json"


class Truth(NamedTuple):
    """What is known of a split."""

    families: np.ndarray  # (M,) int64, the family of the person that an image shows
    ceiling: np.ndarray  # (C,) float64, the chance that a perfect reader's first image shows the right person


def read_truth(listing: Listing, split: Split) -> Truth | None:
    """Return the truth of a split of test or validation; None without the file, or if it is one of another kind.

    The latter is said on stderr.
    """
    file = listing.file.parent / FILE
    if not file.is_file():
        return None
    paths = [image.relative_to(listing.folder).as_posix() for image in split.images]
    try:
        return _truth(read_json(file), split, paths)
    except SightwordError as error:
        shards.say(f"warning: {error}. The ceiling and the right-family share are not computed")
        return None


def _truth(content: Fields, split: Split, paths: Sequence[str]) -> Truth:
    ids = [str(pid) for pid in split.pids]
    every, groups, images = (content.mapping(name) for name in ("identities", "families", "images"))
    people = list(dict.fromkeys(ids))
    words = {person: every.mapping(person).plain() for person in people}
    names = sorted({name for own in words.values() for name in own})
    codes = _codes([[str(words[person].get(name)) for name in names] for person in people])  # (P, A)
    mentioned = _mentioned(images, paths, names, np.bincount(split.caption_image, minlength=len(paths)))
    person_of = np.array([people.index(id_) for id_ in ids])  # (M,)
    count = np.bincount(person_of, minlength=len(people))  # images of each person
    own = person_of[split.caption_image]  # (C,)
    chances = [
        count[person] / count[(codes[:, told] == codes[person, told]).all(1)].sum()
        for person, told in zip(own, mentioned, strict=True)
    ]
    return Truth(np.array([groups.integer(id_) for id_ in ids]), np.array(chances))


def _codes(words: Sequence[Sequence[str]]) -> np.ndarray:
    """Return words (P, A) as numbers that are equal where the words are."""
    table = np.array(words)
    return np.stack([np.unique(column, return_inverse=True)[1].reshape(-1) for column in table.T], 1)


def _mentioned(images: Fields, paths: Sequence[str], names: Sequence[str], captions: np.ndarray) -> np.ndarray:
    """Return which attributes each caption mentions, (C, A) bool. captions: how many each image has, (M,)."""
    rows = []
    for path, count in zip(paths, captions.tolist(), strict=True):
        told = images.mapping(path).sequence("mentioned")
        if len(told) != count:
            raise images.error(f"mentions attributes of {len(told)} captions, and the annotations have {count}", path)
        rows += [[name in set(told.texts(number)) for name in names] for number in range(count)]
    return np.array(rows, dtype=bool).reshape(-1, len(names))
