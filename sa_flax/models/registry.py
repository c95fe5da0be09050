"""Networks by name."""

import importlib
import inspect
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sa_flax.config import Config
from sa_flax.errors import InputError, nearest

# name -> (module, class, options that the name stands for)
_MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "attention_unet": ("sa_flax.models.unet", "AttentionUNet", {}),
    "dncnn": ("sa_flax.models.dncnn", "DnCNN", {}),
    "sa_resnet50": ("sa_flax.models.sa_resnet", "SAResNet", {"blocks": (3, 4, 6, 3)}),
    "sa_resnet101": ("sa_flax.models.sa_resnet", "SAResNet", {"blocks": (3, 4, 23, 3)}),
    "sa_resnet152": ("sa_flax.models.sa_resnet", "SAResNet", {"blocks": (3, 8, 36, 3)}),
}


def list_models() -> list[str]:
    """The names that `create_model` knows, in alphabetical order."""
    return sorted(_MODELS)


def create_model(name: str, *, rngs: nnx.Rngs, **options: Any) -> nnx.Module:
    """Builds a network by name; denoisers map noisy (B, H, W, C) in [0, 1] to clean.

    Args:
      name: one of `list_models()`.
      rngs: the random streams that parameters are drawn from.
      **options: keyword arguments of the network's class, e.g. `channels=1`.

    Raises:
      InputError (a ValueError): for an unknown name (the nearest one is suggested).
    """
    cls, implied = model_class(name)
    return cls(**{**implied, **options}, rngs=rngs)


def model_class(name: str) -> tuple[type, dict[str, Any]]:
    """The class of a network, and the options that its name stands for.

    Raises:
      InputError (a ValueError): for an unknown name (the nearest one is suggested).
    """
    if name not in _MODELS:
        raise InputError(
            f"unknown model {name!r}.{nearest(name, _MODELS)} Known: {', '.join(list_models())}."
        )
    module, cls, implied = _MODELS[name]
    return getattr(importlib.import_module(module), cls), dict(implied)


def network_of(config: Config) -> nnx.Module:
    """The network that a training configuration describes, with the parameters its seed gives.

    They are drawn by XLA's own generator: JAX's default one takes ten seconds to compile for all
    the shapes of a U-Net on a CPU. The same seed can give other numbers on another kind of device.
    Entries that a network does not know, such as the levels of a DnCNN, are left out.

    Raises:
      InputError: for a network that is no denoiser, or can't be built with these options.
    """
    cls, _ = model_class(config.model.name)
    # Of the class itself, flax's metaclass shows (*args, **kwargs).
    accepted = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    if "num_classes" in accepted:
        raise InputError(f"{config.model.name} is not a denoiser; train attention_unet or dncnn.")
    for flag, asked in (
        ("--model.noise-level", config.model.noise_level),
        ("--optimizer.remat", config.optimizer.remat),
    ):
        if asked and flag.split(".")[1].replace("-", "_") not in accepted:
            raise InputError(f"{config.model.name} has no {flag}; attention_unet has.")
    options = {
        **config.model.options(),
        "dtype": None if config.dtype == "float32" else jnp.dtype(config.dtype),
        "remat": config.optimizer.remat,
    }
    rngs = nnx.Rngs(jax.random.key(config.seed, impl="rbg"))
    options = {k: v for k, v in options.items() if k in accepted}
    try:
        return create_model(config.model.name, rngs=rngs, **options)
    except InputError:
        raise
    except (TypeError, ValueError) as error:  # an option's value
        raise InputError(
            f"the network {config.model.name!r} can't be built from these options --model.*: "
            f"{error}"
        ) from error
