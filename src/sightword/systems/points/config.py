"""The configuration of the point encoder, and of the scenes it is trained on."""

from dataclasses import dataclass, field

from sightword.data.dtype import dtype_name
from sightword.engine.config import DataConfig, SystemConfig, at_least, one_of
from sightword.errors import SightwordError
from sightword.systems.points.scannet.convention import Convention


@dataclass
class PointsConfig(SystemConfig):
    """The frozen CLIP, the two branches, how they are fused, and the objective."""

    clip: str = "ViT-B-16"  # as `image_tower` takes it; always frozen, and no part of a checkpoint
    clip_tag: str = "laion2b_s34b_b88k"  # of its weights; empty for presets and folders
    token_type: str = "qq"  # which patch tokens: qq | value | kk | joint, as towers/clip/dense.py has them
    clip_size: list[int] = field(default_factory=lambda: [224, 304])  # H, W that frames are resized to; 4:3 is not cut
    clip_dtype: str = "bf16"  # in which it computes: fp32 | bf16 | fp16, which is 10 times slower than bf16 on CPUs

    labels: str = "scannet20"  # the classes: scannet20, a JSON file {class: id in the clouds}, or the file
    # scannetv2-labels.combined.tsv or a folder with it, whose ids are those of scannet200-mv
    templates: list[str] = field(default_factory=lambda: ["a photo of a {}"])  # text queries; {} is the class

    dim: int = 128  # dimension of both branches and of the fused feature
    layers: int = 2  # TinySAModules of the 3-D branch; 0: no such branch, 2-D alone
    heads: int = 4  # of attention in both branches
    radius: float = 0.1  # metres around a point in which it has neighbours
    k: int = 16  # neighbours of a point at most, the nearest
    bands: int = 6  # of the Fourier features of a position, `build_geo_pe`
    neck: int = 0  # TinySA2D blocks on the reduced maps
    upsample: int = 1  # cells of a reduced map for each of CLIP's, a side: 1 | 2 | 4, learned; sharpens little
    chain: bool = False  # reduce by the published chain: PixelShuffle, Conv1x1 to 256, sample, Linear to dim
    spread: list[float] = field(default_factory=list)  # metres, and distance of colours in [-1, 1], within which lifted
    # CLIP is averaged over like points; the network then corrects this mean. Empty: as the document has it
    clip_global: bool = True  # also give the mean vector of a scene's images
    use_amp: bool = True  # the 2-D branch in bfloat16; on GPUs without it set trainer.precision=16-mixed

    abs_tol: float = 0.02  # metres: a point is visible where it is no further from the measured depth than this …
    rel_tol: float = 0.02  # … plus this fraction of the depth

    distil_weight: float = 1.0  # of the distillation loss, 1 − cos(fused, lifted CLIP), over visible points
    consistency_weight: float = 0.1  # of 1 − the mean cosine between views of one point, on the reduced maps
    label_weight: float = 0.0  # of the cross-entropy with the clouds' labels: supervised, no longer open vocabulary
    logit_scale: float = 40.0  # factor on the cosines in that cross-entropy

    def __post_init__(self) -> None:
        one_of("system.upsample", self.upsample, (1, 2, 4))
        dtype_name(self.clip_dtype, "system.clip_dtype")
        at_least("system", self, 1, "dim", "heads", "k", "bands")
        at_least("system", self, 0, "layers", "neck", "abs_tol", "rel_tol")
        at_least("system", self, 0, "distil_weight", "consistency_weight", "label_weight")
        if len(self.clip_size) != 2 or min(self.clip_size) < 1:
            raise SightwordError(
                f"system.clip_size={list(self.clip_size)} is not a height and a width. Pass two numbers, as [224,304]"
            )
        if self.radius <= 0 or self.logit_scale <= 0:
            raise SightwordError(
                f"system.radius={self.radius} and system.logit_scale={self.logit_scale}: both must be above 0"
            )
        if self.dim % self.heads:
            raise SightwordError(f"system.dim={self.dim} is not a multiple of system.heads={self.heads}. Change one")
        if not self.templates or any("{}" not in template for template in self.templates):
            raise SightwordError(
                f"system.templates={self.templates}: expected one or more, each with {{}} for the class"
            )
        if not self.distil_weight and not self.label_weight:
            raise SightwordError(
                "system.distil_weight and system.label_weight are both 0, so no loss relates points to text, and a "
                "constant feature is consistent. Set one above 0"
            )
        if self.spread and (len(self.spread) != 2 or min(self.spread) <= 0 or not self.layers):
            raise SightwordError(
                f"system.spread={list(self.spread)} with system.layers={self.layers}: expected two lengths above 0, in "
                "metres and in colour, as [0.5,0.15], and one layer or more. Or leave it empty: []"
            )
        if self.chain and (self.upsample != 1 or self.neck):
            raise SightwordError(
                "system.chain=true has its own PixelShuffle and no neck. Set system.upsample=1 and system.neck=0"
            )


@dataclass
class PointsData(Convention, DataConfig):
    """Posed RGB-D in the ScanNet layout: a folder of scenes with colour, depth, poses, intrinsics and a cloud."""

    paths = ("root", "scenes", "val_scenes", "test_scenes", "cache")
    root: str = ""  # the folder of the scenes
    # without any of the three lists: those of the root, meta_data/scannetv2_{train,val,test}.txt, if it has them
    scenes: str = ""  # a file with the training scenes, one per line; empty: all that are not for validation
    val_scenes: str = ""  # the same for validation; empty: the fraction hold_out, always the same scenes
    test_scenes: str = ""  # the same for `sightword evaluate split=test`
    hold_out: float = 0.1  # fraction of the scenes

    frames: int = 8  # views of a scene: sampled again each epoch in training, spread evenly to measure
    pool: int = 0  # the frames of a scene that they are sampled from, spread evenly; 0: all frames
    points: int = 20000  # N of a scene: sampled again each epoch in training, always the same ones to measure
    voxel: float = 0.03  # metres: one point of the cloud per voxel is kept
    hide: float = 0.5  # fraction of a training scene's points that the encoder treats as seen by no view, so that it
    # learns to describe them by geometry
    rotate: bool = True  # a training scene is rotated about the vertical, clouds and cameras alike

    trust: bool = False  # train also on scenes whose depth, poses, intrinsics and colour do not belong together

    cache: str = ""  # CLIP maps of the frames, which `sightword prepare` writes; empty: CLIP runs at every step
    offline_clip_feat: bool = False  # the cache is only read: missing frames are an error instead of computed

    batch_size: int = 2  # scenes on each device
    num_workers: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("data", self, 1, "frames", "points", "batch_size")
        at_least("data", self, 0, "pool", "num_workers")
        if not 0 <= self.hide < 1:
            raise SightwordError(f"data.hide={self.hide} is not a fraction, at least 0 and less than 1")
        if self.voxel <= 0:
            raise SightwordError(f"data.voxel={self.voxel} is not a length in metres. Pass a number above 0")
        if self.offline_clip_feat and not self.cache:
            raise SightwordError("data.offline_clip_feat=true reads CLIP's maps from data.cache. Set data.cache")
        if not self.val_scenes and not 0 < self.hold_out < 1:
            raise SightwordError(
                f"data.hold_out={self.hold_out} is not a fraction above 0 and below 1. Change it or set val_scenes"
            )
        if self.pool and self.pool < self.frames:
            raise SightwordError(
                f"data.frames={self.frames} are sampled from data.pool={self.pool}. Set data.pool to "
                f"{self.frames} or more"
            )
