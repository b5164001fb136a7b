"""Each image's words, looked up once: the ids of every stream and patch, two bytes each, by path.

Frozen codebooks make a patch's word a pure function of its token, so what stage 1 trains on is this and no token:
2.5 kB an image instead of 0.5 MB. A job like any other: shards, resumable, under torchrun or on Ray.

Legend: B images of a shard; S streams; N patches; D width; K codes of a stream.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sightword.ops.nearest import nearest_in_each
from sightword.storage import shards
from sightword.storage.cache import FeatureCache, digest, header_for, id_dtype
from sightword.towers.token_cache import TokenCache


def write_codes(
    tokens: str | Path,
    anchors: Mapping[str, Tensor],
    token_types: Mapping[str, str],
    out: str | Path,
    shard_size: int = 256,
    engine: str = "inline",
    workers: int = 0,
    gpus: float = 0,
) -> FeatureCache:
    """Write a FeatureCache of "ids" (S, N) by the paths of a TokenCache; streams in alphabetical order.

    anchors: stream → (K, D). forms: stream → which tokens it reads. ValueError if the tokens do not fit the anchors.
    """
    source = TokenCache(tokens)
    keys, grid = list(source), check_fits(source, anchors, token_types)
    largest = max(map(len, anchors.values()))
    header = header_for(
        keys,
        {"ids": (id_dtype(largest), (len(anchors), grid))},
        writer="sightword codes",
        weights=source.header["weights"],
        shard_size=shard_size,
        num_codes=largest,
        preprocessing=source.header["preprocessing"],
        streams={name: len(codes) for name, codes in anchors.items()},
        token_types={name: token_types[name] for name in anchors},
        anchors=anchors_digest(anchors),
    )
    cache = FeatureCache.create(out, header)

    def worker() -> Callable[[int], None]:
        return _Reader(TokenCache(tokens), cache, keys, anchors, token_types)

    shards.execute(worker, cache.shards, cache.missing, engine=engine, desc="reading words", workers=workers, gpus=gpus)
    return cache


def anchors_digest(anchors: Mapping[str, Tensor]) -> str:
    """Of all codebooks: codes that are read with one file of anchors mean nothing with another."""
    return digest({name: codes.float() for name, codes in anchors.items()})


def check_fits(tokens: TokenCache, anchors: Mapping[str, Tensor], token_types: Mapping[str, str]) -> int:
    """How many patches an image has. ValueError unless each stream finds its form of tokens, as wide as its codes."""
    shapes: dict[str, Sequence[int]] = tokens.header["shapes"]
    for name, codes in anchors.items():
        token_type = token_types[name]
        if token_type not in shapes:
            there = ", ".join(sorted(shapes.keys() - {"pooled"}))
            raise ValueError(
                f"stream {name} reads {token_type} tokens, {tokens.out} has {there}: sightword cache tokens={there},{token_type}, "
                f"or system.tokens.{name}=…"
            )
        if shapes[token_type][1] != codes.shape[1]:
            raise ValueError(
                f"the {token_type} tokens of {tokens.out} are {shapes[token_type][1]} wide, the anchors of {name} "
                f"{codes.shape[1]}: they are of two towers"
            )
    return next(iter({shapes[token_types[name]][0] for name in anchors}))


class _Reader:
    """Turns shard number i into the ids of keys[i·size : (i+1)·size]."""

    def __init__(
        self,
        tokens: TokenCache,
        cache: FeatureCache,
        keys: Sequence[str],
        anchors: Mapping[str, Tensor],
        token_types: Mapping[str, str],
    ) -> None:
        self.tokens, self.cache, self.keys = tokens, cache, keys
        self.device = shards.device()
        self.anchors = {name: codes.to(self.device) for name, codes in anchors.items()}
        self.token_types = token_types

    def __call__(self, shard: int) -> None:
        size = self.cache.header["shard_size"]
        keys = self.keys[shard * size : (shard + 1) * size]
        ids: dict[str, Tensor] = {}
        for token_type in sorted({self.token_types[name] for name in self.anchors}):
            rows = np.stack([self.tokens.get(key, token_type) for key in keys])
            names = [name for name in self.anchors if self.token_types[name] == token_type]
            x = torch.from_numpy(rows).to(self.device).float()  # (B, N, D)
            ids |= zip(names, nearest_in_each(x, [self.anchors[name] for name in names], "cosine"), strict=True)
        stacked = torch.stack([ids[name] for name in sorted(ids)], 1).cpu().numpy()  # (B, S, N)
        self.cache.write_shard(shard, list(keys), {"ids": stacked.astype(self.cache.header["dtypes"]["ids"])})
