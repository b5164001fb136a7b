"""Answers to text queries about a scene: how well each text fits each point, as lines, figures and files.

Legend: N points, Q texts, D dimension of CLIP's joint space.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sightword.engine.contract import Result
from sightword.errors import SightwordError
from sightword.metrics.acceptance import GENERIC, highest
from sightword.storage.atomic import write_atomically
from sightword.storage.ply import Cloud, write_ply
from sightword.storage.writer import write_json, write_png
from sightword.systems.points import show
from sightword.systems.points.doctor.up import upwards
from sightword.systems.points.instance import BEST, FoundObject, find_objects
from sightword.systems.points.lift.cloud import scene_cloud
from sightword.systems.points.lift.extract import NOTHING_SEEN
from sightword.systems.points.lift.features import Features
from sightword.systems.points.lift.geometry import Links, lift, link
from sightword.systems.points.presence import Background, Calibration, fit_of, plain
from sightword.systems.points.scannet.label import read_classes
from sightword.systems.points.scannet.reader import Scene, views_of
from sightword.towers.base import TextTower
from sightword.towers.prompt import class_embeddings
from sightword.towers.tokenizer import ARTICLES, unknown_line
from sightword.viz.style import OTHER, Colour, category_colours, legend_of, rgb

LOGIT_SCALE = 40.0  # factor on cosines, as SCLIP and NACLIP have it for patches
AGAINST = ("object", "thing", "stuff", "texture", "wall", "floor", "ceiling")  # what a point may be besides the queries
OBJECTS = 5  # that are printed, of each query, if nothing is said
ENOUGH = 8  # generic texts that the text encoder knows, below which they give no threshold
FEW = 40  # classes of a data set that compete with a query; long lists have many words for one thing
PALER = 0.4  # strength of the colour of a query that does not fit
UNFIT = " (not here)"


#: Features of points: lifted, CLIP's own where a frame shows a point; or fused, a trained encoder's.
Kind: TypeAlias = Literal["lifted", "fused"]


class PointFeatures(NamedTuple):
    """A scene's cloud, with a feature for each point."""

    cloud: Cloud
    features: Tensor  # (N, D) float32, unit vectors; zero where nothing is known
    visible: Tensor  # (N,) bool: some frame shows the point
    known: Tensor  # (N,) bool: the point has a feature
    up: list[float]
    facing: Tensor  # (N, 3), see `show.facing`
    kind: Kind


def lift_scene(
    scene: Scene, features: Features, voxel: float = 0.03, device: str = "cpu", cloud: Cloud | None = None
) -> PointFeatures:
    """Return lifted CLIP: for each point the mean of its views' features. features: of the scene's frames, in order.

    cloud: the points; if None, the scene's own.

    Raises SightwordError if the frames show none of its points.
    """
    cloud = cloud or scene_cloud(scene, voxel)
    xyz = cloud.xyz.to(device)
    links = link(xyz, torch.zeros(len(xyz), dtype=torch.int64, device=device), views_of(scene.frames, device))
    if not len(links.point):
        raise SightwordError(f"{scene.name}: {NOTHING_SEEN.format(points=len(xyz), frames=len(scene.frames))}")
    found = F.normalize(lift(features.maps.to(device).float(), links, len(xyz)), dim=-1).cpu()
    visible = found.abs().amax(1) > 0
    return placed("lifted", scene, cloud, found, visible, visible, links)


def placed(
    kind: Kind, scene: Scene, cloud: Cloud, features: Tensor, visible: Tensor, known: Tensor, links: Links
) -> PointFeatures:
    """Return features with what a picture of the cloud needs: which way is up, and from where points were seen."""
    poses = torch.stack([frame.pose for frame in scene.frames])
    towards = show.facing(cloud.xyz, poses, links.point.cpu(), links.view.cpu())
    return PointFeatures(cloud, features, visible, known, upwards(scene.frames), towards, kind)


