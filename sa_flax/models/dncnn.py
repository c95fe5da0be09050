"""DnCNN: the plain convolutional denoiser that later ones are measured against."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sa_flax.functional.checks import check_floating
from sa_flax.functional.statistics import statistics_dtype
from sa_flax.modules.batch_norm import BatchNorm
from sa_flax.modules.blocks import conv3x3

Dtype = jax.typing.DTypeLike


class DnCNN(nnx.Module):
    """DnCNN denoiser: `model(noisy) -> clean`, any height and width, pictures in [0, 1].

    `clean = noisy - net(noisy)`: 3 x 3 convolutions (zero padding) with ReLU between them and
    batch norm in all layers but the first and the last; the net gives the noise. Call
    `model.eval()` before use, so that batch norm takes its running statistics.

    Args:
      channels: 1 (gray) or 3 (colour), or any other number of channels of the picture.
      depth: number of convolutions; the paper has 17 for one known noise level (DnCNN-S) and 20
        for blind denoising (DnCNN-B, CDnCNN-B).
      width: features of the hidden layers.
      batch_norm: batch norm in the hidden layers.
      bias: biases in the convolutions; None gives them where there is no batch norm.
      epsilon: added to the variance in batch norm.
      dtype: dtype of the computation, e.g. bfloat16; None takes that of input and parameters. The
        first and the last convolution take no less than float32, for the picture's sake. The result
        has the input's dtype.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.

    Raises:
      ValueError: for a depth below 2 or above 1000, or channels or width below 1 or above 65,536.

    Zhang et al., "Beyond a Gaussian Denoiser", IEEE TIP 26(7), 2017,
    https://arxiv.org/abs/1608.03981.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        depth: int = 17,
        width: int = 64,
        batch_norm: bool = True,
        bias: bool | None = None,
        epsilon: float = 1e-5,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        for name, value, least, most in (
            ("channels", channels, 1, 2**16),
            ("depth", depth, 2, 1000),
            ("width", width, 1, 2**16),
        ):
            if isinstance(value, tuple | list):  # as a U-Net's width can be
                raise ValueError(f"{name} must be one number; got {value}.")
            if value < least:
                raise ValueError(f"{name} must be at least {least}; got {value}.")
            if value > most:
                raise ValueError(f"{name} can't be more than {most}; got {value}.")
        self.channels, self.depth, self.width = channels, depth, width
        self.batch_norm, self.epsilon = batch_norm, epsilon
        self.bias = not batch_norm if bias is None else bias
        self.dtype, self.param_dtype = dtype, param_dtype
        outer = None if dtype is None else statistics_dtype(dtype)
        sizes = [channels, *[width] * (depth - 1), channels]
        self.convs = nnx.List(
            [
                conv3x3(
                    sizes[i],
                    sizes[i + 1],
                    use_bias=self.bias,
                    dtype=outer if i in (0, depth - 1) else dtype,
                    param_dtype=param_dtype,
                    rngs=rngs,
                )
                for i in range(depth)
            ]
        )
        self.norms = nnx.List(
            [
                BatchNorm(width, epsilon=epsilon, param_dtype=param_dtype)
                for _ in range(depth - 2 if batch_norm else 0)
            ]
        )

    @property
    def receptive_radius(self) -> int:
        """How many pixels away from a pixel its result depends on."""
        return self.depth

    def __call__(self, noisy: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Denoises pictures in [0, 1].

        Raises:
          ValueError: for a picture with another number of channels, or not of floating-point
            numbers.
        """
        noisy = check_floating("this network", noisy, "the picture")
        if noisy.ndim != 4 or noisy.shape[-1] != self.channels:
            raise ValueError(
                f"this network denoises (B, H, W, {self.channels}) pictures; got {noisy.shape}."
            )
        x = self.convs[0](noisy, relu=True)
        for i in range(1, self.depth - 1):
            if self.batch_norm:
                x = nnx.relu(self.norms[i - 1](self.convs[i](x)))
            else:
                x = self.convs[i](x, relu=True)
        noise = self.convs[-1](x)
        return noisy - noise.astype(noisy.dtype)


def fold_batch_norm(model: DnCNN) -> DnCNN:
    """The same denoiser without batch norm: each norm is folded into the convolution before it.

    With `f = scale / sqrt(var + epsilon)` the new kernel is `kernel * f` and the new bias
    `(bias - mean) * f + norm_bias`, worked out in float64. It gives what `model.eval()` gives, up
    to rounding, with fewer passes over memory; it can't be trained as the original was. A model
    without batch norm is returned as it is.
    """
    if not model.batch_norm:
        return model
    folded = nnx.eval_shape(
        lambda: DnCNN(
            channels=model.channels,
            depth=model.depth,
            width=model.width,
            batch_norm=False,
            bias=True,
            epsilon=model.epsilon,
            dtype=model.dtype,
            param_dtype=model.param_dtype,
            rngs=nnx.Rngs(0),
        )
    )
    for i, conv in enumerate(model.convs):
        kernel = np.asarray(conv.kernel[...], np.float64)
        if conv.bias is None:
            bias = np.zeros(kernel.shape[-1])
        else:
            bias = np.asarray(conv.bias[...], np.float64)
        if 0 < i < model.depth - 1:
            norm = model.norms[i - 1]
            scale, shift, mean, variance = (
                np.asarray(leaf[...], np.float64)
                for leaf in (norm.scale, norm.bias, norm.mean, norm.var)
            )
            factor = scale / np.sqrt(variance + norm.epsilon)
            kernel, bias = kernel * factor, (bias - mean) * factor + shift
        for name, array in (("kernel", kernel), ("bias", bias)):
            getattr(folded.convs[i], name).set_value(jnp.asarray(array, model.param_dtype))
    folded.eval()
    return folded
