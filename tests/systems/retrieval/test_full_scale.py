"""scale=full with weights of the published shapes, made on the spot: each kind of experiment takes a step."""

import json

import pytest
import torch
from fakes import CAPTIONS
from made import write_clip
from safetensors.torch import save_file

from sightword.cli.compose import compose_config
from sightword.miniature import tower
from sightword.systems.retrieval.data import PedesBatch
from sightword.systems.retrieval.task import make_task

pytestmark = pytest.mark.slow
VIT_B16 = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16, "head_width": 64}
TEXT_B = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}


def fill(folder, kind, config):
    """Random weights of a network's shapes, in a folder that has its tokenizer."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in kind(config).state_dict().items()}
    shapes = {
        name: shape
        for name, shape in shapes.items()
        if not name.endswith(("position_ids", "encoder.embed_tokens.weight"))
    }
    save_file({name: 0.02 * torch.randn(shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict() | {"architectures": [kind.__name__]}))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    from transformers import SiglipConfig, SiglipModel, T5Config, T5EncoderModel

    root = tmp_path_factory.mktemp("full")
    write_clip(root / "clip", VIT_B16, embed_dim=512, text_cfg=TEXT_B, quick_gelu=True)
    tower.write_siglip(root / "siglip", CAPTIONS)
    fill(root / "siglip", SiglipModel, SiglipConfig())  # siglip-base-patch16-224
    tower.write_t5(root / "t5", CAPTIONS)
    sizes = {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12}
    fill(root / "t5", T5EncoderModel, T5Config(vocab_size=32128, feed_forward_proj="gated-gelu", **sizes))
    return [
        f"system.clip={root / 'clip'}",
        "system.clip_tag=",
        f"system.siglip={root / 'siglip'}",
        f"system.t5={root / 't5'}",
    ]


@pytest.mark.parametrize("name", ["irra", "phase1", "phase2", "phase2_siglip_text", "phase3", "phase4"])
def test_it_takes_a_step(published, name):
    config = compose_config([f"experiment=retrieval/{name}", "scale=full", "data.root=x", *published])
    task = make_task(config.system).train()
    ids, mask = task.model.tokenizer(CAPTIONS[:2])
    images, labels = torch.rand(2, 3, 384, 128) * 2 - 1, ids.masked_fill(~mask, -100)
    hidden = torch.rand(2, 192) < 0.5
    pids, codes = torch.arange(2), torch.randint(0, config.system.num_codes, (2, 192))
    batch = PedesBatch(images, pids, ids, mask, pids, ids, labels, torch.zeros_like(images), codes, hidden)
    optimizer = torch.optim.SGD([p for role in task.parameter_groups().values() for p in role], lr=1e-4)
    losses = task.losses(batch)
    task.total(losses).backward()
    optimizer.step()
    assert all(torch.isfinite(term) for term in losses.values())
    assert task.model.encode_image(images).shape == (2, 512 if name != "phase2_siglip_text" else 768)
    if name in ("phase3", "phase4"):
        assert task.model.text.grid_bias.grid == (24, 8)
