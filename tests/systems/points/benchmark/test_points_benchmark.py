"""ScanNet200's and Replica's benchmarks, on small rooms in their formats."""

import json
import shutil

import numpy as np
import pytest
import torch
from benchmark_rooms import REPLICA, SCANNET, objects_of, write, write_mesh, write_replica, write_scannet

from sightword.cli.main import main
from sightword.errors import SightwordError
from sightword.metrics.instance import Predictions
from sightword.miniature import room
from sightword.storage.ply import Cloud, read_faces, read_ply
from sightword.systems.points.benchmark.found import Found, read_submission, write_submission
from sightword.systems.points.benchmark.measure import Benchmark
from sightword.systems.points.benchmark.protocol import GROUPS, REPLICA_SCENES, protocol_of
from sightword.systems.points.benchmark.truth import Truth, read_numbers, truth_of
from sightword.systems.points.scannet.reader import read_scene

SMALL = {"frames": 4, "color": (48, 64), "depth": (36, 48), "voxel": 0.1}
SCANNET200, IN_REPLICA = protocol_of("scannet200"), protocol_of("replica")


@pytest.fixture(scope="module")
def scannet(tmp_path_factory):
    root = tmp_path_factory.mktemp("scannet")
    return root, write_scannet(root, **SMALL)


@pytest.fixture(scope="module")
def replica(tmp_path_factory):
    root = tmp_path_factory.mktemp("replica")
    write_replica(root, ("room0", "office4"), **SMALL)
    return root


