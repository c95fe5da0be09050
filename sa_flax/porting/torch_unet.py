"""The attention U-Net in PyTorch: what was trained here, used there.

This file needs nothing but PyTorch: copy it into any project. Names and options are those of
`sa_flax.AttentionUNet`, maps are (B, C, H, W), pictures in [0, 1].

    arrays = sa_flax.porting.to_torch(model)
    network = AttentionUNet(channels=3, attention="shuffle", attend="decoder")
    network.load_state_dict({n: torch.from_numpy(a) for n, a in arrays.items()}, strict=True)

A file that `sa-flax export NAME --output FILE.pth` wrote holds the options besides: `load(file)`.

Affinities hold their whole (H W) x (H W) matrix in memory: crop large pictures.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class ShuffleAttention(nn.Module):
    """Gates half of each group by its mean, half by where it stands out, then mixes the groups."""

    def __init__(self, channels: int, groups: int | None = None):
        super().__init__()
        self.groups = _largest_groups(channels, 2) if groups is None else groups
        k = channels // (2 * self.groups)
        self.cweight, self.cbias, self.sweight, self.sbias = (
            nn.Parameter(torch.full((1, k, 1, 1), value)) for value in (0.0, 1.0, 0.0, 1.0)
        )
        self.gn = nn.GroupNorm(k, k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        by_group = x.unflatten(1, (self.groups, -1)).flatten(0, 1)
        by_mean, by_place = by_group.chunk(2, dim=1)
        mean = by_mean.mean((2, 3), keepdim=True)
        by_mean = by_mean * torch.sigmoid(self.cweight * mean + self.cbias)
        by_place = by_place * torch.sigmoid(self.sweight * self.gn(by_place) + self.sbias)
        return F.channel_shuffle(torch.cat([by_mean, by_place], 1).reshape(x.shape), 2)


class SqueezeExcite(nn.Module):
    """Gates every channel by a small network of all channels' means."""

    def __init__(self, channels: int, reduction: int = 4):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.reduce, self.expand = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.expand(F.relu(self.reduce(pooled)))[:, :, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.logits(x.mean((2, 3))))


class ECA(nn.Module):
    """Gates every channel by a convolution over its neighbours' means."""

    def __init__(self, channels: int, kernel_size: int | None = None):
        super().__init__()
        if kernel_size is None:  # the whole part of (log2(channels) + 1) / 2, or one more to be odd
            kernel_size = int((math.log2(channels) + 1) / 2) // 2 * 2 + 1
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.conv(x.mean((2, 3))[:, None]))[:, 0, :, None, None]


def _channel_pool(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)


class CBAM(SqueezeExcite):
    """Gates channels by their means and maxima, then positions by theirs."""

    def __init__(self, channels: int, reduction: int = 4, kernel_size: int = 7):
        super().__init__(channels, reduction)
        self.spatial = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * torch.sigmoid(self.logits(x.mean((2, 3))) + self.logits(x.amax((2, 3))))
        return x * torch.sigmoid(self.spatial(_channel_pool(x)))


class SGE(nn.Module):
    """Gates the positions of every group by how they agree with the group's mean."""

    def __init__(self, channels: int, groups: int | None = None):
        super().__init__()
        self.groups = _largest_groups(channels, 1) if groups is None else groups
        self.weight = nn.Parameter(torch.zeros(self.groups))
        self.bias = nn.Parameter(torch.ones(self.groups))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grouped = x.unflatten(1, (self.groups, -1))
        agreement = (grouped * grouped.mean((3, 4), keepdim=True)).sum(2)
        variance, mean = torch.var_mean(agreement, (2, 3), correction=0, keepdim=True)
        normalised = (agreement - mean) * torch.rsqrt(variance + 1e-5)
        logits = self.weight[:, None, None] * normalised + self.bias[:, None, None]
        return (grouped * torch.sigmoid(logits)[:, :, None]).flatten(1, 2)


class DualAttention(nn.Module):
    """A channel gate and a spatial gate side by side, merged by a 1 x 1 convolution."""

    def __init__(self, channels: int, reduction: int = 4, kernel_size: int = 5):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.reduce, self.expand = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        self.spatial = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2)
        self.merge = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((2, 3), keepdim=True)
        by_channel = x * torch.sigmoid(self.expand(F.relu(self.reduce(mean))))
        by_place = x * torch.sigmoid(self.spatial(_channel_pool(x)))
        return self.merge(torch.cat([by_place, by_channel], dim=1))


