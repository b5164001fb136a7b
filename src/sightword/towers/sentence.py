"""What sentence-transformers adds to a text encoder: how tokens are pooled, and the layers behind the pooling.

    modules.json           the modules in their order: Transformer, Pooling, then any of Dense, Normalize
    1_Pooling/config.json  which pooling; a folder with this file alone is read too
    2_Dense/…              a linear layer with its activation: config.json and the weights

What such a folder states is applied, or refused by name.

Legend: B texts; L tokens; D token width; E pooled width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import MissingFileError, SightwordError
from sightword.storage.checkpoint import load_strictly, read_weights, write_weights
from sightword.storage.fields import Fields
from sightword.storage.reader import read_json, read_json_list
from sightword.storage.writer import write_json

#: Our names of poolings → their flags in 1_Pooling/config.json, and their names where it has one.
POOLINGS = {
    "cls": ("pooling_mode_cls_token", "cls"),
    "max": ("pooling_mode_max_tokens", "max"),
    "mean": ("pooling_mode_mean_tokens", "mean"),
    "mean_sqrt_len": ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
    "weighted_mean": ("pooling_mode_weightedmean_tokens", "weightedmean"),
    "last": ("pooling_mode_lasttoken", "lasttoken"),
}
MODULES, POOLING = "modules.json", "1_Pooling"
LIBRARY = "sentence_transformers.models"
ACTIVATIONS: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU)}
DAMAGED = "Fetch it again"


class Sentence(NamedTuple):
    """What follows the tokens of a text encoder."""

    pooling: str  # one of `POOLINGS`
    layers: nn.Sequential  # pooled (B, D) to (B, E); empty: nothing
    length: int | None = None  # most tokens of a text, special ones included; None: not stated

    @property
    def width(self) -> int | None:
        """E, where a layer sets it."""
        widths = [layer.linear.out_features for layer in self.layers if isinstance(layer, Dense)]
        return widths[-1] if widths else None


class Dense(nn.Module):
    """A linear layer with its activation, under sentence-transformers' names."""

    def __init__(self, linear: nn.Linear, activation: nn.Module) -> None:
        super().__init__()
        self.linear, self.activation = linear, activation

    def forward(self, vectors: Tensor) -> Tensor:
        found: Tensor = self.activation(self.linear(vectors.to(self.linear.weight.dtype)))
        return found.float()


class Normalize(nn.Module):
    """Brings vectors to length one."""

    def forward(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)


