"""The exact nearest code: the same ids on every device."""

from sightword.ops.nearest.exact import Metric, nearest, nearest_in_each, true_float32, unit

__all__ = ["Metric", "nearest", "nearest_in_each", "true_float32", "unit"]
