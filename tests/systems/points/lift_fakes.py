"""Small rooms, a tower that sees colours, and a text tower that says them."""

from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from sightword.miniature import room
from sightword.systems.points.scannet.reader import read_scene
from sightword.towers.base import Encoded, ImageTower
from sightword.towers.preprocess import Preprocess

COLOURS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "white": (1, 1, 1), "black": (-1, -1, -1)}


class ColourTower(ImageTower):
    """A patch's token is its mean colour, -1 to 1, times `gain`; the frame's the mean of these."""

    def __init__(self, size=(24, 32), patch=4, gain=1.0):
        super().__init__()
        self.preprocess = Preprocess(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.patch, self.embed_dim, self.width, self.name = (patch, patch), 4, 4, "colours"
        self.architecture = {"patch": patch}
        self.gain = nn.Parameter(torch.tensor(gain))
        self.seen = 0

    def token_types(self, images, names):
        self.seen += len(images)
        cells = F.avg_pool2d(images, self.patch) * self.gain
        tokens = F.pad(cells.flatten(2).transpose(1, 2), (0, 1), value=0.1)
        return {name: Encoded(tokens, tokens.mean(1)) for name in names}


class Source:
    """Opens the same tower each time, so that one can ask it how much it was asked."""

    def __init__(self, tower=None):
        self.tower = tower or ColourTower()

    def open(self):
        return self.tower


class ColourText:
    """Says the colours; any other word is nothing in particular."""

    name = "colours"

    def check_words(self, texts):
        return ()

    def unknown_words(self, texts):
        return () if any(word in COLOURS for word in texts.split()) else (texts,)

    def encode(self, texts):
        found = [next((COLOURS[word] for word in text.split() if word in COLOURS), (0, 0, 0)) for text in texts]
        return SimpleNamespace(pooled=F.pad(torch.tensor(found).float(), (0, 1), value=0.1))


def write_rooms(root: Path, seeds=(0, 1), frames=3):
    """Rooms of thumbnails; names of the scenes."""
    for seed in seeds:
        room.write_scene(root, seed, frames, color=(48, 64), depth=(36, 48), voxel=0.12)
    return [room.name_of(seed) for seed in seeds]


def scenes_of(root, names, frames=None):
    return [read_scene(root, name, frames) for name in names]
