"""Videos to skeletons: who is kept, what is written and said, and that an interrupted job goes on."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from filmed import PLACES, Boxes, animate, frames
from PIL import Image

from sightword.cli.main import main
from sightword.errors import SightwordError, Unfinished
from sightword.storage.job import JobOptions
from sightword.systems.skeleton.annotations import read_annotations
from sightword.systems.skeleton.config import VideoOptions
from sightword.systems.skeleton.joints import JOINT_SETS
from sightword.systems.skeleton.video import job
from sightword.systems.skeleton.video.extraction import skeletons_of
from sightword.systems.skeleton.video.job import Extraction, extract, names_of, videos_in


def empty(path: Path) -> Path:
    """A video of ten frames with nobody in it."""
    return animate(path, [np.full((40, 40, 3), value, np.uint8) for value in range(0, 100, 10)])


# ------------------------------------------------------------------------------------------------------------ a video


def test_people_of_a_video_are_followed_in_pixels(tmp_path):
    made = skeletons_of(animate(tmp_path / "walk.png", frames(20)), Boxes(), smoothed=False)
    one = made.annotation
    assert (one.name, one.label, one.shape, made.fps, made.joints) == ("walk", -1, (60, 96), 10, JOINT_SETS["coco17"])
    assert (made.ids, made.notes) == ((1, 2), ())
    assert one.points.shape == (2, 20, 17, 2)
    expected = np.array([4, 20]) + PLACES * (11, 23)  # of the red box in the first frame
    np.testing.assert_allclose(one.points[0, 0], expected, atol=1e-4)
    np.testing.assert_allclose(np.diff(one.points[0, :, 0, 0]), 2, atol=1e-4)
    np.testing.assert_allclose(one.scores, 0.9)


def test_who_moves_most_is_kept_and_the_others_are_said(tmp_path):
    made = skeletons_of(animate(tmp_path / "walk.png", frames(20)), Boxes(), people=1)
    assert (made.ids, made.annotation.points.shape) == ((1,), (1, 20, 17, 2))
    assert made.notes == ("2 people were followed and the 1 who move most are kept, people=1",)


def test_a_video_with_nobody_has_no_persons_and_says_so(tmp_path):
    made = skeletons_of(empty(tmp_path / "walk.png"), Boxes())
    assert (made.annotation.points.shape[0], made.ids) == (0, ())
    assert made.notes == ("nobody was found in it",)


def test_who_is_seen_for_an_instant_is_left_out(tmp_path):
    flash = [*frames(10, people=1), *frames(11)[10:], *frames(20, people=1)[11:]]
    made = skeletons_of(animate(tmp_path / "a.png", flash), Boxes())
    assert (made.ids, made.annotation.points.shape[:2], made.notes) == ((1,), (1, 20), ())


def test_a_mirrored_video_gives_what_the_video_itself_gives(tmp_path):
    straight = skeletons_of(animate(tmp_path / "a.png", frames(20)), Boxes())
    turned = [np.ascontiguousarray(image[:, ::-1]) for image in frames(20)]
    mirrored = skeletons_of(animate(tmp_path / "b.png", turned), Boxes(), mirrored=True)
    np.testing.assert_array_equal(mirrored.annotation.points, straight.annotation.points)
    assert mirrored.notes == ("mirrored: frames were turned over, so that left is the subject's left",)


def test_a_repeated_frame_is_estimated_once(tmp_path):
    boxes = Boxes()
    made = skeletons_of(animate(tmp_path / "a.png", frames(10)), boxes, fps=30)
    assert (boxes.calls, made.annotation.points.shape[1]) == (10, 28)
    assert made.notes == ("its 10 frames a second are read as 30",)


# ------------------------------------------------------------------------------------------------------------ the job


@pytest.fixture
def boxes(monkeypatch) -> list[Boxes]:
    """The boxes are found, whatever pose= says; the estimators that were made."""
    made: list[Boxes] = []
    monkeypatch.setattr(job, "estimator_of", lambda pose: made.append(Boxes()) or made[-1])
    return made


def run(video: Path, out: Path, **options: object) -> None:
    extract(video, out, VideoOptions(**options), JobOptions())


def test_a_folder_becomes_one_file_that_readers_take(tmp_path, boxes, capsys):
    animate(tmp_path / "in/b.gif", frames(12))
    animate(tmp_path / "in/deep/a.webp", frames(10, people=1))
    run(tmp_path / "in", tmp_path / "out/clips.pkl")
    read = read_annotations(tmp_path / "out/clips.pkl")
    assert (read.names, read.labels.tolist(), read.joints) == (["b", "a"], [-1, -1], JOINT_SETS["coco17"])
    rows = pickle.loads((tmp_path / "out/clips.pkl").read_bytes())["annotations"]
    assert [(row["fps"], row["ids"]) for row in rows] == [(10.0, [1, 2]), (10.0, [1])]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "b: person 1, 2, 12 frames at 10 a second, 1.2 s"
    assert printed[-1] == f"2 recordings without labels written to {tmp_path}/out/clips.pkl"
    assert json.loads((tmp_path / "out/clips.pkl.json").read_text())["notes"] == printed[:2]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["clips.pkl", "clips.pkl.json"]


def test_an_interrupted_job_goes_on_with_what_is_left(tmp_path, boxes, monkeypatch):
    for name in "abc":
        animate(tmp_path / f"in/{name}.png", frames(10))

    def interrupted(video: Path, *others: object, **named: object) -> object:
        if video.stem == "b":
            raise KeyboardInterrupt
        return skeletons_of(video, *others, **named)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(job, "skeletons_of", interrupted)
        run(tmp_path / "in", tmp_path / "x.pkl")
    assert not (tmp_path / "x.pkl").exists()
    run(tmp_path / "in", tmp_path / "x.pkl")
    assert [one.videos for one in boxes] == [1, 2]
    assert read_annotations(tmp_path / "x.pkl").names == ["a", "b", "c"]


def test_a_job_can_be_sent_to_other_processes(tmp_path):
    work = Extraction([animate(tmp_path / "a.png", frames(3))], tmp_path / "p", tmp_path / "d", VideoOptions(people=3))
    sent = pickle.loads(pickle.dumps(work))
    assert (sent.files, sent.names, sent.options) == (work.files, ["a"], VideoOptions(people=3))


def test_other_options_never_meet_the_parts_of_older_ones(tmp_path, boxes):
    animate(tmp_path / "in/a.png", frames(10))
    (tmp_path / "in/bad.gif").write_bytes(b"GIF89a")
    with pytest.raises(Unfinished):
        run(tmp_path / "in", tmp_path / "x.pkl")
    with pytest.raises(Unfinished):
        run(tmp_path / "in", tmp_path / "x.pkl", people=1)
    assert read_annotations(tmp_path / "x.pkl")[0].points.shape[0] == 1


def test_unreadable_videos_are_named_after_the_others_were_written_and_tried_again(tmp_path, boxes, capsys):
    animate(tmp_path / "in/good.png", frames(10))
    (tmp_path / "in/bad.gif").write_bytes(b"GIF89a")
    with pytest.raises(Unfinished, match="1 of 2 videos could not be read: bad.gif"):
        run(tmp_path / "in", tmp_path / "x.pkl")
    assert "bad.gif is not an image that can be read" in capsys.readouterr().err
    assert read_annotations(tmp_path / "x.pkl").names == ["good"]
    animate(tmp_path / "in/bad.gif", frames(12))
    run(tmp_path / "in", tmp_path / "x.pkl")
    assert read_annotations(tmp_path / "x.pkl").names == ["bad", "good"]
    assert not (tmp_path / "x.pkl.parts").exists()


def test_one_unreadable_video_is_a_mistake_and_leaves_nothing(tmp_path, boxes):
    (tmp_path / "bad.gif").write_bytes(b"GIF89a")
    with pytest.raises(SightwordError, match="bad.gif is not an image that can be read"):
        run(tmp_path / "bad.gif", tmp_path / "x.pkl")
    assert [file.name for file in tmp_path.iterdir()] == ["bad.gif"]


def test_videos_without_people_make_no_file(tmp_path, boxes):
    empty(tmp_path / "empty.webp")
    with pytest.raises(SightwordError, match="nobody was found in any of 1 videos"):
        run(tmp_path / "empty.webp", tmp_path / "x.pkl")
    assert not (tmp_path / "x.pkl").exists()


def test_a_file_of_others_is_not_overwritten(tmp_path, boxes):
    file = animate(tmp_path / "a.png", frames(10))
    (tmp_path / "mine.pkl").write_bytes(b"mine")
    with pytest.raises(SightwordError, match="mine.pkl exists and was not written by this command"):
        run(file, tmp_path / "mine.pkl")
    run(file, tmp_path / "x.pkl")
    run(file, tmp_path / "x.pkl", people=1)
    with pytest.raises(SightwordError, match=r"x.json does not end in \.pkl or \.npz"):
        run(file, tmp_path / "x.json")


def test_pictures_are_drawn_and_never_read_as_videos(tmp_path, boxes):
    folder = tmp_path / "in"
    animate(folder / "walk1.gif", frames(16))
    run(folder, folder / "x.npz", vis=True)
    (overlay,) = folder.glob("x_vis/walk1.overlay.web[mp]")
    with Image.open(folder / "x_vis/walk1.png") as strip:
        assert strip.size == (4 * (96 + 8) + 8, 2 * (60 + 24) + 34)
        colours = {colour for _, colour in strip.convert("RGB").getcolors(2**20) or []}
    assert {(0, 195, 226), (226, 219, 32)} <= colours  # the first person's, the second's
    if overlay.suffix == ".webp":
        with Image.open(overlay) as moving:
            assert (moving.n_frames, moving.size) == (16, (96, 60))
    assert videos_in(folder) == [folder / "walk1.gif"]
    assert read_annotations(folder / "x.npz").names == ["walk1"]


# ------------------------------------------------------------------------------------------------- names and the like


def test_videos_are_found_by_suffix_and_as_folders_of_images(tmp_path):
    for file in ("b.mp4", "a/c.MOV", ".hidden/d.mp4", "notes.txt", "photo.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    for number in range(3):
        (tmp_path / "frames").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / f"frames/{number:03}.jpg")
    found = [path.relative_to(tmp_path).as_posix() for path in videos_in(tmp_path)]
    assert found == ["a/c.MOV", "b.mp4", "frames"]
    assert videos_in(tmp_path / "frames") == [tmp_path / "frames"]
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(SightwordError, match="does not exist. Give a video, or a folder"):
        videos_in(tmp_path / "a")
    (tmp_path / "a").mkdir()
    with pytest.raises(SightwordError, match="has no videos and no numbered images"):
        videos_in(tmp_path / "a")


def test_recordings_of_equal_stems_have_longer_names():
    assert names_of([Path("x/a.mp4"), Path("x/b.mp4"), Path("y/a.mp4")]) == ["x/a.mp4", "b", "y/a.mp4"]


def test_missing_networks_are_said_with_what_to_type(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    animate(tmp_path / "a.png", frames(3))
    assert main(["skeletons", "video=a.png"]) == 2
    told = capsys.readouterr().err
    assert "npm install @mediapipe/pose@0.5.1675469404" in told
    (tmp_path / "pose").mkdir()
    assert main(["skeletons", "video=a.png", "pose=pose"]) == 2
    assert "pose=pose has no pose_landmark_full.tflite" in capsys.readouterr().err
    assert main(["skeletons", "video=a.png", "fps=1000"]) == 2
    assert "fps=1000 is not between 1 and 240" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "pose"]
