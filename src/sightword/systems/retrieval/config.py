"""Everything the search for a described person can be told. Names and defaults are document 001's where it has them."""

from dataclasses import dataclass, field
from typing import Any

DATASETS = ("cuhk_pedes", "icfg_pedes", "rstpreid")


@dataclass
class RetrievalConfig:
    """The towers, how they meet, and the objective."""

    image: str = "siglip"  # which tower reads images: clip | siglip
    text: str = "t5"  # which tower reads texts: clip | siglip | t5; the image's own kind loads the pair
    clip: str = "ViT-B-16-quickgelu"  # as `image_tower` takes it
    clip_tag: str = "openai"  # of its weights; empty for presets and folders
    siglip: str = "siglip2_b16"
    siglip_tag: str = ""
    t5: str = "flan_t5_base"
    image_size: list[int] = field(default_factory=lambda: [384, 128])  # H, W; positions are resampled; data has it too
    text_length: int = 0  # most tokens of a text, special ones included; 0: the tower's own (T5: 512)
    freeze_image: bool = False
    freeze_text: bool = False

    shared: bool = False  # phase 3: image tokens go through the text tower (T5) too, in a pass of their own
    grid_bias: bool = True  # shared: the T5 knows rows and columns; off, image tokens are one line to it
    image_pooling: str = "mean"  # shared: mean (of the image's tokens) | cls (a learned one); else the tower's vector
    text_pooling: str = "mean"  # of a T5: mean | last; the others have their own
    project: str = "separate"  # onto embed_dim: separate | shared (one layer for both) | none (a pair's own space)
    embed_dim: int = 512  # of the common space; with project=none, the towers'

    align: str = "itc_then_sdm"  # itc_then_sdm | itc | sdm | both
    switch_at: float = 0.5  # itc_then_sdm: once so much of the softmax lies on positives, its mean over ~20 batches
    switch_by: int = 0  # itc_then_sdm: at this batch at the latest; 0: only when switch_at is reached
    scale: float = 50.0  # of the cosines: 1/0.02, constant
    itc_weight: float = 1.0
    sdm_weight: float = 1.0
    id_weight: float = 0.0  # naming the person among num_ids, from the image and from the text; 0: no such head
    num_ids: int = 11003  # training identities: CUHK-PEDES 11003, ICFG-PEDES 3102 less those held out, RSTPReid 3701
    mlm_weight: float = 0.0  # hidden words, read off the image; needs data.mask_text; 0: no such head
    mlm_layers: int = 4
    mlm_heads: int = 8
    mask_global_text: bool = False  # the other losses see the text with hidden words too, as in IRRA's code

    enable_gen: bool = False  # phase 4: predict the VQ ids of hidden cells; needs data.hide and data.vq_codes
    gen_weight: float = 0.3  # of the cross-entropy over ln K, so it starts at 1 whatever K is
    gen_ramp: int = 1000  # batches over which gen_weight rises from 0
    gen_way: str = "parallel"  # parallel | autoregressive (neighbours' codes tell most: the text matters less)
    gen_target: str = "hidden"  # hidden (cells) | whole (image): the visible ones can be copied from the condition
    show_codes: bool = True  # parallel: the decoder is given the codes of visible cells; off, it has the condition only
    gen_layers: int = 2
    num_codes: int = 16384  # K of the tokenizer that wrote data.vq_codes
    vq_grid: list[int] = field(default_factory=lambda: [24, 8])  # its codes of an image, rows and columns
    vq_weights: str = (
        ""  # the tokenizer: data.vq_codes by another are refused; without any, it codes each batch, slowly
    )
    vq_layout: str = ""  # of a published file, as for sightword tokenize

    def __post_init__(self) -> None:
        _one_of("system.image", self.image, ("clip", "siglip"))
        _one_of("system.text", self.text, ("clip", "siglip", "t5"))
        _one_of("system.image_pooling", self.image_pooling, ("mean", "cls"))
        _one_of("system.text_pooling", self.text_pooling, ("mean", "last"))
        _one_of("system.project", self.project, ("separate", "shared", "none"))
        _one_of("system.align", self.align, ("itc_then_sdm", "itc", "sdm", "both"))
        _one_of("system.gen_way", self.gen_way, ("parallel", "autoregressive"))
        _one_of("system.gen_target", self.gen_target, ("hidden", "whole"))
        for name in ("image_size", "vq_grid"):
            if len(sides := getattr(self, name)) != 2 or min(sides) < 1:
                raise ValueError(f"system.{name} is a height and a width, both positive; got {list(sides)}")
        for name in ("embed_dim", "num_ids", "num_codes", "gen_layers", "mlm_layers", "mlm_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"system.{name} is at least 1; got {getattr(self, name)}")
        if not 0 < self.switch_at <= 1:
            raise ValueError(f"system.switch_at is a share in (0, 1]; got {self.switch_at}")
        self._check_parts()

    def _check_parts(self) -> None:
        """What the parts owe each other."""
        pair = self.image == self.text
        if not pair and self.text != "t5":
            raise ValueError(
                f"system.text={self.text} is one half of a pair, system.image={self.image} of another: say "
                f"image={self.text} to take both, or text=t5"
            )
        if self.project == "none" and not pair:
            raise ValueError(
                f"system.project=none is for a pair that has a space of its own, not {self.image} and "
                f"{self.text}: say separate, or shared"
            )
        if self.shared and self.text != "t5":
            raise ValueError(f"system.shared needs a T5 to read image tokens: text=t5, not {self.text}")
        if self.enable_gen and not self.shared:
            raise ValueError("system.enable_gen reads images and texts by one encoder: set system.shared=true")
        if self.mask_global_text and not self.mlm_weight:
            raise ValueError("system.mask_global_text hides words for the masked-language head: set mlm_weight above 0")


@dataclass
class RetrievalData:
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

    def __post_init__(self) -> None:
        _one_of("data.dataset", self.dataset, DATASETS)
        _one_of("data.sampler", self.sampler, ("random", "identity"))
        _one_of("data.flip", self.flip, ("none", "swap"))
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


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(allowed)}; got {value!r}")
