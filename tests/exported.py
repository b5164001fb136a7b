"""What tests of exports share."""

import sightword


def moved_and_loaded(predictor, tmp_path, monkeypatch):
    """Export twice to tmp_path/model, move it, rename tmp_path/own away, load it, and leave for another directory.

    What the model opens only when it is needed is therefore opened from there.
    """
    predictor.save_pretrained(tmp_path / "model")
    predictor.save_pretrained(tmp_path / "model")  # over the first
    (tmp_path / "model").rename(tmp_path / "moved")
    (tmp_path / "own").rename(tmp_path / "gone")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    again = sightword.load("moved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    return again
