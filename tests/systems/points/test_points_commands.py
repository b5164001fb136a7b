"""sightword lift, ask and compare, from the command line to the files."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from lift_fakes import write_rooms

from sightword.cli.main import main
from sightword.miniature import room
from sightword.systems.points.lift.cloud import scene_cloud
from sightword.systems.points.scannet.label import read_classes
from sightword.systems.points.scannet.reader import read_scene


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Two rooms of thumbnails, a list of them, and what their labels mean."""
    root = tmp_path_factory.mktemp("rooms")
    names = write_rooms(root)
    (root / "meta_data").mkdir()
    (root / "meta_data" / "scannetv2_val.txt").write_text("".join(f"{name}\n" for name in names))
    room.write_classes(root / "meta_data")
    return root, names


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """A room that nothing is ever fitted to, as `sightword mini` writes it."""
    root = tmp_path_factory.mktemp("unseen")
    (root / "meta_data").mkdir()
    room.write_classes(root / "meta_data")
    seed = room.SPLITS["test"][0]
    room.write_scene(root, seed, noise=0.001, holes=0.03)
    return root / "2D" / room.name_of(seed)


SMALL = ["token_type=value", "size=32x48", "dtype=fp32"]


def test_lift_writes_every_scene_and_says_what_it_cost(rooms, random_clip, tmp_path, capsys):
    root, names = rooms
    out = tmp_path / "out"
    words = ["lift", f"root={root}", f"tower={random_clip[0]}", f"cache={tmp_path / 'cache'}", *SMALL]
    words += ["frames_per_scene=2", f"scenes_file={root}/meta_data/scannetv2_val.txt"]
    assert main([*words, f"out={out}", "vis=1"]) == 0
    told = capsys.readouterr().out
    assert f"2 of 2 scenes in {out}" in told
    assert "clip" in told
    assert "peak memory" in told
    seeing = f"tower={random_clip[0]} token_type=value size=32x48 dtype=float32 cache={tmp_path / 'cache'}"
    assert f'next: sightword ask scene={root}/2D/{names[0]} {seeing} "a chair, a bed"' in told
    for name in names:
        files = {file.name for file in (out / name).iterdir()}
        assert files == {"frame_0.npz", "frame_40.npz", "points.ply", "report.json", "vis_0.png", "vis_40.png",
                         "cloud.png"}  # fmt: skip
    assert main([*words, f"out={tmp_path / 'again'}"]) == 0
    assert "clip " not in capsys.readouterr().out  # all of it was read


def test_a_scene_that_is_not_there_is_named_and_the_others_lifted(rooms, random_clip, tmp_path, capsys):
    root, names = rooms
    listed = tmp_path / "list.txt"
    listed.write_text(f"{names[0]}\nscene0707_00\n")
    words = [f"root={root}", f"tower={random_clip[0]}", f"scenes_file={listed}", f"out={tmp_path / 'o'}", *SMALL]
    assert main(["lift", *words]) == 1
    told = capsys.readouterr()
    assert "not lifted: scene0707_00: " in told.out
    assert "1 of 2 scenes" in told.out
    assert told.err.splitlines()[-1] == f"sightword: 1 of 2 scenes were not lifted; {tmp_path}/o/report.json says why"


def test_ask_finds_things_in_a_room_that_was_never_seen(unseen, small_clip, tmp_path, capsys):
    words = [
        f"scene={unseen}",
        f"tower={small_clip}",
        "token_type=value",
        "size=96x128",
        "dtype=fp32",
        f"out={tmp_path}",
    ]
    scene = read_scene(unseen)
    label, classes = scene_cloud(scene).label, read_classes(unseen.parent.parent)
    asked = ", ".join(f"a {classes[number]}" for number in label.unique().tolist())
    assert main(["ask", *words, asked]) == 0
    assert "by the cloud's labels" in capsys.readouterr().out
    scores = np.load(tmp_path / "scores.npz")
    known = {f"a {name}": number for number, name in classes.items()}
    answers = torch.tensor([known.get(text, 0) for text in scores["texts"].tolist()])
    best = torch.from_numpy(scores["best"])
    right = torch.where(best >= 0, answers[best.clamp(min=0)], -1) == label
    majority = float(label.bincount().max() / len(label))
    assert float(right.float().mean()) > 1.5 * majority
    files = {"answer.png", "answer.ply", "scores.npz", "answer.json"}
    assert {file.name for file in tmp_path.iterdir()} == files


