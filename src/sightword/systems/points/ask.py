"""Questions to a scene in words: what each point is most like, by the features that were lifted onto it.

Legend: N points, Q texts, D width of CLIP's joint space.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sightword.storage.atomic import write_atomically
from sightword.systems.points import show
from sightword.systems.points.lift.cloud import Cloud, scene_cloud, write_ply
from sightword.systems.points.lift.extract import NOTHING_SEEN
from sightword.systems.points.lift.features import Features
from sightword.systems.points.lift.link import lift, link
from sightword.systems.points.scannet.reader import Scene, read_classes, views_of
from sightword.towers.base import TextTower
from sightword.towers.prompt import class_embeddings
from sightword.viz import overlay

SCALE = 40.0  # of cosines, as SCLIP and NACLIP have it for patches
ARTICLES = ("a", "an", "the", "some")
AGAINST = ("object", "thing", "stuff", "texture", "wall", "floor", "ceiling")  # what a point may be, if not the asked
HOT = (230, 57, 30)
FEW = 40  # classes of a data set that compete with a question; long lists have many words for one thing
BEST = 0.02  # share of the points that say where a thing is


class Lifted(NamedTuple):
    """A scene's cloud with the mean of what its frames see."""

    cloud: Cloud
    features: Tensor  # (N, D) float32, unit vectors; zero where nothing was seen
    seen: Tensor  # (N,) bool
    up: list[float]
    facing: Tensor  # (N, 3), see `show.facing`


class Answer(NamedTuple):
    """What was asked of N points."""

    texts: tuple[str, ...]  # the questions, then what they are weighed against
    questions: int  # how many of them are questions
    cosines: Tensor  # (N, Q)
    chances: Tensor  # (N, Q), softmax over the texts; 0 where nothing was seen
    best: Tensor  # (N,) int64, the likeliest text; -1 where nothing was seen


def lift_scene(scene: Scene, features: Features, voxel: float = 0.03, device: str = "cpu") -> Lifted:
    """ValueError if its frames see none of its points. features: of the scene's frames, in their order."""
    cloud = scene_cloud(scene, voxel)
    xyz = cloud.xyz.to(device)
    links = link(xyz, torch.zeros(len(xyz), dtype=torch.int64, device=device), views_of(scene.frames, device))
    if not len(links.point):
        raise ValueError(f"{scene.name}: {NOTHING_SEEN.format(points=len(xyz), frames=len(scene.frames))}")
    found = F.normalize(lift(features.maps.to(device).float(), links, len(xyz)), dim=-1).cpu()
    poses = torch.stack([frame.pose for frame in scene.frames])
    towards = show.facing(cloud.xyz, poses, links.point.cpu(), links.view.cpu())
    return Lifted(cloud, found, found.abs().amax(1) > 0, show.upwards(poses), towards)


def classes_near(folder: Path) -> dict[int, str]:
    """What the labels of a scene's cloud mean; empty where nothing says it."""
    try:
        return read_classes(folder.resolve().parent.parent)
    except (ValueError, OSError):
        return {}


def competitors(classes: Mapping[int, str]) -> list[str]:
    """What a question is weighed against, if nobody says."""
    return list(dict.fromkeys(classes.values())) if 0 < len(classes) <= FEW else list(AGAINST)


def plain(text: str) -> str:
    """Lowercase, without article: "A chair" is the class chair."""
    words = text.lower().split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ARTICLES else words)


def vectors(text: TextTower, texts: Sequence[str]) -> Tensor:
    """(Q, D) unit vectors; a text that brings no article gets one."""
    whole = [each if each.split()[0].lower() in ARTICLES else f"a {each}" for each in texts]
    return class_embeddings(text, whole, ("a photo of {}",)).cpu()


def answer(features: Tensor, seen: Tensor, text: TextTower, questions: Sequence[str], against: Sequence[str]) -> Answer:
    """Which of the questions, or of what they are weighed against, each point (N, D) is most like."""
    asked = list(dict.fromkeys(" ".join(question.split()) for question in questions if question.strip()))
    if not asked:
        raise ValueError('there is no question: sightword ask scene=… tower=… "a chair, a bed"')
    rest = [word for word in against if plain(word) not in {plain(question) for question in asked}]
    texts = (*asked, *rest)
    cosines = features @ vectors(text, texts).T
    chances = (SCALE * cosines).softmax(-1) if len(texts) > 1 else (cosines + 1) / 2
    return Answer(
        texts, len(asked), cosines, chances * seen[:, None], torch.where(seen, cosines.argmax(-1), torch.tensor(-1))
    )


