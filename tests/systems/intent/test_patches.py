"""What each patch of a photo says, by a plain CLIP with words alone."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from sightword.cli.main import main
from sightword.errors import SightwordError
from sightword.systems.intent.patches import PatchWords, prompts_of


def scores_of(rows: list[list[int]], words: int) -> torch.Tensor:
    """Scores of a map of best words; a number of `words` stands for anything else."""
    return torch.nn.functional.one_hot(torch.tensor(rows), words + 1).float() * 0.8 + 0.2 / (words + 1)


def test_patches_that_fit_no_word_have_none() -> None:
    found = PatchWords(Image.new("RGB", (60, 40)), ("dog", "sky"), scores_of([[0, 0, 1], [2, 1, 1]], 2))
    assert found.areas == pytest.approx({"sky": 3 / 6, "dog": 2 / 6})
    assert found.sure.tolist()[1][0] == 0
    assert found.sure.max() <= 1
    assert found.plot().width > 800
    assert found.to_dict()["words"] == [["dog", "dog", "sky"], ["dog", "sky", "sky"]]
    assert repr(found) == "PatchWords(sky 50 %, dog 33 %)"
    nothing = PatchWords(Image.new("RGB", (60, 40)), ("dog",), scores_of([[1, 1]], 1))
    assert nothing.areas == {}
    assert nothing.plot().height > 100


def test_words_or_a_vocabulary_give_the_prompts(tmp_path: Path) -> None:
    assert prompts_of(("dog", "apple")) == {"dog": "a photo of a dog", "apple": "a photo of an apple"}
    (tmp_path / "things.txt").write_text("dog\nSnow\ta snowy field\n")
    assert prompts_of((), tmp_path / "things.txt")["Snow"] == "a photo of a snowy field"
    for words, file in (((), None), (("dog",), tmp_path / "things.txt")):
        with pytest.raises(SightwordError, match='pass words="dog, grass, sky", or vocabulary='):
            prompts_of(words, file)


def test_a_plain_clip_needs_no_run_and_keeps_the_photos_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from open_clip.model import CLIP as Network  # noqa: N811

    from sightword.storage.checkpoint import write_weights

    torch.manual_seed(0)
    vision = {"image_size": 16, "patch_size": 4, "width": 32, "layers": 1, "head_width": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
    network = Network(8, vision, text)
    folder = tmp_path / "clip"
    folder.mkdir()
    weights = {name: weight for name, weight in network.state_dict().items() if name != "attn_mask"}
    write_weights(folder / "open_clip_model.safetensors", weights)
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    photo = tmp_path / "photo.png"
    Image.new("RGB", (320, 160), "red").save(photo)
    out = tmp_path / "show"
    given = ["show", f"model={folder}", f"image={photo}", "words=dog, grass, sky", f"out={out}"]
    assert main(given) == 0
    told = json.loads((out / "patches.json").read_text())
    assert (len(told["words"]), len(told["words"][0])) == (4, 8)
    assert capsys.readouterr().out.count("%") >= 1
    for wrong, message in (
        (given[:2] + given[3:], "words= are looked for in a photo. Pass image="),
        ([*given, "token_type=post"], "token_type=post is not in the space of texts"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err
