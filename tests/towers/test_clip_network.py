"""A plain CLIP is built without open_clip, with its names, shapes and order of weights; others are open_clip's."""

import open_clip
import pytest
import torch

from sightword.towers.clip import network
from sightword.towers.clip.encoder import presets

SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 48, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 9, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2},
}


def on_meta(model_cfg):
    with torch.device("meta"):
        return network.build(model_cfg), open_clip.CustomTextCLIP(**model_cfg)


@pytest.mark.parametrize("options", [{}, {"no_ln_pre": True}, {"pool_type": "avg", "image_size": [32, 64]}])
def test_weights_have_open_clips_names_shapes_and_order(options):
    ours, theirs = on_meta({**SMALL, "vision_cfg": {**SMALL["vision_cfg"], **options}})
    assert isinstance(ours, network.PlainCLIP)
    for parts in ("state_dict", "named_parameters"):
        pairs = [dict(getattr(model, parts)()) for model in (ours, theirs)]
        assert [(name, w.shape) for name, w in pairs[0].items()] == [(name, w.shape) for name, w in pairs[1].items()]


@pytest.mark.parametrize("name", [name for name, _ in presets.values()])
def test_the_presets_are_plain(name):
    assert network.is_plain(open_clip.get_model_config(name))


@pytest.mark.parametrize(
    ("part", "option"),
    [
        ("vision_cfg", {"ls_init_value": 0.1}),
        ("vision_cfg", {"pos_embed_type": "sin_cos_2d"}),
        ("vision_cfg", {"layers": [2, 2, 2, 2]}),
        ("vision_cfg", {"width": "48"}),
        ("text_cfg", {"no_causal_mask": True}),
        ("text_cfg", {"heads": 0}),
        ("text_cfg", {"layers": True}),
    ],
)
def test_another_config_is_left_to_open_clip(part, option):
    assert not network.is_plain({**SMALL, part: {**SMALL[part], **option}})
    assert network.is_plain(SMALL)


def test_blocks_compute_what_open_clips_compute():
    from open_clip.transformer import ResidualAttentionBlock

    torch.manual_seed(0)
    theirs = ResidualAttentionBlock(32, 2).eval()
    ours = network.Block(32, 2, 4.0, quick_gelu=False).eval()
    ours.load_state_dict(theirs.state_dict())
    x, mask = torch.randn(2, 5, 32), torch.full((5, 5), float("-inf")).triu(1)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours(x, mask), theirs(x, attn_mask=mask))
