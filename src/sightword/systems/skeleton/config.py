"""Everything the naming of actions can be told. Names and numbers are document 002's where it has them."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class SkeletonConfig:
    """What is drawn of the joints, the network that sees it, the words it is compared with, and the objective."""

    joints: str = "coco17"  # a joint set by name, or a JSON file with joints, pairs and limbs
    heatmap: str = "joint"  # joint | limb: a heatmap for each joint, or for each limb
    base: int = 32  # channels of the stem of ResNet3dSlowOnly
    depths: list[int] = field(default_factory=lambda: [4, 6, 3])  # bottlenecks of its stages; K400's nets: 3, 4, 6
    video_weights: str = ""  # a published PoseC3D checkpoint to begin with; empty: new weights

    labels: str = ""  # the classes and their words: JSON {class: [prompts]}, CSV id,name, or .txt with a name a line
    recognise_by: str = "text"  # text | classifier (cross-entropy, the words unread)
    dropout: float = 0.5  # before the classifier

    text: str = "bert_base"  # the tower that reads the words, as `text_tower` takes it
    text_length: int = 0  # most tokens of a prompt, special ones included; 0: the tower's own
    text_pooling: str = ""  # cls (the first token) | mean (of all: tells words apart before any training); "": its own
    freeze_text: bool = False  # the tower stays as it was loaded, and reads the words once; its projection is trained
    frame_linear: bool = False  # Visece_Video's layer from the video's width to the tower's; off: Visece_Video_PACL
    projector: str = "linear"  # from video to the common space: linear | residual (two layers beside one)
    activation: str = "relu"  # of the residual projector: relu | gelu
    pool: str = "after"  # frames=mean: the projector stands before or after the mean over time; linear: all the same
    embed_dim: int = 256  # of the common space

    contrast: str = "classes"  # classes (cross-entropy over all) | batch (who is whose, both ways, labels alike share)
    frames: str = "mean"  # a clip's vector: mean over time | pacl (each text weighs the frames)
    pacl_target: str = "raw"  # what is weighed: norm (frames at length one) | raw (as the projector gives them)
    pacl_weight: str = "softmax"  # of the cosines of frames and text: softmax | sigmoid
    pacl_gain: float = 1.0  # on the cosines before it; 1 is nearly the mean, the document's sigmoid has 10
    pacl_final_norm: bool = True  # the weighed sum is brought to length one
    temperature: float = 0.07  # τ at the start; it is learned, within [0.001, 0.5]

    match_weight: float = 0.0  # of itm_loss: do this clip and this text belong together? 0: no such head
    negatives: str = "sample"  # itm_loss: sample (by what looks right) | hardest
    fusion_layers: int = 2  # itm_loss: blocks in which the words look at each other and at the frames
    fusion_heads: int = 8

    momentum: float = 0.0  # decay of a slow copy whose vectors are kept in queues, 0.995 is ALBEF's; 0: none
    queue: int = 65536  # vectors that are kept
    queue_texts: bool = False  # keep texts too, as published; off, a clip is compared with every class's words
    soft: float = 0.4  # α, the share of the slow copy's opinion in the targets
    soft_ramp: int = 2500  # batches over which α rises from 0: ALBEF's first epoch

    test_scores: str = "calibrated"  # softmax of cosines over τ | seed: of the cosines themselves, nearly uniform

    def __post_init__(self) -> None:
        _one_of("system.heatmap", self.heatmap, ("joint", "limb"))
        _one_of("system.recognise_by", self.recognise_by, ("text", "classifier"))
        _one_of("system.text_pooling", self.text_pooling, ("", "cls", "mean", "last"))
        _one_of("system.projector", self.projector, ("linear", "residual"))
        _one_of("system.activation", self.activation, ("relu", "gelu"))
        _one_of("system.pool", self.pool, ("before", "after"))
        _one_of("system.contrast", self.contrast, ("classes", "batch"))
        _one_of("system.frames", self.frames, ("mean", "pacl"))
        _one_of("system.pacl_target", self.pacl_target, ("norm", "raw"))
        _one_of("system.pacl_weight", self.pacl_weight, ("softmax", "sigmoid"))
        _one_of("system.negatives", self.negatives, ("sample", "hardest"))
        _one_of("system.test_scores", self.test_scores, ("calibrated", "seed"))
        for name in ("base", "embed_dim", "fusion_layers", "fusion_heads", "queue"):
            if getattr(self, name) < 1:
                raise ValueError(f"system.{name} is at least 1; got {getattr(self, name)}")
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"system.depths has a number of bottlenecks for each stage, as [4,6,3]; got {self.depths}")
        for name in ("dropout", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"system.{name} is at least 0 and less than 1; got {getattr(self, name)}")
        if not 0 <= self.soft <= 1:
            raise ValueError(f"system.soft is a share, 0 to 1; got {self.soft}")
        if not 0.001 <= self.temperature <= 0.5:
            raise ValueError(f"system.temperature is within [0.001, 0.5]; got {self.temperature}")
        if self.pacl_gain <= 0 or self.match_weight < 0:
            raise ValueError(
                f"system.pacl_gain is above 0 and match_weight 0 at least; got {self.pacl_gain}, {self.match_weight}"
            )
        self._check_parts()

    def _check_parts(self) -> None:
        """What the parts owe each other."""
        if self.recognise_by == "classifier":
            if self.match_weight or self.momentum or self.frames != "mean":
                raise ValueError(
                    "system.recognise_by=classifier reads no words: match_weight, momentum and frames=pacl are for text"
                )
            return
        if self.contrast == "classes" and (self.match_weight or self.momentum):
            raise ValueError(
                "system.match_weight and system.momentum take their negatives from the batch and from before it: say "
                "system.contrast=batch"
            )
        if self.momentum and self.frames == "pacl":
            raise ValueError(
                "system.momentum keeps one vector a clip, and frames=pacl has another for each text: say frames=mean"
            )


@dataclass
class SkeletonData:
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
