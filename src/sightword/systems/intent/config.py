"""Configuration of the system `intent`: every key under `system.` and `data.`, with its default."""

from dataclasses import dataclass, field

from sightword.engine.config import DataConfig, SystemConfig, at_least, one_of
from sightword.errors import SightwordError

STREAMS = ("coco", "places", "emotion", "ava", "actions")  # of the built-in vocabularies; a file may have others
TOKEN_TYPES = {"coco": "value", "places": "joint", "emotion": "value", "ava": "joint", "actions": "value"}


@dataclass
class IntentConfig(SystemConfig):
    """The image encoder, the codebooks, the fusion, the head and the objective."""

    paths = ("semantic_anchors_path", "vocabulary", "calibration", "calibration_labels")
    model: str = "multistream"  # multistream | baseline: an MLP on CLIP's pooled vector and mean patch, no codebooks
    tower: str = "vit_h14"  # the frozen CLIP, as `sightword cache` takes it; it must be the one that made the anchors
    tag: str = ""  # of an open_clip model's weights
    semantic_anchors_path: str = ""  # the codebooks; `sightword prepare` writes them if there are none
    vocabulary: str = ""  # the words to write them of: JSON files or a folder of such; empty: the built-in vocabularies
    streams: list[str] = field(default_factory=list)  # of the anchors file; empty: all that it has
    token_types: dict[str, str] = field(
        default_factory=lambda: dict(TOKEN_TYPES)
    )  # stream → type of its patch tokens: joint, value, qq or kk; other streams: joint

    read: str = "area"  # area: how much of the image has each code, as published | presence: how surely it shows each
    # word, whatever its size | presence01: the same as 0 or 1. Presence reads calibrated words, without copies
    nothing: str = "none"  # none: each patch has a word | gate: a patch without a word that is present is named nothing
    # (z, if the calibration has no labels) | z: by its words' z alone
    calibration: str = ""  # what `sightword calibrate` writes; empty: calibration.safetensors beside the anchors
    calibration_labels: str = ""  # words of 25 to 50 images, which `sightword prepare` calibrates presence with
    sharpness: float = 1.0  # of read=presence: a word counts p^sharpness; above 1, doubtful words count less
    temperature: float = 0.25  # of read=presence: of the softmax that says where a word is, in units of z
    pairs: int = 0  # of read=presence: so many pairs of words of different streams are terms, too: "dog and beach"
    pair_words: list[str] = field(default_factory=list)  # "coco:dog & places:beach"; empty: of a new run the best
    # on the training images
    l1: float = 0.0  # of read=presence: weight of the sum of all absolute weights; fewer words speak for an intent

    fusion: str = "sum"  # sum | weighted (one scalar per stream) | gated (weights computed for each image)
    center: bool = True  # subtract the mean of each codebook from its codes: it is the same for all images
    standardise: bool = True  # features to mean 0 and variance 1 (batch norm without weights)
    adapter: bool = False  # a linear layer before each codebook, initially the identity; logits are then less exact
    embed_dim: int = 0  # of the encoder's joint space, for the baseline; 0 reads it from the encoder's config
    hidden: int = 512  # width of the baseline's MLP
    classes: list[str] = field(default_factory=list)  # names of the outputs, in their order; empty: of a new run those
    # of the train annotations, otherwise Intentonomy's 28

    freeze_codebook: bool = True  # stage 1; stage 2 trains the codes, at optim.lr_scale.vq_<stream> of the rate

    gamma_neg: float = 2.0  # asymmetric loss: focusing exponent of absent classes
    gamma_pos: float = 0.0  # and of present ones
    margin: float = 0.05  # and how much the probability of absent classes is shifted down, in [0, 1)
    commitment_weight: float = 0.25  # of 2 − 2cos between tokens and codes; trains adapters and unfrozen codes only
    semantic_consistency_weight: float = 1.0  # of the squared drift of codes from their anchors, added over streams
    semantic_consistency_reduction: str = "mean"  # over the codes of a stream: mean | sum (as specified: K times mean)

    def __post_init__(self) -> None:
        one_of("system.model", self.model, ("multistream", "baseline"))
        one_of("system.semantic_consistency_reduction", self.semantic_consistency_reduction, ("mean", "sum"))
        one_of("system.fusion", self.fusion, ("sum", "weighted", "gated"))
        one_of("system.read", self.read, ("area", "presence", "presence01"))
        one_of("system.nothing", self.nothing, ("none", "z", "gate"))
        at_least("system", self, 0, "pairs", "l1")
        for name in ("sharpness", "temperature"):
            if not getattr(self, name) > 0:
                raise SightwordError(f"system.{name}={getattr(self, name)} is not above 0")
        self._check_calibrated()
        at_least("system", self, 0, "gamma_neg", "gamma_pos", "embed_dim")
        at_least("system", self, 1, "hidden")
        if not 0 <= self.margin < 1:
            raise SightwordError(f"system.margin={self.margin} is not in [0, 1)")
        if len(set(self.streams)) < len(self.streams):
            raise SightwordError(f"system.streams={self.streams} names a stream twice")
        if len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise SightwordError(f"system.classes names {twice!r} twice. Give each class a name of its own")
        if self.model == "multistream" and not self.semantic_anchors_path:
            raise SightwordError(
                "system.semantic_anchors_path is not set. Pass the folder that sightword anchors wrote, or a new one: "
                "it is written before training"
            )

    @property
    def calibrated(self) -> bool:
        """Whether the model reads calibrated words."""
        return self.model == "multistream" and (self.read != "area" or self.nothing != "none")

    @property
    def reads_ids(self) -> bool:
        """Whether ids of codes will do instead of tokens."""
        frozen = self.freeze_codebook and not self.adapter
        return self.model == "multistream" and frozen and not self.calibrated

    @property
    def reads_presence(self) -> bool:
        """Whether the model reads which words are present, not their areas."""
        return self.model == "multistream" and self.read != "area"

    def _check_calibrated(self) -> None:
        """Raise SightwordError for options that do not go together."""
        if self.calibrated and (self.adapter or not self.freeze_codebook):
            what = "adapter" if self.adapter else "freeze_codebook=false"
            raise SightwordError(
                f"system.{what} moves tokens or codes, and a calibration holds for frozen ones. Set system.read=area "
                "and system.nothing=none, or leave the codes frozen"
            )
        if not self.reads_presence and (self.pairs or self.pair_words or self.l1):
            raise SightwordError(
                "system.pairs and system.l1 are of system.read=presence or presence01. Set one of them"
            )


@dataclass
class IntentData(DataConfig):
    """Intentonomy, or another data set in its format; or one's own labels."""

    paths = ("root", "images", "cache", "ids")
    root: str = ""  # the folder with intentonomy_{train,val,test}2020.json; own CSV or JSON; folders of classes
    images: str = ""  # the folder with low/<id>.jpg; empty: root; one's own are looked for
    cache: str = ""  # patch tokens, computed once before training; empty: the encoder runs in every batch
    ids: str = ""  # ids of codes, computed once; read instead of tokens where codebooks are frozen, without adapters
    image_size: int = 0  # pixels a side, without cache and ids; 0: the encoder's own, which is that of caches
    labels: str = "any"  # any (of the annotators) | soft (the fraction of annotators) | majority (two of three)
    batch_size: int = 256
    num_workers: int = 4

    def __post_init__(self) -> None:
        one_of("data.labels", self.labels, ("any", "soft", "majority"))
        at_least("data", self, 1, "batch_size")
        at_least("data", self, 0, "num_workers", "image_size")
