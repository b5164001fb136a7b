"""Sightword: tie what is seen to words. Names are imported when they are first used, so that `import` costs nothing.

The imports below are the one list of public names. Type checkers read them; so does `__getattr__`, from this source.
"""

from functools import cache
from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING

from sightword.version import VERSION

__path__ = extend_path(__path__, __name__)
__version__ = VERSION

if TYPE_CHECKING:
    from swanlab.integration.pytorch_lightning import SwanLabLogger as SwanLabLogger

    from sightword.compat.lightning import AnimeDataModule as AnimeDataModule
    from sightword.compat.lightning import IntentonomyClipViTMultiStreamModule as IntentonomyClipViTMultiStreamModule
    from sightword.compat.lightning import VQVAEModel as VQVAEModel
    from sightword.engine.predictor import load as load
    from sightword.errors import SightwordError as SightwordError
    from sightword.ops.quantize import FrozenQuantizer as FrozenQuantizer
    from sightword.ops.quantize import Quantized as Quantized
    from sightword.ops.quantize import VectorQuantizer as VectorQuantizer
    from sightword.ops.quantize import VectorQuantizerEMA as VectorQuantizerEMA
    from sightword.storage.cache import FeatureCache as FeatureCache
    from sightword.systems.intent.anchors import generate_semantic_anchors as generate_semantic_anchors
    from sightword.systems.intent.model import SemanticSpatialVQ as SemanticSpatialVQ
    from sightword.systems.intent.predict import IntentClassifier as IntentClassifier
    from sightword.systems.points.lift.geometry import ball_query as ball_query
    from sightword.systems.points.lift.uv_index import build_uv_index as build_uv_index
    from sightword.systems.points.lift.uv_index import build_uv_index_batch as build_uv_index_batch
    from sightword.systems.points.lift.uv_index import sample_img_feat as sample_img_feat
    from sightword.systems.points.model import BiFusionEncoder as BiFusionEncoder
    from sightword.systems.points.model import FusionGate as FusionGate
    from sightword.systems.points.model import TinySA2D as TinySA2D
    from sightword.systems.points.model import TinySAModule as TinySAModule
    from sightword.systems.points.model import build_geo_pe as build_geo_pe
    from sightword.systems.points.predict import SceneQuery as SceneQuery
    from sightword.systems.points.task import ClipConsCriterion as ClipConsCriterion
    from sightword.systems.retrieval.predict import PersonRetriever as PersonRetriever
    from sightword.systems.skeleton.model import ResNet3dSlowOnly as ResNet3dSlowOnly
    from sightword.systems.skeleton.predict import ActionRecognizer as ActionRecognizer
    from sightword.systems.tokenizer.loss import LPIPS as LPIPS
    from sightword.systems.tokenizer.predict import ImageTokenizer as ImageTokenizer
    from sightword.towers.factory import image_tower as image_tower
    from sightword.towers.factory import text_tower as text_tower
    from sightword.towers.prompt import class_embeddings as class_embeddings
    from sightword.towers.token_cache import TokenCache as TokenCache
    from sightword.towers.vq.ids import IdCache as IdCache
    from sightword.towers.vq.image import VQImage as VQImage
    from sightword.towers.vq.network import Decoder as Decoder
    from sightword.towers.vq.network import Encoder as Encoder
    from sightword.towers.vq.network import ResBlock as ResBlock
    from sightword.towers.vq.published import load_published as load_published


@cache
def _homes() -> dict[str, str]:
    """Return name → module, from the imports above."""
    import ast
    import inspect
    import sys

    blocks = [node for node in ast.parse(inspect.getsource(sys.modules[__name__])).body if isinstance(node, ast.If)]
    lines = [node for node in blocks[0].body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(line.module) for line in lines for alias in line.names}


def _public() -> list[str]:
    return sorted(name for name, home in _homes().items() if home.startswith("sightword."))


if not TYPE_CHECKING:  # with a `__getattr__`, type checkers would accept every name

    def __getattr__(name: str) -> object:
        if name == "__all__":
            return _public()
        if name.startswith("__") or name not in _homes():
            raise AttributeError(f"module 'sightword' has no attribute {name!r}")
        try:
            return getattr(import_module(_homes()[name]), name)
        except ImportError as error:
            if name != "SwanLabLogger":  # which Lightning does not have
                raise
            raise ImportError("SwanLabLogger needs SwanLab: pip install 'sightword[swanlab]'") from error

    def __dir__() -> list[str]:
        return sorted({*globals(), *_homes(), "__all__"})
