"""External 2-D instance masks of frames: which pixels show an object, and which of one frame are the same one.

    masks/<scene>/<i>.png     (h, w) whole numbers: 0 shows none, others an instance; of one scene also masks/<i>.png
    masks/<scene>/<i>.npy     the same as an array

A mask is of the colour image, and lies as it does, at any size: it is brought to the depth's grid by the nearest pixel.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightword.errors import MissingFileError, SightwordError
from sightword.systems.points.scannet.reader import Scene, turned

SUFFIXES = (".png", ".npy")
ASPECT = 0.04  # by which width : height may differ from depth's: 1296 x 968 beside 640 x 480
LARGE = 2**27  # bytes of a mask, at most


def read_masks(folder: str | Path, scene: Scene, size: Sequence[int]) -> Tensor:
    """Return masks of a scene's frames in the depth's size (H, W), (V, H, W) int64; −1 where no instance is shown.

    A frame without a file raises MissingFileError: what has no mask is not the same as what shows nothing.
    """
    found = [(_find(folder, scene, frame.index), frame.convention.turn) for frame in scene.frames]
    return torch.stack([_read(file, size, turn) for file, turn in found])


def mask_files(folder: str | Path, scene: Scene) -> list[Path]:
    """Return the file of each frame's mask. Raises MissingFileError for a frame without one."""
    return [_find(folder, scene, frame.index) for frame in scene.frames]


def _find(folder: str | Path, scene: Scene, index: int) -> Path:
    root = Path(folder).expanduser()
    places = [place / f"{index}{suffix}" for place in (root / scene.name, root) for suffix in SUFFIXES]
    if found := next((place for place in places if place.is_file()), None):
        return found
    raise MissingFileError(
        f"masks={folder} has no mask of frame {index} of {scene.name}: {places[0]} does not exist. Write one for each "
        "frame, 0 where nothing is shown, or leave out masks="
    )


def _read(file: Path, size: Sequence[int], turn: str) -> Tensor:
    if file.stat().st_size > LARGE:
        raise SightwordError(f"{file} has more than {LARGE >> 20} MiB: it is not a mask of a frame")
    try:
        if file.suffix == ".npy":
            values = np.load(file, allow_pickle=False)
        else:
            with Image.open(file) as image:
                values = np.asarray(image)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise SightwordError(f"{file} is not readable as a mask: {error}") from None
    if values.ndim != 2 or not values.size or values.dtype.kind not in "iub":
        raise SightwordError(
            f"{file} holds {values.dtype} {values.shape}. Expected one channel of whole numbers, 0 for none"
        )
    values = np.asarray(turned(Image.fromarray(values.astype(np.int32)), turn))
    if abs(values.shape[1] / values.shape[0] * size[0] / size[1] - 1) > ASPECT:
        raise SightwordError(
            f"{file} has {values.shape[1]} x {values.shape[0]} pixels, of another aspect ratio than depth's "
            f"{size[1]} x {size[0]}: it shows another part of the scene. Write masks that lie as depth does"
        )
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(int)
        for new, old in zip(size, values.shape, strict=True)
    )
    ids = torch.from_numpy(values[np.ix_(rows, columns)].astype(np.int64))
    return torch.where(ids > 0, ids, -1)
