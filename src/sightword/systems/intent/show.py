"""Explain a prediction: the code of each patch, and what it adds to each intent. Figures, and JSON with their values.

Legend: h, w patches, N = h·w; K codes of a stream; C intents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightword.ops.nearest import unit
from sightword.systems.intent.config import STREAMS
from sightword.systems.intent.evaluate import on_grid
from sightword.systems.intent.hierarchy import INTENTS, levels, titles
from sightword.systems.intent.nothing import NothingMultiStream
from sightword.systems.intent.presence import PAIRS
from sightword.systems.intent.task import IntentTask, MultiStreamTask, PresenceTask
from sightword.viz import chart, overlay
from sightword.viz.grid import titled
from sightword.viz.write import write_picture

SIDE = 300  # pixels of an image in a figure
LEGEND = 4  # words of a stream that have a colour
COLUMNS = 3  # panels in a row, if there are more than one row of four
STREAM_TITLES = {"coco": "things", "places": "places", "emotion": "emotions", "ava": "styles", "actions": "actions"}
NOTHING = -1  # class id of a patch that is nothing

WordTask: TypeAlias = MultiStreamTask | PresenceTask  # a task whose logits are sums over words


class Explanation(NamedTuple):
    """One image's codes and what they add to its logits. Maps have the image's orientation, rows first."""

    image: Image.Image  # the encoder's input: cropped and resized, not normalised
    logits: Tensor  # (C,)
    bias: Tensor  # (C,), the logits without any code
    codes: dict[str, Tensor]  # stream → (h, w), ids of codes
    classes: dict[str, Tensor]  # stream → (h, w), class ids; copies of a word share one
    names: dict[str, dict[int, str]]  # stream → class id → its word
    margins: dict[str, Tensor]  # stream → (h, w), cosine of the code minus that of the nearest code of another word;
    # of calibrated words their presence in the image, a probability, and 0 where a patch is nothing
    parts: dict[str, Tensor]  # stream → (h, w, C), what each patch adds to each logit; with `bias` they sum to it
    threshold: float | None  # of scores; None if no validation has chosen one
    intents: tuple[str, ...]  # C names
    presence: Mapping[str, Mapping[str, float]] = {}  # stream → word → probability; empty if words are not calibrated
    added: Mapping[tuple[str, str], Tensor] = {}  # of presence: (stream or "pairs", name) → (C,), what the term adds
    where: Mapping[tuple[str, str], Tensor] = {}  # the same terms → (h, w), where each is, of sum 1

    @property
    def calibrated(self) -> bool:
        """Whether words are calibrated: a patch may be nothing, and `margins` are probabilities."""
        return bool(self.presence)

    def words(self, stream: str) -> list[list[str]]:
        """Return the word of each patch, h lists of w."""
        return [[self.names[stream][number] for number in row] for row in self.classes[stream].tolist()]

    @property
    def streams(self) -> list[str]:
        """The streams in the order in which figures show them: the built-in ones first."""
        return sorted(self.classes, key=lambda stream: STREAMS.index(stream) if stream in STREAMS else len(STREAMS))

    def by_stream(self, intent: int) -> dict[str, float]:
        """Return stream → what all its words add to the logit of an intent. Their sum and the bias are the logit."""
        others = [name for name in self.parts if name not in self.streams]  # pairs of words
        return {name: float(self.parts[name][..., intent].sum()) for name in [*self.streams, *others]}

    def places(self, intent: int) -> Tensor:
        """Return (h, w): what the patches add to the logit of an intent, summed over streams."""
        return torch.stack([part[..., intent] for part in self.parts.values()]).sum(0)

    def terms(self, intent: int) -> dict[str, float]:
        """Return "word (stream)" → what it adds to the logit of an intent. Their sum and the bias are the logit."""
        if self.added:
            return {_term(*name): float(values[intent]) for name, values in self.added.items()}
        found: dict[str, float] = {}
        for stream in self.streams:
            part = self.parts[stream]
            for number in self.classes[stream].unique().tolist():
                here = self.classes[stream] == number
                found[f"{self.names[stream][number]} ({stream})"] = float(part[..., intent][here].sum())
        return found


@torch.no_grad()
def explain(task: WordTask, image: Image.Image) -> Explanation:
    """Explain the prediction for one RGB image. The task must be in eval mode; opens its image encoder."""
    device = task.threshold.device
    tower = task.tower.on(device)
    found = tower.token_types(tower.preprocess.batch([image]).to(device), task.reads)
    tokens = {stream: found[token_type].tokens for stream, token_type in task.token_types.items()}
    look = _look_presence if isinstance(task, PresenceTask) else _look_codes
    looked, grid = look(task, tokens, next(iter(found.values())).pooled), tower.grid()
    seen = replace(tower.preprocess, mean=(0.0,) * 3, std=(1.0,) * 3)(image)
    return Explanation(
        Image.fromarray((seen.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()),
        looked.logits[0].cpu(),
        task.model.bias().detach().cpu(),
        {stream: ids.view(grid).cpu() for stream, ids in looked.ids.items()},
        {stream: classes_of(task, stream)[ids.cpu()].view(grid) for stream, ids in looked.ids.items()},
        {stream: names_of(task, stream) for stream in looked.ids},
        {stream: sure.view(grid).cpu() for stream, sure in looked.sure.items()},
        {stream: part[0].unflatten(0, grid).cpu() for stream, part in looked.parts.items()},
        threshold_of(task),
        task.classes,
        looked.presence,
        looked.added,
        {name: place.view(grid).cpu() for name, place in looked.where.items()},
    )


class _Looked(NamedTuple):
    """What a model says of one image, patches in one row."""

    logits: Tensor  # (1, C)
    ids: dict[str, Tensor]  # stream → (N,)
    sure: dict[str, Tensor]  # stream → (N,), as `Explanation.margins`
    parts: dict[str, Tensor]  # stream → (1, N, C)
    presence: dict[str, dict[str, float]] = {}
    added: dict[tuple[str, str], Tensor] = {}  # (C,)
    where: dict[tuple[str, str], Tensor] = {}  # (N,)


def _look_codes(task: WordTask, tokens: Mapping[str, Tensor], pooled: Tensor) -> _Looked:
    """Read the areas of codes."""
    assert isinstance(task, MultiStreamTask)
    model = task.model
    read = model(tokens, pooled) if isinstance(model, NothingMultiStream) else model(tokens)
    ids = {stream: read.ids[stream][0] for stream in model.streams}
    if isinstance(model, NothingMultiStream):
        present = {stream: model.of(stream).presence(pooled)[0] for stream in model.streams}
        sure = {stream: _sure(present[stream], ids[stream]) for stream in model.streams}
        return _Looked(read.logits, ids, sure, model.attribute(read), _named_presence(task, present))
    looked_up = model.adapted(tokens)
    sure = {stream: _margin(task, stream, looked_up[stream][0], ids[stream]) for stream in model.streams}
    return _Looked(read.logits, ids, sure, model.attribute(read))


def _look_presence(task: WordTask, tokens: Mapping[str, Tensor], pooled: Tensor) -> _Looked:
    """Read which words are present."""
    assert isinstance(task, PresenceTask)
    model, gate = task.model, task.config.nothing != "z"
    presence = model.presence(pooled)
    ids = {stream: each[0] for stream, each in model.named(tokens, pooled, gate).items()}
    present = dict(zip(model.streams, presence[0].split(model.sizes), strict=True))
    sure = {stream: _sure(present[stream], ids[stream]) for stream in model.streams}
    each = model.contributions(presence)[0].cpu()  # (T, C)
    added = dict(zip(task.term_names, each, strict=True))
    where = dict(zip(task.term_names, model.attention(tokens)[0].T, strict=True))
    logits, parts = model.from_presence(presence), model.attribute(tokens, pooled)
    return _Looked(logits, ids, sure, parts, _named_presence(task, present), added, where)


def _sure(presence: Tensor, ids: Tensor) -> Tensor:
    """Return the presence (N,) of the word of each patch; 0 of nothing. presence: (K,), ids: (N,)."""
    return torch.cat([presence, presence.new_zeros(1)])[ids]


def _named_presence(task: WordTask, presence: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    words = {stream: task.anchors[stream].names for stream in presence}
    return {stream: dict(zip(words[stream], each.tolist(), strict=True)) for stream, each in presence.items()}


def _term(stream: str, name: str) -> str:
    return f"{name} ({'pair' if stream == PAIRS else stream})"


@torch.no_grad()
def get_code_indices(task: MultiStreamTask, images: Tensor) -> dict[str, dict[str, Tensor]]:
    """Return the code of each patch of images (B, 3, H, W) in [-1, 1], in the image's orientation.

    Stream → {"codes": (B, h, w) rows of the codebook, "classes": (B, h, w) class ids, which copies share}. With
    `system.nothing` a patch without a word has the code K, one beyond the codebook, and the class -1.
    """
    kinds, pooled = task.encode_image(images)
    tokens = {name: kinds[kind] for name, kind in task.token_types.items()}
    model = task.model
    ids = model.named(tokens, pooled) if isinstance(model, NothingMultiStream) else model.nearest(model.adapted(tokens))
    grid = task.tower.on(images.device).grid((images.shape[2], images.shape[3]))
    found = {}
    for name, each in ids.items():
        classes = classes_of(task, name).to(each.device)
        found[name] = {"codes": each.unflatten(1, grid), "classes": classes[each].unflatten(1, grid)}
    return found


def classes_of(task: WordTask, stream: str) -> Tensor:
    """Return the class id of each code; copies of a word share it. With calibrated words the last is `NOTHING`."""
    nothing = [NOTHING] if task.calibration is not None else []
    return torch.tensor([*task.anchors[stream].class_ids, *nothing])


def names_of(task: WordTask, stream: str) -> dict[int, str]:
    """Return class id → its word."""
    book = task.anchors[stream]
    nothing = {NOTHING: "nothing"} if task.calibration is not None else {}
    return dict(zip(book.class_ids, book.names, strict=True)) | nothing


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
    """Return the image and the words of its patches, a panel per stream.

    Transparent where the margin is low; with calibrated words, where the word is doubtful, and where there is nothing.
    """
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
        if explanation.calibrated:
            sure, title = margin, _calibrated_title(explanation, stream)
        else:
            sure = (margin / margin.quantile(0.75).clamp(min=1e-6)).clamp(0.15, 1)
            title = f"{stream_title(stream)}: {len(rows[stream].unique())} of {len(words[stream])} words"
        shown[title] = overlay.class_map(rows[stream], words[stream], grey, sure, top=LEGEND)
    return titled(shown, columns=COLUMNS if len(shown) > COLUMNS + 1 else 0)


def stream_title(stream: str) -> str:
    """Return how people read the name of a stream: things for coco; a stream of one's own keeps its name."""
    return STREAM_TITLES.get(stream, stream)


