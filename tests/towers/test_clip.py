import json

import open_clip
import pytest
import torch
import torch.nn.functional as F
from made import write_clip
from PIL import Image
from safetensors.torch import load_file, save_file

from sightword.errors import SightwordError
from sightword.miniature.tower import _wordpiece
from sightword.towers import hub
from sightword.towers.clip import checkpoint as clip_checkpoint
from sightword.towers.clip import dense as clip_dense
from sightword.towers.clip import encoder as clip
from sightword.towers.clip.dense import TokenType
from sightword.towers.clip.encoder import CLIP
from sightword.towers.clip.positions import causal_mask, resize_image_positions, resize_text_positions
from sightword.towers.preprocess import Preprocess

TEXTS = ["a photo of a cat", "two dogs, a couch and a very long red boat"]


@pytest.fixture(scope="module")
def pair(random_clip):
    return CLIP.load(random_clip[0])


def images(*size, seed=0, count=2):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------ equal to open_clip


@pytest.mark.parametrize("pool", ["tok", "avg"])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("quick", [False, True])
def test_images_are_encoded_as_open_clip_encodes_them(tmp_path, pool, late, quick):
    model = write_clip(tmp_path / "m", {"pool_type": pool, "final_ln_after_pool": late}, quick_gelu=quick)
    with torch.no_grad():
        ours, theirs = CLIP.load(tmp_path / "m").image(images(32, 32)).pooled, model.encode_image(images(32, 32))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert theirs.std() > 0.1


@pytest.mark.parametrize("size", [(224, 224), (224, 304), (384, 128), (64, 64)])
def test_any_size_gives_what_open_clip_gives_with_resampled_positions(random_clip, pair, size):
    theirs = open_clip.create_model(f"local-dir:{random_clip[0]}", force_image_size=size).eval()
    theirs.visual.output_tokens = True
    with torch.no_grad():
        pooled, tokens = theirs.visual(images(*size, count=1))
        resampled_then = pair.image.token_types(images(*size, count=1), ["post"])["post"]
        resampled_once = CLIP.load(random_clip[0], size=size, token_type="post").image(images(*size, count=1))
    for ours in (resampled_then, resampled_once):
        torch.testing.assert_close(ours.pooled, pooled, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.tokens, tokens, rtol=0, atol=1e-5)
    assert tokens.shape[1] == pair.image.grid(size)[0] * pair.image.grid(size)[1]


