"""Instance masks of an external segmenter, which reject pixels before features are lifted.

    <masks>/<scene>/<i>.png, or <masks>/<i>.png for one scene    of frame i, one channel of 8 or 16 bits, as colour lies

0 is no instance: such a pixel shows no point. Other numbers are instances. Legend: V frames; H, W pixels of depth.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightword.errors import MissingFileError, SightwordError
from sightword.systems.points.scannet.reader import Scene, turned

ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16B")


def read_masks(folder: str | Path, scene: Scene, size: tuple[int, int]) -> Tensor:
    """Return the masks of a scene's frames at the size of depth, (V, H, W) int64, -1 where a pixel is rejected.

    Raises SightwordError for a mask that is missing, not readable or of several channels.
    """
    root = Path(folder).expanduser()
    place = root / scene.name if (root / scene.name).is_dir() else root
    masks = [_mask(place / f"{frame.index}.png", frame.convention.turn, size) for frame in scene.frames]
    return torch.from_numpy(np.stack(masks))


def _mask(file: Path, turn: str, size: tuple[int, int]) -> np.ndarray:
    if not file.is_file():
        raise MissingFileError(f"{file} does not exist: masks= needs one for each frame, <scene>/<i>.png or <i>.png")
    try:
        with Image.open(file) as image:
            image.load()
            if image.mode not in ONE_CHANNEL:
                raise SightwordError(f"{file} is of mode {image.mode}; expected one channel of instance numbers")
            resized = turned(image, turn).resize(size[::-1], Image.Resampling.NEAREST)
            values = np.asarray(resized).astype(np.int64)
    except (KeyboardInterrupt, SystemExit, MemoryError, SightwordError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever they like
        raise SightwordError(f"{file} is not readable as a mask ({type(error).__name__}). Export it again") from None
    return np.where(values == 0, -1, values)
