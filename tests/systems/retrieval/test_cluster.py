"""A gallery on disk that Ray's actors search: the answer of one process."""

import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_gallery import ByColour, answers, write

from sightword.cli.main import main
from sightword.metrics.shortlist import Shortlist
from sightword.storage import shards
from sightword.systems.retrieval.cluster import Part, RayGallery, opened
from sightword.systems.retrieval.gallery import Gallery
from sightword.systems.retrieval.selection import Selection, read_conditions


@pytest.fixture
def many(tmp_path):
    """Thirty pictures, two of them alike in colour but not in bytes, in a gallery of eight shards."""
    rng = np.random.default_rng(0)
    (tmp_path / "many").mkdir()
    colours = rng.integers(0, 256, (30, 3)).tolist()
    colours[7] = colours[6]
    for number, colour in enumerate(map(tuple, colours)):
        Image.new("RGB", (8, 24 + number % 2), colour).save(tmp_path / "many" / f"{number:02}.png")
    write(ByColour(), tmp_path / "many", tmp_path / "out", shard_size=4)
    (tmp_path / "about.csv").write_text("image,camera\n" + "".join(f"{n:02}.png,{n % 3}\n" for n in range(30)))
    return tmp_path / "out"


def test_a_part_has_the_rows_of_its_shards_in_the_order_of_all(many):
    gallery = Gallery(many)
    order = {key: at for at, key in enumerate(sorted(gallery.paths, key=lambda key: gallery.paths[key][0]))}
    (segment,) = gallery.rows.segments
    parts = [Part({segment.path: {0, 5}}, order), Part({segment.path: {1}}, order)]
    assert [len(part.keys) for part in parts] == [8, 4]
    assert parts[0].keys == sorted(parts[0].keys, key=order.__getitem__)
    vector = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2, -0.5]]), dim=1)
    own = gallery.search(vector, 30, frozenset(parts[0].keys))
    assert [(score, key) for score, _, key in parts[0].search(vector, 30, None)] == [(h.score, h.content) for h in own]
    assert parts[0].sums(vector, frozenset())[0] == 0
    assert Part({}, order).search(vector, 3, None) == []
    assert isinstance(parts[0].shortlist, Shortlist)


def test_without_ray_one_line_says_how_to_get_it(many, monkeypatch):
    monkeypatch.setattr(shards, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^engine=ray needs Ray: pip install 'sightword\[ray\]'$"), opened(many):
        pass


@pytest.mark.slow
def test_the_answer_of_ray_is_that_of_one_process(many, monkeypatch, capsys):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # its workers import the package from here
    one = Gallery(many)
    about, camera = many.parent / "about.csv", read_conditions(["camera=1"])
    vector = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2, -0.5]]), dim=1)
    with opened(many, workers=2) as spread:
        assert isinstance(spread, RayGallery)
        assert len(spread.shares) == 2
        for top in (1, 7, 30):
            assert spread.search(vector, top) == one.search(vector, top)
        some, wanted = Selection(spread, about, camera), Selection(one, about, camera)
        assert some.search(vector, 20) == wanted.search(vector, 20)
        torch.testing.assert_close(torch.tensor(some.moments(vector)), torch.tensor(wanted.moments(vector)))
        torch.testing.assert_close(torch.tensor(spread.moments(vector)), torch.tensor(one.moments(vector)))
        ray.kill(spread.shares[0].actor, no_restart=False)
        assert spread.search(vector, 7) == one.search(vector, 7)
        best = spread.search(vector, 1)[0].path
        best.unlink()
        assert len(spread.search(vector, 30)) == 29
        assert spread.search(vector, 5) == Gallery(many).search(vector, 5)
    answers(monkeypatch, ByColour())
    capsys.readouterr()
    lines = []
    for engine in (["engine=ray", "workers=2"], ["engine=inline"]):
        assert main(["search", f"index={many}", "out=", *engine, "top=4", "a red person"]) == 0
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1]