def test_texts_are_encoded_as_open_clip_encodes_them(random_clip, pair):
    ids = open_clip.get_tokenizer("ViT-B-16")(TEXTS)
    with torch.no_grad():
        theirs, ours, padded = random_clip[1].encode_text(ids), pair.text.encode(TEXTS), pair.text(ids)
    torch.testing.assert_close(ours.pooled, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(padded.pooled, theirs, rtol=0, atol=1e-5)
    assert ours.mask.sum(1).tolist() == [(row != 0).sum().item() for row in ids]
    assert ours.tokens.shape == (2, 13, 24)


def test_a_mask_leaves_a_text_tower_as_bool(pair):
    ids, mask = pair.text.tokenizer(TEXTS)
    found = pair.text(ids, mask.int()).mask
    assert found.dtype == torch.bool
    assert torch.equal(found, mask)
    assert pair.text(ids).mask is None


def test_the_token_at_a_texts_end_is_its_vector(pair):
    ours = pair.text.encode(TEXTS)
    ends = ours.mask.sum(1) - 1
    assert torch.equal(ours.tokens[torch.arange(2), ends], ours.pooled)


def test_scores_are_open_clips_logits(random_clip, pair):
    ids = open_clip.get_tokenizer("ViT-B-16")(TEXTS)
    with torch.no_grad():
        theirs = random_clip[1].get_logits(images(32, 32), ids)[0]
        ours = pair.scores(pair.image(images(32, 32)).pooled, pair.text.encode(TEXTS).pooled)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_pictures_are_preprocessed_as_open_clip_preprocesses_them(random_clip, pair, photos):
    for size, mode in [((32, 32), "shortest"), ((48, 24), "squash"), ((24, 40), "shortest")]:
        _, _, theirs = open_clip.create_model_and_transforms(
            f"local-dir:{random_clip[0]}", force_image_size=size, image_resize_mode=mode
        )
        ours = Preprocess(size, resize=mode)
        pictures = [Image.open(file).convert("RGB") for file in sorted(photos.iterdir())[:3]]
        shapes = [(50, 40), (40, 50), (53, 31), (31, 53), (32, 32), (24, 40), (40, 24), (100, 7), (20, 301)]
        for picture in [*pictures, *(pictures[0].resize(shape) for shape in shapes)]:
            assert torch.equal(ours(picture), theirs(picture)), (picture.size, size, mode)


def test_images_of_minus_one_to_one_are_brought_to_the_towers_units(pair):
    picture = Image.effect_noise((32, 32), 80).convert("RGB")
    from sightword.data.image import to_tensor

    torch.testing.assert_close(
        pair.image.normalise(to_tensor(picture)), pair.image.preprocess(picture), rtol=0, atol=1e-5
    )


# ----------------------------------------------------------------------------------- words of a Hugging Face tokenizer


def changed(folder, to, tokenizer=None, **parts):
    """A copy of a CLIP's folder. parts: what its config says otherwise, part by part (None takes a key out)."""
    to.mkdir(parents=True)
    (to / clip.WEIGHTS).write_bytes((folder / clip.WEIGHTS).read_bytes())
    config = json.loads((folder / clip.CONFIG).read_text())
    for part, values in parts.items():
        place = config if part in ("model_cfg", "preprocess_cfg") else config["model_cfg"]
        place[part] = {**place.get(part, {}), **values} if isinstance(values, dict) else values
    (to / clip.CONFIG).write_text(json.dumps(config))
    if tokenizer:
        tokenizer.save_pretrained(to)
    return to


KNOWN = ["a photo of a red cat", "two dogs, a couch and a boat"]
CAPTIONS = ["A  photo of a RED cat", "two_dogs, a couch!", "a boat"]


@pytest.fixture(scope="module")
def worded(tmp_path_factory):
    """The folder of a CLIP that reads words as those of open_clip's "worldwide" kind do, and open_clip's own of it.

    [SEP], the end of a text, is id 3: nearly every other is greater.
    """
    folder = tmp_path_factory.mktemp("worded") / "m"
    tokenizer = _wordpiece(KNOWN)
    words = {"hf_tokenizer_name": "nobody/nowhere", "tokenizer_kwargs": {"clean": "canonicalize"}}
    sizes = {"context_length": 16, "vocab_size": len(tokenizer), "width": 32, "heads": 2, "layers": 2}
    write_clip(folder, text_cfg={**sizes, **words, "pool_type": "eos", "eos_id": 3})
    tokenizer.save_pretrained(folder)
    return folder, open_clip.create_model(f"local-dir:{folder}").eval()


def test_texts_of_a_hugging_face_tokenizer_are_encoded_as_open_clip_encodes_them(worded):
    folder, theirs = worded
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS)
    text = CLIP.load(folder).text
    ours = text.tokenizer(CAPTIONS)
    assert torch.equal(ours.ids, ids[:, : ours.ids.shape[1]])
    assert not ids[:, ours.ids.shape[1] :].any()  # padding
    with torch.no_grad():
        expected = theirs.encode_text(ids)
        torch.testing.assert_close(text.encode(CAPTIONS).pooled, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(text(ids).pooled, expected, rtol=0, atol=1e-5)


def test_a_text_is_only_freed_of_spaces_where_the_config_says_nothing_as_in_open_clip(worded, tmp_path):
    folder = changed(worded[0], tmp_path / "m", _wordpiece(KNOWN), text_cfg={"tokenizer_kwargs": {}})
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")([" a  red_cat!"])
    assert CLIP.load(folder).text.tokenizer(" a  red_cat!").ids.tolist()[0] == ids[0][ids[0] != 0].tolist()
    assert CLIP.load(folder).text.tokenizer.clean(" A  red_cat! ") == "A red_cat!"


def test_a_hugging_face_tokenizer_is_saved_with_its_clip(worded, tmp_path):
    first = CLIP.load(worded[0])
    first.save(tmp_path / "saved")
    again = CLIP.load(tmp_path / "saved")
    assert torch.equal(again.text.encode(CAPTIONS).pooled, first.text.encode(CAPTIONS).pooled)


def test_openais_words_are_cleaned_as_the_config_says(random_clip, tmp_path):
    folder = changed(random_clip[0], tmp_path / "m", text_cfg={"tokenizer_kwargs": {"clean": "canonicalize"}})
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(["A_red, cat!"])
    assert CLIP.load(folder).text.tokenizer("A_red, cat!").ids.tolist()[0] == ids[0][ids[0] != 0].tolist()
    assert len(CLIP.load(folder).text.tokenizer("A_red, cat!").ids[0]) == 5


@pytest.mark.parametrize("options", [{}, {"trust_remote_code": True}])
def test_code_that_comes_with_a_tokenizer_is_not_run(worded, tmp_path, monkeypatch, options):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run it"))
    folder = changed(worded[0], tmp_path / "m", _wordpiece(KNOWN), text_cfg={"tokenizer_kwargs": options})
    described = json.loads((folder / "tokenizer_config.json").read_text())
    described |= {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}, "tokenizer_class": "Theirs"}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nraise SystemExit")
    with pytest.raises(ValueError, match="trust_remote_code" if options else "contains custom code") as error:
        CLIP.load(folder)
    assert "\n" not in str(error.value)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("text_cfg", "told"),
    [
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, "sets tokenizer_kwargs.trust_remote_code; .* only clean"),
        ({"tokenizer_kwargs": {"bpe_path": "/etc/passwd", "clean": "lower"}}, "sets tokenizer_kwargs.bpe_path;"),
        ({"tokenizer_kwargs": {"foo": 1}}, "sets tokenizer_kwargs.foo;"),
        ({"tokenizer_kwargs": [1]}, "tokenizer_kwargs is a list"),
        ({"tokenizer_kwargs": {"clean": "upper"}}, "clean='upper', which is none of canonicalize"),
        ({"tokenizer_kwargs": {"clean": ["lower"]}}, "none of canonicalize"),
        ({"tokenizer_mode": "clips"}, "sets tokenizer_mode"),
    ],
)
@pytest.mark.parametrize("kind", ["openai", "hugging_face"])
def test_what_a_config_asks_of_a_tokenizer_is_refused_unless_it_is_known(
    worded, random_clip, tmp_path, kind, text_cfg, told
):
    folder = random_clip[0] if kind == "openai" else worded[0]
    with pytest.raises(ValueError, match=told) as error:
        CLIP.load(changed(folder, tmp_path / "m", text_cfg=text_cfg))
    assert "\n" not in str(error.value)


