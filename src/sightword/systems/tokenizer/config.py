"""Configuration options of the tokenizer."""

from dataclasses import dataclass, field

from sightword.engine.config import DataConfig, SystemConfig, at_least
from sightword.errors import SightwordError

NETWORK = (  # fields of the networks and the codebook, which a published layout defines itself
    *("in_channels", "latent_channels", "encoder_channels", "decoder_channels", "num_res_blocks", "num_embeddings"),
    *("embedding_dim", "metric", "codebook", "decay", "kmeans", "restart_after"),
)


@dataclass
class TokenizerConfig(SystemConfig):
    """The networks, the codebook and the objective."""

    paths = ("lpips_weights", "fid_weights")
    in_channels: int = 3
    latent_channels: int = 256  # output of the encoder; a 1×1 convolution maps it to embedding_dim
    encoder_channels: list[int] = field(
        default_factory=lambda: [128, 256, 256, 256]
    )  # one stage each, halving the sides
    decoder_channels: list[int] = field(default_factory=lambda: [256, 256, 256, 128])  # one stage each, doubling them
    num_res_blocks: int = 2

    num_embeddings: int = 1024
    embedding_dim: int = 256
    metric: str = "euclidean"  # euclidean | cosine: cosine with few channels (8) keeps a large codebook in use
    codebook: str = "ema"  # ema | gradient: only with gradient does vq_loss train the codes
    decay: float = 0.99  # of the moving averages, ema only
    kmeans: bool = False  # start the codes from the first batch, ema only
    restart_after: int = (
        0  # optimiser steps without use after which a code moves to a vector of the step, ema only; 0 never
    )

    lambda_rec: float = 1.0
    lambda_vq: float = 1.0
    lambda_commit: float = 0.25
    lambda_perc: float = 0.5
    lambda_gan: float = 0.0  # 0: no discriminator, one optimiser
    use_lpips: bool = True
    lpips_weights: str = ""  # torchvision's vgg16-397923af.pth; empty: torch's own cache, or a download at the start

    disc_start: int = 0  # batch at which the discriminator begins to learn
    disc_warmup: int = 0  # batches it learns before gan_loss is added
    disc_weight: float = 0.8  # multiplies the adaptive weight
    disc_layers: int = 3
    disc_channels: int = 64
    disc_loss: str = "hinge"  # hinge | non_saturating
    lecam_weight: float = 0.0  # LeCam regularisation of the discriminator; 0.001 for small data sets

    fid_weights: str = ""  # measure rFID too, with this pt_inception-2015-12-05-6726825d.pth; needs sightword[fid]

    layout: str = ""  # networks of a published tokenizer: taming_f16_1024, llamagen_vq16, …; init_from= is its file

    def __post_init__(self) -> None:
        if len(self.encoder_channels) != len(self.decoder_channels):
            raise SightwordError(
                f"encoder_channels has {len(self.encoder_channels)} stages and decoder_channels "
                f"{len(self.decoder_channels)}. Give both the same number"
            )
        for name, allowed in (
            ("metric", ("euclidean", "cosine")),
            ("codebook", ("ema", "gradient")),
            ("disc_loss", ("hinge", "non_saturating")),
        ):
            if getattr(self, name) not in allowed:
                raise SightwordError(f"system.{name} is one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        if self.codebook == "gradient" and (self.kmeans or self.restart_after):
            raise SightwordError(
                "system.kmeans and system.restart_after are for codebook=ema; codebook=gradient has neither"
            )
        if self.disc_layers < 1:
            raise SightwordError(f"system.disc_layers is at least 1, got {self.disc_layers}")
        brought = [name for name in NETWORK if getattr(self, name) != _default(name)] if self.layout else []
        if brought:
            raise SightwordError(
                f"system.layout has its own networks, so system.{brought[0]}={getattr(self, brought[0])} would do "
                "nothing. Remove it"
            )


def _default(name: str) -> object:
    field = TokenizerConfig.__dataclass_fields__[name]
    return field.default_factory() if callable(field.default_factory) else field.default


@dataclass
class TokenizerData(DataConfig):
    """A folder of images, of any sizes and formats, in folders of any depth."""

    paths = ("root", "val_root")
    root: str = ""
    val_root: str = ""  # a separate folder for validation; empty: the fraction val_split of root is held out
    val_split: float = 0.1  # fraction of the images that is held out, drawn with the run's seed
    image_size: int = 256
    batch_size: int = 32
    crops: int = 1  # crops of each image in one epoch
    val_crops: int = 1  # 1: the centre; more: that many fixed random crops of each held-out image
    min_scale: float = 0.5  # least side of a training crop, as a fraction of the image's shorter side
    max_scale: float = 1.0  # greatest side
    flip: bool = True
    on_error: str = "raise"  # raise | skip: unreadable images are omitted in validation, replaced in training
    cache_mb: int = 512  # MiB of decoded images that are kept in memory
    num_workers: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.val_split < 1:
            raise SightwordError(
                f"data.val_split={self.val_split} is not a fraction in (0, 1). To train on all images, name a "
                "folder of other images for validation: data.val_root=…"
            )
        at_least("data", self, 1, "batch_size", "crops", "val_crops")
        at_least("data", self, 0, "num_workers", "cache_mb")
        if self.image_size < 11:
            raise SightwordError(f"data.image_size is at least 11, the side of SSIM's window, got {self.image_size}")
        if self.on_error not in ("raise", "skip"):
            raise SightwordError(f"data.on_error is raise or skip, got {self.on_error!r}")
