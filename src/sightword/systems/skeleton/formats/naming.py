"""What the names of published recordings say: the class, and the usual splits.

S001C002P003R002A013    NTU RGB+D: setup, camera, person, repetition, action
a13_s03_t02, _e02       UTD-MHAD and MSR-Action3D: action, subject, trial
"""

import re
from collections.abc import Callable, Mapping, Sequence

NTU = re.compile(r"S(?P<setup>\d{3})C(?P<camera>\d{3})P(?P<person>\d{3})R\d{3}A(?P<action>\d{3})")
SUBJECT = re.compile(r"(?<![A-Za-z0-9])a(?P<action>\d{1,2})_s(?P<person>\d{1,2})_[te]\d{1,2}(?![0-9])")

# training persons of cross-subject in the two editions of NTU RGB+D, as its publication lists them
NTU_60 = {1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38}
NTU_120 = NTU_60 | {
    *(45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94),
    *(95, 97, 98, 100, 103),
}

Parts = Mapping[str, int]
Rule = Callable[[Parts], bool]  # whether a recording is one to train on


def parts_of(names: Sequence[str], pattern: re.Pattern[str]) -> list[Parts] | None:
    """Return the numbers in each name; None if one does not have them."""
    found = [pattern.search(name) for name in names]
    if not names or None in found:
        return None
    return [{key: int(value) for key, value in one.groupdict().items()} for one in found if one is not None]


def stated_by(names: Sequence[str]) -> tuple[list[int], dict[str, list[str]], str]:
    """Return labels, splits and what was assumed; nothing if the names are not all of one published form."""
    if (parts := parts_of(names, NTU)) is not None:
        many = any(one["setup"] > 17 or one["action"] > 60 for one in parts)
        rules: dict[str, Rule] = {"xsub": lambda one: one["person"] in (NTU_120 if many else NTU_60)}
        rules |= {"xset": lambda one: one["setup"] % 2 == 0} if many else {"xview": lambda one: one["camera"] != 1}
        told = f"names are those of NTU RGB+D{' 120' if many else ''}: labels are A - 1, splits {' and '.join(rules)}"
    elif (parts := parts_of(names, SUBJECT)) is not None:
        rules = {"xsub": lambda one: one["person"] % 2 == 1}
        told = "names state action and subject: labels are a - 1, split xsub trains on odd subjects"
    else:
        return [], {}, ""
    splits: dict[str, list[str]] = {}
    for split, rule in rules.items():
        for part, wanted in (("train", True), ("val", False)):
            chosen = [name for name, one in zip(names, parts, strict=True) if rule(one) is wanted]
            splits |= {f"{split}_{part}": chosen} if chosen else {}
    return [one["action"] - 1 for one in parts], splits, told
