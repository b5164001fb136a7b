import dataclasses

import pytest
import torch
import torch.nn.functional as F
from points_fakes import NAMES, batch_for, task_for, wall

from sightword.cli.main import main
from sightword.miniature import room
from sightword.storage.cache import digest
from sightword.systems.points.clip import FrozenClip
from sightword.systems.points.config import PointsConfig
from sightword.systems.points.scannet.label import LabelSet
from sightword.systems.points.task import PointsTask, make_encoder


def test_a_step_has_the_losses_that_are_configured():
    batch = batch_for(split="train")
    assert set(task_for().losses(batch)) == {"distil_loss", "clip_cons_loss"}
    assert set(task_for(consistency_weight=0).losses(batch)) == {"distil_loss"}
    task = task_for(distil_weight=0, label_weight=2.0, consistency_weight=0)
    losses = task.losses(batch)
    assert set(losses) == {"label_loss"}
    torch.testing.assert_close(task.total(losses), 2 * losses["label_loss"])


def test_the_label_loss_is_cross_entropy_over_known_labels():
    task, batch = task_for(label_weight=1.0), batch_for()
    batch.label[::3] = -1
    known = batch.label >= 0
    text = task.encode(batch)[0].text[known]
    wanted = F.cross_entropy(40.0 * text[:, :3], batch.label[known])
    torch.testing.assert_close(task.losses(batch)["label_loss"], wanted)
    batch.label[:] = -1
    assert task.losses(batch)["label_loss"].item() == 0


def test_parameter_groups_hold_every_parameter_once():
    for values in ({}, {"neck": 1}, {"layers": 0}):
        task = task_for(**values)
        grouped = [p for parameters in task.parameter_groups().values() for p in parameters]
        assert len(grouped) == len(set(grouped))
        assert set(grouped) == {p for p in task.parameters() if p.requires_grad}


def test_a_batch_without_maps_and_images_is_refused():
    with pytest.raises(TypeError, match="neither"):
        task_for().losses(batch_for()._replace(maps=None))


# ------------------------------------------------------------------------------------------------------ with a CLIP


def test_clip_is_frozen_for_good_and_no_part_of_the_task(random_clip):
    clip = FrozenClip(str(random_clip[0]), token_type="value", size=(32, 40), dtype="fp32")
    tower = clip.encoder().tower
    before = digest(tower.state_dict())
    system = PointsConfig(dim=16, heads=2, use_amp=False, label_weight=1.0)
    task = PointsTask(system, make_encoder(system, clip.width), clip, LabelSet(NAMES, (1, 2, 3), "three")).train()
    images = torch.randn(3, 3, 32, 40)
    batch = batch_for(wall(60))._replace(maps=None, pooled=None, images=images)
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.1)
    for _ in range(3):
        task.total(task.losses(batch)).backward()
        optimizer.step()
    task.train()
    assert not tower.training
    assert not any(p.requires_grad or p.grad is not None for p in tower.parameters())
    assert digest(tower.state_dict()) == before
    assert not any("visual" in name for name in task.state_dict())
    assert clip.width == 24


def test_clip_sees_in_parts_as_at_once(random_clip, monkeypatch):
    clip = FrozenClip(str(random_clip[0]), token_type="qq", size=(32, 40), dtype="fp32")
    images = torch.randn(5, 3, 32, 40)
    whole = clip.encode_image(images)
    assert whole.maps.shape == (5, 24, 4, 5)
    torch.testing.assert_close(whole.maps.float().norm(dim=1), torch.ones(5, 4, 5), atol=1e-2, rtol=0)
    monkeypatch.setattr("sightword.systems.points.clip.AT_ONCE", 2)
    torch.testing.assert_close(clip.encode_image(images).maps.float(), whole.maps.float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["bifusion", "lift"])
def test_an_experiment_trains_from_a_folder_of_rooms(name, random_clip, tmp_path, capsys):
    for seed in (0, 1):
        room.write_scene(tmp_path / "rooms", seed, frames=3, color=(48, 64), depth=(36, 48), voxel=0.15)
    (tmp_path / "rooms" / "meta_data").mkdir()
    room.write_classes(tmp_path / "rooms" / "meta_data")
    words = [f"experiment=points/{name}", f"out={tmp_path / 'runs'}", "name=one", "trainer.steps=2"]
    words += [f"system.clip={random_clip[0]}", "system.clip_tag=", "system.clip_size=[32,40]", "system.clip_dtype=fp32"]
    words += [f"system.labels={tmp_path / 'rooms'}", "system.dim=16", "system.token_type=value", "data.hold_out=0.5"]
    words += [f"data.root={tmp_path / 'rooms'}", f"data.cache={tmp_path / 'clip'}", "data.points=200", "data.frames=2"]
    words += ["data.batch_size=1", "data.num_workers=0", "trainer.accelerator=cpu", "trainer.threads=1"]
    assert main(["train", *words, "trainer.log_every=1"]) == 0
    folder = tmp_path / "runs" / "points" / name / "one"
    for file in ("config.yaml", "metrics.csv", "summary.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert (folder / file).exists(), file
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert not any("visual" in key for key in saved["state_dict"])
    assert main(["evaluate", f"run={folder}", "checkpoint=last"]) == 0
    assert "text_miou" in capsys.readouterr().out


def test_the_documents_options_are_what_the_encoder_is_made_of():
    system = PointsConfig()
    model = make_encoder(system, 512)
    assert (model.dim, model.radius, model.k, len(model.layers)) == (128, 0.1, 16, 2)
    assert make_encoder(dataclasses.replace(system, neck=2, upsample=2), 512).reduce.project.out_features == 512
    assert make_encoder(dataclasses.replace(system, chain=True), 512).reduce.chain.expand.out_channels == 256
