"""A tiny CLIP, trained in half a minute on synthetic scenes, whose patch tokens are aligned with words.

Network, tokenizer and loss are open_clip's; the data are the scenes of `scene` and their captions, without any labels
of patches. Images are pooled by a class token, as in the published CLIPs, and the tokens have the same known property:
those of the last layer (`joint`) say little about their own patch, the values of the last attention (`value`) much. To
make half a minute enough, the class token is initialised with zeros and there is no MLP, so all information about the
image reaches the class token by attention.

Legend: B batch; N patches; E dimension of the joint space; K words.
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
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import trange

from sightword.errors import SightwordError
from sightword.miniature import scene
from sightword.miniature.scene import ACTIONS, HELD_OUT, OBJECTS, PLACES, Scene
from sightword.storage.atomic import write_atomically
from sightword.storage.domain import DRAWN
from sightword.towers.clip.encoder import CLIP, CONFIG, WEIGHTS
from sightword.towers.preprocess import OPENAI_MEAN, OPENAI_STD
from sightword.towers.prompt import class_embeddings

if TYPE_CHECKING:
    from open_clip.model import CLIP as Network  # noqa: N811

DAY = 24 * 3600  # seconds; no training takes so long
VOCABULARY = 49408  # of open_clip's tokenizer
TOKEN_TYPES = ("joint", "value", "qq", "kk", "kk+gauss")


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights besides the scenes. Raises SightwordError for seed HELD_OUT."""

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
            raise SightwordError(f"seed {HELD_OUT} draws the held-out scenes. Choose another seed")

    @property
    def vision_cfg(self) -> dict[str, float]:
        """Return open_clip's config of the image encoder."""
        sizes: dict[str, float] = {"image_size": self.image, "patch_size": self.patch, "width": self.width, "layers": 1}
        return sizes | {"head_width": self.head_width, "mlp_ratio": 0.05, "no_ln_pre": True}

    def text_cfg(self, tokens: int = VOCABULARY) -> dict[str, int]:
        """Return open_clip's config of the text encoder. tokens: size of the vocabulary."""
        sizes = {"context_length": self.context, "vocab_size": tokens}
        return sizes | {"width": self.text_width, "heads": 2, "layers": 1}

    @property
    def digest(self) -> str:
        """Return 12 hex digits of the recipe and the code, without comments and docstrings, of scenes and training."""
        total = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        for file in (scene.__file__, __file__):
            total.update(_code(Path(file).read_text(encoding="utf-8")).encode())
        return total.hexdigest()[:12]


def _code(source: str) -> str:
    """Return the syntax tree of a module without its docstrings, as text."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
    return ast.dump(tree)


def tiny_clip(root: str | Path | None = None, recipe: Recipe = Recipe()) -> Path:
    """Return the folder of the tiny CLIP, in open_clip's `local-dir` format; the first call trains it.

    root: where trained CLIPs are kept, each in a folder named by its recipe's digest; $SIGHTWORD_CACHE/miniature if
    None, or ~/.cache/sightword/miniature if that variable is not set.
    """
    cache = os.environ.get("SIGHTWORD_CACHE", "~/.cache/sightword")
    root = Path(root or Path(cache) / "miniature").expanduser()
    folder = root / recipe.digest
    if (folder / CONFIG).exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    for left_over in root.glob(".*"):
        if time.time() - left_over.stat().st_mtime > DAY:
            shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".") as beside:
        part = Path(beside) / "clip"
        part.mkdir()
        _save(train(recipe), recipe, part)
        try:
            part.rename(folder)
        except OSError:  # another process finished first, with the same weights
            if not (folder / CONFIG).exists():
                shutil.rmtree(folder, ignore_errors=True)
                part.rename(folder)
    return folder


# ---------------------------------------------------------------------------------------------------------- training


def train(recipe: Recipe) -> "Network":
    """Train open_clip's CLIP: equal weights for an equal number of threads. Torch's global RNG is restored."""
    with torch.random.fork_rng(devices=[]):  # open_clip draws its weights from the global generator
        torch.manual_seed(recipe.seed)
        return _train(recipe)


def _train(recipe: Recipe) -> "Network":
    """Train with the global generator as it is."""
    import open_clip

    images, ids = _data(recipe)
    used, ids = ids.unique(
        return_inverse=True
    )  # the captions use some dozens of 49 408 token embeddings; only these are trained
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
    """Return images (scenes, 3, 64, 64), normalised, and the token ids of their captions (scenes, captions, L)."""
    import open_clip

    scenes = [scene.draw(recipe.seed, number, (recipe.image, recipe.image)) for number in range(recipe.scenes)]
    captions = [_captions(drawn, number) for number, drawn in enumerate(scenes)]
    tokenizer = open_clip.SimpleTokenizer(context_length=recipe.context)
    ids = tokenizer([caption for several in captions for caption in several])
    return _normalised(torch.from_numpy(np.stack([drawn.image for drawn in scenes]))), ids.unflatten(
        0, (len(scenes), -1)
    )


def _captions(drawn: Scene, number: int) -> list[str]:
    """Return twelve captions of a scene, of which a batch draws one.

    They are the scene's own caption, its place or one thing alone, with and without an article as in common prompt
    templates, and the action alone, which whole captions teach too slowly.
    """
    one = drawn.objects[number % len(drawn.objects)] if drawn.objects else drawn.place
    place, thing = ([f"a photo of a {word}", f"a photo of {word}"] for word in (drawn.place, one))
    if drawn.action is None:
        return [*[drawn.caption] * 5, *place, place[0], *thing * 2]
    return [*[drawn.caption] * 3, *place, *thing, "a photo of a person", *[f"a photo of a person {drawn.action}"] * 4]


def _network(recipe: Recipe, tokens: int) -> "Network":
    """Return open_clip's CLIP with a class token of zeros and an image encoder whose MLP adds nothing."""
    from open_clip.model import CLIP as Network  # noqa: N811

    model = Network(recipe.embed_dim, recipe.vision_cfg, recipe.text_cfg(tokens))
    nn.init.normal_(model.token_embedding.weight, std=0.5)  # open_clip's 0.02 needs more steps
    last = model.visual.transformer.resblocks[-1]
    for parameter in (model.visual.class_embedding, *last.mlp.c_proj.parameters()):
        nn.init.zeros_(parameter.requires_grad_(False))
    nn.init.zeros_(model.visual.positional_embedding[0])
    return model


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.AdamW:
    """Return AdamW with weight decay for matrices only."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decays = {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay}
    return torch.optim.AdamW(
        [decays, {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0}], betas=(0.9, 0.98)
    )


def _rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step: linear warm-up over `warm_up` steps, times a cosine decay."""
    return recipe.lr * min(1, (step + 1) / recipe.warm_up) * (0.5 + 0.5 * math.cos(math.pi * step / recipe.steps))


