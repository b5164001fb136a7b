"""Networks to train: a tokenizer (`sightword.towers.vq.image.VQImage`) with new weights, and the discriminator."""

from torch import nn

from sightword.ops.nearest import Metric
from sightword.ops.quantize import VectorQuantizer, VectorQuantizerEMA
from sightword.systems.tokenizer.config import TokenizerConfig
from sightword.towers.vq.image import VQImage
from sightword.towers.vq.network import Decoder, Encoder
from sightword.towers.vq.published import published_networks


def make_tokenizer(c: TokenizerConfig) -> VQImage:
    """Return a tokenizer with new weights. Its commitment cost is 1, as the objective weights that term.

    Raises SightwordError for an unknown layout.
    """
    if c.layout:
        return published_networks(c.layout)
    metric: Metric = "cosine" if c.metric == "cosine" else "euclidean"
    quantizer: VectorQuantizer | VectorQuantizerEMA
    if c.codebook == "ema":
        quantizer = VectorQuantizerEMA(
            c.num_embeddings, c.embedding_dim, 1.0, c.decay, metric, c.kmeans, c.restart_after
        )
    else:
        quantizer = VectorQuantizer(c.num_embeddings, c.embedding_dim, 1.0, metric)
    return VQImage(
        Encoder(c.in_channels, c.encoder_channels, c.latent_channels, c.num_res_blocks),
        quantizer,
        Decoder(c.latent_channels, c.decoder_channels, c.in_channels, c.num_res_blocks),
    )


class PatchGAN(nn.Sequential):
    """Patch discriminator: images (B, 3, H, W) → logits (B, 1, h, w). Isola et al. 2017 (arXiv 1611.07004).

    With three layers the receptive field is 70×70 pixels, and an image of 256×256 gives 30×30 logits.
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
