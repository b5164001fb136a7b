"""All that the naming of actions can be told. Names and defaults are document 002's or pyskl's, where they have any."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Data:
    """Skeletons in pyskl's form: a pickle, or the .npz that `sightword convert` makes of one."""

    annotations: str = ""  # the .pkl or .npz
    train: str = "xsub_train"  # a split of the file; empty: every recording of it
    val: str = ""  # a split; empty: hold_out of the training recordings, the same ones whatever the seed
    hold_out: float = 0.05  # share of them, of every class alike; people are in both, so it flatters
    test: str = "xsub_val"  # a split; empty: every recording of the file

    frames: int = 48  # L of a clip: one of each of L equal stretches of a recording; a short one is looped
    size: list[int] = field(default_factory=lambda: [56, 56])  # H, W of the canvas that training draws on
    test_size: list[int] = field(default_factory=lambda: [64, 64])  # of validation and test: the whole, not a crop
    clips: int = 1  # draws of frames that validation averages over; pyskl has 10
    test_clips: int = 10  # the same of test
    test_flip: bool = True  # test sees each clip mirrored, too

    persons: int = 2  # M, most of a recording; of more the ones seen best are kept
    compact: bool = True  # what is around the body is cut off, once a recording
    padding: float = 0.25  # compact: the body's box is so much larger, then square
    threshold: float = 10.0  # compact: pixels; a box with a smaller side stays as it is
    short_side: int = 64  # pixels before a crop, of the shorter side
    crop_area: list[float] = field(default_factory=lambda: [0.56, 1.0])  # of a training crop, share of the whole
    crop_aspect: list[float] = field(default_factory=lambda: [0.75, 4 / 3])  # its width to its height
    flip: float = 0.5  # how often a training clip is mirrored
    pyskl_parity: bool = False  # for published checkpoints: a coordinate of 0 is missing, mirrors are 1 px off

    batch_size: int = 16  # recordings on each device
    num_workers: int = 4

    def __post_init__(self) -> None:
        for name in ("size", "test_size"):
            if len(sides := getattr(self, name)) != 2 or min(sides) < 1:
                raise ValueError(f"data.{name} is a height and a width, as [56,56]; got {list(sides)}")
        for name in ("frames", "clips", "test_clips", "persons", "short_side", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} is at least 1; got {getattr(self, name)}")
        for name, least in (("padding", 0), ("threshold", 2), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name} is at least {least}; got {getattr(self, name)}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"data.flip is a probability, 0 to 1; got {self.flip}")
        if not self.val and not 0 < self.hold_out < 1:
            raise ValueError(f"data.hold_out is a share, above 0 and below 1; got {self.hold_out}; or name data.val")
        if self.val and self.val == self.train:
            raise ValueError(f"data.train and data.val are both {self.val!r}: what is trained on measures nothing")
        _a_range("data.crop_area", self.crop_area, most=1.0)
        _a_range("data.crop_aspect", self.crop_aspect)


def _a_range(name: str, ends: list[float], most: float = float("inf")) -> None:
    if len(ends) != 2 or not 0 < ends[0] <= ends[1] <= most:
        bound = f" ≤ {most:g}" if most < float("inf") else ""
        raise ValueError(f"{name} is two numbers, 0 < least ≤ most{bound}; got {list(ends)}")


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(allowed)}; got {value!r}")
