"""A check names what is wrong, file by file."""

import io
import os
import random
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from sightword.cli.main import main
from sightword.data import image as images
from sightword.data.check import check_images
from sightword.data.finding import CheckReport, Finding
from sightword.data.image import list_images, read_image
from sightword.errors import SightwordError


def kinds(report: CheckReport) -> dict[str, Finding]:
    return {finding.kind: finding for finding in report.findings}


def noise(size: tuple[int, int] = (64, 48), seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def written(picture: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format_, **options)
    return file.getvalue()


def test_a_check_names_every_broken_and_every_tiny_file(tmp_path: Path) -> None:
    for name, size in (("good.png", (16, 40)), ("tiny.png", (15, 40))):
        Image.new("RGB", size).save(tmp_path / name)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "broken.jpg").write_bytes(b"")
    report = check_images(tmp_path)
    assert report.count == 3
    broken, tiny = report.errors
    assert "broken.jpg is not readable as an image (empty file)" in str(broken)
    assert broken.files == (str(tmp_path / "b" / "broken.jpg"),)
    assert "tiny.png is 15 x 40 pixels" in str(tiny)
    assert str(report).splitlines()[-1] == "3 images, 2 with a problem"


def test_a_whole_folder_has_no_problem_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contains no image"):
        check_images(tmp_path)
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    assert str(check_images(tmp_path)) == "1 images, all readable"


def test_a_kind_is_one_line_with_its_count_and_first_and_a_file_lists_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    with pytest.raises(SystemExit, match="1"):
        main(["check", "dataset=images", f"root={tmp_path}", f"out={tmp_path / 'all.txt'}"])
    first, verdict, where = capsys.readouterr().out.splitlines()
    assert first.startswith(f"30 unreadable images, the first: {tmp_path / '00.png'} is not readable")
    assert verdict == "30 images, 30 with a problem"
    assert where == f"every finding is listed in {tmp_path / 'all.txt'}"
    assert len((tmp_path / "all.txt").read_text().splitlines()) == 30


def test_images_in_other_formats_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    for name in ("b.jxl", "c.CR2", "d.cr2", "e.svg", "notes.txt", ".hidden.psd"):
        (tmp_path / name).touch()
    assert main(["check", "dataset=images", f"root={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert f"4 images are passed over (2 .cr2, 1 .jxl, 1 .svg), {tmp_path / 'b.jxl'} the first: convert them" in said
    (tmp_path / "a.png").unlink()
    with pytest.raises(
        SightwordError, match=r"contains no image .* it has 2 \.cr2, 1 \.jxl, 1 \.svg, which are not read"
    ):
        list_images(tmp_path)


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".avif", ".ppm", ".pgm", ".pnm", ".jp2", ".tga", ".qoi"])
def test_what_pillow_reads_is_read(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    if suffix.lower() not in images.SUFFIXES:
        pytest.skip(f"this Pillow reads no {suffix}")
    noise().convert("L" if suffix == ".pgm" else "RGB").save(file)
    assert list_images(tmp_path) == [file]
    assert read_image(file).size == (64, 48)
    assert check_images(tmp_path).findings == ()


def test_heic_is_read_where_the_user_installed_its_reader_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert ".heic" not in images._readable_suffixes()
    reader = ModuleType("pillow_heif")
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    reader.register_heif_opener = lambda: Image.EXTENSION.update({".heic": "PNG"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", reader)
    assert ".heic" in images._readable_suffixes()


def test_copies_and_links_are_counted_and_only_files_of_equal_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        noise(seed=number).save(tmp_path / f"{number}.png")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "copy.png").write_bytes((tmp_path / "1.png").read_bytes())
    os.symlink(tmp_path / "2.png", tmp_path / "link.png")
    noise((20, 20)).save(tmp_path / "small.png")
    read: list[str] = []
    monkeypatch.setattr("sightword.data.content._bytes", lambda path: read.append(path.name) or path.read_bytes())
    found = kinds(check_images(tmp_path))
    assert "1 of 6 images have the bytes of another, " in found["copies"].message
    assert "1 of 6 images are another name of the same file, " in found["links"].message
    assert "small.png" not in read
    assert check_images(tmp_path).errors == []


def test_turned_photos_are_a_note(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise().save(tmp_path / "a.jpg", exif=exif)
    noise(seed=1).save(tmp_path / "b.jpg")
    (note,) = check_images(tmp_path).findings
    assert (note.level, note.count) == ("note", 1)
    assert "1 of 2 images are turned by their EXIF orientation and read upright" in str(note)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_check_finds_in_a_jpeg_what_decoding_it_in_full_finds(tmp_path: Path, progressive: bool) -> None:
    rng = random.Random(0)
    data = written(noise((256, 256)), "JPEG", progressive=progressive, quality=90)
    half = len(data) // 2
    damaged = [data, data[:half], data[:-2], data[:-1], data + b"abc", data[:half] + bytes(len(data) - half)]
    damaged += [data[: half + n] + rng.randbytes(300) + data[half + n + 300 :] for n in range(0, 2000, 100)]
    bad = set()
    for number, content in enumerate(damaged):
        file = tmp_path / f"{number:02}.jpg"
        file.write_bytes(content)
        try:
            read_image(file)
        except SightwordError:
            bad.add(str(file))
    assert {file for finding in check_images(tmp_path).errors for file in finding.files} == bad
    assert 2 < len(bad) < len(damaged)
