"""A check names what is wrong, file by file."""

from pathlib import Path

import pytest
from PIL import Image

from sightword.data.check import check_images


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
