"""One NumPy array, .npy: key points of a recording, or of many with the recordings first, as ST-GCN's.

The order of the axes is `axes=`: MTVC unless given. Two coordinates are pixels; three are x, y, z, or x, y and a score
if the size of the images is given.
"""

import re

import numpy as np

from sightword.errors import SightwordError, printable
from sightword.systems.skeleton.formats.format import Format, Made, Options, Source, Start
from sightword.systems.skeleton.formats.frame import FARTHEST


def recognises(start: Start) -> bool:
    """Return whether an array's header states numbers of three axes or more, one of them with 2 or 3 coordinates."""
    found = re.match(
        rb"\x93NUMPY.{4,8}\{'descr': '[<>|=][fiu]\d{1,2}', .{0,40}'shape': \(([\d, ]+)\)", start.raw, re.DOTALL
    )
    sides = [int(side) for side in found[1].split(b",") if side.strip()] if found else []
    return 3 <= len(sides) <= 5 and bool({2, 3} & set(sides))


def read(source: Source, options: Options) -> list[Made]:
    """Return the recordings of an array, with its axes as they are: `Reading.axes` puts them into order."""
    file = source.files[0]
    try:
        array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise SightwordError(f"{file} is not a complete .npy of numbers ({printable(str(error)[:80])})") from None
    if array.dtype.kind not in "fiu" or array.ndim not in (3, 4, 5):
        raise SightwordError(
            f"{file} is {array.dtype} {array.shape}, expected numbers of 3 or 4 axes, or recordings of 4"
        )
    if options.size is None and 3 not in array.shape:
        raise SightwordError(f"{file} has no size of the images. Add size=<height>x<width>")
    if not (known := np.abs(array) < FARTHEST).all():
        array = np.where(known, array, np.nan)  # which readers take for missing, and name
    notes = (
        "x, y and, if there are three, a score, in pixels" if options.size else "3-D, since no size of images is given",
    )
    single = (
        [(source.name, array)] if array.ndim < 5 else [(f"{source.name}-{n:05d}", one) for n, one in enumerate(array)]
    )
    return [Made(name, one, None, options.size, options.joints, notes) for name, one in single]


FORMAT = Format("npy", "one NumPy array, .npy", (".npy",), recognises, read, takes=("size",))
