"""Batch norm with PyTorch's running statistics."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sa_flax.functional.batch_norm import batch_moments, batch_norm, check_channels
from sa_flax.functional.initializers import filled

Dtype = jax.typing.DTypeLike


class BatchNorm(nnx.Module):
    """Batch norm over all axes but the last: see `sa_flax.functional.batch_norm.batch_norm`.

    In training mode (`model.train()`) it normalises by the batch's own mean and biased variance,
    and moves the running statistics: `running = momentum * running + (1 - momentum) * batch`. As
    in PyTorch, and unlike `nnx.BatchNorm`, the variance that is averaged is the unbiased one, so
    that statistics trained on either side are the same. In evaluation mode (`model.eval()`) it
    normalises by the running statistics.

    Args:
      features: channels C.
      momentum: how much of the running statistics a step keeps; 0.9 is PyTorch's `momentum=0.1`.
      epsilon: added to the variance.
      param_dtype: dtype of the parameters and the statistics.
      rngs: accepted as every layer does; nothing is drawn from it.

    Raises:
      ValueError: for maps with other than `features` channels, on the last axis, or without
        floating-point numbers; in training mode, for a batch with a single value a channel.
    """

    def __init__(
        self,
        features: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        self.momentum, self.epsilon = momentum, epsilon
        self.use_running_average = False  # what nnx.Module.train() and .eval() set
        self.scale = nnx.Param(filled((features,), 1.0, param_dtype))
        self.bias = nnx.Param(filled((features,), 0.0, param_dtype))
        self.mean = nnx.BatchStat(filled((features,), 0.0, param_dtype))
        self.var = nnx.BatchStat(filled((features,), 1.0, param_dtype))

    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        x = check_channels(x, self.scale[...])
        if self.use_running_average:
            mean, variance = self.mean[...], self.var[...]
        else:
            mean, variance = batch_moments(x)
            self._update(mean, variance, x.size // x.shape[-1])
        return batch_norm(x, mean, variance, self.scale[...], self.bias[...], epsilon=self.epsilon)

    def _update(self, mean: jax.Array, variance: jax.Array, count: int) -> None:
        if count < 2:
            raise ValueError(
                "batch norm in training mode needs more than one value a channel; got a batch "
                "with one. Use a larger batch or picture, or model.eval()."
            )
        unbiased = variance * (count / (count - 1))
        for running, batch in ((self.mean, mean), (self.var, unbiased)):
            kept = self.momentum * running[...].astype(batch.dtype)
            moved = kept + (1 - self.momentum) * jax.lax.stop_gradient(batch)
            running[...] = moved.astype(running.dtype)
