"""Calibration of words: what a word's cosine with patches and with images usually is, and from where on it is present.

Cosines of different words are not comparable: each word has an offset and a spread of its own. A calibration keeps
their mean μ_w and standard deviation σ_w over unlabelled training images, for patch tokens of each type and for the
pooled vector, and, from some labelled images, the curve by which a word is present:

    z = (cos − μ_w) / σ_w            presence p_w = sigmoid(slope_w · (z_pooled − middle_w))

The file `calibration.safetensors` lies beside the anchors. It states which encoder, words and images it is of.

Legend: B images; N patches; K words of a stream; D dimension of the joint space.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sightword.errors import MissingFileError, SightwordError
from sightword.ops.nearest import unit
from sightword.storage.atomic import write_atomically
from sightword.storage.cache import digest, items_digest
from sightword.storage.checkpoint import read_checkpoint
from sightword.storage.reader import parse_json
from sightword.systems.intent.anchors import Anchors, find
from sightword.version import VERSION

NAME, FORMAT, POOLED = "calibration.safetensors", 1, "pooled"
#: Slope and middle of the presence curve, per unit of z, of words that no label says anything about.
SLOPE, MIDDLE = 4.0, 1.0
#: Prior standard deviations: of the log of the slope that all words share, around SLOPE; and of each word's log slope
#: and middle around the shared ones. Few labels else give slopes that are too steep. Chosen by the log loss of the
#: validation scenes of the synthetic data, 0.087 a word (with 1, 0.5 and 0.7 it is 0.104).
SHARED, SLOPES, MIDDLES = 0.2, 0.25, 0.3
#: Rules for patches: with labels, words of p > 0.5 where z > Z; without, z + POOLED_SHARE · z_pooled > UNLABELLED_Z.
Z, UNLABELLED_Z, POOLED_SHARE = 1.5, 2.0, 0.5
STILL = 1e-6  # standard deviation of a cosine below which a word does not tell images apart
LABELLED_RULE = f"a word of presence above 0.5 where z > {Z}"
UNLABELLED_RULE = f"z + {POOLED_SHARE}·z_pooled > {UNLABELLED_Z}, as there are no labels"


class Moments(NamedTuple):
    """Mean and standard deviation of each word's cosine, (K,) float32 each."""

    mean: Tensor
    std: Tensor

    def z(self, cosines: Tensor) -> Tensor:
        """Return cosines (…, K) in standard deviations from their word's mean."""
        return (cosines - self.mean.to(cosines)) / self.std.to(cosines)


class Presence(NamedTuple):
    """The curve by which each word is present in an image, (K,) float32 each."""

    slope: Tensor  # above 0
    middle: Tensor  # the z of probability 0.5

    def logits(self, z: Tensor) -> Tensor:
        """Return presence logits of z (…, K) of the pooled vector."""
        return self.slope.to(z) * (z - self.middle.to(z))