def test_a_tokenizer_of_another_model_is_refused(worded, random_clip, tmp_path):
    more = _wordpiece([*KNOWN, "ninety bottles"])
    with pytest.raises(ValueError, match=f"has {len(more)} tokens, the text tower's table"):
        CLIP.load(changed(worded[0], tmp_path / "more", more))
    with pytest.raises(ValueError, match="has 49408 tokens, the text tower's table"):
        CLIP.load(changed(worded[0], tmp_path / "openai", text_cfg={"hf_tokenizer_name": None}))
    with pytest.raises(ValueError, match="eos_id 2, its tokenizer ends a text with 3"):
        CLIP.load(changed(worded[0], tmp_path / "end", _wordpiece(KNOWN), text_cfg={"eos_id": 2}))


# ----------------------------------------------------------------------------------------------------- dense tokens


def naive_attention(block, x, kind, grid, sigma):
    """The published formulas, one query and one head at a time. x (S, W) of one image."""
    y = block.ln_1(x)
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    q, k, v = (y @ w.T + b for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True))
    heads = block.attn.num_heads
    width = x.shape[1] // heads
    asked = {"qq": q, "kk": k}.get(kind)
    out = torch.zeros_like(v)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for i in range(len(x)):
            if asked is None:
                out[i, part] = v[i, part]
                continue
            logits = asked[:, part] @ asked[i, part] / width**0.5
            if sigma and i:
                for j in range(1, len(x)):
                    (a, b), (c, d) = divmod(i - 1, grid[1]), divmod(j - 1, grid[1])
                    logits[j] += torch.exp(torch.tensor(-((a - c) ** 2 + (b - d) ** 2) / (2 * sigma**2)))
            out[i, part] = logits.softmax(0) @ v[:, part]
    return out @ block.attn.out_proj.weight.T + block.attn.out_proj.bias


@pytest.mark.parametrize("token_type", ["value", "qq", "kk", "qq+gauss", "kk+gauss2.5"])
def test_dense_tokens_are_the_published_formulas(random_clip, pair, token_type):
    model, size = random_clip[1], (24, 32)
    kind, sigma = TokenType.parse(token_type)
    with torch.no_grad():
        visual = model.visual
        batch = images(*size)
        inside = {}
        hook = pair.image.visual.transformer.resblocks[-1].register_forward_pre_hook(
            lambda _, args: inside.update(x=args[0])
        )
        ours = pair.image.token_types(batch, [token_type])[token_type].tokens
        hook.remove()
        for number, x in enumerate(inside["x"]):
            naive = naive_attention(visual.transformer.resblocks[-1], x, kind, (3, 4), sigma)
            expected = visual.ln_post(naive)[1:] @ visual.proj
            torch.testing.assert_close(ours[number], expected, rtol=0, atol=1e-5)