def _normalised(images: Tensor) -> Tensor:
    """Return images (B, H, W, 3) uint8 as (B, 3, H, W), normalised as by CLIP."""
    mean, std = (255 * torch.tensor(values) for values in (OPENAI_MEAN, OPENAI_STD))
    return ((images.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


def _whole_table(trained: nn.Embedding, used: Tensor) -> nn.Embedding:
    """Return the embedding of the whole vocabulary: trained rows in their place, zeros for tokens never trained."""
    table = torch.zeros(VOCABULARY, trained.embedding_dim)
    table[used] = trained.weight.detach()
    return nn.Embedding.from_pretrained(table, freeze=False)


def _save(model: "Network", recipe: Recipe, folder: Path) -> None:
    """Write open_clip's two files. The token embedding, most of the bytes and mostly zeros, is stored as float16."""
    weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    weights["token_embedding.weight"] = weights["token_embedding.weight"].half()
    with write_atomically(folder / WEIGHTS) as part:
        save_file(weights, part)
    preprocess = {"size": [recipe.image] * 2, "mean": OPENAI_MEAN, "std": OPENAI_STD, "resize_mode": "squash"}
    model_cfg = {"embed_dim": recipe.embed_dim, "vision_cfg": recipe.vision_cfg, "text_cfg": recipe.text_cfg()}
    preprocess_cfg = {**preprocess, "interpolation": "bicubic"}
    config = {"domain": DRAWN, "model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


# --------------------------------------------------------------------------------------------------------- measuring


@torch.no_grad()
def measure(clip: CLIP, count: int = 600, token_types: Sequence[str] = TOKEN_TYPES) -> dict[str, float]:
    """Return zero-shot accuracies in [0, 1] on `count` held-out scenes, each an argmax over all words of its kind.

    place, object, action: of whole images (object: scenes with exactly one; action: scenes with one).
    object/<token type>, action/<token type>: of patches at least half covered by an object, by an action's implement.
    place/<token type>: of patches that show only the place. The accuracy of `post` tokens is that of `joint`, which are
    the same tokens after projection.
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
    metrics = {
        "place": _share((pooled @ to_place).argmax(-1) == places),
        "object": _share((pooled[single] @ to_thing).argmax(-1) == named),
        "action": _share((pooled[active] @ to_doing).argmax(-1) == done),
    }
    for token_type, encoded in found.items():
        metrics[f"object/{token_type}"] = _share(((encoded.tokens @ to_thing).argmax(-1) == things - 1)[thing])
        metrics[f"action/{token_type}"] = _share(((encoded.tokens @ to_doing).argmax(-1) == doings - 1)[doing])
        metrics[f"place/{token_type}"] = _share(((encoded.tokens @ to_place).argmax(-1) == places[:, None])[bare])
    return metrics


def _patches(labels: Sequence[np.ndarray], patch: int) -> tuple[Tensor, Tensor]:
    """Return the most frequent label of each patch, (B, N) int64, and its fraction of the patch, (B, N)."""
    parts = zip(*(scene.patch_labels(each, patch) for each in labels), strict=True)
    most, shares = (torch.from_numpy(np.stack(part)).flatten(1) for part in parts)
    return most.long(), shares


def _numbered(said: Sequence[str | None], words: Iterable[str]) -> tuple[list[int], Tensor]:
    """Return the indices of the scenes that have a word, and the index of each such word in `words`."""
    order, which = list(words), [number for number, word in enumerate(said) if word is not None]
    return which, torch.tensor([order.index(str(said[number])) for number in which])


def _share(right: Tensor) -> float:
    """Return the fraction of True."""
    return right.float().mean().item()
