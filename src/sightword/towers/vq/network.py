"""Two pairs of networks that turn images into latents and back.

`Encoder` and `Decoder` are a plain pair of residual networks. `TamingEncoder` and `TamingDecoder` are those of VQGAN
(Esser et al. 2021, arXiv 2012.09841), which latent diffusion and LlamaGen share.

Legend: B batch; H, W pixels; h, w tokens a side (H / factor, W / factor); C channels.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from sightword.errors import SightwordError


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups as everybody has them, fewer where 32 does not divide the channels."""
    if channels < 1:
        raise SightwordError(f"a layer needs at least one channel, got {channels}")
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)


class ResBlock(nn.Module):
    """x + f(x), where f is twice: normalise, SiLU, 3x3. (B, in_channels, h, w) → (B, out_channels, h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.nin_shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(F.silu(self.norm1(x)))
        residual = self.conv2(F.silu(self.norm2(residual)))
        return self.nin_shortcut(x) + residual


class Encoder(nn.Module):
    """Network from images (B, in_channels, H, W) to latents (B, latent_channels, h, w). Each stage halves the sides."""

    def __init__(
        self,
        in_channels: int = 3,
        channels: Sequence[int] = (128, 256, 256, 256),
        latent_channels: int = 256,
        num_res_blocks: int = 2,
    ) -> None:
        super().__init__()
        self.arguments = {
            "in_channels": in_channels,
            "channels": _widths(channels),
            "latent_channels": latent_channels,
            "num_res_blocks": num_res_blocks,
        }
        self.latent_channels, self.factor = latent_channels, 2 ** len(channels)
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.stages = nn.Sequential()
        for before, width in pairwise([channels[0], *channels]):
            blocks = [ResBlock(width, width) for _ in range(num_res_blocks)]
            self.stages.append(nn.Sequential(nn.Conv2d(before, width, 4, stride=2, padding=1), *blocks))
        self.conv_out = nn.Conv2d(channels[-1], latent_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv_out(self.stages(self.conv_in(images)))


class Decoder(nn.Module):
    """Network from latents (B, latent_channels, h, w) to images (B, out_channels, H, W) in [-1, 1].

    Each stage doubles the sides, the last one, too, so that an image has the size of the encoded one.
    """

    def __init__(
        self,
        latent_channels: int = 256,
        channels: Sequence[int] = (256, 256, 256, 128),
        out_channels: int = 3,
        num_res_blocks: int = 2,
    ) -> None:
        super().__init__()
        self.arguments = {
            "latent_channels": latent_channels,
            "channels": _widths(channels),
            "out_channels": out_channels,
            "num_res_blocks": num_res_blocks,
        }
        self.latent_channels, self.factor = latent_channels, 2 ** len(channels)
        self.conv_in = nn.Conv2d(latent_channels, channels[0], 3, padding=1)
        self.stages = nn.Sequential()
        for width, after in pairwise([channels[0], *channels]):
            blocks = [ResBlock(width, width) for _ in range(num_res_blocks)]
            grow = nn.Upsample(scale_factor=2, mode="nearest")
            self.stages.append(nn.Sequential(*blocks, grow, nn.Conv2d(width, after, 3, padding=1)))
        self.conv_mid = nn.Conv2d(channels[-1], 64, 3, padding=1)
        self.conv_out = nn.Conv2d(64, out_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.stages(self.conv_in(latents))
        return self.conv_out(F.relu(self.conv_mid(x))).tanh()


def _widths(channels: Sequence[int]) -> list[int]:
    if not channels or min(channels) < 1:
        raise SightwordError(f"channels are one positive number a stage, got {list(channels)}")
    return list(channels)


class TamingEncoder(nn.Module):
    """VQGAN's encoder: images (B, in_channels, H, W) to latents (B, z_channels, h, w), halving between levels.

    Level i works at H / 2^i with ch · ch_mult[i] channels. Attention stands at the levels where an image of
    `resolution` pixels has a side in `attn_resolutions`, whatever the size of the image at hand.
    Arguments are those of `ddconfig` in the published configs, parameter names those of the published files.
    """

    def __init__(
        self,
        in_channels: int = 3,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        resolution: int = 256,
        z_channels: int = 256,
    ) -> None:
        super().__init__()
        self.arguments = {
            "in_channels": in_channels,
            "ch": ch,
            "ch_mult": _widths(ch_mult),
            "num_res_blocks": num_res_blocks,
            "attn_resolutions": list(attn_resolutions),
            "resolution": resolution,
            "z_channels": z_channels,
        }
        self.latent_channels, self.factor = z_channels, 2 ** (len(ch_mult) - 1)
        widths = [ch, *(ch * mult for mult in ch_mult)]
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList(
            _DownLevel(before, width, num_res_blocks, resolution >> i in attn_resolutions, last=i == len(ch_mult) - 1)
            for i, (before, width) in enumerate(pairwise(widths))
        )
        self.mid = _Middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class TamingDecoder(nn.Module):
    """VQGAN's decoder: latents (B, z_channels, h, w) to images (B, out_ch, H, W), which may leave [-1, 1].

    `up[0]` is the level of full resolution, and runs last; each has one block more than the encoder's.
    Arguments as `TamingEncoder`'s.
    """

    def __init__(
        self,
        out_ch: int = 3,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        resolution: int = 256,
        z_channels: int = 256,
    ) -> None:
        super().__init__()
        self.arguments = {
            "out_ch": out_ch,
            "ch": ch,
            "ch_mult": _widths(ch_mult),
            "num_res_blocks": num_res_blocks,
            "attn_resolutions": list(attn_resolutions),
            "resolution": resolution,
            "z_channels": z_channels,
        }
        self.latent_channels, self.factor = z_channels, 2 ** (len(ch_mult) - 1)
        widths = [*(ch * mult for mult in ch_mult), ch * ch_mult[-1]]
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1])
        self.up = nn.ModuleList(
            _UpLevel(before, width, num_res_blocks + 1, resolution >> i in attn_resolutions, last=i == 0)
            for i, (width, before) in enumerate(pairwise(widths))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_ch, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class _Level(nn.Module):
    """Blocks at one resolution, each followed by attention or none of them."""

    def __init__(self, in_channels: int, out_channels: int, num_res_blocks: int, attention: bool) -> None:
        super().__init__()
        widths = [in_channels, *[out_channels] * num_res_blocks]
        self.block = nn.ModuleList(ResBlock(before, width) for before, width in pairwise(widths))
        self.attn = nn.ModuleList(Attention(out_channels) for _ in range(num_res_blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return x


class _DownLevel(_Level):
    def __init__(self, in_channels: int, out_channels: int, num_res_blocks: int, attention: bool, last: bool) -> None:
        super().__init__(in_channels, out_channels, num_res_blocks, attention)
        self.downsample = nn.Identity() if last else _Downsample(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(super().forward(x))


class _UpLevel(_Level):
    def __init__(self, in_channels: int, out_channels: int, num_res_blocks: int, attention: bool, last: bool) -> None:
        super().__init__(in_channels, out_channels, num_res_blocks, attention)
        self.upsample = nn.Identity() if last else _Upsample(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(super().forward(x))


class _Downsample(nn.Module):
    """3x3 with stride 2, padded at the right and below only: that is how the published weights were trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels)
        self.attn_1 = Attention(channels)
        self.block_2 = ResBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Attention(nn.Module):
    """x + attention of one head among all places of x (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        # A head axis of one: the fast kernels want (B, heads, N, C).
        q, k, v = (conv(normed).flatten(2).transpose(1, 2)[:, None] for conv in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0]  # (B, N, C)
        return x + self.proj_out(attended.transpose(1, 2).unflatten(2, x.shape[2:]))
