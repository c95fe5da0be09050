"""Help for tests that hold PyTorch and Flax networks against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

import sa_flax


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Draws every parameter and statistic anew: fresh zeros and ones would hide mistakes.

    Kernels get a standard deviation that keeps activations near one, variances stay positive.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if not value.is_floating_point():
            continue
        drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            drawn = 0.5 + drawn.square()
        elif value.ndim >= 2 and value[0].numel() > 1:
            drawn /= np.sqrt(value[0].numel() / 2)
        else:
            drawn = value + 0.3 * drawn
        value.copy_(drawn)
    return network


def as_tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """What `load_state_dict` takes, from what `porting.to_torch` gives."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def nchw(array: np.ndarray | jax.Array) -> torch.Tensor:
    """A copy, since PyTorch wants arrays that it may write to."""
    return torch.from_numpy(np.array(np.moveaxis(np.asarray(array), -1, 1), order="C"))


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def drawn_model(name: str, *, seed: int = 0, **options) -> nnx.Module:
    """A network with every parameter drawn by NumPy: no initialiser is compiled."""
    model = nnx.eval_shape(lambda: sa_flax.create_model(name, **options, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(seed)
    for _, leaf in nnx.to_flat_state(nnx.state(model)):
        shape, dtype = leaf.get_value().shape, leaf.get_value().dtype
        scale = 1 / np.sqrt(max(np.prod(shape[:-1], dtype=float), 1))
        leaf.set_value(jnp.asarray(scale * np.abs(rng.standard_normal(shape)), dtype))
    return model
