"""Everything the encoder of points can be told. Names and numbers are document 004's where it has them."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class PointsConfig:
    """The frozen CLIP, the two branches, how they meet, and the objective."""

    clip: str = "ViT-B-16"  # as `image_tower` takes it; frozen for good, and no part of a checkpoint
    clip_tag: str = "laion2b_s34b_b88k"  # of its weights; empty for presets and folders
    token_type: str = "qq"  # which patch tokens: qq | value | kk | joint, as towers/clip/dense.py has them
    clip_size: list[int] = field(default_factory=lambda: [224, 304])  # H, W that frames are resized to; 4:3 is not cut
    clip_dtype: str = "bf16"  # in which it computes: fp32 | bf16 | fp16 (GPUs only: 10 times slower on a CPU)

    labels: str = "scannet20"  # the classes to ask for: scannet20, a JSON file {class: id in the clouds}, or a folder
    # with scannetv2-labels.combined.tsv, whose ids are those of scannet200-mv
    templates: list[str] = field(default_factory=lambda: ["a photo of a {}"])  # of the questions, {} is the class

    dim: int = 128  # width of both branches and of what comes out
    layers: int = 2  # TinySAModules of the 3-D branch; 0: no such branch, 2-D alone
    heads: int = 4  # of attention in both branches
    radius: float = 0.1  # metres that a point looks around itself
    k: int = 16  # points at most that it looks at, the nearest
    bands: int = 6  # of the Fourier features of a place, `build_geo_pe`
    neck: int = 0  # TinySA2D blocks on the reduced maps
    upsample: int = 1  # cells of a reduced map for each of CLIP's, a side: 1 | 2 | 4, learned; sharpens little
    chain: bool = False  # reduce as document 004 writes it: PixelShuffle, Conv1x1 to 256, sample, Linear to dim
    clip_global: bool = True  # also give the mean vector of a scene's images
    use_amp: bool = True  # the 2-D branch in bfloat16; on GPUs without it say trainer.precision=16-mixed

    abs_tol: float = 0.02  # metres: a point is seen where it is no further from the measured depth than this …
    rel_tol: float = 0.02  # … and this share of the depth

    distil_weight: float = 1.0  # fused features say in words what lifted CLIP says, where anything was seen
    consistency_weight: float = 0.1  # views of one point agree, on the reduced maps
    label_weight: float = 0.0  # cross-entropy with the labels of the clouds: supervised, no open vocabulary any more
    scale: float = 40.0  # of the cosines with words in it

    def __post_init__(self) -> None:
        _one_of("system.upsample", self.upsample, (1, 2, 4))
        _one_of("system.clip_dtype", self.clip_dtype, ("fp32", "bf16", "fp16"))
        if len(self.clip_size) != 2 or min(self.clip_size) < 1:
            raise ValueError(f"system.clip_size is a height and a width, as [224,304]; got {list(self.clip_size)}")
        for name, least in (("dim", 1), ("layers", 0), ("heads", 1), ("k", 1), ("bands", 1), ("neck", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"system.{name} is at least {least}; got {getattr(self, name)}")
        for name in ("abs_tol", "rel_tol", "distil_weight", "consistency_weight", "label_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"system.{name} is not negative; got {getattr(self, name)}")
        if self.radius <= 0 or self.scale <= 0:
            raise ValueError(f"system.radius and system.scale are above 0; got {self.radius} and {self.scale}")
        if self.dim % self.heads:
            raise ValueError(f"system.dim={self.dim} is divided among heads={self.heads}: give a multiple of it")
        if not self.templates or any("{}" not in template for template in self.templates):
            raise ValueError(f"system.templates have {{}} where the class stands, one or more; got {self.templates}")
        if not self.distil_weight and not self.label_weight:
            raise ValueError(
                "system.distil_weight and system.label_weight are both 0: nothing would tie points to words, and a "
                "constant is consistent; set one above 0"
            )
        if self.chain and (self.upsample != 1 or self.neck):
            raise ValueError(
                "system.chain=true has its own PixelShuffle and no place for a neck: leave upsample at 1 and neck at 0"
            )


@dataclass
class PointsData:
    """Posed RGB-D in the ScanNet layout: a folder of scenes with colour, depth, poses, intrinsics and a cloud."""

    root: str = ""  # the folder of the scenes
    scenes: str = ""  # a file with the scenes to train on, one a line; empty: all that are not for validation
    val_scenes: str = ""  # the same for validation; empty: hold_out of the scenes, always the same ones
    test_scenes: str = ""  # the same for `sightword evaluate split=test`
    hold_out: float = 0.1  # share of the scenes

    frames: int = 8  # views of a scene: drawn anew each epoch to train on, spread evenly to measure
    pool: int = 0  # the frames of a scene they are drawn from, spread evenly; 0: all it has
    points: int = 20000  # N of a scene: drawn anew each epoch, always the same ones to measure
    voxel: float = 0.03  # metres: of the cloud one point a voxel is kept
    hide: float = (
        0.5  # share of a training scene's points whose views the encoder does not get: geometry speaks for them
    )
    rotate: bool = True  # a training scene is turned about the vertical, clouds and cameras alike

    cache: str = ""  # CLIP maps of the frames, a FeatureCache; empty: CLIP runs at every step
    offline_clip_feat: bool = False  # the cache is only read, by a header that must fit; off: what it lacks is computed

    batch_size: int = 2  # scenes on each device
    num_workers: int = 4

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("pool", 0), ("points", 1), ("batch_size", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name} is at least {least}; got {getattr(self, name)}")
        if not 0 <= self.hide < 1:
            raise ValueError(f"data.hide is a share, at least 0 and less than 1; got {self.hide}")
        if self.voxel <= 0:
            raise ValueError(f"data.voxel is metres, above 0; got {self.voxel}")
        if self.offline_clip_feat and not self.cache:
            raise ValueError("data.offline_clip_feat=true reads CLIP's maps from data.cache: name it")
        if not self.val_scenes and not 0 < self.hold_out < 1:
            raise ValueError(f"data.hold_out is a share, above 0 and below 1; got {self.hold_out}; or set val_scenes")
        if self.pool and self.pool < self.frames:
            raise ValueError(f"data.frames={self.frames} are drawn from data.pool={self.pool}: make the pool larger")


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(map(str, allowed))}; got {value!r}")
