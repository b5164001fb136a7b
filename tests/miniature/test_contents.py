import hashlib
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from sightword.cli.main import main
from sightword.miniature import contents, person, room
from sightword.towers.factory import image_tower, text_tower
from sightword.towers.vq.image import VQImage


@pytest.fixture(scope="module", autouse=True)
def few_people():
    """Write few people and rooms of few pixels: what they show is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(person, "write_cuhk", partial(person.write_cuhk, sizes=person.Sizes(8, 4, 4)))
        small = {"frames": 2, "color": (36, 48), "depth": (24, 32), "voxel": 0.3}
        patch.setattr(room, "write_rooms", partial(room.write_rooms, **small))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, few_people, small_clip):
    """What `sightword mini` writes."""
    out = tmp_path_factory.mktemp("mini")
    contents.write_all(out)
    return out


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_every_tower_opens_by_its_folder_alone_and_reads_the_scenes(folder):
    images = [Image.open(file) for file in sorted((folder / "scenes" / "images").iterdir())[:2]]
    for name in ("clip", "siglip"):
        tower = image_tower(str(folder / "towers" / name))
        assert tower.encode(images).tokens.shape[1] == tower.grid()[0] * tower.grid()[1]
    for name in ("clip", "siglip", "t5", "bert"):
        tower = text_tower(str(folder / "towers" / name))
        one, two = tower.encode(["a photo of a dog on a beach", "a photo of a bed"]).pooled
        assert not torch.equal(one, two)
    tokenizer = VQImage.from_pretrained(folder / "towers" / "vq")
    assert tokenizer.encode(torch.zeros(1, 3, 64, 64)).shape[1:] == (64 // tokenizer.factor,) * 2


def test_the_command_says_what_is_where_and_writes_the_same_bytes_again(folder, capsys):
    before = _digests(folder)
    assert main(["mini", f"out={folder}"]) == 0
    assert _digests(folder) == before
    said = capsys.readouterr().out
    for part in contents.PARTS:
        assert str(folder / part.folder) in said
        assert part.what in said
