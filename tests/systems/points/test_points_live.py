"""A scene mapped frame by frame: files that grow, objects that keep their numbers."""

import csv
import json
import shutil
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from sightword.cli.main import main
from sightword.errors import SightwordError
from sightword.miniature import room
from sightword.systems.points import live
from sightword.systems.points.ask import query_embeddings
from sightword.systems.points.clip import FrozenClip
from sightword.systems.points.commands import stream
from sightword.systems.points.lift.cloud import read_cloud
from sightword.systems.points.presence import Accepted, Background, fit_of
from sightword.systems.points.scannet.convention import Convention
from sightword.systems.points.scannet.reader import read_scene

PARTS = ("color", "depth", "pose")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A room in six frames, with a mask for each."""
    root = tmp_path_factory.mktemp("rooms")
    room.write_scene(root, 0, frames=6, color=(48, 64), depth=(60, 80), voxel=0.2)
    return root / "2D" / "scene0000_00"


@pytest.fixture(scope="module")
def clip(random_clip):
    return FrozenClip(str(random_clip[0]), token_type="value", size=(32, 32), dtype="fp32")


def streamed(scene, clip, out, masks=True, **options):
    made = live.LiveMap(
        clip, live.MapOptions(**options), live.masks_of(scene / "instance", scene.name) if masks else None
    )
    return made, list(live.stream_scene(made, live.frames_of(scene, Convention()), out))


def test_every_frame_adds_to_the_map_and_has_a_line(scene, clip, tmp_path):
    made, steps = streamed(scene, clip, tmp_path)
    assert [step.frame for step in steps] == [frame.index for frame in read_scene(scene).frames]
    assert all(before.voxels < after.voxels for before, after in pairwise(steps))
    rows = list(csv.DictReader((tmp_path / "stream.csv").open()))
    assert [int(row["voxels"]) for row in rows] == [step.voxels for step in steps]
    cloud = read_cloud(tmp_path / "map.ply")
    assert len(cloud.xyz) == steps[-1].voxels == len(made.map)
    found = json.loads((tmp_path / "instances.json").read_text())
    assert len(found) == steps[-1].instances
    assert set(cloud.instance.unique().tolist()) == {0, *(each["number"] + 1 for each in found)}


def test_an_object_keeps_its_number_from_frame_to_frame(scene, clip, tmp_path):
    made, _ = streamed(scene, clip, tmp_path)
    frames = {each.number: each.frames for each in made.map.instances}
    assert max(frames.values()) >= 3
    files = sorted((scene / "instance").glob("*.png"))
    things = set(np.concatenate([np.unique(np.asarray(Image.open(file))) for file in files]).tolist()) - {0}
    assert len(things) <= len(frames) <= 2 * len(things)


def test_without_masks_there_is_a_map_and_no_instance(scene, clip, tmp_path):
    _, steps = streamed(scene, clip, tmp_path, masks=False)
    assert {step.instances for step in steps} == {0}
    assert json.loads((tmp_path / "instances.json").read_text()) == []


def test_beyond_its_cap_the_map_drops_what_it_saw_longest_ago(scene, clip, tmp_path):
    _, steps = streamed(scene, clip, tmp_path, cap=2000)
    assert steps[-1].voxels == 2000
    assert steps[-1].dropped > 0


def test_frames_that_come_later_are_mapped_while_the_stream_waits(scene, clip, tmp_path):
    grown = tmp_path / "grown" / scene.name
    shutil.copytree(scene, grown)
    late = read_scene(scene).frames[-2:]
    files = [file for part in PARTS for frame in late for file in (grown / part).glob(f"{frame.index}.*")]
    assert len(files) == 6
    kept = [(file, file.read_bytes()) for file in files]
    for file in files:
        file.unlink()

    def come():
        time.sleep(0.7)
        for file, content in kept:
            file.write_bytes(content)

    thread = threading.Thread(target=come)
    thread.start()
    indices = [frame.index for frame in live.frames_of(grown, Convention(), wait=3)]
    thread.join()
    assert indices == [frame.index for frame in read_scene(scene).frames]


def test_a_frame_without_its_mask_ends_the_stream_in_one_line(scene, clip, tmp_path):
    shutil.copytree(scene / "instance", tmp_path / "masks")
    next(iter(sorted((tmp_path / "masks").iterdir()))).unlink()
    made = live.LiveMap(clip, segment=live.masks_of(tmp_path / "masks", scene.name))
    with pytest.raises(SightwordError, match="has no mask of frame"):
        list(live.stream_scene(made, live.frames_of(scene, Convention()), tmp_path / "out"))


def test_the_command_names_the_instances_by_the_words(scene, random_clip, tmp_path, capsys):
    given = [f"scene={scene}", f"tower={random_clip[0]}", "size=32x32", "dtype=fp32", "token_type=value", "trust=true"]
    out = tmp_path / "out"
    assert main(["stream", *given, "words=chair,bed", f"out={out}"]) == 2  # there would be nothing to name
    assert "there are none without masks=" in capsys.readouterr().err
    assert main(["stream", *given, f"masks={scene / 'instance'}", "words=chair,bed", f"out={out}", "frames=3"]) == 0
    assert "3 frames: " in capsys.readouterr().out
    found = json.loads((out / "instances.json").read_text())
    assert {each["word"] for each in found} <= {"chair", "bed", ""}
    assert all(0 <= each["confidence"] <= 1 for each in found)


def test_words_that_are_not_in_the_map_name_no_instance(scene, clip, tmp_path):
    made, _ = streamed(scene, clip, tmp_path)
    words, text = ["dog", "chair"], clip.text_encoder()
    fits = [fit_of(torch.nn.functional.normalize(made.map.features, dim=1) @ v) for v in query_embeddings(text, words)]
    accepted = Accepted(2.0, 1, 0, 9)
    mean, spread = torch.tensor(fits) - torch.tensor([0.1, 0.3]), torch.full((2,), 0.1)  # scores 1 and 3
    known = Background(("dog", "chair"), mean, spread, torch.zeros(3, 4, made.map.channels), accepted, accepted)
    known.save(tmp_path / "background", "lifted", clip.identity())
    made.use_background(tmp_path / "background")
    assert {row["word"] for row in made.described(text, words)} <= {"", "chair"}
    made.background = known._replace(mean=mean - 1)
    assert made._missing(text, words) == set()
    with pytest.raises(SightwordError, match="background= tells which of words= are not here"):
        stream(scene, out=tmp_path / "out", background=tmp_path / "background")
