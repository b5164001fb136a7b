"""The full scale: published shapes, with a ViT-H/14 of random weights."""

import pytest
import torch
import torch.nn.functional as F

from sightword.cli.compose import compose_config
from sightword.engine import run
from sightword.systems.intent.anchors import Anchors, Book
from sightword.systems.intent.data import IntentBatch
from sightword.systems.intent.predict import ANCHORS
from sightword.systems.intent.vocabulary import vocabularies
from sightword.towers import hub
from sightword.towers.clip import checkpoint as clip_checkpoint
from sightword.towers.clip import encoder as clip
from sightword.towers.preprocess import Preprocess

B, N, D, C = 2, 256, 1024, 28
SIZES = {"coco": 256, "places": 512, "emotion": 128, "ava": 256, "actions": 256}
WHOLE = 32  # layers


@pytest.fixture
def anchors_file(tmp_path):
    """The five vocabularies' sizes, in the space of a ViT-H/14's texts; drawn at random."""
    generator, books = torch.Generator().manual_seed(0), {}
    for vocabulary in vocabularies().values():
        codes = F.normalize(torch.randn(vocabulary.size, D, generator=generator), dim=1)
        rows = list(range(vocabulary.size))
        words = [f"{vocabulary.stream} {row}" for row in rows]
        books[vocabulary.stream] = Book(codes, words, rows, [0] * len(rows), words)
    return Anchors(books).write(tmp_path / ANCHORS)


def drawn_tower(name, layers):
    """What `image_tower` gives for a preset, its first layers only and no weights fetched."""
    model_cfg = hub.model_config(clip.presets[name][0], "CLIP", clip.presets)
    vision = model_cfg["vision_cfg"]
    assert vision["layers"] == WHOLE
    found = clip_checkpoint.Checkpoint(model_cfg | {"vision_cfg": vision | {"layers": layers}}, {}, None, name, None)
    visual = clip_checkpoint.build(found).visual.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for weight in visual.parameters():
        weight.data.normal_(float(weight.ndim == 1), 0.02, generator=generator)
    return clip.CLIPImage(visual, Preprocess((vision["image_size"], vision["image_size"])), name)


@pytest.mark.parametrize("layers", [2, pytest.param(WHOLE, marks=pytest.mark.slow)])
def test_a_batch_goes_through_the_full_scale_in_the_documents_shapes(layers, anchors_file, monkeypatch):
    towers, seen = [], {}

    def image_tower(name, tag=""):
        towers.append(drawn_tower(name, layers))
        monkeypatch.setattr(
            towers[0], "token_types", lambda *asked: seen.update(clip.CLIPImage.token_types(towers[0], *asked)) or seen
        )
        return towers[0]

    monkeypatch.setattr("sightword.towers.factory.image_tower", image_tower)
    words = ["scale=full", f"system.semantic_anchors_path={anchors_file}", "data.root=x"]
    config = compose_config(["experiment=intent/stage1", *words])
    task = run.make_task(config).train()
    images = torch.rand(B, 3, 224, 224, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batch = IntentBatch(torch.eye(C)[:B], ["a", "b"], images=images)

    losses = task.losses(batch)
    task.total(losses).backward()
    (tower,) = towers
    assert tower.name == "vit_h14"
    if layers == WHOLE:
        assert sum(weight.numel() for weight in tower.parameters()) // 10**6 == 632
    assert set(losses) == {"asl_loss"}
    learned = {name: tuple(p.grad.shape) for name, p in task.named_parameters() if p.grad is not None}
    assert learned == {"model.head.weight": (C, D), "model.head.bias": (C,)}

    tokens = {token_type: encoded.tokens for token_type, encoded in seen.items()}
    assert {token_type: x.shape for token_type, x in tokens.items()} == {"value": (B, N, D), "joint": (B, N, D)}
    assert seen["joint"].pooled.shape == (B, D)
    assert {name: book.codes().shape for name, book in task.model.books.items()} == {
        name: (size, D) for name, size in SIZES.items()
    }
    assert task.model.book("places")(tokens["joint"]).codes.shape == (B, N, D)

    task.eval()
    read = task.model({name: tokens[token_type] for name, token_type in task.token_types.items()})
    assert read.logits.shape == (B, C)
    assert {name: ids.shape for name, ids in read.ids.items()} == dict.fromkeys(SIZES, (B, N))
    assert all(int(ids.max()) < SIZES[name] for name, ids in read.ids.items())
    terms = task.model.attribute(read)
    assert {name: x.shape for name, x in terms.items()} == dict.fromkeys(SIZES, (B, N, C))
    torch.testing.assert_close(sum(x.sum(1) for x in terms.values()) + task.model.bias(), read.logits)


@pytest.mark.parametrize("experiment", ["stage1", "stage2", "baseline"])
def test_every_experiment_has_the_full_scale(experiment, anchors_file):
    words = ["scale=full", f"system.semantic_anchors_path={anchors_file}", "data.root=x"]
    config = compose_config([f"experiment=intent/{experiment}", *words])
    task = run.make_task(config)
    assert (task.config.tower, config.data.image_size) == ("vit_h14", 0)  # the encoder's own
    if experiment == "baseline":
        assert task.model(torch.zeros(B, D), torch.zeros(B, N, D)).shape == (B, C)
    else:
        assert task.frozen == (experiment == "stage1")
