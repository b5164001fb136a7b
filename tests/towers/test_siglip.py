import json
import logging
import pickle
import shutil
import socket

import numpy as np
import open_clip
import pytest
import timm
import torch
from made import assert_same
from open_clip.model import CustomTextCLIP
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoModel, AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast, SiglipConfig, SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from sightword.storage.checkpoint import differences
from sightword.towers.siglip import encoder as siglip
from sightword.towers.siglip import open_clip as siglip_open_clip
from sightword.towers.siglip.encoder import SigLIP
from sightword.towers.tokenizer import HFTokenizer

LENGTH = 10
WORDS = ["a", "man", "woman", "in", "red", "blue", "coat", "with", "the", "bag", "redcoat"]
TEXTS = ["a man in a red coat", "a woman"]


# ---------------------------------------------------------------------------------------------------- small checkpoints


def write_tokenizer(folder, pad="</s>"):
    """A vocabulary as SigLIP's (pad and end are one) or, with a pad of its own, as SigLIP 2's; it cleans nothing."""
    first = ["<unk>", "</s>"] if pad == "</s>" else ["<unk>", "</s>", pad]
    vocabulary = [(piece, 0.0) for piece in first]
    vocabulary += [(f"▁{word}", -2.0) for word in [*WORDS, *(word.upper() for word in WORDS), ","]]
    vocabulary += [(letter, -9.0) for letter in "▁abcdefghijklmnopqrstuvwxyz.,!"]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token=pad
    ).save_pretrained(folder)


