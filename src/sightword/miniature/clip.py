"""A tiny CLIP, trained where it is needed, whose patches know the words of the small world.

It sees scenes and captions of whole scenes, nothing else, and is written as open_clip writes its own, so that whatever
reads a published CLIP reads this one. One thing of the recipe is unusual: in a share of the steps the last image block
is only its values (`DENSE` forms of `towers.clip_dense` leave out the same things), a stochastic depth without which a
network this small ties its pictures to words but not its patches.

Legend: B batch; L text tokens; S scenes; V used rows of the token table, 49,408 in all.
"""

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from sightword.atomic import write_atomically
from sightword.miniature import scene
from sightword.miniature.scene import OBJECTS, PLACES, Scene, with_article
from sightword.towers.clip import CLIP, CONFIG, WEIGHTS
from sightword.towers.clip_dense import Form, attend
from sightword.towers.preprocess import OPENAI_MEAN, OPENAI_STD
from sightword.towers.text import word_vectors

TABLE = "token_embedding.weight"  # (49408, text_width), nine tenths of the file
TEST_SEED = 10_000  # of scenes that no recipe trains on


@dataclass(frozen=True)
class Recipe:
    """All that the weights depend on, but for the world itself."""

    seed: int = 0
    image_size: int = 64
    patch: int = 8
    width: int = 128
    layers: int = 2
    heads: int = 8
    mlp_ratio: float = 2.0
    pool: str = "avg"  # "tok": the class token, as published CLIPs; then the `joint` tokens know little, as theirs
    embed_dim: int = 64
    text_width: int = 64
    text_layers: int = 1
    text_heads: int = 2
    context_length: int = 24
    table_std: float = 0.5  # open_clip's 0.02 learns slower
    scenes: int = 4096
    steps: int = 300
    batch: int = 64
    lr: float = 4e-3
    warmup: int = 20
    weight_decay: float = 0.05
    patch_dropout: float = 0.75  # a quarter of the patches at a time: four times faster, and each must know its words
    values_only: float = 0.35  # the share of steps in which the last image block is only its values

    def __post_init__(self) -> None:
        if self.seed == TEST_SEED:
            raise ValueError(f"seed {TEST_SEED} is kept for tests: take another")

    def model_cfg(self, patch_dropout: float = 0.0) -> dict[str, Any]:
        """What open_clip calls so."""
        vision = {
            "image_size": self.image_size,
            "patch_size": self.patch,
            "width": self.width,
            "layers": self.layers,
            "head_width": self.width // self.heads,
            "mlp_ratio": self.mlp_ratio,
            "pool_type": self.pool,
            "patch_dropout": patch_dropout,
        }
        text = {
            "context_length": self.context_length,
            "vocab_size": 49408,
            "width": self.text_width,
            "heads": self.text_heads,
            "layers": self.text_layers,
        }
        return {"embed_dim": self.embed_dim, "vision_cfg": vision, "text_cfg": text}


# --------------------------------------------------------------------------------------------------------- training


def train(recipe: Recipe) -> Any:
    """An open_clip CLIP in eval mode. The global generators are left as they were."""
    with torch.random.fork_rng(devices=[]):  # open_clip draws weights and dropped patches from the global generator
        torch.manual_seed(recipe.seed)
        return _train(recipe)


