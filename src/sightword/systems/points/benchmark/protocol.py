"""What a benchmark measures: its classes, their groups, and which of them are instances.

scannet200.csv   200 classes with ScanNet's ids, and the split into head, common and tail
                 (BenchmarkScripts/ScanNet200 of github.com/ScanNet/ScanNet); instances of all but wall and floor
replica.csv      51 classes with Replica's ids, those of the eight scenes that papers use, without `other`
                 (concept-graphs/concept-graphs, replica_constants.py); 48 of them are instances, without wall, floor
                 and ceiling (aminebdj/OpenYOLO3D, evaluate/replica)
"""

from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from sightword.storage.reader import read_csv

#: The benchmarks.
Dataset: TypeAlias = Literal["scannet200", "replica"]

GROUPS = ("head", "common", "tail")
REPLICA_SCENES = ("room0", "room1", "room2", "office0", "office1", "office2", "office3", "office4")
PROMPTS = {"scannet200": "a {} in a scene", "replica": "an image of {}"}  # of OpenMask3D, and of ConceptGraphs
FOLDER = Path(__file__).parent


class Protocol(NamedTuple):
    """The classes of a benchmark."""

    dataset: Dataset
    ids: tuple[int, ...]  # in the ground truth, at most 1,191
    names: tuple[str, ...]
    groups: tuple[str, ...]  # head, common, tail, or empty
    instances: tuple[int, ...]  # ids of classes that are measured as instances
    prompt: str  # {} is the class

    def of_group(self, group: str) -> list[int]:
        """Return the places of the classes of a group."""
        return [place for place, name in enumerate(self.groups) if name == group]


def protocol_of(dataset: Dataset) -> Protocol:
    """Return the classes of a benchmark."""
    rows = read_csv(FOLDER / f"{dataset}.csv", ("id", "name", "group", "instance")).rows
    ids = tuple(row.integer("id") for row in rows)
    return Protocol(
        dataset,
        ids,
        tuple(row.text("name") for row in rows),
        tuple(row.text("group", "") for row in rows),
        tuple(number for number, row in zip(ids, rows, strict=True) if row.integer("instance")),
        PROMPTS[dataset],
    )