def _mix(weights: torch.Tensor, values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Values averaged over the last axis of weights (B, queries, keys), as maps again."""
    return (values.flatten(2) @ weights.transpose(1, 2)).unflatten(2, like.shape[2:])


def _scores(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    return queries.flatten(2).transpose(1, 2) @ keys.flatten(2)


class NonLocal(nn.Module):
    """Adds to every position a mean of all others, weighed by how alike they are."""

    def __init__(
        self,
        channels: int,
        bottleneck: int | None = None,
        affinity: str = "embedded_gaussian",
        subsample: int = 1,
    ):
        super().__init__()
        self.affinity, self.subsample = affinity, subsample
        inner = max(channels // 2, 1) if bottleneck is None else bottleneck
        self.value, self.out = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)
        self.query: nn.Module = nn.Identity()
        self.key: nn.Module = nn.Identity()
        if affinity != "gaussian":
            self.query = nn.Conv2d(channels, inner, 1)
            self.key = nn.Conv2d(channels, inner, 1, bias=affinity != "embedded_gaussian")
        if affinity == "concatenation":
            self.pair = nn.Conv2d(2 * inner, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        queries, keys, values = self.query(x), self.key(x), self.value(x)
        if self.subsample > 1:
            keys, values = (F.max_pool2d(m, self.subsample, ceil_mode=True) for m in (keys, values))
        if self.affinity == "concatenation":
            of_query, of_key = self.pair.weight[:, :, 0].chunk(2, dim=1)  # (1, inner, 1) each
            rows = (queries.flatten(2) * of_query).sum(1)
            columns = (keys.flatten(2) * of_key).sum(1)
            scores = F.relu(rows[:, :, None] + columns[:, None, :])
        else:
            scores = _scores(queries, keys)
        averaged = self.affinity in ("dot_product", "concatenation")
        weights = scores / scores.shape[2] if averaged else torch.softmax(scores, dim=2)
        return x + self.out(_mix(weights, values, x))


class SelfAttention(nn.Module):
    """The self-attention of SAGAN, without spectral norm."""

    def __init__(self, channels: int, reduction: int = 8):
        super().__init__()
        depth, inner = max(channels // reduction, 1), max(channels // 2, 1)
        self.query, self.key = (nn.Conv2d(channels, depth, 1, bias=False) for _ in range(2))
        self.value = nn.Conv2d(channels, inner, 1, bias=False)
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(_scores(self.query(x), self.key(x)), dim=2)
        return x + self.gamma * self.out(_mix(weights, self.value(x), x))


class DANet(nn.Module):
    """Attention of positions and, beside it, of channels."""

    def __init__(self, channels: int, reduction: int = 8):
        super().__init__()
        depth = max(channels // reduction, 1)
        self.query = nn.Conv2d(channels, depth, 1)
        self.key = nn.Conv2d(channels, depth, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1)
        self.position_scale = nn.Parameter(torch.zeros(()))
        self.channel_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(_scores(self.query(x), self.key(x)), dim=2)
        flat = x.flatten(2)
        alike = torch.softmax(flat @ flat.transpose(1, 2) / flat.shape[2], dim=2)
        by_channel = (alike @ flat).reshape(x.shape)
        by_position = _mix(weights, self.value(x), x)
        return x + self.position_scale * by_position + self.channel_scale * by_channel


def _largest_groups(channels: int, parts: int) -> int:
    """The largest number of groups up to 8 that splits the channels into whole parts."""
    return max(g for g in range(1, 9) if channels % (parts * g) == 0)


_ATTENTIONS = {
    "shuffle": ShuffleAttention,
    "squeeze_excite": SqueezeExcite,
    "eca": ECA,
    "cbam": CBAM,
    "sge": SGE,
    "dual": DualAttention,
    "non_local": NonLocal,
    "self_attention": SelfAttention,
    "danet": DANet,
}


class ResidualBlock(nn.Module):
    """`x + attention(conv2(relu(conv1(x))))`."""

    def __init__(self, channels: int, attention: str, options: dict):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.attention = (
            nn.Identity() if attention == "none" else _ATTENTIONS[attention](channels, **options)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attention(self.conv2(F.relu(self.conv1(x))))


class _Resample(nn.Module):
    """A convolution called `conv`; going up, a pixel shuffle follows."""

    def __init__(self, conv: nn.Conv2d, up: bool):
        super().__init__()
        self.conv, self.up = conv, up

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(self.conv(x), 2) if self.up else self.conv(x)


class AttentionUNet(nn.Module):
    """U-Net denoiser: `network(noisy) -> clean`, any height and width.

    With `noise_level=True` it is called `network(noisy, sigma)`, sigma in [0, 1] units: a number,
    or a tensor with one for each picture.

    `attention` is a kind of attention, which stands where `attend` says, or a mapping to kinds
    from the places that have one ("encoder.0", "bottom", "decoder.0"); `attention_options` is then
    a mapping to options from these places.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int | list[int] = 32,
        levels: int = 4,
        blocks: int | list[int] = 1,
        attention: str | dict[str, str] = "shuffle",
        attend: str = "decoder",
        attention_options: dict | None = None,
        noise_level: bool = False,
    ):
        super().__init__()
        self.levels, self.noise_level = levels, noise_level
        if isinstance(width, int):
            width = [width * 2**level for level in range(levels)]
        widths = list(width)
        finer, coarser = widths[:-1], widths[1:]

        counts = [blocks] * levels if isinstance(blocks, int) else blocks

        def stack(place: str, level: int) -> nn.Sequential:
            kind, options = attention, attention_options or {}
            if isinstance(kind, dict):
                kind, options = kind.get(place, "none"), options.get(place, {})
            elif attend not in (place.split(".")[0], "both"):
                kind = "none"
            made = (ResidualBlock(widths[level], kind, options) for _ in range(counts[level]))
            return nn.Sequential(*made)

        def side(name: str) -> nn.ModuleList:
            return nn.ModuleList(stack(f"{name}.{level}", level) for level in range(levels - 1))

        def steps(up: bool) -> nn.ModuleList:
            return nn.ModuleList(
                _Resample(nn.Conv2d(b, 4 * a, 1) if up else nn.Conv2d(a, b, 2, stride=2), up)
                for a, b in zip(finer, coarser, strict=True)
            )

        self.head = nn.Conv2d(channels + noise_level, widths[0], 3, padding=1)
        self.encoder = side("encoder")
        self.down = steps(up=False)
        self.bottom = stack("bottom", levels - 1)
        self.up = steps(up=True)
        self.decoder = side("decoder")
        self.tail = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(self, noisy: torch.Tensor, sigma: float | torch.Tensor | None = None):
        if (sigma is None) == self.noise_level:
            raise ValueError("give sigma to a network with noise_level=True, and to no other")
        height, width = noisy.shape[2:]
        x = _mirror_to_multiple(noisy, 2 ** (self.levels - 1))
        if sigma is not None:
            given = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
            constant = given.reshape(-1, 1, 1, 1).expand(x.shape[0], 1, *x.shape[2:])
            x = torch.cat([x, constant], dim=1)
        x = self.head(x)
        skips = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            x = blocks(x)
            skips.append(x)
            x = down(x)
        x = self.bottom(x)
        for level in reversed(range(self.levels - 1)):
            x = self.decoder[level](self.up[level](x) + skips[level])
        return noisy - self.tail(x)[:, :, :height, :width]


def _mirror_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Mirrors the right and lower edges, as often as it takes; the edge is not repeated."""
    for axis in (2, 3):
        size = x.shape[axis]
        places = torch.arange(size + -size % multiple, device=x.device)
        # A tensor, so that it can be exported for any size; of a single pixel there is no period.
        period = torch.full_like(places, 2 * size - 2).clamp(min=1)
        places = places % period
        places = torch.minimum(places, period - places)
        x = x.index_select(axis, places)
    return x


def load(file) -> AttentionUNet:
    """The network in a .pth file that `sa-flax export` wrote, in evaluation mode."""
    content = torch.load(file, map_location="cpu", weights_only=True)
    network = AttentionUNet(**content["options"])
    network.load_state_dict(content["params"], strict=True)
    return network.eval()
