"""ResNet3dSlowOnly: its published sizes, its beginning, and published files."""

import pytest
import torch
from torch import nn

from sightword.systems.skeleton.build import read_posec3d
from sightword.systems.skeleton.model import Bottleneck, ResNet3dSlowOnly, Stem


def shapes_of(network, volume):
    found = {}
    for name in ("conv1", *network.layers):
        getattr(network, name).register_forward_hook(lambda _, __, out, name=name: found.update({name: out.shape[1:]}))
    with torch.no_grad():
        frames = network.frame_features(volume)
    return {name: tuple(shape) for name, shape in found.items()}, frames


def test_it_has_the_published_shapes_and_parameters():
    network = ResNet3dSlowOnly().eval()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(1.994e6, rel=5e-4)
    assert len(network.layer1) == 4
    assert len(network.layer2) == 6
    assert len(network.layer3) == 3
    found, frames = shapes_of(network, torch.rand(1, 17, 48, 56, 56))
    assert found == {
        "conv1": (32, 48, 56, 56),
        "layer1": (128, 48, 28, 28),
        "layer2": (256, 48, 14, 14),
        "layer3": (512, 24, 7, 7),
    }
    assert frames.shape == (1, 24, 512)


def test_the_first_stage_looks_at_single_frames_and_the_others_at_neighbours():
    network = ResNet3dSlowOnly(2, 4, (1, 2, 1))
    kernels = [getattr(network, name)[0].conv1.conv.kernel_size[0] for name in network.layers]
    strides = [getattr(network, name)[0].conv2.conv.stride for name in network.layers]
    assert kernels == [1, 3, 3]
    assert strides == [(1, 2, 2), (1, 2, 2), (2, 2, 2)]
    assert network.layer2[1].downsample is None
    assert network.layer1[0].downsample.conv.stride == (1, 2, 2)


def test_residual_branches_begin_as_nothing_and_convolutions_do_not():
    network = ResNet3dSlowOnly(3, 4, (2, 1))
    blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
    assert len(blocks) == 3
    assert not any(block.conv3.bn.weight.any() for block in blocks)
    assert all((block.conv2.bn.weight == 1).all() for block in blocks)
    for conv in (module for module in network.modules() if isinstance(module, nn.Conv3d)):
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1] * conv.kernel_size[2]
        assert float(conv.weight.std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.35)
    block, x = blocks[1].eval(), torch.rand(1, 16, 3, 5, 5)  # after the first, where nothing changes its size
    assert torch.equal(block(x), x)


def test_frame_features_are_means_over_space_and_no_reshape_of_channels_and_time():
    network = ResNet3dSlowOnly(2, 4, (1, 1)).eval()
    volume = torch.rand(2, 2, 6, 16, 16)
    with torch.no_grad():
        features, frames = network(volume), network.frame_features(volume)
    N, D, T = features.shape[:3]
    assert frames.shape == (N, T, D) == (2, 3, 32)
    for t in range(T):
        torch.testing.assert_close(frames[:, t], features[:, :, t].mean((2, 3)))
    scrambled = features.mean((3, 4)).reshape(N, D * T).reshape(N, T, D)  # as the document's steps read
    assert not torch.allclose(frames, scrambled)


def test_one_clip_of_one_frame_keeps_its_axes():
    network = ResNet3dSlowOnly(2, 4, (1, 1)).eval()
    assert network.frame_features(torch.rand(1, 2, 1, 8, 8)).shape == (1, 1, 32)
    with pytest.raises(ValueError, match=r"\(N, 2, L, H, W\).*\(1, 3, 1, 8, 8\)"):
        network(torch.rand(1, 3, 1, 8, 8))
    with pytest.raises(ValueError, match="bottlenecks in each stage"):
        ResNet3dSlowOnly(2, 4, (1, 0))


def test_a_published_checkpoint_is_read_by_its_names(tmp_path):
    """Names as mmcv's ConvModule gives them, behind `backbone.`, with a classifier beside."""
    torch.manual_seed(1)
    published, network = ResNet3dSlowOnly(2, 4, (1, 1)), ResNet3dSlowOnly(2, 4, (1, 1))
    state = {f"backbone.{name}": torch.rand_like(value.float()) for name, value in published.state_dict().items()}
    assert {
        "backbone.conv1.conv.weight",
        "backbone.conv1.bn.running_var",
        "backbone.layer1.0.conv1.conv.weight",
        "backbone.layer2.0.conv3.bn.weight",
        "backbone.layer2.0.downsample.conv.weight",
        "backbone.layer2.0.downsample.bn.bias",
    } <= set(state)
    state = {name: value for name, value in state.items() if "num_batches_tracked" not in name}
    state["cls_head.fc_cls.weight"] = torch.rand(60, 32)
    torch.save({"meta": {"epoch": 24}, "state_dict": state}, tmp_path / "joint.pth")
    network.load_state_dict(read_posec3d(tmp_path / "joint.pth"))
    for name, value in network.state_dict().items():
        if "num_batches_tracked" not in name:
            assert torch.equal(value, state[f"backbone.{name}"]), name
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_file_of_another_network_is_a_line(tmp_path):
    torch.save({"state_dict": {"visual.proj": torch.zeros(2)}}, tmp_path / "clip.pth")
    with pytest.raises(ValueError, match=r"not a PoseC3D.*backbone.*visual"):
        read_posec3d(tmp_path / "clip.pth")


def test_a_grid_says_where_something_is_and_a_mean_does_not():
    x = torch.zeros(1, 2, 4, 16, 16)
    x[..., 2:5, 2:5] = 1
    torch.manual_seed(0)
    network = ResNet3dSlowOnly(2, 4, (1, 1), Stem(3, 2), grid=2).eval()
    assert network.width == 4 * 32
    cells = network.frame_features(x).unflatten(2, (32, 4))  # (N, T, channels, cells)
    torch.testing.assert_close(cells.mean(3), network(x).mean((3, 4)).transpose(1, 2))
    assert not torch.allclose(cells[..., 0], cells[..., 3], atol=1e-3)


def test_motion_is_nothing_for_a_body_that_stands_still():
    still, moving = torch.rand(1, 2, 1, 8, 8).expand(1, 2, 6, 8, 8), torch.rand(1, 2, 6, 8, 8)
    network = ResNet3dSlowOnly(2, 4, (1, 1), Stem(3, 1, (1, 2)), early=True).eval()
    assert network.layer1[0].conv1.conv.weight.shape[1:3] == (12, 3)
    for volume, moves in ((still, False), (moving, True)):
        found = network._with_motion(volume)[:, 4:]
        assert bool(found.abs().max() > 1e-6) == moves
    assert network(moving).isfinite().all()