def pool(tokens: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """Tokens (B, L, D) to (B, D); padding has no part in it. mask: (B, L), True where a token is real; None: all are.

    mean_sqrt_len divides by the root of the number of tokens; weighted_mean weighs token t by t, counted from 1.
    """
    if pooling == "cls":
        return tokens[:, 0]
    real = tokens.new_ones(tokens.shape[:2]) if mask is None else mask.to(tokens.dtype)  # (B, L)
    if pooling == "max":
        return tokens.masked_fill(real[..., None] == 0, -torch.inf).amax(1)
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    if pooling == "last":
        return tokens[torch.arange(len(tokens), device=tokens.device), (real * places).argmax(1)]
    weights = real * places if pooling == "weighted_mean" else real
    total, count = (tokens * weights[..., None]).sum(1), weights.sum(1, keepdim=True).clamp(min=1)
    return total / (count.sqrt() if pooling == "mean_sqrt_len" else count)


# -------------------------------------------------------------------------------------------------------------- files


def read_sentence(folder: Path) -> Sentence | None:
    """Return what a folder of sentence-transformers states; None for a folder of transformers alone.

    Raises SightwordError for a module or a setting that is not computed here.
    """
    if (folder / MODULES).is_file():
        listed = [(each.text("type"), each.text("path", "")) for each in _all(folder / MODULES)]
    elif (folder / POOLING / "config.json").is_file():
        listed = [("Transformer", ""), ("Pooling", POOLING)]
    else:
        return None
    pooling, layers = "", nn.Sequential()
    for number, (kind, path) in enumerate(listed):
        place, name = folder / path, kind.rpartition(".")[2]
        if name == "Transformer" and number == 0 and not path:
            continue
        if name == "Pooling" and not pooling:
            pooling = _pooling(place / "config.json")
        elif name == "Dense" and pooling:
            layers.append(_dense(place))
        elif name == "Normalize" and pooling:
            layers.append(Normalize())
        elif name != "Dropout":
            raise SightwordError(
                f"{folder / MODULES} has {kind} as module {number}; of sentence-transformers, a Transformer in the "
                "folder itself, Pooling, Dense and Normalize are computed here, in this order"
            )
    if not pooling:
        raise SightwordError(f"{folder / MODULES} has no Pooling, so it gives no vector of a text")
    return Sentence(pooling, layers, _length(folder))


def _all(file: Path) -> Sequence[Fields]:
    return list(read_json_list(file, damaged=DAMAGED).all_mappings())


def _pooling(file: Path) -> str:
    """Return the pooling in a config. sentence-transformers would concatenate several; none is stated: the mean."""
    fields = read_json(file, missing=f"{MODULES} names it. {DAMAGED}", damaged=DAMAGED)
    if "pooling_mode" in fields:
        named = fields.texts("pooling_mode", alone=True)
        known = {theirs: ours for ours, (_, theirs) in POOLINGS.items()}
        chosen = [known.get(name, name) for name in named]
    else:
        flags = {flag: name for name, (flag, _) in POOLINGS.items()}
        chosen = [flags.get(key, key) for key in fields if key.startswith("pooling_mode_") and fields.flag(key)]
    if len(chosen) > 1 or (chosen and chosen[0] not in POOLINGS):
        raise SightwordError(f"{file} has the pooling {' and '.join(chosen)}; one of {', '.join(POOLINGS)} is computed")
    return chosen[0] if chosen else "mean"


def _dense(folder: Path) -> Dense:
    fields = read_json(folder / "config.json", missing=f"{MODULES} names it. {DAMAGED}", damaged=DAMAGED)
    activation = fields.text("activation_function", "Tanh").rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise SightwordError(
            f"{folder / 'config.json'} has the activation {activation}; one of {', '.join(ACTIVATIONS)} is computed"
        )
    sizes = [fields.integer(name, least=1) for name in ("in_features", "out_features")]
    linear = nn.Linear(sizes[0], sizes[1], bias=fields.flag("bias", True))
    found = [file for name in ("model.safetensors", "pytorch_model.bin") if (file := folder / name).is_file()]
    if not found:
        raise MissingFileError(f"{folder} has no model.safetensors with the weights of its layer. {DAMAGED}")
    weights = {name.removeprefix("linear."): weight for name, weight in read_weights(found[0]).items()}
    load_strictly(linear, weights, found[0])
    return Dense(linear, ACTIVATIONS[activation]())


def _length(folder: Path) -> int | None:
    file = folder / "sentence_bert_config.json"
    fields = read_json(file, damaged=DAMAGED) if file.is_file() else None
    if fields is None or "max_seq_length" not in fields or fields.value("max_seq_length") is None:
        return None
    return fields.integer("max_seq_length", least=1)


def write_sentence(sentence: Sentence, width: int, folder: Path) -> None:
    """Write what `read_sentence` and sentence-transformers read. width: D."""
    paths = [f"{number}_{type(layer).__name__}" for number, layer in enumerate(sentence.layers, 2)]
    kinds = ["Transformer", "Pooling", *(type(layer).__name__ for layer in sentence.layers)]
    entries = [
        {"idx": number, "name": str(number), "path": path, "type": f"{LIBRARY}.{kind}"}
        for number, (path, kind) in enumerate(zip(["", POOLING, *paths], kinds, strict=True))
    ]
    flags = {flag: name == sentence.pooling for name, (flag, _) in POOLINGS.items()}
    (folder / POOLING).mkdir(parents=True, exist_ok=True)
    write_json(folder / POOLING / "config.json", {"word_embedding_dimension": width, **flags, "include_prompt": True})
    for path, layer in zip(paths, sentence.layers, strict=True):
        (folder / path).mkdir(exist_ok=True)
        if isinstance(layer, Dense):
            linear, activation = layer.linear, type(layer.activation)
            write_weights(folder / path / "model.safetensors", layer.state_dict())
            sizes = {"in_features": linear.in_features, "out_features": linear.out_features}
            name = f"{activation.__module__}.{activation.__name__}"
            bias = linear.bias is not None
            write_json(folder / path / "config.json", {**sizes, "bias": bias, "activation_function": name})
    if sentence.length:
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": sentence.length, "do_lower_case": False})
    write_json(folder / MODULES, entries)
