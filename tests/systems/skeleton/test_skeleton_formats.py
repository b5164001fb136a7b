"""Files of other tools read back equal, and each of the mistakes that are likely in them is named."""

import json
import pickle

import numpy as np
import pytest
from foreign_files import (
    FRAMES,
    SIZE,
    bodies,
    landmarks,
    ntu_text,
    shuffled,
    write_alphapose,
    write_coco,
    write_kpfiles,
    write_mmpose,
    write_mmpose_images,
    write_openpose,
    write_yolo,
)
from posed import moving, recording, write

from sightword.cli.main import main
from sightword.systems.skeleton.annotations import read_annotations
from sightword.systems.skeleton.commands import FORMATS
from sightword.systems.skeleton.formats.known import NAMES, recognise_format
from sightword.systems.skeleton.joints import JOINT_SETS
from sightword.systems.skeleton.pickled import read_plain

SIZED = "size=480x640"


def convert(path, out, *more):
    """Convert by the command; the return code."""
    return main(["convert", f"annotations={path}", f"out={out}", *more])


def row_of(path, out, *more):
    """The only row of the pickle that a file becomes."""
    assert convert(path, out, *more) == 0
    (row,) = read_plain(out)["annotations"]
    return row


def notes(out):
    """What was assumed, as it is written beside a file."""
    return json.loads(out.with_name(f"{out.name}.json").read_text())["notes"]


def assert_equal(row, made, atol=0.26):  # half precision is used where nothing is lost
    np.testing.assert_allclose(row["keypoint"], made[..., :2], atol=atol)
    np.testing.assert_allclose(row["keypoint_score"], made[..., 2], atol=1e-3)
    assert tuple(row["img_shape"]) == SIZE


FLAT = {
    "openpose": lambda tmp, made: write_openpose(tmp / "clip", made),
    "alphapose": lambda tmp, made: write_alphapose(tmp / "clip.json", made),
    "coco": lambda tmp, made: write_coco(tmp / "clip.json", {"clip": made}),
    "mmpose": lambda tmp, made: write_mmpose(tmp / "clip.json", made),
    "mmpose_images": lambda tmp, made: write_mmpose_images(tmp / "clip", made),
    "yolo": lambda tmp, made: write_yolo(tmp / "clip", made),
}
STATED = {"coco": []}


@pytest.mark.parametrize("name", FLAT)
def test_people_in_images_read_back_equal_and_stay_who_they_are(tmp_path, name):
    made = bodies("body25" if name == "openpose" else "coco17")
    path = FLAT[name](tmp_path, made)
    assert recognise_format(path).name == name
    row = row_of(path, tmp_path / "out.pkl", *STATED.get(name, [SIZED]))
    assert_equal(row, made)
    assert "label" not in row
    assert row["frame_dir"] == "clip"
    assert read_annotations(tmp_path / "out.pkl").source == JOINT_SETS["body25" if name == "openpose" else "coco17"]


@pytest.mark.parametrize("name", sorted(FLAT.keys() - {"coco"}))
def test_a_size_that_a_file_does_not_state_is_asked_for(tmp_path, name, capsys):
    path = FLAT[name](tmp_path, bodies("body25" if name == "openpose" else "coco17"))
    assert convert(path, tmp_path / "out.pkl") == 2
    assert "Add size=<height>x<width>" in capsys.readouterr().err
    assert not (tmp_path / "out.pkl").exists()


# ----------------------------------------------------------------------------------------------------------- OpenPose


def test_openpose_of_old_versions_and_of_coco_joints_is_read(tmp_path):
    made = bodies("openpose18")
    row = row_of(write_openpose(tmp_path / "x", made, key="pose_keypoints", first=40), tmp_path / "out.pkl", SIZED)
    assert_equal(row, made)


def test_an_openpose_frame_without_a_file_keeps_its_time(tmp_path, capsys):
    made = bodies("body25")
    folder = write_openpose(tmp_path / "x", made)
    (folder / "clip_000000000005_keypoints.json").unlink()
    row = row_of(folder, tmp_path / "out.pkl", SIZED)
    assert row["total_frames"] == FRAMES
    assert not row["keypoint_score"][:, 5].any()
    np.testing.assert_allclose(row["keypoint"][:, 6], made[:, 6, :, :2], atol=0.26)
    assert "so that time does not shift" in capsys.readouterr().out


