"""The demo, whole but for its length: every system trains a moment, and the page has every figure."""

import re
from functools import partial

from sightword.cli.train import train_in
from sightword.engine.system import demo_parts, systems
from sightword.miniature import person
from sightword.viz.page import make_page


def briefly(folder, argv):
    """Train for two batches what the demo trains for minutes."""
    lengths = ("trainer.steps=", "trainer.epochs=")
    given = [argument for argument in argv if not argument.startswith(lengths)]
    brief = ["trainer.steps=2", "trainer.val_every=2", "trainer.log_every=1", "trainer.threads=1", "data.num_workers=0"]
    return train_in(folder, [*given, *brief])


def test_the_demo_writes_a_page_with_the_figures_of_every_system(tmp_path, small_clip, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(person, "write_cuhk", partial(person.write_cuhk, sizes=person.Sizes(24, 8, 8)))
    page = make_page(tmp_path / "runs" / "demo", demo_parts(), briefly).read_text()
    assert all(f"{name}</" in page for name in systems())
    assert len(re.findall(r'src="data:image/(?:png|webp|jpeg);base64,[A-Za-z0-9+/=]{500,}"', page)) >= 15
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "Wrote" in capsys.readouterr().out