def test_the_kinds_of_tokens_differ(pair):
    found = pair.image.token_types(images(32, 32), ["joint", "value", "qq", "kk", "qq+gauss", "kk+gauss"])
    kinds = [encoded.tokens for encoded in found.values()]
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(kinds) for b in kinds[:i])


def test_joint_tokens_are_post_tokens_projected(random_clip, pair):
    found = pair.image.token_types(images(32, 32), ["post", "joint"])
    assert found["post"].tokens.shape == (2, 16, 48)
    torch.testing.assert_close(
        found["post"].tokens @ random_clip[1].visual.proj, found["joint"].tokens, rtol=0, atol=1e-5
    )


def test_several_forms_cost_one_forward_pass_and_are_what_each_gives_alone(pair):
    runs = []
    hook = pair.image.visual.transformer.resblocks[0].register_forward_hook(lambda *_: runs.append(1))
    names = ["post", "joint", "value", "qq", "kk+gauss"]
    together = pair.image.token_types(images(32, 32), names)
    assert len(runs) == 1
    hook.remove()
    for name in names:
        alone = pair.image.token_types(images(32, 32), [name])[name]
        assert torch.equal(alone.tokens, together[name].tokens)
        assert torch.equal(alone.pooled, together[name].pooled)


def test_layer_scale_is_part_of_a_dense_token(tmp_path):
    model = write_clip(tmp_path / "m", {"ls_init_value": 0.1})
    scale = model.visual.transformer.resblocks[-1].ls_1
    with torch.no_grad():
        scale.gamma.copy_(torch.linspace(0.1, 2, 48))
    save_file({name: value.clone() for name, value in model.state_dict().items()}, tmp_path / "m" / clip.WEIGHTS)
    tower = CLIP.load(tmp_path / "m").image
    block, x = model.visual.transformer.resblocks[-1], torch.randn(1, 17, 48)
    ours = clip_dense.attend(tower.visual.transformer.resblocks[-1], x, TokenType("value"), (4, 4), {})
    torch.testing.assert_close(ours[0], scale(naive_attention(block, x[0], "value", (4, 4), 0)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrong", ["patch", "value+gauss", "kk+gauss0", "kk+", "post+gauss", ""])
def test_a_form_that_is_not_there_is_refused_with_those_that_are(wrong):
    with pytest.raises(ValueError, match="value, qq, kk") as error:
        TokenType.parse(wrong)
    assert "\n" not in str(error.value)


def test_a_forms_width_is_read_from_the_model(random_clip):
    assert CLIP.load(random_clip[0], token_type="post").image.width == 48
    assert CLIP.load(random_clip[0], token_type="kk").image.width == 24
    for token_type in ("post", "joint", "qq+gauss"):
        tower = CLIP.load(random_clip[0], token_type=token_type).image
        found = tower(images(32, 32))
        assert (found.tokens.shape[2], found.pooled.shape[1]) == (tower.width, tower.embed_dim)


# -------------------------------------------------------------------------------------------------------- positions


def test_a_resampled_grid_keeps_the_class_tokens_position_and_its_orientation():
    rows = torch.arange(4.0).repeat_interleave(4)
    positions = torch.cat([torch.tensor([[99.0, 99.0]]), torch.stack([rows, torch.arange(4.0).repeat(4)], 1)])
    resized = resize_image_positions(positions, (4, 4), (8, 2))
    assert resized[0].tolist() == [99, 99]
    square = resized[1:].view(8, 2, 2)
    assert (square[1:, :, 0] > square[:-1, :, 0]).all()  # down the rows
    assert (square[:, 1, 1] > square[:, 0, 1]).all()  # along the columns
    assert resize_image_positions(positions, (4, 4), (4, 4)) is positions


def test_a_texts_first_and_last_positions_stay_and_the_rest_is_stretched():
    positions = torch.tensor([[100.0], [0.0], [1.0], [2.0], [-100.0]])
    assert resize_text_positions(positions, 7).flatten().tolist() == [100, 0, 0.5, 1, 1.5, 2, -100]
    assert resize_text_positions(positions, 4).flatten().tolist() == [100, 0, 2, -100]


@pytest.mark.parametrize("length", [20, 120])
def test_another_text_length_is_loaded_used_and_stays_causal(random_clip, length, tmp_path):
    pair = CLIP.load(random_clip[0], length=length)
    assert pair.text.tokenizer.length == length
    long = "cat " * (length - 2)
    ids = pair.text.tokenizer([long]).ids
    assert ids.shape == (1, length)
    with torch.no_grad():
        whole = pair.text(ids).tokens
        changed = ids.clone()
        changed[0, -2] = 1000
        assert torch.equal(pair.text(changed).tokens[:, :-2], whole[:, :-2])
        assert not torch.equal(pair.text(changed).tokens[:, -2:], whole[:, -2:])
    pair.save(tmp_path / "again")
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'again'}").eval()
    torch.testing.assert_close(theirs.encode_text(ids), pair.text(ids).pooled, rtol=0, atol=1e-5)


def test_a_causal_mask_hides_what_comes_after():
    assert causal_mask(3).tolist() == [[0, float("-inf"), float("-inf")], [0, 0, float("-inf")], [0, 0, 0]]


# --------------------------------------------------------------------------------------- freezing, precision, saving


def test_a_frozen_tower_stays_in_eval_mode_and_gives_the_same_bits(random_clip):
    tower = CLIP.load(random_clip[0]).image
    parent = torch.nn.Sequential(tower, torch.nn.Dropout())
    tower.freeze()
    before = tower(images(32, 32))
    parent.train()
    assert parent[1].training
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    after = tower(images(32, 32))
    assert torch.equal(before.tokens, after.tokens)
    assert not after.tokens.requires_grad


def test_a_tower_that_is_not_frozen_trains(random_clip):
    tower = CLIP.load(random_clip[0], token_type="qq").image
    found = tower.train()(images(32, 32))
    (found.tokens.square().sum() + found.pooled.square().sum()).backward()
    lacking = [name for name, value in tower.named_parameters() if value.grad is None or not value.grad.any()]
    assert tower.training
    assert not lacking


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inside_is_float32_outside(random_clip, pair, dtype):
    half = CLIP.load(random_clip[0], dtype=dtype)
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    with torch.no_grad():
        for ours, full in [
            (
                half.image.token_types(images(32, 48), ["kk+gauss"])["kk+gauss"],
                pair.image.token_types(images(32, 48), ["kk+gauss"])["kk+gauss"],
            ),
            (half.text.encode(TEXTS), pair.text.encode(TEXTS)),
        ]:
            assert ours.tokens.dtype == ours.pooled.dtype == torch.float32
            assert F.cosine_similarity(ours.pooled, full.pooled).min() > 0.99
            assert F.cosine_similarity(ours.tokens, full.tokens, dim=-1).min() > 0.98


@pytest.mark.slow
def test_a_tower_is_one_graph_for_torch_compile(random_clip, pair):
    tower = CLIP.load(random_clip[0], token_type="kk+gauss").image.freeze()
    compiled = torch.compile(tower, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images(32, 48)), tower(images(32, 48)))


