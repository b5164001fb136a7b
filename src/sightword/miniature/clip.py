"""A tiny CLIP that is trained here, in half a minute, and then really ties patches to words.

open_clip's own network, tokenizer and loss, on the scenes of `scene` and their captions; nothing says where in the
picture a thing is. Its images are pooled by a class token, as the published CLIPs' are, and it has their well-known
flaw: its last tokens say little about their own patch (`joint`), the values of its last attention much (`value`). So
that half a minute is enough, the class token begins as nothing and there is no MLP: all that it knows of a picture has
come by attention, from where it is to be seen.

Legend: B batch; N patches; E width of the joint space; K words.
"""

import ast
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import trange

from sightword.miniature import scene
from sightword.miniature.scene import ACTIONS, HELD_OUT, OBJECTS, PLACES, Scene
from sightword.storage.atomic import write_atomically
from sightword.towers.clip.encoder import CLIP, CONFIG, WEIGHTS
from sightword.towers.preprocess import OPENAI_MEAN, OPENAI_STD
from sightword.towers.prompt import class_embeddings

DAY = 24 * 3600  # seconds; no training takes so long
TOKEN_TYPES = ("joint", "value", "qq", "kk", "kk+gauss")


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights, besides the world itself."""

    seed: int = 0
    scenes: int = 2560
    steps: int = 500
    batch: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.05
    warm_up: int = 20
    image: int = 64
    patch: int = 8
    width: int = 96
    head_width: int = 16
    embed_dim: int = 64
    text_width: int = 64
    context: int = 24

    def __post_init__(self) -> None:
        if self.seed == HELD_OUT:
            raise ValueError(f"seed {HELD_OUT} draws the scenes that are held out")

    @property
    def model_cfg(self) -> dict[str, Any]:
        """The network, as open_clip's configs say it."""
        vision: dict[str, Any] = {"image_size": self.image, "patch_size": self.patch, "width": self.width, "layers": 1}
        vision |= {"head_width": self.head_width, "mlp_ratio": 0.05, "no_ln_pre": True}
        text = {"context_length": self.context, "vocab_size": 49408, "width": self.text_width, "heads": 2, "layers": 1}
        return {"embed_dim": self.embed_dim, "vision_cfg": vision, "text_cfg": text}

    @property
    def digest(self) -> str:
        """12 hex digits of the recipe, and of the code (comments apart) of the world and of the training."""
        total = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        for file in (scene.__file__, __file__):
            total.update(ast.dump(ast.parse(Path(file).read_text(encoding="utf-8"))).encode())
        return total.hexdigest()[:12]


def tiny_clip(root: str | Path | None = None, recipe: Recipe = Recipe()) -> Path:
    """A folder in open_clip's `local-dir` format; trained the first time, kept under `root` by the recipe's digest.

    root: $SIGHTWORD_CACHE/miniature if None, ~/.cache/sightword/miniature where that is not set.
    """
    cache = os.environ.get("SIGHTWORD_CACHE", "~/.cache/sightword")
    root = Path(root or Path(cache) / "miniature").expanduser()
    folder = root / recipe.digest
    if (folder / CONFIG).exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    for left_by_the_dead in root.glob(".*"):
        if time.time() - left_by_the_dead.stat().st_mtime > DAY:
            shutil.rmtree(left_by_the_dead, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".") as beside:
        part = Path(beside) / "clip"
        part.mkdir()
        _save(train(recipe), recipe, part)
        try:
            part.rename(folder)
        except OSError:  # another process was faster, and made the same
            if not (folder / CONFIG).exists():
                shutil.rmtree(folder, ignore_errors=True)
                part.rename(folder)
    return folder


# ---------------------------------------------------------------------------------------------------------- training


