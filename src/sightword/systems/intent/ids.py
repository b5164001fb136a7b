"""Ids of codes, looked up once: for each image, stream and patch the index of the nearest code, two bytes each.

With frozen codebooks an id is a function of the patch token alone, so stage 1 trains on the ids and reads no tokens:
2.5 kB per image instead of 0.5 MB (ViT-H/14, five streams). The job is resumable, and runs under torchrun or on Ray.

Legend: B images of a shard; S streams; N patches; D dimension; K codes of a stream.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sightword.errors import SightwordError
from sightword.ops.nearest import nearest_in_each
from sightword.storage import shards
from sightword.storage.cache import FeatureCache, Header, digest, header_for, id_dtype
from sightword.storage.segments import Addition, ImageCache, open_for_writing, plan_index, read_index, relative_root
from sightword.towers.token_cache import TokenCache

#: Fields of a header: what rows that mix share.
RECIPE = ("weights", "preprocessing", "streams", "token_types", "anchors", "dtypes", "shapes")


def write_ids(
    tokens: str | Path,
    anchors: Mapping[str, Tensor],
    token_types: Mapping[str, str],
    out: str | Path,
    shard_size: int = 256,
    engine: str = "inline",
    workers: int = 0,
    gpus: float = 0,
) -> ImageCache:
    """Write an ImageCache of "ids" (S, N), of the images of a TokenCache; streams in alphabetical order.

    anchors: stream → (K, D). token_types: stream → the type of its tokens. Computes only what is missing: of images
    that were added or replaced. Raises SightwordError if the tokens do not fit the anchors, or `out` has ids of others.
    """
    source = TokenCache(tokens)
    source.refuse_earlier()
    patches, largest = check_fits(source, anchors, token_types), max(map(len, anchors.values()))

    def header_of(keys: Sequence[str]) -> Header:
        return header_for(
            keys,
            {"ids": (id_dtype(largest), (len(anchors), patches))},
            writer="sightword ids",
            weights=source.header["weights"],
            shard_size=shard_size,
            num_codes=largest,
            preprocessing=source.header["preprocessing"],
            streams={name: len(codes) for name, codes in anchors.items()},
            token_types={name: token_types[name] for name in anchors},
            anchors=anchors_digest(anchors),
        )

    addition = _addition(source, Path(out).expanduser(), header_of([]))
    if changed := str(source.compare()):
        shards.say(f"{changed}: ids are of the images as they were cached. New ones: {source.again()}")
    cache = addition.begin(header_of)
    if cache is not None:
        written, keys = cache, addition.plan.keys
        shards.execute(
            lambda: _Reader(TokenCache(tokens), written, keys, anchors, token_types),
            written.shards,
            written.missing,
            engine=engine,
            desc="looking up ids",
            workers=workers,
            gpus=gpus,
        )
    return ImageCache(out)


def _addition(source: TokenCache, out: Path, expected: Header) -> Addition:
    """Return what has to be looked up: the images of the tokens' index that have tokens and no ids."""
    rows, known = open_for_writing(out), read_index(out)
    rows.refuse_other_recipe(expected, RECIPE, "codebook or encoder", "out")
    there = source.keys()
    images = {path: entry for path, entry in source.files.images.items() if entry[-1] in there}
    index = source.files._replace(images=images, relative=relative_root(source.root, out))
    return plan_index(source.root, index, known, rows)


def anchors_digest(anchors: Mapping[str, Tensor]) -> str:
    """Return 16 hex digits over all codebooks; ids of one file of anchors are meaningless with another."""
    return digest({name: codes.float() for name, codes in anchors.items()})


def check_fits(tokens: TokenCache, anchors: Mapping[str, Tensor], token_types: Mapping[str, str]) -> int:
    """Return the number of patches of an image.

    Raises SightwordError unless each stream finds tokens of its type and of the dimension of its codes.
    """
    shapes: dict[str, Sequence[int]] = tokens.header["shapes"]
    for name, codes in anchors.items():
        token_type = token_types[name]
        if token_type not in shapes:
            found = ",".join(sorted(shapes.keys() - {"pooled"}))
            raise SightwordError(
                f"stream {name} reads {token_type} tokens, {tokens.out} has {found}. Set "
                f"system.token_types.{name}=…, or write another cache with sightword cache "
                f"token_type={found},{token_type} out=…"
            )
        if shapes[token_type][1] != codes.shape[1]:
            raise SightwordError(
                f"the {token_type} tokens of {tokens.out} have dimension {shapes[token_type][1]}, the anchors of "
                f"{name} {codes.shape[1]}: they are of two encoders"
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
            rows = np.stack([self.tokens.rows.get(key, token_type) for key in keys])
            names = [name for name in self.anchors if self.token_types[name] == token_type]
            x = torch.from_numpy(rows).to(self.device).float()  # (B, N, D)
            ids |= zip(names, nearest_in_each(x, [self.anchors[name] for name in names], "cosine"), strict=True)
        stacked = torch.stack([ids[name] for name in sorted(ids)], 1).cpu().numpy()  # (B, S, N)
        self.cache.write_shard(shard, list(keys), {"ids": stacked.astype(self.cache.header["dtypes"]["ids"])})
