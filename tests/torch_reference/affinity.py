"""The affinity family in plain PyTorch, on (B, C, H, W), with the whole matrix in memory."""

import torch
from torch import nn
from torch.nn import functional as F


class NonLocal(nn.Module):
    """Wang et al., CVPR 2018: the four affinities, with optional sub-sampling (ceil mode)."""

    def __init__(
        self,
        channels: int,
        bottleneck: int,
        affinity: str = "embedded_gaussian",
        subsample: int = 1,
    ):
        super().__init__()
        self.affinity, self.subsample = affinity, subsample
        self.value = nn.Conv2d(channels, bottleneck, 1)
        self.out = nn.Conv2d(bottleneck, channels, 1)
        if affinity != "gaussian":
            self.query = nn.Conv2d(channels, bottleneck, 1)
            self.key = nn.Conv2d(channels, bottleneck, 1, bias=affinity != "embedded_gaussian")
        if affinity == "concatenation":
            self.pair = nn.Conv2d(2 * bottleneck, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        queries = x if self.affinity == "gaussian" else self.query(x)
        keys = x if self.affinity == "gaussian" else self.key(x)
        values = self.value(x)
        if self.subsample > 1:
            keys = F.max_pool2d(keys, self.subsample, ceil_mode=True)
            values = F.max_pool2d(values, self.subsample, ceil_mode=True)
        queries, keys, values = (t.flatten(2) for t in (queries, keys, values))
        count = keys.shape[2]
        if self.affinity == "concatenation":
            shape = (-1, -1, queries.shape[2], count)
            pairs = torch.cat(
                [queries[:, :, :, None].expand(shape), keys[:, :, None, :].expand(shape)], dim=1
            )
            weights = F.relu(self.pair(pairs))[:, 0] / count
        else:
            scores = queries.transpose(1, 2) @ keys
            weights = (
                scores / count if self.affinity == "dot_product" else torch.softmax(scores, dim=2)
            )
        mixed = values @ weights.transpose(1, 2)
        return x + self.out(mixed.reshape(*mixed.shape[:2], *x.shape[2:]))


class SelfAttention(nn.Module):
    """SAGAN's: Zhang et al., ICML 2019, without spectral norm."""

    def __init__(self, channels: int, depth: int, width: int):
        super().__init__()
        self.query = nn.Conv2d(channels, depth, 1, bias=False)
        self.key = nn.Conv2d(channels, depth, 1, bias=False)
        self.value = nn.Conv2d(channels, width, 1, bias=False)
        self.out = nn.Conv2d(width, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.query(x).flatten(2).transpose(1, 2) @ self.key(x).flatten(2)
        mixed = self.value(x).flatten(2) @ torch.softmax(scores, dim=2).transpose(1, 2)
        return x + self.gamma * self.out(mixed.reshape(*mixed.shape[:2], *x.shape[2:]))


class DANet(nn.Module):
    """Fu et al., CVPR 2019; channel affinities are means over positions, one residual."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        self.query = nn.Conv2d(channels, depth, 1)
        self.key = nn.Conv2d(channels, depth, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1)
        self.position_scale = nn.Parameter(torch.zeros(()))
        self.channel_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(2)
        scores = self.query(x).flatten(2).transpose(1, 2) @ self.key(x).flatten(2)
        by_position = self.value(x).flatten(2) @ torch.softmax(scores, dim=2).transpose(1, 2)
        gram = flat @ flat.transpose(1, 2) / flat.shape[2]
        by_channel = torch.softmax(gram, dim=2) @ flat
        out = flat + self.position_scale * by_position + self.channel_scale * by_channel
        return out.reshape(x.shape)
