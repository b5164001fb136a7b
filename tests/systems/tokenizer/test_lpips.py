"""LPIPS is the `lpips` package's, number for number, and leaves no trace in the model that it judges."""

import urllib.error
import warnings

import lpips
import pytest
import torch
from torch import nn

from sightword.systems.tokenizer.config import TokenizerConfig
from sightword.systems.tokenizer.loss import LPIPS
from sightword.systems.tokenizer.predict import ImageTokenizer
from sightword.systems.tokenizer.task import make_task

SMALL = {"latent_channels": 8, "encoder_channels": [8, 8], "decoder_channels": [8, 8], "num_embeddings": 16}


def reference(net):
    """The package's own network, its trunk random, and the trunk as torchvision would name it in a file."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    features = {f"features.{name.split('.', 1)[1]}": p.data for name, p in network.net.named_parameters()}
    return network, features | {"classifier.0.weight": torch.zeros(1)}


@pytest.fixture(scope="module")
def alex(tmp_path_factory):
    network, state = reference("alex")
    file = tmp_path_factory.mktemp("alex") / "alexnet-owt-7be5be79.pth"
    torch.save(state, file)
    return network, state, file


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    network, state = reference("vgg")
    file = tmp_path_factory.mktemp("vgg") / "vgg16-397923af.pth"
    torch.save(state, file)
    return network, state, file


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty torch cache, and no way out."""

    def refused(url, *args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refused)
    return tmp_path / "hub" / "checkpoints"


def images(count=2, side=32, seed=1):
    torch.manual_seed(seed)
    return torch.rand(count, 3, side, side) * 2 - 1


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_it_is_the_packages_own_distance(net, request):
    network, _, file = request.getfixturevalue(net)
    x, y = images(seed=1), images(seed=2)
    with torch.no_grad():
        ours, theirs = LPIPS(net, file)(x, y), network(x, y)
    assert ours.shape == (2,)
    assert torch.equal(ours, theirs.flatten())
    assert (ours > 0).all()
    assert ours[0] != ours[1]


def test_equal_images_are_at_no_distance(alex):
    assert LPIPS("alex", alex[2])(images(), images()).tolist() == [0, 0]


def test_training_the_model_wakes_no_dropout_and_frees_no_weight(alex):
    model = nn.ModuleDict({"lpips": LPIPS("alex", alex[2])})
    x, y = images(seed=1), images(seed=2)
    before = model["lpips"](x, y)
    model.train().requires_grad_(True)
    assert all(torch.equal(model["lpips"](x, y), before) for _ in range(3))
    network = model["lpips"].load(x.device)
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    alex[0].train()  # the fault this guards against: the package's own network does wake up
    assert not torch.equal(alex[0](x, y).flatten(), before)
    alex[0].eval()


def test_it_is_in_no_state_parameter_group_or_export_of_the_model(alex, tmp_path):
    task = make_task(TokenizerConfig(**SMALL))
    without = set(task.state_dict()), len(list(task.parameters())), len(list(task.buffers()))
    task.lpips.net, task.lpips.weights = "alex", str(alex[2])
    task.lpips(images(), images())
    assert (set(task.state_dict()), len(list(task.parameters())), len(list(task.buffers()))) == without
    assert not [name for name in task.state_dict() if "lpips" in name]
    assert set(task.parameter_groups()["model"]) == set(task.model.parameters())
    ImageTokenizer.from_task(task).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 2**20


def test_nothing_is_read_before_the_first_image(offline):
    make_task(TokenizerConfig(**SMALL))  # use_lpips is the default: a download here would stop everybody who is offline


@pytest.mark.parametrize(("net", "file"), [("vgg", "vgg16-397923af.pth"), ("alex", "alexnet-owt-7be5be79.pth")])
def test_a_missing_trunk_is_said_in_a_line_that_names_file_and_place(net, file, offline):
    with pytest.raises(ValueError) as caught:
        LPIPS(net)(images(), images())
    text = str(caught.value)
    assert "\n" not in text
    for part in (f"LPIPS needs {file}", "no route to host", str(offline), "lpips_weights=", "use_lpips=false"):
        assert part in text


def test_a_download_that_brought_something_else_is_said_likewise(offline, monkeypatch):
    def wrong(url, *args, **kwargs):
        raise RuntimeError('invalid hash value (expected "397923af", got "e3b0c442")')

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", wrong)
    with pytest.raises(ValueError, match=r"LPIPS needs vgg16-397923af.pth, .*invalid hash value"):
        LPIPS()(images(), images())


def test_a_trunk_in_torchs_cache_is_found(alex, offline):
    offline.mkdir(parents=True)
    (offline / "alexnet-owt-7be5be79.pth").write_bytes(alex[2].read_bytes())
    x, y = images(seed=1), images(seed=2)
    assert torch.equal(LPIPS("alex")(x, y), alex[0](x, y).flatten())


def test_a_named_file_that_is_not_there_is_not_replaced_by_another(alex, offline):
    offline.mkdir(parents=True)
    (offline / "alexnet-owt-7be5be79.pth").write_bytes(alex[2].read_bytes())
    with pytest.raises(FileNotFoundError, match="elsewhere.pth does not exist"):
        LPIPS("alex", "elsewhere.pth")(images(), images())


def test_a_file_that_lacks_layers_is_refused(alex, tmp_path):
    part = {name: t for name, t in alex[1].items() if not name.startswith("features.6.")}
    torch.save(part, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"part.pth is not a torchvision alex file: features.6.bias is missing"):
        LPIPS("alex", tmp_path / "part.pth")(images(), images())


def test_a_file_with_other_shapes_is_refused(alex, tmp_path):
    other = alex[1] | {"features.3.bias": torch.zeros(7)}
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"features.3.bias is \(7,\), expected \(192,\)"):
        LPIPS("alex", tmp_path / "other.pth")(images(), images())


def test_a_trunk_kept_in_half_precision_is_computed_in_full(alex, tmp_path):
    torch.save({name: t.half() for name, t in alex[1].items()}, tmp_path / "half.pth")
    assert LPIPS("alex", tmp_path / "half.pth")(images(seed=1), images(seed=2)).dtype == torch.float32


def test_there_are_two_nets():
    with pytest.raises(ValueError, match="net is vgg .* or alex .*, got 'squeeze'"):
        LPIPS("squeeze")


def test_it_follows_the_images_to_their_device(alex):
    distance = LPIPS("alex", alex[2])
    assert distance(images(), images()).device.type == "cpu"
    assert distance(images().to("meta"), images().to("meta")).device.type == "meta"


def test_the_gradient_reaches_the_reconstruction_and_is_the_packages(alex):
    network, _, file = alex
    x, y, twin = images(seed=1).requires_grad_(), images(seed=2), images(seed=1).requires_grad_()
    LPIPS("alex", file)(x, y).sum().backward()
    network(twin, y).sum().backward()
    assert x.grad.abs().sum() > 0
    assert torch.equal(x.grad, twin.grad)


def test_met_first_in_a_validation_it_trains_afterwards(alex):
    distance = LPIPS("alex", alex[2])
    with torch.inference_mode():
        distance(images(), images())
    x = images().requires_grad_()
    distance(x, images(seed=2)).sum().backward()
    assert x.grad.abs().sum() > 0


def test_making_it_draws_nothing_from_the_global_generator(alex):
    before = torch.random.get_rng_state()
    LPIPS("alex", alex[2]).load(torch.device("cpu"))
    assert torch.equal(torch.random.get_rng_state(), before)
