"""The attention U-Net in plain PyTorch: the same network as `sa_flax.AttentionUNet`, NCHW.

Parameter names follow the Flax network's: head, encoder.L.B.conv1, encoder.L.B.attention.cweight,
down.L.conv, bottom.B.conv1, up.L.conv, decoder.L.B.conv2, tail.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tests.torch_reference import affinity, gating
from tests.torch_reference.shuffle_attention import ShuffleAttention


def _groups(features: int, parts: int) -> int:
    """The largest number of groups up to 8 that splits the features into whole parts."""
    return max(g for g in range(1, 9) if features % (parts * g) == 0)


# kind -> the layer with the sizes that it has without options
_ATTENTIONS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda c: nn.Identity(),
    "shuffle": lambda c: ShuffleAttention(c, _groups(c, 2)),
    "squeeze_excite": lambda c: gating.SqueezeExcite(c, 4),
    "eca": lambda c: gating.ECA(3 if c < 128 else 5),
    "cbam": lambda c: gating.CBAM(c, 4),
    "sge": lambda c: gating.SGE(_groups(c, 1)),
    "dual": lambda c: gating.DualAttention(c, 4),
    "non_local": lambda c: affinity.NonLocal(c, max(c // 2, 1)),
    "self_attention": lambda c: affinity.SelfAttention(c, max(c // 8, 1), max(c // 2, 1)),
    "danet": lambda c: affinity.DANet(c, max(c // 8, 1)),
}


def _conv3x3(features_in: int, features_out: int) -> nn.Conv2d:
    return nn.Conv2d(features_in, features_out, 3, padding=1)


class ResidualBlock(nn.Module):
    """`x + attention(conv2(relu(conv1(x))))`."""

    def __init__(self, features: int, *, attention: str, groups: int | None):
        super().__init__()
        self.conv1 = _conv3x3(features, features)
        self.conv2 = _conv3x3(features, features)
        if attention == "shuffle" and groups is not None:
            self.attention = ShuffleAttention(features, groups)
        else:
            self.attention = _ATTENTIONS[attention](features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attention(self.conv2(F.relu(self.conv1(x))))


class Downsample(nn.Module):
    """2 x 2 convolution with stride 2."""

    def __init__(self, features_in: int, features_out: int):
        super().__init__()
        self.conv = nn.Conv2d(features_in, features_out, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """1 x 1 convolution, then pixel shuffle."""

    def __init__(self, features_in: int, features_out: int):
        super().__init__()
        self.conv = nn.Conv2d(features_in, 4 * features_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(self.conv(x), 2)


class AttentionUNet(nn.Module):
    """(B, channels, H, W) noisy -> clean; H and W must be multiples of 2^(levels - 1)."""

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 32,
        levels: int = 4,
        blocks: int = 1,
        attention: str = "shuffle",
        attend: str = "decoder",
        groups: int | None = None,
    ):
        super().__init__()
        self.levels = levels
        widths = [width * 2**level for level in range(levels)]

        def stack(features: int, sides: tuple[str, ...]) -> nn.Sequential:
            kind = attention if attend in sides else "none"
            return nn.Sequential(
                *(ResidualBlock(features, attention=kind, groups=groups) for _ in range(blocks))
            )

        finer, coarser = widths[:-1], widths[1:]
        self.head = _conv3x3(channels, width)
        self.encoder = nn.ModuleList(stack(w, ("encoder", "both")) for w in finer)
        self.down = nn.ModuleList(Downsample(a, b) for a, b in zip(finer, coarser, strict=True))
        self.bottom = stack(widths[-1], ("both",))
        self.up = nn.ModuleList(Upsample(b, a) for a, b in zip(finer, coarser, strict=True))
        self.decoder = nn.ModuleList(stack(w, ("decoder", "both")) for w in finer)
        self.tail = _conv3x3(width, channels)

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        x = self.head(noisy)
        skips = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            x = blocks(x)
            skips.append(x)
            x = down(x)
        x = self.bottom(x)
        for level in reversed(range(self.levels - 1)):
            x = self.decoder[level](self.up[level](x) + skips[level])
        return noisy - self.tail(x)


_ATTENTION_KEYS = {
    "channel_weight": "cweight",
    "channel_bias": "cbias",
    "spatial_weight": "sweight",
    "spatial_bias": "sbias",
    "norm_scale": "gn.weight",
    "norm_bias": "gn.bias",
}


def state_dict_from_flax(
    flat: Mapping[tuple[str | int, ...], np.ndarray],
) -> dict[str, torch.Tensor]:
    """This twin's state dict from the Flax network's parameters, as path -> array."""
    state = {}
    for path, value in flat.items():
        *parents, leaf = (str(part) for part in path if part != "layers")
        array = np.asarray(value)
        if leaf == "kernel":
            leaf, array = "weight", array.transpose(3, 2, 0, 1)  # HWIO -> OIHW
        elif parents[-1] == "attention":
            leaf = _ATTENTION_KEYS[leaf]
            if not leaf.startswith("gn."):
                array = array.reshape(1, -1, 1, 1)
        state[".".join([*parents, leaf])] = torch.from_numpy(array.copy())
    return state
