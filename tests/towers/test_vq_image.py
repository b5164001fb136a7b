import json
import pickle
import re
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from sightword.ops.quantize import FrozenQuantizer, VectorQuantizer, VectorQuantizerEMA
from sightword.towers.vq.image import VQImage, pad_to
from sightword.towers.vq.network import Attention, Decoder, Encoder, ResBlock, TamingDecoder, TamingEncoder
from sightword.towers.vq.published import load_published, presets, taming

TINY = {"ch": 4, "z_channels": 8, "dim": 8, "num_codes": 32}


@pytest.fixture(autouse=True)
def seeded_on_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of networks this small, threads only wait for one another
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


def tiny(quantizer=None, channels=(8, 12)) -> VQImage:
    """A tokenizer of factor 4 by default."""
    quantizer = quantizer or VectorQuantizerEMA(16, 6)
    encoder, decoder = Encoder(3, channels, 6, 1), Decoder(6, channels[::-1], 3, 1)
    return VQImage(encoder, quantizer, decoder).eval()


def noise(height, width, batch=2):
    return torch.rand(batch, 3, height, width) * 2 - 1


def millions(module: nn.Module) -> float:
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)


# The networks of document 003.


def test_document_003_networks_have_the_sizes_of_their_drawing():
    with torch.device("meta"):
        encoder, decoder = Encoder(), Decoder()
        latents = encoder(torch.empty(2, 3, 256, 256))
        images = decoder(latents)
    assert (millions(encoder), millions(decoder)) == (11.16, 12.18)
    assert latents.shape == (2, 256, 16, 16)
    assert images.shape == (2, 3, 256, 256)
    assert encoder.factor == decoder.factor == 16


def test_a_decoder_doubles_once_a_stage_and_ends_in_its_range():
    images = Decoder(4, (8, 8, 8), 3, 1)(torch.randn(1, 4, 2, 3) * 100)
    assert images.shape == (1, 3, 16, 24)
    assert images.abs().max() <= 1


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (48, 16), (6, 2), (7, 1)])
def test_groups_divide_any_number_of_channels(channels, groups):
    block = ResBlock(channels, 5)
    assert block.norm1.num_groups == groups
    assert block(torch.randn(1, channels, 3, 3)).shape == (1, 5, 3, 3)


def test_networks_without_channels_are_refused():
    with pytest.raises(ValueError, match="at least one channel, got 0"):
        ResBlock(0, 4)
    with pytest.raises(ValueError, match=r"one positive number a stage, got \[\]"):
        Encoder(channels=())
    with pytest.raises(ValueError, match=r"16 times smaller, the decoder latents 8 times"):
        VQImage(Encoder(channels=(4,) * 4), VectorQuantizer(4, 256), Decoder(channels=(4,) * 3))


# The networks of VQGAN.


def fill(module: nn.Module) -> nn.Module:
    """Weights that any implementation with the same names would get."""
    for i, (name, parameter) in enumerate(sorted(module.named_parameters())):
        wave = torch.arange(parameter.numel(), dtype=torch.float64).add(i).mul(0.7).sin().mul(0.2).view(parameter.shape)
        parameter.data = (wave + ("norm" in name and name.endswith("weight"))).float()
    return module


@torch.no_grad()
def test_networks_give_what_taming_transformers_gives():
    sizes = {"ch": 32, "ch_mult": (1, 2, 2), "attn_resolutions": (8,), "resolution": 32, "z_channels": 4}
    images = torch.arange(3 * 16 * 24.0).mul(0.3).cos().view(1, 3, 16, 24)
    latents = torch.arange(4 * 4 * 6.0).mul(0.3).cos().view(1, 4, 4, 6)
    encoded, decoded = fill(TamingEncoder(**sizes))(images), fill(TamingDecoder(**sizes))(latents)
    # Computed with taming-transformers-rom1504 0.0.6, weights filled in the same way.
    for found, wanted in [
        (encoded[0, :, 1, 2], [8.6981, 10.7919, 1.6485, -9.1879]),
        (encoded[0, :, -1, -1], [-2.5663, -0.9299, 1.7836, 2.6622]),
        (decoded[0, :, 5, 7], [0.8745, -0.0090, -0.9223]),
        (decoded[0, :, -1, -1], [-2.5660, -2.6839, -2.0758]),
    ]:
        torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=5e-4)


