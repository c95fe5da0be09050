"""Networks by name."""

import importlib
from typing import Any

from flax import nnx

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