@pytest.mark.gpu
@pytest.mark.parametrize("token_type", ["post", "value", "kk+gauss"])
def test_a_gpu_gives_what_the_cpu_gives(random_clip, token_type):
    tower = CLIP.load(random_clip[0], token_type=token_type).image.freeze()
    here = tower(images(32, 48))
    there = torch.compile(tower.cuda(), fullgraph=True)(images(32, 48).cuda())
    torch.testing.assert_close(there.tokens.cpu(), here.tokens, rtol=0, atol=1e-2)  # TF32
    assert F.cosine_similarity(there.pooled.cpu(), here.pooled).min() > 0.9999


def test_what_is_saved_is_read_back_exactly_by_us_and_by_open_clip(random_clip, tmp_path):
    first = CLIP.load(random_clip[0], size=(48, 24))
    first.save(tmp_path / "saved")
    again = CLIP.load(tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert again.image.preprocess == first.image.preprocess
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'saved'}")
    with torch.no_grad():
        assert torch.equal(theirs.eval().encode_image(images(48, 24)), again.image(images(48, 24)).pooled)
    assert transform(Image.new("RGB", (100, 50))).shape == (3, 48, 24)


def test_another_way_to_resize_is_saved_and_read_back_by_us_and_by_open_clip(random_clip, tmp_path, photos):
    said = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "resize_mode": "squash"}
    first = CLIP.load(changed(random_clip[0], tmp_path / "first", preprocess_cfg=said))
    first.save(tmp_path / "saved")
    assert CLIP.load(tmp_path / "saved").image.preprocess == first.image.preprocess
    assert first.image.preprocess == Preprocess((32, 32), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "squash", "bilinear")
    theirs = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'saved'}")[2]
    picture = Image.open(photos / "0.png")
    torch.testing.assert_close(theirs(picture), first.image.preprocess(picture), rtol=0, atol=1e-6)


def test_a_tower_is_loaded_in_eval_mode(pair):
    assert not any(module.training for module in pair.modules())


def test_no_patch_goes_missing_while_a_tower_trains(tmp_path):
    write_clip(tmp_path / "m", {"patch_dropout": 0.5})
    tower = CLIP.load(tmp_path / "m").image.train()
    assert tower(images(32, 32)).tokens.shape[1] == 16
    assert torch.equal(tower(images(32, 32)).tokens, tower(images(32, 32)).tokens)