def told(lifted: Lifted, answered: Answer, classes: Mapping[int, str]) -> list[str]:
    """A line for each question: how many points, how sure, where its likeliest points are; and how much of that is
    right, where the cloud has labels and classes says what they mean."""
    total, lines = int(lifted.seen.sum()), []
    for number, text in enumerate(answered.texts[: answered.questions]):
        chosen, chance = answered.best == number, answered.chances[:, number]
        x, y, z = lifted.cloud.xyz[chance.topk(max(1, round(BEST * total))).indices].median(0).values.tolist()
        share = 100 * int(chosen.sum()) / max(total, 1)
        lines.append(
            f"{text}: {int(chosen.sum()):,} of {total:,} points ({share:.1f} %), cosine up to "
            f"{float(answered.cosines[lifted.seen, number].max()):.3f}, likeliest around ({x:.2f}, {y:.2f}, {z:.2f}) m"
        )
        ids = [id_ for id_, name in classes.items() if plain(name) == plain(text)]
        if lifted.cloud.label is not None and ids:
            true = torch.isin(lifted.cloud.label, torch.tensor(ids)) & lifted.seen
            both = int((true & chosen).sum())
            found, right = (100 * both / max(int(part.sum()), 1) for part in (true, chosen))
            lines.append(
                f"  by the cloud's labels {found:.0f} % of it was found, and {right:.0f} % of what was found is it"
            )
    return lines


def coloured(lifted: Lifted, answered: Answer, number: int) -> np.ndarray:
    """(N, 3) uint8: the points that answer a question in red, as they are sure; the others pale."""
    pale = lifted.cloud.rgb.float().mean(1, keepdim=True) * 0.25 + 185
    strength = answered.chances[:, number]
    strength = torch.where(answered.best == number, 0.45 + 0.55 * strength, 0.35 * strength)[:, None]
    return (pale + strength * (torch.tensor(HOT) - pale)).round().byte().numpy()


def picture(lifted: Lifted, answered: Answer, name: str) -> Image.Image:
    """The scene, and beside it each question's answer."""
    total = max(1, int(lifted.seen.sum()))
    panels = {f"{name}, {len(lifted.seen):,} points, {total:,} of them seen": lifted.cloud.rgb.numpy()}
    for number, text in enumerate(answered.texts[: answered.questions]):
        share = 100 * int((answered.best == number).sum()) / total
        panels[f"“{text}”: {share:.1f} % of the points seen"] = coloured(lifted, answered, number)
    columns = 2 if len(panels) in (2, 4) else 3
    titles = list(panels)
    rows = [
        show.clouds(lifted.cloud.xyz, {t: panels[t] for t in titles[start : start + columns]}, lifted.up, lifted.facing)
        for start in range(0, len(titles), columns)
    ]
    page = Image.new("RGB", (max(row.width for row in rows), sum(row.height + 14 for row in rows) - 14), "white")
    top = 0
    for row in rows:
        page.paste(row, (0, top))
        top += row.height + 14
    return page


def write(lifted: Lifted, answered: Answer, name: str, out: Path) -> list[Path]:
    """answer.png; answer.ply, each point in the colour of the question it answers; scores.npz with all of them."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / part for part in ("answer.png", "answer.ply", "scores.npz")]
    with write_atomically(files[0]) as part:
        picture(lifted, answered, name).save(part, "PNG")
    palette = overlay.word_colours(answered.texts)
    own = (answered.best >= 0) & (answered.best < answered.questions)
    grey = np.repeat((lifted.cloud.rgb.float().mean(1, keepdim=True) * 0.25 + 150).byte().numpy(), 3, 1)
    rgb = np.where(own.numpy()[:, None], palette[answered.best.clamp(min=0).numpy()], grey)
    write_ply(files[1], lifted.cloud._replace(rgb=torch.from_numpy(rgb), label=answered.best + 1, instance=None))
    with write_atomically(files[2]) as part, open(part, "wb") as file:
        np.savez(
            file, texts=np.array(answered.texts), cosines=answered.cosines.half().numpy(), best=answered.best.numpy()
        )
    return files