@dataclass
class Calibration:
    """The calibration of all streams."""

    moments: Mapping[str, Mapping[str, Moments]]  # stream → token type, or "pooled" → moments
    curves: Mapping[str, Presence]  # stream → its words' curves; empty: made without labels
    words: Mapping[str, Sequence[str]]  # stream → its K words
    meta: Mapping[str, object] = field(default_factory=dict)  # encoder, anchors and images that it is of
    source: str = "this calibration"  # the file, for messages

    @property
    def labelled(self) -> bool:
        """Whether presence was calibrated on labelled images."""
        return bool(self.curves)

    @property
    def tower(self) -> str:
        """The digest of the image encoder's weights."""
        return str(self.meta.get("tower", ""))

    @property
    def rule(self) -> str:
        """The rule by which a patch is named a word."""
        return LABELLED_RULE if self.labelled else UNLABELLED_RULE

    def of(self, stream: str, token_type: str) -> Moments:
        """Return the moments of a stream's words. Raises SightwordError if there are none of this token type."""
        if stream not in self.moments:
            raise SightwordError(f"{self.source} has no stream {stream!r}, only {', '.join(self.moments)}. {REMEDY}")
        if token_type not in self.moments[stream]:
            raise SightwordError(
                f"{self.source} has no {token_type} tokens of {stream}, only {', '.join(self.moments[stream])}. Set "
                f"system.token_types.{stream}=…, or calibrate with a cache that has {token_type} tokens. {REMEDY}"
            )
        return self.moments[stream][token_type]

    def presence(self, stream: str) -> Presence:
        """Return the curves of a stream's words; without labels one for all words."""
        if stream in self.curves:
            return self.curves[stream]
        count = len(self.words[stream])
        return Presence(torch.full((count,), SLOPE), torch.full((count,), MIDDLE))

    # ------------------------------------------------------------------------------------------------------- checks

    def check_fits(self, anchors: Anchors) -> None:
        """Raise SightwordError unless the calibration is of the words of these anchors."""
        if words_digest(anchors) != self.meta.get("words"):
            raise SightwordError(f"{self.source} was made for other anchors than {anchors.source}. {REMEDY}")

    def check_tower(self, weights: str, what: str) -> None:
        """Raise SightwordError unless the encoder with this digest of weights is the one of the calibration.

        what: the encoder, or the tokens that it made, for the message.
        """
        if weights != self.tower:
            raise SightwordError(
                f"{self.source} was made with an image encoder of weights {self.tower}; {what} is of {weights}. Its "
                f"numbers hold for no other encoder. {REMEDY}"
            )

    # -------------------------------------------------------------------------------------------------------- files

    def write(self, file: Path) -> None:
        """Write the file, atomically."""
        tensors = {
            f"{stream}/{kind}/{name}": value.float().clone(memory_format=torch.contiguous_format)
            for stream, kinds in self.moments.items()
            for kind, moments in kinds.items()
            for name, value in moments._asdict().items()
        }
        for stream, curve in self.curves.items():
            tensors |= {f"{stream}/presence/{name}": value.float().clone() for name, value in curve._asdict().items()}
        told = {**self.meta, "format": FORMAT, "rule": self.rule, "streams": dict(self.words)}
        file.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(file) as beside:
            save_file(tensors, beside, metadata={"calibration": json.dumps(told, ensure_ascii=False)})

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read what `write` wrote. Raises SightwordError for another file."""
        if not file.is_file():
            raise MissingFileError(f"{file} does not exist. {REMEDY}")
        tensors = {str(key): value for key, value in read_checkpoint(file).items() if isinstance(value, Tensor)}
        words, meta = _told(file)
        moments: dict[str, dict[str, Moments]] = {stream: {} for stream in words}
        curves = {}
        for stream, kind in sorted({tuple(name.split("/")[:2]) for name in tensors if name.count("/") == 2}):
            names = Presence._fields if kind == "presence" else Moments._fields
            found = [tensors.get(f"{stream}/{kind}/{name}") for name in names]
            if stream not in words or any(t is None or t.shape != (len(words[stream]),) for t in found):
                raise SightwordError(f"{file} is damaged: {stream}/{kind} does not fit its words. {REMEDY}")
            if not all(bool(t.isfinite().all()) for t in found if t is not None):
                raise SightwordError(f"{file} is damaged: {stream}/{kind} is not finite. {REMEDY}")
            values = [t for t in found if t is not None]
            if kind == "presence":
                curves[stream] = Presence(*values)
            else:
                moments[stream][kind] = Moments(*values)
        return cls(moments, curves, words, meta, str(file))


REMEDY = "Write one with: sightword calibrate anchors=… tokens=…"


def calibration_file(anchors: str | Path, given: str | Path = "") -> Path:
    """Return where the calibration of anchors is or would be: `given`, or else beside the anchors."""
    return Path(given).expanduser() if given else find(anchors).parent / NAME


def word_anchors(anchors: Anchors) -> Anchors:
    """Return anchors with one code per word: the unit mean of its prompts' vectors, without noisy copies.

    The copies of `expand=noise` only blur which word it is. Numbers of classes stay as they are.
    """
    return Anchors({stream: book.by_word() for stream, book in anchors.books.items()}, anchors.meta, anchors.source)


def words_digest(anchors: Anchors) -> str:
    """Return 16 hex digits over the words' vectors of all streams, and their order."""
    return digest({stream: book.codes for stream, book in word_anchors(anchors).books.items()})


# ------------------------------------------------------------------------------------------------------------- fitting


