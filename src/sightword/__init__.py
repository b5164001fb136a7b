"""Sightword: tie what is seen to words. Names are imported when they are first used, so that `import` costs nothing."""

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

from sightword.version import VERSION

__path__ = extend_path(__path__, __name__)
__version__ = VERSION

_HOMES = {
    "AnimeDataModule": "compat.lightning",
    "BiFusionEncoder": "systems.points.model",
    "ClipConsCriterion": "systems.points.task",
    "Decoder": "towers.vq.network",
    "Encoder": "towers.vq.network",
    "FeatureCache": "storage.cache",
    "FrozenQuantizer": "ops.quantize",
    "FusionGate": "systems.points.model",
    "IntentonomyClipViTMultiStreamModule": "compat.lightning",
    "LPIPS": "systems.tokenizer.loss",
    "Quantized": "ops.quantize",
    "ResBlock": "towers.vq.network",
    "ResNet3dSlowOnly": "systems.skeleton.network",
    "SemanticSpatialVQ": "systems.intent.model",
    "TinySA2D": "systems.points.model",
    "TinySAModule": "systems.points.model",
    "TokenCache": "towers.token_cache",
    "VQImage": "towers.vq.image",
    "VQVAEModel": "compat.lightning",
    "VectorQuantizer": "ops.quantize",
    "VectorQuantizerEMA": "ops.quantize",
    "ball_query": "systems.points.lift.geometry",
    "build_geo_pe": "systems.points.model",
    "build_uv_index": "systems.points.lift.uv_index",
    "build_uv_index_batch": "systems.points.lift.uv_index",
    "generate_semantic_anchors": "systems.intent.anchors",
    "image_tower": "towers.factory",
    "load_published": "towers.vq.published",
    "sample_img_feat": "systems.points.lift.uv_index",
    "text_tower": "towers.factory",
    "class_embeddings": "towers.prompt",
}
__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from sightword.compat.lightning import AnimeDataModule as AnimeDataModule
    from sightword.compat.lightning import IntentonomyClipViTMultiStreamModule as IntentonomyClipViTMultiStreamModule
    from sightword.compat.lightning import VQVAEModel as VQVAEModel
    from sightword.ops.quantize import FrozenQuantizer as FrozenQuantizer
    from sightword.ops.quantize import Quantized as Quantized
    from sightword.ops.quantize import VectorQuantizer as VectorQuantizer
    from sightword.ops.quantize import VectorQuantizerEMA as VectorQuantizerEMA
    from sightword.storage.cache import FeatureCache as FeatureCache
    from sightword.systems.intent.anchors import generate_semantic_anchors as generate_semantic_anchors
    from sightword.systems.intent.model import SemanticSpatialVQ as SemanticSpatialVQ
    from sightword.systems.points.lift.geometry import ball_query as ball_query
    from sightword.systems.points.lift.uv_index import build_uv_index as build_uv_index
    from sightword.systems.points.lift.uv_index import build_uv_index_batch as build_uv_index_batch
    from sightword.systems.points.lift.uv_index import sample_img_feat as sample_img_feat
    from sightword.systems.points.model import BiFusionEncoder as BiFusionEncoder
    from sightword.systems.points.model import FusionGate as FusionGate
    from sightword.systems.points.model import TinySA2D as TinySA2D
    from sightword.systems.points.model import TinySAModule as TinySAModule
    from sightword.systems.points.model import build_geo_pe as build_geo_pe
    from sightword.systems.points.task import ClipConsCriterion as ClipConsCriterion
    from sightword.systems.skeleton.network import ResNet3dSlowOnly as ResNet3dSlowOnly
    from sightword.systems.tokenizer.loss import LPIPS as LPIPS
    from sightword.towers.factory import image_tower as image_tower
    from sightword.towers.factory import text_tower as text_tower
    from sightword.towers.prompt import class_embeddings as class_embeddings
    from sightword.towers.token_cache import TokenCache as TokenCache
    from sightword.towers.vq.image import VQImage as VQImage
    from sightword.towers.vq.network import Decoder as Decoder
    from sightword.towers.vq.network import Encoder as Encoder
    from sightword.towers.vq.network import ResBlock as ResBlock
    from sightword.towers.vq.published import load_published as load_published


def __getattr__(name: str) -> Any:
    if name == "SwanLabLogger":  # Lightning has none: document 003 imports it from a place where it is not
        try:
            return import_module("swanlab.integration.pytorch_lightning").SwanLabLogger
        except ImportError as error:
            raise ImportError("SwanLabLogger needs SwanLab: pip install 'sightword[swanlab]'") from error
    if name not in _HOMES:
        raise AttributeError(f"module 'sightword' has no attribute {name!r}")
    return getattr(import_module(f"sightword.{_HOMES[name]}"), name)