def _calibrated_title(explanation: Explanation, stream: str) -> str:
    classes = explanation.classes[stream]
    found, known = classes.unique(), len(explanation.names[stream]) - 1
    count, nothing = int((found != NOTHING).sum()), float((classes == NOTHING).float().mean())
    return f"{stream_title(stream)}: {count} of {known} words, {100 * nothing:.0f} % nothing"


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
    terms, bias = explanation.terms(intent), float(explanation.bias[intent])
    most = {_label(explanation, name): value for name, value in _largest(terms, words)}
    rest = sum(terms.values()) - sum(most.values())
    left = len(terms) - len(most)
    what = "term" if explanation.added else "word"
    others = {f"{left} other {what}{'s' * (left > 1)}": rest} if left else {}
    logit, score = float(explanation.logits[intent]), float(explanation.logits[intent].sigmoid())
    side = ""
    if explanation.threshold is not None:
        side = f" ({'above' if score > explanation.threshold else 'below'} the threshold)"
    return chart.terms(most | others | {"bias": bias}, SIDE, f"sum {logit:+.2f}, score {score:.2f}{side}")


def _largest(terms: Mapping[str, float], most: int) -> list[tuple[str, float]]:
    """Return the terms that add most, without those that add nothing to two digits, except if there are few."""
    told = {name: value for name, value in terms.items() if abs(value) >= 0.005}
    return sorted((told or terms).items(), key=lambda term: -abs(term[1]))[:most]


