"""CLIP's maps of frames are computed once, and are the same bits read as computed."""

import json
import pickle
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from lift_fakes import ColourTower, Source, scenes_of, write_rooms
from PIL import Image
from torch.utils.data import DataLoader

from sightword.systems.points.config import PointsData
from sightword.systems.points.data import complete_cache
from sightword.systems.points.lift import features
from sightword.systems.points.lift.features import FrameCache, FrameEncoder, features_of, fill, identified, plan
from sightword.systems.points.scannet.reader import read_color
from sightword.towers import token_cache
from sightword.towers.factory import image_tower


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    root = tmp_path_factory.mktemp("rooms")
    return root, write_rooms(root, (0, 1, 2))


def opened(source, token_type, out):
    """A cache as a run that computes nothing opens it, see `FrozenClip.open_cache`."""
    return FrameCache(out, identified(source, token_type, out).recipe)


def same(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("backend", ["safetensors", "lmdb"])
def test_what_is_read_is_what_is_computed_bit_for_bit(rooms, random_clip, tmp_path, backend):
    if backend == "lmdb":
        pytest.importorskip("lmdb")
    root, names = rooms
    scenes = scenes_of(root, names[:2])
    tower = image_tower(random_clip[0], size=(24, 32), dtype=torch.bfloat16)
    cache = fill(Source(tower), "qq", scenes, tmp_path / "cache", backend=backend)
    encoder = FrameEncoder(tower, "qq")
    for scene in scenes:
        online = features_of(encoder.rows([read_color(frame) for frame in scene.frames]), encoder.grid)
        same(cache.maps(scene.name, [frame.index for frame in scene.frames]), online)
    assert online.maps.shape == (3, 24, 3, 4)
    assert online.maps.dtype == torch.float16
    assert (online.maps.float().norm(dim=1) - 1).abs().max() < 2e-3


def test_a_frame_has_the_same_bits_in_any_company(rooms, random_clip):
    root, names = rooms
    pictures = [read_color(frame) for frame in scenes_of(root, names[:1])[0].frames]
    encoder = FrameEncoder(image_tower(random_clip[0]), "value")
    together, alone = encoder.rows(pictures[::-1]), encoder.rows(pictures[:1])
    assert np.array_equal(together["tokens"][-1], alone["tokens"][0])


def test_maps_are_laid_out_as_the_frame_is():
    tower = ColourTower((8, 16), 4)
    picture = Image.new("RGB", (16, 8), (0, 0, 0))
    picture.paste((255, 0, 0), (12, 0, 16, 4))  # the patch at the top right
    encoder = FrameEncoder(tower)
    maps = features_of(encoder.rows([picture]), encoder.grid).maps[0]  # (4, 2, 4)
    assert (maps[0] > 0).nonzero().tolist() == [[0, 3]]


def test_nothing_of_a_frame_is_cut_whatever_its_shape():
    encoder = FrameEncoder(ColourTower((8, 8), 4))
    assert encoder.tower.preprocess.resize == "shortest"  # what CLIPs come with would cut the sides off
    picture = Image.new("RGB", (64, 16), (0, 0, 0))
    picture.paste((255, 255, 255), (0, 0, 16, 16))
    maps = features_of(encoder.rows([picture]), encoder.grid).maps[0]
    assert maps[0, 0, 0] > maps[0, 0, 1]


def test_the_tower_is_frozen_for_good(random_clip):
    tower = FrameEncoder(image_tower(random_clip[0])).tower
    torch.nn.Sequential(tower).train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_numbers_that_are_not_finite_are_one_line_and_not_kept(rooms, tmp_path):
    root, names = rooms
    with pytest.raises(ValueError, match=r"colours computes numbers that are not finite. Use dtype=fp32"):
        fill(Source(ColourTower(gain=float("inf"))), "qq", scenes_of(root, names[:1]), tmp_path)
    assert FrameCache(tmp_path).lacks(scenes_of(root, names[:1])[0])


def test_only_what_is_lacking_is_computed(rooms, tmp_path):
    root, names = rooms
    source = Source()
    fill(source, "qq", scenes_of(root, names[:1], [0, 40]), tmp_path)
    assert source.tower.seen == 2
    fill(source, "qq", scenes_of(root, names[:1]), tmp_path)
    assert source.tower.seen == 3  # the third frame
    cache = fill(source, "qq", scenes_of(root, names), tmp_path)
    assert source.tower.seen == 9
    fill(source, "qq", scenes_of(root, names[::-1]), tmp_path)
    assert source.tower.seen == 9
    assert len(cache.rows.segments) == 3
    assert [len(part) for part in cache.rows.segments if part.done] == [len(part) for part in cache.rows.segments]
    assert cache.bytes > 9 * 48 * 4 * 2


def test_a_job_that_was_killed_goes_on_in_its_part(rooms, tmp_path):
    root, names = rooms
    scenes, source = scenes_of(root, names), Source()
    encoder = FrameEncoder(source.tower)
    begun = plan(tmp_path, scenes, encoder.recipe())
    middle = scenes[1]
    begun.keep(middle.name, encoder.rows([read_color(frame) for frame in middle.frames]))
    again = plan(tmp_path, scenes, encoder.recipe())
    assert again.segment.path == begun.segment.path
    assert again.segment.missing() == [0, 2]
    seen = source.tower.seen
    cache = fill(source, "qq", scenes, tmp_path)
    assert source.tower.seen == seen + 6
    assert len(cache.rows.segments) == 1
    assert not any(cache.lacks(scene) for scene in scenes)


def test_a_cache_of_another_clip_is_refused_with_both_values(rooms, tmp_path):
    root, names = rooms
    scenes = scenes_of(root, names[:1])
    fill(Source(), "qq", scenes, tmp_path)
    for other, token_type, word in (
        (ColourTower(gain=2.0), "qq", "weights is '"),
        (ColourTower(), "value", "form is 'qq', expected 'value'"),
        (ColourTower((32, 32)), "qq", "grid is [6, 8], expected [8, 8]"),
    ):
        for use in (partial(fill, scenes=scenes, out=tmp_path), partial(opened, out=tmp_path)):
            with pytest.raises(ValueError) as caught:
                use(Source(other), token_type)
            line = str(caught.value)
            assert "was written by a different CLIP" in line
            assert word in line
            assert "\n" not in line


def test_offline_reads_and_computes_nothing(rooms, tmp_path):
    root, names = rooms
    source = Source()
    fill(source, "qq", scenes_of(root, names[:1]), tmp_path)
    cache = opened(source, "qq", tmp_path)
    assert source.tower.seen == 3
    assert len(cache.maps(names[0], [0, 20]).maps) == 2
    data = PointsData(root=str(root), cache=str(tmp_path), offline_clip_feat=True)
    with pytest.raises(ValueError, match=rf"does not contain 3 frames, {names[1]}/0 the first\. .*sightword prepare"):
        complete_cache(data, scenes_of(root, names[:2]))


def test_a_frame_that_is_not_there_is_named(rooms, tmp_path):
    root, names = rooms
    cache = fill(Source(), "qq", scenes_of(root, names[:1], [0]), tmp_path)
    with pytest.raises(KeyError, match=f"no features of frame {names[0]}/20"):
        cache.maps(names[0], [0, 20])
    with pytest.raises(ValueError, match="contains no features of frames"):
        FrameCache(tmp_path / "empty").maps(names[0], [0])
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file: cache= is a folder"):
        FrameCache(tmp_path / "file")


def _maps(item, cache):
    return cache.maps(*item).maps


@pytest.mark.parametrize("backend", ["safetensors", "lmdb"])
def test_loader_workers_read_the_cache(rooms, tmp_path, backend):
    if backend == "lmdb":
        pytest.importorskip("lmdb")
    root, names = rooms
    cache = fill(Source(), "qq", scenes_of(root, names), tmp_path, backend=backend)
    wanted = [(name, [0, 40]) for name in names] * 2
    here = [cache.maps(*item).maps for item in wanted]
    loader = DataLoader(
        wanted, batch_size=None, num_workers=2, multiprocessing_context="fork", collate_fn=partial(_maps, cache=cache)
    )
    assert all(torch.equal(one, other) for one, other in zip(loader, here, strict=True))
    same(pickle.loads(pickle.dumps(cache)).maps(names[1], [20]), cache.maps(names[1], [20]))


def test_the_recipe_names_all_that_mixing_rows_share():
    assert set(features.RECIPE) - {"dtypes", "shapes"} == set(FrameEncoder(ColourTower()).recipe()) - {"rows"}


def _touched(folder):
    """Other weights in the same file."""
    from safetensors.torch import load_file, save_file

    file = folder / "open_clip_model.safetensors"
    weights = load_file(file)
    weights["visual.proj"] = weights["visual.proj"] + 1
    save_file(weights, file)


def _renamed(folder):
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text().replace('"preprocess_cfg": {}', '"preprocess_cfg": {"mean": [0, 0, 0]}'))