def test_an_architecture_tells_networks_apart_whose_weights_have_the_same_shapes(random_clip, tmp_path):
    def architecture(number, vision=(), size=None, **options):
        write_clip(tmp_path / str(number), vision, **options)
        return CLIP.load(tmp_path / str(number), size=size).image.architecture

    plain = CLIP.load(random_clip[0]).image.architecture
    assert json.loads(json.dumps(plain)) == plain
    assert plain["vision_cfg"]["head_width"] == 16
    others = [
        architecture(1, quick_gelu=True),
        architecture(2, {"head_width": 8}),
        architecture(3, {"pool_type": "avg"}),
    ]
    assert all(one != plain for one in others)
    assert plain == architecture(4, {"mlp_ratio": 4.0, "patch_dropout": 0.5, "act_kwargs": None}, size=(48, 24))


def test_loading_leaves_the_global_generator_alone(random_clip):
    before = torch.get_rng_state()
    CLIP.load(random_clip[0])
    assert torch.equal(before, torch.get_rng_state())


# --------------------------------------------------------------------------------------------- the published models


@pytest.mark.parametrize(
    ("preset", "embed", "width", "tokens"),
    [("vit_b16", 512, 768, 196), ("vit_l14", 768, 1024, 256), ("vit_h14", 1024, 1280, 256)],
)
def test_presets_are_published_models_whose_activation_fits_their_weights(preset, embed, width, tokens):
    name, tag = clip.presets[preset]
    model_cfg = open_clip.get_model_config(name)
    weights = open_clip.pretrained.get_pretrained_cfg(name, tag)
    assert weights
    assert bool(weights.get("quick_gelu")) == bool(model_cfg.get("quick_gelu"))
    found = clip_checkpoint.find(name, tag, clip.presets)
    model = clip_checkpoint.build(found)
    preprocess = clip_checkpoint.preprocessing(found, model.visual.image_size)
    tower = clip.CLIPImage(model.visual, preprocess, name, "post")
    assert (tower.embed_dim, tower.width, tower.grid()[0] * tower.grid()[1]) == (embed, width, tokens)


def test_weights_of_a_built_in_model_are_read_from_a_file(tmp_path):
    """ViT-S-16-alt, the smallest that open_clip names, drawn at random and saved as the published files are."""
    config = open_clip.get_model_config("ViT-S-16-alt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**config).eval()
    torch.save(
        {"state_dict": {f"module.{name}": value.half() for name, value in model.state_dict().items()}},
        tmp_path / "w.pt",
    )
    tower = CLIP.load("ViT-S-16-alt", tmp_path / "w.pt", size=(32, 48)).image
    assert tower.dtype == torch.float32
    assert tower(images(32, 48)).tokens.shape == (2, 6, 256)


@pytest.mark.parametrize(
    ("name", "tag", "told"),
    [
        ("ViT-B-16", "laion3b", "laion2b_s34b_b88k"),
        ("ViT-B-16", "", "needs the tag"),
        ("ViT-B-16", "openai", "name the model ViT-B-16-quickgelu"),
        ("ViT-B-17", "openai", "did you mean"),
        ("vit_b61", "", "vit_b16"),
        ("RN50", "openai", "RN50 has a ModifiedResNet for its images; towers.clip reads vision transformers"),
        ("RN50-quickgelu", "openai", "vision transformers"),
        ("coca_ViT-B-32", "laion2b_s13b_b90k", "is a CoCa"),
        ("ViT-B-16-SigLIP", "webli", "SigLIP"),
    ],
)
def test_a_name_or_tag_that_does_not_do_is_refused_in_a_line_that_helps(name, tag, told, monkeypatch):
    monkeypatch.setattr(open_clip, "download_pretrained", lambda found: pytest.fail("weights were fetched"))
    with pytest.raises(ValueError, match=told) as error:
        CLIP.load(name, tag)
    assert "\n" not in str(error.value)


def test_a_folder_is_read_with_the_weights_of_a_file_that_is_given_as_tag(random_clip, tmp_path):
    weights = load_file(random_clip[0] / clip.WEIGHTS)
    weights["logit_scale"] = torch.tensor(1.5)
    save_file(weights, tmp_path / "ft.safetensors")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / clip.CONFIG).write_text((random_clip[0] / clip.CONFIG).read_text())
    for folder in (random_clip[0], tmp_path / "m"):  # with weights of its own and without
        tuned = CLIP.load(folder, tag=tmp_path / "ft.safetensors")
        assert tuned.logit_scale.item() == 1.5
        assert tuned.image.name == f"{folder}:{tmp_path / 'ft.safetensors'}"
    with pytest.raises(ValueError, match=r"tag=ft.pt is not a file; .*own weights") as error:
        CLIP.load(random_clip[0], tag="ft.pt")
    assert "\n" not in str(error.value)


