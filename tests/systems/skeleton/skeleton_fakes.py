"""Made-up recordings, labels and a plain way to draw heatmaps; a tiny BERT in Hugging Face's format."""

import json

import torch
from torch import nn

from sightword.miniature import tower
from sightword.systems.skeleton.config import SkeletonConfig
from sightword.systems.skeleton.data import SkeletonBatch
from sightword.systems.skeleton.evaluate import SkeletonEvaluator
from sightword.systems.skeleton.joints import JointSet
from sightword.systems.skeleton.labels import read_labels
from sightword.systems.skeleton.task import assemble

LABELS = {
    "raise arms": ["raising both arms", "a person raises both arms"],
    "lower arms": ["lowering both arms"],
    "sit down": ["sitting down", "a person sits down on a chair", "take a seat"],
    "stand up": ["standing up"],
}
UNSEEN = {"raise a hand": ["raising one hand"], "sit": ["a person sits"], "stand": ["stand on a chair"]}
JOINTS = JointSet(
    "five",
    ("head", "left hand", "right hand", "left foot", "right foot"),
    ((1, 2), (3, 4)),
    ((0, 1), (0, 2), (0, 3), (0, 4)),
)
SIZE = (16, 16)

VISECE = {"frame_linear": True, "contrast": "batch"}
VARIANTS = {
    "slowonly": {"recognise_by": "classifier"},
    "visece": VISECE,
    "visece_itm": {**VISECE, "match_weight": 1.0},
    "visece_mo": {**VISECE, "momentum": 0.9, "queue": 20, "soft_ramp": 4},
    "visece_pacl": {"frames": "pacl", "contrast": "classes", "pacl_weight": "sigmoid", "pacl_gain": 10.0},
    "visece_mean": {"contrast": "classes", "pool": "before"},
}


class Dense(nn.Module):
    """A Gaussian of each joint on the whole canvas, the largest of all persons."""

    def __init__(self, joints=JOINTS):
        super().__init__()
        self.channels = len(joints.joints)

    def forward(self, points, scores, size):
        rows, columns = (torch.arange(side, dtype=points.dtype) for side in size)
        x = columns - points[..., 0, None]  # (N, M, L, V, W)
        y = rows - points[..., 1, None]
        square = x[..., None, :] ** 2 + y[..., None] ** 2
        drawn = scores[..., None, None] * torch.exp(-square / 2 / 0.6**2)  # (N, M, L, V, H, W)
        return drawn.amax(1).transpose(1, 2).contiguous()


def write_world(folder):
    """Folder → fields of SkeletonConfig: labels and a tiny BERT that knows their words."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, labels in (("labels", LABELS), ("unseen", UNSEEN)):
        (folder / f"{name}.json").write_text(json.dumps(labels))
    tower.write_bert(
        folder / "bert", [text for labels in (LABELS, UNSEEN) for texts in labels.values() for text in texts]
    )
    return {"labels": str(folder / "labels.json"), "text": str(folder / "bert")}


def system(world, **values):
    small = {"base": 4, "depths": [1, 1, 1], "embed_dim": 16, "fusion_layers": 1, "fusion_heads": 2}
    return SkeletonConfig(**{**small, **world, **values})


def task_for(world, seed=0, **values):
    config = system(world, **values)
    torch.manual_seed(seed)
    return assemble(config, JOINTS, Dense(), read_labels(config.labels))


def batch_for(labels=(0, 1, 2, 1), views=1, frames=8, persons=1, seed=0, split="train", size=SIZE):
    """Joints that walk at random."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(labels), views, persons, frames, len(JOINTS.joints))
    points = torch.rand(*shape, 2, generator=generator) * torch.tensor([size[1], size[0]], dtype=torch.float32)
    scores = (torch.rand(shape, generator=generator) > 0.1).float()
    key = torch.zeros(len(labels), views, frames)
    key[..., frames // 4 : frames // 2] = 1
    index = torch.arange(len(labels))
    when = torch.arange(frames).expand(len(labels), views, frames)
    return SkeletonBatch(points, scores, torch.tensor(labels), index, when, key, size, split)


def score(task, batch):
    """Probabilities of a batch, and weights of its frames."""
    return SkeletonEvaluator(task).score(batch)


def measure(task, batches):
    """The evaluator of a task, and its metrics of some batches."""
    evaluator = SkeletonEvaluator(task)
    for batch in batches:
        evaluator.update(batch)
    return evaluator, evaluator.compute()
