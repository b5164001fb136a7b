"""The exact nearest code: the same ids on every device."""

from sightword.ops.nearest.exact import nearest, nearest_in_each
from sightword.ops.nearest.stack import Metric, true_float32, unit

__all__ = ["Metric", "nearest", "nearest_in_each", "true_float32", "unit"]
