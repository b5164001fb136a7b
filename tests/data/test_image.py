"""Whatever a file holds, it becomes the same RGB picture every time, or one line that says why not."""

import io
import os
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sightword.data import image
from sightword.data.image import (
    Draw,
    ImageBatch,
    ImageFolder,
    ImageItem,
    center_crop,
    collate_images,
    list_images,
    open_images,
    random_crop,
    read_image,
    squash,
    to_image,
    to_tensor,
)
from sightword.data.loader import Shuffled
from sightword.errors import SightwordError
from sightword.towers.preprocess import Preprocess

GRADIENT = np.linspace(0, 255, 12 * 16).reshape(12, 16).round().astype(np.uint8)  # (H, W)


def write(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def pixel(path: Path, x: int = 0, y: int = 0) -> tuple[int, ...]:
    image = read_image(path)
    assert image.mode == "RGB"
    return image.getpixel((x, y))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine noise pictures of different sizes."""
    for number in range(9):
        noise = np.random.default_rng(number).integers(0, 256, (20 + number, 30 - number, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    return tmp_path


# ---------------------------------------------------------------------------------------------------------- listing


def test_images_are_listed_in_the_order_of_their_paths_and_nothing_hidden_is(tmp_path: Path) -> None:
    names = ["b/2.JPG", "b/10.jpg", "a.png", "c/d/e.TiFF", "b.webp", ".hidden/x.png", "b/.y.png", "notes.txt", "b/z"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listed = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert listed == ["a.png", "b.webp", "b/10.jpg", "b/2.JPG", "c/d/e.TiFF"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_that_is_called_an_image_is_not_listed(tmp_path: Path) -> None:
    write(tmp_path / "a.png", Image.new("RGB", (2, 2)))
    os.mkfifo(tmp_path / "b.png")
    assert [path.name for path in list_images(tmp_path)] == ["a.png"]


def test_a_linked_folder_is_listed_once_and_a_link_to_above_does_not_loop(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "1.png").touch()
    (root / "link").symlink_to(outside)
    (outside / "back").symlink_to(root)
    assert [path.relative_to(root).as_posix() for path in list_images(root)] == ["link/1.png"]


@pytest.mark.parametrize(("name", "says"), [("gone", "does not exist"), ("file", "is a file"), ("empty", "no image")])
def test_a_root_without_images_is_refused_in_one_line(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=says) as error:
        list_images(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)
    assert name != "empty" or ".jpeg" in str(error.value)


# ---------------------------------------------------------------------------------------------------------- reading


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    values = (GRADIENT.astype(np.uint16) * 257).astype(np.uint16)
    png = write(tmp_path / "a.png", Image.fromarray(values))
    tif = write(tmp_path / "a.tif", Image.fromarray(values))
    for path in (png, tif):
        assert Image.open(path).mode.startswith("I;16")
        assert np.array_equal(np.asarray(read_image(path))[..., 0], GRADIENT)
    dark = write(tmp_path / "dark.png", Image.fromarray(np.full((2, 2), 255, np.uint16)))
    assert pixel(dark) == (1, 1, 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 128, 255]], np.int32), [0, 128, 255]),  # already 8 bit
        (np.array([[0, 257 * 9, 65535]], np.int32), [0, 9, 255]),  # 16 bit
        (np.array([[0, 0.2, 1]], np.float32), [0, 51, 255]),  # a unit range
        (np.array([[0, 77, 200]], np.float32), [0, 77, 200]),  # 8 bit values
        (np.array([[0, np.nan, 1]], np.float32), [0, 0, 255]),
    ],
)
def test_wide_grey_is_scaled_by_the_documented_rule(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    path = write(tmp_path / "a.tif", Image.fromarray(values))
    assert Image.open(path).mode in ("I", "F")
    assert [pixel(path, x) for x in range(3)] == [(v, v, v) for v in expected]


@pytest.mark.parametrize("values", [np.array([[-100, 0, 100]], np.int32), np.array([[0, 1e6]], np.float32)])
def test_grey_without_a_white_level_is_refused_not_scaled_by_its_own_range(tmp_path: Path, values: np.ndarray) -> None:
    path = write(tmp_path / "a.tif", Image.fromarray(values))
    with pytest.raises(SightwordError, match="has no white level; convert it to 8 or 16 bit"):
        read_image(path)


def test_palette_colours_are_looked_up_and_a_transparent_one_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    opaque = write(tmp_path / "a.png", image)
    clear = write(tmp_path / "b.png", image, transparency=1)
    assert (pixel(opaque, 0), pixel(opaque, 1)) == ((10, 20, 30), (200, 100, 50))
    assert (pixel(clear, 0), pixel(clear, 1)) == ((10, 20, 30), (255, 255, 255))


def test_alpha_is_laid_on_white(tmp_path: Path) -> None:
    colour = write(tmp_path / "a.png", Image.new("RGBA", (2, 2), (255, 0, 0, 51)))
    grey = write(tmp_path / "b.png", Image.new("LA", (2, 2), (0, 0)))
    key = write(tmp_path / "c.png", Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3))
    assert pixel(colour) == (255, 204, 204)
    assert pixel(grey) == pixel(key) == (255, 255, 255)


def test_cmyk_bilevel_and_grey_become_rgb(tmp_path: Path) -> None:
    cyan = write(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (255, 0, 0, 0)), quality=100)
    one = write(tmp_path / "b.png", Image.new("1", (2, 2), 1))
    grey = write(tmp_path / "c.png", Image.new("L", (2, 2), 77))
    assert pixel(cyan) == pytest.approx((0, 255, 255), abs=3)
    assert (pixel(one), pixel(grey)) == ((255, 255, 255), (77, 77, 77))


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.webp"):
        options = {"lossless": True} if name.endswith("webp") else {}
        path = write(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **options)
        assert Image.open(path).n_frames == 2
        assert pixel(path) == (255, 0, 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_orientation_is_applied_and_a_damaged_exif_block_is_not_an_error(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees clockwise to be upright
    turned = read_image(write(tmp_path / "a.png", image, exif=exif))
    assert turned.size == (2, 4)
    assert turned.getpixel((1, 0)) == (255, 255, 255)
    damaged = write(tmp_path / "b.jpg", image, exif=b"Exif\x00\x00II*\x00\xff\xff\x00\x00\x01")
    assert read_image(damaged).size == (4, 2)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def png_of(width: int, height: int) -> bytes:
    """The head of a PNG that claims a size, with no pixels behind it."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (jpeg()[:-500], "truncated"),
        (b"<html>404 not found</html>", "damaged, or not an image"),
        (png_of(60000, 60000) + struct.pack(">I", 4) + b"IDAT", "decompression bomb"),
        (None, "no such file"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_reason_in_one_line(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=reason) as error:
        read_image(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_every_truncation_is_a_value_error_or_a_picture(tmp_path: Path) -> None:
    """Decoders raise what they like (struct.error, SyntaxError, …): none of it may come through."""
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    refused = read = tried = 0
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp"):
        whole = write(tmp_path / f"whole.{suffix}", picture).read_bytes()
        for end in range(0, len(whole) - 1, max(1, len(whole) // 40)):
            broken = tmp_path / f"broken.{suffix}"
            broken.write_bytes(whole[:end])
            tried += 1
            try:
                read_image(broken)
            except ValueError as error:
                refused += "\n" not in str(error)
            else:
                read += 1
    assert refused + read == tried > 200
    assert refused > 0.9 * tried


# ---------------------------------------------------------------------------------------------- tensors, transforms


def test_every_level_survives_the_way_to_a_tensor_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([levels, levels.T, 255 - levels], -1))
    tensor = to_tensor(image)
    assert (tensor.shape, tensor.dtype) == ((3, 16, 16), torch.float32)
    assert (tensor.min().item(), tensor.max().item()) == (-1.0, 1.0)
    assert np.array_equal(np.asarray(to_image(tensor)), np.asarray(image))


def test_to_image_rounds_and_clamps() -> None:
    values = torch.tensor([-3.0, 3.0, (100.6 / 127.5) - 1, (100.4 / 127.5) - 1]).expand(3, 1, 4)
    assert [to_image(values).getpixel((x, 0))[0] for x in range(4)] == [0, 255, 101, 100]
    with pytest.raises(ValueError, match=r"\(1, 4, 4\)"):
        to_image(torch.zeros(1, 4, 4))


def test_center_crop_is_the_middle_square() -> None:
    array = np.zeros((8, 24, 3), np.uint8)
    array[:, 8:16] = 255
    assert torch.equal(center_crop(8)(Image.fromarray(array), None), torch.ones(3, 8, 8))


def test_squash_bends_every_pixel_into_the_size_as_a_tower_that_squashes_does() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 20, 3), dtype=np.uint8))
    assert torch.equal(squash(60, 20)(image, None), to_tensor(image))
    bent = squash(24, 16)(image, None)
    assert bent.shape == (3, 24, 16)
    half = (0.5, 0.5, 0.5)
    assert torch.allclose(bent, Preprocess((24, 16), half, half, "squash")(image), atol=1e-6)
    with pytest.raises(ValueError, match="size is 0"):
        squash(24, 0)


def test_center_crop_matches_resizing_the_whole_and_cutting_the_middle() -> None:
    y, x = np.mgrid[:90, :150]
    picture = np.stack([127 + 120 * np.sin(x / 9 + c) * np.cos(y / 7) for c in range(3)], -1).astype(np.uint8)
    image = Image.fromarray(picture)
    whole = image.resize((50, 30), Image.Resampling.BICUBIC).crop((10, 0, 40, 30))
    difference = (center_crop(30)(image, None) - to_tensor(whole)).abs().max() * 127.5
    assert difference <= 3


@pytest.mark.parametrize("transform", [random_crop(32), random_crop(32, scale=None), center_crop(32)])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (33, 31), (32, 32), (7, 200)])
def test_every_shape_becomes_a_square_of_the_size(transform: partial[torch.Tensor], size: tuple[int, int]) -> None:
    out = transform(Image.new("RGB", size, (255, 0, 0)), torch.Generator().manual_seed(0))
    assert out.shape == (3, 32, 32)
    assert torch.equal(out[:, 0, 0], torch.tensor([1.0, -1.0, -1.0]))