@pytest.mark.parametrize(
    ("layout", "encoder", "decoder", "total", "tensors", "factor"),
    [
        ("taming_f16_1024", 29.30, 42.45, 72.14, (144, 194), 16),
        ("taming_f16_16384", 29.30, 42.45, 76.07, (144, 194), 16),
        ("llamagen_vq16", 29.30, 42.45, 71.88, (144, 194), 16),
        ("llamagen_vq8", 28.56, 41.42, 70.11, (126, 168), 8),
        ("ldm_f8_256", 27.40, 40.25, 67.65, (126, 168), 8),
    ],
)
def test_published_layouts_have_their_published_sizes(layout, encoder, decoder, total, tensors, factor):
    with torch.device("meta"):
        model = taming(**presets[layout])
    assert (millions(model.encoder), millions(model.decoder), millions(model)) == (encoder, decoder, total)
    assert (len(model.encoder.state_dict()), len(model.decoder.state_dict())) == tensors
    assert model.factor == factor


def test_attention_is_softmax_over_all_places():
    layer, x = Attention(8), torch.randn(2, 8, 3, 5)
    normed = layer.norm(x)
    q, k, v = (conv(normed).reshape(2, 8, 15) for conv in (layer.q, layer.k, layer.v))
    weights = torch.einsum("bcq,bck->bqk", q, k).div(8**0.5).softmax(2)  # (B, N, N)
    attended = torch.einsum("bqk,bck->bcq", weights, v).view(2, 8, 3, 5)
    torch.testing.assert_close(layer(x), x + layer.proj_out(attended))


def test_downsampling_pads_right_and_below_only():
    level = TamingEncoder(ch=4, ch_mult=(1, 1), attn_resolutions=()).down[0].downsample
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(
        level(x)[..., 0, 0], F.conv2d(x[..., :3, :3], level.conv.weight, level.conv.bias)[..., 0, 0]
    )


def test_attention_stands_where_the_config_says():
    with torch.device("meta"):
        encoder = TamingEncoder(ch=4, attn_resolutions=(64, 16))
        decoder = TamingDecoder(ch=4, attn_resolutions=(64, 16))
    assert [len(level.attn) for level in encoder.down] == [0, 0, 2, 0, 2]
    assert [len(level.attn) for level in decoder.up] == [0, 0, 3, 0, 3]


