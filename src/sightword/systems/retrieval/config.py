"""Everything the search for people can be told. Names and defaults are document 001's, and IRRA's where it has none."""

from dataclasses import dataclass, field

DATASETS = ("cuhk_pedes", "icfg_pedes", "rstpreid")


@dataclass
class Data:
    """CUHK-PEDES, ICFG-PEDES or RSTPReid, or any set in the form of one of them."""

    dataset: str = "cuhk_pedes"  # cuhk_pedes | icfg_pedes | rstpreid
    root: str = ""  # the folder with imgs/ and the JSON file, or the one above it
    hold_out: int = 100  # training identities for validation where the set has no such split (ICFG-PEDES)
    image_size: list[int] = field(default_factory=lambda: [384, 128])  # height, width
    text_length: int = 0  # tokens of a caption, more are cut off; 0: what the text tower reads

    batch_size: int = 64  # pairs on each device
    num_workers: int = 4
    sampler: str = "random"  # random | identity: P identities with `instances` captions each, none of them twice
    instances: int = 4  # K of P×K

    flip: str = "none"  # none | swap: mirrored half of the time, with "left" and "right" exchanged in the caption
    pad: int = 10  # pixels of black around the image, of which a crop takes it back to its size; 0: no crop
    erase: float = 0.5  # how often a rectangle of an image is erased; never of what the generator sees

    mask_text: float = 0.0  # share of a caption's tokens hidden, for masked language; IRRA has 0.15
    hide: float = 0.0  # share of the image's cells hidden, for generation; 0: no generation
    vq_codes: str = ""  # ids by `sightword tokenize size=H width=W`, of the whole folder imgs/, for generation

    measure: str = "val"  # val | test: test is for sightword evaluate alone, as a run is selected on val

    def __post_init__(self) -> None:
        for name, allowed in (
            ("dataset", DATASETS),
            ("sampler", ("random", "identity")),
            ("flip", ("none", "swap")),
            ("measure", ("val", "test")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"data.{name} is one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"data.image_size is height and width, as [384,128]; got {self.image_size}")
        for name, least in (("hold_out", 1), ("text_length", 0), ("batch_size", 1), ("instances", 2), ("pad", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name} is at least {least}; got {getattr(self, name)}")
        for name in ("mask_text", "hide"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"data.{name} is a share, at least 0 and less than 1; got {getattr(self, name)}")
        if not 0 <= self.erase <= 1:
            raise ValueError(f"data.erase is a probability, 0 to 1; got {self.erase}")
        if self.sampler == "identity" and self.batch_size % self.instances:
            raise ValueError(
                f"data.batch_size={self.batch_size} is no multiple of data.instances={self.instances}: "
                "sampler=identity makes batches of whole identities"
            )
        if self.hide and self.flip != "none":
            raise ValueError(
                "data.flip=swap mirrors the image and its caption, and the codes that data.hide asks for are of the "
                "image as it is: set data.flip=none"
            )
        if self.vq_codes and not self.hide:
            raise ValueError(f"data.vq_codes={self.vq_codes} is read where cells are hidden: set data.hide, as 0.5")
