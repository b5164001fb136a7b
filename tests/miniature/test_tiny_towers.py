import socket

import pytest
import torch

from sightword.miniature import scene, tower
from sightword.towers.factory import image_tower, text_tower
from sightword.towers.prompt import class_embeddings
from sightword.towers.vq.image import VQImage

CAPTIONS = ["a photo of a", *scene.PLACES, *scene.OBJECTS, "a dog, a tv and a home office"]
WRITERS = {"siglip": tower.write_siglip, "t5": tower.write_t5, "bert": tower.write_bert}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("towers")
    for name, write in WRITERS.items():
        write(root / name, CAPTIONS)
    tower.write_vq(root / "vq")
    return root


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", WRITERS)
def test_a_tower_opens_from_its_folder_and_reads_every_word_as_one_token(folders, no_network, name):
    texts = text_tower(folders / name)
    found = texts.encode(["a photo of a dog on a beach", "a potted plant"])
    assert found.tokens.shape[2] == texts.width
    assert found.pooled.shape == (2, texts.embed_dim)
    words = [word for caption in CAPTIONS for word in caption.replace(",", "").split()]
    plain = texts.tokenizer.ids_of(["a"])[0]
    assert all(len(ids) == len(plain) for ids in texts.tokenizer.ids_of(words))
    assert texts.tokenizer.unknown not in {id_ for ids in texts.tokenizer.ids_of(words) for id_ in ids}


@pytest.mark.parametrize("name", WRITERS)
def test_a_tokenizer_gives_its_words_back_and_refuses_a_text_it_knows_nothing_of(folders, name):
    tokenizer = text_tower(folders / name).tokenizer
    ids = tokenizer(["a photo of a dog"]).ids[0].tolist()
    assert tokenizer.words_of(ids) == "a photo of a dog"
    with pytest.raises(ValueError, match="knows no word of '漢'"):
        tokenizer(["a dog", "漢"])


def test_the_siglip_reads_images_of_any_grid(folders, no_network):
    images = image_tower(folders / "siglip", size=(96, 32))
    assert images(torch.zeros(1, 3, 96, 32)).tokens.shape == (1, 48, tower.WIDTH)
    assert images(torch.zeros(2, 3, 64, 64)).tokens.shape == (2, 64, tower.WIDTH)


def test_the_image_tokenizer_gives_eight_by_eight_ids(folders, no_network):
    model = VQImage.from_pretrained(folders / "vq")
    ids = model.encode(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert ids.shape == (2, 8, 8)
    assert model.num_codes == 64


@pytest.mark.parametrize("name", [*WRITERS, "vq"])
def test_towers_are_written_the_same_each_time_and_leave_the_global_generator_alone(folders, tmp_path, name):
    torch.manual_seed(3)  # another state than the first time's
    before = torch.get_rng_state()
    if name == "vq":
        tower.write_vq(tmp_path)
    else:
        WRITERS[name](tmp_path, CAPTIONS)
    assert torch.equal(torch.get_rng_state(), before)
    again = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert again == {file.name: file.read_bytes() for file in (folders / name).iterdir()}


def test_a_tower_of_texts_reads_no_images_and_has_no_tag(folders):
    with pytest.raises(ValueError, match="is a t5; images are read by"):
        image_tower(folders / "t5")
    with pytest.raises(ValueError, match="only CLIPs and SigLIPs"):
        text_tower(folders / "bert", tag="openai")


def test_class_embeddings_are_the_mean_direction_of_their_prompts(folders):
    texts = text_tower(folders / "bert")
    templates = ("a photo of a {}", "{}")
    vectors = class_embeddings(texts, ["dog", "tv"], templates, batch_size=3)
    parts = [texts.encode([template.format("tv")]).pooled[0] for template in templates]
    wanted = sum(part / part.norm() for part in parts)
    torch.testing.assert_close(vectors[1], wanted / wanted.norm(), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="no {} for the word"):
        class_embeddings(texts, ["dog"], ["a photo"])


@pytest.mark.parametrize("write", [tower.write_siglip, tower.write_t5, tower.write_bert])
def test_a_word_at_the_end_of_a_sentence_is_the_same_token(write, tmp_path):
    write(tmp_path, ["A red coat, a bag. She has a coat."])
    tokenizer = text_tower(tmp_path).tokenizer
    ids = {word: tokenizer.ids_of([f"a {word}"])[0] for word in ("coat", "coat.", "coat,")}
    coat = set(ids["coat"]) - set(tokenizer.ids_of(["a"])[0])
    assert len(coat) == 1
    assert all(coat < set(each) for each in ids.values())
