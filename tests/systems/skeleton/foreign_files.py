"""Files in the published layouts of other tools, written from their descriptions: no real example is in the package."""

import json
import pickle
from pathlib import Path

import numpy as np
from posed import moving

from sightword.systems.skeleton.joints import JOINT_SETS

SIZE = (480, 640)
PEOPLE, FRAMES = 2, 12


def bodies(name: str = "coco17", frames: int = FRAMES, people: int = PEOPLE) -> np.ndarray:
    """(M, T, V, 3): people side by side in an image, x, y and score; the first moves most."""
    joints = JOINT_SETS[name]
    points = np.concatenate([moving(joints, number, frames) for number in range(people)])
    points[1:] = points[1:, :1] + (points[1:] - points[1:, :1]) * 0.5
    flat = points[..., :2] * [-120, -120] + [160, 320] + 300 * np.arange(people)[:, None, None, None] * [1, 0]
    scores = np.random.default_rng(0).uniform(0.3, 0.9, flat.shape[:3])
    return np.round(np.concatenate([flat, scores[..., None]], axis=-1), 3)


def shuffled(made: np.ndarray, frame: int) -> np.ndarray:
    """(M, V, 3) of a frame, in another order than in the frame before."""
    return made[::-1, frame] if frame % 2 else made[:, frame]


def write_openpose(folder: Path, made: np.ndarray, key: str = "pose_keypoints_2d", first: int = 0) -> Path:
    folder.mkdir(parents=True)
    for frame in range(made.shape[1]):
        people = [
            {"person_id": [-1], key: one.ravel().tolist(), "face_keypoints_2d": []} for one in shuffled(made, frame)
        ]
        file = folder / f"clip_{first + frame:012d}_keypoints.json"
        file.write_text(json.dumps({"version": 1.3, "people": people}))
    return folder


def write_alphapose(file: Path, made: np.ndarray, ids: bool = True, extra: int = 0) -> Path:
    """extra: joints of hands and face behind those of the body."""
    items = []
    for frame in range(made.shape[1]):
        for number, one in enumerate(made[:, frame]):
            whole = np.concatenate([one, np.zeros((extra, 3))])
            item = {"image_id": f"{frame}.jpg", "category_id": 1, "keypoints": whole.ravel().tolist(), "score": 2.7}
            items.append(item | {"box": [1, 2, 3, 4]} | ({"idx": 7 - number} if ids else {}))
    file.write_text(json.dumps(items))
    return file


def write_coco(file: Path, clips: dict[str, np.ndarray], tracks: bool = True) -> Path:
    images, annotations = [], []
    for name, made in clips.items():
        for frame in range(made.shape[1]):
            images.append(
                {"id": len(images), "file_name": f"{name}/{frame:06d}.jpg", "height": SIZE[0], "width": SIZE[1]}
            )
            for number, one in enumerate(made[:, frame]):
                item = {"id": len(annotations), "image_id": len(images) - 1, "category_id": 1, "bbox": [0, 0, 1, 1]}
                item |= {"keypoints": one.ravel().tolist(), "num_keypoints": 17} | (
                    {"track_id": number} if tracks else {}
                )
                annotations.append(item)
    category = {"id": 1, "name": "person", "keypoints": list(JOINT_SETS["coco17"].joints), "skeleton": [[16, 14]]}
    file.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations, "categories": [category]}))
    return file


def instances(made: np.ndarray, frame: int) -> list[dict[str, object]]:
    return [
        {
            "keypoints": one[:, :2].tolist(),
            "keypoint_scores": one[:, 2].tolist(),
            "bbox": [[0, 0, 1, 1]],
            "bbox_score": 1,
        }
        for one in shuffled(made, frame)
    ]


def write_mmpose(file: Path, made: np.ndarray) -> Path:
    names = {str(row): joint for row, joint in enumerate(JOINT_SETS["coco17"].joints)}
    frames = [{"frame_id": frame + 1, "instances": instances(made, frame)} for frame in range(made.shape[1])]
    file.write_text(
        json.dumps({"meta_info": {"dataset_name": "coco", "keypoint_id2name": names}, "instance_info": frames})
    )
    return file


def write_mmpose_images(folder: Path, made: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for frame in range(made.shape[1]):
        (folder / f"{frame:06d}.json").write_text(json.dumps(instances(made, frame)))
    return folder


def write_yolo(folder: Path, made: np.ndarray, track: bool = False) -> Path:
    folder.mkdir(parents=True)
    height, width = SIZE
    for frame in range(made.shape[1]):
        lines = []
        for number, one in enumerate(made[:, frame]):
            joints = (one / [width, height, 1]).ravel().tolist()
            numbers = [0.5, 0.5, 0.2, 0.6, *joints, *([0.91, number + 3] if track else [])]
            lines.append("0 " + " ".join(f"{value:g}" if value == int(value) else f"{value:.6f}" for value in numbers))
        (folder / f"clip_{frame + 1}.txt").write_text("\n".join(lines) + "\n")
    return folder


def landmarks(body: np.ndarray, scale: tuple[float, float] = (1, 1)) -> list[dict[str, float]]:
    return [{"x": x / scale[0], "y": y / scale[1], "z": z, "visibility": v} for x, y, z, v in body.tolist()]


def ntu_text(people: dict[int, np.ndarray], frames: int) -> str:
    """Text of bodies: of each id (T, 25, 3), NaN in frames that it is not in."""
    lines = [str(frames)]
    for frame in range(frames):
        there = {number: body[frame] for number, body in people.items() if np.isfinite(body[frame]).all()}
        lines.append(str(len(there)))
        for number, body in there.items():
            lines += [f"{number} 0 1 1 1 1 0 0.02 -0.1 2", "25"]
            lines += [f"{x:.6f} {y:.6f} {z:.6f} 280.1 210.2 1040.3 530.4 0.2 0 0 0 2" for x, y, z in body.tolist()]
    return "\n".join(lines) + "\n"


def write_kpfiles(folder: Path, made: np.ndarray, name: str = "abseiling/x") -> Path:
    """The list and one raw file; a detection with a low score of its box is in each frame."""
    folder.mkdir(parents=True)
    rows = [
        (one, frame + 1, 0.9 - 0.1 * number)
        for frame in range(made.shape[1])
        for number, one in enumerate(made[:, frame])
    ]
    rows += [(made[0, frame] + 30, frame + 1, 0.3) for frame in range(made.shape[1])]
    points, frames, grades = (np.array(part) for part in zip(*rows, strict=True))
    raw = folder / "kpfiles" / "part.pkl"
    raw.parent.mkdir()
    raw.write_bytes(pickle.dumps({name: {"keypoint": points.astype(np.float16)}}))
    row = {
        "frame_dir": name,
        "label": 3,
        "img_shape": SIZE,
        "original_shape": SIZE,
        "total_frames": made.shape[1],
        "raw_file": "data/k400/kpfiles/part.pkl",
        "frame_inds": frames,
        "box_score": grades.astype(np.float16),
        "valid": {0.5: made.shape[1]},
    }
    (folder / "list.pkl").write_bytes(pickle.dumps([row]))
    return folder / "list.pkl"