class Sums:
    """Running sums of cosines: what mean and standard deviation are computed of, in float64."""

    def __init__(self, words: Tensor) -> None:
        """words: (K, D), of length one."""
        self.words, self.count = words, 0
        self.total = torch.zeros(len(words), dtype=torch.float64)
        self.squares = torch.zeros(len(words), dtype=torch.float64)

    def add(self, tokens: Tensor) -> None:
        """Add tokens (…, D)."""
        cosines = (unit(tokens.flatten(0, -2).float()) @ self.words.T).double().cpu()  # (…, K)
        self.count += len(cosines)
        self.total += cosines.sum(0)
        self.squares += cosines.square().sum(0)

    def moments(self, names: Sequence[str], what: str) -> Moments:
        """Return the moments. Raises SightwordError for a word whose cosine is the same everywhere."""
        mean = self.total / self.count
        std = (self.squares / self.count - mean.square()).clamp_min(0).sqrt()
        if still := [name for name, value in zip(names, std.tolist(), strict=True) if value < STILL]:
            raise SightwordError(
                f"the cosine of {still[0]!r} with {what} is the same in all {self.count} of them. Calibrate on images "
                "that differ, and more of them"
            )
        return Moments(mean.float(), std.float())


def fit_presence(z: Tensor, targets: Tensor, known: Tensor) -> Presence:
    """Return the curves of words from labelled images: the most probable slopes and middles under a prior.

    z: (B, K) of the pooled vector; targets: (B, K) 0 or 1; known: (K,) bool, words that the labels speak of. Words
    share a slope and a middle, from which each may differ (`SLOPES`, `MIDDLES`): so 25 to 50 images are enough, and a
    word that is seen once gets no curve of its own. A word that is not known gets the shared curve.
    """
    z, targets = z[:, known].double(), targets[:, known].double()
    shared = torch.tensor([torch.tensor(SLOPE).log().item(), MIDDLE], dtype=torch.float64, requires_grad=True)
    own = torch.zeros(2, z.shape[1], dtype=torch.float64, requires_grad=True)  # in prior standard deviations
    optimiser = torch.optim.LBFGS([shared, own], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def curves() -> tuple[Tensor, Tensor]:
        return (shared[0] + SLOPES * own[0]).exp(), shared[1] + MIDDLES * own[1]

    def loss() -> Tensor:
        optimiser.zero_grad()
        slope, middle = curves()
        wrong = F.binary_cross_entropy_with_logits(slope * (z - middle), targets, reduction="sum")
        prior = own.square().sum() / 2 + ((shared[0] - torch.tensor(SLOPE).log()) / SHARED).square() / 2
        total = wrong + prior
        total.backward()
        return total

    optimiser.step(loss)
    with torch.no_grad():
        slope, middle = torch.full((len(known),), float(shared[0].exp())), torch.full((len(known),), float(shared[1]))
        slope[known], middle[known] = (values.float() for values in curves())
    return Presence(slope, middle)


def described(
    tower: str, preprocessing: Mapping[str, object], anchors: Anchors, images: Sequence[str], labelled: Sequence[str]
) -> dict[str, object]:
    """Return the metadata of a calibration. images, labelled: content keys of the images it is made of."""
    return {
        "writer": "sightword calibrate",
        "version": VERSION,
        "tower": tower,
        "preprocessing": dict(preprocessing),
        "words": words_digest(anchors),
        "images": len(images),
        "images_digest": items_digest(sorted(images)),
        "labelled": len(labelled),
        "labelled_digest": items_digest(sorted(labelled)) if labelled else "",
    }


def _told(file: Path) -> tuple[dict[str, list[str]], dict[str, object]]:
    """Return words and metadata. Raises SightwordError if another program wrote the file."""
    try:
        with safe_open(file, "pt") as opened:
            told = (opened.metadata() or {}).get("calibration", "")
    except SafetensorError as error:
        raise SightwordError(f"the metadata of {file} are damaged: {error}") from error
    if not told:
        raise SightwordError(f"{file} is not a calibration: sightword calibrate did not write it. {REMEDY}")
    fields = parse_json(told, f"the metadata of {file}", damaged=f"They are damaged. {REMEDY}")
    if (version := fields.integer("format", FORMAT)) != FORMAT:
        raise SightwordError(f"{file} has the format {version}, this sightword reads {FORMAT}: update it")
    streams = fields.mapping("streams")
    words = {stream: streams.texts(stream) for stream in streams}
    return words, {name: value for name, value in fields.plain().items() if name not in ("streams", "format")}