def test_random_crop_enlarges_nothing_and_keeps_the_promised_share() -> None:
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
    image = Image.fromarray(np.ascontiguousarray(ramp))
    for size, least, most in ((20, 100, 200), (150, 150, 200)):
        crop = random_crop(size, scale=(0.5, 1.0), flip=False)
        spans = []
        for seed in range(60):
            row = crop(image, torch.Generator().manual_seed(seed))[0, 0]
            spans.append(((row[-1] - row[0]) * 127.5 * size / (size - 1)).item())
        assert least - 4 <= min(spans) < least + 25
        assert most - 25 < max(spans) <= most + 4


def test_random_crop_without_scale_moves_pixels_unchanged_and_flips_half() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    whole = to_tensor(image)
    flipped, places = 0, set()
    for seed in range(200):
        out = random_crop(38, scale=None)(image, torch.Generator().manual_seed(seed))
        windows = {(y, x): whole[:, y : y + 38, x : x + 38] for y in range(3) for x in range(13)}
        plain = [place for place, window in windows.items() if torch.equal(window, out)]
        mirrored = [place for place, window in windows.items() if torch.equal(window.flip(-1), out)]
        assert len(plain + mirrored) == 1
        flipped += len(mirrored)
        places.add((plain + mirrored)[0])
    assert 70 < flipped < 130
    assert {y for y, _ in places} == {0, 1, 2}
    assert {x for _, x in places} == set(range(13))


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 8, "scale": (0.9, 0.5)}, {"size": 8, "scale": (0, 1)}])
def test_a_crop_that_cannot_be_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        random_crop(**wrong)
    with pytest.raises(TypeError, match="generator"):
        random_crop(8)(Image.new("RGB", (9, 9)), None)


