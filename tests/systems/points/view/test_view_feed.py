"""A map that grows in the window."""

import numpy as np
import pytest
import torch

from sightword.errors import SightwordError
from sightword.systems.points.live import LiveMap, MapOptions, masks_of
from sightword.systems.points.scannet.reader import read_scene
from sightword.systems.points.view.feed import Feed, stages


def feed_of(model, folder, masks=True):
    live = LiveMap(model.clip, MapOptions(0.1), masks_of(folder / "instance", folder.name) if masks else None)
    return Feed("room", live, model.text_encoder)


def test_the_stage_comes_back_as_the_map_grows_and_the_question_is_answered_again(model, small_room):
    feed = feed_of(model, small_room, masks=False)
    grown = stages(feed, iter(read_scene(small_room).frames), every=2)
    stage = next(grown)
    stage.ask("chair")
    counts = [len(stage.xyz)]
    for _ in grown:
        stage.renew(feed.points(), feed.frames, feed.known())
        counts.append(len(stage.xyz))
        assert len(stage.answer.points) == len(stage.colours("query")) == counts[-1]
    assert len(counts) == 4  # after frames 1, 3, 5 and 6
    assert counts == sorted(set(counts))
    assert len(stage.frames) == 6


def test_the_map_has_the_colours_of_the_photos(model, small_room):
    from sightword.systems.points.lift.cloud import fuse, voxels

    frames = read_scene(small_room).frames[:1]
    feed = feed_of(model, small_room, masks=False)
    list(stages(feed, iter(frames), every=1))
    points, seen = feed.points(), fuse(frames, 0.1)
    colour_of = dict(zip(voxels(seen.xyz.numpy(), 0.1).tolist(), seen.rgb.tolist(), strict=True))
    keys = voxels(points.cloud.xyz.numpy(), 0.1).tolist()
    assert np.mean([colour_of.get(key) == rgb for key, rgb in zip(keys, points.cloud.rgb.tolist(), strict=True)]) > 0.99
    assert points.features.norm(dim=1).allclose(torch.ones(len(keys)), atol=1e-4)


def test_instances_have_their_colour_and_their_box_without_a_question(model, small_room):
    feed = feed_of(model, small_room)
    *_, stage = stages(feed, iter(read_scene(small_room).frames), every=10)
    stage.renew(feed.points(), feed.frames, feed.known())
    boxes = stage.boxes("object")
    assert 0 < len(boxes) <= len(feed.live.map.instances)
    assert " frame" in boxes[0].label
    own = (feed.live.map.instance == int(boxes[0].label.split(" ")[0])).numpy()
    assert {tuple(row) for row in stage.colours("object")[own].tolist()} == {boxes[0].colour}


def test_a_stream_without_a_frame_is_named(model, small_room):
    with pytest.raises(SightwordError, match="no frame shows a point"):
        list(stages(feed_of(model, small_room), iter([]), every=1))
