"""Ids that are looked up once are those that are looked up each time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sightword.cli.main import main
from sightword.ops.nearest import nearest
from sightword.systems.intent.anchors import Anchors, Book
from sightword.systems.intent.data import count_ids
from sightword.systems.intent.ids import anchors_digest, write_ids
from sightword.towers.token_cache import Source, TokenCache, cache_tokens

SIZES = {"places": 300, "coco": 9}  # as the document's five, in no alphabetical order
TOKEN_TYPES = {"coco": "value", "places": "joint"}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, random_clip):
    folder = tmp_path_factory.mktemp("ids")
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    for number in range(5):
        pixels = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    source = Source(str(random_clip[0]), {})
    return cache_tokens(source, folder / "images", folder / "tokens", ["value", "joint"], shard_size=3)


@pytest.fixture(scope="module")
def anchors(tokens):
    width = tokens.header["shapes"]["value"][1]
    generator = torch.Generator().manual_seed(0)
    return {name: F.normalize(torch.randn(k, width, generator=generator), dim=1) for name, k in SIZES.items()}


def test_each_patch_has_the_nearest_code_of_each_stream(tokens, anchors, tmp_path):
    ids = write_ids(tokens.out, anchors, TOKEN_TYPES, tmp_path / "ids", shard_size=2)
    assert list(ids) == list(tokens)
    assert ids.header["dtypes"] == {"ids": "uint16"}
    for path in tokens:
        for row, name in enumerate(sorted(SIZES)):
            x = torch.from_numpy(tokens.get(path, TOKEN_TYPES[name])).float()
            assert np.array_equal(ids[path]["ids"][row], nearest(x, anchors[name], "cosine").numpy())


def test_counts_are_of_the_stream_whose_name_they_have(tokens, anchors, tmp_path):
    ids = write_ids(tokens.out, anchors, TOKEN_TYPES, tmp_path / "ids")
    counts = count_ids(ids, [tokens.index[path] for path in tokens])
    for name, size in SIZES.items():
        for number, path in enumerate(tokens):
            x = torch.from_numpy(tokens.get(path, TOKEN_TYPES[name])).float()
            there = torch.bincount(nearest(x, anchors[name], "cosine"), minlength=size)
            assert torch.equal(counts[name][number], there.int())


def test_a_second_run_does_nothing_and_other_anchors_are_refused(tokens, anchors, tmp_path):
    write_ids(tokens.out, anchors, TOKEN_TYPES, tmp_path / "ids")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "ids").iterdir()}
    write_ids(tokens.out, anchors, TOKEN_TYPES, tmp_path / "ids")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "ids").iterdir()} == before
    other = anchors | {"coco": anchors["coco"].flip(0)}
    assert anchors_digest(other) != anchors_digest(anchors)
    with pytest.raises(ValueError, match="anchors"):
        write_ids(tokens.out, other, TOKEN_TYPES, tmp_path / "ids")


def test_tokens_that_do_not_fit_are_refused_with_both_sides(tokens, anchors, tmp_path):
    with pytest.raises(ValueError, match=r"stream coco reads qq tokens, .* has joint,value\. Set"):
        write_ids(tokens.out, anchors, TOKEN_TYPES | {"coco": "qq"}, tmp_path)
    with pytest.raises(ValueError, match="have dimension 24, the anchors of coco 7: they are of two encoders"):
        write_ids(tokens.out, {"coco": torch.randn(3, 7)}, TOKEN_TYPES, tmp_path)


def test_the_command_writes_them_and_says_what_comes_next(tokens, anchors, tmp_path, capsys):
    books = {
        name: Book(
            codes, list(map(str, range(len(codes)))), list(range(len(codes))), [0] * len(codes), [""] * len(codes)
        )
        for name, codes in anchors.items()
    }
    file = Anchors(books).write(tmp_path / "anchors")
    words = [f"anchors={file}", f"tokens={tokens.out}", f"out={tmp_path / 'codes'}"]
    assert main(["ids", *words]) == 0
    said = capsys.readouterr().out
    assert "5 images" in said
    assert "places by joint tokens, coco by value tokens" in said
    assert f"data.ids={tmp_path / 'codes'}" in said
    assert len(TokenCache(tokens.out)) == 5
