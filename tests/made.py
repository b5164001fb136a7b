"""What tests make and compare: a small CLIP of random weights, and checkpoints that hold the same numbers."""

import json

import torch
from safetensors.torch import save_file

SMALL_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 48, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def assert_same(one, other):
    """Two checkpoints hold the same numbers: weights, averages, optimisers, counters."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def write_clip(folder, vision=(), **options):
    """A CLIP of random weights in open_clip's own format, and open_clip's own network."""
    import open_clip

    config = {**SMALL_CLIP, **options, "vision_cfg": {**SMALL_CLIP["vision_cfg"], **dict(vision)}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**config).eval()
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norms start as zeros and ones, which hide mistakes
                parameter.data += 0.1 * torch.randn_like(parameter)
    folder.mkdir(parents=True)
    save_file(
        {name: value.clone() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return model