def perfect(truth, instances):
    numbers = np.unique(truth.numbers[np.isin(truth.numbers // 1000, instances)])
    masks = truth.numbers == numbers[:, None]
    return Found(truth.numbers // 1000, Predictions(masks, numbers // 1000, np.linspace(0.1, 0.9, len(numbers))))


def test_the_classes_are_those_that_were_published():
    assert (len(SCANNET200.ids), len(SCANNET200.instances)) == (200, 198)
    assert [len(SCANNET200.of_group(group)) for group in GROUPS] == [66, 68, 66]
    assert (len(IN_REPLICA.ids), len(IN_REPLICA.instances)) == (51, 48)
    for protocol in (SCANNET200, IN_REPLICA):
        assert len(set(protocol.ids)) == len(set(protocol.names)) == len(protocol.ids)
    assert SCANNET200.names[SCANNET200.ids.index(1189)] == "potted plant"


def test_scannets_annotation_names_every_vertex(scannet):
    root, names = scannet
    for seed, name in enumerate(names):
        truth = truth_of(SCANNET200, read_scene(root, name), root, None)
        cloud = room.scan(room.furnish(seed), SMALL["voxel"])
        assert truth.source.endswith("aggregation.json")
        expected = np.zeros(len(cloud.xyz), int)
        for number, (word, own) in enumerate(objects_of(cloud)):
            expected[own] = 1000 * SCANNET[word] + number + 1
        assert (truth.numbers == expected).all()


def test_replicas_vertices_are_of_the_objects_of_their_faces(replica):
    for seed, name in enumerate(("room0", "office4")):
        truth = truth_of(IN_REPLICA, read_scene(replica, name), replica, None)
        cloud = room.scan(room.furnish(seed), SMALL["voxel"])
        for word, own in objects_of(cloud):
            assert set((truth.numbers[own] // 1000).tolist()) == {REPLICA.get(word, 0)}
        assert len(set(truth.numbers.tolist()) - {0}) == sum(
            word in REPLICA and len(own) > 0 for word, own in objects_of(cloud)
        )


def test_a_perfect_prediction_scores_a_hundred(scannet):
    root, names = scannet
    board = Benchmark(SCANNET200)
    for name in names:
        truth = truth_of(SCANNET200, read_scene(root, name), root, None)
        board.add(truth, perfect(truth, SCANNET200.instances))
    found = board.scores()
    assert {name: value for name, value in found.summary.items() if np.isfinite(value)} == pytest.approx(
        dict.fromkeys(["miou", "fiou", "macc", "accuracy", "ap", "ap50", "ap25", "agnostic_ap", "agnostic_ap50",
                       "agnostic_ap25", "head_miou", "head_ap", "common_miou", "common_ap"], 100)
    )  # fmt: skip
    assert np.isnan(found.summary["tail_ap"])  # no room has such a thing
    assert {row["class"] for row in found.classes} == set(SCANNET) - {"dog"}


def test_iou_is_counted_over_vertices_with_a_class_of_the_benchmark():
    cloud = Cloud(torch.zeros(8, 3), torch.zeros(8, 3, dtype=torch.uint8))
    truth = Truth(cloud, np.array([2001, 2001, 2001, 11002, 11002, 11002, 9000_003, 0]), "by hand")
    labels = np.array([2, 2, 11, 11, 11, 77777, 2, 2])  # one of no class, and two where nothing is measured
    board = Benchmark(SCANNET200)
    board.add(truth, Found(labels, Predictions(np.zeros((0, 8), bool), np.zeros(0, int), np.zeros(0))))
    summary = board.scores().summary
    assert summary["miou"] == pytest.approx(100 * (2 / 3 + 2 / 4) / 2, abs=0.01)
    assert summary["macc"] == pytest.approx(100 * 2 / 3, abs=0.01)
    assert summary["head_miou"] == summary["miou"]
    with pytest.raises(SightwordError, match="by hand has no label of scannet200"):
        board.add(truth._replace(numbers=np.zeros(8, int)), Found(labels, perfect(truth, ()).instances))


def test_a_submission_is_read_as_it_was_written(tmp_path):
    masks = np.random.default_rng(0).random((2, 30)) < 0.5
    found = Found(np.arange(30), Predictions(masks, np.array([2, 11]), np.array([0.25, 0.5])))
    write_submission(tmp_path, "scene0000_00", found)
    assert (tmp_path / "scene0000_00.txt").read_text().startswith("pred_mask/scene0000_00_000.txt 2 0.250000\n")
    read = read_submission(tmp_path, "scene0000_00", 30)
    assert (read.labels == found.labels).all()
    for one, other in zip(read.instances, found.instances, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("../secret.txt 2 0.5", "line 1 names ../secret.txt, which is outside of"),
        ("pred_mask/a.txt chair 0.5", "line 1 is not a path, a label and a score"),
        ("pred_mask/a.txt 2", "line 1 is not a path, a label and a score"),
        ("pred_mask/a.txt 2 nan", "line 1 is not a path, a label and a score"),
        ("pred_mask/missing.txt 2 0.5", "missing.txt"),
        ("pred_mask/short.txt 2 0.5", "has 3 lines, and the mesh 4 vertices"),
        ("pred_mask/words.txt 2 0.5", "does not consist of whole numbers"),
    ],
)
def test_what_is_wrong_with_a_submission_is_said(tmp_path, line, problem):
    (tmp_path / "pred_mask").mkdir()
    for name, text in (("a", "0\n1\n1\n0\n"), ("short", "0\n1\n1\n"), ("words", "0\n1\nyes\n0\n")):
        (tmp_path / "pred_mask" / f"{name}.txt").write_text(text)
    (tmp_path / "scene.txt").write_text(line + "\n")
    with pytest.raises(SightwordError) as told:
        read_submission(tmp_path, "scene", 4)
    assert problem in str(told.value)


def test_truth_that_does_not_belong_to_the_mesh_is_refused(scannet, tmp_path):
    root, (name, *_) = scannet
    scene = read_scene(root, name)
    (tmp_path / f"{name}.txt").write_text("2001\n")
    with pytest.raises(SightwordError, match="They belong to another mesh"):
        truth_of(SCANNET200, scene, root, tmp_path)
    (tmp_path / f"{name}.txt").write_text("-1\n")
    with pytest.raises(SightwordError, match="has the number -1"):
        read_numbers(tmp_path / f"{name}.txt", 1)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    segments = copy / "3D" / name / f"{name}_vh_clean_2.0.010000.segs.json"
    write(segments, {"segIndices": [1, 2, 3]})
    with pytest.raises(SightwordError, match="has 3 vertices, the mesh"):
        truth_of(SCANNET200, read_scene(copy, name), copy, None)
    segments.unlink()
    with pytest.raises(SightwordError, match=f"segs.json is missing; {name} needs both"):
        truth_of(SCANNET200, read_scene(copy, name), copy, None)
    (copy / "3D" / name / f"{name}.aggregation.json").unlink()
    with pytest.raises(SightwordError, match="has no labels"):
        truth_of(SCANNET200, read_scene(copy, name), copy, None)


def test_faces_of_other_shapes_are_read_and_broken_ones_are_said(tmp_path):
    cloud = Cloud(torch.rand(10, 3), torch.zeros(10, 3, dtype=torch.uint8))
    for sides in (3, 4):
        write_mesh(tmp_path / "mesh.ply", cloud, [np.arange(5), np.arange(5, 10)], sides)
        found = read_faces(tmp_path / "mesh.ply", "object_id")
        assert found.values.tolist() == [0, 0, 1, 1]
        assert set(found.corners[found.face < 2].tolist()) == set(range(5))
    assert torch.equal(read_ply(tmp_path / "mesh.ply").xyz, cloud.xyz)
    whole = (tmp_path / "mesh.ply").read_bytes()
    start = whole.index(b"end_header\n") + 11 + 10 * 27
    mixed = whole[:start] + b"\3" + whole[start + 1 : start + 13] + whole[start + 17 :]
    (tmp_path / "mixed.ply").write_bytes(mixed)
    assert np.bincount(read_faces(tmp_path / "mixed.ply", "object_id").face).tolist() == [3, 4, 4, 4]
    for name, content, problem in (
        ("cut", whole[:-5], "the file ends at face 3"),
        ("far", whole.replace((9).to_bytes(4, "little"), (99).to_bytes(4, "little")), "a face has vertex 99 of 10"),
        ("text", whole.replace(b"binary_little_endian", b"ascii"), "its faces are text"),
        ("none", whole.replace(b"object_id", b"material_"), "object_id is missing"),
    ):
        (tmp_path / f"{name}.ply").write_bytes(content)
        with pytest.raises(SightwordError, match=problem):
            read_faces(tmp_path / f"{name}.ply", "object_id")


def test_the_command_measures_lifted_clip_and_its_own_submission(scannet, small_clip, tmp_path, capsys):
    root, names = scannet
    words = ["benchmark", "dataset=scannet200", f"root={root}"]
    seeing = [f"tower={small_clip}", "token_type=value", "size=32x48", "dtype=fp32", "submission=true", "trust=true"]
    assert main([*words, *seeing, f"out={tmp_path / 'a'}"]) == 0
    told = capsys.readouterr().out
    assert "of the 200 classes of scannet200" in told
    first = json.loads((tmp_path / "a" / "benchmark.json").read_text())
    assert first["summary"]["miou"] > 0
    assert first["protocol"]["scenes"] == f"2: {', '.join(names)}"
    assert (tmp_path / "a" / "benchmark_classes.csv").is_file()
    assert main([*words, f"predictions={tmp_path / 'a' / 'submission'}", f"out={tmp_path / 'b'}"]) == 0
    again = json.loads((tmp_path / "b" / "benchmark.json").read_text())
    assert again["summary"] == first["summary"]
    assert main([*words, "predictions=x", *seeing, f"out={tmp_path / 'c'}"]) == 2
    assert "predictions= are measured as they are" in capsys.readouterr().err


def test_replica_is_its_eight_scenes_or_those_of_a_list(replica, small_clip, tmp_path, capsys):
    words = ["benchmark", "dataset=replica", f"root={replica}", f"tower={small_clip}", "token_type=value"]
    words += ["size=32x48", "dtype=fp32", "trust=true", f"out={tmp_path / 'out'}"]
    assert main(words) == 2
    missing = ", ".join(name for name in REPLICA_SCENES if name not in ("room0", "office4"))
    assert f"does not contain {missing} of Replica's eight scenes" in capsys.readouterr().err
    (tmp_path / "two.txt").write_text("room0\noffice4\n")
    assert main([*words, f"scenes_file={tmp_path / 'two.txt'}"]) == 0
    assert "whatever they are" in capsys.readouterr().out