def classes_near(folder: Path) -> dict[int, str]:
    """Return the names of a scene's labels, by id; empty where no table is found."""
    try:
        return read_classes(folder.resolve().parent.parent)
    except (SightwordError, OSError):
        return {}


def competitors(classes: Sequence[str]) -> list[str]:
    """Return what competes with a query by default: the classes if they are few, or else `AGAINST`."""
    return list(dict.fromkeys(classes)) if 0 < len(classes) <= FEW else list(AGAINST)


def query_embeddings(text: TextTower, texts: Sequence[str]) -> Tensor:
    """Return unit vectors (Q, D) of texts; one without an article gets one."""
    whole = [each if each.split()[0].lower() in ARTICLES else f"a {each}" for each in texts]
    return class_embeddings(text, whole, ("a photo of {}",)).cpu()


# ------------------------------------------------------------------------------------------------------------- answers


class Found(NamedTuple):
    """Where a text query fits best."""

    query: str
    points: int  # that it fits better than the other texts
    percent: float  # of the points with features
    cosine: float  # the highest
    place: tuple[float, float, float]  # metres: the middle of the likeliest points, of the best object if there is one
    fit: float  # the mean of the highest cosines, of 2 % of the points
    score: float | None  # the fit, standardised: what the threshold is compared with; None: not calibrated
    fits: bool | None  # whether `score` reaches the threshold; None: it says neither, or is not calibrated
    objects: tuple[FoundObject, ...]  # best first; with a threshold that it reaches, those that reach it


@dataclass(frozen=True, eq=False, repr=False)
class SceneAnswer(Result):
    """The similarities of texts to the points of a scene."""

    scene: str
    features: Kind
    cloud: Cloud  # xyz (N, 3) in metres, in the world of the poses; rgb (N, 3) uint8
    visible: Tensor  # (N,) bool: some frame shows the point
    queries: tuple[str, ...]
    against: tuple[str, ...]  # the other texts that compete; the Q texts are queries, then these
    cosines: Tensor  # (N, Q)
    scores: Tensor  # (N, Q), softmax over the texts; 0 for a point without features
    best: Tensor  # (N,) int64, the text that fits best; -1 for a point without features
    up: list[float]
    facing: Tensor  # (N, 3), see `show.facing`
    metric: bool = True  # whether lengths are metres; False: the source has no scale, and it was guessed
    unknown_words: tuple[str, ...] = ()  # of the queries, that the text encoder does not know
    calibration: Calibration | None = None  # None: the threshold is not known

    @property
    def threshold(self) -> float | None:
        """What the score of a query has to reach; None: not calibrated."""
        return None if self.calibration is None else self.calibration.threshold

    @property
    def fits(self) -> tuple[bool | None, ...]:
        """Whether each query is here, in their order; None: its score says neither, or is not calibrated."""
        return tuple(found.fits for found in self.found)

    @property
    def points(self) -> Tensor:
        """The points (N, 3) float32, in metres."""
        return self.cloud.xyz

    @property
    def texts(self) -> tuple[str, ...]:
        """All Q texts."""
        return self.queries + self.against

    @property
    def known(self) -> Tensor:
        """Mask of the points with features, (N,) bool."""
        return self.best >= 0

    @property
    def found(self) -> list[Found]:
        """Where each of the queries fits best, in their order."""
        return [found for found, _ in self._finds]

    @property
    def object_of(self) -> Tensor:
        """The object of each point, (N,) int64, numbered from 1 over all queries in their order; 0: of none."""
        numbers, before = torch.zeros(len(self.points), dtype=torch.int64), 0
        for found, own in self._finds:
            numbers = torch.where(own >= 0, own + 1 + before, numbers)
            before += len(found.objects)
        return numbers

    def find(self, number: int) -> tuple[Found, Tensor]:
        """Return where a query fits, and the place of each point among its objects, (N,) int64; −1: in none."""
        return self._finds[number]

    @cached_property
    def _finds(self) -> list[tuple[Found, Tensor]]:
        return [self._find(number) for number in range(len(self.queries))]

    def _find(self, number: int) -> tuple[Found, Tensor]:
        total, own = int(self.known.sum()), self.best == number
        few, count = max(1, round(BEST * total)), int(own.sum())
        x, y, z = self.points[self.scores[:, number].topk(few).indices].median(0).values.tolist()
        cosines, said = self.cosines[self.known, number], self.calibration
        fit, least = fit_of(cosines), -1.0
        score = None if said is None else said.score(number, fit)
        fits = None if said is None or score is None else said.fits(number, score)
        if said is not None and fits:
            least = said.least(number)
        object_of = torch.full((len(self.points),), -1, dtype=torch.int64)
        objects, object_of[own] = find_objects(
            self.points[own], self.cosines[own, number], self.scores[own, number], few, least
        )
        at = objects[0].centre if objects else (x, y, z)
        percent = 100 * count / max(total, 1)
        query = self.queries[number]
        return Found(query, count, percent, float(cosines.max()), at, fit, score, fits, objects), object_of

    def plot(self) -> Image.Image:
        """Return the scene, and beside it the points of each query."""
        return picture(self)

    def to_dict(self) -> dict[str, object]:
        """Return plain values: what was found; and for each point its place in metres, whether a frame shows it, the
        number of the text that fits it best (queries, then against; −1: no features), and the queries' scores."""
        return {
            "scene": self.scene,
            "features": self.features,
            "queries": list(self.queries),
            "against": list(self.against),
            "unknown_words": list(self.unknown_words),
            "unit": unit_of(self),
            "threshold": self.threshold,
            "calibration": "" if self.calibration is None else self.calibration.told,
            "found": [f._asdict() | {"objects": [each.to_dict() for each in f.objects]} for f in self.found],
            "points": _rounded(self.points),
            "visible": self.visible.tolist(),
            "best": self.best.tolist(),
            "scores": _rounded(self.scores[:, : len(self.queries)]),
        }

    def __repr__(self) -> str:
        told = [f"{found.query!r} {found.points:,}{UNFIT * (found.fits is False)}" for found in self.found]
        counts = ", ".join(told)
        return f"SceneAnswer({self.scene}: {counts} of {int(self.known.sum()):,} points; {self.features} features)"