def train(recipe: Recipe) -> Any:
    """open_clip's CLIP, trained. Same recipe and threads, same weights; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):  # from which open_clip draws its weights
        torch.manual_seed(recipe.seed)
        return _train(recipe)


def _train(recipe: Recipe) -> Any:
    import open_clip

    images, ids = _data(recipe)
    used, ids = ids.unique(return_inverse=True)  # of 49 408 token vectors a world uses some dozens: only those train
    model = _network(recipe, len(used))
    optimizer = _optimizer(recipe, model)
    loss, generator = open_clip.ClipLoss(), torch.Generator().manual_seed(recipe.seed)
    for step in trange(recipe.steps, desc="training the tiny CLIP", unit=" batch", disable=None):
        for group in optimizer.param_groups:
            group["lr"] = _rate(recipe, step)
        batch = torch.randint(len(images), (recipe.batch,), generator=generator)
        caption = torch.randint(ids.shape[1], (recipe.batch,), generator=generator)
        value = loss(*model(images[batch], ids[batch, caption]))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
            model.visual.positional_embedding[0].zero_()  # the class token's
    model.token_embedding = _whole_table(model.token_embedding, used)
    return model.eval()


def _data(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Images (scenes, 3, 64, 64), normalised, and the ids of their captions (scenes, captions, L)."""
    import open_clip

    scenes = [scene.draw(recipe.seed, number, (recipe.image, recipe.image)) for number in range(recipe.scenes)]
    captions = [_captions(drawn, number) for number, drawn in enumerate(scenes)]
    tokenizer = open_clip.SimpleTokenizer(context_length=recipe.context)
    ids = tokenizer([caption for several in captions for caption in several])
    return _normalised(torch.from_numpy(np.stack([drawn.image for drawn in scenes]))), ids.unflatten(
        0, (len(scenes), -1)
    )


def _captions(drawn: Scene, number: int) -> list[str]:
    """Twelve captions, of which a batch draws one: all of a scene; its place or one thing alone, with and without an
    article, as either stands in the templates that people use; and what its person does, alone, for whole captions
    differ in so much else that they hardly teach it."""
    one = drawn.objects[number % len(drawn.objects)] if drawn.objects else drawn.place
    place, thing = ([f"a photo of a {word}", f"a photo of {word}"] for word in (drawn.place, one))
    if drawn.action is None:
        return [*[drawn.caption] * 5, *place, place[0], *thing * 2]
    return [*[drawn.caption] * 3, *place, *thing, "a photo of a person", *[f"a photo of a person {drawn.action}"] * 4]


def _network(recipe: Recipe, tokens: int) -> Any:
    """open_clip's CLIP, whose class token begins as nothing and whose images pass no MLP."""
    from open_clip.model import CLIP as Network  # noqa: N811

    config = recipe.model_cfg
    model = Network(**{**config, "text_cfg": {**config["text_cfg"], "vocab_size": tokens}})
    nn.init.normal_(model.token_embedding.weight, std=0.5)  # open_clip's 0.02 needs more steps
    last = model.visual.transformer.resblocks[-1]
    for parameter in (model.visual.class_embedding, *last.mlp.c_proj.parameters()):
        nn.init.zeros_(parameter.requires_grad_(False))
    nn.init.zeros_(model.visual.positional_embedding[0])
    return model


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.AdamW:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decays = {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay}
    return torch.optim.AdamW(
        [decays, {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0}], betas=(0.9, 0.98)
    )


def _rate(recipe: Recipe, step: int) -> float:
    """The learning rate: up in `warm_up` steps, then down along a cosine."""
    return recipe.lr * min(1, (step + 1) / recipe.warm_up) * (0.5 + 0.5 * math.cos(math.pi * step / recipe.steps))


