"""What the networks see of a person's picture."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sightword.data.image import squash, to_tensor
from sightword.systems.retrieval.data import Augmentation, Cells


def picture(height: int = 48, width: int = 16) -> Image.Image:
    pixels = np.random.default_rng(0).integers(60, 200, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_disturbed_is_the_picture_bent() -> None:
    view = Augmentation((96, 32), pad=0, erase=0)
    image, mirrored = view(picture(), seeded(0))
    assert torch.equal(image, squash(96, 32)(picture(), None))
    assert not mirrored
    assert torch.equal(Augmentation((48, 16), pad=0, erase=0)(picture(), seeded(0))[0], to_tensor(picture()))


def test_half_of_the_images_are_mirrored_and_say_so() -> None:
    straight, view = to_tensor(picture()), Augmentation((48, 16), True, 0, 0)
    found = [view(picture(), seeded(seed)) for seed in range(200)]
    assert all(torch.equal(image, straight.flip(-1) if mirrored else straight) for image, mirrored in found)
    assert 70 < sum(mirrored for _, mirrored in found) < 130
    assert not any(Augmentation((48, 16), False, 0, 0)(picture(), seeded(seed))[1] for seed in range(50))


def test_a_crop_is_the_image_shifted_over_black() -> None:
    straight, seen = to_tensor(picture()), set()
    framed = torch.full((3, 48 + 6, 16 + 6), -1.0)
    framed[:, 3:-3, 3:-3] = straight
    for seed in range(300):
        image, _ = Augmentation((48, 16), pad=3, erase=0)(picture(), seeded(seed))
        assert image.shape == (3, 48, 16)
        places = [(y, x) for y in range(7) for x in range(7) if torch.equal(image, framed[:, y : y + 48, x : x + 16])]
        assert len(places) == 1
        seen |= set(places)
    assert len(seen) > 45  # of 49


def erased(image: Tensor) -> Tensor:
    return (image == 0).all(0)


def test_an_erased_rectangle_is_grey_and_two_to_forty_percent_large() -> None:
    view, shares = Augmentation((96, 32), pad=0, erase=0.5), []
    for seed in range(200):
        hole = erased(view(picture(), seeded(seed))[0])
        if hole.any():
            rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
            box = hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert box.all()
            assert len(rows) * len(columns) == hole.sum()
            shares.append(float(hole.float().mean()))
    assert 70 < len(shares) < 130
    assert 0.015 < min(shares) < 0.06
    assert 0.3 < max(shares) < 0.42


def test_switching_one_disturbance_off_leaves_the_others_as_they_were() -> None:
    both, no_erasing = (Augmentation((48, 16), True, 4, erase) for erase in (1.0, 0.0))
    for seed in range(20):
        image, mirrored = both(picture(), seeded(seed))
        whole, as_well = no_erasing(picture(), seeded(seed))
        assert mirrored == as_well
        assert torch.equal(image[:, ~erased(image)], whole[:, ~erased(image)])


# ------------------------------------------------------------------------------------------------------------- cells


@pytest.mark.parametrize(
    ("patch", "ids", "grid"),
    [
        ((16, 16), (24, 8), (24, 8)),
        ((16, 16), (48, 16), (24, 8)),
        ((8, 8), (24, 8), (24, 8)),
        ((32, 32), (24, 8), (12, 4)),
    ],
)
def test_cells_are_as_large_as_the_larger_of_patch_and_id(
    patch: tuple[int, int], ids: tuple[int, int], grid: tuple[int, int]
) -> None:
    cells = Cells.of((384, 128), patch, ids)
    assert cells.grid == grid
    hidden = torch.stack([cells.draw(0.5, seeded(seed)) for seed in range(3)])
    images = cells.hide(torch.ones(3, 3, 384, 128), hidden)
    assert (images == 0).float().mean() == 0.5
    blocks = images[:, 0].unfold(1, patch[0], patch[0]).unfold(2, patch[1], patch[1]).flatten(3)
    assert ((blocks == 0).all(-1) | (blocks == 1).all(-1)).all()  # no patch is hidden in part
    pixels = (384 // ids[0], 128 // ids[1])
    tiles = images[:, 0].unfold(1, pixels[0], pixels[0]).unfold(2, pixels[1], pixels[1]).flatten(3)
    assert torch.equal((tiles == 0).all(-1).flatten(1), cells.hidden_ids(hidden))
    assert torch.equal((tiles == 0).any(-1).flatten(1), cells.hidden_ids(hidden))


@pytest.mark.parametrize(("share", "hidden"), [(0.5, 4), (0.3, 2), (0.01, 1), (0.99, 7)])
def test_exactly_a_share_is_hidden_and_never_all_or_nothing(share: float, hidden: int) -> None:
    cells = Cells.of((32, 16), (8, 8), (4, 2))
    drawn = [cells.draw(share, seeded(seed)) for seed in range(40)]
    assert {int(cell.sum()) for cell in drawn} == {hidden}
    assert torch.stack(drawn).any(0).all()


@pytest.mark.parametrize(("way", "hidden"), [("band", 16), ("person", 22), ("all", 47)])
def test_a_band_the_person_or_all_but_one_are_hidden(way: str, hidden: int) -> None:
    cells = Cells.of((96, 32), (8, 8), (12, 4))
    drawn = torch.stack([cells.draw(0.5, seeded(seed), way) for seed in range(20)]).unflatten(1, (12, 4))
    assert drawn.sum((1, 2)).tolist() == [hidden] * 20
    if way == "band":  # whole rows that lie together, not always the same
        rows = drawn.all(2)
        assert torch.equal(rows, drawn.any(2))
        assert all(int(row.nonzero()[-1] - row.nonzero()[0]) == 3 for row in rows)
        assert len(set(map(tuple, rows.tolist()))) > 3
    if way == "person":
        assert drawn[:, 1:, 1:3].all()


@pytest.mark.parametrize("way", ["random", "band", "person", "all", "mix"])
def test_of_two_cells_one_is_hidden_whichever_the_way(way: str) -> None:
    assert Cells.of((16, 8), (8, 8), (2, 1)).draw(0.5, seeded(0), way).sum() == 1
    assert Cells.of((8, 16), (8, 8), (1, 2)).draw(0.5, seeded(0), way).sum() == 1


def test_grids_that_do_not_fit_are_refused_with_their_numbers() -> None:
    with pytest.raises(ValueError, match="16×16 ids do not divide an image of 384×100"):
        Cells.of((384, 100), (16, 16), (16, 16))
    with pytest.raises(ValueError, match=r"the larger of a patch \(16×16\) and an id \(24×8\)"):
        Cells.of((384, 128), (16, 16), (16, 16))
    with pytest.raises(ValueError, match="an id does not fit"):
        Cells.of((384, 128), (12, 12), (48, 16))
