"""What a frozen ViT-B/16 costs: in float32 and bfloat16 beside the matrix product alone, with dense tokens, and cached.

The weights are drawn at random; no time depends on them. Peer: open_clip's own forward pass of the same network. A CPU
without bfloat16 instructions emulates them, several times slower than float32: what follows the first table is measured
in the faster of the two.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from measure import at_most, cpu_ms, publish
from PIL import Image

from sightword.towers.clip.encoder import CLIPImage
from sightword.towers.preprocess import Preprocess
from sightword.towers.token_cache import Source, cache_tokens

BATCH, TOKENS, WIDTH, LAYERS, PATCH, REPEATS = 2, 197, 768, 12, 16, 7
# Multiplications and additions of an image: the blocks' 12·D² weights a token, both products of attention, the patches.
OPERATIONS = LAYERS * (24 * TOKENS * WIDTH**2 + 4 * TOKENS**2 * WIDTH) + 2 * 3 * PATCH**2 * (TOKENS - 1) * WIDTH
TOKEN_TYPES = ["value", "qq", "kk", "kk+gauss"]


def tower(dtype: torch.dtype = torch.float32) -> CLIPImage:
    visual = open_clip.create_model("ViT-B-16").visual
    return CLIPImage(visual, Preprocess((224, 224)), "ViT-B-16").to(dtype).freeze()


def precision() -> list[dict[str, Any]]:
    """Each precision beside the product that most of a block is: tokens times the first weights of its MLP."""
    rows, images = [], torch.randn(BATCH, 3, 224, 224)
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        model = tower(dtype)
        x, w = torch.randn(BATCH * TOKENS, WIDTH, dtype=dtype), torch.randn(4 * WIDTH, WIDTH, dtype=dtype)
        peak = 2 * BATCH * TOKENS * WIDTH * 4 * WIDTH / cpu_ms(lambda x=x, w=w: x @ w.T, 21) / 1e6  # GFLOP/s
        with torch.no_grad():
            times = in_turns(lambda m=model: m(images), lambda m=model, d=dtype: m.visual(images.to(d)), rounds=3)
        ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
        reached = BATCH * OPERATIONS / ours / 1e6
        rows.append({"computed in": name, "CPU ms an image": ours / BATCH, "open_clip": theirs / BATCH})
        rows[-1] |= {"GFLOP/s": reached, "product alone": peak, "share %": 100 * reached / peak}
    gain = rows[0]["CPU ms an image"] / rows[1]["CPU ms an image"]
    return [row | {"times faster": gain if row["computed in"] == "bfloat16" else 1.0} for row in rows]


def dense(dtype: torch.dtype) -> list[dict[str, Any]]:
    """What tokens of another form add to a plain forward pass, both measured in turns."""
    model, images = tower(dtype), torch.randn(BATCH, 3, 224, 224)
    rows = []
    for names in [*([token_type] for token_type in TOKEN_TYPES), ["joint", "value", "qq", "kk"]]:
        times = in_turns(lambda: model(images), lambda names=names: model.token_types(images, names))
        more = 100 * (statistics.median(b / a for a, b in times) - 1)
        row = {"dtype": str(dtype)[6:], "tokens": ", ".join(names), "plain ms": statistics.median(a for a, _ in times)}
        row |= {"with them ms": statistics.median(b for _, b in times), "more %": more}
        rows.append(row | (at_most(more, 6) if len(names) == 1 else {"target": "", "met": ""}))
    return rows


def in_turns(*functions: Callable[[], object], rounds: int = REPEATS) -> list[tuple[float, ...]]:
    """CPU ms of each call, round by round: what slows one machine for a while slows both."""
    for function in functions:
        function()
    times = []
    for _ in range(rounds):
        took = []
        for function in functions:
            start = time.process_time()
            function()
            took.append(1000 * (time.process_time() - start))
        times.append(tuple(took))
    return times


def cached(dtype: torch.dtype) -> list[dict[str, Any]]:
    """A photo's tokens from its file: read from the cache, and computed again."""
    model = tower(dtype)
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        for number in range(16):
            Image.effect_noise((640, 480), 60 + number).convert("RGB").save(photos / f"{number}.jpg", quality=90)
        source = OpenTower(model)
        cache = cache_tokens(source, photos, Path(folder) / "cache", ["joint"])
        files = sorted(photos.iterdir())

        def compute() -> None:
            pictures = [Image.open(file).convert("RGB") for file in files]
            model.encode(pictures)

        plain = Path(folder) / "plain"
        plain.write_bytes(bytes(2 * (196 * 512 + 512) * len(files)))
        read = cpu_ms(lambda: [cache[file.name]["joint"].sum() for file in files], 21) / len(files)
        limit = cpu_ms(lambda: np.fromfile(plain, np.float16).reshape(len(files), -1).sum(1), 21) / len(files)
        again = cpu_ms(compute, 3) / len(files)
    row = {"tokens": "196 × 512 and 512, float16", "computed ms": again, "read and summed ms": read}
    return [row | {"a plain file ms": limit, "times faster": again / read}]


class OpenTower(Source):
    """A source whose tower is open already."""

    def __new__(cls, model: CLIPImage) -> "OpenTower":
        return super().__new__(cls, "ViT-B-16", {"model": model})

    def open(self) -> CLIPImage:
        return self.options["model"]


def on_gpu() -> list[dict[str, Any]]:
    """Images a second in bfloat16, as it is and compiled."""
    model, images = tower(torch.bfloat16).cuda(), torch.randn(256, 3, 224, 224, device="cuda")
    rows = []
    for name, run in (("eager", model), ("torch.compile", torch.compile(model))):
        for _ in range(3):
            run(images)
        times = []
        for _ in range(21):
            torch.cuda.synchronize()
            start = time.perf_counter()
            run(images)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        rows.append({"GPU": torch.cuda.get_device_name(), "how": name, "images/s": 256 / statistics.median(times)})
    return rows


def main() -> None:
    rows = precision()
    faster = torch.float32 if rows[1]["times faster"] < 1 else torch.bfloat16
    tables = {
        f"A ViT-B/16 of 224², {BATCH} images, one thread": rows,
        "Dense tokens beside the plain forward pass": dense(faster),
        f"Cached tokens beside computing them again ({str(faster)[6:]})": cached(faster),
    }
    if torch.cuda.is_available():
        tables["ViT-B/16 on a GPU, bfloat16"] = on_gpu()
    publish("towers", tables, ["torch", "open_clip_torch"])


if __name__ == "__main__":
    main()
