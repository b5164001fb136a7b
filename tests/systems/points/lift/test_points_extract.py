"""Every frame's file holds the points it sees with what CLIP sees there; one bad scene ends nothing."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lift_fakes import ColourTower, Source, scenes_of, write_rooms
from PIL import Image

from sightword.errors import SightwordError
from sightword.storage.ply import write_ply
from sightword.systems.points import show
from sightword.systems.points.lift import extract as module
from sightword.systems.points.lift.cloud import read_cloud
from sightword.systems.points.lift.extract import Job, Options, extract
from sightword.systems.points.lift.features import FrameEncoder, features_of
from sightword.systems.points.lift.geometry import project, to_grid
from sightword.systems.points.model import BiFusionEncoder
from sightword.systems.points.scannet.reader import read_color, read_scene


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    root = tmp_path_factory.mktemp("rooms")
    return root, write_rooms(root, (0, 1, 2))


@pytest.fixture
def broken(rooms, tmp_path):
    """Rooms to break."""
    shutil.copytree(rooms[0], tmp_path / "rooms")
    return tmp_path / "rooms", rooms[1]


def lifted(root, names, out, source=None, options=None, **job):
    return extract(source or Source(), "qq", root, names, out, options, Job(**job))


def scenes_reported(out):
    return json.loads((out / "report.json").read_text())["scenes"]


def test_a_frames_file_holds_what_it_sees(rooms, tmp_path):
    root, names = rooms
    summary = lifted(root, names[:1], tmp_path)
    assert summary.done == names[:1]
    scene = read_scene(root, names[0])
    cloud = read_cloud(tmp_path / names[0] / "points.ply")
    encoder = FrameEncoder(ColourTower())
    for frame in scene.frames:
        seen = np.load(tmp_path / names[0] / f"frame_{frame.index}.npz")
        n = len(seen["rows"])
        assert 20 < n < len(cloud.xyz)
        assert (seen["pts_feat"].shape, seen["uv_idx"].shape, seen["conf_2d"].shape) == ((n, 4), (n, 2), (n,))
        assert [seen[name].dtype.name for name in ("pts_feat", "uv_idx", "conf_2d")] == ["float16", *["float32"] * 2]
        assert len(set(seen["rows"].tolist())) == n
        assert seen["conf_2d"].min() > 0
        assert seen["conf_2d"].max() <= 1
        uv, _ = project(cloud.xyz[seen["rows"]], frame.K_depth, frame.pose)
        assert np.abs(uv.numpy() - seen["uv_idx"]).max() < 1e-3
        maps = features_of(encoder.rows([read_color(frame)]), encoder.grid).maps.float()
        grid = to_grid(torch.from_numpy(seen["uv_idx"]), tuple(seen["size"].tolist()))[None, None]
        wanted = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)[0, :, 0].T
        assert np.abs(F.normalize(wanted, dim=-1).numpy() - seen["pts_feat"]).max() < 2e-3


def test_the_report_says_time_memory_and_bytes_of_each_stage(rooms, tmp_path):
    root, names = rooms
    lifted(root, names[:2], tmp_path / "out", cache=tmp_path / "cache", options=Options(vis=True))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    stages = {"cloud", "photos", "tower", "clip", "cache write", "cache read", "depth", "link", "lift", "write", "draw"}
    stages |= {"doctor"}
    assert set(report["stages"]["seconds"]) == stages == set(report["stages"]["cpu_seconds"])
    assert report["stages"]["bytes"]["cache read"] == 2 * 3 * (48 * 4 + 4) * 2
    files = sum(file.stat().st_size for name in names[:2] for file in (tmp_path / "out" / name).glob("*.[np][pl][zy]"))
    assert report["stages"]["bytes"]["write"] == files
    assert report["memory"]["peak_rss"] > 1e8
    assert report["cache_bytes"] > 0
    one = report["scenes"][names[0]]
    assert set(one["visible"]) == {"0", "20", "40"}
    assert max(one["visible"].values()) <= one["seen"] <= one["points"]


def test_the_second_lift_reads_the_cache_and_writes_the_same_bytes(rooms, tmp_path):
    root, names = rooms
    source = Source()
    for out in ("first", "second"):
        lifted(root, names[:1], tmp_path / out, source, cache=tmp_path / "cache")
    assert source.tower.seen == 3
    lifted(root, names[:1], tmp_path / "online", source)
    assert source.tower.seen == 6
    for frame in (0, 20, 40):
        file = f"{names[0]}/frame_{frame}.npz"
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "online" / file).read_bytes()


def test_what_is_done_stays_until_something_else_is_wanted(rooms, tmp_path):
    root, names = rooms
    source = Source()
    lifted(root, names[:1], tmp_path, source)
    lifted(root, names[:2], tmp_path, source)
    assert source.tower.seen == 6  # the second scene
    lifted(root, names[:1], tmp_path, source, frames=2)
    assert source.tower.seen == 8
    lifted(root, names[:1], tmp_path, Source(ColourTower(gain=0.5)))
    assert json.loads((tmp_path / names[0] / "report.json").read_text())["visible"].keys() == {"0", "20", "40"}


def test_files_of_an_earlier_lift_do_not_stay_beside_those_of_now(rooms, tmp_path):
    root, names = rooms
    lifted(root, names[:1], tmp_path, options=Options(vis=True))
    lifted(root, names[:1], tmp_path, frames=2)
    left = {file.name for file in (tmp_path / names[0]).iterdir()}
    assert left == {"frame_0.npz", "frame_40.npz", "points.ply", "report.json"}


def test_a_scene_whose_files_were_half_replaced_is_not_done(rooms, tmp_path, monkeypatch):
    root, names = rooms
    lifted(root, names[:1], tmp_path)
    whole = {file.name: file.read_bytes() for file in (tmp_path / names[0]).glob("frame_*")}
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_ply", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            lifted(root, names[:1], tmp_path, Source(ColourTower(gain=0.5)))
    lifted(root, names[:1], tmp_path)
    assert {file.name: file.read_bytes() for file in (tmp_path / names[0]).glob("frame_*")} == whole


def test_many_points_are_sampled_as_few_are(rooms, tmp_path, monkeypatch):
    root, names = rooms
    lifted(root, names[:1], tmp_path / "whole")
    monkeypatch.setattr(module, "ROWS", 7)
    lifted(root, names[:1], tmp_path / "parts")
    for file in ("frame_0.npz", "frame_20.npz"):
        assert (tmp_path / "whole" / names[0] / file).read_bytes() == (
            tmp_path / "parts" / names[0] / file
        ).read_bytes()


def test_what_cannot_be_is_refused_before_a_cache_is_begun(rooms, tmp_path):
    for token_type, told in (
        ("zz", "there are no 'zz' tokens"),
        ("post", "token_type=post is not in the joint space with texts"),
    ):
        with pytest.raises(ValueError, match=told):
            extract(Source(), token_type, *rooms, tmp_path / "out", job=Job(cache=tmp_path / "cache"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file. Pass a folder"):
        lifted(*rooms, tmp_path / "file", cache=tmp_path / "cache")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def _no_intrinsics(folder, cloud):
    shutil.rmtree(folder / "intrinsic")


def _empty_depth(folder, cloud):
    for file in (folder / "depth").iterdir():
        Image.fromarray(np.zeros((36, 48), np.uint16)).save(file)


def _depth_in_metres(folder, cloud):
    for file in (folder / "depth").iterdir():
        Image.fromarray(np.full((36, 48), 2, np.uint16)).save(file)


def _behind_every_camera(folder, cloud):
    moved = read_cloud(cloud)
    write_ply(cloud, moved._replace(xyz=moved.xyz + torch.tensor([0, 0, 500.0])))


def _no_frame(folder, cloud):
    for part in ("color", "depth", "pose"):
        for file in (folder / part).iterdir():
            file.unlink()


def _lost_poses(folder, cloud):
    for file in (folder / "pose").iterdir():
        file.write_text("-inf -inf -inf -inf\n" * 4)


def _broken_photo(folder, cloud):
    (folder / "color" / "20.jpg").write_bytes(b"\xff\xd8 no picture")


def _depths_of_two_sizes(folder, cloud):
    Image.fromarray(np.full((18, 24), 2000, np.uint16)).save(folder / "depth" / "20.png")


@pytest.mark.parametrize(
    ("break_it", "word"),
    [
        (_no_intrinsics, "intrinsic"),
        (_empty_depth, "depth is 0 everywhere"),
        (_depth_in_metres, "millimetres"),
        (_behind_every_camera, "is visible in any of its 3 frames"),
        (_no_frame, "frame"),
        (_lost_poses, "not finite"),
        (_broken_photo, "20.jpg"),
        (_depths_of_two_sizes, "18×24 pixels; a batch needs one size"),
    ],
)
def test_one_bad_scene_is_one_line_and_ends_nothing(broken, tmp_path, break_it, word):
    root, names = broken
    bad = names[1]
    break_it(root / "2D" / bad, next((root / "3D" / bad).glob("*clean_2.ply")))
    for cache in ("", tmp_path / "cache"):
        out = tmp_path / f"out{bool(cache)}"
        summary = lifted(root, [*names, "scene9999_00"], out, cache=cache)
        assert summary.done == [names[0], names[2]]
        assert set(summary.failed) == {bad, "scene9999_00"}
        assert word in summary.failed[bad]
        assert "\n" not in summary.failed[bad]
        assert "on_error" not in summary.failed[bad]  # there is no such word
        assert "scene9999_00" in summary.failed["scene9999_00"]
        assert set(json.loads((out / "report.json").read_text())["failed"]) == set(summary.failed)


def test_a_scene_that_was_mended_is_lifted_the_next_time(broken, tmp_path):
    root, names = broken
    photo = root / "2D" / names[1] / "color" / "20.jpg"
    whole = photo.read_bytes()
    photo.write_bytes(b"")
    source = Source()
    assert set(lifted(root, names, tmp_path, source, cache=tmp_path / "c").failed) == {names[1]}
    photo.write_bytes(whole)
    seen = source.tower.seen
    summary = lifted(root, names, tmp_path, source, cache=tmp_path / "c")
    assert (summary.done, summary.failed) == (names, {})
    assert source.tower.seen == seen + 3
    assert not (tmp_path / names[1] / "failed.txt").exists()


def test_a_scene_lifted_before_and_broken_now_is_not_told_as_done(broken, tmp_path):
    root, names = broken
    lifted(root, names[:2], tmp_path)
    (root / "2D" / names[1] / "color" / "20.jpg").write_bytes(b"")
    summary = lifted(root, names[:2], tmp_path, options=Options(voxel=0.05))
    assert summary.done == names[:1]
    assert set(summary.failed) == {names[1]}


def test_one_frame_without_depth_has_no_rows_and_the_others_theirs(broken, tmp_path):
    root, names = broken
    Image.fromarray(np.zeros((36, 48), np.uint16)).save(root / "2D" / names[0] / "depth" / "20.png")
    lifted(root, names[:1], tmp_path, options=Options(vis=True))
    assert scenes_reported(tmp_path)[names[0]]["visible"]["20"] == 0
    assert np.load(tmp_path / names[0] / "frame_20.npz")["pts_feat"].shape == (0, 4)
    assert len(np.load(tmp_path / names[0] / "frame_0.npz")["rows"])


def test_if_no_scene_can_be_lifted_it_is_an_error_that_says_why(broken, tmp_path):
    root, names = broken
    shutil.rmtree(root / "2D" / names[0] / "intrinsic")
    with pytest.raises(ValueError, match=rf"none of 1 scenes could be lifted; {names[0]}: .*intrinsic"):
        lifted(root, names[:1], tmp_path)


def test_a_lost_pose_is_skipped_and_counted(broken, tmp_path, capsys):
    root, names = broken
    (root / "2D" / names[0] / "pose" / "20.txt").write_text("-inf -inf -inf -inf\n" * 4)
    lifted(root, names[:1], tmp_path)
    one = scenes_reported(tmp_path)[names[0]]
    assert one["skipped_frames"] == 1
    assert f"{names[0]}: 1 frame is left out: frame 20: a pose is not finite" in capsys.readouterr().err
    assert set(one["visible"]) == {"0", "40"}


def test_pictures_are_drawn_of_each_frame_and_of_the_cloud_and_are_the_same_each_time(rooms, tmp_path):
    root, names = rooms
    for out in ("first", "second"):
        lifted(root, names[:1], tmp_path / out, frames=2, options=Options(vis=True))
    for file in ("vis_0.png", "vis_40.png", "cloud.png"):
        first = tmp_path / "first" / names[0] / file
        assert first.read_bytes() == (tmp_path / "second" / names[0] / file).read_bytes()
        with Image.open(first) as image:
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_the_cloud_is_drawn_in_the_mean_colour_of_its_views(rooms, tmp_path, monkeypatch):
    root, names = rooms
    drawn = []
    clouds = show.clouds
    monkeypatch.setattr(show, "clouds", lambda xyz, panels, *rest: drawn.append(panels) or clouds(xyz, panels, *rest))
    lifted(root, names[:1], tmp_path, options=Options(vis=True))
    frames = [np.load(tmp_path / names[0] / f"frame_{index}.npz") for index in (0, 20, 40)]
    n = len(read_cloud(tmp_path / names[0] / "points.ply").xyz)
    colours = show.Colours(torch.from_numpy(np.concatenate([frame["pts_feat"] for frame in frames])))
    fused, weight = np.zeros((n, 4)), np.zeros((n, 1))
    for frame in frames:
        np.add.at(fused, frame["rows"], frame["pts_feat"].astype(float) * frame["conf_2d"][:, None])
        np.add.at(weight, frame["rows"], frame["conf_2d"][:, None])
    seen = weight[:, 0] > 0
    expected = colours(colours.values(torch.from_numpy(fused[seen] / weight[seen])))
    (panels,) = drawn
    title, shown = list(panels.items())[1]
    assert title == f"features of 3 frames, on {seen.sum():,} of {n:,} points"
    assert np.abs(shown[seen].astype(int) - expected).max() <= 1
    assert (shown[~seen] == show.UNSEEN).all()


def test_ranks_share_the_scenes(rooms, tmp_path, monkeypatch):
    root, names = rooms
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        source = Source()
        summary = lifted(root, names, tmp_path / "out", source, cache=tmp_path / "cache")
        made.append(source.tower.seen)
    assert made == [6, 3]
    assert summary.done == names


def test_a_defect_of_ours_is_not_taken_for_a_bad_scene(rooms, tmp_path, monkeypatch):
    def defect(*args):
        raise AssertionError("ours")

    monkeypatch.setattr(module, "write_frame", defect)
    with pytest.raises(AssertionError):
        lifted(*rooms, tmp_path)


def test_every_scene_of_a_list_reads_its_own_depth(rooms):
    root, names = rooms
    views = module.views_of(scenes_of(root, names[:1])[0].frames)
    assert views.depth.shape == (3, 36, 48)
    assert (views.K.shape, views.pose.shape, views.scene.tolist()) == ((3, 3, 3), (3, 4, 4), [0, 0, 0])
    assert 0.5 < views.depth[views.depth > 0].median() < 6


def mask_of(root, name, out, change=lambda mask: mask):
    """Write masks of a scene whose left half shows instance 7."""
    for frame in read_scene(root, name).frames:
        with Image.open(frame.color) as image:
            mask = np.zeros((image.height, image.width), np.uint8)
        mask[:, : mask.shape[1] // 2] = 7
        (out / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(change(mask)).save(out / name / f"{frame.index}.png")
    return out


def test_pixels_without_an_instance_show_no_point(rooms, tmp_path):
    root, names = rooms
    masks = mask_of(root, names[0], tmp_path / "masks")
    lifted(root, names[:1], tmp_path / "all")
    lifted(root, names[:1], tmp_path / "out", options=Options(masks=str(masks)))
    for frame in read_scene(root, names[0]).frames:
        every, some = (np.load(tmp_path / out / names[0] / f"frame_{frame.index}.npz") for out in ("all", "out"))
        left = every["uv_idx"][:, 0] < some["size"][1] / 2 - 0.5
        kept = np.isin(every["rows"], some["rows"])
        assert 0 < len(some["rows"]) < len(every["rows"])
        assert (kept == left).mean() > 0.99  # at the edge a pixel decides
    assert lifted(root, names[:1], tmp_path / "out", options=Options(masks=str(masks))).done
    before = (tmp_path / "out" / names[0] / "report.json").read_text()
    mask_of(root, names[0], masks, lambda mask: 255 - mask)
    lifted(root, names[:1], tmp_path / "out", options=Options(masks=str(masks)))
    assert (tmp_path / "out" / names[0] / "report.json").read_text() != before  # other masks: lifted again


def test_a_frame_without_a_mask_and_a_mask_of_colours_are_refused(rooms, tmp_path):
    root, names = rooms
    masks = mask_of(root, names[0], tmp_path / "masks")
    first = read_scene(root, names[0]).frames[0].index
    Image.new("L", (8, 32)).save(masks / names[0] / f"{first}.png")
    with pytest.raises(SightwordError, match="another aspect ratio"):
        lifted(root, names[:1], tmp_path / "out", options=Options(masks=str(masks)))
    Image.new("RGB", (8, 8)).save(masks / names[0] / f"{first}.png")
    with pytest.raises(SightwordError, match=r"Expected one channel of whole numbers"):
        lifted(root, names[:1], tmp_path / "out", options=Options(masks=str(masks)))
    (masks / names[0] / f"{first}.png").unlink()
    with pytest.raises(SightwordError, match=f"has no mask of frame {first} of {names[0]}"):
        lifted(root, names[:1], tmp_path / "out", options=Options(masks=str(masks)))


def test_the_first_frames_are_lifted_where_that_is_said(rooms, tmp_path):
    root, names = rooms
    lifted(root, names[:1], tmp_path, frames=2, choose="first")
    wanted = [frame.index for frame in read_scene(root, names[0]).frames[:2]]
    assert sorted(int(file.stem[6:]) for file in (tmp_path / names[0]).glob("frame_*.npz")) == wanted


def test_with_offload_the_same_is_written(rooms, tmp_path):
    root, names = rooms
    for out, offload in (("one", False), ("two", True)):
        lifted(root, names[:2], tmp_path / out, offload=offload)
    for file in (tmp_path / "one").rglob("frame_*.npz"):
        one, two = np.load(file), np.load(tmp_path / "two" / file.relative_to(tmp_path / "one"))
        assert all(np.array_equal(one[name], two[name]) for name in one.files)


def test_hdf5_files_hold_the_same_arrays(rooms, tmp_path):
    h5py = pytest.importorskip("h5py")
    root, names = rooms
    lifted(root, names[:1], tmp_path / "npz")
    lifted(root, names[:1], tmp_path / "h5", options=Options(format="h5"))
    for file in (tmp_path / "npz").rglob("frame_*.npz"):
        with h5py.File(tmp_path / "h5" / names[0] / f"{file.stem}.h5") as found:
            one = np.load(file)
            assert all(np.array_equal(one[name], found[name][()]) for name in one.files)


def test_of_a_run_its_own_maps_are_lifted(rooms, tmp_path):
    root, names = rooms
    torch.manual_seed(0)
    encoder = BiFusionEncoder(clip_dim=4, dim=8, layers=0, heads=2, use_amp=False).eval()
    extract(Source(), "qq", root, names[:1], tmp_path / "out", encoder=encoder)
    scene, tower = read_scene(root, names[0]), FrameEncoder(ColourTower())
    for frame in scene.frames[:2]:
        seen = np.load(tmp_path / "out" / names[0] / f"frame_{frame.index}.npz")
        assert seen["pts_feat"].shape[1] == 8
        maps = features_of(tower.rows([read_color(frame)]), tower.grid).maps.float()
        with torch.no_grad():
            maps = encoder.reduced(F.normalize(maps, dim=1))
        grid = to_grid(torch.from_numpy(seen["uv_idx"]), tuple(seen["size"].tolist()))[None, None]
        wanted = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)[0, :, 0].T
        assert np.abs(F.normalize(wanted, dim=-1).numpy() - seen["pts_feat"]).max() < 5e-3
    before = (tmp_path / "out" / names[0] / "report.json").read_text()
    extract(Source(), "qq", root, names[:1], tmp_path / "out", encoder=encoder)
    assert (tmp_path / "out" / names[0] / "report.json").read_text() == before  # done
    with torch.no_grad():
        encoder.reduce.project.weight.mul_(2)
    extract(Source(), "qq", root, names[:1], tmp_path / "out", encoder=encoder)
    assert (tmp_path / "out" / names[0] / "report.json").read_text() != before  # of other weights: lifted again