def _rounded(values: Tensor) -> list[list[float]]:
    """Return a matrix with four decimals, a tenth of a millimetre for points."""
    rows: list[list[float]] = values.double().round(decimals=4).tolist()
    return rows


def calibrated(found: PointFeatures, text: TextTower) -> Calibration | None:
    """Return a threshold for one scene, a cosine: the best of `GENERIC` texts; None if too few of them are known."""
    known = [word for word in GENERIC if not text.unknown_words(word)]
    if len(known) < ENOUGH:
        return None
    cosines = found.features[found.known] @ query_embeddings(text, known).T
    chosen = highest([fit_of(column) for column in cosines.T])
    assert chosen is not None
    rate = f"about {100 * chosen.wrong:.0f} % of unrelated texts reach it"
    return Calibration(chosen.score, f"the best of {len(known)} generic texts here, {rate}")


def answer(
    scene: str,
    found: PointFeatures,
    text: TextTower,
    queries: Sequence[str],
    against: Sequence[str],
    calibration: Calibration | Background | None = None,
    metric: bool = True,
) -> SceneAnswer:
    """Return which query, or which of the texts that compete with them, fits each point best.

    calibration: how texts fit other scenes; without any, generic texts give a threshold if the text encoder knows them.
    metric: whether lengths are metres, see `SceneAnswer`.
    Raises SightwordError without a query, and for one of which the text encoder knows no word.
    """
    wanted = tuple(dict.fromkeys(" ".join(query.split()) for query in queries if query.strip()))
    if not wanted:
        raise SightwordError('there is no text query. Pass one text or several, such as "a chair"')
    unknown = text.check_words(wanted)
    rest = tuple(word for word in against if plain(word) not in {plain(query) for query in wanted})
    texts = (*wanted, *rest)
    embeddings = query_embeddings(text, texts)
    cosines = found.features @ embeddings.T
    if isinstance(calibration, Background):
        calibration = calibration.calibration(wanted, embeddings[: len(wanted)])
    scores = (LOGIT_SCALE * cosines).softmax(-1) if len(texts) > 1 else (cosines + 1) / 2
    best = torch.where(found.known, cosines.argmax(-1), torch.tensor(-1))
    return SceneAnswer(
        scene=scene,
        features=found.kind,
        cloud=found.cloud,
        visible=found.visible,
        queries=wanted,
        against=rest,
        cosines=cosines,
        scores=scores * found.known[:, None],
        best=best,
        up=found.up,
        facing=found.facing,
        metric=metric,
        unknown_words=unknown,
        calibration=calibration or calibrated(found, text),
    )