def _train(recipe: Recipe) -> Any:
    import open_clip
    from open_clip import model as networks

    generator = torch.Generator().manual_seed(recipe.seed)
    images, texts = _examples(recipe)  # (S, 3, H, W) uint8, (S, tellings, L)
    model = networks.CLIP(**recipe.model_cfg(recipe.patch_dropout))
    table = torch.randn(model.token_embedding.weight.shape, generator=generator).mul_(recipe.table_std)
    used, texts = texts.unique(return_inverse=True)  # (V,), and ids of those rows; the end's id stays the greatest
    model.token_embedding = nn.Embedding.from_pretrained(table[used], freeze=False)

    optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.lr, betas=(0.9, 0.98))
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    loss_of, blocks = open_clip.ClipLoss(), model.visual.transformer.resblocks
    last, values = blocks[-1], _ValuesOnly(blocks[-1])
    mean, std = (torch.tensor(numbers).mul(255).view(3, 1, 1) for numbers in (OPENAI_MEAN, OPENAI_STD))
    weights = torch.tensor(TELLINGS)
    for chosen in tqdm(
        _batches(recipe, generator), "tiny CLIP", recipe.steps, unit=" steps", leave=False, disable=None
    ):
        told = torch.multinomial(weights, len(chosen), replacement=True, generator=generator)
        blocks[-1] = values if torch.rand((), generator=generator) < recipe.values_only else last
        loss = loss_of(*model((images[chosen] - mean) / std, texts[chosen, told]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        model.logit_scale.data.clamp_(0, math.log(100))  # as open_clip does

    blocks[-1] = last
    model.visual.patch_dropout = nn.Identity()
    table[used] = model.token_embedding.weight.detach()
    model.token_embedding = nn.Embedding.from_pretrained(table.half().float(), freeze=False)  # as it is saved
    return model.eval()


class _ValuesOnly(nn.Module):
    """An image block without residual, MLP or attention's choice: `out_proj(v)`; the class token takes the mean."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        patches = attend(self.block, x, Form("value"), (0, 0), {})[:, 1:]
        return torch.cat([patches.mean(1, keepdim=True), patches], dim=1)


#: How often a scene is told by its caption, by its place alone, by one of its objects alone.
TELLINGS = (0.4, 0.2, 0.4)


def _examples(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Scenes (S, 3, H, W) uint8, and the tokens of what is said of them, (S, tellings, L)."""
    import open_clip

    size, rng = (recipe.image_size, recipe.image_size), np.random.default_rng(recipe.seed)
    numbers = tqdm(range(recipe.scenes), "scenes", unit=" scenes", leave=False, disable=None)
    scenes = [scene.draw(recipe.seed, index, size) for index in numbers]
    tokenizer = open_clip.SimpleTokenizer(context_length=recipe.context_length)
    said = [
        [one.caption, _named(one.place, rng), _named(rng.choice(one.objects or (one.place,)), rng)] for one in scenes
    ]
    texts = tokenizer([text for texts in said for text in texts]).view(len(scenes), len(TELLINGS), -1)
    return torch.from_numpy(np.stack([one.image for one in scenes])).permute(0, 3, 1, 2), texts


def _named(word: str, rng: np.random.Generator) -> str:
    return (f"a photo of {with_article(word)}", f"a photo of {word}", str(word))[rng.choice(3, p=(0.6, 0.2, 0.2))]


def _batches(recipe: Recipe, generator: torch.Generator) -> Iterator[Tensor]:
    """`steps` batches of scenes' numbers, each scene once before any comes again."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(recipe.steps):
        if len(order) < recipe.batch:
            order = torch.randperm(recipe.scenes, generator=generator)
        yield order[: recipe.batch]
        order = order[recipe.batch :]


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _rate(step: int, recipe: Recipe) -> float:
    """A short rise, then half a cosine."""
    return min(1, (step + 1) / recipe.warmup) * (0.5 + 0.5 * math.cos(math.pi * step / recipe.steps))


# ----------------------------------------------------------------------------------------------------------- folder


def tiny_clip(root: Path | None = None, recipe: Recipe = Recipe()) -> Path:
    """A folder that `CLIP.load` and open_clip's "local-dir:" read: trained once, then found again.

    root: where such folders are kept; $SIGHTWORD_CACHE, or ~/.cache/sightword/miniature, if None. Each is named after
    its recipe and the source of this world; two processes may train the same one at once.
    """
    if root is None:
        root = Path(os.environ.get("SIGHTWORD_CACHE") or Path.home() / ".cache/sightword/miniature")
    folder = root / _digest(recipe)
    if not folder.exists():
        root.mkdir(parents=True, exist_ok=True)
        with _whole(folder) as beside:
            _save(train(recipe), recipe, beside)
    return folder


def _digest(recipe: Recipe) -> str:
    """12 hex digits of the recipe and of the source that it is for."""
    total = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode())
    for path in (scene.__file__, __file__):
        total.update(Path(path).read_bytes())
    return total.hexdigest()[:12]


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Fill the folder given; when the block ends well it has its name, unless another's came first; else it is gone."""
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}")
    beside.mkdir()
    try:
        yield beside
        try:
            beside.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _save(model: nn.Module, recipe: Recipe, folder: Path) -> None:
    from safetensors.torch import save_file

    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    weights[TABLE] = weights[TABLE].half()
    preprocess = {
        "size": [recipe.image_size] * 2,
        "mode": "RGB",
        "mean": OPENAI_MEAN,
        "std": OPENAI_STD,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    with write_atomically(folder / WEIGHTS) as part:
        save_file(weights, part)
    with write_atomically(folder / CONFIG) as part:
        config = {"model_cfg": recipe.model_cfg(), "preprocess_cfg": preprocess}
        part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


# --------------------------------------------------------------------------------------------------------- measures

FORMS = ("joint", "value", "qq", "kk")


def measure(folder: Path, scenes: int = 400, seed: int = TEST_SEED) -> dict[str, float]:
    """How well a CLIP knows the words on scenes of another seed, shares from 0 to 1.

    place: pictures whose place is the nearest of the place words. object: pictures of one object, likewise. And for
    each of FORMS "<form>/object50" and "object90", patches covered by an object by half or nine tenths, among the
    object words; "<form>/place", patches without any object, among the place words.
    """
    tower = CLIP.load(folder)
    tests = [scene.draw(seed, index, tower.image.preprocess.size) for index in range(scenes)]
    images = torch.from_numpy(np.stack([test.image for test in tests])).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    with torch.no_grad():
        found = tower.image.forms(tower.image.preprocess.normalise(images), FORMS)
    place_words, object_words = word_vectors(tower.text, list(PLACES)), word_vectors(tower.text, list(OBJECTS))
    places = torch.tensor([list(PLACES).index(test.place) for test in tests])
    ones = [
        (number, list(OBJECTS).index(test.objects[0])) for number, test in enumerate(tests) if len(test.objects) == 1
    ]
    single, things = torch.tensor(ones).T

    pooled = found["joint"].pooled
    measures = {"place": _right(pooled, place_words, places), "object": _right(pooled[single], object_words, things)}
    labels, shares = _patches(tests, tower.image.patch[0])  # (B, N) each
    empty = (labels == 0) & (shares == 1)
    for name, (tokens, _, _) in found.items():
        for least in (0.5, 0.9):
            covered = (labels > 0) & (shares >= least)
            measures[f"{name}/object{100 * least:.0f}"] = _right(tokens[covered], object_words, labels[covered] - 1)
        measures[f"{name}/place"] = _right(tokens[empty], place_words, places[:, None].expand_as(empty)[empty])
    return measures


def _patches(tests: list[Scene], patch: int) -> tuple[Tensor, Tensor]:
    pairs = [scene.patch_labels(test.labels, patch) for test in tests]
    labels, shares = (torch.from_numpy(np.stack(arrays)).flatten(1) for arrays in zip(*pairs, strict=True))
    return labels.long(), shares


def _right(vectors: Tensor, words: Tensor, wanted: Tensor) -> float:
    """The share of vectors (…, E) whose nearest of the words (K, E) is the wanted."""
    return float(((vectors @ words.T).argmax(-1) == wanted).float().mean())
