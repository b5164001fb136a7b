"""Everything the reading of intents can be told. Names and defaults are document 000's where it has them."""

from dataclasses import dataclass, field

STREAMS = ("coco", "places", "emotion", "ava", "actions")  # the document's; an anchors file may have others
TOKEN_TYPES = {"coco": "value", "places": "joint", "emotion": "value", "ava": "joint", "actions": "value"}


@dataclass
class IntentConfig:
    """The tower, the codebooks of words, the fusion, the head and the objective."""

    model: str = "multistream"  # multistream | baseline: frozen CLIP, class token and mean patch, an MLP of two layers
    tower: str = "vit_h14"  # as `image_tower` takes it; the anchors must be its own
    tag: str = ""
    semantic_anchors_path: str = ""  # what `sightword anchors` wrote
    streams: list[str] = field(default_factory=list)  # of the anchors file; empty: all it has
    tokens: dict[str, str] = field(
        default_factory=lambda: dict(TOKEN_TYPES)
    )  # stream → form of patch tokens; others: joint

    fusion: str = "sum"  # sum | weighted (a scalar a stream) | gated (weights for each image)
    center: bool = True  # take the mean of each codebook off its codes: what all words share tells images nothing
    standardise: bool = True  # features to mean 0 and variance 1 (batch norm without weights, as linear probes have it)
    adapter: bool = False  # a linear layer, first the identity, before each codebook; it ends exact words at places
    embed_dim: int = 0  # of the tower's joint space, for the baseline; 0 reads it off the tower's config
    hidden: int = 512  # of the baseline's MLP

    freeze_codebook: bool = True  # stage 1; stage 2 lets the codes move, at optim.lr_scale.vq_<stream> of the rate

    gamma_neg: float = 2.0  # of the asymmetric loss
    gamma_pos: float = 0.0
    clip: float = 0.05
    commitment_weight: float = 0.25  # 2 − 2cos of tokens and codes; trains adapters and moving codes only
    semantic_consistency_weight: float = 1.0  # squared drift of a code from its anchor, mean over codes

    def __post_init__(self) -> None:
        for name, allowed in (("model", ("multistream", "baseline")), ("fusion", ("sum", "weighted", "gated"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"system.{name} is one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        if min(self.gamma_neg, self.gamma_pos) < 0 or not 0 <= self.clip < 1:
            asl = f"{self.gamma_neg}, {self.gamma_pos} and {self.clip}"
            raise ValueError(f"system.gamma_neg and gamma_pos are 0 at least, clip from 0 to below 1; got {asl}")
        if len(set(self.streams)) < len(self.streams):
            raise ValueError(f"system.streams names a stream twice: {', '.join(self.streams)}")
        if self.model == "multistream" and not self.semantic_anchors_path:
            raise ValueError("system.semantic_anchors_path is not set: sightword anchors tower=… out=… writes the file")


@dataclass
class IntentData:
    """Intentonomy, or any set in its form."""

    root: str = ""  # the folder with intentonomy_{train,val,test}2020.json
    images: str = ""  # the folder with low/<id>.jpg; empty: root
    cache: str = ""  # tokens by `sightword cache`, found by each image's path or bytes; empty: the tower runs each time
    codes: str = ""  # words by `sightword codes`, where codebooks are frozen: no token is read; wins over cache
    image_size: int = 224  # the tower's own; matters where it runs each time, without cache or codes
    labels: str = "any"  # any (a share above 0 is a label) | soft (the shares themselves) | majority (two of three)
    batch_size: int = 256
    num_workers: int = 4

    def __post_init__(self) -> None:
        if self.labels not in ("any", "soft", "majority"):
            raise ValueError(f"data.labels is any, soft or majority; got {self.labels!r}")
        for name in ("image_size", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} is at least 1; got {getattr(self, name)}")
