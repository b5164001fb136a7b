"""A dtype has a short and a long name."""

import pytest
import torch

from sightword.errors import SightwordError
from sightword.towers.dtype import dtype_name, dtype_of


@pytest.mark.parametrize(("short", "long"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_both_names_of_a_dtype_are_the_same(short, long):
    assert dtype_of(short) is dtype_of(long) is getattr(torch, long)
    assert dtype_name(short) == dtype_name(long) == long


def test_what_is_no_dtype_for_a_tower_is_refused_with_those_that_there_are():
    for wrong in ("float", "int64", "", "Tensor"):
        with pytest.raises(SightwordError, match=r"fp32 \(float32\), fp16 \(float16\), bf16 \(bfloat16\)"):
            dtype_of(wrong)
