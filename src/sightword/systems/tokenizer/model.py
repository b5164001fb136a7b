"""The networks that only training a tokenizer needs. The tokenizer itself is `sightword.towers.vq.image.VQImage`."""

from torch import nn

from sightword.ops.quantize import VectorQuantizer, VectorQuantizerEMA
from sightword.towers.vq.image import VQImage
from sightword.towers.vq.network import Decoder, Encoder


def make_tokenizer(
    in_channels: int = 3,
    latent_channels: int = 256,
    encoder_channels: tuple[int, ...] = (128, 256, 256, 256),
    decoder_channels: tuple[int, ...] = (256, 256, 256, 128),
    num_res_blocks: int = 2,
    num_embeddings: int = 1024,
    embedding_dim: int = 256,
    metric: str = "euclidean",
    codebook: str = "ema",
    decay: float = 0.99,
    kmeans: bool = False,
    restart_after: int = 0,
) -> VQImage:
    """Document 003's tokenizer with new weights. Its commitment term is raw: the objective weighs it, once."""
    quantizer: VectorQuantizer | VectorQuantizerEMA
    if codebook == "ema":
        quantizer = VectorQuantizerEMA(num_embeddings, embedding_dim, 1.0, decay, metric, kmeans, restart_after)  # type: ignore[arg-type]
    else:
        quantizer = VectorQuantizer(num_embeddings, embedding_dim, 1.0, metric)  # type: ignore[arg-type]
    return VQImage(
        Encoder(in_channels, encoder_channels, latent_channels, num_res_blocks),
        quantizer,
        Decoder(latent_channels, decoder_channels, in_channels, num_res_blocks),
    )


class PatchGAN(nn.Sequential):
    """Real or fake, patch by patch: images (B, 3, H, W) → logits (B, 1, h, w). Isola et al. 2017 (arXiv 1611.07004).

    Three layers look at 70×70 pixels and give 30×30 logits for 256×256.
    """

    def __init__(self, in_channels: int = 3, channels: int = 64, layers: int = 3) -> None:
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        modules: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            modules += [
                nn.Conv2d(widths[i - 1], widths[i], 4, stride, 1, bias=False),
                nn.BatchNorm2d(widths[i]),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*modules, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.apply(_dcgan_init)


def _dcgan_init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
