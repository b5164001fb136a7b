"""Losses of a reconstruction: LPIPS, adversarial losses of a discriminator, and their adaptive weight.

Legend: B batch, H W pixels, h w the discriminator's patches.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import SightwordError
from sightword.storage.checkpoint import read_weights


class LPIPS(nn.Module):
    """Learned perceptual distance of images in [-1, 1], v0.1 (Zhang et al. 2018), from the `lpips` package.

    The network is frozen and always in eval mode, also when the model trains (because of its dropout). Its 59 MB are
    not in the model's parameters, EMA weights or checkpoints. The package contains the linear heads. The trunk is
    torchvision's, read at the first call from `weights` (vgg16-397923af.pth or alexnet-owt-7be5be79.pth, only
    `features.*` is used), else from torch's cache, else downloaded to that cache.

    Raises SightwordError if no trunk can be read or downloaded. A random one is never used instead.
    """

    def __init__(self, net: str = "vgg", weights: str | Path = "") -> None:
        super().__init__()
        if net not in ("vgg", "alex"):
            raise SightwordError(f"net is vgg (for training) or alex (often reported), got {net!r}")
        self.net, self.weights = net, str(weights)
        self._network: list[nn.Module] = []  # in a list, so that torch does not take it for a submodule

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distance (B,) of x and y (B, 3, H, W)."""
        return self.load(x.device)(x.float(), y.float()).flatten()

    @torch.inference_mode(
        False
    )  # the first call may be in validation, and inference tensors cannot be used in training
    def load(self, device: torch.device) -> nn.Module:
        """Return the network on a device. Reads its weights at the first call."""
        if not self._network:
            self._network.append(_lpips_network(self.net, self.weights))
        network = self._network[0]
        if next(network.parameters()).device != device:
            network.to(device)
        return network


def _lpips_network(net: str, weights: str) -> nn.Module:
    import lpips

    trunk = _trunk_weights(net, weights)
    heads = read_weights(Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth")
    with torch.device("meta"), warnings.catch_warnings():  # torchvision would draw 138 million random weights
        warnings.simplefilter("ignore")  # the package uses a deprecated argument of torchvision
        network = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    slots = {
        name: ".".join(name.split(".")[1:]) for name, _ in network.net.named_parameters()
    }  # slice1.0.bias → 0.bias
    file = weights or "the cached file"
    if missing := set(slots.values()) - set(trunk):
        raise SightwordError(f"{file} is not a torchvision {net} file: features.{min(missing)} is missing")
    for name, slot in network.net.named_parameters():
        if slot.shape != (found := trunk[slots[name]].shape):
            raise SightwordError(f"{file}: features.{slots[name]} is {tuple(found)}, expected {tuple(slot.shape)}")
    network.net.load_state_dict({name: trunk[slot].float() for name, slot in slots.items()}, assign=True)
    network.load_state_dict(heads, strict=False, assign=True)
    assert not any(p.is_meta for p in network.parameters()), "a part of LPIPS has no weights"
    return network.eval().requires_grad_(False)


def _trunk_weights(net: str, weights: str) -> dict[str, Tensor]:
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    published = (VGG16_Weights if net == "vgg" else AlexNet_Weights).IMAGENET1K_V1
    cached = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rsplit("/", 1)[-1]
    if weights or cached.exists():
        state = read_weights(weights or cached)
    else:
        try:
            state = published.get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: the downloaded file has another hash
            raise SightwordError(
                f"LPIPS needs {cached.name}, which could not be downloaded ({error}): "
                f"copy it to {cached.parent}, name it in lpips_weights=, or set use_lpips=false"
            ) from error
    return {name.removeprefix("features."): w for name, w in state.items() if name.startswith("features.")}


# ---------------------------------------------------------------------------------------------------- adversarial loss


def generator_loss(fake: Tensor, kind: str) -> Tensor:
    """Return the generator's loss of the logits (B, 1, h, w) of its images, scalar. kind: hinge or non_saturating."""
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor, kind: str) -> Tensor:
    """Return the discriminator's loss of logits of real and generated images (B, 1, h, w), scalar.

    kind: hinge (Lim & Ye 2017) or non_saturating (Goodfellow et al. 2014).
    """
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


class LeCam(nn.Module):
    """LeCam regularisation (Tseng et al. 2021, eq. 8).

    Keeps the logits of real images near the moving average of those of generated images, and vice versa.
    """

    averages: Tensor  # (2,): of real, of fake; a buffer, so that a resumed run has it

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("averages", torch.zeros(2))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        new = torch.stack([real.detach().mean(), fake.detach().mean()]).to(self.averages)
        self.averages.lerp_(new, 1 - self.decay)
        return F.relu(real - self.averages[1]).square().mean() + F.relu(self.averages[0] - fake).square().mean()


def adaptive_weight(image: Tensor, reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Return the factor that gives both gradients the same norm at the last layer.

    image: the reconstruction, with its graph. reconstruction, adversarial: gradients of the two losses at the image.
    Esser et al. 2021, equation 7: λ = |∂L_rec/∂W| / (|∂L_GAN/∂W| + 1e-4), at most 1e4.
    """
    norms = [_norm_at(last_layer, image, g) for g in (reconstruction, adversarial)]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4)


def _norm_at(layer: Tensor, image: Tensor, gradient: Tensor) -> Tensor:
    peak = (
        gradient.abs().amax().clamp_min(1e-30)
    )  # divided out meanwhile: gradients of single pixels underflow in float16
    return torch.autograd.grad(image, layer, gradient / peak, retain_graph=True)[0].norm() * peak


class WithGradient(torch.autograd.Function):
    """A loss value whose gradient at `image` is already known: `WithGradient.apply(image, value, gradient)`.

    `value` must be detached, or autograd would also traverse its graph, which is freed.

    LPIPS and the discriminator so run backward once, although their gradients at the reconstruction are used twice: for
    the adaptive weight, and for training.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grads[0] * gradient, None, None
