"""Every road to an encoder reads the same pixels: its own `encode`, caches, loaders, predictors and exports.

For each kind of encoder, and for images of every shape: one that is cut, one that is squashed, one that is enlarged.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import sightword
from sightword.data.image import read_image, to_image
from sightword.miniature import tower as miniature
from sightword.systems.intent.anchors import Anchors, Book
from sightword.systems.intent.config import IntentConfig, IntentData
from sightword.systems.intent.predict import IntentClassifier
from sightword.systems.intent.system import SYSTEM as INTENT
from sightword.systems.intent.task import make_task
from sightword.systems.points.clip import FrozenClip
from sightword.systems.retrieval.data import Augmentation, Captions, Measured
from sightword.systems.retrieval.gallery import Embedder
from sightword.systems.retrieval.model import make_encoder
from sightword.systems.retrieval.split import Split
from sightword.systems.tokenizer.config import TokenizerData
from sightword.systems.tokenizer.data import make_loaders as tokenizer_loaders
from sightword.systems.tokenizer.predict import ImageTokenizer
from sightword.towers.factory import image_tower, tower_pair
from sightword.towers.token_cache import Source, cache_tokens
from sightword.towers.vq.ids import Job, View, write_ids
from sightword.towers.vq.image import VQImage

SIZES = {"landscape": (160, 120), "portrait": (120, 160), "panorama": (256, 64), "small": (20, 14)}  # W, H
CLASSES = ["sun", "rain"]
#: Encoder → the type of its tokens.
ENCODERS = {"cutting": "joint", "squashing": "joint", "siglip": "post"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with an image of each shape, in annotations as Intentonomy's."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    content = {
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
        "images": [{"id": name, "filename": f"{name}.png"} for name in SIZES],
        "annotations": [{"image_id": name, "category_ids": [0]} for name in SIZES],
    }
    (folder / "intentonomy_val2020.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory, random_clip):
    """Encoder → its folder."""
    root = tmp_path_factory.mktemp("encoders")
    shutil.copytree(random_clip[0], root / "squashing")
    config = json.loads((root / "squashing" / "open_clip_config.json").read_text())
    config["preprocess_cfg"] = {"resize_mode": "squash", "interpolation": "bilinear", "mean": [0.4] * 3}
    (root / "squashing" / "open_clip_config.json").write_text(json.dumps(config))
    miniature.write_siglip(root / "siglip", ["a photo of rain"])
    return {"cutting": random_clip[0], "squashing": root / "squashing", "siglip": root / "siglip"}


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request, folders, pictures, tmp_path_factory):
    """(folder, token type, cache of the pictures' tokens, what the encoder itself gives of the pictures)."""
    folder, token_type = folders[request.param], ENCODERS[request.param]
    out = tmp_path_factory.mktemp("tokens")
    cache = cache_tokens(Source(str(folder), {}), pictures, out, [token_type], disk="float32")
    tower = image_tower(folder)
    with torch.no_grad():
        images = tower.preprocess.batch([read_image(pictures / f"{name}.png") for name in SIZES])
        own = tower.token_types(images, [token_type])[token_type]
    return folder, token_type, cache, own


def task_of(encoder, tmp_path):
    """A task of one codebook on that encoder."""
    folder, token_type, _, own = encoder
    codes = F.normalize(torch.randn(5, own.tokens.shape[2], generator=torch.Generator().manual_seed(0)), dim=1)
    words = [f"word {number}" for number in range(5)]
    anchors = Anchors({"coco": Book(codes, words, list(range(5)), [0] * 5, words)}).write(
        tmp_path / "anchors.safetensors"
    )
    torch.manual_seed(0)
    system = {"semantic_anchors_path": str(anchors), "token_types": {"coco": token_type}, "classes": CLASSES}
    return make_task(IntentConfig(tower=str(folder), **system)).eval()


def assert_close(found, wanted):
    torch.testing.assert_close(torch.as_tensor(found), wanted, atol=1e-5, rtol=1e-5)


def test_encode_of_a_tower_and_a_cache_of_tokens_are_one(encoder, pictures):
    folder, token_type, cache, own = encoder
    with torch.no_grad():
        encoded = image_tower(folder).encode([read_image(pictures / f"{name}.png") for name in SIZES])
    assert_close(encoded.pooled, own.pooled)
    for number, name in enumerate(SIZES):
        assert_close(cache[f"{name}.png"][token_type], own.tokens[number])
        assert_close(cache[f"{name}.png"]["pooled"], own.pooled[number])


@torch.no_grad()
@pytest.mark.parametrize("cached", [False, True], ids=["images", "cache"])
def test_loaders_of_intent_give_what_the_tower_encodes(encoder, pictures, tmp_path, cached):
    _, token_type, cache, own = encoder
    task = task_of(encoder, tmp_path)
    data = IntentData(root=str(pictures), cache=str(cache.out) if cached else "", batch_size=9, num_workers=0)
    (batch,) = INTENT.held_out(data, 0, "val", task, {})
    assert batch.image_ids == list(SIZES)
    assert (batch.images is None) == cached
    tokens, pooled = task.encoded(batch)
    assert_close(tokens[token_type], own.tokens)
    assert_close(pooled, own.pooled)


@torch.no_grad()
def test_a_prediction_is_that_of_the_loaders_also_after_an_export(encoder, pictures, tmp_path):
    task = task_of(encoder, tmp_path)
    (batch,) = INTENT.held_out(IntentData(root=str(pictures), batch_size=9, num_workers=0), 0, "val", task, {})
    wanted = task.logits(batch).sigmoid()
    IntentClassifier(task).save_pretrained(tmp_path / "model")
    files = [pictures / f"{name}.png" for name in SIZES]
    for classifier in (IntentClassifier(task), sightword.load(tmp_path / "model")):
        found = classifier(files)
        assert [list(one.scores) for one in found] == [CLASSES] * len(SIZES)
        assert_close([list(one.scores.values()) for one in found], wanted)


# ------------------------------------------------------------------------------------------------------------ persons


@torch.no_grad()
def test_an_index_of_persons_has_the_vectors_of_evaluation_and_training_sees_the_same_view(folders, pictures):
    pair = tower_pair(folders["siglip"], size=(96, 32))
    model = make_encoder(pair.image, pair.text, 16).eval()
    files = [pictures / f"{name}.png" for name in SIZES]
    numbers = np.arange(len(files))
    split = Split("val", files, numbers, ["a photo"] * len(files), numbers)
    measured = Measured(split, Captions(split.captions, model.tokenizer), (96, 32), None)
    batch = measured.__getitems__(list(range(len(files))))
    embedder = Embedder(model, "a run")
    assert_close(embedder.encode_image(files), model.encode_image(batch.images))
    assert_close(embedder.encode_image([read_image(file) for file in files]), model.encode_image(batch.images))
    plain = Augmentation((96, 32), pad=0, erase=0.0)
    trained = [plain(read_image(file), torch.Generator().manual_seed(1))[0] for file in files]
    assert torch.equal(torch.stack(trained), batch.images)


# ------------------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize("name", ["cutting", "squashing"])
def test_maps_of_frames_are_the_same_online_and_as_a_cache_has_them(folders, pictures, name):
    clip = FrozenClip(str(folders[name]), size=(32, 48), dtype="fp32")
    frames, encoder = [read_image(pictures / f"{shape}.png") for shape in SIZES], clip.encoder()
    online = clip.encode_image(encoder.preprocess.batch(frames))
    rows = encoder.rows(frames)
    tokens = torch.from_numpy(rows["tokens"]).transpose(1, 2).unflatten(2, encoder.grid)
    torch.testing.assert_close(online.maps, tokens, atol=1e-3, rtol=0)  # half precision
    torch.testing.assert_close(online.pooled, torch.from_numpy(rows["pooled"]), atol=1e-3, rtol=0)


# ----------------------------------------------------------------------------------------------------------------- VQ


@pytest.fixture(scope="module")
def vq(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vq") / "vq"
    miniature.write_vq(folder)
    return VQImage.from_pretrained(folder)


@pytest.mark.parametrize("view", [View(32), View(48, 32)], ids=["square", "squashed"])
def test_ids_of_a_folder_are_those_of_the_loaders_and_of_the_predictor(vq, pictures, tmp_path, view):
    written = write_ids(lambda: vq, pictures, tmp_path / "ids", view, Job(batch_size=3)).cache
    if view.width:  # as retrieval reads persons
        plain, draw = Augmentation((48, 32), pad=0, erase=0.0), torch.Generator().manual_seed(0)
        seen = {name: plain(read_image(pictures / f"{name}.png"), draw)[0] for name in SIZES}
    else:  # as the tokenizer validates
        root = str(_another(tmp_path))
        data = TokenizerData(root=root, val_root=str(pictures), image_size=32, batch_size=2, num_workers=0)
        (one, two) = tokenizer_loaders(data).val
        files = [Path(path).stem for path in (*one.paths, *two.paths)]
        seen = dict(zip(files, torch.cat([one.images, two.images]), strict=True))
    for name in SIZES:
        ids = torch.from_numpy(written[f"{name}.png"]["ids"].astype(np.int64))
        assert torch.equal(ids, vq.encode(seen[name][None])[0])
        assert np.array_equal(ids, ImageTokenizer(vq).encode(to_image(seen[name])))


def _another(tmp_path):
    """A folder with two images to train on."""
    folder = tmp_path / "another"
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(folder / f"{number}.png")
    return folder