def coverage_line(answered: SceneAnswer) -> str:
    """Return which features answered, and for how many points, those that no frame shows among them."""
    told = {"fused": "the trained encoder's fused features", "lifted": "lifted CLIP's features"}[answered.features]
    unseen = int((~answered.visible).sum())
    rest = f"{unseen:,} of them seen by no frame" if unseen else "all seen by a frame"
    if unseen:
        rest += " and with an answer too" if answered.known[~answered.visible].all() else " and without an answer"
    return f"answered by {told}: {len(answered.points):,} points, {rest}"


def summary_lines(answered: SceneAnswer, classes: Mapping[int, str], most: int = OBJECTS) -> list[str]:
    """Return lines for each query: how many points, the highest cosine, where its likeliest points are; and how much of
    it is right, if the cloud has labels and classes (id → name) contain the query. most: objects of each query."""
    total, lines = int(answered.known.sum()), [*filter(None, [unknown_line(answered.unknown_words)])]
    unit = unit_of(answered)
    if not answered.metric:
        lines.append(f"the source has no scale: lengths are in {unit}, of which 2 are the median depth of the photos")
    for number, found in enumerate(answered.found):
        lines.append(
            f"{found.query}: {found.points:,} of {total:,} points ({found.percent:.1f} %), cosine up to "
            f"{found.cosine:.3f}, likeliest around {_at(found.place, unit)}"
        )
        lines += filter(None, [fit_line(found, answered.calibration)])
        if found.fits is not False:  # of what is not here, the nearest objects are in the files
            lines += [_object_line(at, each, unit) for at, each in enumerate(found.objects[:most], 1)]
            if len(found.objects) > most:
                lines.append(f"  … and {len(found.objects) - most} more")
        ids = [id_ for id_, name in classes.items() if plain(name) == plain(found.query)]
        if answered.cloud.label is not None and ids:
            true = torch.isin(answered.cloud.label, torch.tensor(ids)) & answered.known
            chosen = answered.best == number
            both = int((true & chosen).sum())
            recall, precision = (100 * both / max(int(part.sum()), 1) for part in (true, chosen))
            lines.append(f"  by the cloud's labels: recall {recall:.0f} %, precision {precision:.0f} %")
    if answered.calibration is not None:
        lines.append(f"the threshold: {answered.calibration.told}")
    return lines


def fit_line(found: Found, calibration: Calibration | None) -> str:
    """Return what a user is told of the threshold; empty without one."""
    if calibration is None:
        return ""
    told = f"score {found.score:.2f}, the threshold is {calibration.threshold:.2f}"
    return f"  {({True: 'here', False: 'not here', None: 'perhaps here'})[found.fits]}: {told}"


def unit_of(answered: SceneAnswer) -> str:
    """Return the unit of lengths: m, or units where the scale of the source was guessed."""
    return "m" if answered.metric else "units"


