"""Squeeze and excitation in plain PyTorch, with torchvision's key names."""

import torch
from torch import nn


class SqueezeExcite(nn.Module):
    """`x * sigmoid(fc2(relu(fc1(mean(x)))))`; fc1 and fc2 are 1 x 1 convolutions."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(pooled))))