@pytest.mark.parametrize(("change", "word"), [(_touched, "weights is"), (_renamed, "preprocessing.mean is")])
def test_a_tower_is_not_opened_for_maps_that_are_there_until_its_files_change(
    rooms, random_clip, tmp_path, monkeypatch, change, word
):
    root, names = rooms
    folder = shutil.copytree(random_clip[0], tmp_path / "clip")
    source = token_cache.Source(str(folder), {"tag": "", "size": (24, 32), "dtype": torch.float32})
    scenes, opens_seen, opens = scenes_of(root, names), [], token_cache.Source.open
    monkeypatch.setattr(token_cache.Source, "open", lambda self: (opens_seen.append(self.name), opens(self))[1])
    first = fill(source, "qq", scenes[:1], tmp_path / "cache")
    assert len(opens_seen) == 1
    again = opened(source, "qq", tmp_path / "cache")
    assert len(opens_seen) == 1
    same(again.maps(names[0], [0, 20]), first.maps(names[0], [0, 20]))
    fill(source, "qq", scenes[:2], tmp_path / "cache")  # what is new takes the tower
    assert len(opens_seen) == 2
    with pytest.raises(ValueError, match="form is 'qq', expected 'value'"):
        fill(source, "value", scenes[:1], tmp_path / "cache")
    change(folder)
    with pytest.raises(ValueError, match=word):
        fill(source, "qq", scenes[:1], tmp_path / "cache")


def test_what_is_remembered_of_towers_may_be_lost_or_damaged(rooms, random_clip, tmp_path):
    root, names = rooms
    source = token_cache.Source(str(random_clip[0]), {"tag": "", "size": (24, 32), "dtype": torch.float32})
    for damaged in ("", "[1", "[]", "{}", None):
        fill(source, "qq", scenes_of(root, names[:1]), tmp_path)
        (state,) = json.loads((tmp_path / "recipes.json").read_text())
        content = damaged if damaged is not None else json.dumps({state: {"weights": "0"}})
        assert features.identified(source, "qq", tmp_path).encoder is None
        (tmp_path / "recipes.json").write_text(content)
        assert features.identified(source, "qq", tmp_path).encoder is not None
