"""Photos with labels: images, tokens and counts of codes make the same batches, and say what is missing."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from test_intentonomy import LABELS, contents, write_set

from sightword.errors import SightwordError
from sightword.storage.cache import FeatureCache, header_for
from sightword.storage.segments import content_key
from sightword.systems.intent import data as intent_data
from sightword.systems.intent.config import IntentData
from sightword.systems.intent.data import (
    Counts,
    Inputs,
    Labelled,
    labels_of,
    load_split,
)
from sightword.systems.intent.ids import write_ids
from sightword.systems.intent.intentonomy import CLASSES, annotation_file, read_annotations
from sightword.towers.factory import image_tower
from sightword.towers.preprocess import Preprocess
from sightword.towers.token_cache import Source, TokenCache, cache_tokens


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "intentonomy")


@pytest.fixture(scope="module")
def tokens(whole, random_clip, tmp_path_factory):
    """A cache of all its pictures, in several shards."""
    out = tmp_path_factory.mktemp("tokens")
    cache_tokens(source_of(random_clip), whole, out, ["post", "value"], shard_size=4)
    return out


@pytest.fixture
def root(whole, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(whole, tmp_path / "copy")


def source_of(random_clip):
    return Source(str(random_clip[0]), {"dtype": torch.float32})


def data_of(root, **options):
    return IntentData(**({"root": str(root), "batch_size": 2, "num_workers": 0} | options))


def make_loaders(data, seed=0, **inputs):
    return intent_data.make_loaders(data, Inputs(preprocess=lambda: Preprocess((32, 32)), **inputs), seed)


def split_loader(data, split, **inputs):
    return intent_data.split_loader(data, split, Inputs(preprocess=lambda: Preprocess((32, 32)), **inputs))


def annotated(root, split):
    return read_annotations(annotation_file(root, split))


def write_ids_like(tokens, out, ids_of, streams=None, **extra):
    """A cache as `sightword ids` writes it: (S, N) ids by the paths of a TokenCache."""
    paths = list(TokenCache(tokens))
    rows = np.stack([ids_of(path) for path in paths]).astype(np.uint16)
    token_types = {"coco": "value", "places": "post"}
    said = {"streams": streams or {"coco": 5, "places": 3}, "anchors": "digest", "token_types": token_types} | extra
    header = header_for(paths, {"ids": ("uint16", rows.shape[1:])}, writer="x", weights="x", shard_size=4, **said)
    cache = FeatureCache.create(out, {name: value for name, value in header.items() if value is not None})
    for shard in range(cache.shards):
        some = slice(4 * shard, 4 * shard + 4)
        cache.write_shard(shard, paths[some], {"ids": rows[some]})
    return out


def random_ids(path):
    rng = np.random.default_rng(list(path.encode()))
    return np.stack([rng.integers(0, 5, 16), rng.integers(0, 3, 16)])


# ---------------------------------------------------------------------------------------------------------- batches


def test_pictures_come_with_their_own_labels(whole):
    loaders = make_loaders(data_of(whole), seed=1)
    train = annotated(whole, "train")
    seen = []
    for batch in loaders.train:
        assert batch.images.shape == (2, 3, 32, 32)
        assert batch.images.min() >= -1
        assert batch.images.max() <= 1
        assert (batch.tokens, batch.pooled, batch.counts) == (None, None, None)
        for image, row in zip(batch.image_ids, batch.targets, strict=True):
            assert torch.equal(row, (train.targets[train.ids.index(image)] > 0).float())
        seen += batch.image_ids
    assert sorted(seen) == sorted(train.ids)
    assert [image for batch in loaders.val for image in batch.image_ids] == annotated(whole, "val").ids


def test_another_size_than_the_encoders_is_taken_if_it_is_set(whole):
    (batch,) = split_loader(data_of(whole, batch_size=3, image_size=48), "val")
    assert batch.images.shape == (3, 3, 48, 48)


def test_a_picture_is_what_the_tower_saw_when_its_tokens_were_kept(whole, random_clip):
    tower = image_tower(random_clip[0])
    val = annotated(whole, "val")
    (batch,) = split_loader(data_of(whole, batch_size=3), "val")
    for image, file in zip(batch.images, val.files, strict=True):
        wanted = tower.preprocess(Image.open(whole / file).convert("RGB"))
        torch.testing.assert_close(tower.normalise(image), wanted, atol=1e-5, rtol=0)


def test_tokens_of_a_batch_are_the_rows_of_the_cache(whole, tokens):
    data = data_of(whole, cache=str(tokens))
    cache, train = TokenCache(tokens), annotated(whole, "train")
    batches = list(make_loaders(data, seed=1).train)
    assert len(batches) == 3
    for batch in batches:
        assert batch.images is None
        assert batch.tokens.keys() == {"post", "value"}
        assert batch.tokens["value"].dtype == torch.float16
        assert batch.tokens["value"].shape == (2, 16, 24)
        for number, image in enumerate(batch.image_ids):
            row = cache[train.files[train.ids.index(image)]]
            for token_type in ("post", "value"):
                np.testing.assert_array_equal(batch.tokens[token_type][number], row[token_type])
            np.testing.assert_array_equal(batch.pooled[number], row["pooled"])
    chosen = next(iter(make_loaders(data, token_types=["value"]).val))
    assert chosen.tokens.keys() == {"value"}


def test_what_a_batch_holds_changes_neither_order_nor_labels(whole, tokens, tmp_path):
    ids = write_ids_like(tokens, tmp_path / "ids", random_ids)
    kinds = [{}, {"cache": str(tokens)}, {"ids": str(ids)}]
    all_batches = [[*loaders.train, *loaders.val] for loaders in (make_loaders(data_of(whole, **k), 3) for k in kinds)]
    assert all_batches[2][0].anchors == "digest"
    assert all_batches[2][0].token_types == {"coco": "value", "places": "post"}
    for same in zip(*all_batches, strict=True):
        assert len({tuple(batch.image_ids) for batch in same}) == 1
        assert torch.equal(same[0].targets, same[1].targets)
        assert torch.equal(same[0].targets, same[2].targets)


def test_workers_give_what_one_process_gives(whole, tokens):
    for kind in ({}, {"cache": str(tokens)}):
        alone = list(make_loaders(data_of(whole, **kind)).train)
        shared = list(make_loaders(data_of(whole, num_workers=1, **kind)).train)
        for one, other in zip(alone, shared, strict=True):
            assert one.image_ids == other.image_ids
            values = (one.images, other.images) if not kind else (one.tokens["post"], other.tokens["post"])
            assert torch.equal(*values)


# ------------------------------------------------------------------------------------------------------------ labels


def test_the_three_kinds_of_labels(whole):
    train = annotated(whole, "train")
    assert torch.equal(labels_of(train, "soft"), train.targets)
    first = {kind: labels_of(train, kind)[0] for kind in ("any", "majority", "soft")}  # class 0 by three, 19 by one
    assert first["any"].nonzero().flatten().tolist() == [0, 19]
    assert first["majority"].nonzero().flatten().tolist() == [0]
    assert first["soft"][19].item() == pytest.approx(1 / 3)
    assert labels_of(train, "majority")[1, 4] == 1  # by two


@pytest.mark.parametrize("kind", ["any", "soft", "majority"])
def test_validation_labels_are_always_whole(whole, kind):
    loaders = make_loaders(data_of(whole, labels=kind, batch_size=3))
    val = torch.cat([batch.targets for batch in loaders.val])
    assert torch.equal(val, annotated(whole, "val").targets)
    trained = torch.cat([batch.targets for batch in loaders.train])
    assert (kind == "soft") == bool(((trained > 0) & (trained < 1)).any())


# ----------------------------------------------------------------------------------------------------------- missing


def test_missing_pictures_are_counted_and_said(root, capsys):
    train = annotated(root, "train")
    (root / train.files[1]).unlink()
    split = load_split(data_of(root), "train")
    assert split.missing == [train.files[1]]
    assert split.available == [0, 2, 3, 4, 5]
    assert f"train: 1 of 6 images do not exist, the first is {train.files[1]}" in capsys.readouterr().err
    loaders = make_loaders(data_of(root))
    assert {batch.missing for batch in loaders.train} == {1}
    assert {batch.missing for batch in loaders.val} == {0}
    assert train.ids[1] not in {image for _ in range(2) for batch in loaders.train for image in batch.image_ids}


def test_pictures_keep_their_labels_where_others_are_missing(root, random_clip, tmp_path):
    content = contents("train")
    for number, entry in enumerate(content["annotations"]):  # labels that tell images apart
        entry["category_ids_softprob"] = [float(column == number) for column in range(28)]
    annotation_file(root, "train").write_text(json.dumps(content))
    train = annotated(root, "train")
    (root / train.files[0]).unlink()
    cache_tokens(source_of(random_clip), root, tmp_path / "tokens", ["post"])
    ids = write_ids_like(tmp_path / "tokens", tmp_path / "ids", random_ids)
    for kind in ({}, {"cache": str(tmp_path / "tokens")}, {"ids": str(ids)}):
        for batch in make_loaders(data_of(root, **kind)).train:
            assert train.ids[0] not in batch.image_ids
            for image, target in zip(batch.image_ids, batch.targets, strict=True):
                assert target.nonzero().flatten().tolist() == [train.ids.index(image)]


def test_a_picture_that_is_nowhere_is_missing_from_the_cache_too(root, random_clip, tmp_path):
    train = annotated(root, "train")
    (root / train.files[1]).unlink()
    cache_tokens(source_of(random_clip), root, tmp_path / "tokens", ["post"])
    assert load_split(data_of(root, cache=str(tmp_path / "tokens")), "train").missing == [train.files[1]]


def test_pictures_may_be_deleted_once_they_are_cached(root, tokens):
    shutil.rmtree(root / "low")
    split = load_split(data_of(root, cache=str(tokens)), "train")
    assert (len(split.keys), split.missing) == (6, [])


def test_a_cache_that_has_not_this_picture_says_how_to_compute_it(root, tokens):
    content = contents("train")
    for number in (0, 1):
        new = f"low/new{number}.png"
        Image.new("RGB", (40, 40), "red").save(root / new)
        content["images"][number]["filename"] = new
    annotation_file(root, "train").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"2 images have no tokens in .*new0\.png\. Compute them with sightword cache"
    ) as error:
        make_loaders(data_of(root, cache=str(tokens)))
    assert f"images={root} token_type=post,value out={tokens}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["cache", "ids"])
def test_a_picture_that_was_replaced_has_no_row_and_one_that_is_gone_or_was_moved_has_its_own(
    root, random_clip, tmp_path, kind
):
    first, second, third, *_ = annotated(root, "train").files
    tokens = cache_tokens(source_of(random_clip), root, tmp_path / "cache", ["value"])
    anchors = {"coco": torch.randn(5, tokens.header["shapes"]["value"][1], generator=torch.Generator().manual_seed(0))}
    write_ids(tokens.out, anchors, {"coco": "value"}, tmp_path / "ids")
    data, was = data_of(root, **{kind: str(tmp_path / kind)}), tokens.index
    (root / second).unlink()
    (root / first).rename(root / second)
    (root / third).unlink()
    keys = load_split(data, "train").keys
    assert keys[:3] == [was[first], was[first], was[third]]
    Image.new("RGB", (40, 40), "red").save(root / third)
    with pytest.raises(SightwordError, match=r"^1 images have no .* \(1 changed since they were cached\)\. "):
        load_split(data, "train")
    cache_tokens(source_of(random_clip), root, tmp_path / "cache", ["value"])
    ids = write_ids(tokens.out, anchors, {"coco": "value"}, tmp_path / "ids")
    assert len(ids) == len(was) + 1
    assert load_split(data, "train").keys[1] == content_key(root / third) != was[third]


def test_a_picture_without_tokens_that_is_broken_is_missing(root, random_clip, tmp_path):
    train = annotated(root, "train")
    (root / train.files[3]).write_bytes(b"no picture")
    cache_tokens(source_of(random_clip), root, tmp_path / "tokens", ["post"], on_error="skip")
    split = load_split(data_of(root, cache=str(tmp_path / "tokens")), "train")
    assert split.missing == [train.files[3]]


def test_a_picture_that_moved_is_found_by_its_bytes(root, tokens):
    moved = root.parent / "moved"
    (moved / "flat").mkdir(parents=True)
    content = contents("val")
    for entry in content["images"]:
        name = "flat/" + entry["filename"].removeprefix("low/")
        shutil.copy(root / entry["filename"], moved / name)
        entry["filename"] = name
    annotation_file(root, "val").write_text(json.dumps(content))
    there = load_split(data_of(root, images=str(moved), cache=str(tokens)), "val")
    assert (len(there.keys), there.missing) == (3, [])
    cache = TokenCache(tokens)
    assert there.keys[0] == cache.index["low/" + content["images"][0]["filename"].removeprefix("flat/")]


def test_broken_pictures_are_replaced_in_training_and_left_out_of_validation(root):
    train, val = annotated(root, "train"), annotated(root, "val")
    (root / train.files[0]).write_bytes(b"no picture")
    for file in val.files[:2]:
        (root / file).write_bytes(b"")
    loaders = make_loaders(data_of(root))
    batches = list(loaders.train)
    assert [len(batch.targets) for batch in batches] == [2, 2, 2]
    assert sum(batch.skipped for batch in batches) == 1
    trained = [image for batch in batches for image in batch.image_ids]
    assert sorted(trained) == sorted([*train.ids[1:], train.ids[1]])
    for batch in batches:
        for image, row in zip(batch.image_ids, batch.targets, strict=True):
            assert torch.equal(row, (train.targets[train.ids.index(image)] > 0).float())
    empty, last = loaders.val
    assert (empty.targets.shape, empty.skipped) == ((0, 28), 2)
    assert last.image_ids == val.ids[2:]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"root": ""}, "data.root is not set"),
        ({"images": "/nowhere"}, r"has none of the 6 images of train; the first is low/"),
        ({"cache": "/nowhere"}, "contains no cached tokens"),
        ({"ids": "/nowhere"}, "no cache"),
        ({"batch_size": 7}, "lower the batch size"),
    ],
)
def test_a_mistake_is_one_line(whole, options, told):
    with pytest.raises(ValueError, match=told) as error:
        make_loaders(data_of(**{"root": whole} | options))
    assert "\n" not in str(error.value)


def test_two_sets_do_not_mix(root):
    content = contents("val")
    content["categories"][3] = {"id": 3, "name": "another"}
    annotation_file(root, "val").write_text(json.dumps(content))
    told = r"val2020.json: 'another' is none of the 28 classes of the model, and 'CreativeUnique' is missing"
    with pytest.raises(ValueError, match=told):
        make_loaders(data_of(root))


def renumbered(root, split, rename=()):
    """Write a split with the same labels, its categories numbered backwards, and some of them renamed."""
    content = contents(split)
    names = dict(rename)
    categories = [{"id": 27 - one["id"], "name": names.get(one["name"], one["name"])} for one in content["categories"]]
    for entry in content["annotations"]:
        if "category_ids" in entry:
            entry["category_ids"] = [27 - number for number in entry["category_ids"]]
        else:
            entry["category_ids_softprob"] = entry["category_ids_softprob"][::-1]
    annotation_file(root, split).write_text(json.dumps(content | {"categories": categories}))


@pytest.mark.parametrize("kind", ["images", "tokens", "ids"])
def test_columns_of_a_split_that_numbers_its_classes_otherwise_are_matched_by_name(root, tokens, tmp_path, kind):
    options = {"images": {}, "tokens": {"cache": str(tokens)}}.get(kind) or {
        "ids": str(write_ids_like(tokens, tmp_path / "ids", random_ids))
    }
    data = data_of(root, **options if kind != "images" else {})
    before = {split: [batch.targets for batch in split_loader(data, split, classes=CLASSES)] for split in LABELS}
    for split in LABELS:
        renumbered(root, split)
    for split, wanted in before.items():
        found = list(split_loader(data, split, classes=CLASSES))
        assert all(torch.equal(one.targets, other) for one, other in zip(found, wanted, strict=True))
        assert {batch.classes for batch in found} == {CLASSES}
    loaders = make_loaders(data)  # without a model: in the order of train
    assert {batch.classes for batch in [*loaders.train, *loaders.val]} == {CLASSES[::-1]}


def test_names_that_the_model_does_not_have_are_refused_with_the_nearest(root):
    renumbered(root, "test", {"Happy": "Hapy"})
    told = r"test2020.json: 'Hapy' \(did you mean 'Happy'\?\) is none of the 28 classes of the model, and 'Happy' is"
    with pytest.raises(ValueError, match=told) as error:
        split_loader(data_of(root), "test", classes=CLASSES)
    assert "\n" not in str(error.value)


def test_a_token_type_that_the_cache_lacks_is_named(whole, tokens):
    with pytest.raises(
        ValueError,
        match="has post, value tokens and no joint. Write another .* token_type=post,value,joint",
    ):
        make_loaders(data_of(whole, cache=str(tokens)), token_types=["joint"])


# ------------------------------------------------------------------------------------------------------------- counts


def test_counts_of_codes_are_histograms_of_their_ids(whole, tokens, tmp_path):
    ids = write_ids_like(tokens, tmp_path / "ids", random_ids)
    test = annotated(whole, "test")
    (batch,) = split_loader(data_of(whole, ids=str(ids)), "test")
    assert batch.image_ids == test.ids
    assert list(batch.counts) == ["coco", "places"]
    for number, file in enumerate(test.files):
        for stream, row, size in zip(("coco", "places"), random_ids(file), (5, 3), strict=True):
            assert batch.counts[stream][number].tolist() == np.bincount(row, minlength=size).tolist()
    assert batch.counts["coco"].sum(1).tolist() == [16, 16]


def test_codes_of_other_pictures_or_of_another_writer_are_refused(root, tokens, tmp_path):
    ids = write_ids_like(tokens, tmp_path / "ids", random_ids)
    content = contents("train")
    shutil.copy(root / content["images"][0]["filename"], root / "low" / "new.png")
    content["images"][0]["filename"] = "low/new.png"
    annotation_file(root, "train").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"1 images have no ids in .*new\.png\. Look them up with sightword ids"):
        make_loaders(data_of(root, ids=str(ids)))
    other = write_ids_like(tokens, tmp_path / "other", random_ids)
    header = json.loads((other / "header.json").read_text())
    del header["anchors"]
    (other / "header.json").write_text(json.dumps(header))
    with pytest.raises(ValueError, match="has no anchors: sightword ids did not write it"):
        make_loaders(data_of(root, ids=str(other)))


def test_counts_and_images_go_together():
    known = Labelled(torch.zeros(3, 28), ["a", "b", "c"], [])
    with pytest.raises(ValueError, match="counts of 3 images, got {'coco': 2}"):
        Counts(known, {"coco": torch.zeros(2, 5)})
    assert Counts(known, {"coco": torch.arange(15).view(3, 5)})[1].counts["coco"].tolist() == [[5, 6, 7, 8, 9]]
