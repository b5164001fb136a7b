"""The tokenizer's section of the demo: `tokenizer/mini` on the photographs in scikit-image."""

import json
import shutil
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sightword.data.image import ImageBatch, read_image, to_image, to_tensor
from sightword.engine import run as runs
from sightword.systems.tokenizer.predict import ImageTokenizer
from sightword.towers.vq.image import VQImage
from sightword.viz import chart, grid, overlay
from sightword.viz.page import Figure, Section, Train, logged

TRAIN = [
    *("chelsea.png", "rocket.jpg", "motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "ihc.png"),
    *("hubble_deep_field.jpg", "camera.png", "coins.png", "grass.png"),
]
HELD_OUT = ["astronaut.png", "coffee.png"]
STEPS = 450


def section(out: Path, train: Train) -> Section:
    """Train, evaluate and draw figures. Resumes an interrupted run, and replaces a finished one."""
    run = out / "run"
    if (run / "summary.json").exists():
        shutil.rmtree(run)
    photos = _photographs(out / "photos")
    if not train(run, ["experiment=tokenizer/mini", *_data(photos)]):
        raise KeyboardInterrupt
    restored = runs.restore(run)
    loaders = runs.make_loaders(restored.config, restored.task)
    tokenizer = ImageTokenizer.from_pretrained(run)
    tokenizer.save_pretrained(out / "model")
    model = tokenizer.model
    return _section(run, model, _usage(model, cast("DataLoader[ImageBatch]", loaders.val)), photos)


def _photographs(folder: Path) -> Path:
    """Copy the photographs to folder/train and folder/held_out."""
    import skimage

    source = Path(skimage.__file__).parent / "data"
    for part, names in (("train", TRAIN), ("held_out", HELD_OUT)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(source / name, folder / part / name)
    return folder


def _data(photos: Path) -> list[str]:
    return [
        f"data.root={photos / 'train'}",
        f"data.val_root={photos / 'held_out'}",
        "data.val_crops=48",
        f"trainer.steps={STEPS}",
    ]


@torch.no_grad()
def _usage(model: VQImage, loader: DataLoader[ImageBatch]) -> np.ndarray:
    """Return how often each code is used over the validation crops, (K,)."""
    counts = torch.zeros(model.num_codes, dtype=torch.int64)
    for batch in loader:
        counts += torch.bincount(model.encode(batch.images).flatten(), minlength=model.num_codes)
    return counts.numpy()


def _section(run: Path, model: VQImage, counts: np.ndarray, photos: Path) -> Section:
    summary = json.loads((run / "summary.json").read_text())
    best = {name.removeprefix("val/"): value for name, value in summary["best"].items()}
    side, bits = model.factor, int(np.log2(model.num_codes))
    ratio = 24 / best["bits_per_pixel"]
    return Section(
        title="tokenizer: photographs to a grid of codes, and back",
        lead=(
            f"A network reads a photograph and writes, for every {side}×{side} pixels, one of {model.num_codes} "
            f"numbers. A second network paints the photograph again from those numbers alone: {bits} bits instead of "
            f"{side * side * 24}, {ratio:.0f} times less."
        ),
        figures=[
            *(_photograph(model, photos / "held_out" / name) for name in HELD_OUT),
            Figure(
                chart.bars(counts, title="How often each code is used on the held-out crops", size=(1000, 300)),
                "Every code, the most used first. In a codebook with many dead codes the curve would end early.",
            ),
            *_curves(run),
        ],
        metrics={
            "PSNR": (f"{best['psnr']:.2f} dB", "closeness to the original; higher is better"),
            "over mean colour": (
                f"+{best['psnr_gain']:.2f} dB",
                "gain over filling each crop with its mean colour",
            ),
            "SSIM": (f"{best['ssim']:.3f}", "likeness of structure, 1 is identical"),
            "codes in use": (
                f"{100 * best['code_usage_rate']:.0f} %",
                f"of {model.num_codes}, over all held-out crops",
            ),
            "perplexity": (
                f"{best['perplexity']:.0f}",
                "the number of codes that would give the same entropy at equal use",
            ),
            "bits per pixel": (f"{best['bits_per_pixel']:.3f}", "the photograph has 24"),
        },
        commands=[
            ("Once, to have sightword on your path:", "source .venv/bin/activate"),
            ("Train on your own photographs:", "sightword train experiment=tokenizer/mini data.root=/path/to/photos"),
            ("Turn a folder into codes that other programs can read:", _tokenize(run, photos)),
            ("The other experiments, and what they need:", "sightword list"),
        ],
        page_note=(
            f"{summary['cost']['batches']} batches in {summary['cost']['seconds']:.0f} s on {len(TRAIN)} photographs "
            "that scikit-image carries; the astronaut and the coffee were never trained on. Measured on "
            f"{48 * len(HELD_OUT)} crops of 64×64 of those two."
        ),
    )


def _tokenize(run: Path, photos: Path) -> str:
    return f"sightword tokenize model={run} images={photos / 'held_out'} out=cache/held_out size=256"


@torch.no_grad()
def _photograph(model: VQImage, file: Path) -> Figure:
    """Return a figure of a photograph, its code map and its reconstruction, side by side."""
    image = read_image(file)
    height = 256
    image = image.resize((round(image.width * height / image.height), height), Image.Resampling.BICUBIC)
    x = to_tensor(image)[None]
    ids = model.encode(x)
    again = to_image(model.decode(ids, size=(image.height, image.width))[0])
    codes = overlay.code_map(ids[0], model.num_codes, size=image.size)
    return Figure(
        grid.titled({"photograph": image, "its codes": codes, "painted from the codes": again}),
        f"{file.stem}: {image.width}×{image.height} pixels as {ids.shape[2]}×{ids.shape[1]} codes. Each colour is one "
        "code: where texture repeats, the same codes come back.",
    )


def _curves(run: Path) -> list[Figure]:
    rows = logged(run)
    psnr = {"held-out crops": rows["val/psnr"], "their mean colour": rows["val/psnr_mean_colour"]}
    usage = {"codes used in the last 100 batches": [(s, 100 * v) for s, v in rows["train/code_usage_rate_100"]]}
    return [
        Figure(
            grid.titled(
                {
                    "PSNR in dB": chart.curve(psnr, size=(490, 300), x_label="batch"),
                    "fraction of the codebook in use, %": chart.curve(
                        usage, size=(490, 300), x_label="batch", y_range=(0, 105)
                    ),
                }
            ),
            "During training the reconstruction becomes better than the mean colour, and the codebook stays in use.",
        )
    ]
