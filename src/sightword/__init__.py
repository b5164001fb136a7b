"""Sightword: tie what is seen to words. Names are imported when they are first used, so that `import` costs nothing."""

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"

_HOMES = {
    "AnimeDataModule": "modules",
    "Decoder": "towers.vq_network",
    "Encoder": "towers.vq_network",
    "FeatureCache": "cache",
    "FrozenQuantizer": "quantize",
    "IntentonomyClipViTMultiStreamModule": "modules",
    "LPIPS": "systems.tokenizer.loss",
    "Quantized": "quantize",
    "ResBlock": "towers.vq_network",
    "SemanticSpatialVQ": "systems.intent.model",
    "TokenCache": "tokens",
    "VQImage": "towers.vq_image",
    "VQVAEModel": "modules",
    "VectorQuantizer": "quantize",
    "VectorQuantizerEMA": "quantize",
    "generate_semantic_anchors": "systems.intent.anchors",
    "image_tower": "towers",
    "load_published": "towers.vq_published",
    "text_tower": "towers",
    "word_vectors": "towers.text",
}
__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from sightword.cache import FeatureCache as FeatureCache
    from sightword.modules import AnimeDataModule as AnimeDataModule
    from sightword.modules import IntentonomyClipViTMultiStreamModule as IntentonomyClipViTMultiStreamModule
    from sightword.modules import VQVAEModel as VQVAEModel
    from sightword.quantize import FrozenQuantizer as FrozenQuantizer
    from sightword.quantize import Quantized as Quantized
    from sightword.quantize import VectorQuantizer as VectorQuantizer
    from sightword.quantize import VectorQuantizerEMA as VectorQuantizerEMA
    from sightword.systems.intent.anchors import generate_semantic_anchors as generate_semantic_anchors
    from sightword.systems.intent.model import SemanticSpatialVQ as SemanticSpatialVQ
    from sightword.systems.tokenizer.loss import LPIPS as LPIPS
    from sightword.tokens import TokenCache as TokenCache
    from sightword.towers import image_tower as image_tower
    from sightword.towers import text_tower as text_tower
    from sightword.towers.text import word_vectors as word_vectors
    from sightword.towers.vq_image import VQImage as VQImage
    from sightword.towers.vq_network import Decoder as Decoder
    from sightword.towers.vq_network import Encoder as Encoder
    from sightword.towers.vq_network import ResBlock as ResBlock
    from sightword.towers.vq_published import load_published as load_published


def __getattr__(name: str) -> Any:
    if name == "SwanLabLogger":  # Lightning has none: document 003 imports it from a place where it is not
        try:
            return import_module("swanlab.integration.pytorch_lightning").SwanLabLogger
        except ImportError as error:
            raise ImportError("SwanLabLogger needs SwanLab: pip install 'sightword[swanlab]'") from error
    if name not in _HOMES:
        raise AttributeError(f"module 'sightword' has no attribute {name!r}")
    return getattr(import_module(f"sightword.{_HOMES[name]}"), name)
