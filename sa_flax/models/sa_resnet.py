"""SA-ResNet: a residual network with shuffle attention in every block, as the paper trained it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sa_flax.functional.checks import check_floating
from sa_flax.functional.initializers import lecun_normal, variance_scaling, zeros
from sa_flax.modules.batch_norm import BatchNorm
from sa_flax.modules.shuffle_attention import ShuffleAttention

Dtype = jax.typing.DTypeLike

_EXPANSION = 4  # a block's output has four times the features of its 3 x 3 convolution
# PyTorch's kaiming_normal_(mode="fan_out", nonlinearity="relu"), untruncated.
_he_fan_out = variance_scaling(2.0, "fan_out", "normal")


def _check_at_least_one(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")


def _conv(
    features_in: int,
    features_out: int,
    size: int,
    *,
    strides: int = 1,
    dilation: int = 1,
    **kwargs: Any,
) -> nnx.Conv:
    """A convolution without bias, padded as PyTorch pads: the same on all sides."""
    return nnx.Conv(
        features_in,
        features_out,
        (size, size),
        strides=strides,
        kernel_dilation=dilation,
        padding=dilation * (size // 2),
        use_bias=False,
        kernel_init=_he_fan_out,
        **kwargs,
    )


def _classifier(features: int, num_classes: int, **kwargs: Any) -> nnx.Linear:
    return nnx.Linear(features, num_classes, kernel_init=lecun_normal, bias_init=zeros, **kwargs)


class Bottleneck(nnx.Module):
    """`relu(shortcut(x) + sa(bn3(conv1x1(relu(bn2(conv3x3(relu(bn1(conv1x1(x))))))))))`.

    The stride is in the 3 x 3 convolution. The shortcut is the identity, or a 1 x 1 convolution and
    batch norm where stride or features change.
    """

    def __init__(
        self,
        features_in: int,
        features: int,
        *,
        groups: int,
        strides: int = 1,
        dilation: int = 1,
        param_dtype: Dtype = jnp.float32,
        **kwargs: Any,
    ):
        out = _EXPANSION * features
        kwargs["param_dtype"] = param_dtype
        self.conv1 = _conv(features_in, features, 1, **kwargs)
        self.bn1 = BatchNorm(features, param_dtype=param_dtype)
        self.conv2 = _conv(features, features, 3, strides=strides, dilation=dilation, **kwargs)
        self.bn2 = BatchNorm(features, param_dtype=param_dtype)
        self.conv3 = _conv(features, out, 1, **kwargs)
        self.bn3 = BatchNorm(out, param_dtype=param_dtype)
        self.sa = ShuffleAttention(out, groups=groups, param_dtype=param_dtype)
        self.has_shortcut = strides != 1 or features_in != out
        if self.has_shortcut:
            self.shortcut_conv = _conv(features_in, out, 1, strides=strides, **kwargs)
            self.shortcut_bn = BatchNorm(out, param_dtype=param_dtype)

    def branch(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """What the block adds to its shortcut: the output of its shuffle attention."""
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        return self.sa(self.bn3(self.conv3(y)))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        y = self.branch(x)
        shortcut = self.shortcut_bn(self.shortcut_conv(x)) if self.has_shortcut else x
        return nnx.relu(y + shortcut)


class SAResNet(nnx.Module):
    """SA-ResNet: a classifier, or the four stages of features for dense prediction.

    `model(pictures) -> logits` (B, num_classes), or with `features_only` a tuple of four maps, of
    4, 8, 16 and 32 times `width` features at 1/4, 1/8, 1/16 and 1/32 of height and width. The
    paper's networks take colour pictures in [0, 1] less (0.485, 0.456, 0.406), divided by
    (0.229, 0.224, 0.225). Call `model.eval()` before use, so that batch norm takes its running
    statistics.

    Args:
      blocks: number of blocks in each of the four stages; (3, 4, 6, 3) makes SA-ResNet-50,
        (3, 4, 23, 3) 101 and (3, 8, 36, 3) 152.
      width: features of the first convolution; the paper has 64.
      num_classes: length of the logits.
      channels: channels of the picture.
      groups: groups of the shuffle attention; 2 * groups must divide 4 * width.
      features_only: return the four stages, and have no classifier.
      output_stride: 32, or 16 or 8 to have dilation in place of stride in the last one or two
        stages: finer maps for dense prediction from the same weights.
      dtype: dtype of the computation, e.g. bfloat16; None takes that of input and parameters.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.

    Raises:
      ValueError: for sizes that don't fit, or another output_stride.

    Zhang and Yang, "SA-Net", ICASSP 2021, https://arxiv.org/abs/2102.00240; He et al., CVPR 2016.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        num_classes: int = 1000,
        channels: int = 3,
        groups: int = 64,
        features_only: bool = False,
        output_stride: int = 32,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if len(blocks) != 4 or min(blocks) < 1 or max(blocks) > 1000:
            raise ValueError(f"blocks must be four numbers from 1 to 1000; got {tuple(blocks)}.")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32; got {output_stride}.")
        _check_at_least_one(width=width, num_classes=num_classes)
        self.in_channels, self.features_only = channels, features_only
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.conv1 = _conv(channels, width, 7, strides=2, **kwargs)
        self.bn1 = BatchNorm(width, param_dtype=param_dtype)
        stages, features_in, dilation = [], width, 1
        for stage, count in enumerate(blocks):
            features = width * 2**stage
            strides, first_dilation = (1 if stage == 0 else 2), dilation
            if 2 ** (stage + 2) > output_stride:
                # The first block's convolution still sees the finer dilation: it reads the map of
                # the stage before, at the spacing that this stage's stride would have read.
                strides, dilation = 1, 2 * dilation
            made = []
            for block in range(count):
                made.append(
                    Bottleneck(
                        features_in,
                        features,
                        groups=groups,
                        strides=strides if block == 0 else 1,
                        dilation=first_dilation if block == 0 else dilation,
                        **kwargs,
                    )
                )
                features_in = _EXPANSION * features
            stages.append(nnx.List(made))
        self.stages = nnx.List(stages)
        if not features_only:
            self.fc = _classifier(features_in, num_classes, **kwargs)

    def new_classifier(self, num_classes: int, *, rngs: nnx.Rngs) -> None:
        """Puts an untrained classifier of `num_classes` in place of what there is, or is not.

        For training on other classes from trained stages; afterwards `features_only` is False.

        Raises:
          ValueError: for a number below 1.
        """
        _check_at_least_one(num_classes=num_classes)
        features = self.stages[-1][-1].conv3.out_features
        kwargs: dict[str, Any] = {"dtype": self.conv1.dtype, "param_dtype": self.conv1.param_dtype}
        self.fc = _classifier(features, num_classes, rngs=rngs, **kwargs)
        self.features_only = False

    def stem(self, pictures: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """What the first stage takes.

        Raises:
          ValueError: for a picture with another number of channels, or not of floating-point
            numbers.
        """
        pictures = check_floating("this network", pictures, "the picture")
        if pictures.ndim != 4 or pictures.shape[-1] != self.in_channels:
            raise ValueError(
                f"this network takes (B, H, W, {self.in_channels}) pictures; got {pictures.shape}."
            )
        x = nnx.relu(self.bn1(self.conv1(pictures)))
        return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    def features(self, pictures: Float[Array, "B H W C"]) -> tuple[Float[Array, "B _ _ _"], ...]:
        """The maps after each of the four stages, coarser and coarser.

        Raises:
          ValueError: for a picture with another number of channels.
        """
        x = self.stem(pictures)
        maps = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            maps.append(x)
        return tuple(maps)

    def __call__(
        self, pictures: Float[Array, "B H W C"]
    ) -> Float[Array, "B K"] | tuple[Float[Array, "B _ _ _"], ...]:
        """Logits, or with `features_only` the four stages."""
        maps = self.features(pictures)
        return maps if self.features_only else self.fc(jnp.mean(maps[-1], axis=(1, 2)))
