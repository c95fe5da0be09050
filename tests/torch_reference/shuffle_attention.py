"""Shuffle attention in plain PyTorch, with the key names of the paper's released weights."""

import torch
from torch import nn


class ShuffleAttention(nn.Module):
    """Shuffle attention on (B, C, H, W), as SA-Net computes it.

    Keys: cweight, cbias, sweight, sbias of shape (1, k, 1, 1), gn.weight and gn.bias of shape (k,),
    with k = C / (2 groups).
    """

    def __init__(self, channels: int, groups: int = 64):
        super().__init__()
        if channels % (2 * groups):
            raise ValueError(f"{channels} channels do not split into {groups} groups of two halves")
        self.groups = groups
        k = channels // (2 * groups)
        self.cweight = nn.Parameter(torch.zeros(1, k, 1, 1))
        self.cbias = nn.Parameter(torch.ones(1, k, 1, 1))
        self.sweight = nn.Parameter(torch.zeros(1, k, 1, 1))
        self.sbias = nn.Parameter(torch.ones(1, k, 1, 1))
        self.gn = nn.GroupNorm(k, k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        by_group = x.reshape(batch * self.groups, channels // self.groups, height, width)
        by_mean, by_place = by_group.chunk(2, dim=1)
        pooled = by_mean.mean(dim=(2, 3), keepdim=True)
        by_mean = by_mean * torch.sigmoid(self.cweight * pooled + self.cbias)
        by_place = by_place * torch.sigmoid(self.sweight * self.gn(by_place) + self.sbias)
        merged = torch.cat([by_mean, by_place], dim=1)
        # Two groups whatever self.groups is: the first C/2 channels interleave with the others.
        halves = merged.reshape(batch, 2, channels // 2, height, width)
        return halves.transpose(1, 2).reshape(batch, channels, height, width)
