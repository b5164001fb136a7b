"""Questions to a scene in words: what each point is most like, by the features that were lifted onto it.

Legend: N points, Q texts, D width of CLIP's joint space.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sightword import pictures
from sightword.atomic import write_atomically
from sightword.systems.points import show
from sightword.systems.points.cloud import Cloud, scene_cloud, write_ply
from sightword.systems.points.extract import NOTHING_SEEN, views_of
from sightword.systems.points.features import Features
from sightword.systems.points.link import lift, link
from sightword.systems.points.scannet import Scene
from sightword.towers.text import word_vectors
from sightword.towers.tower import TextTower

SCALE = 40.0  # of cosines, as SCLIP and NACLIP have it for patches
AGAINST = ("object", "thing", "stuff", "texture", "wall", "floor", "ceiling")  # what a point may be, if not the asked
HOT = (230, 57, 30)
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
    links = link(xyz, torch.zeros(len(xyz), dtype=torch.int64, device=device), views_of(scene, device))
    if not len(links.point):
        raise ValueError(f"{scene.name}: {NOTHING_SEEN.format(points=len(xyz), frames=len(scene.frames))}")
    found = F.normalize(lift(features.maps.to(device).float(), links, len(xyz)), dim=-1).cpu()
    poses = torch.stack([frame.pose for frame in scene.frames])
    towards = show.facing(cloud.xyz, poses, links.point.cpu(), links.view.cpu())
    return Lifted(cloud, found, found.abs().amax(1) > 0, show.upwards(poses), towards)


def vectors(text: TextTower, texts: Sequence[str]) -> Tensor:
    """(Q, D) unit vectors; a text that brings no article gets one."""
    whole = [each if each.split()[0].lower() in ("a", "an", "the", "some") else f"a {each}" for each in texts]
    return word_vectors(text, whole, ("a photo of {}",)).cpu()


def answer(features: Tensor, seen: Tensor, text: TextTower, questions: Sequence[str], against: Sequence[str]) -> Answer:
    """Which of the questions, or of what they are weighed against, each point (N, D) is most like."""
    asked = [" ".join(question.split()) for question in questions if question.strip()]
    if not asked:
        raise ValueError('there is no question: sightword ask scene=… tower=… "a chair, a bed"')
    rest = [word for word in against if word.strip() and word not in asked]
    texts = (*asked, *rest)
    cosines = features @ vectors(text, texts).T
    chances = (SCALE * cosines).softmax(-1) if len(texts) > 1 else (cosines + 1) / 2
    return Answer(
        texts, len(asked), cosines, chances * seen[:, None], torch.where(seen, cosines.argmax(-1), torch.tensor(-1))
    )


def told(lifted: Lifted, answered: Answer) -> list[str]:
    """A line for each question: how many points, how sure, and where its likeliest points are."""
    total, lines = int(lifted.seen.sum()), []
    for number, text in enumerate(answered.texts[: answered.questions]):
        chosen, chance = answered.best == number, answered.chances[:, number]
        most = chance.topk(max(1, round(BEST * total))).indices
        x, y, z = lifted.cloud.xyz[most].median(0).values.tolist()
        lines.append(
            f"{text}: {int(chosen.sum()):,} of {total:,} points ({100 * int(chosen.sum()) / max(total, 1):.1f} %), "
            f"cosine up to {float(answered.cosines[lifted.seen, number].max()):.3f}, likeliest around "
            f"({x:.2f}, {y:.2f}, {z:.2f}) m"
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
    columns = 2 if len(panels) <= 4 else 3
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
    palette = pictures.word_colours(answered.texts)
    own = (answered.best >= 0) & (answered.best < answered.questions)
    grey = np.repeat((lifted.cloud.rgb.float().mean(1, keepdim=True) * 0.25 + 150).byte().numpy(), 3, 1)
    rgb = np.where(own.numpy()[:, None], palette[answered.best.clamp(min=0).numpy()], grey)
    write_ply(files[1], lifted.cloud._replace(rgb=torch.from_numpy(rgb), label=answered.best + 1, instance=None))
    with write_atomically(files[2]) as part, open(part, "wb") as file:
        np.savez(
            file, texts=np.array(answered.texts), cosines=answered.cosines.half().numpy(), best=answered.best.numpy()
        )
    return files
