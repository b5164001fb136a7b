"""How texts fit scenes with labels: what `sightword background` measures for `ask background=`."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from sightword.errors import SightwordError
from sightword.systems.points.ask import query_embeddings
from sightword.systems.points.lift.cloud import class_numbers
from sightword.systems.points.predict import SceneFeatures, SceneQuery
from sightword.systems.points.presence import (
    LEAST,
    SCENES,
    Background,
    around,
    chosen,
    distribution,
    fits_of,
    sampled,
)
from sightword.systems.points.scannet.label import LabelSet


@torch.no_grad()
def measured(predictor: SceneQuery, scenes: Iterable[SceneFeatures], labels: LabelSet) -> Background:
    """Return how the classes fit labelled scenes, with the threshold that these scenes choose.

    Raises SightwordError for fewer than three scenes with labels, and if the text encoder knows none of the classes.
    """
    text = predictor.text_encoder()
    usable = [number for number, name in enumerate(labels.names) if len(text.unknown_words(name)) < len(name.split())]
    if not usable:
        raise SightwordError(f"the text encoder knows none of the classes of {labels.source}. Pass labels= of others")
    names = tuple(labels.names[number] for number in usable)
    classes = query_embeddings(text, names)
    rows: list[tuple[torch.Tensor, ...]] = []
    samples: list[torch.Tensor] = []
    for scene, points in scenes:
        label = class_numbers(points.cloud, [labels.ids[number] for number in usable])
        if not (label >= 0).any():
            raise SightwordError(f"{scene.name}: its cloud has no labels of {labels.source}. Leave it out, or label it")
        near, own = around(points.cloud.xyz, label, len(names)), points.known
        present = torch.bincount(label[label >= 0], minlength=len(names)) > 0
        features = F.normalize(points.features[own].float(), dim=1)
        rows.append((*fits_of(features, classes, near[own]), present))
        if len(samples) < SCENES:
            samples.append(sampled(features))
    if len(rows) < LEAST:
        raise SightwordError(f"{len(rows)} labelled scenes say nothing of a word's distribution. Pass {LEAST} or more")
    fits, without, present = (torch.stack(part) for part in zip(*rows, strict=True))
    both = (chosen(fits, without, present, known) for known in (True, False))
    return Background(names, *distribution(without), torch.stack(samples), *both)
