"""scale=full with weights of the published shapes, made on the spot: each experiment takes a step."""

import json

import pytest
import torch
from safetensors.torch import save_file
from skeleton_fakes import LABELS, Dense, batch_for

from sightword.cli.compose import compose_config
from sightword.engine.init import initialise, origin_of
from sightword.miniature import tower
from sightword.systems.skeleton.joints import joint_set
from sightword.systems.skeleton.labels import read_labels
from sightword.systems.skeleton.model import ResNet3dSlowOnly
from sightword.systems.skeleton.task import assemble

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A BERT of bert-base's sizes, a PoseC3D of pyskl's, labels."""
    from transformers import BertConfig, BertModel

    root = tmp_path_factory.mktemp("full")
    tower.write_bert(root / "bert", [text for texts in LABELS.values() for text in texts])
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in BertModel(BertConfig()).state_dict().items()}
    shapes = {name: shape for name, shape in shapes.items() if not name.endswith("position_ids")}
    save_file({name: 0.02 * torch.randn(shape) for name, shape in shapes.items()}, root / "bert" / "model.safetensors")
    (root / "bert" / "config.json").write_text(json.dumps(BertConfig().to_dict() | {"architectures": ["BertModel"]}))
    network = {f"backbone.{name}": value for name, value in ResNet3dSlowOnly().state_dict().items()}
    torch.save({"state_dict": network | {"cls_head.fc_cls.weight": torch.zeros(60, 512)}}, root / "joint.pth")
    (root / "labels.json").write_text(json.dumps(LABELS))
    return [
        f"system.text={root / 'bert'}",
        f"system.labels={root / 'labels.json'}",
        f"init_from={root / 'joint.pth'}",
        "init_strict=false",
        "data.annotations=x.pkl",
    ]


@pytest.mark.parametrize("name", ["slowonly", "visece", "visece_itm", "visece_mo", "visece_pacl", "visece_mean"])
def test_it_takes_a_step(published, name):
    config = compose_config([f"experiment=skeleton/{name}", "scale=full", *published])
    joints = joint_set(config.system.joints)
    task = assemble(config.system, joints, Dense(joints), read_labels(config.system.labels)).train()
    report = initialise(task, origin_of(config), config)
    assert len(report.matched) == len(task.model.video.network.state_dict())
    points = 56 * torch.rand(2, 1, 1, 48, 17, 2)
    batch = batch_for([0, 2])._replace(points=points, scores=torch.ones(2, 1, 1, 48, 17), size=(56, 56))
    optimizer = torch.optim.SGD([p for group in task.parameter_groups().values() for p in group], lr=1e-4)
    losses = task.losses(batch)
    task.total(losses).backward()
    optimizer.step()
    assert all(torch.isfinite(term) for term in losses.values())
    if name != "slowonly":
        assert task.model.text.width == 768
        assert task.model.video.width == (768 if name in ("visece", "visece_itm", "visece_mo") else 512)
    if name == "visece_mo":
        assert task.momentum.views.vectors.shape == (65536, 256)