def _object_line(number: int, found: FoundObject, unit: str) -> str:
    size = " × ".join(f"{side:.2f}" for side in found.size)
    return f"  {number}. at {_at(found.centre, unit)}, {size} {unit}, confidence {found.confidence:.2f}"


def _at(place: tuple[float, float, float], unit: str) -> str:
    return f"({place[0]:.2f}, {place[1]:.2f}, {place[2]:.2f}) {unit}"


# ------------------------------------------------------------------------------------------------------------- figures


def query_colours(queries: Sequence[str]) -> dict[str, Colour]:
    """Return the colour of each query in the picture and in the .ply file; those beyond ten share one grey."""
    return dict.fromkeys(queries, rgb(OTHER)) | category_colours(queries)


def coloured(answered: SceneAnswer, number: int) -> np.ndarray:
    """Return colours (N, 3) uint8: a query's points in its colour, stronger for a higher score; the others pale.

    The colour of a query that does not fit is paler.
    """
    pale = answered.cloud.rgb.float().mean(1, keepdim=True) * 0.25 + 185
    strength = answered.scores[:, number]
    strength = torch.where(answered.best == number, 0.45 + 0.55 * strength, 0.35 * strength)[:, None]
    strength = strength * (PALER if answered.fits[number] is False else 1.0)
    full = torch.tensor(query_colours(answered.queries)[answered.queries[number]])
    return (pale + strength * (full - pale)).round().byte().numpy()


def picture(answered: SceneAnswer) -> Image.Image:
    """Return a figure of the scene, with one for each query beside it, and a legend of the colours of the queries."""
    total = max(1, int(answered.known.sum()))
    name = f"{answered.scene}, {len(answered.points):,} points, {int(answered.visible.sum()):,} of them visible"
    panels = {name: answered.cloud.rgb.numpy()}
    for number, text in enumerate(answered.queries):
        fraction = 100 * int((answered.best == number).sum()) / total
        unsure = ", not here" if answered.fits[number] is False else ""
        panels[f"“{text}”: {fraction:.1f} % of {total:,} points{unsure}"] = coloured(answered, number)
    columns = 2 if len(panels) in (2, 4) else 3
    titles = list(panels)
    rows = [
        show.clouds(
            answered.points, {t: panels[t] for t in titles[start : start + columns]}, answered.up, answered.facing
        )
        for start in range(0, len(titles), columns)
    ]
    page = Image.new("RGB", (max(row.width for row in rows), sum(row.height + 14 for row in rows) - 14), "white")
    top = 0
    for row in rows:
        page.paste(row, (0, top))
        top += row.height + 14
    return show.keyed(page, legend_of(answered.queries, "queries"))


def write(answered: SceneAnswer, out: Path) -> list[Path]:
    """Write answer.png; answer.ply, each point in the colour of its query, with the text that fits it best (label, from
    1), its object (instance) and the best query's score; scores.npz with all numbers; answer.json, the same as text.
    Return them."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / part for part in ("answer.png", "answer.ply", "scores.npz", "answer.json")]
    write_png(picture(answered), files[0])
    palette = np.array(list(query_colours(answered.queries).values()), np.uint8)
    own = (answered.best >= 0) & (answered.best < len(answered.queries))
    grey = np.repeat((answered.cloud.rgb.float().mean(1, keepdim=True) * 0.25 + 150).byte().numpy(), 3, 1)
    rgb = np.where(own.numpy()[:, None], palette[answered.best.clamp(0, len(palette) - 1).numpy()], grey)
    found = answered.cloud._replace(rgb=torch.from_numpy(rgb), label=answered.best + 1, instance=answered.object_of)
    write_ply(files[1], found, score=answered.scores[:, : len(answered.queries)].amax(1))
    with write_atomically(files[2]) as part, open(part, "wb") as file:
        np.savez(
            file, texts=np.array(answered.texts), cosines=answered.cosines.half().numpy(), best=answered.best.numpy()
        )
    write_json(files[3], answered.to_dict(), indent=None)
    return files
