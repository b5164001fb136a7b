"""Pairs to train on and a split to measure: what is in a batch, on which rank, and that it is the same again."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sightword.cli.main import main
from sightword.data.image import read_image, squash
from sightword.data.loader import Draw, Stream
from sightword.miniature.person import Sizes, vocabulary, write_cuhk, write_icfg
from sightword.miniature.tower import write_vq
from sightword.systems.retrieval import loader
from sightword.systems.retrieval.config import HIDE_WAYS, RetrievalData
from sightword.systems.retrieval.data import IGNORED, ImageRows, PedesBatch, TextRows, generated_rows, sides_swapped
from sightword.systems.retrieval.loader import Identities, ImageIds, Inputs, Kinds
from sightword.systems.retrieval.split import Source, Split, read_paraphrases, read_split
from sightword.towers.tokenizer import TextTokenizer
from sightword.towers.vq.ids import IdCache

SIZE = (48, 16)


class Words(TextTokenizer):
    """Every word of the small world; 0 pads, 1 ends, 2 stands for what is hidden."""

    hf: "Words"

    def __init__(self, length: int = 77) -> None:
        self.words = vocabulary()
        super().__init__(0, 1, length, 3 + len(self.words), unknown=2)
        self.special, self.hf, self.mask_token_id = frozenset({0, 1}), self, 2

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        plain = [text.lower().replace(".", "").replace(",", "") for text in texts]
        return [[*(3 + self.words.index(word) for word in text.split()), 1] for text in plain]

    def words_of(self, ids: Sequence[int]) -> str:
        return " ".join(self.words[number - 3] for number in ids if number > 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 identities to train on, 4 to select, 4 to test; two images each, two captions each image."""
    root = tmp_path_factory.mktemp("world")
    write_cuhk(root, Sizes(12, 4, 4), 2, size=SIZE)
    return root