def test_normalised_openpose_is_refused_with_the_option_that_reads_it(tmp_path, capsys):
    made = bodies("body25")
    folder = write_openpose(tmp_path / "x", made / [640, 480, 1])
    assert convert(folder, tmp_path / "out.pkl", SIZED) == 2
    assert "coordinates=normalised reads it" in capsys.readouterr().err
    row = row_of(folder, tmp_path / "out.pkl", SIZED, "coordinates=normalised")
    np.testing.assert_allclose(row["keypoint"], made[..., :2], atol=0.3)


def test_recordings_of_one_folder_are_told_apart_by_their_stems(tmp_path):
    made = bodies("body25")
    folder = write_openpose(tmp_path / "x", made)
    for file in list(folder.iterdir()):
        (folder / file.name.replace("clip", "other")).write_bytes(file.read_bytes())
    assert convert(folder, tmp_path / "out.npz", SIZED) == 0
    assert read_annotations(tmp_path / "out.npz").names == ["clip", "other"]


def test_scores_in_percent_become_fractions(tmp_path, capsys):
    made = bodies("body25")
    row = row_of(write_openpose(tmp_path / "x", made * [1, 1, 100]), tmp_path / "out.pkl", SIZED)
    assert_equal(row, made)
    assert "scores from 0 to 100 are read as percent" in capsys.readouterr().out


def test_openpose_with_another_number_of_joints_is_refused(tmp_path, capsys):
    folder = write_openpose(tmp_path / "x", bodies("body25")[:, :, :15])
    assert convert(folder, tmp_path / "out.pkl", SIZED) == 2
    assert "has 15 joints, expected 25 (body25), 18 (openpose18)" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------- AlphaPose, COCO, YOLO


@pytest.mark.parametrize("extra", [0, 110])
def test_alphapose_of_halpe_is_read_with_or_without_hands_and_ids(tmp_path, extra):
    made = bodies("halpe26")
    row = row_of(write_alphapose(tmp_path / "x.json", made, ids=not extra, extra=extra), tmp_path / "out.pkl", SIZED)
    assert_equal(row, made)


def test_alphapose_without_tracking_calls_everybody_0_and_people_are_followed(tmp_path, capsys):
    made = bodies()
    file = write_alphapose(tmp_path / "x.json", made)
    file.write_text(json.dumps([item | {"idx": [0.0]} for item in json.loads(file.read_text())]))
    assert_equal(row_of(file, tmp_path / "out.pkl", SIZED), made)
    assert "the ids in the file stand several times in a frame" in capsys.readouterr().out


def test_frames_whose_names_have_no_numbers_of_their_own_come_in_the_order_of_names(tmp_path, capsys):
    made = bodies()
    file = write_alphapose(tmp_path / "x.json", made)
    items = json.loads(file.read_text())
    items = [item | {"image_id": f"{item['image_id'].split('.')[0]}_1080p.jpg"} for item in items]
    file.write_text(json.dumps(items[::-1]))
    assert_equal(row_of(file, tmp_path / "out.pkl", SIZED), made)
    assert "frames are in the order of their names" in capsys.readouterr().out


def test_alphapose_scores_above_one_are_cut_off_and_said(tmp_path, capsys):
    made = bodies()
    made[..., 2] *= 5
    row = row_of(write_alphapose(tmp_path / "x.json", made), tmp_path / "out.pkl", SIZED)
    assert row["keypoint_score"].max() == 1
    assert "scores above 1 were cut off at 1" in capsys.readouterr().out


def test_image_ids_that_are_no_frames_of_a_video_are_refused(tmp_path, capsys):
    file = write_alphapose(tmp_path / "x.json", bodies())
    items = json.loads(file.read_text())
    for number, item in enumerate(items):
        item["image_id"] = number * 1_000_000
    file.write_text(json.dumps(items))
    assert convert(file, tmp_path / "out.pkl", SIZED) == 2
    assert "not the frames of one video" in capsys.readouterr().err


def test_coco_visibility_is_no_confidence_and_folders_are_recordings(tmp_path, capsys):
    one, other = bodies(), bodies() + np.array([5, 0, 0])
    one[..., 2], other[..., 2] = 2, 1
    other[:, :, 3] = 0
    other[:, 0, 5, 2] = 2
    file = write_coco(tmp_path / "x.json", {"a": one, "b": other}, tracks=False)
    assert convert(file, tmp_path / "out.pkl") == 0
    first, second = read_plain(tmp_path / "out.pkl")["annotations"]
    assert (first["frame_dir"], second["frame_dir"]) == ("x/a", "x/b")
    assert set(np.unique(first["keypoint_score"])) == {1}
    assert set(np.unique(second["keypoint_score"])) == {0, 0.5, 1}
    assert "visibility 0, 1, 2 is read as a score of 0, 0.5, 1" in capsys.readouterr().out