def test_a_file_is_preprocessed_as_all_published_weights_of_its_model_are(tmp_path):
    file = tmp_path / "w.pt"
    file.touch()
    assert hub.weights("ViT-B-16-SigLIP", file).entry["mean"] == (0.5, 0.5, 0.5)
    assert hub.weights("ViT-B-16", file).entry["resize_mode"] == "shortest"
    assert hub.weights("ViT-S-16-alt", file).entry == {}
    assert hub.weights("ViT-B-16-SigLIP", "").tag == "webli"


def test_a_preset_can_be_given_a_file_of_its_own(random_clip):
    with pytest.raises(ValueError, match="open_clip_model.safetensors does not fit"):
        CLIP.load("vit_b16", random_clip[0] / clip.WEIGHTS)


def test_weights_that_are_not_here_are_named_when_there_is_no_network(monkeypatch):
    def no_network(found):
        raise OSError("offline\nfor two lines")

    monkeypatch.setattr(open_clip, "download_pretrained", no_network)
    with pytest.raises(FileNotFoundError, match="laion2b_s34b_b88k of ViT-B-16 are not on this machine") as error:
        CLIP.load("vit_b16")
    assert "\n" not in str(error.value)


def test_openais_own_file_is_refused_for_a_network_with_another_activation(random_clip, tmp_path):
    weights = load_file(random_clip[0] / clip.WEIGHTS) | {"input_resolution": torch.tensor(32)}
    (tmp_path / clip.CONFIG).write_text((random_clip[0] / clip.CONFIG).read_text())
    save_file(weights, tmp_path / clip.WEIGHTS)
    with pytest.raises(ValueError, match="QuickGELU"):
        CLIP.load(tmp_path)


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("gone", [clip.CONFIG, clip.WEIGHTS])
def test_a_folder_that_lacks_a_file_says_which(random_clip, tmp_path, gone):
    kept = {clip.CONFIG, clip.WEIGHTS} - {gone}
    for name in kept:
        (tmp_path / name).write_bytes((random_clip[0] / name).read_bytes())
    with pytest.raises(FileNotFoundError, match=gone) as error:
        CLIP.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"model_cfg": []}, "model_cfg: expected an object, got an empty list"),
        ({"vision_cfg": 3}, "vision_cfg is a int"),
        ({"vision_cfg": None}, "vision_cfg does not exist"),
        ({"text_cfg": [3]}, "text_cfg is a list"),
        ({"vision_cfg": {"patch_size": 0}}, "no CLIP can be built"),
        ({"vision_cfg": {"image_size": [32, 32, 32]}}, "no CLIP can be built"),
        ({"vision_cfg": {"layers": 0}}, "no attention blocks"),
        ({"vision_cfg": {"qk_norm": True}}, "some of another kind than CLIP's"),
        ({"vision_cfg": {"attentional_pool": True}}, "pools its patches by attention"),
        ({"vision_cfg": {"pool_type": "none"}}, "reads class token or mean"),
        ({"vision_cfg": {"layers": [1, 1, 1, 1]}}, "reads vision transformers"),
        ({"text_cfg": {"heads": 3}}, "no CLIP can be built"),
        ({"text_cfg": {"no_causal_mask": True}}, "not causal with its vector at the end"),
        ({"text_cfg": {"embed_cls": True}}, "not causal with its vector at the end"),
        ({"text_cfg": {"pool_type": "last"}}, "not causal with its vector at the end"),
        ({"text_cfg": {"proj_bias": True}}, "with a bias or not at all"),
        ({"text_cfg": {"proj_type": "none"}}, "with a bias or not at all"),
        ({"multimodal_cfg": {}}, "is a CoCa"),
        ({"init_logit_bias": -10}, "a bias of its logits"),
        ({"embed_dim": None}, "no CLIP can be built"),
        ({"foo": 1}, "no CLIP can be built: .*'foo'"),
        ({"preprocess_cfg": []}, "preprocess_cfg: expected an object, got an empty list"),
        ({"preprocess_cfg": {"mean": 3}}, "mean=3 is not three numbers"),
        ({"preprocess_cfg": {"mean": [0.5]}}, "is not three numbers"),
        ({"preprocess_cfg": {"std": [0.5, 0.5, 0]}}, "is not three numbers above 0"),
        ({"preprocess_cfg": {"resize_mode": "longest"}}, "none of shortest, squash"),
        ({"preprocess_cfg": {"interpolation": {"a": 1}}}, "none of bicubic"),
    ],
)
def test_a_config_that_does_not_do_is_one_line_that_names_the_file(random_clip, tmp_path, parts, told):
    folder = changed(random_clip[0], tmp_path / "m", **parts)
    with pytest.raises(ValueError, match=f"{folder / clip.CONFIG}.*{told}") as error:
        CLIP.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "3", '{"model_cfg": null}', "[" * 100_000])
