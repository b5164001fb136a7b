"""Explain a prediction: the code of each patch, and what it adds to each intent. Figures, and JSON with their values.

Legend: h, w patches, N = h·w; K codes of a stream; C intents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightword.ops.nearest import unit
from sightword.systems.intent.config import STREAMS
from sightword.systems.intent.evaluate import on_grid
from sightword.systems.intent.hierarchy import INTENTS, levels, titles
from sightword.systems.intent.task import IntentTask, MultiStreamTask
from sightword.viz import chart, overlay
from sightword.viz.grid import titled
from sightword.viz.write import write_picture

SIDE = 300  # pixels of an image in a figure
LEGEND = 4  # words of a stream that have a colour
COLUMNS = 3  # panels in a row
STREAM_TITLES = {"coco": "things", "places": "places", "emotion": "emotions", "ava": "styles", "actions": "actions"}


class Explanation(NamedTuple):
    """One image's codes and what they add to its logits. Maps have the image's orientation, rows first."""

    image: Image.Image  # the encoder's input: cropped and resized, not normalised
    logits: Tensor  # (C,)
    bias: Tensor  # (C,), the logits without any code
    codes: dict[str, Tensor]  # stream → (h, w), ids of codes
    classes: dict[str, Tensor]  # stream → (h, w), class ids; copies of a word share one
    names: dict[str, dict[int, str]]  # stream → class id → its word
    margins: dict[str, Tensor]  # stream → (h, w), cosine of the code minus that of the nearest code of another word
    parts: dict[str, Tensor]  # stream → (h, w, C), what each patch adds to each logit; with `bias` they sum to it
    threshold: float | None  # of scores; None if no validation has chosen one
    intents: tuple[str, ...]  # C names

    def words(self, stream: str) -> list[list[str]]:
        """Return the word of each patch, h lists of w."""
        return [[self.names[stream][number] for number in row] for row in self.classes[stream].tolist()]

    @property
    def streams(self) -> list[str]:
        """The streams in the order in which figures show them: the built-in ones first."""
        return sorted(self.classes, key=lambda stream: STREAMS.index(stream) if stream in STREAMS else len(STREAMS))

    def by_stream(self, intent: int) -> dict[str, float]:
        """Return stream → what all its words add to the logit of an intent. Their sum and the bias are the logit."""
        return {stream: float(self.parts[stream][..., intent].sum()) for stream in self.streams}

    def places(self, intent: int) -> Tensor:
        """Return (h, w): what the patches add to the logit of an intent, summed over streams."""
        return torch.stack([part[..., intent] for part in self.parts.values()]).sum(0)

    def terms(self, intent: int) -> dict[str, float]:
        """Return "word (stream)" → what it adds to the logit of an intent. Their sum and the bias are the logit."""
        found: dict[str, float] = {}
        for stream in self.streams:
            part = self.parts[stream]
            for number in self.classes[stream].unique().tolist():
                here = self.classes[stream] == number
                found[f"{self.names[stream][number]} ({stream})"] = float(part[..., intent][here].sum())
        return found


@torch.no_grad()
def explain(task: MultiStreamTask, image: Image.Image) -> Explanation:
    """Explain the prediction for one RGB image. The task must be in eval mode; opens its image encoder."""
    device = task.threshold.device
    tower = task.tower.on(device)
    found = tower.token_types(tower.preprocess.batch([image]).to(device), task.reads)
    tokens = {stream: found[token_type].tokens for stream, token_type in task.token_types.items()}
    read, looked_up = task.model(tokens), task.model.adapted(tokens)
    grid, parts, streams = tower.grid(), task.model.attribute(read), task.model.streams
    ids = {stream: read.ids[stream][0] for stream in streams}
    seen = replace(tower.preprocess, mean=(0.0,) * 3, std=(1.0,) * 3)(image)
    return Explanation(
        Image.fromarray((seen.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()),
        read.logits[0].cpu(),
        task.model.bias().cpu(),
        {stream: ids[stream].view(grid).cpu() for stream in streams},
        {stream: classes_of(task, stream)[ids[stream].cpu()].view(grid) for stream in streams},
        {stream: names_of(task, stream) for stream in streams},
        {stream: _margin(task, stream, looked_up[stream][0], ids[stream]).view(grid).cpu() for stream in streams},
        {stream: part[0].unflatten(0, grid).cpu() for stream, part in parts.items()},
        threshold_of(task),
        task.classes,
    )


@torch.no_grad()
def get_code_indices(task: MultiStreamTask, images: Tensor) -> dict[str, dict[str, Tensor]]:
    """Return the nearest code of each patch of images (B, 3, H, W) in [-1, 1], in the image's orientation.

    Stream → {"codes": (B, h, w) rows of the codebook, "classes": (B, h, w) class ids, which copies share}.
    """
    tokens, _ = task.encode_image(images)
    ids = task.model.nearest(task.model.adapted({name: tokens[kind] for name, kind in task.token_types.items()}))
    grid = task.tower.on(images.device).grid((images.shape[2], images.shape[3]))
    found = {}
    for name, each in ids.items():
        classes = classes_of(task, name).to(each.device)
        found[name] = {"codes": each.unflatten(1, grid), "classes": classes[each].unflatten(1, grid)}
    return found


def classes_of(task: MultiStreamTask, stream: str) -> Tensor:
    """Return (K,): the class id of each code; copies of a word share it."""
    return torch.tensor(task.anchors[stream].class_ids)


def names_of(task: MultiStreamTask, stream: str) -> dict[int, str]:
    """Return class id → its word."""
    book = task.anchors[stream]
    return dict(zip(book.class_ids, book.names, strict=True))


def threshold_of(task: IntentTask) -> float | None:
    """Return the score above which an intent is predicted; None if no validation has chosen one."""
    return None if task.threshold.isnan() else on_grid(float(task.threshold))


def _margin(task: MultiStreamTask, stream: str, tokens: Tensor, ids: Tensor) -> Tensor:
    """Tokens (N, D), ids (N,) → (N,)."""
    cosines = unit(tokens.float()) @ task.model.book(stream).codes().T  # (N, K)
    classes = classes_of(task, stream).to(ids.device)
    own = classes[None] == classes[ids][:, None]
    others = cosines.masked_fill(own, -1)
    return cosines.gather(1, ids[:, None])[:, 0] - others.amax(1)


# ------------------------------------------------------------------------------------------------------------ figures


def maps(explanation: Explanation) -> Image.Image:
    """Return the image and the words of its patches, a panel per stream; transparent where the margin is low."""
    large = explanation.image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    shown, grey = {"input of the encoder": large}, large.convert("L").convert("RGB")
    rows = {}
    for stream in explanation.streams:
        numbers = {number: row for row, number in enumerate(explanation.names[stream])}
        lines = explanation.classes[stream].tolist()
        rows[stream] = torch.tensor([[numbers[number] for number in line] for line in lines])
    words = {stream: list(names.values()) for stream, names in explanation.names.items()}
    for stream in explanation.streams:
        margin = explanation.margins[stream]
        sure = (margin / margin.quantile(0.75).clamp(min=1e-6)).clamp(0.15, 1)
        title = f"{stream_title(stream)}: {len(rows[stream].unique())} of {len(words[stream])} words"
        shown[title] = overlay.class_map(rows[stream], words[stream], grey, sure, top=LEGEND)
    return titled(shown, columns=COLUMNS)


def stream_title(stream: str) -> str:
    """Return how people read the name of a stream: things for coco; a stream of one's own keeps its name."""
    return STREAM_TITLES.get(stream, stream)