def test_coco_images_of_several_sizes_are_no_video(tmp_path, capsys):
    file = write_coco(tmp_path / "x.json", {"a": bodies()})
    content = json.loads(file.read_text())
    content["images"][3]["width"] = 500
    file.write_text(json.dumps(content))
    assert convert(file, tmp_path / "out.pkl") == 2
    assert "2 sizes: they are not the frames of one video" in capsys.readouterr().err


def test_yolo_takes_the_size_of_images_beside_the_labels_and_people_by_their_track(tmp_path, capsys):
    from PIL import Image

    made = bodies()
    write_yolo(tmp_path / "set" / "labels", made, track=True)
    (tmp_path / "set" / "images").mkdir()
    Image.new("RGB", (640, 480)).save(tmp_path / "set" / "images" / "clip_4.jpg")
    assert_equal(row_of(tmp_path / "set" / "labels", tmp_path / "out.pkl"), made)
    Image.new("RGB", (500, 375)).save(tmp_path / "set" / "images" / "clip_5.jpg")
    assert convert(tmp_path / "set" / "labels", tmp_path / "other.pkl") == 2
    assert "they are not the frames of one video" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- MediaPipe


def blaze(people=1):
    """(M, T, 33, 4) in the image, and (T, 33, 4) in metres about the hips, y down."""
    made = bodies("mediapipe33", people=people)
    flat = np.concatenate([made[..., :2], np.full((*made.shape[:3], 1), -0.1), made[..., 2:]], axis=-1)
    solid = moving(JOINT_SETS["mediapipe33"], 0, FRAMES)[0] - [0, 0.9, 2.5]
    return flat, np.concatenate([solid * [-1, -1, 1], flat[0, ..., 3:]], axis=-1), solid


@pytest.mark.parametrize("shape", ["tasks", "solutions", "web", "bare", "numbered", "frames"])
def test_the_shapes_of_mediapipe_json_are_read(tmp_path, shape):
    flat, world, solid = blaze()
    marks = [landmarks(flat[0, frame], (640, 480)) for frame in range(FRAMES)]
    metres = [landmarks(body) for body in world]
    content = {
        "tasks": [{"pose_landmarks": [a], "pose_world_landmarks": [b]} for a, b in zip(marks, metres, strict=True)],
        "solutions": [
            {"pose_landmarks": {"landmark": a}, "pose_world_landmarks": {"landmark": b}}
            for a, b in zip(marks, metres, strict=True)
        ],
        "web": [{"landmarks": [a], "worldLandmarks": [b]} for a, b in zip(marks, metres, strict=True)],
        "bare": marks,
        "numbered": [{str(joint): mark for joint, mark in enumerate(one)} for one in marks],
        "frames": {"width": 640, "height": 480, "frames": [{"frame": n, "landmarks": a} for n, a in enumerate(marks)]},
    }[shape]
    (tmp_path / "x.json").write_text(json.dumps(content))
    size = [] if shape == "frames" else [SIZED]
    row = row_of(tmp_path / "x.json", tmp_path / "out.pkl", *size)
    np.testing.assert_allclose(row["keypoint"], flat[..., :2], atol=0.26)
    np.testing.assert_allclose(row["keypoint_score"], flat[..., 3], atol=1e-3)
    if shape in ("tasks", "solutions", "web"):
        deep = row_of(tmp_path / "x.json", tmp_path / "world.pkl", "world=true")
        np.testing.assert_allclose(deep["keypoint"][0], solid, atol=1e-3)  # as a Kinect has it: y up, left at -x
        assert "img_shape" not in deep


