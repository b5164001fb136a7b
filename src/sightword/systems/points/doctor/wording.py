"""Hypotheses in words: what is different in the files, and the options that say so."""

import numpy as np

from sightword.systems.points.doctor.agreement import Hypothesis
from sightword.systems.points.scannet.convention import OPENCV, OPENGL, UNITY, Convention, read_axes
from sightword.systems.points.scannet.pose import axes_matrix
from sightword.systems.points.scannet.reader import Scene

POSES = {
    "c2w": "its poses are camera-to-world",
    "w2c": "its poses are world-to-camera, inverted",
    "transposed": "the rotations of its poses are transposed",
}


def percent(fraction: float) -> str:
    """Return a fraction as a whole percentage."""
    return f"{100 * fraction:.0f} %"


def named(old: Convention, new: Convention) -> str:
    """Return the options that make one convention another, as they are typed."""
    usual = {argument.partition("=")[0]: argument for argument in old.arguments()}
    wanted = {argument.partition("=")[0]: argument for argument in new.arguments()}
    changed = [argument for name, argument in wanted.items() if usual.get(name) != argument]
    dropped = [f"{name}={getattr(Convention(), name)}" for name in usual if name not in wanted]
    return " ".join([*changed, *dropped])


def differences(base: Hypothesis, best: Hypothesis, scene: Scene, convention: Convention) -> str:
    """Return how the files differ from what was read, in one clause each."""
    frame, said, parts = scene.frames[0], scene.convention, []
    if best.poses != base.poses:
        parts.append(POSES[best.poses])
    if best.quaternion != base.quaternion:
        order = " ".join(best.quaternion)
        parts.append(f"its rotations are made of quaternions read in the wrong order (they are {order})")
    if best.axes != base.axes:
        parts.append(_axes(best.axes))
    if best.shift:
        side = "next" if best.shift < 0 else "previous"
        parts.append(
            f"each frame has the pose of the {side} one"
            if abs(best.shift) == 1
            else f"each frame has the pose of the frame {abs(best.shift)} {'after' if best.shift < 0 else 'before'} it"
        )
    if convention.depth_scale != said.depth_scale:
        parts.append(f"a metre of depth is {convention.depth_scale:g} units, not {said.depth_scale:g}")
    if convention.pose_scale != said.pose_scale:
        parts.append(f"its poses have another scale than depth: positions times {convention.pose_scale:g} fit")
    if best.ray != base.ray:
        parts.append("its depth is along the ray of each pixel, not along z" if best.ray else "its depth is along z")
    if best.size != 1.0:
        height, width = (int(side) for side in convention.intrinsics_size.split("x"))
        parts.append(f"its intrinsics belong to images of {width} x {height}")
    if best.focal != 1.0:
        focal = float(frame.K_depth[0, 0])
        parts.append(f"the depth's focal length is {focal * best.focal:.0f} pixels, not {focal:.0f}")
    if best.principal == "swapped":
        parts.append("cx and cy of its intrinsics are exchanged")
    elif best.principal == "middle":
        parts.append("the principal point is not where the intrinsics have it, but in the middle")
    return "; ".join(parts)


def _axes(axes: str) -> str:
    if axes == OPENCV:
        return "its camera looks along +z with y down (OpenCV axes)"
    if axes == OPENGL:
        return "its camera looks along −z with y up (OpenGL axes)"
    if axes == UNITY:
        return "its world is left-handed with y up (Unity axes), or its images are upside down"
    turn = axes_matrix(read_axes(axes))
    if np.linalg.det(turn) > 0 and turn[2, 2] == 1:
        degrees = round(float(np.degrees(np.arctan2(turn[1, 0], turn[0, 0])))) % 360
        return f"its poses are rolled by {degrees}° against the images"
    return f"its camera has other axes: right, down and forward are {axes}"
