"""DnCNN in plain PyTorch, under the two naming schemes that its weights are found with."""

import torch
from torch import nn


class DnCNN(nn.Module):
    """`clean = noisy - net(noisy)`; the net is a Sequential called `name`.

    Keys: dncnn.0.weight, dncnn.2.weight, dncnn.3.running_mean, ... or the same with model.
    """

    def __init__(
        self,
        channels: int = 1,
        depth: int = 17,
        width: int = 64,
        *,
        batch_norm: bool = True,
        bias: bool = False,
        name: str = "dncnn",
    ):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=bias), nn.ReLU()]
        for _ in range(depth - 2):
            layers.append(nn.Conv2d(width, width, 3, padding=1, bias=bias))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU())
        layers.append(nn.Conv2d(width, channels, 3, padding=1, bias=bias))
        self._name = name
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        return noisy - self.get_submodule(self._name)(noisy)