def test_frames_without_a_person_stay_and_several_people_are_followed(tmp_path):
    flat, _, _ = blaze(people=2)
    marks = [[landmarks(one, (640, 480)) for one in shuffled(flat, frame)] for frame in range(FRAMES)]
    frames = [{"pose_landmarks": one, "pose_world_landmarks": one} for one in marks]
    frames[4] = {"pose_landmarks": None}
    (tmp_path / "x.json").write_text(json.dumps(frames))
    row = row_of(tmp_path / "x.json", tmp_path / "out.pkl", SIZED)
    assert not row["keypoint_score"][:, 4].any()
    np.testing.assert_allclose(row["keypoint"][:, 5:], flat[:, 5:, :, :2], atol=0.26)
    assert convert(tmp_path / "x.json", tmp_path / "out.pkl", "world=true") == 2  # who is who cannot be told


@pytest.mark.parametrize("shape", ["named", "as MediaPipe names them", "numbered", "from one", "number first", "long"])
def test_the_shapes_of_mediapipe_csv_are_read(tmp_path, shape):
    flat, _, _ = blaze()
    numbers = flat[0] / [640, 480, 1, 1]
    joints = JOINT_SETS["mediapipe33"].joints
    if shape == "long":
        lines = ["frame,landmark,x,y,z,visibility"]
        lines += [
            f"{frame},{joint},{','.join(map(str, numbers[frame, row]))}"
            for frame in range(FRAMES)
            for row, joint in enumerate(joints)
        ]
    else:
        parts = ("x", "y", "z", "visibility" if shape == "named" else "v")
        first = 1 if shape == "from one" else 0
        own = {"left_mouth": "MOUTH_LEFT", "right_mouth": "MOUTH_RIGHT"} if shape.startswith("as") else {}
        heads = [
            {
                "named": f"{joint}_{part}",
                "as MediaPipe names them": f"{own.get(joint, joint.upper())}_{part}",
                "number first": f"{row}_{part}",
            }.get(shape, f"{part}{first + row}")
            for row, joint in enumerate(joints)
            for part in parts
        ]
        lines = [",".join(["frame", *heads])]
        lines += [f"{frame + 7}," + ",".join(map(str, numbers[frame].ravel())) for frame in range(FRAMES)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    row = row_of(tmp_path / "x.csv", tmp_path / "out.pkl", SIZED)
    np.testing.assert_allclose(row["keypoint"], flat[..., :2], atol=0.26)


def test_a_column_that_a_mediapipe_csv_lacks_is_named(tmp_path, capsys):
    heads = [f"{part}{row}" for row in range(33) for part in "xy" if (part, row) != ("y", 9)]
    (tmp_path / "x.csv").write_text(",".join(heads) + "\n" + ",".join(["0.5"] * len(heads)))
    assert convert(tmp_path / "x.csv", tmp_path / "out.pkl", SIZED) == 2
    assert "has no y of landmark 9, left_mouth" in capsys.readouterr().err


def test_a_csv_without_known_columns_is_not_called_annotations(tmp_path, capsys):
    (tmp_path / "x.csv").write_text("0,0.4,0.3\n1,0.4,0.3\n")
    assert convert(tmp_path / "x.csv", tmp_path / "out.pkl", SIZED) == 2
    assert "no CSV of MediaPipe: its first line has nose_x,nose_y" in capsys.readouterr().err


def test_landmarks_that_are_no_fractions_are_refused(tmp_path, capsys):
    flat, _, _ = blaze()
    (tmp_path / "x.json").write_text(json.dumps([{"keypoints": landmarks(body)} for body in flat[0]]))
    assert convert(tmp_path / "x.json", tmp_path / "out.pkl", SIZED) == 2
    assert "landmarks in the image are fractions" in capsys.readouterr().err


def test_landmarks_of_a_hand_are_refused(tmp_path, capsys):
    (tmp_path / "x.json").write_text(json.dumps([{"landmarks": [[{"x": 0.1, "y": 0.1, "z": 0}] * 21]}]))
    assert convert(tmp_path / "x.json", tmp_path / "out.pkl", SIZED) == 2
    assert "has 21 landmarks, expected 33" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- 3-D


def kinect2(number=0, frames=FRAMES):
    return moving(JOINT_SETS["ntu25"], number, frames)[0]


def test_ntu_bodies_are_read_by_their_ids_and_frames_without_one_stay(tmp_path):
    body = kinect2(frames=30)
    body[10:13] = np.nan
    ids = 72057594037931101
    sitting = np.full((30, 25, 3), np.nan)
    sitting[:20] = kinect2(1, 20)[:1] + np.array([1, 0, 0])
    sitting[10:13] = np.nan
    sofa = np.tile(np.random.default_rng(0).uniform([-2, 0, 2], [2, 0.6, 3], (25, 3)), (30, 1, 1))
    text = ntu_text({ids: body, ids + 1: sitting, ids + 2: sofa}, 30)
    (tmp_path / "S001C002P003R002A013.skeleton").write_text(text)
    row = row_of(tmp_path, tmp_path / "out" / "x.pkl")
    assert row["keypoint"].shape == (2, 30, 25, 3)  # ids that differ in the last digit are two; the sofa is none
    np.testing.assert_allclose(row["keypoint"][0], np.nan_to_num(body), atol=1e-3)
    assert not row["keypoint"][1, 20:].any()
    assert row["label"] == 12
    assert "img_shape" not in row
    content = read_plain(tmp_path / "out" / "x.pkl")
    assert {name for name, own in content["split"].items() if own} == {"xsub_val", "xview_train"}
    assert any(
        "frames without a body stay" in note for note in json.loads((tmp_path / "out/x.pkl.json").read_text())["notes"]
    )


def test_a_body_whose_id_changes_stays_one_person(tmp_path):
    body = kinect2(frames=40)
    first, second = body.copy(), body.copy()
    first[20:], second[:20] = np.nan, np.nan
    (tmp_path / "S001C001P001R001A001.skeleton").write_text(ntu_text({1000000000001: first, 1000000000002: second}, 40))
    row = row_of(tmp_path, tmp_path / "out.pkl")
    np.testing.assert_allclose(row["keypoint"], body[None], atol=1e-3)


def test_in_a_crowd_nobody_takes_the_place_of_another(tmp_path, capsys):
    made = bodies(people=4)
    made[3, :6], made[2, 6:] = made[2, :6], made[3, 6:]  # four short tracks beside two that last
    items = json.loads(write_alphapose(tmp_path / "x.json", made).read_text())
    for item in items:
        frame, who = int(item["image_id"].split(".")[0]), item["idx"]
        item["idx"] = who if who > 5 else who + 10 * (frame >= 6)
    (tmp_path / "x.json").write_text(json.dumps(items))
    row = row_of(tmp_path / "x.json", tmp_path / "out.pkl", SIZED)
    np.testing.assert_allclose(row["keypoint"], made[:2, ..., :2], atol=0.26)
    assert "of more than 2 persons at a time, those that move least were left out" in capsys.readouterr().out


def test_a_truncated_ntu_file_is_named(tmp_path, capsys):
    text = ntu_text({72057594037931101: kinect2()}, FRAMES)
    (tmp_path / "S001C001P001R001A001.skeleton").write_text(text[: len(text) // 2])
    assert convert(tmp_path, tmp_path / "out.pkl") == 2
    error = capsys.readouterr().err
    assert "S001C001P001R001A001.skeleton" in error
    assert "it is not a whole file" in error


def kinect1(number=0, name="kinect20"):
    return moving(JOINT_SETS[name], number, FRAMES)[0]


def test_kinect_text_is_read_with_its_gaps_and_without_its_repetitions(tmp_path, capsys):
    body = kinect1()
    lines = [f"{90 + frame} " + " ".join(f"{value:.6f}" for value in body[frame].ravel()) for frame in range(FRAMES)]
    lines[3] = lines[2]
    (tmp_path / "joints_s01_e01.txt").write_text("\n".join(lines))
    row = row_of(tmp_path / "joints_s01_e01.txt", tmp_path / "out.pkl")
    body[3] = 0
    np.testing.assert_allclose(row["keypoint"], body[None], atol=1e-3)
    assert "frames whose number was there before were left out" in capsys.readouterr().out


def test_kinect_text_of_msr_is_read_in_its_order(tmp_path):
    body = kinect1(name="msr20")
    rows = [" ".join(f"{value:.6f}" for value in (*joint, 1)) for joint in body.reshape(-1, 3).tolist()]
    (tmp_path / "a13_s03_e02_skeleton3D.txt").write_text("\n".join(rows))
    row = row_of(tmp_path, tmp_path / "out" / "x.pkl")
    np.testing.assert_allclose(row["keypoint"], body[None], atol=1e-3)
    assert row["label"] == 12
    assert read_annotations(tmp_path / "out" / "x.pkl").source == JOINT_SETS["msr20"]


def test_an_order_of_joints_that_is_another_is_named(tmp_path, capsys):
    for number in range(12):
        body = kinect1(number, "msr20")
        lines = [" ".join(f"{value:.6f}" for value in frame.ravel()) for frame in body]
        (tmp_path / f"{number}.txt").write_text("\n".join(lines))
    assert convert(tmp_path, tmp_path / "out" / "x.pkl") == 2
    assert "these are the joints of msr20. joints=msr20 reads it" in capsys.readouterr().err
    assert convert(tmp_path, tmp_path / "out" / "x.pkl", "joints=msr20") == 0


@pytest.mark.parametrize("name", ["mhad20", "kinect20"])
def test_mat_files_of_utd_mhad_are_read_whichever_end_of_the_trunk_is_first(tmp_path, name):
    from scipy.io import savemat

    body = kinect1(name=name)
    savemat(tmp_path / "a27_s8_t4_skeleton.mat", {"d_skel": body.transpose(1, 2, 0)})
    row = row_of(tmp_path, tmp_path / "out" / "x.pkl")
    np.testing.assert_allclose(row["keypoint"], body[None], atol=1e-3)
    assert row["label"] == 26
    assert read_annotations(tmp_path / "out" / "x.pkl").source == JOINT_SETS[name]


def test_a_mat_file_without_a_skeleton_is_refused(tmp_path, capsys):
    from scipy.io import savemat

    savemat(tmp_path / "x.mat", {"d_iner": np.zeros((3, 3))})
    assert convert(tmp_path / "x.mat", tmp_path / "out.pkl") == 2
    assert "and no d_skel" in capsys.readouterr().err
    (tmp_path / "y.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"\0" * 60)
    assert convert(tmp_path / "y.mat", tmp_path / "out.pkl") == 2
    assert "not a complete MATLAB file" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ kpfiles, npy


def test_kpfiles_of_kinetics_are_read_from_beside_the_list(tmp_path):
    made = bodies()
    row = row_of(write_kpfiles(tmp_path / "k400", made), tmp_path / "out.pkl")
    assert_equal(row, made, atol=0.5)
    assert row["label"] == 3


def test_a_raw_file_elsewhere_is_not_opened(tmp_path, capsys):
    file = write_kpfiles(tmp_path / "k400", bodies())
    (tmp_path / "k400/kpfiles/part.pkl").rename(tmp_path / "part.pkl")
    rows = pickle.loads(file.read_bytes())
    rows[0]["raw_file"] = "../part.pkl"
    file.write_bytes(pickle.dumps(rows))
    assert convert(file, tmp_path / "out.pkl") == 2
    assert "Put the kpfiles there" in capsys.readouterr().err


def test_an_array_is_read_in_the_order_that_is_given(tmp_path, capsys):
    made = bodies(people=1)
    np.save(tmp_path / "x.npy", made[0])
    assert convert(tmp_path / "x.npy", tmp_path / "out.pkl", SIZED) == 2
    assert "axes=TVC" in capsys.readouterr().err
    assert_equal(row_of(tmp_path / "x.npy", tmp_path / "out.pkl", SIZED, "axes=TVC"), made)
    np.save(tmp_path / "many.npy", np.stack([made.transpose(3, 1, 2, 0)] * 3))  # as ST-GCN's, recordings first
    assert convert(tmp_path / "many.npy", tmp_path / "many.npz", SIZED, "axes=CTVM") == 0
    assert len(read_annotations(tmp_path / "many.npz")) == 3


def test_an_array_of_objects_is_not_opened(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.array([{}]), allow_pickle=True)
    assert convert(tmp_path / "x.npy", tmp_path / "out.pkl") == 2
    assert "one NumPy array, .npy, and not of key points" in capsys.readouterr().err
    assert convert(tmp_path / "x.npy", tmp_path / "out.pkl", "format=npy") == 2
    assert "not a complete .npy of numbers" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- labels


def clips(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_alphapose(folder / f"{name}.json", bodies() + np.array([number, 0, 0]))
    return folder


def test_labels_by_name_are_numbered_and_listed_beside_the_recordings(tmp_path):
    folder = clips(tmp_path / "in", ["one", "two", "three"])
    (tmp_path / "labels.csv").write_text("recording,label\none.json,wave\ntwo,bow\n")
    assert convert(folder, tmp_path / "out.npz", SIZED, f"labels={tmp_path / 'labels.csv'}") == 0
    made = read_annotations(tmp_path / "out.npz")
    assert dict(zip(made.names, made.labels.tolist(), strict=True)) == {"one": 1, "two": 0, "three": -1}
    assert (tmp_path / "out_labels.txt").read_text() == "bow\nwave\n"
    assert "1 of 3 recordings have no label" in (tmp_path / "out.npz.json").read_text()


def test_folders_can_be_the_classes(tmp_path, capsys):
    folder = clips(tmp_path / "in", ["wave/a", "wave/b", "bow/a"])
    assert convert(folder, tmp_path / "out.npz", SIZED, "labels=folders") == 0
    made = read_annotations(tmp_path / "out.npz")
    assert dict(zip(made.names, made.labels.tolist(), strict=True)) == {"bow/a": 0, "wave/a": 1, "wave/b": 1}
    assert "system.labels=" + str(tmp_path / "out_labels.txt") in capsys.readouterr().out


def test_labels_of_other_recordings_are_refused(tmp_path, capsys):
    folder = clips(tmp_path / "in", ["one"])
    (tmp_path / "labels.json").write_text('{"uno": 1}')
    assert convert(folder, tmp_path / "out.npz", SIZED, f"labels={tmp_path / 'labels.json'}") == 2
    assert "has none of the 1 recordings" in capsys.readouterr().err


def test_a_recording_with_two_labels_is_refused(tmp_path, capsys):
    folder = clips(tmp_path / "in", ["one"])
    (tmp_path / "labels.csv").write_text("recording,label\none,1\none.json,2\n")
    assert convert(folder, tmp_path / "out.npz", SIZED, f"labels={tmp_path / 'labels.csv'}") == 2
    assert "row 3: recording: one has another label above" in capsys.readouterr().err


def test_labels_can_be_given_to_annotations_of_pyskl(tmp_path):
    write(tmp_path / "x.pkl", [recording(number, label=None) for number in range(3)])
    (tmp_path / "labels.json").write_text('{"S000": 2, "S001": -1, "S002": 0}')
    assert convert(tmp_path / "x.pkl", tmp_path / "out.npz", f"labels={tmp_path / 'labels.json'}") == 0
    assert read_annotations(tmp_path / "out.npz").labels.tolist() == [2, -1, 0]


# ------------------------------------------------------------------------------------------------------------ mirrored


def test_people_in_mirrored_video_are_said_and_settled(tmp_path, capsys):
    made = bodies(people=1)
    write_alphapose(tmp_path / "S001C002P003R002A013.json", made)
    row = row_of(tmp_path / "S001C002P003R002A013.json", tmp_path / "out.pkl", SIZED)
    assert_equal(row, made)
    assert row["label"] == 12
    assert "mirrored_video=true" in capsys.readouterr().err
    order = JOINT_SETS["coco17"].flipped()
    seen = made[:, :, order] * [-1, 1, 1] + [639, 0, 0]  # what an estimator sees in the mirrored video, with its names
    write_alphapose(tmp_path / "S001C002P003R002A013.json", seen)
    row = row_of(tmp_path / "S001C002P003R002A013.json", tmp_path / "settled.pkl", SIZED, "mirrored_video=true")
    assert_equal(row, made)
    assert "mirrored_video=true" not in capsys.readouterr().err


def test_three_dimensional_names_of_ntu_are_not_mirrored(tmp_path, capsys):
    (tmp_path / "S001C001P001R001A001.skeleton").write_text(ntu_text({72057594037931101: kinect2()}, FRAMES))
    assert convert(tmp_path, tmp_path / "out.pkl") == 0
    assert "mirrored" not in "".join(capsys.readouterr())


# -------------------------------------------------------------------------------------------------------- the command


def test_files_of_another_kind_are_counted(tmp_path, capsys):
    folder = clips(tmp_path / "in", ["one", "two"])
    (folder / "none.json").write_text("{}")
    assert convert(folder, tmp_path / "out.npz", SIZED) == 0
    assert "1 files are of another kind and were not read, the first is none.json" in capsys.readouterr().out
    assert read_annotations(tmp_path / "out.npz").names == ["one", "two"]


def test_a_recording_without_people_is_left_out_and_named(tmp_path, capsys):
    write_openpose(tmp_path / "in" / "somebody", bodies("body25"))
    write_openpose(tmp_path / "in" / "nobody", np.zeros((0, 4, 25, 3)))
    assert convert(tmp_path / "in", tmp_path / "out.npz", SIZED) == 0
    assert "(nobody) has no persons" in capsys.readouterr().err
    assert read_annotations(tmp_path / "out.npz").names == ["somebody"]


def test_three_dimensional_recordings_keep_their_depth_in_a_pickle_however_they_were_read(tmp_path, capsys):
    body = kinect1()
    turned = body[:, :, [2, 0, 1]] * [1, -1, 1]  # z up, the camera looks along x
    np.save(tmp_path / "x.npy", turned[None])
    row = row_of(tmp_path / "x.npy", tmp_path / "out.pkl", "up=z", "joints=kinect20")
    upright = row["keypoint"][0]
    assert (upright[:, 3, 1] > upright[:, 0, 1]).all()  # heads above hips
    lengths = [np.linalg.norm(points[:, 4] - points[:, 5], axis=-1) for points in (body, upright)]
    np.testing.assert_allclose(*lengths, atol=1e-3)
    assert convert(tmp_path / "x.npy", tmp_path / "out.npz", "up=z", "joints=kinect20") == 0
    assert "3-D is written as its front view" in capsys.readouterr().out
    assert convert(tmp_path / "out.pkl", tmp_path / "next.npz") == 0
    assert any("read with joints=kinect20 up=z" in note for note in notes(tmp_path / "next.npz")), (
        "what was assumed stays"
    )
    again, straight = read_annotations(tmp_path / "out.pkl")[0], read_annotations(tmp_path / "out.npz")[0]
    np.testing.assert_allclose(again.points, straight.points, atol=1.5)


def test_the_check_names_the_format_and_the_conversion(tmp_path, capsys):
    folder = write_openpose(tmp_path / "x", bodies("body25"))
    assert main(["check", "dataset=pyskl", f"root={folder}"]) == 2
    error = capsys.readouterr().err
    assert f"{folder} is OpenPose's JSON, a file for each frame, not annotations in pyskl's form" in error
    assert f"sightword convert annotations={folder} out=x.pkl size=<height>x<width>" in error


def test_the_command_line_lists_the_formats_that_are_known():
    assert FORMATS == NAMES


def test_options_that_would_do_nothing_are_refused(tmp_path, capsys):
    write(tmp_path / "x.pkl", [recording(number) for number in range(3)])
    for option in (SIZED, "people=1", "world=true"):
        assert convert(tmp_path / "x.pkl", tmp_path / "out.npz", option) == 2
        assert f"{option.split('=')[0]}= does nothing for" in capsys.readouterr().err
    file = write_alphapose(tmp_path / "x.json", bodies())
    assert convert(file, tmp_path / "out.npz", SIZED, "axes=TMVC") == 2
    assert "axes=TMVC is for format=npy" in capsys.readouterr().err
    np.save(tmp_path / "solid.npy", kinect1()[None])
    assert convert(tmp_path / "solid.npy", tmp_path / "out.npz", "joints=kinect20", "mirrored_video=true") == 2
    assert "mirrored_video=true is not for 3-D recordings" in capsys.readouterr().err


def test_one_frame_of_a_recording_is_not_taken_for_the_recording(tmp_path, capsys):
    folder = write_openpose(tmp_path / "x", bodies("body25"))
    assert convert(next(iter(folder.iterdir())), tmp_path / "out.npz", SIZED) == 2
    assert f"Pass the folder of the frames: {folder}" in capsys.readouterr().err


def test_files_of_several_formats_need_a_choice(tmp_path, capsys):
    clips(tmp_path / "in", ["one"])
    np.save(tmp_path / "in" / "x.npy", bodies())
    assert convert(tmp_path / "in", tmp_path / "out.npz", SIZED) == 2
    assert "several formats" in capsys.readouterr().err
    assert convert(tmp_path / "in", tmp_path / "out.npz", SIZED, "format=alphapose") == 0


def test_a_json_that_somebody_else_wrote_is_not_overwritten(tmp_path, capsys):
    file = write_alphapose(tmp_path / "x.json", bodies())
    (tmp_path / "out.npz.json").write_text("[1]")
    assert convert(file, tmp_path / "out.npz", SIZED) == 2
    assert "is not ours" in capsys.readouterr().err
    assert (tmp_path / "out.npz.json").read_text() == "[1]"


def test_a_folder_of_nothing_known_lists_the_formats(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.txt").write_text("hello")
    assert convert(tmp_path / "in", tmp_path / "out.npz") == 2
    assert "openpose, alphapose" in capsys.readouterr().err
