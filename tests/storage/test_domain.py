"""What `sightword mini` drew is told from everything else, and so is what was trained on it."""

import json

import pytest

from sightword.storage.domain import domain_of_weights, foreign, is_drawn, record_domain, say_domain, write_card


@pytest.fixture
def drawn(tmp_path):
    folder = tmp_path / "mini" / "scenes"
    write_card(folder, "Scenes")
    return folder


def test_a_card_holds_for_the_folder_and_all_below_and_for_nothing_beside(drawn):
    assert is_drawn(drawn)
    assert is_drawn(drawn / "images" / "0.png")
    assert not is_drawn(drawn.parent)
    assert not is_drawn(drawn.parent / "photos" / "0.png")
    assert not foreign([drawn, drawn / "images"])
    assert foreign([drawn, drawn.parent])
    assert foreign([None])  # an image in memory is not known to be drawn


@pytest.mark.parametrize("text", ["", "# Photos\n\ndomain: drawn\n", "---\ntitle: x\n---\ndomain: drawn\n", "---\n"])
def test_other_cards_are_no_such_card(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert not is_drawn(tmp_path)


def test_a_card_with_other_fields_and_windows_lines_is_one(tmp_path):
    (tmp_path / "README.md").write_bytes(b"---\r\ntitle: x\r\ndomain: drawn\r\n---\r\n# x\r\n")
    assert is_drawn(tmp_path)


def test_weights_state_their_domain_and_damaged_ones_leave_the_error_to_who_opens_them(tmp_path):
    assert domain_of_weights("vit_b16") == ""
    (tmp_path / "config.json").write_text(json.dumps({"domain": "drawn"}))
    assert domain_of_weights(tmp_path) == "drawn"
    (tmp_path / "config.json").write_text("{")
    assert domain_of_weights(tmp_path) == ""


def test_a_run_inherits_the_domain_of_its_encoders_and_of_its_data(tmp_path, drawn):
    record_domain(tmp_path, ["vit_b16", ""], [str(tmp_path), ""])
    assert not (tmp_path / "domain.json").exists()
    record_domain(tmp_path, ["vit_b16"], [str(drawn)])
    assert domain_of_weights(tmp_path) == "drawn"
    other = tmp_path / "other"
    other.mkdir()
    record_domain(other, [str(tmp_path)], [str(tmp_path)])  # as init_from= names it
    assert json.loads((other / "domain.json").read_text()) == {"domain": "drawn", "by": [str(tmp_path)]}


def test_drawn_weights_warn_on_other_data_alone(tmp_path, drawn, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"domain": "drawn"}))
    say_domain(tmp_path, drawn)
    say_domain("vit_b16", tmp_path)
    assert capsys.readouterr().err == ""
    say_domain(tmp_path, tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("was trained on drawn images (sightword mini); its answers on photographs mean nothing")