@pytest.fixture(scope="module")
def codes(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `sightword tokenize` makes of all images: 6 × 2 codes of 8 pixels."""
    folder = tmp_path_factory.mktemp("codes")
    write_vq(folder / "vq")
    assert tokenize(folder, root, folder / "ids", "size=48x16") == 0
    return folder / "ids"


def tokenize(folder: Path, root: Path, out: Path, *words: str) -> int:
    images = root / "CUHK-PEDES" / "imgs"
    return main(["tokenize", f"model={folder / 'vq'}", f"images={images}", f"out={out}", *words])


def data_of(root: Path, **more: Any) -> RetrievalData:
    return RetrievalData(**{"root": str(root), "image_size": list(SIZE), "batch_size": 8, "num_workers": 0} | more)


def make_loaders(data: RetrievalData, tokenizer: TextTokenizer, patch: int = 1, seed: int = 0, **more: Any) -> Any:
    return loader.make_loaders(data, Inputs(tokenizer, (patch, patch), **more), seed)


def split_loader(data: RetrievalData, split: str, tokenizer: TextTokenizer, patch: int = 1) -> Any:
    return loader.split_loader(data, split, Inputs(tokenizer, (patch, patch)))


def assert_equal(one: Any, other: Any) -> None:
    for name, a, b in zip(one._fields, one, other, strict=True):
        assert (a is None and b is None) or torch.equal(a, b), name


# ------------------------------------------------------------------------------------------------------------- pairs


def test_a_batch_has_each_caption_with_its_image_and_identity(root: Path) -> None:
    tokenizer = Words()
    split = read_split(Source("cuhk_pedes", root), "train")
    seen = []
    for batch in make_loaders(data_of(root, pad=0, erase=0), tokenizer).train:
        assert batch.images.shape == (8, 3, *SIZE)
        assert batch.images.dtype == torch.float32
        assert batch.images.min() >= -1
        assert batch.images.max() <= 1
        assert batch.caption_attn_mask.dtype == torch.bool
        assert batch.caption_ids.shape == batch.caption_attn_mask.shape
        assert all(field is None for field in batch[5:])
        for row, index in enumerate(batch.index.tolist()):
            assert torch.equal(batch.images[row], squash(*SIZE)(read_image(split.images[index]), None))
            assert batch.pids[row] == split.pids[index]
            told = tokenizer.words_of(batch.caption_ids[row].tolist())
            own = [c for c, image in zip(split.captions, split.caption_image, strict=True) if image == index]
            assert told in [tokenizer.words_of(ids) for ids in tokenizer.ids_of(own)]
            seen.append((index, told))
    assert len(seen) == len(set(seen)) == 48  # each caption once


def test_the_same_draw_gives_the_same_pair_whatever_the_batch_and_the_worker(root: Path) -> None:
    data = data_of(root, flip="swap", mask_text=0.3)
    one = make_loaders(data, Words(), seed=3).train
    both = [list(one), list(one)]
    again = make_loaders(data_of(root, flip="swap", mask_text=0.3, num_workers=2), Words(), seed=3).train
    for straight, other in zip(both[0] + both[1], list(again) + list(again), strict=True):
        assert_equal(straight, other)
    pairs = one.dataset
    batch = pairs.__getitems__([Draw(4, 7), Draw(4, 30)])
    alone = pairs[Draw(4, 30)]
    assert torch.equal(batch.images[1:], alone.images)
    assert not torch.equal(pairs[Draw(5, 30)].images, alone.images)
    other_seed = make_loaders(data, Words(), seed=4).train.dataset
    assert not torch.equal(other_seed[Draw(4, 30)].images, alone.images)


def test_workers_stay_alive_between_epochs_and_pages_are_pinned_where_there_is_a_gpu(root: Path) -> None:
    loaders = make_loaders(data_of(root, num_workers=2), Words())
    for each in (loaders.train, loaders.val):
        assert each.persistent_workers
        assert each.num_workers == 2
        assert each.pin_memory == torch.cuda.is_available()


def test_a_run_that_was_stopped_goes_on_with_the_batches_that_were_left(root: Path) -> None:
    data = data_of(root, sampler="identity", instances=2, mask_text=0.2)
    straight = list(make_loaders(data, Words(), seed=1).train)
    first = make_loaders(data, Words(), seed=1).train
    given = iter(first)
    next(given), next(given)
    rest = make_loaders(data, Words(), seed=1).train
    rest.load_state_dict(first.state_dict())
    for one, other in zip(straight[2:], list(rest), strict=True):
        assert_equal(one, other)


def test_a_mirrored_image_has_a_mirrored_caption(root: Path) -> None:
    tokenizer = Words()
    train = make_loaders(data_of(root, flip="swap", pad=0, erase=0), tokenizer, seed=2).train
    split, pairs = train.dataset.split, train.dataset
    sided = [number for number, text in enumerate(split.captions) if sides_swapped(text) != text]
    assert sided
    found = set()
    for number in sided:
        for epoch in range(6):
            batch = pairs[Draw(epoch, number)]
            straight = squash(*SIZE)(read_image(split.images[int(batch.index[0])]), None)
            mirrored = torch.equal(batch.images[0], straight.flip(-1))
            assert mirrored or torch.equal(batch.images[0], straight)
            text = split.captions[number]
            told = tokenizer.ids_of([sides_swapped(text) if mirrored else text])[0]
            assert batch.caption_ids[0].tolist() == told
            found.add(mirrored)
    assert found == {True, False}


def test_hidden_words_are_of_the_caption_that_the_batch_has(root: Path) -> None:
    for batch in make_loaders(data_of(root, mask_text=0.3, flip="swap"), Words(), seed=2).train:
        chosen = batch.masked_labels != IGNORED
        assert chosen.any(1).all()
        assert torch.equal(batch.masked_labels[chosen], batch.caption_ids[chosen])
        assert torch.equal(batch.masked_ids[~chosen], batch.caption_ids[~chosen])
        assert not chosen[~batch.caption_attn_mask].any()


def test_what_is_disturbed_does_not_depend_on_whether_words_or_cells_are_hidden(root: Path, codes: Path) -> None:
    plain, masked, generated = (
        next(iter(make_loaders(data_of(root, **more), Words(), 4, seed=2).train))
        for more in ({}, {"mask_text": 0.3}, {"hide": 0.5, "vq_ids": str(codes), "mask_text": 0.3})
    )
    assert torch.equal(plain.images, masked.images)
    assert torch.equal(plain.images, generated.images)
    assert torch.equal(masked.masked_ids, generated.masked_ids)


def test_captions_that_are_too_long_are_cut_with_a_count(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = next(iter(make_loaders(data_of(root, text_length=8), Words()).train))
    assert batch.caption_ids.shape == (8, 8)
    assert (batch.caption_ids[:, -1] <= 1).all()
    assert "train: 48 of 48 captions are cut to 8 tokens" in capsys.readouterr().err


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_cuhk(tmp_path, Sizes(4, 4, 4), 1, size=SIZE)
    broken = read_split(Source("cuhk_pedes", tmp_path), "train").images[1]
    broken.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{broken.name} .*\(empty file\): sightword check names all") as error:
        list(make_loaders(data_of(tmp_path), Words()).train)
    assert "on_error" not in str(error.value)


# ---------------------------------------------------------------------------------------------------------- sampling


def flat(batches: Any) -> list[int]:
    return [draw.index for batch in batches for draw in batch]


PIDS = np.repeat(np.arange(11), [4, 8, 1, 6, 4, 12, 2, 4, 5, 4, 4])


@pytest.mark.parametrize("epoch", range(5))
def test_a_batch_of_identities_has_each_of_them_k_times(epoch: int) -> None:
    sampler = Identities(PIDS, 8, 4, seed=3)
    batches = list(sampler.epoch(epoch))
    assert len(batches) == len(sampler) == 7  # 14 groups of four
    for batch in batches:
        found = PIDS[[draw.index for draw in batch]].reshape(2, 4)
        assert (found == found[:, :1]).all()
        assert found[0, 0] != found[1, 0]
    enough = [index for index in flat(batches) if np.sum(PIDS[index] == PIDS) >= 4]
    assert len(enough) == len(set(enough))  # only who has fewer than four captions gives one twice
    assert set(PIDS[flat(batches)]) == set(range(11))


def test_the_ranks_together_see_the_batches_of_one_process_and_no_identity_on_two() -> None:
    ranks = [list(Identities(PIDS, 4, 4, 7, rank=rank, world=3).epoch(2)) for rank in range(3)]
    alone = list(Identities(PIDS, 12, 4, 7).epoch(2))
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == alone
    for batch in alone:
        assert len(set(PIDS[[draw.index for draw in batch]])) == 3


def test_the_process_group_is_asked_when_iterating(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = make_loaders(data_of(root, sampler="identity"), Words(), seed=1).train
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    seen = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        stream.load_state_dict({"batches": 0})
        seen.append([batch.pids.tolist() for batch in stream])
    assert [len(batches) for batches in seen] == [3, 3]
    for one, other in zip(*seen, strict=True):
        assert len(set(one)) == len(set(other)) == 2
        assert not set(one) & set(other)


def test_epochs_of_identities_differ_and_come_again() -> None:
    one, other = Identities(PIDS, 8, 4, seed=1), Identities(PIDS, 8, 4, seed=2)
    assert list(one.epoch(3)) == list(Identities(PIDS, 8, 4, seed=1).epoch(3))
    assert list(one.epoch(3, start=4)) == list(one.epoch(3))[4:]
    assert len({tuple(flat(sampler.epoch(epoch))) for sampler in (one, other) for epoch in range(3)}) == 6


def test_too_few_identities_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a batch needs 12 identities with 2 captions each, and there are 11"):
        Identities(PIDS, 24, 2)
    with pytest.raises(ValueError, match="is not a multiple of instances=4"):
        Identities(PIDS, 6, 4)


def test_both_samplers_serve_a_training_loader(root: Path) -> None:
    for sampler in ("random", "identity"):
        stream = make_loaders(data_of(root, sampler=sampler), Words(), seed=1).train
        assert isinstance(stream, Stream)
        assert stream.batches_per_epoch(1) == len(stream) == 6
        epochs = [[tuple(batch.index.tolist()) for batch in stream] for _ in range(2)]
        assert epochs[0] != epochs[1]


@pytest.mark.parametrize("world", [1, 3])
def test_kinds_never_share_a_batch_and_every_item_comes_once(world: int) -> None:
    kinds = [np.arange(10), np.arange(10, 31)[::-1], np.arange(31, 33)]
    ranks = [list(Kinds(kinds, 4, rank=rank, world=world)) for rank in range(world)]
    assert sorted(index for batches in ranks for index in flat(batches)) == list(range(33))
    for rank, batches in enumerate(ranks):
        assert len(batches) == len(Kinds(kinds, 4, rank=rank, world=world))
        for batch in batches:
            assert len({np.searchsorted([10, 31], draw.index, side="right") for draw in batch}) == 1
    if world == 1:
        assert flat(ranks[0]) == np.concatenate(kinds).tolist()


# -------------------------------------------------------------------------------------------------------- validation


def test_a_split_is_measured_images_first_then_captions_each_once(root: Path) -> None:
    split, tokenizer = read_split(Source("cuhk_pedes", root), "val"), Words()
    batches = list(make_loaders(data_of(root, mask_text=0.3), tokenizer).val)
    kinds = [type(batch) for batch in batches]
    assert kinds == [ImageRows] + [TextRows] * 2
    assert batches[0].index.tolist() == list(range(8))
    assert batches[0].pids.tolist() == split.pids.tolist()
    assert torch.equal(batches[0].images[5], squash(*SIZE)(read_image(split.images[5]), None))
    assert sorted(index for batch in batches[1:] for index in batch.index.tolist()) == list(range(16))
    for batch in batches[1:]:
        for ids, pid, index in zip(batch.caption_ids, batch.pids, batch.index.tolist(), strict=True):
            assert tokenizer.words_of(ids.tolist()) == tokenizer.words_of(tokenizer.ids_of([split.captions[index]])[0])
            assert pid == split.caption_pids[index]


def test_captions_are_measured_in_buckets_of_length(root: Path) -> None:
    texts = [batch for batch in make_loaders(data_of(root, batch_size=4), Words()).val if isinstance(batch, TextRows)]
    lengths = [batch.caption_attn_mask.sum(1).tolist() for batch in texts]
    assert list(chain(*lengths)) == sorted(chain(*lengths))
    assert [batch.caption_ids.shape[1] for batch in texts] == [max(each) for each in lengths]


def test_another_split_is_measured_when_asked_for(root: Path) -> None:
    test = read_split(Source("cuhk_pedes", root), "test")
    found = next(iter(split_loader(data_of(root), "test", Words())))
    assert found.pids.tolist() == test.pids.tolist()
    assert not torch.equal(found.images[:1], next(iter(make_loaders(data_of(root), Words()).val)).images[:1])


def test_icfg_is_validated_on_identities_it_does_not_train_on(tmp_path: Path) -> None:
    write_icfg(tmp_path, Sizes(8, 4, 4), 2, size=SIZE)
    loaders = make_loaders(data_of(tmp_path, dataset="icfg_pedes", hold_out=4, batch_size=4), Words())
    rows = [batch for batch in loaders.val if isinstance(batch, ImageRows)]
    assert len({pid for batch in rows for pid in batch.pids.tolist()}) == 4
    assert {pid for batch in loaders.train for pid in batch.pids.tolist()} == set(range(8))


# -------------------------------------------------------------------------------------------------------- generation


def generated(root: Path, codes: Path, **more: Any) -> RetrievalData:
    return data_of(root, hide=0.5, vq_ids=str(codes), **more)


def test_hidden_cells_are_grey_and_their_codes_are_asked_for(root: Path, codes: Path) -> None:
    cache, split = IdCache(codes), read_split(Source("cuhk_pedes", root), "train")
    imgs = root / "CUHK-PEDES" / "imgs"
    for batch in make_loaders(generated(root, codes), Words(), 4, seed=1).train:
        assert batch.vq_target_ids.shape == (8, 12)
        assert batch.vq_target_ids.dtype == torch.int64
        assert batch.vq_target_attn_mask.sum(1).tolist() == [6] * 8
        assert batch.vq_images is None
        hidden = batch.vq_target_attn_mask.view(8, 6, 2).repeat_interleave(8, 1).repeat_interleave(8, 2)
        for row, index in enumerate(batch.index.tolist()):
            whole = squash(*SIZE)(read_image(split.images[index]), None)  # neither shifted nor erased
            assert torch.equal(batch.masked_images[row], whole.masked_fill(hidden[row], 0.0))
            key = split.images[index].relative_to(imgs).as_posix()
            assert batch.vq_target_ids[row].tolist() == cache[key]["ids"].reshape(-1).tolist()


def test_other_cells_are_hidden_each_epoch_and_always_the_same_in_validation(root: Path, codes: Path) -> None:
    def cells(batch: PedesBatch) -> Tensor:
        return batch.vq_target_attn_mask

    one, other = (make_loaders(generated(root, codes), Words(), 4, seed=seed) for seed in (1, 2))
    pairs = one.train.dataset
    assert not torch.equal(cells(pairs[Draw(0, 5)]), cells(pairs[Draw(1, 5)]))
    assert not torch.equal(cells(pairs[Draw(0, 5)]), cells(other.train.dataset[Draw(0, 5)]))
    assert torch.equal(cells(pairs[Draw(1, 5)]), cells(pairs.__getitems__([Draw(1, 9), Draw(1, 5)]))[1:])
    held = [[batch for batch in loaders.val if isinstance(batch, PedesBatch)] for loaders in (one, one, other)]
    for first, again, elsewhere in zip(*held, strict=True):
        assert_equal(first, again)
        assert_equal(first, elsewhere)
    assert [index for batch in held[0] for index in batch.index.tolist()] == 4 * list(range(8))
    ways = {way: cells(batch) for batch in held[0] for way in batch.hide_way.unique().tolist()}
    assert list(ways) == list(range(len(HIDE_WAYS)))
    assert len({tuple(row) for row in ways[0].tolist()}) == 8
    assert ways[HIDE_WAYS.index("all")].sum(1).tolist() == [11] * 8


def test_a_mix_hides_one_by_one_a_band_or_all_but_one(root: Path, codes: Path) -> None:
    pairs = make_loaders(generated(root, codes, hide_way="mix"), Words(), 4).train.dataset
    hidden = pairs.__getitems__([Draw(epoch, 5) for epoch in range(40)]).vq_target_attn_mask
    assert set(hidden.sum(1).tolist()) == {6, 4, 11}  # of 6 × 2 cells: a half; two rows; all but one
    assert torch.equal(hidden[3:4], pairs[Draw(3, 5)].vq_target_attn_mask)


def test_mirrored_images_have_no_hidden_cells_and_at_most_so_many_others(root: Path, codes: Path) -> None:
    plain, few = (
        make_loaders(generated(root, codes, flip="swap", pad=0, erase=0, hide_rows=rows), Words(), 4).train.dataset
        for rows in (0, 2)
    )
    split = plain.split
    for epoch in range(3):
        draws = [Draw(epoch, index) for index in range(8)]
        batch = plain.__getitems__(draws)
        assert 0 < len(batch.generated) < 8
        for row in range(8):
            image = squash(*SIZE)(read_image(split.images[int(batch.index[row])]), None)
            assert torch.equal(batch.images[row], image) == (row in batch.generated.tolist())
        own = generated_rows(batch)
        assert torch.equal(own.vq_target_ids, plain.hiding.ids[own.index].long())
        assert len(own.pids) == len(own.caption_ids) == len(own.masked_images) == len(batch.generated)
        assert few.__getitems__(draws).generated.tolist() == batch.generated.tolist()[:2]
    alone = next(
        one for epoch in range(9) if not torch.equal((one := plain[Draw(epoch, 3)]).images[0], image_of(split, 3))
    )
    assert not alone.vq_target_attn_mask.any()  # mirrored, and no other


def image_of(split: Split, caption: int) -> Tensor:
    return squash(*SIZE)(read_image(split.images[split.caption_image[caption]]), None)


def test_paraphrases_of_the_own_image_take_the_place_of_captions(root: Path) -> None:
    tokenizer, split = Words(), read_split(Source("cuhk_pedes", root), "train")
    others = read_paraphrases(Source("cuhk_pedes", root), split)
    assert [len(texts) for texts in others] == [8] * 24
    for share in (0.5, 1.0):
        pairs = make_loaders(data_of(root, paraphrase=share), tokenizer).train.dataset
        batch = pairs.__getitems__([Draw(epoch, 7) for epoch in range(40)])
        told = {tokenizer.words_of(ids) for ids in batch.caption_ids.tolist()}
        own = {tokenizer.words_of(ids) for ids in tokenizer.ids_of(others[split.caption_image[7]])}
        assert told - own == ({tokenizer.words_of(tokenizer.ids_of([split.captions[7]])[0])} if share < 1 else set())
        assert len(told & own) > 4


def test_without_a_file_of_paraphrases_the_line_says_what_to_write(root: Path, tmp_path: Path) -> None:
    write_cuhk(tmp_path, Sizes(4, 4, 4), 1, size=SIZE)
    file = tmp_path / "CUHK-PEDES" / "paraphrases.json"
    file.write_text('{"imgs/elsewhere.png": ["a man"]}')
    with pytest.raises(ValueError, match=r"paraphrases\.json has no text on any of the 4 images of train, as cam_a/"):
        make_loaders(data_of(tmp_path, paraphrase=0.5), Words())
    file.unlink()
    with pytest.raises(ValueError, match=r"Write it, or set data\.paraphrase=0"):
        make_loaders(data_of(tmp_path, paraphrase=0.5), Words())


def test_images_that_are_kept_give_the_same_batches(root: Path) -> None:
    one, kept = (make_loaders(data_of(root, flip="swap", keep_images=each), Words()).train for each in (False, True))
    for _ in range(2):  # read, then from memory
        for straight, other in zip(one, kept, strict=True):
            assert_equal(straight, other)


def test_cells_are_no_smaller_than_a_patch(root: Path, codes: Path) -> None:
    batch = next(iter(make_loaders(generated(root, codes), Words(), 16).train))
    blocks = batch.vq_target_attn_mask.view(8, 3, 4)
    assert (blocks.all(-1) | ~blocks.any(-1)).all()


def test_without_a_cache_the_whole_view_comes_along_with_a_warning(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaders = make_loaders(data_of(root, hide=0.5), Words(), 4, factor=8)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("VQ ids are computed again for each batch, which is slow: sightword tokenize")
    batch = next(iter(loaders.train))
    assert batch.vq_target_ids is None
    assert batch.vq_target_attn_mask.shape == (8, 12)
    shown = batch.masked_images != 0
    assert torch.equal(batch.vq_images[shown], batch.masked_images[shown])
    with pytest.raises(ValueError, match=r"data\.vq_ids is not set\. Write them: sightword tokenize .*size=48x16"):
        make_loaders(data_of(root, hide=0.5), Words(), 4)


def test_a_cache_that_does_not_fit_is_refused(root: Path, codes: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"resized to 48x16, bicubic \(crop: none\), expected whole images of 96x32"):
        ImageIds(codes, (96, 32))
    assert tokenize(codes.parent, root, tmp_path / "square", "size=16") == 0
    with pytest.raises(ValueError, match=r"shorter side to 16, bicubic \(crop: centre\).*size=48x16"):
        make_loaders(generated(root, tmp_path / "square"), Words(), 4)
    with pytest.raises(ValueError, match=r"num_codes is 64, expected 1024"):
        make_loaders(generated(root, codes), Words(), 4, ids={"num_codes": 1024})
    with pytest.raises(ValueError, match=r"weights is '\w{16}', expected 'abc'"):
        make_loaders(generated(root, codes), Words(), 4, ids={"weights": "abc"})
    with pytest.raises(ValueError, match=r"cells of 8×8 pixels.*a patch \(6×6\) and an id \(8×8\)"):
        make_loaders(generated(root, codes), Words(), 6)
    with pytest.raises(ValueError, match="contains no cache"):
        make_loaders(generated(root, tmp_path), Words(), 4)


def test_images_without_codes_are_counted(root: Path, codes: Path, tmp_path: Path) -> None:
    write_cuhk(tmp_path, Sizes(12, 4, 8), 2, size=SIZE)
    data = generated(tmp_path, codes)
    with pytest.raises(
        ValueError,
        match=r"8 of 16 images have no ids in .*, as .*\. This computes .*: sightword tokenize 'model=…' images=",
    ):
        split_loader(data, "test", Words(), 4)


def test_keys_may_begin_at_the_folder_of_the_set(root: Path, codes: Path, tmp_path: Path) -> None:
    images = root / "CUHK-PEDES"
    words = [
        "tokenize",
        f"model={codes.parent / 'vq'}",
        f"images={images}",
        f"out={tmp_path}/ids",
        "size=48x16",
    ]
    assert main(words) == 0
    split: Split = read_split(Source("cuhk_pedes", root), "val")
    both = [ImageIds(cache, SIZE).rows(split.images, images / "imgs") for cache in (codes, tmp_path / "ids")]
    assert torch.equal(*both)


# ------------------------------------------------------------------------------------------------------------ config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "cuhk"}, r"data\.dataset='cuhk' is none of cuhk_pedes, icfg_pedes, rstpreid"),
        ({"sampler": "pk"}, r"data\.sampler='pk' is none of random, identity, alike"),
        ({"flip": "yes"}, r"data\.flip='yes' is none of none, swap"),
        ({"image_size": [384]}, r"data\.image_size=\[384\] is not a height and a width"),
        ({"hold_out": 0}, r"data\.hold_out=0 is too small\. Pass at least 1"),
        ({"paraphrase": 1.5}, r"data\.paraphrase=1\.5 is not a probability in \[0, 1\]"),
        ({"hide_way": "half"}, r"data\.hide_way='half' is none of random, band, person, all, mix"),
        ({"mask_text": 1.0}, r"data\.mask_text=1\.0 is not a fraction in \[0, 1\)"),
        ({"erase": 1.5}, r"data\.erase=1\.5 is not a probability in \[0, 1\]"),
        ({"sampler": "identity", "batch_size": 30}, r"data\.batch_size=30 is not a multiple of data\.instances=4"),
        ({"vq_ids": "ids"}, r"data\.vq_ids=ids is only read with hidden cells\. Set data\.hide"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetrievalData(**values)