def test_ask_reads_what_lift_kept(rooms, random_clip, tmp_path, capsys):
    root, names = rooms
    words = [f"tower={random_clip[0]}", *SMALL, f"cache={tmp_path / 'cache'}"]
    main(["lift", f"root={root}", f"out={tmp_path / 'o'}", "frames_per_scene=3", *words])
    lost = root / "2D" / names[0] / "pose" / "60.txt"
    lost.write_text("-inf -inf -inf -inf\n" * 4)
    before = sorted((tmp_path / "cache").rglob("*"))
    ask = ["ask", f"scene={root}/2D/{names[0]}", *words]
    assert main([*ask, f"out={tmp_path / 'a'}", "a chair"]) == 0
    lost.unlink()
    assert f"{names[0]}: 1 frame is left out: frame 60: " in capsys.readouterr().err
    assert sorted((tmp_path / "cache").rglob("*")) == before
    assert main([*ask[:-1], f"out={tmp_path / 'b'}", "a chair"]) == 0
    one, other = (np.load(tmp_path / part / "scores.npz")["cosines"] for part in "ab")
    assert np.array_equal(one, other)


def test_compare_prints_and_writes_the_table(rooms, random_clip, tmp_path, capsys):
    words = [f"root={rooms[0]}", f"tower={random_clip[0]}", "dtype=fp32", "frames_per_scene=2", f"out={tmp_path}"]
    assert main(["compare", *words]) == 0
    told = capsys.readouterr().out
    for line in ("4×4 patches", "8×8 patches of a larger frame", "upsampled to 16×16", "PixelShuffle(2)"):
        assert line in told
    assert {file.name for file in tmp_path.iterdir()} == {"compare_ways.csv", "compare_ways.txt", "compare.json"}


WITHOUT_RESOURCE = """
import json
import subprocess
import sys
sys.modules["resource"] = None  # as on Windows, where it does not exist
from sightword.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_lift_works_where_the_peak_memory_is_unknown_and_says_so(rooms, random_clip, tmp_path):
    root, names = rooms
    words = ["lift", f"root={root}/2D/{names[0]}", f"tower={random_clip[0]}", *SMALL, f"out={tmp_path}"]
    made = subprocess.run([sys.executable, "-c", WITHOUT_RESOURCE, *words], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert "peak memory -\n" in made.stdout
    for report in (tmp_path / "report.json", tmp_path / names[0] / "report.json"):
        assert json.loads(report.read_text())["memory"] == {"peak_rss": None, "peak_cuda": 0}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["lift", "out=o"], "sightword lift needs root="),
        (["lift", "root=r", "out=o", "dtype=int8"], "dtype='int8' is not a dtype"),
        (["lift", "root=r", "out=o", "size=12x"], "size='12x' is not a size"),
        (["lift", "root=r", "out=o", "vis=pca"], "vis='pca' is not true or false"),
        (["lift", "root=r", "out=o", "token_type=valu"], "token_type='valu' is not a token type"),
        (["lift", "root=r", "out=o", "voxel=0"], "voxel='0' is not a number above 0"),
        (["lift", "root=nowhere", "out=o"], "nowhere does not exist"),
        (
            ["lift", "root=r", "out=o", "frames_per_scene=0"],
            "frames_per_scene='0' is not a whole number from 1 on. Pass 1 or more",
        ),
        (["lift", "root=r", "out=o", "scenes_file=no.txt"], "no.txt does not exist"),
        (["ask", "scene=s"], "the text query is empty"),
        (["ask", "scene=nowhere", "a chair"], "nowhere does not exist"),
        (["compare", "root=nowhere"], "nowhere"),
        (["ask", "scene=nowhere", f"out={__file__}", "a chair"], "is a file. Pass a folder"),
        (["compare", "root=nowhere", f"out={__file__}"], "is a file. Pass a folder"),
    ],
)
def test_mistakes_are_one_line(words, line, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_cache_of_another_clip_ends_the_job_in_one_line(rooms, random_clip, tmp_path, capsys):
    words = [f"root={rooms[0]}", f"tower={random_clip[0]}", f"out={tmp_path / 'o'}", f"cache={tmp_path / 'c'}"]
    assert main(["lift", *words, *SMALL]) == 0
    capsys.readouterr()
    assert main(["lift", *words, "token_type=kk", *SMALL[1:]]) == 2
    told = capsys.readouterr().err
    assert "was written by a different CLIP: form is 'value', expected 'kk'" in told


def test_half_precision_on_a_cpu_is_bf16_and_said(rooms, random_clip, tmp_path, capsys):
    words = [f"root={rooms[0]}", f"tower={random_clip[0]}", f"out={tmp_path / 'o'}", "size=32x48", "dtype=fp16"]
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["lift", *words]) == 0
    assert "fp16 is ten times slower than bf16 on a CPU" in capsys.readouterr().err


def test_a_set_of_rooms_is_checked(rooms, capsys):
    assert main(["check", "dataset=scannet", f"root={rooms[0]}"]) == 0
    assert capsys.readouterr().out


def test_the_commands_are_known_without_torch():
    import subprocess

    code = (
        "import sys; from sightword.systems.points.system import SYSTEM; "
        "print(sorted(m for m in ('torch', 'numpy', 'PIL') if m in sys.modules), "
        "[command.__name__ for command in SYSTEM.commands])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[] ['import_', 'lift', 'ask', 'background', 'benchmark', 'stream', 'view', 'compare']"
