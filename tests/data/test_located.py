"""The folder of the images that a file names, where nobody says it."""

import shutil

from sightword.data.located import locate


def test_absolute_paths_are_below_the_folder_that_they_share(photos, tmp_path):
    for place in ("a", "b/c"):
        (tmp_path / "elsewhere" / place).mkdir(parents=True)
        shutil.copy(photos / "0.png", tmp_path / "elsewhere" / place)
    (tmp_path / "own").mkdir()
    paths = [str(tmp_path / "elsewhere" / name) for name in ("a/0.png", "b/c/0.png")]
    found = locate(tmp_path / "own" / "labels.csv", paths)
    assert found.folder == tmp_path / "elsewhere"
    assert [found.name(path) for path in paths] == ["a/0.png", "b/c/0.png"]


def test_absolute_paths_of_another_machine_are_found_by_their_last_parts(photos, tmp_path):
    shutil.copy(photos / "0.png", tmp_path)
    found = locate(tmp_path / "labels.csv", ["/nowhere/photos/0.png"])
    assert (found.folder, found.flat) == (tmp_path, True)
