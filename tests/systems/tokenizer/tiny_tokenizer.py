"""A tokenizer that is as good as trained, and takes no time to make."""

import torch

from sightword.data.image import center_crop, read_image
from sightword.ops.quantize import VectorQuantizerEMA
from sightword.towers.vq.image import VQImage
from sightword.towers.vq.network import Decoder, Encoder


def tokenizer_of(photos, seed):
    """A small tokenizer whose codes are spread over what it sees."""
    torch.manual_seed(seed)
    model = VQImage(Encoder(3, (8, 8), 8, 1), VectorQuantizerEMA(16, 8, kmeans=True), Decoder(8, (8, 8), 3, 1))
    model.train()(torch.stack([center_crop(32)(read_image(path)) for path in sorted(photos.iterdir())]))
    return model.eval()