def test_a_config_that_is_none_is_one_line(random_clip, tmp_path, text):
    (tmp_path / clip.CONFIG).write_text(text)
    with pytest.raises(ValueError, match="It is not the config of an open_clip model") as error:
        CLIP.load(tmp_path)
    assert "\n" not in str(error.value)


def test_weights_of_other_shapes_are_refused_with_names_and_both_shapes(random_clip, tmp_path):
    weights = load_file(random_clip[0] / clip.WEIGHTS)
    weights["visual.ln_post.weight"] = torch.ones(47)
    del weights["ln_final.bias"]
    save_file(weights, tmp_path / clip.WEIGHTS)
    (tmp_path / clip.CONFIG).write_text((random_clip[0] / clip.CONFIG).read_text())
    with pytest.raises(
        ValueError, match=r"visual.ln_post.weight is \(47,\) in the file and \(48,\).*text.ln_final.bias"
    ):
        CLIP.load(tmp_path)


def test_an_image_that_does_not_cut_into_patches_is_refused(random_clip, pair):
    with pytest.raises(ValueError, match="30×32 pixels do not cut into patches of 8×8"):
        pair.image(images(30, 32))
    with pytest.raises(ValueError, match="float"):
        pair.image(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(1, 1, 32, 32\)"):
        pair.image(torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": (30, 32)}, "size is 30×32: both sides are multiples of the patch, 8×8"),
        ({"size": (32, 0)}, "multiples of the patch"),
        ({"size": (32,)}, "two whole numbers"),
        ({"size": 32}, "two whole numbers"),
        ({"size": (32, 32.5)}, "two whole numbers"),
        ({"length": 0}, "length is 0: a text is at least 3 tokens"),
        ({"length": -1}, "length is -1"),
        ({"length": 2}, "length is 2"),
    ],
)
def test_a_size_or_length_that_cannot_be_is_refused(random_clip, options, told):
    with pytest.raises(ValueError, match=told) as error:
        CLIP.load(random_clip[0], **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_a_picture_of_another_mode_is_refused(pair, mode):
    with pytest.raises(ValueError, match=f"mode is {mode}"):
        pair.image.encode([Image.new(mode, (32, 32))])


def test_a_text_that_is_too_long_is_refused_or_cut_and_counted(random_clip):
    text = CLIP.load(random_clip[0], length=6).text
    assert text.tokenizer(["cat cat cat cat"]).ids.shape == (1, 6)
    with pytest.raises(ValueError, match="'cat cat cat cat cat' has 7 tokens, this tower reads 6"):
        text.encode(["cat", "cat cat cat cat cat"])
    assert text.tokenizer.truncated == 0
    ids, mask = text.tokenizer(["cat", "cat cat cat cat cat"], truncate=True)
    assert (text.tokenizer.truncated, ids[1, -1].item(), mask[1].all().item()) == (1, text.tokenizer.eos, True)
    with pytest.raises(ValueError, match="texts of 8 tokens"):
        text(torch.zeros(1, 8, dtype=torch.long))


def test_ids_go_back_to_words(pair):
    ids = pair.text.tokenizer("A photo of two cats").ids[0]
    assert pair.text.tokenizer.words_of(ids.tolist()) == "a photo of two cats"


def test_all_but_the_last_blocks_can_be_frozen(random_clip):
    tower = CLIP.load(random_clip[0]).image
    trained = {name for name, p in tower.freeze_except_last(1).named_parameters() if p.requires_grad}
    assert trained == {
        name
        for name, _ in tower.named_parameters()
        if name.startswith(("visual.transformer.resblocks.2.", "visual.ln_post.")) or name == "visual.proj"
    }
    tower.train()(images(32, 32)).pooled.sum().backward()
    assert all((p.grad is not None) == (name in trained) for name, p in tower.named_parameters())
    assert not any(p.requires_grad for p in tower.freeze_except_last(0).parameters())
    assert tower.frozen
    with pytest.raises(SightwordError, match="4 blocks cannot be left out of freezing"):
        tower.freeze_except_last(4)
