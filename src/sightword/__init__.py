"""Sightword: tie what is seen to words. Names are imported when they are first used, so that `import` costs nothing."""

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

from sightword.version import VERSION

__path__ = extend_path(__path__, __name__)
__version__ = VERSION

_HOMES = {
    "AnimeDataModule": "modules",
    "BiFusionEncoder": "systems.points.model",
    "ClipConsCriterion": "systems.points.loss",
    "Decoder": "towers.vq_network",
    "Encoder": "towers.vq_network",
    "FeatureCache": "cache",
    "FrozenQuantizer": "quantize",
    "FusionGate": "systems.points.model",
    "IntentonomyClipViTMultiStreamModule": "modules",
    "LPIPS": "systems.tokenizer.loss",
    "Quantized": "quantize",
    "ResBlock": "towers.vq_network",
    "ResNet3dSlowOnly": "systems.skeleton.network",
    "SemanticSpatialVQ": "systems.intent.model",
    "TinySA2D": "systems.points.model",
    "TinySAModule": "systems.points.model",
    "TokenCache": "tokens",
    "VQImage": "towers.vq_image",
    "VQVAEModel": "modules",
    "VectorQuantizer": "quantize",
    "VectorQuantizerEMA": "quantize",
    "ball_query": "systems.points.neighbour",
    "build_geo_pe": "systems.points.model",
    "build_uv_index": "systems.points.link",
    "build_uv_index_batch": "systems.points.link",
    "generate_semantic_anchors": "systems.intent.anchors",
    "image_tower": "towers.factory",
    "load_published": "towers.vq_published",
    "sample_img_feat": "systems.points.link",
    "text_tower": "towers.factory",
    "word_vectors": "towers.prompt",
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
    from sightword.systems.points.link import build_uv_index as build_uv_index
    from sightword.systems.points.link import build_uv_index_batch as build_uv_index_batch
    from sightword.systems.points.link import sample_img_feat as sample_img_feat
    from sightword.systems.points.loss import ClipConsCriterion as ClipConsCriterion
    from sightword.systems.points.model import BiFusionEncoder as BiFusionEncoder
    from sightword.systems.points.model import FusionGate as FusionGate
    from sightword.systems.points.model import TinySA2D as TinySA2D
    from sightword.systems.points.model import TinySAModule as TinySAModule
    from sightword.systems.points.model import build_geo_pe as build_geo_pe
    from sightword.systems.points.neighbour import ball_query as ball_query
    from sightword.systems.skeleton.network import ResNet3dSlowOnly as ResNet3dSlowOnly
    from sightword.systems.tokenizer.loss import LPIPS as LPIPS
    from sightword.tokens import TokenCache as TokenCache
    from sightword.towers.factory import image_tower as image_tower
    from sightword.towers.factory import text_tower as text_tower
    from sightword.towers.prompt import word_vectors as word_vectors
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