# ---------------------------------------------------------------------------------------------------------- dataset


def items(folder: ImageFolder, epochs: int, workers: int) -> list[ImageBatch]:
    sampler = Shuffled(len(folder), 4, seed=5)
    batches = [batch for epoch in range(epochs) for batch in sampler.epoch(epoch)]
    loader = DataLoader(folder, batch_sampler=batches, num_workers=workers, collate_fn=collate_images)
    return list(loader)


def test_a_batch_is_the_same_whoever_loads_it_and_whether_it_was_kept(folder: Path) -> None:
    paths = list_images(folder)
    alone = items(ImageFolder(paths, random_crop(16), seed=3, cache_mb=0), 2, workers=0)
    for workers, cache in ((0, 64), (2, 64)):
        other = items(ImageFolder(paths, random_crop(16), seed=3, cache_mb=cache), 2, workers)
        assert [batch.paths for batch in other] == [batch.paths for batch in alone]
        assert all(torch.equal(a.images, b.images) for a, b in zip(alone, other, strict=True))


def test_an_item_depends_on_seed_and_epoch_and_on_no_global_generator(folder: Path) -> None:
    data = ImageFolder(list_images(folder), random_crop(16), seed=3)
    before = torch.get_rng_state()
    item = data[Draw(4, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert torch.equal(data[Draw(4, 2)].image, item.image)
    assert not torch.equal(data[Draw(5, 2)].image, item.image)
    assert not torch.equal(ImageFolder(data.paths, random_crop(16), seed=4)[Draw(4, 2)].image, item.image)
    assert torch.equal(data[2].image, data[Draw(0, 2)].image)


def test_pictures_are_kept_up_to_the_limit_and_then_no_more(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.bmp", Image.new("RGB", (500, 500), (n, n, n))) for n in range(3)]
    data = ImageFolder(paths, center_crop(8), cache_mb=1)  # 0.72 MiB each
    before = [data[n].image for n in range(3)]
    for path in paths[1:]:
        path.unlink()
    paths[0].unlink()
    assert torch.equal(data[0].image, before[0])
    with pytest.raises(ValueError, match="no such file"):
        data[1]


def test_a_picture_listed_twice_is_kept_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bmp", Image.new("RGB", (500, 500)))
    data = ImageFolder([path] * 2, random_crop(8), cache_mb=1)
    data[0]
    path.unlink()
    assert data[1].image.shape == (3, 8, 8)


def test_skipped_files_are_counted_and_raised_ones_named(folder: Path) -> None:
    (folder / "3.png").write_bytes(b"")
    paths = list_images(folder)
    skipping = items(ImageFolder(paths, center_crop(8), on_error="skip"), 1, workers=0)
    assert sorted(batch.skipped for batch in skipping) == [0, 1]
    assert all(len(batch.paths) == len(batch.images) == 4 - batch.skipped for batch in skipping)
    with pytest.raises(ValueError, match=r"3\.png is not readable as an image \(empty file\)"):
        ImageFolder(paths, center_crop(8))[3]
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        ImageFolder(paths, center_crop(8), on_error="ignore")


def test_a_replaced_file_is_the_next_readable_one_and_counted(folder: Path) -> None:
    for name in ("2.png", "3.png", "4.png"):
        (folder / name).write_bytes(b"")
    paths = list_images(folder)
    names = [path.name for path in paths]
    data = ImageFolder(paths, random_crop(16), seed=3, on_error="replace")
    found = [data[n] for n in range(len(paths))]
    broken = [names.index(name) for name in ("2.png", "3.png", "4.png")]
    readable = [n for n in range(len(paths)) if n not in broken]
    following = [min((n for n in readable if n > place), default=readable[0]) for place in broken]
    assert [Path(found[place].path).name for place in broken] == [names[n] for n in following]
    assert [n for n, item in enumerate(found) if item.replaced] == sorted(broken)
    assert all(torch.equal(data[n].image, item.image) for n, item in enumerate(found))
    assert not torch.equal(found[broken[-1]].image, found[following[-1]].image)  # another crop
    batch = collate_images(found)
    assert (len(batch.images), batch.skipped) == (len(paths), 3)


def test_replacing_goes_round_and_ends_where_nothing_is_readable(folder: Path) -> None:
    *most, last = list_images(folder)
    last.write_bytes(b"")
    data = ImageFolder([*most, last] * 2, center_crop(8), on_error="replace", cache_mb=0)
    assert data[2 * len(most) + 1].path == str(most[0])
    for path in most:
        path.write_bytes(b"")
    with pytest.raises(
        ValueError, match=rf"^none of the {len(most) + 1} images is readable: .sightword check. says why$"
    ):
        data[0]


def test_a_batch_of_nothing_is_empty_and_one_of_two_sizes_refused() -> None:
    batch = collate_images([None, None])
    assert (batch.images.shape, batch.paths, batch.skipped) == ((0, 3, 0, 0), [], 2)
    with pytest.raises(ValueError, match="differ in size"):
        collate_images([ImageItem(torch.zeros(3, 4, 4), "a"), ImageItem(torch.zeros(3, 4, 5), "b")])


def test_the_limit_of_pixels_is_told_with_the_switch_that_lifts_it(tmp_path, monkeypatch):
    Image.new("RGB", (400, 300), "red").save(tmp_path / "scan.png")
    for name, value in ((image.PIXELS, "119998"), (image.PIXELS, "120000"), (image.PIXELS, "2e8")):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
        monkeypatch.setenv(name, value)
        if value == "2e8":
            with pytest.raises(SightwordError, match="SIGHTWORD_MAX_PIXELS='2e8' is not a number of pixels"):
                image._set_limit()
            continue
        image._set_limit()
        if value == "120000":
            assert read_image(tmp_path / "scan.png").size == (400, 300)
            continue
        with pytest.raises(
            SightwordError,
            match="has 120,000 pixels, at most 119,998 are read.*set SIGHTWORD_MAX_PIXELS=120000 in the environment",
        ):
            read_image(tmp_path / "scan.png")


@pytest.mark.parametrize("given", [None, 3, [None], [{}]])
def test_what_is_no_image_is_named_as_none_is_of_a_file_that_opencv_cannot_read(given: object) -> None:
    kind = type(given[0] if isinstance(given, list) else given).__name__.replace("NoneType", "None")
    with pytest.raises(SightwordError, match=f"an image is a file, a PIL image, an array or a tensor, got {kind}"):
        open_images(given)  # type: ignore[arg-type]
