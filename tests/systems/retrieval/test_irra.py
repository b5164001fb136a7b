"""Published checkpoints of IRRA and RDE, made at a tiny size in their layout with open_clip's network as reference."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from sightword.cli.main import main
from sightword.errors import SightwordError
from sightword.systems.retrieval.config import RetrievalConfig
from sightword.systems.retrieval.predict import PersonRetriever
from sightword.systems.retrieval.task import make_task

SIZE = (48, 16)
TEXTS = ["a woman in a red coat", "a man with a green backpack", "somebody with a hat"]
CONFIGS = """batch_size: 64
img_size: !!python/tuple
- 48
- 16
milestones: !!python/tuple
- 20
- 50
loss_names: sdm+id+mlm
stride_size: 8
temperature: 0.02
"""


@pytest.fixture(scope="module")
def reference() -> torch.nn.Module:
    """OpenAI's network, tiny, with weights as `convert_weights` leaves them: most in half precision."""
    from open_clip.model import CLIP, convert_weights_to_fp16

    torch.manual_seed(0)
    vision = {"image_size": list(SIZE), "patch_size": 8, "width": 64, "layers": 2, "head_width": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    model = CLIP(32, vision, text, quick_gelu=True)
    convert_weights_to_fp16(model)
    return model.eval()


def write_checkpoint(folder: Path, model: torch.nn.Module, ddp: bool = False, **more: Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    own = {f"base_model.{n}": w for n, w in model.state_dict().items() if n not in ("logit_scale", "attn_mask")}
    heads = {
        "classifier.weight": torch.zeros(5, 32),
        "cross_attn.in_proj_bias": torch.zeros(3),
        "ln_post.weight": torch.ones(2),
    }
    heads |= {"cross_modal_transformer.resblocks.0.ln_1.weight": torch.ones(2), "mlm_head.fc.bias": torch.zeros(4)}
    weights = {f"{'module.' if ddp else ''}{name}": weight for name, weight in {**own, **heads, **more}.items()}
    torch.save({"model": weights, "optimizer": {"state": {}}, "epoch": 60, "iteration": 7}, folder / "best.pth")
    (folder / "configs.yaml").write_text(CONFIGS)
    return folder


def images() -> list[Image.Image]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (3, 60, 24, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(each.numpy()) for each in pixels]


@pytest.mark.parametrize("ddp", [False, True])
def test_a_checkpoint_of_irra_gives_the_vectors_of_openais_network(
    tmp_path: Path, reference: torch.nn.Module, ddp: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    import open_clip
    from torchvision.transforms import v2 as T

    folder = write_checkpoint(tmp_path / "irra", reference, ddp)
    retriever = PersonRetriever.from_published(folder)
    assert "heads of training are left out" in capsys.readouterr().err
    network = reference.float()
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    steps = T.Compose([T.Resize(SIZE), T.PILToTensor(), T.ToDtype(torch.float32, scale=True), T.Normalize(mean, std)])
    with torch.no_grad():
        seen = network.encode_image(torch.stack([steps(image) for image in images()]), normalize=True)
        read = network.encode_text(open_clip.get_tokenizer("ViT-B-16")(TEXTS), normalize=True)
    torch.testing.assert_close(retriever.encode_image(images()), seen, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(retriever.encode_text(TEXTS), read, atol=1e-5, rtol=1e-5)
    retriever.save_pretrained(tmp_path / "exported")
    exported = PersonRetriever.from_pretrained(tmp_path / "exported")
    torch.testing.assert_close(exported.encode_text(TEXTS), read, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(exported.encode_image(images()), seen, atol=1e-5, rtol=1e-5)
    assert exported.identity.preprocessing == exported.embedder.preprocess.as_dict()


def test_rdes_second_vectors_are_said_to_be_left_out(
    tmp_path: Path, reference: torch.nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"visul_emb_layer.linear.weight": torch.zeros(2, 2), "texual_emb_layer.linear.weight": torch.zeros(2, 2)}
    PersonRetriever.from_published(write_checkpoint(tmp_path, reference, **more) / "best.pth")
    assert "RDE's second vectors (of selected tokens), which its published figures include" in capsys.readouterr().err


def test_the_size_of_images_is_told_by_the_weights_where_no_config_lies_beside_them(
    tmp_path: Path, reference: torch.nn.Module
) -> None:
    folder = write_checkpoint(tmp_path, reference)
    (folder / "configs.yaml").unlink()
    assert PersonRetriever.from_published(folder).embedder.preprocess.size == SIZE


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, reference: torch.nn.Module) -> None:
    folder = write_checkpoint(tmp_path, reference)
    for old, new, message in (
        ("stride_size: 8", "stride_size: 6", "stride_size=6 with patches of 8 pixels"),
        ("- 48\n- 16", "- 64\n- 16", "positions of 12 patches of 8 pixels, which are not those of an image of 64x16"),
        ("!!python/tuple", "!!python/object/apply:os.system", "python/object/apply:os.system is not read"),
    ):
        (folder / "configs.yaml").write_text(CONFIGS.replace(old, new))
        with pytest.raises(SightwordError, match=message):
            PersonRetriever.from_published(folder)
    (folder / "configs.yaml").write_text(CONFIGS)
    weights = torch.load(folder / "best.pth", weights_only=True)["model"]
    lacking = {name: weight for name, weight in weights.items() if not name.endswith("ln_final.bias")}
    for wrong, message in (
        ({"state": torch.zeros(2)}, "is not a checkpoint of IRRA or RDE"),
        ({**weights, "bn_neck.weight": torch.zeros(2)}, "1 weights of no known part, bn_neck.weight the first"),
        (lacking, "1 missing: ln_final.bias"),
    ):
        torch.save({"model": wrong}, folder / "best.pth")
        with pytest.raises(SightwordError, match=message):
            PersonRetriever.from_published(folder)


def test_a_training_starts_from_a_published_encoder(tmp_path: Path, reference: torch.nn.Module) -> None:
    folder = write_checkpoint(tmp_path / "irra", reference)
    retriever = PersonRetriever.from_published(folder)
    retriever.save_pretrained(tmp_path / "exported")
    task = make_task(
        RetrievalConfig(
            image="clip",
            text="clip",
            clip=str(tmp_path / "exported" / "towers"),
            clip_tag="",
            image_size=list(SIZE),
            project="none",
        )
    )
    given = task.published(folder / "best.pth")
    own = {name for name in task.state_dict() if name.startswith("model.")}
    assert given.keys() == own
    assert all(weight.dtype == torch.float32 for weight in given.values())


@pytest.mark.parametrize("kind", ["checkpoint", "plain clip"])
def test_a_gallery_needs_no_training_of_ones_own(
    tmp_path: Path, reference: torch.nn.Module, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_checkpoint(tmp_path / "irra", reference)
    PersonRetriever.from_published(folder).save_pretrained(tmp_path / "exported")
    model = folder if kind == "checkpoint" else tmp_path / "exported" / "towers"
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(images()):
        image.save(tmp_path / "photos" / f"{number}.png")
    assert main(["index", f"model={model}", f"images={tmp_path / 'photos'}", f"out={tmp_path / 'gallery'}"]) == 0
    assert f"3 images in {tmp_path / 'gallery'}" in capsys.readouterr().out
    out = tmp_path / "found.png"
    assert main(["search", f"index={tmp_path / 'gallery'}", f"out={out}", "a", "woman", "in", "red"]) == 0
    assert "3 of 3 images; drawn in" in capsys.readouterr().out
    assert Image.open(out).width > 100
    moved = model.rename(tmp_path / "moved")
    given = ["search", f"index={tmp_path / 'gallery'}", "out=", "a", "woman"]
    assert main(given) == 2
    assert "Pass model=, where it is now" in capsys.readouterr().err
    assert main([*given, f"model={moved}"]) == 0
