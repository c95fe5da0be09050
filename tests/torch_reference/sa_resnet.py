"""SA-ResNet in plain PyTorch, with the key names of the paper's released weights."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from sa_flax.porting.torch_unet import ShuffleAttention


def _conv(features_in: int, features_out: int, size: int, stride: int = 1, dilation: int = 1):
    padding = dilation * (size // 2)
    return nn.Conv2d(
        features_in, features_out, size, stride, padding, dilation=dilation, bias=False
    )


class Bottleneck(nn.Module):
    def __init__(self, features_in, features, groups, stride=1, dilation=1):
        super().__init__()
        out = 4 * features
        self.conv1, self.bn1 = _conv(features_in, features, 1), nn.BatchNorm2d(features)
        self.conv2 = _conv(features, features, 3, stride, dilation)
        self.bn2 = nn.BatchNorm2d(features)
        self.conv3, self.bn3 = _conv(features, out, 1), nn.BatchNorm2d(out)
        self.sa = ShuffleAttention(out, groups)
        self.downsample = None
        if stride != 1 or features_in != out:
            self.downsample = nn.Sequential(_conv(features_in, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.sa(self.bn3(self.conv3(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class SAResNet(nn.Module):
    """Keys: conv1, bn1, layer1.0.conv1, layer1.0.sa.cweight, layer1.0.downsample.0, ..., fc.

    `dilate` says for each of the last three stages whether dilation replaces its stride.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (3, 4, 6, 3),
        *,
        width: int = 64,
        num_classes: int = 1000,
        groups: int = 64,
        dilate: Sequence[bool] = (False, False, False),
    ):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self._in, self._dilation = width, 1
        self.layer1 = self._stage(width, blocks[0], 1, False, groups)
        self.layer2 = self._stage(2 * width, blocks[1], 2, dilate[0], groups)
        self.layer3 = self._stage(4 * width, blocks[2], 2, dilate[1], groups)
        self.layer4 = self._stage(8 * width, blocks[3], 2, dilate[2], groups)
        self.fc = nn.Linear(32 * width, num_classes)

    def _stage(self, features, count, stride, dilate, groups):
        before = self._dilation
        if dilate:
            self._dilation, stride = self._dilation * stride, 1
        layers = [Bottleneck(self._in, features, groups, stride, before)]
        self._in = 4 * features
        layers += [
            Bottleneck(self._in, features, groups, dilation=self._dilation)
            for _ in range(count - 1)
        ]
        return nn.Sequential(*layers)

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.stages(x)[-1].mean(dim=(2, 3)))
