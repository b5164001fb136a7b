"""The configuration of the system `skeleton`: how files are read, what is drawn, the networks, the objective."""

from dataclasses import dataclass, field

from sightword.engine.config import DataConfig, SystemConfig, at_least, one_of
from sightword.errors import SightwordError
from sightword.storage.parser import Count

PROJECTIONS = ("front", "side", "top")


@dataclass
class SkeletonConfig(SystemConfig):
    """The heatmaps, the video encoder, the text encoder and how the two are compared and trained."""

    joints: str = "coco17"  # a joint set by name, or a JSON file with joints, pairs and limbs
    heatmap: str = "joint"  # joint | limb: a heatmap for each joint, or for each limb
    base: int = 32  # channels of the stem of ResNet3dSlowOnly
    depths: list[int] = field(default_factory=lambda: [4, 6, 3])  # bottlenecks of its stages; K400's nets: 3, 4, 6
    stem: int = 7  # pixels a side of its first convolution, odd; smaller for small canvases with many channels
    stem_stride: int = 1  # of the same; 2 halves the canvas at once, and so the cost
    motion: list[int] = field(default_factory=list)  # channels for how the response to joints changes: [1]: from the
    # frame before to the frame after; [1,3]: also over six frames
    early: bool = False  # the first stage looks at neighbouring frames, too: motion at full resolution
    projections: list[str] = field(default_factory=lambda: ["front"])  # of 3-D recordings: front, side, top; the
    # heatmaps of each are channels of their own. Of 2-D recordings side and top stay empty
    grid: int = (
        1  # a moment's vector is the means of grid × grid cells of the canvas; 1: the mean over all, as published
    )
    segments: int = 1  # the moments of a view are pooled in so many stretches of time, which keeps their order; 1: the
    # mean over all, as published

    labels: str = ""  # the classes and their prompts: JSON {class: [prompts]}, CSV id,name, or .txt with a name a line
    unseen: list[str] = field(default_factory=list)  # names of classes that are not trained: data.unseen decides
    unseen_val: list[str] = field(default_factory=list)  # as above: data.unseen_val decides
    recognise_by: str = "text"  # text | classifier (cross-entropy, no text encoder)
    dropout: float = 0.5  # before the classifier
    smoothing: float = 0.0  # of the targets of a cross-entropy over classes
    mixup: float = 0.0  # α of Beta(α, α), by which two views of a batch and their targets are mixed; 0: never

    text: str = "bert_base"  # the text encoder, as `text_tower` takes it
    text_length: int = 0  # most tokens of a prompt, special ones included; 0: the encoder's own
    text_pooling: str = ""  # cls (the first token) | mean (of all: tells texts apart before any training); "": its own
    freeze_text: bool = False  # the encoder stays as loaded, and encodes prompts once; its projection is trained
    frame_linear: bool = False  # Visece_Video's layer from the video's width to the encoder's; off: Visece_Video_PACL
    projector: str = "linear"  # from video to the common space: linear | residual (two layers beside one)
    activation: str = "relu"  # of the residual projector: relu | gelu
    pool: str = "after"  # frames=mean: the projector comes before or after the mean over time; linear: all the same
    embed_dim: int = 256  # of the common space

    contrast: str = "classes"  # classes (cross-entropy over all) | batch (both ways; equal labels share the target)
    frames: str = "mean"  # a view's vector: mean over time | pacl (each text weighs the frames)
    pacl_target: str = "raw"  # what is weighed: norm (frames at length one) | raw (as the projector gives them)
    pacl_weight: str = "softmax"  # of the cosines of frames and text: softmax | sigmoid
    pacl_gain: float = 1.0  # on the cosines before it; 1 is nearly the mean, pacldebug1's sigmoid has 10
    pacl_learn_gain: bool = False  # the gain is trained, from pacl_gain on
    pacl_final_norm: bool = True  # the weighed sum is brought to length one
    temperature: float = 0.07  # τ at the start; it is learned, within [0.001, 0.5]

    match_weight: float = 0.0  # of itm_loss: do this view and this text belong together? 0: no such head
    negatives: str = "sample"  # itm_loss: sample (in proportion to their probability) | hardest
    fusion_layers: int = 2  # itm_loss: blocks in which tokens attend to each other and to the frames
    fusion_heads: int = 8

    momentum: float = 0.0  # decay of a momentum encoder whose vectors are kept in a queue, ALBEF has 0.995; 0: none
    queue: int = 65536  # vectors that are kept
    queue_texts: bool = False  # keep texts too, as published; off, a view is compared with every class's prompts
    soft: float = 0.4  # α, the fraction of the momentum encoder's scores in the targets
    soft_ramp: int = 2500  # batches over which α rises from 0: ALBEF's first epoch

    test_scores: str = "calibrated"  # softmax of cosines over τ | seed: of the cosines themselves, nearly uniform

    def __post_init__(self) -> None:
        for name, allowed in (
            ("heatmap", ("joint", "limb")),
            ("recognise_by", ("text", "classifier")),
            ("text_pooling", ("", "cls", "mean", "last")),
            ("projector", ("linear", "residual")),
            ("activation", ("relu", "gelu")),
            ("pool", ("before", "after")),
            ("contrast", ("classes", "batch")),
            ("frames", ("mean", "pacl")),
            ("pacl_target", ("norm", "raw")),
            ("pacl_weight", ("softmax", "sigmoid")),
            ("negatives", ("sample", "hardest")),
            ("test_scores", ("calibrated", "seed")),
        ):
            one_of(f"system.{name}", getattr(self, name), allowed)
        at_least("system", self, 1, "base", "embed_dim", "fusion_layers", "fusion_heads", "queue")
        at_least("system", self, 1, "segments", "stem", "stem_stride", "grid")
        at_least("system", self, 0, "match_weight", "text_length", "soft_ramp", "mixup")
        for plane in self.projections:
            one_of("system.projections", plane, PROJECTIONS)
        if not self.projections or len(set(self.projections)) < len(self.projections):
            raise SightwordError(f"system.projections={self.projections} is empty or names one twice. Pass [front]")
        if self.motion and min(self.motion) < 1:
            raise SightwordError(f"system.motion={self.motion} are not numbers of frames. Pass [1], or [1,3]")
        if self.stem % 2 == 0:
            raise SightwordError(f"system.stem={self.stem} is even. Pass an odd number of pixels, as 7")
        if not self.depths or min(self.depths) < 1:
            raise SightwordError(
                f"system.depths={self.depths} is not a list of bottlenecks per stage. Pass one, as [4,6,3]"
            )
        for name in ("dropout", "momentum", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise SightwordError(f"system.{name}={getattr(self, name)} is not in [0, 1)")
        if not 0 <= self.soft <= 1:
            raise SightwordError(f"system.soft={self.soft} is not a fraction in [0, 1]")
        if not 0.001 <= self.temperature <= 0.5:
            raise SightwordError(f"system.temperature={self.temperature} is not within [0.001, 0.5]")
        if self.pacl_gain <= 0:
            raise SightwordError(f"system.pacl_gain={self.pacl_gain} is not above 0")
        self._check_parts()

    def _check_parts(self) -> None:
        """Raise SightwordError for values that exclude each other."""
        if self.recognise_by == "classifier":
            if self.match_weight or self.momentum or self.frames != "mean":
                raise SightwordError(
                    "system.recognise_by=classifier has no text encoder, which match_weight, momentum and frames=pacl "
                    "need. Remove them, or set system.recognise_by=text"
                )
            return
        if self.contrast == "batch" and (self.smoothing or self.mixup):
            raise SightwordError(
                "system.smoothing and system.mixup are of a cross-entropy over classes. Set system.contrast=classes"
            )
        if self.contrast == "classes" and (self.match_weight or self.momentum):
            raise SightwordError(
                "system.match_weight and system.momentum take their negatives from the batch and from earlier ones. "
                "Set system.contrast=batch"
            )
        if self.momentum and self.frames == "pacl":
            raise SightwordError(
                "system.momentum keeps one vector for a view, and frames=pacl has another for each text. Set "
                "system.frames=mean"
            )


@dataclass
class Reading:
    """How the key points of a file are to be read. Empty values are pyskl's conventions; `check` names those that fit.

    As fields of `data`, and as keys of the commands that read annotations.
    """

    joints: str = ""  # the file's joint set, a name or a JSON file; empty: as the file states, or as the model's
    axes: str = ""  # of keypoint: M persons, T frames, V joints, C coordinates; empty: MTVC; others as TMVC, CTVM, TVC
    coordinates: str = ""  # pixels | normalised ([0, 1]) | centred ([-1, 1]) | 3d; empty: pixels; without img_shape 3d
    up: str = ""  # y | -y | z | -z | x | -x: points up; empty: -y in images, y in 3-D; x in images: x and y exchanged
    mirrored: bool = False  # x points the wrong way: who faces the camera has the left hand on the left
    score_range: float = 0.0  # scores are from 0 to this, and are divided by it; 100: percent; 0: as they are
    missing: float | None = None  # joints with x and y of exactly this value, as -1, are missing

    def __post_init__(self) -> None:
        one_of("coordinates", self.coordinates, ("", "pixels", "normalised", "centred", "3d"))
        one_of("up", self.up, ("", "y", "-y", "z", "-z", "x", "-x"))
        if self.axes and sorted(self.axes) not in (sorted("MTVC"), sorted("TVC")):
            raise SightwordError(f"axes={self.axes!r} is not an order of axes. Pass the letters M, T, V and C, as TMVC")
        if not self.score_range >= 0:
            raise SightwordError(f"score_range={self.score_range} is not a score. Pass the highest, as 100")


@dataclass
class SkeletonData(Reading, DataConfig):
    """Skeletons in pyskl's format: a pickle, or the .npz that `convert` writes; and how views are sampled."""

    paths = ("annotations",)
    annotations: str = ""  # the .pkl or .npz
    train: str = "xsub_train"  # a split of the file; empty: every recording of it
    val: str = ""  # a split; empty: hold_out of the training recordings, the same ones whatever the seed
    hold_out: float = 0.05  # fraction of them, of every class alike; the same people are in both, so it is optimistic
    person: str = ""  # hold out people: the pattern of a person in recordings' names, P\d+ for NTU, s\d+ for MSR
    fold: int = 0  # of people: which of them are held out; fold 1 are the next ones, and so on
    test: str = "xsub_val"  # a split; empty: every recording of the file
    unseen: list[str] = field(default_factory=list)  # classes that are not trained: names, numbers, ntu60-5, ru5.npy …
    unseen_val: list[str] = field(
        default_factory=list
    )  # others that are not trained: sightword zeroshot chooses γ on them

    frames: int = 48  # L of a view: one of each of L equal stretches of a recording; a short one is looped
    size: list[int] = field(default_factory=lambda: [56, 56])  # H, W of the canvas of training
    test_size: list[int] = field(default_factory=lambda: [64, 64])  # of validation and test: the whole, not a crop
    views: int = 1  # draws of frames that validation averages over; pyskl has 10
    test_views: int = 10  # the same for test
    test_flip: bool = True  # test has each view mirrored, too

    persons: int = 2  # M, most of a recording; of more, those with the highest scores are kept
    compact: bool = True  # cut off what is around the body, one box for a recording
    padding: float = 0.25  # compact: the body's box is enlarged by this fraction, then made square
    threshold: float = 10.0  # compact: pixels; a box with a smaller side stays as it is
    short_side: int = 64  # pixels before a crop, of the shorter side
    crop_area: list[float] = field(default_factory=lambda: [0.56, 1.0])  # of a training crop, fraction of the whole
    crop_aspect: list[float] = field(default_factory=lambda: [0.75, 4 / 3])  # its width to its height
    flip: float = 0.5  # how often a training view is mirrored
    turn: float = 0.0  # training, 3-D: bodies are turned about the vertical axis by up to so many degrees
    tilt: float = 0.0  # training, 3-D: and leaned to each side and forwards by up to so many degrees
    jitter: float = 0.0  # training: standard deviation of each joint's own shift, as a fraction of the canvas's side
    span: float = 1.0  # training: the least fraction of a recording that a view covers
    flat: float = 0.0  # training, several projections: how often all but the first stay empty, as for 2-D recordings
    test_turn: float = 0.0  # test, 3-D: views are turned by -test_turn to test_turn degrees, evenly
    fade: float = 0.0  # training: scores are lowered at random, by up to this fraction: for 3-D files, where all are 1
    pyskl_parity: bool = False  # for published checkpoints: a coordinate of 0 is missing, mirrors are 1 px off

    batch_size: int = 16  # recordings on each device
    num_workers: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("size", "test_size"):
            if len(sides := getattr(self, name)) != 2 or min(sides) < 1:
                raise SightwordError(f"data.{name}={list(sides)} is not a height and width. Pass two, as [56,56]")
        at_least("data", self, 1, "frames", "views", "test_views", "persons", "short_side", "batch_size")
        at_least("data", self, 0, "padding", "num_workers")
        at_least("data", self, 2, "threshold")
        at_least("data", self, 0, "turn", "tilt", "jitter", "test_turn", "fold")
        if not 0 < self.span <= 1:
            raise SightwordError(f"data.span={self.span} is not a fraction in (0, 1]")
        if not 0 <= self.fade < 1:
            raise SightwordError(f"data.fade={self.fade} is not a fraction in [0, 1)")
        for name in ("flip", "flat"):
            if not 0 <= getattr(self, name) <= 1:
                raise SightwordError(f"data.{name}={getattr(self, name)} is not a probability in [0, 1]")
        if not self.val and not 0 < self.hold_out < 1:
            raise SightwordError(
                f"data.hold_out={self.hold_out} is not a fraction in (0, 1). Change it, or name data.val"
            )
        if self.val and self.val == self.train:
            raise SightwordError(f"data.train and data.val are both {self.val!r}. Validate on another split")
        _check_range("data.crop_area", self.crop_area, most=1.0)
        _check_range("data.crop_aspect", self.crop_aspect)


def _check_range(name: str, ends: list[float], most: float = float("inf")) -> None:
    if len(ends) != 2 or not 0 < ends[0] <= ends[1] <= most:
        bound = f" ≤ {most:g}" if most < float("inf") else ""
        raise SightwordError(f"{name}={list(ends)} are not two numbers, 0 < least ≤ most{bound}")


POSE = "node_modules/@mediapipe/pose"  # where npm puts BlazePose's networks


@dataclass(frozen=True)
class VideoOptions:
    """How videos become skeletons. See `video.extraction`."""

    pose: str = POSE  # what finds people: a folder of BlazePose's .tflite or RTMPose's .onnx, one such file, or rtmpose
    people: Count = 2  # persons that are kept of each video, by motion × mean score
    fps: float = 0.0  # frames in a second of the skeletons; 0: the video's average, at most 30
    smooth: bool = True  # the one-euro filter on every key point
    mirrored: bool = False  # videos are mirrored, as selfies and Kinect's colour: frames are turned over first
    vis: bool = False  # draw eight moments and a video with the skeletons

    def __post_init__(self) -> None:
        if not (self.fps == 0 or 1 <= self.fps <= 240):
            raise SightwordError(f"fps={self.fps:g} is not between 1 and 240. Pass 0 for the video's own rate")
