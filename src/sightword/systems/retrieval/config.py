"""Configuration of text-based person retrieval: the fields under `system.` and `data.`, with their defaults."""

from dataclasses import dataclass, field

from sightword.engine.config import DataConfig, SystemConfig, at_least, one_of
from sightword.errors import SightwordError

PUBLISHED = ("cuhk_pedes", "icfg_pedes", "rstpreid")
DATASETS = (*PUBLISHED, "captions")
HIDE_WAYS = ("random", "band", "person", "all")  # in which text_gain is measured, each
MIX = ("random", "band", "all")  # hide_way=mix: one of these for each image, all equally likely


@dataclass
class RetrievalConfig(SystemConfig):
    """The encoders, the space they share, and the objective."""

    paths = ("vq_weights",)
    image: str = "siglip"  # image encoder: clip | siglip
    text: str = "t5"  # text encoder: clip | siglip | t5; the same kind as image= loads the pair
    clip: str = "ViT-B-16-quickgelu"  # a name or folder, as `image_tower` takes it
    clip_tag: str = "openai"  # of its weights; empty for presets and folders
    siglip: str = "siglip2_b16"
    siglip_tag: str = ""
    t5: str = "flan_t5_base"
    image_size: list[int] = field(default_factory=lambda: [384, 128])  # H, W; positions are resampled; data has it too
    text_length: int = 0  # most tokens of a text, special ones included; 0: the encoder's own (T5: 512)
    freeze_image: bool = False
    freeze_text: bool = False

    shared: bool = False  # phase 3: image tokens go through the text encoder (T5) too, in a pass of their own
    grid_bias: bool = True  # shared: the T5 has a 2-D position bias for image tokens; off: they are one line of tokens
    image_pooling: str = "mean"  # shared: mean (of the image's tokens) | cls (a learned token); else the tower's vector
    text_pooling: str = "mean"  # of a T5: mean | last; CLIP and SigLIP have their own
    project: str = "separate"  # onto embed_dim: separate | shared (one layer for both) | none (a pair's own space)
    slots: int = 0  # parts that tokens of either side are pooled into, each by its own attention; together they are the
    # embedding, which they divide; 0: one vector, pooled as above
    embed_dim: int = 512  # of the common space; with project=none, the encoders' own

    align: str = "itc_then_sdm"  # itc_then_sdm | itc | sdm | both
    switch_at: float = (
        0.5  # itc_then_sdm: at this fraction of the softmax on positives, as a mean over about 20 batches
    )
    switch_by: int = 0  # itc_then_sdm: at this batch at the latest; 0: only when switch_at is reached
    logit_scale: float = 50.0  # factor on the cosines: 1/0.02, constant
    itc_weight: float = 1.0
    sdm_weight: float = 1.0
    id_weight: float = 0.0  # of the identity classification loss, over num_ids, of images and texts; 0: no such head
    num_ids: int = 11003  # training identities: CUHK-PEDES 11003, ICFG-PEDES 3102 less those held out, RSTPReid 3701
    mlm_weight: float = 0.0  # of masked language modelling given the image; needs data.mask_text; 0: no such head
    mlm_layers: int = 4
    mlm_heads: int = 8
    mask_global_text: bool = False  # the other losses are given the masked text too, as in IRRA's code

    enable_gen: bool = False  # phase 4: predict the VQ ids of hidden cells; needs data.hide and data.vq_ids
    gen_weight: float = 0.3  # of the cross-entropy over ln K, so it starts at 1 whatever K is
    gen_ramp: int = 1000  # batches over which gen_weight rises from 0
    gen_from: str = "start"  # of training; or switched: gen_weight is 0 until switch_at or switch_by is reached
    gen_way: str = "parallel"  # parallel | autoregressive (neighbouring ids predict most, the text adds less)
    gen_target: str = "hidden"  # hidden (cells) | whole (image): visible cells can be copied from the condition
    show_ids: bool = True  # parallel: the decoder is given the ids of visible cells; off: it has the condition only
    gen_layers: int = 2
    num_codes: int = 16384  # K of the tokenizer that wrote data.vq_ids
    vq_grid: list[int] = field(default_factory=lambda: [24, 8])  # its ids of an image, rows and columns
    vq_weights: str = ""  # the tokenizer: writes data.vq_ids if missing, refuses those of another; see also vq_layout
    vq_layout: str = ""  # of a published file, as for sightword tokenize

    def __post_init__(self) -> None:
        one_of("system.image", self.image, ("clip", "siglip"))
        one_of("system.text", self.text, ("clip", "siglip", "t5"))
        one_of("system.image_pooling", self.image_pooling, ("mean", "cls"))
        one_of("system.text_pooling", self.text_pooling, ("mean", "last"))
        one_of("system.project", self.project, ("separate", "shared", "none"))
        one_of("system.align", self.align, ("itc_then_sdm", "itc", "sdm", "both"))
        one_of("system.gen_from", self.gen_from, ("start", "switched"))
        one_of("system.gen_way", self.gen_way, ("parallel", "autoregressive"))
        one_of("system.gen_target", self.gen_target, ("hidden", "whole"))
        for name in ("image_size", "vq_grid"):
            _check_sides(f"system.{name}", getattr(self, name))
        at_least("system", self, 1, "embed_dim", "num_ids", "num_codes", "gen_layers", "mlm_layers", "mlm_heads")
        at_least("system", self, 0, "text_length", "switch_by", "gen_ramp", "slots")
        if not 0 < self.switch_at <= 1:
            raise SightwordError(f"system.switch_at={self.switch_at} is not a fraction in (0, 1]")
        self._check_parts()

    def _check_parts(self) -> None:
        """Raise SightwordError if one part needs another that the config does not have."""
        pair = self.image == self.text
        if not pair and self.text != "t5":
            raise SightwordError(
                f"system.text={self.text} is one half of a pair and system.image={self.image} is one of another. Set "
                f"system.image={self.text} to take both, or system.text=t5"
            )
        if self.project == "none" and not pair:
            raise SightwordError(
                f"system.project=none is for a pair with a space of its own, which {self.image} and {self.text} are "
                "not. Set system.project=separate, or shared"
            )
        if self.shared and self.text != "t5":
            raise SightwordError(f"system.shared needs a T5 for image tokens, got text={self.text}. Set system.text=t5")
        if self.enable_gen and not self.shared:
            raise SightwordError("system.enable_gen needs one encoder for images and texts. Set system.shared=true")
        if self.slots and (self.text != "t5" or self.project == "none" or self.image_pooling != "mean"):
            raise SightwordError(
                "system.slots pools the tokens of an image encoder and a T5 by itself. Set system.text=t5, "
                "system.project=separate or shared, and system.image_pooling=mean, or system.slots=0"
            )
        if self.mask_global_text and not self.mlm_weight:
            raise SightwordError("system.mask_global_text masks texts for the MLM head. Set system.mlm_weight above 0")


