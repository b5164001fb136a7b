"""Synthetic person images with descriptions, in the formats of CUHK-PEDES, ICFG-PEDES and RSTPReid.

A person has seventeen attributes (`figure.Person`). Identities come in families of four: the first, and three that
differ from it in one attribute each, so that one attribute alone, as the jacket's colour, identifies nobody. A caption
omits each attribute with probability 0.2 and words the others in one of several ways; it mentions nothing that its own
image hides. The ground truth is in attributes.json beside the annotations:

    identities  id → {attribute: word}
    families    id → number of the family
    images      file → {behind: seen from behind?, mentioned: for each caption, the attributes that it mentions}

Beside it stand further captions of the training images, file → texts, in paraphrases.json.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sightword.miniature.figure import COLOURS, HAIR, SKIN, Person, Rng, draw
from sightword.storage.atomic import write_atomically
from sightword.storage.domain import write_card

FAMILY = 4
DROP = 0.2  # probability that a caption omits an attribute
SHOE_COLOURS = ("black", "white", "red", "blue", "brown")

CHOICES: dict[str, tuple[str, ...]] = {
    "sex": ("man", "woman"),
    "hair": ("bald", "short", "long"),
    "hair_colour": tuple(HAIR),
    "top": ("t-shirt", "jacket", "coat"),
    "top_colour": tuple(COLOURS),
    "pattern": ("plain", "striped", "dotted", "logo"),
    "pattern_colour": tuple(COLOURS),
    "bottom": ("trousers", "shorts", "skirt"),
    "bottom_colour": tuple(COLOURS),
    "shoes": ("sneakers", "boots"),
    "shoe_colour": SHOE_COLOURS,
    "bag": ("none", "backpack", "handbag"),
    "bag_colour": tuple(COLOURS),
    "bag_side": ("left", "right"),
    "cap": ("none", "cap"),
    "cap_colour": tuple(COLOURS),
    "glasses": ("none", "glasses"),
}
SHOWN_BY: dict[str, tuple[str, tuple[str, ...]]] = {  # attribute → the attribute and its words that make it visible
    "hair_colour": ("hair", ("short", "long")),
    "pattern_colour": ("pattern", ("striped", "dotted", "logo")),
    "bag_colour": ("bag", ("backpack", "handbag")),
    "bag_side": ("bag", ("handbag",)),
    "cap_colour": ("cap", ("cap",)),
}
SYNONYMS: dict[str, tuple[str, ...]] = {
    "man": ("man", "guy", "gentleman"),
    "woman": ("woman", "lady", "girl"),
    "t-shirt": ("t-shirt", "tee"),
    "trousers": ("trousers", "pants"),
    "sneakers": ("sneakers", "trainers"),
    "backpack": ("backpack", "rucksack"),
    "handbag": ("handbag", "purse"),
    "glasses": ("glasses", "spectacles"),
    "red": ("red", "crimson"),
    "blue": ("blue", "navy"),
    "grey": ("grey", "gray"),
    "purple": ("purple", "violet"),
    "beige": ("beige", "cream"),
    "blond": ("blond", "fair"),
}


class Sizes(NamedTuple):
    """Number of identities per split, best in whole families of four."""

    train: int = 600
    val: int = 40
    test: int = 60
    more: int = 0  # to train on, drawn after all others, which stay as they are; with at most MORE_IMAGES images each


SIZES = Sizes(more=2600)
MORE_IMAGES = 2
PARAPHRASES = 8  # of each training image


class CaptionedImage(NamedTuple):
    """An image of a person with its captions."""

    split: str
    id: int  # from 0, through all splits
    number: int  # of the identity's images, from 0
    person: Person
    image: np.ndarray  # (H, W, 3) uint8
    behind: bool
    captions: list[str]
    mentioned: list[list[str]]  # attributes that each caption mentions
    paraphrases: list[str]  # further captions, of training images only


# ------------------------------------------------------------------------------------------------------------ people


def shows(person: Person, attribute: str, behind: bool = False) -> bool:
    """Return whether an attribute is visible: a bald head has no hair colour, a back shows no logo and no glasses."""
    if behind and (attribute == "glasses" or (attribute.startswith("pattern") and person.pattern == "logo")):
        return False
    by, words = SHOWN_BY.get(attribute, ("sex", CHOICES["sex"]))
    return getattr(person, by) in words


def people(count: int, seed: int) -> list[tuple[Person, int]]:
    """Return `count` identities with distinct looks, family after family, each with its index in SKIN."""
    rng = np.random.default_rng([seed, 0])
    found: list[tuple[Person, int]] = []
    seen: set[tuple[str, ...]] = set()
    while len(found) < count:
        family, skin = _family(rng), int(rng.integers(len(SKIN)))
        looks = {
            tuple(word if shows(person, name) else "" for name, word in person._asdict().items()) for person in family
        }
        if len(looks) == FAMILY and not looks & seen:
            seen |= looks
            found += [(person, skin) for person in family]
    return found[:count]


def _family(rng: Rng) -> list[Person]:
    """Return a person, and three others that differ from it in one visible attribute each."""
    first = Person(**{name: _pick(rng, words) for name, words in CHOICES.items()})
    first = first._replace(pattern_colour=_other(rng, first, "pattern_colour"))
    names = rng.permutation([name for name in CHOICES if shows(first, name)])[: FAMILY - 1].tolist()
    return [first, *(first._replace(**{name: _other(rng, first, name)}) for name in names)]


def _other(rng: Rng, person: Person, name: str) -> str:
    """Return another value for an attribute; a pattern never has its garment's colour."""
    taken = {getattr(person, name)}
    if name in ("top_colour", "pattern_colour"):
        taken |= {person.top_colour, person.pattern_colour}
    return _pick(rng, [word for word in CHOICES[name] if word not in taken])


