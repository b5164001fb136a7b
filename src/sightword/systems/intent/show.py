"""Looking inside: the word of each patch, and what each adds to each intent. Pictures, and their twins in JSON.

Legend: h, w patches, N = h·w; K codes of a stream; C intents.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightword.ops.nearest import unit
from sightword.storage.atomic import write_atomically
from sightword.systems.intent.intentonomy import CLASSES
from sightword.systems.intent.measure import on_grid
from sightword.systems.intent.task import MultiStreamTask
from sightword.viz import chart, overlay
from sightword.viz.grid import titled

SIDE = 300  # how large a picture is shown


class Inside(NamedTuple):
    """One picture, read. Maps are in the picture's orientation, rows first."""

    picture: Image.Image  # what the tower saw: cropped and resized, not normalised
    logits: Tensor  # (C,)
    bias: Tensor  # (C,), the logits of no word at all
    codes: dict[str, Tensor]  # stream → (h, w), ids of codes
    classes: dict[str, Tensor]  # stream → (h, w), ids of the words that the codes are copies of
    margins: dict[str, Tensor]  # stream → (h, w), how much nearer the word is than the next other one, in cosine
    parts: dict[str, Tensor]  # stream → (h, w, C), what each patch adds to each logit; with `bias` they sum to it


@torch.no_grad()
def look(task: MultiStreamTask, picture: Image.Image) -> Inside:
    """Read one picture (RGB). The task is in eval mode; its tower is opened if it is not."""
    tower = task.tower(torch.device("cpu"))
    task.anchors.check_fits(tower)
    token_types = sorted(set(task.token_types.values()))
    found = tower.token_types(tower.preprocess.batch([picture]), token_types)
    tokens = {stream: found[token_type].tokens for stream, token_type in task.token_types.items()}
    read, looked = task.model(tokens), task.model.adapted(tokens)
    grid, parts = tower.grid(), task.model.attribute(read)
    ids = {stream: read.ids[stream][0] for stream in task.model.streams}
    seen = replace(tower.preprocess, mean=(0.0,) * 3, std=(1.0,) * 3)(picture)
    return Inside(
        Image.fromarray((seen.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()),
        read.logits[0],
        task.model.bias(),
        {stream: row.view(grid) for stream, row in ids.items()},
        {stream: classes_of(task, stream)[row].view(grid) for stream, row in ids.items()},
        {stream: _margin(task, stream, looked[stream][0], row).view(grid) for stream, row in ids.items()},
        {stream: part[0].unflatten(0, grid) for stream, part in parts.items()},
    )


def classes_of(task: MultiStreamTask, stream: str) -> Tensor:
    """(K,): the class id of each code; copies of a word share it."""
    return torch.tensor(task.anchors[stream].class_ids)


def names_of(task: MultiStreamTask, stream: str) -> dict[int, str]:
    """Class id → its word."""
    book = task.anchors[stream]
    return dict(zip(book.class_ids, book.names, strict=True))


def _margin(task: MultiStreamTask, stream: str, tokens: Tensor, ids: Tensor) -> Tensor:
    """Tokens (N, D), ids (N,) → (N,)"""
    cosines = unit(tokens.float()) @ task.model.book(stream).codes().T  # (N, K)
    classes = classes_of(task, stream)
    own = classes[None] == classes[ids][:, None]
    others = cosines.masked_fill(own, -1)
    return cosines.gather(1, ids[:, None])[:, 0] - others.amax(1)


# --------------------------------------------------------------------------------------------------------- pictures


def maps(task: MultiStreamTask, inside: Inside) -> Image.Image:
    """The picture and the words of its patches, stream by stream; clear where the margin is low."""
    large = inside.picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    shown, grey = {"what the tower saw": large}, large.convert("L").convert("RGB")
    for stream, classes in inside.classes.items():
        names = names_of(task, stream)
        numbers = {number: row for row, number in enumerate(names)}
        rows = torch.tensor([[numbers[int(number)] for number in line] for line in classes])
        margin = inside.margins[stream]
        sure = (margin / margin.quantile(0.75).clamp(min=1e-6)).clamp(0.15, 1)
        title = f"{stream}: {len(set(classes.flatten().tolist()))} of {len(names)} words"
        shown[title] = overlay.class_map(rows, list(names.values()), grey, sure, top=4)
    return titled(shown)


def reasons(task: MultiStreamTask, inside: Inside, intents: int = 3, words: int = 6) -> Image.Image:
    """For the likeliest intents: where words speak for it (red) and against it (blue), and the words themselves."""
    grey = inside.picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("L")  # so that red is never its own
    top = inside.logits.topk(intents).indices.tolist()
    total = {number: sum((part[..., number] for part in inside.parts.values()), torch.zeros(())) for number in top}
    limit = max(float(values.abs().max()) for values in total.values())
    shown = {}
    for number in top:
        terms = words_for(task, inside, number)
        most = dict(sorted(terms.items(), key=lambda term: -abs(term[1]))[:words])
        rest = sum(terms.values()) - sum(most.values())
        bias = float(inside.bias[number])
        others = {f"{len(terms) - len(most)} other words": rest} if len(terms) > len(most) else {}
        listed = most | others | {"of any picture": bias}
        logit, score = float(inside.logits[number]), float(inside.logits[number].sigmoid())
        told = f"sum {logit:+.2f}, score {score:.2f}{_side(task, score)}"
        heat = overlay.heat_map(total[number], grey, limit)
        lines = chart.terms(listed, SIDE, told)
        both = Image.new("RGB", (SIDE, SIDE + 8 + lines.height), "white")
        both.paste(heat, (0, 0))
        both.paste(lines, (0, SIDE + 8))
        shown[_intent(number)] = both
    return titled(shown)


def _side(task: MultiStreamTask, score: float) -> str:
    threshold = threshold_of(task)
    return "" if threshold is None else f" ({'over' if score > threshold else 'under'} the threshold)"


def threshold_of(task: MultiStreamTask) -> float | None:
    """Above which score an intent is said of a picture; None if no validation has given one."""
    return None if task.threshold.isnan() else on_grid(float(task.threshold))


def words_for(task: MultiStreamTask, inside: Inside, intent: int) -> dict[str, float]:
    """Word → what it adds to the logit of an intent, over all its patches. Their sum and the bias are the logit."""
    found: dict[str, float] = {}
    for stream, part in inside.parts.items():
        names = names_of(task, stream)
        for number in inside.classes[stream].unique().tolist():
            here = inside.classes[stream] == number
            found[f"{names[number]} ({stream})"] = float(part[..., intent][here].sum())
    return found


def table(task: MultiStreamTask, words: int = 10) -> Image.Image:
    """What words add to intents if they are everywhere: of each stream, the words that matter most."""
    rows, values = [], []
    for stream, each in by_class(task).items():
        most = sorted(each, key=lambda name: -float(each[name].abs().max()))[:words]
        rows += [f"{name} ({stream})" for name in most]
        values += [each[name] for name in most]
    intents = [_intent(number) for number in range(len(values[0]))]
    return chart.matrix(torch.stack(values).detach(), rows, intents)


@torch.no_grad()
def by_class(task: MultiStreamTask) -> dict[str, dict[str, Tensor]]:
    """Stream → word → (C,): what it adds to each logit if all patches show it; the mean over its copies."""
    found: dict[str, dict[str, Tensor]] = {}
    for stream in task.model.streams:
        each, classes = task.model.table(stream), classes_of(task, stream)
        names = names_of(task, stream)
        found[stream] = {name: each[classes == number].mean(0) for number, name in names.items()}
    return found


def _intent(number: int) -> str:
    return CLASSES[number] if number < len(CLASSES) else str(number)


# ------------------------------------------------------------------------------------------------------------- twins


def as_json(task: MultiStreamTask, inside: Inside) -> dict[str, Any]:
    """What the pictures show, in numbers."""
    scores, threshold = inside.logits.sigmoid(), threshold_of(task)
    streams = {}
    for stream, classes in inside.classes.items():
        names = names_of(task, stream)
        streams[stream] = {
            "codes": inside.codes[stream].tolist(),
            "words": [[names[int(number)] for number in line] for line in classes],
            "margins": np.round(inside.margins[stream].numpy(), 4).tolist(),
        }
    intents = {
        _intent(number): {
            "logit": float(inside.logits[number]),
            "score": float(scores[number]),
            "over_the_threshold": None if threshold is None else bool(scores[number] > threshold),
            "of_any_picture": float(inside.bias[number]),
            "words": words_for(task, inside, number),
            "places": sum((part[..., number] for part in inside.parts.values()), torch.zeros(())).tolist(),
        }
        for number in range(len(scores))
    }
    return {"threshold": threshold, "streams": streams, "intents": intents}


def write(task: MultiStreamTask, out: Path, picture: Image.Image | None = None) -> list[Path]:
    """The table of the whole model, and of a picture its maps and reasons; each picture with its JSON. Their files."""
    out.mkdir(parents=True, exist_ok=True)
    whole = {stream: {name: row.tolist() for name, row in each.items()} for stream, each in by_class(task).items()}
    files = _write(out, "table", table(task), {"intents": list(CLASSES), "words": whole})
    if picture is not None:
        inside = look(task, picture)
        told = as_json(task, inside)
        files += _write(out, "maps", maps(task, inside), {"streams": told.pop("streams")})
        files += _write(out, "reasons", reasons(task, inside), told)
    return files


def _write(out: Path, name: str, image: Image.Image, twin: Mapping[str, Any]) -> list[Path]:
    with write_atomically(out / f"{name}.png") as part:
        image.save(part, "PNG")
    with write_atomically(out / f"{name}.json") as part:
        part.write_text(json.dumps(twin, indent=1) + "\n", encoding="utf-8")
    return [out / f"{name}.png", out / f"{name}.json"]