def reasons(explanation: Explanation, intents: int = 3, words: int = 6) -> Image.Image:
    """Return the likeliest intents: where words contribute positively (red) and negatively (blue), and which words."""
    grey = explanation.image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("L")  # red is never the image's own
    top = explanation.logits.topk(min(intents, len(explanation.intents))).indices.tolist()
    total = {number: explanation.places(number) for number in top}
    limit = max(float(values.abs().max()) for values in total.values())
    shown, named = {}, titles(explanation.intents)
    for number in top:
        parts = [overlay.heat_map(total[number], grey, limit), _sum(explanation, number, words)]
        parts += [_by_stream(explanation, number)] if len(explanation.streams) > 1 else []
        shown[named[explanation.intents[number]]] = _stacked(parts)
    return titled(shown)


def _stacked(parts: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    page = Image.new("RGB", (SIDE, sum(part.height + gap for part in parts) - gap), "white")
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height + gap
    return page


def _by_stream(explanation: Explanation, intent: int) -> Image.Image:
    """What each stream adds to an intent's logit: every stream has its line, also one whose words add nothing."""
    values = {f"all {stream_title(stream)}": value for stream, value in explanation.by_stream(intent).items()}
    name = explanation.intents[intent]
    told = f"group: {INTENTS[name].group}" if levels(explanation.intents) else ""
    return chart.terms(values, SIDE, told)


def _sum(explanation: Explanation, intent: int, words: int) -> Image.Image:
    """The largest terms of an intent's logit, the others together, and the bias."""
    terms, bias = _titled_terms(explanation, intent), float(explanation.bias[intent])
    most = dict(sorted(terms.items(), key=lambda term: -abs(term[1]))[:words])
    rest = sum(terms.values()) - sum(most.values())
    left = len(terms) - len(most)
    others = {f"{left} other word{'s' * (left > 1)}": rest} if left else {}
    logit, score = float(explanation.logits[intent]), float(explanation.logits[intent].sigmoid())
    side = ""
    if explanation.threshold is not None:
        side = f" ({'above' if score > explanation.threshold else 'below'} the threshold)"
    return chart.terms(most | others | {"bias": bias}, SIDE, f"sum {logit:+.2f}, score {score:.2f}{side}")


def _titled_terms(explanation: Explanation, intent: int) -> dict[str, float]:
    """The terms, with the streams as people read them."""
    found = {}
    for name, value in explanation.terms(intent).items():
        word, _, stream = name.rpartition(" (")
        found[f"{word} ({stream_title(stream.removesuffix(')'))})"] = value
    return found


def table(task: MultiStreamTask, words: int = 10) -> Image.Image:
    """Return what words add to intents if every patch has them: of each stream, the words with the largest effect."""
    rows, values = [], []
    for stream, each in by_class(task).items():
        most = sorted(each, key=lambda name: -float(each[name].abs().max()))[:words]
        rows += [f"{name} ({stream_title(stream)})" for name in most]
        values += [each[name] for name in most]
    return chart.matrix(torch.stack(values).detach(), rows, list(titles(task.classes).values()))


@torch.no_grad()
def by_class(task: MultiStreamTask) -> dict[str, dict[str, Tensor]]:
    """Return stream → word → (C,): what it adds to each logit if every patch has it; the mean over its copies."""
    found: dict[str, dict[str, Tensor]] = {}
    for stream in task.model.streams:
        each, classes = task.model.table(stream).cpu(), classes_of(task, stream)
        names = names_of(task, stream)
        found[stream] = {name: each[classes == number].mean(0) for number, name in names.items()}
    return found


# --------------------------------------------------------------------------------------------------------------- JSON


def as_json(explanation: Explanation) -> dict[str, object]:
    """Return the values that the figures of an image show: "threshold", "streams" and "intents"."""
    scores, threshold = explanation.logits.sigmoid().tolist(), explanation.threshold
    streams = {
        stream: {
            "codes": codes.tolist(),
            "words": explanation.words(stream),
            "margins": np.round(explanation.margins[stream].numpy(), 4).tolist(),
        }
        for stream, codes in explanation.codes.items()
    }
    named, grouped = titles(explanation.intents), bool(levels(explanation.intents))
    intents = {
        name: {
            "title": named[name],
            **({"group": INTENTS[name].group, "super_category": INTENTS[name].super_category} if grouped else {}),
            "logit": float(explanation.logits[number]),
            "score": score,
            "above_threshold": None if threshold is None else score > threshold,
            "bias": float(explanation.bias[number]),
            "words": explanation.terms(number),
            "by_stream": explanation.by_stream(number),
            "places": explanation.places(number).tolist(),
        }
        for number, (name, score) in enumerate(zip(explanation.intents, scores, strict=True))
    }
    return {"threshold": threshold, "streams": streams, "intents": intents}


def write_table(task: MultiStreamTask, out: Path) -> list[Path]:
    """Write the table of the whole model, as PNG and JSON. Return the files."""
    whole = {stream: {name: row.tolist() for name, row in each.items()} for stream, each in by_class(task).items()}
    return _write(
        out, "table", table(task), {"intents": list(task.classes), "titles": titles(task.classes), "words": whole}
    )


def write_explanation(explanation: Explanation, out: Path) -> list[Path]:
    """Write the maps and reasons of an image, each as PNG and JSON. Return the files."""
    told = as_json(explanation)
    files = _write(out, "maps", maps(explanation), {"streams": told.pop("streams")})
    return files + _write(out, "reasons", reasons(explanation), told)


def _write(out: Path, name: str, image: Image.Image, values: Mapping[str, object]) -> list[Path]:
    return write_picture(image, out / f"{name}.png", values)
