"""ImageTokenizer: one image or many of any kind to ids and back, and an export that needs nothing else."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_tokenizer import tokenizer_of

import sightword
from sightword.data.image import read_image, to_image, to_tensor
from sightword.errors import MissingFileError, SightwordError
from sightword.storage.cache import digest
from sightword.systems.tokenizer.config import TokenizerConfig
from sightword.systems.tokenizer.predict import ImageTokenizer
from sightword.systems.tokenizer.task import make_task
from sightword.towers.vq.image import VQImage, inference_weights


@pytest.fixture(scope="module")
def model(photos):
    return ImageTokenizer(tokenizer_of(photos, 0))


def files_of(photos):
    return sorted(photos.iterdir())


def test_ids_and_images_are_the_networks_own(model, photos):
    for file in files_of(photos)[:3]:  # 40 × 50 pixels: 10 × 13 tokens of 4, the last column padded
        image = to_tensor(read_image(file))[None]
        with torch.no_grad():
            ids = model.model.encode(image)
            decoded = to_image(model.model.decode(ids, size=(40, 50))[0])
        found = model(file)
        assert found.ids.tolist() == ids[0].tolist() == model.encode(file).tolist()
        assert found.ids.dtype == np.int64
        assert found.reconstruction.tobytes() == decoded.tobytes()
        assert model.decode(found.ids, size=(40, 50)).tobytes() == decoded.tobytes()
        assert model.decode(found.ids).size == (52, 40)


def test_one_gives_one_and_many_a_list_whatever_kind_they_are(model, photos):
    files = files_of(photos)[:2]
    arrays = np.stack([np.asarray(read_image(file)) for file in files])  # (2, 40, 50, 3)
    tensors = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    ids = model.encode(files)
    assert [each.shape for each in ids] == [(10, 13)] * 2
    for many in ([str(file) for file in files], [Image.open(file) for file in files], arrays, tensors, tensors / 255):
        assert [each.tolist() for each in model.encode(many)] == [each.tolist() for each in ids]
        assert [each.ids.tolist() for each in model(many)] == [each.tolist() for each in ids]
        assert model.encode(many[0]).tolist() == ids[0].tolist()
    assert model([]) == model.encode([]) == model.decode([]) == []


def test_many_grids_decode_as_each_alone(model, photos):
    ids = model.encode(files_of(photos)[:3])
    alone = [model.decode(each).tobytes() for each in ids]
    stacked = np.stack(ids)
    for many in (ids, stacked, stacked.astype(np.uint16), torch.from_numpy(stacked)):
        assert [image.tobytes() for image in model.decode(many)] == alone
    both = model.decode([ids[0], ids[1][:4, :5]])  # grids of several sizes
    assert [image.size for image in both] == [(52, 40), (20, 16)]


@pytest.mark.parametrize(
    ("ids", "size", "told"),
    [
        (np.full((2, 2), 16), None, "id 16 is not in the codebook of 16 codes"),
        (np.zeros((2, 2)), None, "ids are whole numbers, got float64. Pass indices into the codebook"),
        (np.zeros(4, int), None, r"ids are a grid \(h, w\), or several \(n, h, w\), got \(\) for one image"),
        ([np.zeros(4, int)], None, r"ids are a grid \(h, w\), or several \(n, h, w\), got \(4,\) for one image"),
        (np.zeros((2, 2), int), (9, 8), "of which no .9, 8. can be cropped"),
    ],
)
def test_ids_that_cannot_be_decoded_are_one_line(model, ids, size, told):
    with pytest.raises(SightwordError, match=told) as caught:
        model.decode(ids, size)
    assert "\n" not in str(caught.value)


def test_images_that_cannot_be_encoded_are_one_line(model, photos):
    normalised = to_tensor(read_image(files_of(photos)[0]))  # as networks take them, in [-1, 1]
    for image, told in (
        (normalised, r"floats of an image are in \[0, 1\]"),
        (normalised.permute(1, 2, 0), r"a tensor of an image is \(3, H, W\)"),
        ("nowhere.png", "nowhere.png"),
    ):
        with pytest.raises(SightwordError, match=told):
            model.encode(image)


def test_a_result_is_plain_values_one_line_and_a_figure(model, photos):
    found = model(files_of(photos)[0])
    plain = json.loads(json.dumps(found.to_dict()))
    assert (plain["num_codes"], plain["size"], plain["psnr"]) == (16, [40, 50], found.psnr)
    assert model.decode(np.array(plain["ids"]), plain["size"]).tobytes() == found.reconstruction.tobytes()
    assert repr(found).startswith("TokenizedImage(50×40 pixels as 13×10 ids of 16 codes, PSNR ")
    assert "\n" not in repr(found)
    figure = found.plot()
    assert figure.height > 200  # a small image is enlarged
    assert model(Image.new("RGB", (1200, 100))).plot().width < 2000  # a large one is reduced


def test_an_export_predicts_from_anywhere_and_is_a_vqimage(model, photos, tmp_path, monkeypatch):
    images = [read_image(file) for file in files_of(photos)]
    expected = model(images)
    model.save_pretrained(tmp_path / "one")
    (tmp_path / "far").mkdir()
    shutil.move(tmp_path / "one", tmp_path / "far" / "moved")
    monkeypatch.chdir(tmp_path / "far")
    for again in (sightword.load("moved"), ImageTokenizer(VQImage.from_pretrained("moved"))):
        for one, other in zip(again(images), expected, strict=True):
            assert one.ids.tolist() == other.ids.tolist()
            assert one.reconstruction.tobytes() == other.reconstruction.tobytes()
    content = json.loads((tmp_path / "far" / "moved" / "config.json").read_text())
    assert {"sightword", "system", "encoder", "decoder", "quantizer", "project"} <= set(content)


def test_a_folder_that_names_no_system_is_read_as_a_tokenizer(model, photos, tmp_path):
    model.model.save_pretrained(tmp_path)
    again = sightword.load(tmp_path)
    assert type(again) is ImageTokenizer
    assert again.encode(files_of(photos)[0]).tolist() == model.encode(files_of(photos)[0]).tolist()
    (tmp_path / "config.json").write_text('{"encoder": {}, "decoder": {}}')
    with pytest.raises(SightwordError, match="system is ''"):
        sightword.load(tmp_path)


def test_an_export_that_is_not_whole_is_one_line(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-10])
    with pytest.raises(SightwordError, match="not a whole safetensors file"):
        sightword.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"has no model\.safetensors"):
        sightword.load(tmp_path)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_its_weights_have_the_names_of_the_task_and_an_export_keeps_the_codes_as_a_start(codebook, tmp_path):
    small = {"latent_channels": 8, "encoder_channels": [8, 8], "decoder_channels": [8, 8], "num_res_blocks": 1}
    config = TokenizerConfig(num_embeddings=16, embedding_dim=8, codebook=codebook, use_lpips=False, **small)
    torch.manual_seed(1)
    task, other = make_task(config), make_task(config)
    ImageTokenizer.from_task(task).save_pretrained(tmp_path)
    weights = ImageTokenizer.from_pretrained(tmp_path).task_weights()
    expected = {name: value for name, value in other.state_dict().items() if isinstance(value, torch.Tensor)}
    assert weights.keys() == expected.keys()
    other.load_state_dict({**other.state_dict(), **weights})
    assert digest(inference_weights(other.model)) == digest(inference_weights(task.model))
    if codebook == "ema":
        assert other.model.quantizer.cluster_size.min() > 0  # else the first batch replaces every code
