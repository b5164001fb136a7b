"""UTD-MHAD's .mat: `d_skel` (20, 3, T) of Kinect v1, in metres.

The joints are stated to begin with head, shoulder_centre, spine and hip_centre, the reverse of the SDK's. Arms and legs
are the same in both, so the higher of joints 0 and 3 decides: it is the head.
"""

import numpy as np

from sightword.errors import SightwordError, printable
from sightword.systems.skeleton.formats.format import Format, Made, Options, Source, Start
from sightword.systems.skeleton.formats.frame import present
from sightword.systems.skeleton.joints import JOINT_SETS, JointSet

VARIABLE = "d_skel"
UPRIGHT = 0.15  # least height of the trunk, as a fraction of the body


def recognises(start: Start) -> bool:
    """Return whether a file is one of MATLAB's. Which variables it has shows when it is read."""
    return start.path.suffix == ".mat" or start.raw.startswith(b"MATLAB")


def read(source: Source, options: Options) -> list[Made]:
    """Return the body of a file, (1, T, 20, 3)."""
    skeleton = _variable(source)
    if skeleton.ndim == 2:  # MATLAB drops the last axis of a single frame
        skeleton = skeleton[..., None]
    if skeleton.shape[:2] != (20, 3) or skeleton.ndim != 3 or skeleton.dtype.kind not in "fiu":
        raise SightwordError(
            f"{source.files[0]}: {VARIABLE} is {skeleton.dtype} {skeleton.shape}, expected (20, 3, frames)"
        )
    notes = ["3-D as a Kinect has it, in metres: x to its left, y up, z away"]
    points = present(skeleton.transpose(2, 0, 1).astype(np.float64), notes).astype(np.float32)
    joints = options.joints or _order(points)
    notes += [f"joints in the order of {joints.name}"] if joints else []
    return [Made(source.name, points[None], None, None, joints, tuple(notes))]


def _order(points: np.ndarray) -> JointSet | None:
    """The set that the trunk shows; None if the body lies, or nobody is there: other recordings tell."""
    first, last = np.median(points[:, [0, 3], 1], axis=0).tolist() if len(points) else (0.0, 0.0)
    size = float(np.ptp(points, axis=1).max(initial=0))
    if abs(first - last) <= UPRIGHT * size:
        return None
    return JOINT_SETS["mhad20" if first > last else "kinect20"]


def _variable(source: Source) -> np.ndarray:
    from scipy.io import loadmat, whosmat

    file = source.files[0]
    try:
        names = [name for name, _, _ in whosmat(file, appendmat=False)]
        if VARIABLE not in names:
            raise SightwordError(
                f"{printable(f'{file} has the variables {names[:8]}')}, and no {VARIABLE}: it is not UTD-MHAD's"
            )
        return np.asarray(loadmat(file, variable_names=[VARIABLE], appendmat=False)[VARIABLE])
    except NotImplementedError:
        raise SightwordError(f"{file} is MATLAB 7.3 (HDF5). Save it in MATLAB by save(…, '-v7')") from None
    except SightwordError:
        raise
    except Exception as error:  # a damaged file fails in any way
        reason = printable(str(error).partition("\n")[0][:120]) or type(error).__name__
        raise SightwordError(f"{file} is not a complete MATLAB file ({reason})") from None


FORMAT = Format("mhad", "UTD-MHAD's .mat of Kinect v1's joints", (".mat",), recognises, read, takes=())