@dataclass
class RetrievalData(DataConfig):
    """CUHK-PEDES, ICFG-PEDES or RSTPReid, or any data set in the format of one of them; or one's own captions."""

    paths = ("root", "images", "vq_ids")
    dataset: str = "cuhk_pedes"  # cuhk_pedes | icfg_pedes | rstpreid | captions: one's own, as CSV, JSON or tar shards
    root: str = ""  # the folder with imgs/ and the JSON file, or the folder above it; captions: a file or folder
    images: str = ""  # captions: the folder that paths of images are below; empty: it is looked for
    hold_out: int = 100  # training identities for validation if the data set has no such split; captions: 20 % at most
    image_size: list[int] = field(default_factory=lambda: [384, 128])  # height, width
    text_length: int = 0  # tokens of a caption, more are cut off; 0: as many as the text encoder takes

    batch_size: int = 64  # pairs on each device
    num_workers: int = 4
    sampler: str = (
        "random"  # random | identity: P identities with `instances` captions each, no identity twice | alike:
    )
    # a part of the batch are people with similar captions, four by four, with `instances` each: hard negatives
    instances: int = 4  # K of P×K
    alike: float = 0.5  # sampler=alike: that part; the others are random
    alike_after: int = 0  # sampler=alike: epochs of random batches before

    flip: str = "none"  # none | swap: mirrored half of the time, with "left" and "right" exchanged in the caption
    pad: int = 10  # pixels of black around the image, from which a crop of its size is taken; 0: no crop
    erase: float = 0.5  # probability that a rectangle of an image is erased; never in the generation view

    keep_images: bool = False  # resized training images stay in memory (9 kB for 96×32 pixels): files are read once
    paraphrase: float = 0.0  # probability that a training caption is replaced by another text on its image, out of
    # paraphrases.json beside the annotations; published data sets have no such file
    mask_text: float = 0.0  # fraction of a caption's tokens that are masked, for masked language modelling; IRRA: 0.15
    hide: float = 0.0  # fraction of the image's cells that are hidden, for generation; 0: no generation
    hide_way: str = "random"  # random (data.hide of the cells) | band (a third of the rows) | person (the middle) | all
    # (but one cell) | mix (random, band or all, drawn for each image): the fewer neighbours, the more the text adds
    hide_rows: int = 0  # most images of a batch with hidden cells, which makes training faster; 0: all that are not
    # mirrored, as the ids are of images that are not
    vq_ids: str = ""  # cache by `sightword tokenize` of the whole folder imgs/, resized to image_size, for generation

    def __post_init__(self) -> None:
        one_of("data.dataset", self.dataset, DATASETS)
        one_of("data.sampler", self.sampler, ("random", "identity", "alike"))
        one_of("data.flip", self.flip, ("none", "swap"))
        one_of("data.hide_way", self.hide_way, (*HIDE_WAYS, "mix"))
        _check_sides("data.image_size", self.image_size)
        at_least("data", self, 2, "instances")
        at_least("data", self, 1, "hold_out", "batch_size")
        at_least("data", self, 0, "text_length", "pad", "num_workers", "hide_rows", "alike_after")
        for name in ("mask_text", "hide"):
            if not 0 <= getattr(self, name) < 1:
                raise SightwordError(f"data.{name}={getattr(self, name)} is not a fraction in [0, 1)")
        for name in ("erase", "paraphrase", "alike"):
            if not 0 <= getattr(self, name) <= 1:
                raise SightwordError(f"data.{name}={getattr(self, name)} is not a probability in [0, 1]")
        if self.sampler == "identity" and self.batch_size % self.instances:
            raise SightwordError(
                f"data.batch_size={self.batch_size} is not a multiple of data.instances={self.instances}, which "
                "data.sampler=identity needs. Change one of the two"
            )
        if self.vq_ids and not self.hide:
            raise SightwordError(f"data.vq_ids={self.vq_ids} is only read with hidden cells. Set data.hide, as 0.5")


def _check_sides(name: str, sides: list[int]) -> None:
    if len(sides) != 2 or min(sides) < 1:
        raise SightwordError(f"{name}={list(sides)} is not a height and a width. Pass two, as [384,128]")
