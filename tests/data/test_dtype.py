"""A dtype has a short and a long name."""

import pytest
import torch

from sightword.data.dtype import dtype_name, torch_dtype
from sightword.errors import SightwordError


@pytest.mark.parametrize(("short", "long"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_both_names_of_a_dtype_are_the_same(short, long):
    assert torch_dtype(short) is torch_dtype(long) is getattr(torch, long)
    assert dtype_name(short) == dtype_name(long) == long


@pytest.mark.parametrize("wrong", ["float", "int64", "", "Tensor"])
def test_what_is_no_dtype_for_a_tower_is_refused_with_those_that_there_are(wrong):
    with pytest.raises(SightwordError, match=r"fp32, bf16 or fp16 \(or float32, bfloat16, float16\)"):
        torch_dtype(wrong)


def test_the_field_of_a_config_is_named():
    with pytest.raises(SightwordError, match="system.clip_dtype='fp8' is not a dtype"):
        dtype_name("fp8", "system.clip_dtype")