def _label(explanation: Explanation, name: str) -> str:
    """Return how a term is written in a figure: of calibrated words with the probability that the image shows it."""
    if not explanation.calibrated:
        word, _, stream = name.rpartition(" (")
        return f"{word} ({stream_title(stream.removesuffix(')'))})"
    for stream, words in explanation.presence.items():
        for word, p in words.items():
            if name == _term(stream, word):
                return f"{word} {100 * p:.0f} %"
    return name.removesuffix(" (pair)")


def table(task: WordTask, words: int = 10) -> Image.Image:
    """Return what words add to intents: of each stream, the words with the largest effect, see `by_class`."""
    rows, values = [], []
    for stream, each in by_class(task).items():
        most = sorted(each, key=lambda name: -float(each[name].abs().max()))[:words]
        rows += [_term(stream_title(stream), name) for name in most]
        values += [each[name] for name in most]
    return chart.matrix(torch.stack(values).detach(), rows, list(titles(task.classes).values()))


@torch.no_grad()
def by_class(task: WordTask) -> dict[str, dict[str, Tensor]]:
    """Return stream → word → (C,): what it adds to each logit if every patch has it; the mean over its copies.

    Of presence: if the image surely shows it; pairs of words under "pairs".
    """
    found: dict[str, dict[str, Tensor]] = {}
    if isinstance(task, PresenceTask):
        for (stream, name), row in zip(task.term_names, task.model.weight().detach().T.cpu(), strict=True):
            found.setdefault(stream, {})[name] = row
        return found
    for stream in task.model.streams:
        each, classes = task.model.table(stream).cpu(), classes_of(task, stream)
        names = names_of(task, stream)
        found[stream] = {n: each[classes == number].mean(0) for number, n in names.items() if number != NOTHING}
    return found


# --------------------------------------------------------------------------------------------------------------- JSON


def as_json(explanation: Explanation) -> dict[str, object]:
    """Return the values that the figures of an image show: "threshold", "streams" and "intents"."""
    scores, threshold = explanation.logits.sigmoid().tolist(), explanation.threshold
    streams = {
        stream: {
            "codes": codes.tolist(),
            "words": explanation.words(stream),
            _measure(explanation): np.round(explanation.margins[stream].numpy(), 4).tolist(),
            **({"presence": dict(explanation.presence[stream])} if explanation.calibrated else {}),
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


def _measure(explanation: Explanation) -> str:
    return "presence_of_word" if explanation.calibrated else "margins"


def write_table(task: WordTask, out: Path) -> list[Path]:
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
