import dataclasses

import pytest
import torch
import torch.nn.functional as F
from points_fakes import batch_of, wall

from sightword.cli.main import main
from sightword.miniature import room
from sightword.storage.cache import digest
from sightword.systems.points.clip import FrozenClip
from sightword.systems.points.config import PointsConfig
from sightword.systems.points.data import RoomBatch
from sightword.systems.points.scannet.label import LabelSet
from sightword.systems.points.task import PointsTask, make_encoder

WORDS = ("wall", "chair", "bed")


class Words:
    """A CLIP whose class embeddings are the axes."""

    name, tag = "words", "none"

    def class_embeddings(self, names, templates):
        return torch.eye(8)[: len(names)]


def task_for(seed=0, **values):
    system = PointsConfig(**{"dim": 16, "heads": 2, "radius": 0.3, "k": 6, "use_amp": False, **values})
    torch.manual_seed(seed)
    return PointsTask(system, make_encoder(system, 8), Words(), LabelSet(WORDS, (1, 5, 6), "three words"))


def batch_for(*rooms, split="val"):
    """Walls whose maps say "chair" on the left and "bed" on the right, and whose points are labelled so."""
    xyz, rgb, scene, views, maps, pooled = batch_of(*(rooms or (wall(80), wall(60, 2, 1))))
    maps = torch.zeros_like(maps)
    maps[:, 1, :, :2], maps[:, 2, :, 2:] = 1, 1
    label = torch.where(xyz[:, 0] < 0.1, 1, 2)
    names = [f"room {number}" for number in range(int(scene.max()) + 1)]
    return RoomBatch(
        xyz, rgb, label, scene, torch.zeros(len(xyz)).bool(), views, maps, pooled, None, names, [[]] * len(names), split
    )


def test_a_step_has_the_losses_it_is_told():
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


def test_training_learns_to_say_what_clip_says():
    task, batch = task_for(), batch_for()
    optimizer = torch.optim.AdamW(task.parameters(), lr=5e-3)
    first = task.losses(batch)["distil_loss"].item()
    for _ in range(40):
        loss = task.total(task.losses(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert task.losses(batch)["distil_loss"].item() < 0.1 * first
    task.eval().evaluate(batch)
    assert task.measures()["text_accuracy_seen"] > 90


def test_measures_are_the_shares_of_points_told_right():
    task, batch = task_for().eval(), batch_for()
    with torch.no_grad():
        out, _ = task.encode(batch)
    task.evaluate(batch)
    found = task.measures()
    told = torch.where(out.seen, out.clip[:, :3].argmax(1), -1)
    right = (told == batch.label).double()
    assert 0 < out.seen.sum() < len(out.seen)
    assert found["coverage"] == pytest.approx(100 * out.seen.double().mean().item())
    assert found["clip_accuracy"] == pytest.approx(100 * right.mean().item())
    assert found["clip_accuracy_seen"] == pytest.approx(100 * right[out.seen].mean().item())
    said = out.text[:, :3].argmax(1)
    assert found["text_accuracy"] == pytest.approx(100 * (said == batch.label).double().mean().item())
    assert found["text_accuracy_unseen"] == pytest.approx(100 * (said == batch.label)[~out.seen].double().mean().item())
    counts = batch.label.bincount()
    assert found["majority"] == pytest.approx(100 * float(counts.max() / counts.sum()))
    ious = []
    for number in (1, 2):  # nothing is a wall
        own, taken = batch.label == number, told == number
        ious.append(float((own & taken).sum() / (own | taken).sum()))
    assert found["clip_miou"] == pytest.approx(100 * sum(ious) / 2)
    assert found["text_to_clip"] == pytest.approx(float((out.text * out.clip).sum(1)[out.seen].mean()), abs=1e-6)
    assert -1 <= found["consistency"] <= 1
    (table,) = task.tables().values()
    assert [row["class"] for row in table] == ["chair", "bed"]
    assert task.measures() == {}


def test_without_a_3d_branch_what_no_view_sees_is_not_told():
    task = task_for(layers=0).eval()
    task.evaluate(batch_for())
    found = task.measures()
    assert found["text_accuracy_unseen"] == 0
    assert found["text_accuracy"] <= found["coverage"]


def test_measures_of_two_batches_are_those_of_both_together():
    rooms = wall(80), wall(60, 2, 1)
    one, two = task_for().eval(), task_for().eval()
    one.evaluate(batch_for(*rooms))
    for part in rooms:
        two.evaluate(batch_for(part))
    assert two.measures() == pytest.approx(one.measures(), abs=1e-4)


def test_points_without_labels_are_measured_by_what_needs_none():
    task, batch = task_for().eval(), batch_for()
    task.evaluate(batch._replace(label=torch.full_like(batch.label, -1)))
    assert set(task.measures()) == {"coverage", "consistency", "consistency_reduced", "text_to_clip"}


def test_a_batch_without_maps_and_images_is_refused():
    with pytest.raises(ValueError, match="neither"):
        task_for().losses(batch_for()._replace(maps=None))


def test_what_is_exported_says_the_same(tmp_path, random_clip):
    task = task_for(seed=3, clip=str(random_clip[0]), clip_tag="").eval()
    task.export(tmp_path)
    again, batch = read_exported(tmp_path), batch_for()
    assert torch.equal(again.encode(batch)[0].text, task.encode(batch)[0].text)
    assert again.labels[:2] == task.labels[:2]
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        read_exported(tmp_path)


def test_a_picture_shows_the_answers_beside_the_labels(tmp_path):
    task, batch = task_for().eval(), batch_for()
    (image,) = task.pictures(batch).values()
    assert image.width > 3 * 400
    unlabelled = task.pictures(batch._replace(label=torch.full_like(batch.label, -1)))["answers"]
    assert unlabelled.width < image.width
    (file,) = task.draw([batch], tmp_path / "pictures")
    assert file.read_bytes()[:4] == b"\x89PNG"


# ------------------------------------------------------------------------------------------------------ with a CLIP


def test_clip_is_frozen_for_good_and_no_part_of_the_task(random_clip):
    clip = FrozenClip(str(random_clip[0]), token_type="value", size=(32, 40), dtype="fp32")
    tower = clip.encoder().tower
    before = digest(tower.state_dict())
    system = PointsConfig(dim=16, heads=2, use_amp=False, label_weight=1.0)
    task = PointsTask(system, make_encoder(system, clip.width), clip, LabelSet(WORDS, (1, 2, 3), "three")).train()
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