def _normalised(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W), as CLIP's preprocessing does."""
    mean, std = (255 * torch.tensor(values) for values in (OPENAI_MEAN, OPENAI_STD))
    return ((images.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


def _whole_table(trained: nn.Embedding, used: Tensor) -> nn.Embedding:
    """The trained rows where the whole vocabulary has them; a token that was never seen is zero."""
    table = torch.zeros(49408, trained.embedding_dim)
    table[used] = trained.weight.detach()
    return nn.Embedding.from_pretrained(table, freeze=False)


def _save(model: Any, recipe: Recipe, folder: Path) -> None:
    """open_clip's two files. The table is kept in half precision: most of it is zeros, and it is most of the file."""
    weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    weights["token_embedding.weight"] = weights["token_embedding.weight"].half()
    with write_atomically(folder / WEIGHTS) as part:
        save_file(weights, part)
    preprocess = {"size": [recipe.image] * 2, "mean": OPENAI_MEAN, "std": OPENAI_STD, "resize_mode": "squash"}
    config = {"model_cfg": recipe.model_cfg, "preprocess_cfg": {**preprocess, "interpolation": "bicubic"}}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


# --------------------------------------------------------------------------------------------------------- measuring


@torch.no_grad()
def measure(clip: CLIP, count: int = 600, token_types: Sequence[str] = TOKEN_TYPES) -> dict[str, float]:
    """Accuracies on scenes that were never trained on, each an argmax over all words of its kind.

    place, object, action: of whole images (objects: where there is exactly one; actions: where there is one).
    object/<form>, action/<form>: of patches at least half covered by a thing, by an implement. place/<form>: of patches
    that show nothing but the place. The `post` tokens are those of `joint` before they are projected, so their accuracy
    is that of `joint`.
    """
    size = clip.image.preprocess.size
    scenes = [scene.draw(HELD_OUT, number, size) for number in range(count)]
    places = torch.tensor([list(PLACES).index(drawn.place) for drawn in scenes])  # (B,)
    (things, of_thing), (doings, of_doing) = (
        _patches([getattr(drawn, part) for drawn in scenes], clip.image.patch[0])
        for part in ("labels", "action_labels")
    )  # (B, N) each
    thing, doing = (things > 0) & (of_thing >= 0.5), (doings > 0) & (of_doing >= 0.5)
    bare = (things + doings == 0) & (of_thing + of_doing == 2)
    images = torch.from_numpy(np.stack([drawn.image for drawn in scenes])).permute(0, 3, 1, 2) / 127.5 - 1
    found = clip.image.token_types(clip.image.normalise(images), token_types)
    pooled = next(iter(found.values())).pooled
    to_place, to_thing = (class_embeddings(clip.text, list(words)).T for words in (PLACES, OBJECTS))  # (E, K) each
    to_doing = class_embeddings(clip.text, list(ACTIONS), ("a photo of a person {}",)).T
    single, named = _numbered([drawn.objects[0] if len(drawn.objects) == 1 else None for drawn in scenes], OBJECTS)
    active, done = _numbered([drawn.action for drawn in scenes], ACTIONS)
    measures = {
        "place": _share((pooled @ to_place).argmax(-1) == places),
        "object": _share((pooled[single] @ to_thing).argmax(-1) == named),
        "action": _share((pooled[active] @ to_doing).argmax(-1) == done),
    }
    for token_type, encoded in found.items():
        measures[f"object/{token_type}"] = _share(((encoded.tokens @ to_thing).argmax(-1) == things - 1)[thing])
        measures[f"action/{token_type}"] = _share(((encoded.tokens @ to_doing).argmax(-1) == doings - 1)[doing])
        measures[f"place/{token_type}"] = _share(((encoded.tokens @ to_place).argmax(-1) == places[:, None])[bare])
    return measures


def _patches(labels: Sequence[np.ndarray], patch: int) -> tuple[Tensor, Tensor]:
    """Label maps → which label has most of each patch, (B, N) int64, and its share, (B, N)."""
    parts = zip(*(scene.patch_labels(each, patch) for each in labels), strict=True)
    most, shares = (torch.from_numpy(np.stack(part)).flatten(1) for part in parts)
    return most.long(), shares


def _numbered(said: Sequence[str | None], words: Iterable[str]) -> tuple[list[int], Tensor]:
    """Which scenes have a word, and the number of each such word."""
    order, which = list(words), [number for number, word in enumerate(said) if word is not None]
    return which, torch.tensor([order.index(str(said[number])) for number in which])


def _share(right: Tensor) -> float:
    return right.float().mean().item()