def _pick(rng: Rng, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def captioned_images(
    sizes: Sizes, images: int, captions: int, seed: int, size: tuple[int, int]
) -> Iterator[CaptionedImage]:
    """Yield all images, identity after identity; each depends only on (seed, identity, number).

    images: per identity. captions: per image. size: (H, W) in pixels.
    """
    splits = [split for split, count in sizes._asdict().items() for _ in range(count)]
    for id_, (split, (person, skin)) in enumerate(zip(splits, people(len(splits), seed), strict=True)):
        for number in range(min(images, MORE_IMAGES) if split == "more" else images):
            rng = np.random.default_rng([seed, 1, id_, number])
            shot = draw(person, skin, rng, size)
            described = [describe(person, rng, shot.behind) for _ in range(captions)]
            texts, mentioned = [text for text, _ in described], [names for _, names in described]
            place = "train" if split == "more" else split
            again = np.random.default_rng([seed, 2, id_, number])
            count = PARAPHRASES if place == "train" else 0
            paraphrases = [describe(person, again, shot.behind)[0] for _ in range(count)]
            yield CaptionedImage(place, id_, number, person, shot.image, shot.behind, texts, mentioned, paraphrases)


# --------------------------------------------------------------------------------------------------------- sentences


def describe(person: Person, rng: Rng, behind: bool = False) -> tuple[str, list[str]]:
    """Return a description of the visible attributes, one to four sentences, and the attributes it mentions."""
    mentioned = {name for name in CHOICES if shows(person, name, behind) and rng.random() >= DROP}
    words = _Words(person, mentioned, rng)
    subject = f"{_pick(rng, ('a', 'the', 'this'))} {words.subject()}"
    clauses = [clause for make in CLAUSES if (clause := make(words))] or ["walks by"]
    clauses = [clauses[number] for number in rng.permutation(len(clauses))]
    sentences = []
    while clauses:
        count = int(rng.integers(2, 4))
        some, clauses = clauses[:count], clauses[count:]
        sentences.append(f"{subject} {_listed(some)}.")
        subject = words.pronoun()
    return " ".join(text[0].upper() + text[1:] for text in sentences), sorted(words.used, key=list(CHOICES).index)


class _Words:
    """Words for a person's attributes; records in `used` which were mentioned."""

    def __init__(self, person: Person, mentioned: set[str], rng: Rng) -> None:
        self.person, self.mentioned, self.rng, self.used = person, mentioned, rng, set[str]()

    def __call__(self, name: str, otherwise: str = "") -> str:
        """Return the attribute's word or a synonym; `otherwise` if it is to be omitted."""
        if name not in self.mentioned:
            return otherwise
        self.used.add(name)
        word = getattr(self.person, name)
        return _pick(self.rng, SYNONYMS.get(word, (word,)))

    def any(self, *words: str) -> str:
        """Return one of the words at random."""
        return _pick(self.rng, words)

    def subject(self) -> str:
        """Return the noun for the person."""
        return self("sex", self.any("person", "pedestrian"))

    def pronoun(self) -> str:
        """Return the pronoun for the person."""
        return {"man": "he", "woman": "she"}[self.person.sex] if "sex" in self.mentioned else "the person"

    def own(self) -> str:
        """Return the possessive for the person."""
        return {"man": "his", "woman": "her"}[self.person.sex] if "sex" in self.mentioned else "the"

    def absent(self, name: str, text: str) -> str:
        """Return, with probability 0.2, a remark that something is absent."""
        if name not in self.mentioned or self.rng.random() < 0.8:
            return ""
        self.used.add(name)
        return text


def _top(words: _Words) -> str:
    pattern = words.person.pattern if "pattern" in words.mentioned else ""
    if not words.mentioned & {"top", "top_colour"} and pattern in ("", "plain"):
        return ""
    plain = "plain" if pattern == "plain" and words.rng.random() < 0.3 else ""
    if (pattern != "plain" and pattern) or plain:
        words.used.add("pattern")
    colour = words("top_colour")
    garment = _joined(plain, colour, words("top", "top"))
    marks = ""
    if pattern not in ("", "plain"):
        kind = {"striped": "stripes", "dotted": "dots", "logo": "logo on the chest"}[pattern]
        marks = _joined(
            "with",
            _a(_joined(words("pattern_colour"), kind)) if pattern == "logo" else _joined(words("pattern_colour"), kind),
        )
    return _joined(words.any("wears", "is dressed in", "has on"), _a(garment), marks)


def _bottom(words: _Words) -> str:
    if not words.mentioned & {"bottom", "bottom_colour"}:
        return ""
    verb = words.any("wears", "is in", "has on")
    if words.person.bottom == "skirt" and "bottom" in words.mentioned:
        return f"{verb} {_a(_joined(words('bottom_colour'), words('bottom')))}"
    pair = "a pair of" if words.rng.random() < 0.3 else ""
    return _joined(verb, pair, words("bottom_colour"), words("bottom", "bottoms"))


def _shoes(words: _Words) -> str:
    if not words.mentioned & {"shoes", "shoe_colour"}:
        return ""
    return _joined(words.any("has", "wears", "walks in"), words("shoe_colour"), words("shoes", "shoes"))


def _bag(words: _Words) -> str:
    if words.person.bag == "none":
        return words.absent("bag", "carries no bag")
    if "bag" not in words.mentioned:
        return ""
    bag = _a(_joined(words("bag_colour"), words("bag")))
    side = words("bag_side")
    return _joined(words.any("carries", "has", "is with"), bag, f"in {words.own()} {side} hand" if side else "")


def _hair(words: _Words) -> str:
    if words.person.hair == "bald":
        return f"is {words('hair')}" if "hair" in words.mentioned else ""
    if not words.mentioned & {"hair", "hair_colour"}:
        return ""
    return _joined("has", words("hair"), words("hair_colour"), "hair")


def _cap(words: _Words) -> str:
    if words.person.cap == "none":
        return words.absent("cap", "wears no cap")
    return (
        f"{words.any('wears', 'has on')} {_a(_joined(words('cap_colour'), words('cap')))}"
        if "cap" in words.mentioned
        else ""
    )


def _glasses(words: _Words) -> str:
    if words.person.glasses == "none":
        return words.absent("glasses", "wears no glasses")
    return f"{words.any('wears', 'has')} {words('glasses')}" if "glasses" in words.mentioned else ""


CLAUSES: Sequence[Callable[[_Words], str]] = (_top, _bottom, _shoes, _bag, _hair, _cap, _glasses)


def _joined(*words: str) -> str:
    return " ".join(word for word in words if word)


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _listed(clauses: Sequence[str]) -> str:
    *others, last = clauses
    return f"{', '.join(others)} and {last}" if others else last


# ------------------------------------------------------------------------------------------------------------- files


def write_cuhk(
    folder: Path,
    sizes: Sizes = SIZES,
    images: int = 3,
    captions: int = 2,
    seed: int = 7,
    size: tuple[int, int] = (192, 64),
) -> None:
    """Write `folder`/CUHK-PEDES with imgs/{cam_a,cam_b,CUHK01}/00001_0.jpg and reid_raw.json; ids from 1."""
    write_card(folder, "People with descriptions")

    def record(one: CaptionedImage) -> dict[str, object]:
        camera, kind = (("cam_a", "jpg"), ("cam_b", "jpg"), ("CUHK01", "png"))[one.number % 3]
        return {
            "split": one.split,
            "captions": one.captions,
            "file_path": f"{camera}/{one.id + 1:05d}_{one.number}.{kind}",
            "processed_tokens": _tokens(one.captions),
            "id": one.id + 1,
        }

    _write(
        folder / "CUHK-PEDES",
        "reid_raw.json",
        captioned_images(sizes, images, captions, seed, size),
        record,
        "file_path",
    )


def write_icfg(
    folder: Path,
    sizes: Sizes = SIZES,
    images: int = 3,
    seed: int = 7,
    size: tuple[int, int] = (192, 64),
) -> None:
    """Write `folder`/ICFG-PEDES with imgs/{train,test}/0000/0000_000_00.jpg and ICFG-PEDES.json.

    One caption per image, ids from 0, no validation split: the identities of `sizes.val` are for training. As in the
    real dataset, the folder is not the split: the images of every fourth identity lie in the other folder.
    """
    write_card(folder, "People with descriptions")

    def record(one: CaptionedImage) -> dict[str, object]:
        split = "test" if one.split == "test" else "train"
        place = split if one.id % 4 else {"train": "test", "test": "train"}[split]
        return {
            "split": split,
            "captions": one.captions,
            "file_path": f"{place}/{one.id:04d}/{one.id:04d}_{one.number:03d}_00.jpg",
            "processed_tokens": _tokens(one.captions),
            "id": one.id,
        }

    _write(
        folder / "ICFG-PEDES", "ICFG-PEDES.json", captioned_images(sizes, images, 1, seed, size), record, "file_path"
    )


def write_rstp(
    folder: Path,
    sizes: Sizes = SIZES,
    images: int = 5,
    captions: int = 2,
    seed: int = 7,
    size: tuple[int, int] = (192, 64),
) -> None:
    """Write `folder`/RSTPReid with flat imgs/0000_c0_0000.jpg and data_captions.json; ids from 0, `img_path`."""
    write_card(folder, "People with descriptions")

    def record(one: CaptionedImage) -> dict[str, object]:
        file = f"{one.id:04d}_c{one.number}_{one.id * images + one.number:04d}.jpg"
        return {"id": one.id, "img_path": file, "captions": one.captions, "split": one.split}

    _write(
        folder / "RSTPReid",
        "data_captions.json",
        captioned_images(sizes, images, captions, seed, size),
        record,
        "img_path",
    )


def _write(
    folder: Path,
    name: str,
    images: Iterator[CaptionedImage],
    record: Callable[[CaptionedImage], dict[str, object]],
    path: str,
) -> None:
    """Write images and attributes.json, then the annotations, so that these exist only if everything else does.

    path: the field of a record with the file's path.
    """
    records, identities, families, truth, paraphrases = [], {}, {}, {}, {}
    for one in images:
        entry = record(one)
        file = folder / "imgs" / str(entry[path])
        file.parent.mkdir(parents=True, exist_ok=True)
        _save(Image.fromarray(one.image), file)
        records.append(entry)
        identities[str(entry["id"])], families[str(entry["id"])] = one.person._asdict(), one.id // FAMILY
        truth[str(entry[path])] = {"behind": one.behind, "mentioned": one.mentioned}
        if one.paraphrases:
            paraphrases[str(entry[path])] = one.paraphrases
    _dump(folder / "attributes.json", json.dumps({"identities": identities, "families": families, "images": truth}))
    _dump(folder / "paraphrases.json", json.dumps(paraphrases))
    _dump(folder / name, _lines(records))


def _save(image: Image.Image, file: Path) -> None:
    """Write an image under another name and rename it, without the fsync that the annotations at the end do."""
    beside = file.with_name(f".{file.name}")
    if file.suffix == ".png":
        image.save(beside, "PNG", compress_level=1)
    else:
        image.save(beside, "JPEG", quality=95, subsampling=0)
    beside.replace(file)


def _dump(file: Path, text: str) -> None:
    with write_atomically(file) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _lines(records: Sequence[object]) -> str:
    """Return a JSON list with one record per line."""
    return "[\n" + ",\n".join(json.dumps(record) for record in records) + "\n]"


def _tokens(captions: Sequence[str]) -> list[list[str]]:
    return [caption.lower().replace(",", "").replace(".", "").split() for caption in captions]


def vocabulary() -> list[str]:
    """Return every word that a caption may contain."""
    rng, found = np.random.default_rng(0), set[str]()
    for word in (word for words in CHOICES.values() for word in words):
        found |= set(SYNONYMS.get(word, (word,))) - {"none"}
    for person, _ in people(200, 0):
        for tokens in _tokens([describe(person, rng)[0] for _ in range(4)]):
            found |= set(tokens)
    return sorted(found)