# The tokenizer.


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (4, 2), (16, 24)])
def test_images_of_any_size_come_back_at_their_size(size):
    model, images = tiny(), noise(*size)
    ids = model.encode(images)
    assert ids.shape == (2, -(-size[0] // 4), -(-size[1] // 4))
    assert ids.dtype == torch.int64
    assert model.decode(ids, size=size).shape == model(images).images.shape == images.shape


def test_padding_mirrors_where_it_can_and_repeats_the_edge_where_not():
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert pad_to(row, 4).tolist() == [[[[1, 2, 3, 2]] * 4]]
    assert pad_to(row[..., :2], 4).tolist() == [[[[1, 2, 2, 2]] * 4]]
    assert pad_to(row.expand(1, 1, 4, 3)[..., :2], 2).shape == (1, 1, 4, 2)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", [VectorQuantizer, VectorQuantizerEMA])
def test_decoding_the_ids_is_the_reconstruction_bit_for_bit(kind, metric):
    model, images = tiny(kind(16, 6, metric=metric)), noise(18, 20)
    out = model(images)
    ids = model.encode(images)
    assert torch.equal(ids, out.quantized.ids)
    assert len(ids.unique()) > 1
    assert torch.equal(model.decode(ids, size=(18, 20)), out.images)
    assert out.latents.shape == out.quantized.codes.shape == (2, 5, 5, 6)


def test_channels_last_changes_no_id():
    model, images = tiny(), noise(16, 16)
    ids = model.encode(images)
    model = model.to(memory_format=torch.channels_last)
    assert torch.equal(model.encode(images.contiguous(memory_format=torch.channels_last)), ids)


def test_only_forward_in_training_moves_a_codebook():
    model, images = tiny().train(), noise(16, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.decode(model.encode(images))
    model.tokens(images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model(images)
    assert not torch.equal(model.quantizer.weight, before["quantizer.weight"])


def test_gradients_reach_the_encoder_through_the_codes_and_decode_keeps_its_own():
    model, images = tiny(VectorQuantizer(16, 5)).train(), noise(8, 8)
    assert (model.to_codes.weight.shape, model.from_codes.weight.shape) == ((5, 6, 1, 1), (6, 5, 1, 1))
    out = model(images)
    (F.l1_loss(out.images, images) + out.quantized.codebook_loss).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    ids = model.encode(images)
    assert model.decode(ids).requires_grad
    assert not model.tokens(images).tokens.requires_grad


def test_images_leave_their_range_only_in_training():
    model, images = taming(**{**presets["ldm_f8_256"], **TINY}), noise(16, 16)
    nn.init.constant_(model.decoder.conv_out.bias, 3.0)
    assert model.train()(images).images.max() > 1
    assert model.eval()(images).images.max() <= 1
    assert model.train().decode(model.encode(images)).max() <= 1


def test_flat_ids_decode_as_their_grid():
    model = tiny()
    ids = torch.randint(16, (2, 3, 3))
    wide = torch.randint(16, (2, 2, 3))
    assert torch.equal(model.decode(ids.flatten(1)), model.decode(ids))
    assert torch.equal(model.decode(wide.flatten(1).to(torch.uint16), shape=(2, 3)), model.decode(wide))
    with pytest.raises(ValueError, match=r"6 ids are not a square.*shape="):
        model.decode(wide.flatten(1))
    with pytest.raises(ValueError, match="6 ids do not fill shape 2 × 2 = 4"):
        model.decode(wide.flatten(1), shape=(2, 2))
    with pytest.raises(ValueError, match=r"got \(2, 2, 3\), shape=\(3, 2\)"):
        model.decode(wide, shape=(3, 2))
    with pytest.raises(ValueError, match=r"\(8, 12\) pixels, of which no \(9, 12\)"):
        model.decode(wide, size=(9, 12))


@pytest.mark.parametrize(("low", "high", "worst"), [(0, 16, 16), (-1, 3, -1), (-2, 40, 40), (-60, 40, -60)])
def test_ids_out_of_the_codebook_are_named(low, high, worst):
    with pytest.raises(ValueError, match=f"id {worst} is not in the codebook of 16 codes"):
        tiny().decode(torch.tensor([[[low, 3, high]]]))


def test_images_of_another_kind_are_refused():
    for images, said in [
        (torch.zeros(1, 1, 8, 8), r"\(B, 3, H, W\), got \(1, 1, 8, 8\)"),
        (torch.zeros(3, 8, 8), r"got \(3, 8, 8\)"),
        (torch.zeros(1, 3, 0, 8), r"got \(1, 3, 0, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"floats in \[-1, 1\], got torch.uint8"),
    ]:
        with pytest.raises(ValueError, match=said):
            tiny().encode(images)
    with pytest.raises(ValueError, match=r"whole numbers, got torch.float32"):
        tiny().decode(torch.zeros(1, 2, 2))


def test_tokens_are_the_codes_and_their_mean():
    model, images = tiny(), noise(8, 12)
    encoded = model.tokens(images)
    torch.testing.assert_close(encoded.tokens, model(images).quantized.codes.flatten(1, 2), rtol=0, atol=0)
    torch.testing.assert_close(encoded.pooled, encoded.tokens.mean(1))
    assert encoded.mask is None


# Files.


@pytest.mark.parametrize(
    "quantizer",
    [
        VectorQuantizer(16, 5, 0.5, "cosine"),
        VectorQuantizerEMA(16, 6, decay=0.9, kmeans=True, restart_after=7),
        FrozenQuantizer(torch.randn(16, 6)),
    ],
    ids=lambda quantizer: type(quantizer).__name__,
)
def test_what_is_saved_comes_back_exactly(tmp_path, quantizer):
    model, images = tiny(quantizer).train(), noise(9, 8)
    model(images)
    model.eval().save_pretrained(tmp_path / "new" / "folder")
    state = torch.random.get_rng_state()
    for path in (tmp_path / "new" / "folder", tmp_path / "new" / "folder" / "model.safetensors"):
        again = VQImage.from_pretrained(path)
        assert not again.training
        assert again.config == model.config == json.loads(json.dumps(model.config))
        assert type(again.quantizer) is type(quantizer)
        assert torch.equal(again.quantizer.weight, model.quantizer.weight)
        assert torch.equal(again(images).images, model(images).images)
        assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
        again.train()(images)  # all of it is there, the statistics of an EMA codebook too
    assert torch.equal(torch.random.get_rng_state(), state)


def test_only_inference_is_saved_in_the_dtype_it_has(tmp_path):
    model = tiny().to(torch.bfloat16).to(memory_format=torch.channels_last)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert [name for name in weights if name.startswith("quantizer.")] == ["quantizer.weight"]
    codes = weights.pop("quantizer.weight")
    assert (codes.dtype, {weight.dtype for weight in weights.values()}) == (torch.float32, {torch.bfloat16})
    again = VQImage.from_pretrained(tmp_path)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in weights.items())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_folder_that_is_not_whole_is_said_to_be(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        VQImage.from_pretrained(tmp_path / "nowhere")
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: w for name, w in weights.items() if name != "quantizer.weight"}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not fit its config: 1 missing: quantizer\.weight$"):
        VQImage.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"not a safetensors file with the config of a VQImage"):
        VQImage.from_pretrained(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ValueError, match=r"not the config of a VQImage \(KeyError: 'encoder'\)"):
        VQImage.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: ends in the middle of its JSON"):
        VQImage.from_pretrained(tmp_path)
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"has no {name}"):
            VQImage.from_pretrained(tmp_path)


def theirs(model: VQImage) -> dict[str, torch.Tensor]:
    """The state under taming's names."""
    names = {"to_codes": "quant_conv", "from_codes": "post_quant_conv", "quantizer": "quantize.embedding"}
    return {names.get(k.split(".")[0], k.split(".")[0]) + k[k.index(".") :]: v for k, v in model.state_dict().items()}


def llamagen(state: dict[str, torch.Tensor], levels: int) -> dict[str, torch.Tensor]:
    """The same under LlamaGen's names, and what else its files hold."""
    renamed = {}
    for name, weight in state.items():
        name = re.sub(r"^(encoder\.down|decoder\.up)\.(\d)\.block\.", r"\1.\2.res.", name)
        name = re.sub(r"^encoder\.down\.", "encoder.conv_blocks.", name)
        name = re.sub(r"^decoder\.up\.(\d)", lambda m: f"decoder.conv_blocks.{levels - 1 - int(m[1])}", name)
        for place, word in enumerate(("block_1", "attn_1", "block_2")):
            name = name.replace(f"mid.{word}.", f"mid.{place}.")
        renamed[name] = weight
    return renamed | {"quantize.codebook_used": torch.zeros(65536)}


def save_lightning(path, monkeypatch, state) -> None:
    """As Lightning 1 did: the callback's class is a key, and is gone when the file is read."""
    module = types.ModuleType("vanished_lightning")
    monkeypatch.setitem(sys.modules, "vanished_lightning", module)
    exec("class ModelCheckpoint: pass", module.__dict__)
    loss = {
        "loss.perceptual_loss.lin0.model.1.weight": torch.ones(1),
        "loss.discriminator.main.0.weight": torch.ones(1),
    }
    torch.save({"state_dict": state | loss, "callbacks": {module.ModelCheckpoint: {"best": 1}}, "epoch": 9}, path)
    monkeypatch.delitem(sys.modules, "vanished_lightning")


def test_a_lightning_checkpoint_loads_without_lightning(tmp_path, monkeypatch):
    model = taming(**{**presets["taming_f16_1024"], **TINY}).eval()
    save_lightning(tmp_path / "last.ckpt", monkeypatch, theirs(model))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "last.ckpt", weights_only=True)
    loaded, images = load_published(tmp_path / "last.ckpt", "taming_f16_1024", **TINY), noise(32, 48, 1)
    assert not loaded.training
    assert torch.equal(loaded.encode(images), model.encode(images))
    assert torch.equal(loaded(images).images, model(images).images)


@pytest.mark.parametrize(("layout", "levels", "tensors"), [("llamagen_vq16", 5, 344), ("llamagen_vq8", 4, 300)])
def test_llamagen_names_and_taming_names_give_the_same_model(tmp_path, layout, levels, tensors):
    state = theirs(taming(**{**presets[layout], **TINY}))
    renamed = llamagen(state, levels)
    assert len(renamed) == tensors
    torch.save({"model": renamed}, tmp_path / "vq.pt")
    save_file(state, tmp_path / "vq.safetensors")
    images = noise(64, 96, 1)
    a, b = (load_published(tmp_path / name, layout, **TINY) for name in ("vq.pt", "vq.safetensors"))
    assert torch.equal(a.encode(images), b.encode(images))
    assert torch.equal(a(images).images, b(images).images)


def test_llamagen_looks_up_and_hands_out_unit_vectors(tmp_path):
    model = taming(**{**presets["llamagen_vq8"], **TINY})
    model.quantizer.weight.data.mul_(torch.rand(32, 1) * 9 + 1)  # stored rows have any length
    torch.save({"model": theirs(model)}, tmp_path / "vq.pt")
    out = load_published(tmp_path / "vq.pt", "llamagen_vq8", **TINY)(noise(32, 32))
    rows = F.normalize(model.quantizer.weight, dim=1)  # (K, D)
    assert torch.equal(out.quantized.ids, (F.normalize(out.latents, dim=3) @ rows.t()).argmax(3))
    torch.testing.assert_close(out.quantized.codes, rows[out.quantized.ids])


def test_averaged_weights_are_taken_when_asked_for(tmp_path):
    layout, last, average = "ldm_f8_256", *(taming(**{**presets["ldm_f8_256"], **TINY}) for _ in range(2))
    torch.save({"model": theirs(last), "ema": theirs(average)}, tmp_path / "two.pt")
    dotless = {f"model_ema.{name.replace('.', '')}": w for name, w in theirs(average).items()}
    beside = theirs(last) | dotless | {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(1)}
    torch.save({"state_dict": beside}, tmp_path / "beside.ckpt")
    torch.save(theirs(last), tmp_path / "none.pt")
    for name in ("two.pt", "beside.ckpt"):
        for ema, model in ((False, last), (True, average)):
            loaded = load_published(tmp_path / name, layout, ema=ema, **TINY).state_dict()
            assert all(torch.equal(weight, loaded[key]) for key, weight in model.state_dict().items())
    with pytest.raises(ValueError, match=r"none\.pt contains no averaged weights; load it without ema=True"):
        load_published(tmp_path / "none.pt", layout, ema=True, **TINY)


def test_half_precision_files_are_loaded_as_float32(tmp_path):
    torch.save(theirs(taming(**{**presets["ldm_f8_256"], **TINY}).half()), tmp_path / "half.pt")
    loaded = load_published(tmp_path / "half.pt", "ldm_f8_256", **TINY)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_a_file_of_another_layout_says_which(tmp_path):
    small = {"ch": 4, "z_channels": 8, "dim": 8}
    torch.save(theirs(taming(**{**presets["taming_f16_1024"], **small})), tmp_path / "vqgan.ckpt")
    with pytest.raises(ValueError) as error:
        load_published(tmp_path / "vqgan.ckpt", "taming_f16_16384", **small)
    assert str(error.value) == (
        f"{tmp_path / 'vqgan.ckpt'} does not fit layout taming_f16_16384: "
        "1 other shapes: quantizer.weight is (1024, 8) in the file and (16384, 8) in the model. "
        "It fits layout taming_f16_1024"
    )


def test_missing_and_unexpected_tensors_are_named(tmp_path):
    state = theirs(taming(**{**presets["ldm_f8_256"], **TINY}))
    state["encoder.surplus"] = state.pop("decoder.conv_in.bias")
    torch.save(state, tmp_path / "odd.ckpt")
    with pytest.raises(ValueError, match=r": 1 missing: decoder\.conv_in\.bias; 1 unexpected: encoder\.surplus$"):
        load_published(tmp_path / "odd.ckpt", "ldm_f8_256", **TINY)
    with pytest.raises(ValueError, match=r"'vqgan' is not known; there are taming_f16_1024, .*llamagen_vq8"):
        load_published(tmp_path / "odd.ckpt", "vqgan")


def test_training_goes_on_from_the_codes_of_a_file(tmp_path):
    model, images = tiny(VectorQuantizerEMA(16, 6, kmeans=True)).train(), noise(32, 32)
    model(images)
    model.save_pretrained(tmp_path)
    again = VQImage.from_pretrained(tmp_path).train()
    latents = again(images).latents.reshape(-1, 6).detach()
    before, after = model.quantizer.weight, again.quantizer.weight
    ids = model.quantizer.nearest(latents)
    means = torch.stack([latents[ids == n].mean(0) if (ids == n).any() else before[n] for n in range(16)])
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, torch.lerp(before, means, 0.01))
