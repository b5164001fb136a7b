"""The synthetic actions as two devices record them: a Kinect in 3-D, and a pose estimator on images.

Legend: T frames; a body stands in its own frame, x to its left, y up, z forward; metres.
"""

import pickle
from pathlib import Path

import numpy as np

from sightword.miniature import motion
from sightword.systems.skeleton.joints import JOINT_SETS

ACTIONS = ("raising both arms", "sitting down", "bowing", "clapping both hands")
COCO = JOINT_SETS["coco17"].joints
AHEAD = {"foot": 0.18, "foot_index": 0.2, "heel": -0.05}  # of the ankle
FACE = {"eye_inner": "eye", "eye_outer": "eye", "mouth": "nose"}


def placed(body: np.ndarray, joints: tuple[str, ...]) -> np.ndarray:
    """COCO's joints (T, 17, 3) → those of another set (T, V, 3), as its device places them."""
    own = {joint: body[:, row] for row, joint in enumerate(COCO)}
    hips, shoulders = ((own[f"left_{part}"] + own[f"right_{part}"]) / 2 for part in ("hip", "shoulder"))
    middle = {"hip_centre": hips, "shoulder_centre": shoulders, "spine": hips * 0.6 + shoulders * 0.4}
    middle["head"] = (own["left_ear"] + own["right_ear"]) / 2
    found = []
    for joint in joints:
        side, _, part = joint.partition("_")
        if joint in own or joint in middle:
            found.append(own[joint] if joint in own else middle[joint])
        elif part in AHEAD:
            found.append(own[f"{side}_ankle"] + [0, -0.05, AHEAD[part]])
        elif part in FACE:
            found.append(own["nose"] + [0, -0.04, 0] if part == "mouth" else own[f"{side}_{FACE[part]}"])
        else:  # a hand, or a finger
            wrist = own[f"{side}_wrist"]
            found.append(wrist + 0.3 * (wrist - own[f"{side}_elbow"]))
    return np.stack(found, 1)


def performed(action: str, person: int, number: int) -> tuple[np.ndarray, np.random.Generator]:
    """(T, 17, 3) of somebody who performs an action, and a generator for who records it."""
    rng = np.random.default_rng([5, person, ACTIONS.index(action), number])
    body = motion.body_of(np.random.default_rng([5, person]))
    angles, _ = motion._performed(motion.ACTIONS[action], body, rng, int(rng.integers(30, 60)))
    return body.joints(angles) @ motion._about(1, np.radians(rng.uniform(-25, 25))), rng


def by_kinect(action: str, person: int, number: int) -> dict[str, object]:
    """x to the sensor's left, y up, z away from it: whoever faces it has the left hand at smaller x."""
    body, rng = performed(action, person, number)
    points = placed(body, JOINT_SETS["kinect20"].joints) * [-1, 1, -1] + [0, -0.8, 2.8]
    points += rng.normal(size=points.shape) * 0.008
    return _row(action, person, number, keypoint=points[None].astype(np.float32))


def by_estimator(action: str, person: int, number: int) -> dict[str, object]:
    """Pixels of a camera in front of them, y down: the left hand is on the right of the image."""
    body, rng = performed(action, person, number)
    points = placed(body, JOINT_SETS["mediapipe33"].joints)
    near = rng.uniform(500, 700) / (rng.uniform(3, 5) - points[..., 2])
    pixels = np.stack([480 + near * points[..., 0], 270 - near * (points[..., 1] - 0.9)], -1)
    pixels += rng.normal(size=pixels.shape) * 2
    scores = rng.uniform(0.6, 1, pixels.shape[:2])
    rest = {"keypoint_score": scores[None].astype(np.float32), "img_shape": (540, 960)}
    return _row(action, person, number, keypoint=pixels[None].astype(np.float32), **rest)


def _row(action: str, person: int, number: int, keypoint: np.ndarray, **rest: object) -> dict[str, object]:
    name = f"P{person:02d}A{ACTIONS.index(action):02d}R{number:02d}"
    return {"frame_dir": name, "label": ACTIONS.index(action), "keypoint": keypoint, **rest}


def write_devices(folder: Path, people: int = 6, others: int = 3, repeats: int = 3) -> dict[str, str]:
    """kinect.pkl, 3-D, of some people, and estimator.pkl, 2-D, of others; labels.txt."""
    (folder / "labels.txt").write_text("\n".join(ACTIONS))
    every = [(a, p, n) for p in range(people + others) for a in ACTIONS for n in range(repeats)]
    for name, made, joints in (("kinect", by_kinect, "kinect20"), ("estimator", by_estimator, "mediapipe33")):
        rows = [made(*one) for one in every]
        names = [str(row["frame_dir"]) for row in rows]
        splits = {"train": [n for n in names if int(n[1:3]) < people]}
        splits["others"] = [n for n in names if int(n[1:3]) >= people]
        content = {"split": splits, "annotations": rows, "joints": list(JOINT_SETS[joints].joints)}
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(content))
    return {"labels": str(folder / "labels.txt")}
