"""Key points as pose tools give them, plain arrays, as annotations. What does not look right is refused.

Legend: M persons; T frames; V joints.
"""

import numpy as np
from torch import Tensor

from sightword.errors import SightwordError
from sightword.systems.skeleton.joints import JOINT_SETS, JointSet
from sightword.systems.skeleton.sequence import UNKNOWN, Annotation

SHAPES = "(persons, frames, joints, 2) or (frames, joints, 2), and 3 instead of 2 with a score behind x and y"
HIGHEST = 1.5  # score; heatmaps of some tools exceed 1 a little, depths and percentages by far
BEGIN_AS_COCO = (26, 133, 136)  # joints of Halpe and COCO-WholeBody, whose first 17 are COCO's


def annotation_of(
    keypoints: np.ndarray | Tensor, size: tuple[int, int] | None, joints: JointSet, name: str
) -> Annotation:
    """Return key points as an annotation without a label.

    keypoints: (M, T, V, 2) or (T, V, 2), x and y in pixels; or with 3 in the place of 2, the third being the score of
    the joint in [0, 1]. Without scores a joint at (0, 0) is not there. size: height and width of the images, in pixels.
    joints: those of the model. Raises SightwordError for arrays of another form, in another unit or with NaN.
    """
    array = keypoints.detach().cpu().numpy() if isinstance(keypoints, Tensor) else keypoints
    if size is None:
        raise SightwordError(
            "key points as an array do not tell the size of their images. Pass size=(height, width) in pixels"
        )
    if len(size) != 2 or not all(2 <= side < 2**20 for side in size):
        raise SightwordError(f"size={size} is not a height and width in pixels. Pass, for example, size=(1080, 1920)")
    if array.dtype.kind not in "fiu":
        raise SightwordError(f"key points are numbers, got an array of {array.dtype}. Pass {SHAPES}")
    _check_shape(array.shape, joints)
    array = array[None] if array.ndim == 3 else array
    _check_places(array[..., :2], (int(size[0]), int(size[1])))
    _check_scores(array)
    return Annotation(name, UNKNOWN, array, None, (int(size[0]), int(size[1])), None)


def _check_shape(shape: tuple[int, ...], joints: JointSet) -> None:
    """Raise SightwordError for axes in another order, too many or too few, and for another set of joints."""
    own = len(joints.joints)
    if len(shape) not in (3, 4) or shape[-1] not in (2, 3) or 0 in shape:
        several = " A batch is a list of such arrays." if len(shape) == 5 else ""
        raise SightwordError(f"key points of shape {shape} are not understood. Pass {SHAPES}.{several}".rstrip("."))
    if shape[-2] != own:
        raise SightwordError(f"key points of shape {shape} have {shape[-2]} joints, {_other_joints(shape, joints)}")
    if len(shape) == 4 and shape[0] > shape[1]:
        raise SightwordError(
            f"key points of shape {shape} have {shape[0]} persons and {shape[1]} frames. Pass persons first: "
            "keypoints.swapaxes(0, 1)"
        )


def _other_joints(shape: tuple[int, ...], joints: JointSet) -> str:
    """Return what the model has instead of these joints, and what to do."""
    own, found = len(joints.joints), shape[-2]
    told = f"and the model was trained on {own}, those of {joints.name}"
    if own in shape[:-2]:
        return f"{told}. Axis {shape.index(own)} has as many: pass {SHAPES}"
    if joints == JOINT_SETS["coco17"] and found in BEGIN_AS_COCO:
        return f"{told}. The first 17 are COCO's: pass keypoints[..., :17, :]"
    sets = [name for name, known in JOINT_SETS.items() if len(known.joints) == found]
    as_in = f"They may be {' or '.join(sets)}. " if sets else ""
    return f"{told}. {as_in}Pass the joints {', '.join(joints.joints[:3])}, … in this order"


def _check_places(points: np.ndarray, size: tuple[int, int]) -> None:
    """Raise SightwordError for points (M, T, V, 2) that cannot be x and y in pixels of images of `size`."""
    if not (finite := np.isfinite(points).all(-1)).all():
        raise SightwordError(
            f"{(~finite).sum()} of {finite.size} key points are NaN or infinite. Set x, y and score of missing joints "
            "to 0"
        )
    if not points.any():
        raise SightwordError("all key points are 0: there is no joint. Pass x and y in pixels")
    if np.abs(points).max() <= 1:
        raise SightwordError(
            "the coordinates of the key points are within [-1, 1]: they look normalised. Pass pixels, x times width "
            "and y times height"
        )
    there = points[points.any(-1)]  # (n, 2)
    outside = ((there < 0) | (there > (size[1], size[0]))).any(-1).mean()
    if outside > 0.5:
        raise SightwordError(
            f"{outside:.0%} of the key points are outside of images of {size[0]}×{size[1]} pixels (height×width), x "
            f"reaches {there[:, 0].max():.4g} and y {there[:, 1].max():.4g}. Pass size=(height, width)"
        )


def _check_scores(array: np.ndarray) -> None:
    """Raise SightwordError for a third channel (M, T, V, 3) that is no score, and for channels on the first axis."""
    if array.shape[-1] == 3:
        low, high = float(array[..., 2].min()), float(array[..., 2].max())
        if not 0 <= low <= high <= HIGHEST:
            raise SightwordError(
                f"the third channel of the key points is from {low:.4g} to {high:.4g}, expected scores in [0, 1]. If "
                "it is a depth, pass keypoints[..., :2]; if scores are in percent, divide them by 100"
            )
    elif len(array) == 3 and array[:2].any() and np.abs(array[2]).max() <= 1:
        raise SightwordError(
            f"of 3 persons in key points of shape {array.shape}, the last has coordinates within [0, 1]: are the axes "
            "x y score, frames, joints, persons? Pass keypoints.transpose(3, 1, 2, 0)"
        )