def randomise(model: nn.Module) -> nn.Module:
    """Weights that leave nothing at its start value: a zero bias would hide a bias that is read wrongly."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        scale = 0.2 if parameter.ndim and "norm" not in name else 0.02
        parameter.data += torch.randn(parameter.shape, generator=generator) * scale
    return model.eval()


def hf_config(image_size=32, **vision):
    shared = {"hidden_size": 24, "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 3}
    ids = {"vocab_size": 80, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    return SiglipConfig(
        vision_config={**shared, "image_size": image_size, "patch_size": 8, **vision},
        text_config={**shared, **ids, "max_position_embeddings": LENGTH, "projection_size": 24},
    )


def write_hf(folder, pad="</s>", resample=2, shards="1GB", **config):
    """What is at Hugging Face under google/siglip…, made small."""
    model = randomise(SiglipModel(hf_config(**config)))
    model.save_pretrained(folder, max_shard_size=shards)
    write_tokenizer(folder, pad)
    side = model.config.vision_config.image_size
    SiglipImageProcessorPil(size={"height": side, "width": side}, resample=resample).save_pretrained(folder)
    return model


@timm.models.register_model
def vit_siglip_of_these_tests(pretrained=False, **options):
    known = {"num_classes", "global_pool", "act_layer"}
    return VisionTransformer(**_trunk, **{key: value for key, value in options.items() if key in known})


_trunk: dict = {}


def model_cfg(text=(), **changes):
    vision = {"image_size": 32, "timm_model_name": "vit_siglip_of_these_tests", "timm_pool": "map", "timm_proj": "none"}
    sizes = {"context_length": LENGTH, "vocab_size": 80, "width": 24, "heads": 3, "layers": 2}
    tokenizer = {"hf_tokenizer_name": "timm/ViT-B-16-SigLIP", "tokenizer_kwargs": {"clean": "canonicalize"}}
    kind = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    text_cfg = {**sizes, **tokenizer, **kind, **dict(text)}
    top = {"embed_dim": 24, "init_logit_bias": -10, "custom_text": True}
    return {**top, "vision_cfg": vision, "text_cfg": text_cfg, **changes}


def write_open_clip(folder, trunk=(), **changes):
    """A folder as open_clip's local-dir has it. trunk: changes of the timm model, kept for who loads it."""
    _trunk.clear()
    _trunk.update({"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "class_token": False})
    _trunk.update(trunk)
    cfg = model_cfg(**changes)
    model = randomise(CustomTextCLIP(**{key: value for key, value in cfg.items() if key != "custom_text"}))
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    write_tokenizer(folder)
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, transformers' model, ours)"""
    folder = tmp_path_factory.mktemp("siglip") / "hf"
    return folder, write_hf(folder), SigLIP.load(folder)


@pytest.fixture
def hf(made):
    return made[1]


@pytest.fixture
def pair(made):
    return made[2]


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the folder, to be damaged."""
    return shutil.copytree(made[0], tmp_path / "copied")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def images(*size, count=2):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


def near(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
    assert theirs.std() > 0.01


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# ----------------------------------------------------------------------------------------------- equal to Hugging Face


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (48, 16), (16, 64), (8, 8)])
@torch.no_grad()
def test_images_of_any_grid_are_encoded_as_hugging_face_encodes_them(hf, pair, size):
    theirs = hf.vision_model(images(*size), interpolate_pos_encoding=True)
    ours = pair.image(images(*size))
    near(ours.tokens, theirs.last_hidden_state)
    near(ours.pooled, theirs.pooler_output)
    h, w = pair.image.grid(size)
    assert ours.tokens.shape == (2, h * w, pair.image.width)
    assert ours.pooled.shape == (2, pair.image.embed_dim)
    assert ours.mask is None


@torch.no_grad()
def test_texts_are_encoded_as_hugging_face_encodes_them_padding_and_all(made, hf, pair):
    padded = AutoTokenizer.from_pretrained(made[0])(TEXTS, padding="max_length", max_length=LENGTH, return_tensors="pt")
    theirs, ours = hf.text_model(padded["input_ids"]), pair.text.encode(TEXTS)
    near(ours.tokens, theirs.last_hidden_state)
    near(ours.pooled, theirs.pooler_output)
    assert torch.equal(ours.mask, padded["attention_mask"].bool())
    assert ours.tokens.shape == (2, LENGTH, pair.text.width)
    assert ours.pooled.shape == (2, pair.text.embed_dim)
    masked = hf.text_model(**{key: padded[key] for key in ("input_ids", "attention_mask")}).pooler_output
    assert (masked - ours.pooled).abs().max() > 1e-3


@torch.no_grad()
def test_scores_are_hugging_faces_logits(hf, pair):
    ids = pair.text.tokenizer(TEXTS).ids
    near(
        pair.scores(pair.image(images(32, 32, count=3)).pooled, pair.text(ids).pooled),
        hf(pixel_values=images(32, 32, count=3), input_ids=ids).logits_per_image,
    )
    assert torch.equal(pair.logit_scale, hf.logit_scale)
    assert torch.equal(pair.logit_bias, hf.logit_bias)


def test_pictures_are_preprocessed_as_the_checkpoint_says(tmp_path, copied, photos):
    pictures = [Image.open(photos / f"{number}.png").convert("RGB") for number in range(3)]
    found = {}
    for resample in (0, 2, 3):
        processor = SiglipImageProcessorPil(
            size={"height": 32, "width": 24}, resample=resample, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.5]
        )
        processor.save_pretrained(copied)
        theirs = torch.as_tensor(np.array(processor(pictures)["pixel_values"]))
        found[resample] = SigLIP.load(copied).image.preprocess.batch(pictures)
        torch.testing.assert_close(found[resample], theirs, rtol=0, atol=1e-6)
    assert (found[2] - found[3]).abs().max() > 0.01
    (copied / "preprocessor_config.json").rename(copied / "kept.json")
    (copied / "processor_config.json").write_text(json.dumps({"image_processor": processor.to_dict()}))
    assert torch.equal(SigLIP.load(copied).image.preprocess.batch(pictures), found[3])


def test_a_size_is_the_preprocessings_and_the_weights_stay(made, pair, photos):
    tall = SigLIP.load(made[0], size=(48, 16))
    encoded = tall.image.encode([Image.open(photos / "0.png").convert("RGB")])
    assert encoded.tokens.shape == (1, 12, 24)
    assert tall.image.grid() == (6, 2)
    with torch.no_grad():
        assert torch.equal(tall.image(images(32, 32)).pooled, pair.image(images(32, 32)).pooled)


@torch.no_grad()
def test_the_tower_reads_its_own_size_though_patches_leave_a_rest(tmp_path):
    hf = write_hf(tmp_path / "odd", image_size=30)  # 3 patches of 8 and 6 pixels, as 384 = 27 · 14 + 6
    image = SigLIP.load(tmp_path / "odd", size=(30, 30)).image
    assert image.grid() == (3, 3)
    near(image(images(30, 30)).pooled, hf.vision_model(images(30, 30)).pooler_output)
    with pytest.raises(ValueError, match="images of 30×24 pixels do not cut"):
        image(images(30, 24))
    with pytest.raises(ValueError, match="size is 38×38: height and width are multiples of the patch, 8"):
        SigLIP.load(tmp_path / "odd", size=(38, 38))


def test_weights_in_several_files_are_read(tmp_path):
    hf = write_hf(tmp_path / "shards", shards="20KB")
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    ours = SigLIP.load(tmp_path / "shards")
    for one, other in ((ours.image.network, hf.vision_model), (ours.text.network, hf.text_model)):
        assert_same(one.state_dict(), other.state_dict())


def test_positions_numbers_that_old_files_have_are_left_out(copied, hf):
    weights = load_file(copied / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]
    save_file(weights, copied / "model.safetensors")
    assert_same(SigLIP.load(copied).text.network.state_dict(), hf.text_model.state_dict())


def test_an_architecture_is_all_but_weights_and_preprocessing_in_plain_data(tmp_path, made, pair):
    found = pair.image.architecture
    assert json.loads(json.dumps(found)) == found
    assert SigLIP.load(made[0], size=(48, 16), dtype=torch.bfloat16).image.architecture == found
    write_open_clip(tmp_path / "m")
    assert SigLIP.load(tmp_path / "m").image.architecture != found  # of another activation and another hidden width
    for changed in ({"hidden_act": "gelu"}, {"layer_norm_eps": 1e-3}, {"num_attention_heads": 2}):
        write_hf(tmp_path / "other", **changed)
        assert SigLIP.load(tmp_path / "other").image.architecture == found | changed


# -------------------------------------------------------------------------------------------------- equal to open_clip


NEWER = {"width": 32, "heads": 4, "layers": 3, "mlp_ratio": 3.7362}
NEWER |= {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}}


@pytest.mark.parametrize(
    ("trunk", "text"), [({}, {}), ({}, {"proj_type": "none"}), ({"act_layer": "gelu_tanh", "mlp_ratio": 3.7362}, NEWER)]
)
@torch.no_grad()
def test_open_clips_weights_give_what_open_clip_gives(tmp_path, trunk, text):
    model = write_open_clip(tmp_path / "m", trunk, text=text)
    ours = SigLIP.load(tmp_path / "m")
    ids, encoded = ours.text.tokenizer(TEXTS).ids, ours.image(images(32, 32))
    near(encoded.tokens, model.visual.trunk.forward_features(images(32, 32)))
    near(encoded.pooled, model.encode_image(images(32, 32)))
    near(ours.text(ids).pooled, model.encode_text(ids))
    near(ours.scores(encoded.pooled, ours.text(ids).pooled), model.get_logits(images(32, 32), ids)[0])
    acts = {ours.image.network.config.hidden_act, ours.text.network.config.hidden_act}
    assert acts == {"gelu_pytorch_tanh" if text is NEWER else "gelu"}
    pieces = [layer.self_attn.q_proj.weight.untyped_storage().nbytes() for layer in ours.image.network.encoder.layers]
    assert pieces == [24 * 24 * 4] * 2  # not a third of one memory


def test_open_clips_preprocessing_is_followed(tmp_path, photos):
    write_open_clip(tmp_path / "m")
    usual = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    newer = {"mean": [0.1, 0.2, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "resize_mode": "shortest"}
    for changes in (usual, newer, {}):
        edit(tmp_path / "m" / "open_clip_config.json", preprocess_cfg=changes)
        theirs = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'm'}")[2]
        ours = SigLIP.load(tmp_path / "m").image.preprocess
        for number in range(3):
            picture = Image.open(photos / f"{number}.png").convert("RGB")
            torch.testing.assert_close(ours(picture), theirs(picture), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "ViT-SO400M-14-SigLIP-384", "ViT-gopt-16-SigLIP2-256"])
def test_published_open_clips_fit_hugging_faces_network(tmp_path, name):
    write_tokenizer(tmp_path)
    model = siglip_open_clip._empty(open_clip.get_model_config(name), tmp_path)
    config = siglip_open_clip._hf_config(model, HFTokenizer(AutoTokenizer.from_pretrained(tmp_path), 64), tmp_path)
    with torch.device("meta"):
        wanted = SiglipModel(config).state_dict()
    assert differences(wanted, siglip_open_clip._hf_names(model.state_dict(), tmp_path)) == ""
    assert config.text_config.hidden_act == ("gelu_pytorch_tanh" if "SigLIP2" in name else "gelu")


def test_a_model_of_open_clip_is_read_by_its_tag_or_from_a_file(tmp_path, monkeypatch):
    write_open_clip(tmp_path / "m")
    name, file = "ViT-Tests-SigLIP", tmp_path / "m" / "open_clip_model.safetensors"
    weights = load_file(file)
    save_file({**weights, "logit_bias": weights["logit_bias"].reshape(1)}, tmp_path / "another.safetensors")
    published = {"file": str(file), "mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    cfg = model_cfg(text={"hf_tokenizer_name": str(tmp_path / "m")})
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, cfg)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"webli": published})
    folder = SigLIP.load(tmp_path / "m")
    for tag in ("", "webli", tmp_path / "another.safetensors"):
        named = SigLIP.load(name, tag=tag)
        assert_same(named.state_dict(), folder.state_dict())
        assert named.image.preprocess == folder.image.preprocess
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED[name], "other", published)
    one_line(ValueError, "needs the tag of its weights; there are webli, other, or give a weights file", name)
    one_line(ValueError, "has no weights 'webly'; there are webli, other, or give a weights file", name, tag="webly")


@pytest.mark.parametrize(
    ("trunk", "changes", "told"),
    [
        ({"init_values": 0.1}, {}, "blocks.0.ls1.gamma, which has no place"),
        ({"qk_norm": True}, {}, "blocks.0.attn.[kq]_norm.[a-z]+, which has no place"),
        ({"class_token": True}, {}, "cls_token, which has no place"),
        ({"qkv_bias": False}, {}, "does not fit SiglipModel: 6 missing: vision_model.encoder.layers.0.self_attn"),
        ({"act_layer": "relu"}, {}, "has ReLU for its activation"),
        ({"img_size": (32, 16)}, {}, r"images of \(32, 16\) in patches of \(8, 8\)"),
        ({}, {"text": {"no_causal_mask": False}}, "its texts are masked"),
        ({}, {"text": {"pool_type": "first"}}, "their vector is not the last token's"),
        ({}, {"text": {"proj_bias": False}}, "text.text_projection, which has no place"),
        ({}, {"text": {"ls_init_value": 0.1}}, "resblocks.0.ls_1.gamma, which has no place"),
        ({}, {"text": {"embed_cls": True}}, "text.cls_emb, which has no place"),
        ({}, {"quick_gelu": True}, "has QuickGELU for its activation"),
        ({}, {"init_logit_bias": None}, "is a CLIP, not a SigLIP"),
    ],
)
def test_an_open_clip_that_is_another_network_is_refused(tmp_path, trunk, changes, told):
    write_open_clip(tmp_path / "m", trunk, **changes)
    with pytest.raises(ValueError, match=told) as caught:
        SigLIP.load(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_open_clips_are_told_apart_by_what_they_are(tmp_path):
    write_open_clip(tmp_path / "m")
    shutil.copytree(tmp_path / "m", tmp_path / "clip")
    edit(tmp_path / "clip" / "open_clip_config.json", model_cfg=model_cfg(init_logit_bias=None))
    known = {"ViT-B-16-SigLIP2": True, "ViT-B-16": False, "ViT-B-16-SigLip3": True, tmp_path / "m": True}
    known |= {tmp_path / "clip": False, "vit_b17": False}
    assert {name: siglip.is_open_clips(name) for name in known} == known


# --------------------------------------------------------------------------------------------------------------- words


def words_read(pair, text):
    tokenizer = pair.text.tokenizer
    pieces = tokenizer.hf.convert_ids_to_tokens(tokenizer(text).ids[0].tolist())
    return "".join(piece for piece in pieces if piece[0] != "<").replace("▁", " ").strip()


def test_siglip_reads_lowercase_without_punctuation_and_siglip_2_only_lowercase(tmp_path, pair):
    assert words_read(pair, "A Man, in\n red_coat!") == "a man in red coat"
    write_hf(tmp_path / "second", pad="<pad>")
    assert words_read(SigLIP.load(tmp_path / "second"), "A Man, in RED") == "a man, in red"


def test_open_clip_says_how_its_texts_are_cleaned_and_a_saved_folder_remembers(tmp_path):
    write_open_clip(tmp_path / "m")
    write_tokenizer(tmp_path / "m", pad="<pad>")
    pair = SigLIP.load(tmp_path / "m")
    pair.save(tmp_path / "saved")
    for either in (pair, SigLIP.load(tmp_path / "saved")):
        assert words_read(either, "A Man, in RED") == "a man in red"
    write_open_clip(tmp_path / "plain", text={"tokenizer_kwargs": {}})
    assert words_read(SigLIP.load(tmp_path / "plain"), "A  RED,") == "A RED,"


def test_a_text_fills_the_length_it_was_trained_with(pair):
    ids, mask = pair.text.tokenizer(TEXTS)
    assert ids.shape == (2, LENGTH)
    assert mask.sum(1).tolist() == [7, 3]
    assert ids[1].tolist() == [2, 4, 1] + [1] * 7
    with pytest.raises(ValueError, match=r"^ids are 7 wide, .* reads its padding too: pad them to 10$"):
        pair.text(ids[:, :7], mask[:, :7])
    with pytest.raises(ValueError, match="the context of .* is 10"):
        pair.text(torch.ones(1, 11, dtype=torch.long))
    with pytest.raises(ValueError, match="has 13 tokens, this tower reads 10"):
        pair.text.encode(["a " * 12])


# ------------------------------------------------------------------------------------------------------ saved and read


@pytest.mark.parametrize("source", ["hf", "open_clip"])
@torch.no_grad()
def test_a_saved_pair_is_read_back_exactly_without_network(tmp_path, made, photos, no_network, source):
    if source == "open_clip":
        write_open_clip(tmp_path / "m")
    first = SigLIP.load(made[0] if source == "hf" else tmp_path / "m", size=(48, 16))
    first.image.freeze()
    picture = [Image.open(photos / "0.png").convert("RGB")]
    before = first.image.encode(picture), first.text.encode(TEXTS)
    first.save(tmp_path / "saved")
    again = SigLIP.load(tmp_path / "saved")
    assert again.image.preprocess == first.image.preprocess
    for mine, other in (
        (first.image.encode(picture), again.image.encode(picture)),
        (first.text.encode(TEXTS), again.text.encode(TEXTS)),
        (first.image.encode(picture), before[0]),
        (first.text.encode(TEXTS), before[1]),
    ):
        assert torch.equal(mine.tokens, other.tokens)
        assert torch.equal(mine.pooled, other.pooled)
    assert {part.network.config._attn_implementation for part in (first.image, first.text)} == {"sdpa"}
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}  # for transformers 4
    theirs = AutoModel.from_pretrained(tmp_path / "saved")
    inputs = AutoProcessor.from_pretrained(tmp_path / "saved")(
        images=picture, text=TEXTS, padding="max_length", max_length=LENGTH, return_tensors="pt"
    )
    assert type(theirs) is SiglipModel
    assert inputs["pixel_values"].shape == (1, 3, 48, 16)
    pooled = theirs.vision_model(first.image.preprocess.batch(picture), interpolate_pos_encoding=True).pooler_output
    texts = theirs.text_model(inputs["input_ids"]).pooler_output
    # their weights are views of the mapped file: with another alignment some processors sum in another order
    torch.testing.assert_close(pooled, first.image.encode(picture).pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(texts, first.text.encode(TEXTS).pooled, rtol=1e-5, atol=1e-5)
    assert torch.equal(theirs.logit_bias, first.logit_bias)


def test_a_save_that_is_stopped_leaves_the_folder_as_it_was(copied, pair, monkeypatch):
    before = {file.name: file.read_bytes() for file in copied.iterdir()}

    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(siglip, "write_weights", stop)
    with pytest.raises(KeyboardInterrupt):
        pair.save(copied)
    assert {file.name: file.read_bytes() for file in copied.iterdir()} == before


def test_a_mask_of_numbers_leaves_as_bool(pair):
    ids, mask = pair.text.tokenizer(TEXTS)
    assert pair.text(ids, mask.long()).mask.dtype == torch.bool


def test_ids_and_pictures_that_are_none_are_one_line(pair):
    for wrong, told in (
        (lambda: pair.text(torch.full((1, LENGTH), 80)), "id 80 is not one of the 80 tokens"),
        (lambda: pair.text(torch.full((1, LENGTH), -1)), "id -1 is not one of the 80 tokens"),
        (lambda: pair.text.encode([]), r"ids are \(0, 10\): give one text or more"),
        (lambda: pair.image.encode([]), "no image to encode"),
    ):
        with pytest.raises(ValueError, match=told):
            wrong()


def test_a_preprocessing_that_hugging_face_cannot_say_is_not_saved(tmp_path):
    write_open_clip(tmp_path / "m")
    edit(tmp_path / "m" / "open_clip_config.json", preprocess_cfg={})
    with pytest.raises(ValueError, match="cannot say resize='shortest'"):
        SigLIP.load(tmp_path / "m").save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# ------------------------------------------------------------------------------------------------------------ precision


@torch.no_grad()
def test_weights_in_bfloat16_give_float32_near_that_of_float32(made, pair, tmp_path):
    half = SigLIP.load(made[0], dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    for size in ((32, 32), (48, 16)):
        for mine, other in (
            (half.image(images(*size)), pair.image(images(*size))),
            (half.text.encode(TEXTS), pair.text.encode(TEXTS)),
        ):
            assert mine.tokens.dtype == mine.pooled.dtype == torch.float32
            assert torch.cosine_similarity(mine.pooled, other.pooled).min() > 0.99
            assert torch.cosine_similarity(mine.tokens, other.tokens, dim=-1).min() > 0.99
            assert not torch.equal(mine.pooled, other.pooled)
    assert half.scores(other.pooled, other.pooled).dtype == torch.float32
    half.save(tmp_path / "half")
    assert load_file(tmp_path / "half" / "model.safetensors")["logit_scale"].dtype == torch.bfloat16
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModel.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    assert {parameter.dtype for parameter in SigLIP.load(tmp_path / "half").parameters()} == {torch.float32}


def test_a_frozen_tower_stays_as_it_is_through_train(made):
    pair = SigLIP.load(made[0])
    assert all(parameter.requires_grad for parameter in pair.parameters())
    for tower in (pair.image, pair.text):
        for module in tower.modules():
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.5  # would be seen
    pair.image.freeze()
    pair.text.freeze()
    before = pair.image(images(32, 32)).pooled, pair.text.encode(TEXTS).pooled
    pair.train()
    after = pair.image(images(32, 32)).pooled, pair.text.encode(TEXTS).pooled
    assert all(torch.equal(*both) for both in zip(before, after, strict=True))
    assert not any(both.requires_grad for both in after)
    images_that_learn = images(32, 32).requires_grad_()
    pair.image(images_that_learn).pooled.sum().backward()
    assert images_that_learn.grad.abs().sum() > 0


@torch.no_grad()
def test_an_image_and_a_text_do_not_depend_on_their_neighbours(pair):
    batch = images(32, 32, count=3)
    batch[1] = float("nan")
    ours = pair.image(batch)
    assert ours.pooled[1].isnan().all()
    torch.testing.assert_close(ours.pooled[[0, 2]], pair.image(batch[[0, 2]]).pooled, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        pair.text.encode(TEXTS).pooled[1:], pair.text.encode(TEXTS[1:]).pooled, rtol=0, atol=1e-5
    )


def test_loading_and_saving_say_nothing(copied, tmp_path, capfd):
    said, handler = [], logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("transformers").addHandler(handler)
    text_config = json.loads((copied / "config.json").read_text())["text_config"]
    edit(copied / "config.json", text_config={**text_config, "bos_token_id": 49406})  # as the published ones
    pair = SigLIP.load(copied)
    assert said == []
    pair.save(tmp_path / "saved")
    logging.getLogger("transformers").removeHandler(handler)
    assert said == []
    assert capfd.readouterr() == ("", "")


def test_the_tokenizer_goes_to_the_workers_of_a_loader(pair):
    there = pickle.loads(pickle.dumps(pair.text.tokenizer))
    assert torch.equal(there("A Man, in red").ids, pair.text.tokenizer("a man in red").ids)


def test_loading_draws_no_random_numbers_and_leaves_every_weight_in_memory(made):
    before = torch.get_rng_state()
    pair = SigLIP.load(made[0])
    assert torch.equal(before, torch.get_rng_state())
    assert not pair.training
    assert not any(tensor.is_meta for tensor in (*pair.parameters(), *pair.buffers()))


# --------------------------------------------------------------------------------------------------------------- errors


def one_line(expected, match, *args, **kwargs):
    with pytest.raises(expected, match=match) as caught:
        SigLIP.load(*args, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "error", "told"),
    [
        ("siglip_b61", {}, ValueError, r"no SigLIP 'siglip_b61' \(did you mean siglip_b16 or"),
        (
            "ViT-B-16-SigLIP",
            {"tag": "laion"},
            ValueError,
            "has no weights 'laion'; there are webli, or give a weights file",
        ),
        ("ViT-B-16", {}, ValueError, "is a CLIP, not a SigLIP"),
        ("nllb-clip-base-siglip", {}, ValueError, "reads its texts with facebook/nllb-200-distilled-600M"),
        ("siglip_b16", {"tag": "webli"}, ValueError, "tag=webli is for open_clip's own models"),
        ("/no/such/folder", {}, FileNotFoundError, "there is no folder /no/such/folder"),
        ("./no/such", {}, FileNotFoundError, "there is no folder"),
    ],
)
def test_an_unknown_name_gets_one_line(name, options, error, told, no_network):
    one_line(error, told, name, **options)


@pytest.mark.parametrize("name", ["siglip2_b16", "someone/siglip", "ViT-B-16-SigLIP"])
def test_what_is_not_in_the_cache_gets_one_line_when_offline(name, tmp_path, monkeypatch, no_network):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    one_line(FileNotFoundError, "could not be fetched", name)


def rename_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights["text_model.head.weights"] = weights.pop("text_model.head.weight")
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: edit(f / "config.json", model_type="siglip2"), "NaFlex SigLIP 2 .* google/siglip2-base-patch16-224"),
        (lambda f: edit(f / "config.json", model_type="clip"), "is of model_type clip, not siglip"),
        (lambda f: edit(f / "config.json", model_type="siglip_vision_model"), "is of model_type siglip_vision_model"),
        (lambda f: (f / "config.json").write_text("{"), "ends in the middle of its JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "expected an object, got an empty list"),
        (lambda f: edit(f / "config.json", vision_config={"hidden_size": "wide"}), "is not the config of a SigLIP"),
        (lambda f: edit(f / "config.json", vision_config={"hidden_size": 25}), "no SigLIP can be built"),
        (lambda f: edit(f / "config.json", vision_config={"vision_use_head": False}), "has no pooling head"),
        (
            lambda f: edit(f / "config.json", vision_config={**hf_config(image_size=40).vision_config.to_dict()}),
            r"position_embedding.weight is \(16, 24\) in the file and \(25, 24\) in the model",
        ),
        (rename_a_weight, "1 missing: text_model.head.weight; 1 unexpected: text_model.head.weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"<html>"), "is not a whole safetensors file"),
        (lambda f: edit(f / "preprocessor_config.json", size={"shortest_edge": 32}), "resizes to a height and a width"),
        (lambda f: edit(f / "preprocessor_config.json", do_normalize=False), "has do_normalize=false"),
        (lambda f: edit(f / "preprocessor_config.json", resample=1), "interpolation='lanczos' is none of"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "has a tokenizer that is not read"),
        (lambda f: edit(f / "tokenizer_config.json", pad_token=None), "has no padding token"),
        (lambda f: edit(f / "tokenizer_config.json", clean="thoroughly"), "clean='thoroughly', which is none of"),
    ],
)
def test_a_damaged_folder_gets_one_line(copied, damage, told):
    damage(copied)
    one_line(ValueError, told, copied)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_folder_says_which_file_it_lacks(copied, file):
    (copied / file).unlink()
    one_line(FileNotFoundError, f"has no {file}", copied)


def test_a_damaged_open_clip_folder_gets_one_line(tmp_path):
    write_open_clip(tmp_path / "m")
    weights = load_file(tmp_path / "m" / "open_clip_model.safetensors")
    save_file(
        {**weights, "visual.trunk.pos_embed": torch.zeros(1, 9, 24)}, tmp_path / "m" / "open_clip_model.safetensors"
    )
    one_line(ValueError, r"visual.trunk.pos_embed is \(1, 9, 24\) in the file and \(1, 16, 24\)", tmp_path / "m")
    (tmp_path / "m" / "open_clip_model.safetensors").unlink()
    one_line(FileNotFoundError, "no weights; they are called open_clip_model.safetensors", tmp_path / "m")
    edit(tmp_path / "m" / "open_clip_config.json", model_cfg=model_cfg(vision_cfg={"timm_model_name": "vit_of_nobody"}))
    (tmp_path / "m" / "open_clip_model.safetensors").write_bytes(b"")
    one_line(ValueError, "this open_clip cannot build: Unknown model", tmp_path / "m")


def test_code_that_comes_with_a_tokenizer_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run it"))
    write_open_clip(tmp_path / "m")
    auto_map = {"AutoTokenizer": [None, "theirs.Tokenizer"]}
    edit(tmp_path / "m" / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Theirs")
    (tmp_path / "m" / "theirs.py").write_text("raise SystemExit")
    one_line(ValueError, "has a tokenizer that is not read: .*contains custom code", tmp_path / "m")


def test_images_of_another_kind_are_refused(pair):
    for wrong, told in (
        (torch.zeros(1, 3, 33, 32), "do not cut into patches"),
        (torch.zeros(3, 32, 32), "float"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "float"),
    ):
        with pytest.raises(ValueError, match=told):
            pair.image(wrong)
