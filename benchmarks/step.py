"""Time of each part of a training step of `tokenizer/vqvae`: 256×256 pixels, one image, LPIPS and AdamW."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measure import at_most, publish
from torchvision.models import vgg16

from sightword.engine.config import Optim
from sightword.engine.optim import make_optimizer
from sightword.systems.tokenizer.config import TokenizerConfig
from sightword.systems.tokenizer.task import make_task

REPEATS = 3


def parts() -> dict[str, float]:
    """CPU seconds of each part of one step, the median of REPEATS steps."""
    with tempfile.TemporaryDirectory() as folder:
        trunk = Path(folder) / "vgg16.pth"
        torch.save({f"features.{name}": w for name, w in vgg16().features.state_dict().items()}, trunk)
        task = make_task(TokenizerConfig(lpips_weights=str(trunk)))
        task.lpips.load(torch.device("cpu"))
    optimizer = make_optimizer(Optim(), task)
    images = torch.rand(1, 3, 256, 256) * 2 - 1
    steps = [one_step(task, optimizer, images) for _ in range(REPEATS + 1)][1:]
    return {name: statistics.median(step[name] for step in steps) for name in steps[0]}


def one_step(task, optimizer, images) -> dict[str, float]:
    """The same work as TokenizerTask.losses and its backward, cut where one part hands over to the next."""
    model, took = task.model, {}

    def timed(name: str, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        began = time.process_time()
        result = work()
        took[name] = time.process_time() - began
        return result

    latents = timed("encoder, forward", lambda: model._latents(images))
    quantized = timed("quantiser, forward and EMA", lambda: model.quantizer(latents))
    shown = timed("decoder, forward", lambda: model._images(quantized.codes, (256, 256)))
    looks = timed("L1 and LPIPS, forward", lambda: task._looks(shown, images))
    terms = looks | {"vq_loss": quantized.codebook_loss, "commitment_loss": quantized.loss}
    (slope,) = timed(
        "L1 and LPIPS, backward",
        lambda: torch.autograd.grad(task.total(looks), shown, retain_graph=True),
    )
    (pull,) = timed(
        "decoder, backward (to the codes)",
        lambda: torch.autograd.grad(shown, quantized.codes, slope, retain_graph=True),
    )
    timed("quantiser, backward", lambda: torch.autograd.grad(quantized.codes, latents, pull, retain_graph=True))
    began = time.process_time()
    task.total(terms).backward()
    whole = time.process_time() - began
    before = sum(took[name] for name in took if "backward" in name)
    took["encoder's backward and the weights' gradients"] = max(0.0, whole - before)
    timed("AdamW", optimizer.step)
    optimizer.zero_grad()
    return took


def main() -> None:
    took = parts()
    total = sum(took.values())
    quantiser = sum(seconds for name, seconds in took.items() if "quantiser" in name)
    rows = [
        {"part": name, "CPU ms": 1000 * seconds, "share %": 100 * seconds / total, "target": "", "met": ""}
        for name, seconds in took.items()
    ]
    rows.append({"part": "quantiser, all", "CPU ms": 1000 * quantiser, "share %": 100 * quantiser / total})
    rows[-1] |= at_most(100 * quantiser / total, 3)
    rows.append({"part": "the step", "CPU ms": 1000 * total, "share %": 100.0, "target": "", "met": ""})
    publish("step", {"One training step of tokenizer/vqvae, one image, one thread": rows}, ["torch", "lpips"])


if __name__ == "__main__":
    main()
