"""The mask family in plain PyTorch, on (B, C, H, W)."""

import torch
from torch import nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    """Hu et al., CVPR 2018."""

    def __init__(self, channels: int, reduction: int = 4):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.reduce, self.expand = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean(dim=(2, 3))
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(pooled))))
        return x * gate[:, :, None, None]


class ECA(nn.Module):
    """Wang et al., CVPR 2020."""

    def __init__(self, kernel_size: int = 3):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean(dim=(2, 3))[:, None, :]
        return x * torch.sigmoid(self.conv(pooled))[:, 0, :, None, None]


class CBAM(nn.Module):
    """Woo et al., ECCV 2018, without batch norm."""

    def __init__(self, channels: int, reduction: int = 4, kernel_size: int = 7):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.reduce, self.expand = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.spatial = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2)

    def mlp(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.expand(F.relu(self.reduce(pooled)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.mlp(x.mean(dim=(2, 3))) + self.mlp(x.amax(dim=(2, 3)))
        y = x * torch.sigmoid(logits)[:, :, None, None]
        pooled = torch.cat([y.mean(dim=1, keepdim=True), y.amax(dim=1, keepdim=True)], dim=1)
        return y * torch.sigmoid(self.spatial(pooled))


class SGE(nn.Module):
    """Li et al., 2019, with epsilon added to the variance."""

    def __init__(self, groups: int, epsilon: float = 1e-5):
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.zeros(groups))
        self.bias = nn.Parameter(torch.ones(groups))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        groups = self.weight.numel()
        grouped = x.reshape(batch, groups, channels // groups, height, width)
        mean = grouped.mean(dim=(3, 4), keepdim=True)
        agreement = (grouped * mean).sum(dim=2)
        variance, centre = torch.var_mean(agreement, dim=(2, 3), correction=0, keepdim=True)
        normalised = (agreement - centre) / torch.sqrt(variance + self.epsilon)
        logits = self.weight[:, None, None] * normalised + self.bias[:, None, None]
        return (grouped * torch.sigmoid(logits)[:, :, None]).reshape(x.shape)


class DualAttention(nn.Module):
    """Zamir et al., CVPR and ECCV 2020."""

    def __init__(self, channels: int, reduction: int = 4, kernel_size: int = 5):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.reduce, self.expand = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        self.spatial = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2)
        self.merge = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1)
        by_channel = x * torch.sigmoid(self.expand(F.relu(self.reduce(pooled))))
        maps = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        by_place = x * torch.sigmoid(self.spatial(maps))
        return self.merge(torch.cat([by_place, by_channel], dim=1))
