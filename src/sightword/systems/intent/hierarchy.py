"""Intentonomy's 28 intents as people read them, and the 15 and 9 groups above them.

Intentonomy's intents are chosen from a hierarchy of human motives (Talevich et al., PLOS ONE 2017, 12(2) e0172279).
The data set's own page (KMnP/intentonomy, DATA.md) names the 9 super-categories; its annotations do not contain a
hierarchy. Which intents and which of the 15 belong to which group is that of the code of HLEG (Shi et al., IEEE TAC
2023; ShiQingHongYa/HLEG, data_utils/get_dataset_new.py: CLASS_15, CLASS_9). The names of the 15 are those of IntCLIP
(ECCV 2024; yan9qu/IntCLIP, semantic_labels.json). Both agree on all but two intents:

    EasyLife             HLEG: Finances, under financial and occupational success.
                         IntCLIP: Occupational success, under self-fulfil; its group Finances has no intent.
    SuccInOccupHavGdJob  HLEG: under financial and occupational success. IntCLIP: under openness to experience, although
                         its two siblings are elsewhere.

In both cases only HLEG's is a tree with 15 groups that have intents, so it is the one here. The titles are ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sightword.systems.intent.intentonomy import CLASSES

#: The 15 groups, in HLEG's order, and the one of the 9 super-categories that each belongs to.
GROUPS: Mapping[str, str] = {
    "Occupational success": "Financial and occupational success",
    "Finances": "Financial and occupational success",
    "Wisdom and serenity": "Self-fulfil",
    "Self-knowledge and contentment": "Self-fulfil",
    "Appreciating beauty": "Openness to experience",
    "Embrace and explore life": "Openness to experience",
    "Health": "Health",
    "Intimacy": "Security and belonging",
    "Relate and belong": "Security and belonging",
    "Stability": "Security and belonging",
    "Highly regarded": "Virtues",
    "Good family life": "Family",
    "Dominate others": "Power",
    "Achievement": "Ambition and ability",
    "Practical competence": "Ambition and ability",
}


class Intent(NamedTuple):
    """One of the 28: its title for people, and its groups."""

    title: str
    group: str  # one of 15

    @property
    def super_category(self) -> str:
        """One of 9."""
        return GROUPS[self.group]


INTENTS: Mapping[str, Intent] = {
    "Attractive": Intent("Look attractive", "Stability"),
    "BeatCompete": Intent("Compete and win", "Dominate others"),
    "Communicate": Intent("Communicate", "Relate and belong"),
    "CreativeUnique": Intent("Be creative", "Appreciating beauty"),
    "CuriousAdventurousExcitingLife": Intent("Live an adventure", "Embrace and explore life"),
    "EasyLife": Intent("Easy life", "Finances"),
    "EnjoyLife": Intent("Enjoy life", "Embrace and explore life"),
    "FineDesignLearnArt-Arch": Intent("Art: architecture", "Appreciating beauty"),
    "FineDesignLearnArt-Art": Intent("Art: works", "Appreciating beauty"),
    "FineDesignLearnArt-Culture": Intent("Art: culture", "Appreciating beauty"),
    "GoodParentEmoCloseChild": Intent("Close to a child", "Good family life"),
    "Happy": Intent("Be happy", "Self-knowledge and contentment"),
    "HardWorking": Intent("Work hard", "Achievement"),
    "Harmony": Intent("Harmony", "Wisdom and serenity"),
    "Health": Intent("Health", "Health"),
    "InLove": Intent("In love", "Intimacy"),
    "InLoveAnimal": Intent("Love an animal", "Intimacy"),
    "InspirOthrs": Intent("Inspire others", "Highly regarded"),
    "ManagableMakePlan": Intent("Make a plan", "Practical competence"),
    "NatBeauty": Intent("Beauty of nature", "Appreciating beauty"),
    "PassionAbSmthing": Intent("Passion for something", "Embrace and explore life"),
    "Playful": Intent("Be playful", "Embrace and explore life"),
    "ShareFeelings": Intent("Share feelings", "Relate and belong"),
    "SocialLifeFriendship": Intent("Friendship", "Relate and belong"),
    "SuccInOccupHavGdJob": Intent("Success at work", "Occupational success"),
    "TchOthrs": Intent("Teach others", "Highly regarded"),
    "ThngsInOrdr": Intent("Things in order", "Practical competence"),
    "WorkILike": Intent("Work I like", "Occupational success"),
}


def is_intentonomy(names: Iterable[str]) -> bool:
    """Return whether classes are Intentonomy's 28, in whatever order: titles and groups are of these alone."""
    return sorted(names) == sorted(CLASSES)


def titles(names: Sequence[str]) -> dict[str, str]:
    """Return class → its title; one's own classes keep their names."""
    return {name: INTENTS[name].title for name in names} if is_intentonomy(names) else {name: name for name in names}


def levels(names: Sequence[str]) -> dict[int, dict[str, tuple[str, ...]]]:
    """Return {15: group → its classes, 9: super-category → its classes}; empty unless the classes are Intentonomy's."""
    if not is_intentonomy(names):
        return {}
    fifteen = {group: tuple(name for name in names if INTENTS[name].group == group) for group in GROUPS}
    nine = {
        above: tuple(name for name in names if INTENTS[name].super_category == above)
        for above in dict.fromkeys(GROUPS.values())
    }
    return {15: fifteen, 9: nine}


def groups_of(scores: Mapping[str, float]) -> dict[int, dict[str, float]]:
    """Return {15: group → score, 9: super-category → score}: the highest score of its classes.

    So a group is predicted if any of its classes is. Empty unless the classes are Intentonomy's.
    """
    return {
        level: {group: max(scores[name] for name in own) for group, own in groups.items()}
        for level, groups in levels(list(scores)).items()
    }
