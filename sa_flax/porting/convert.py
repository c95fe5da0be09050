"""PyTorch weights into a network or a layer, a network out of PyTorch weights, and back."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from sa_flax.errors import PortingError
from sa_flax.models.registry import create_model, model_class
from sa_flax.models.sa_resnet import SAResNet
from sa_flax.models.saved import model_leaves
from sa_flax.porting.architectures import Architecture, architecture_of, rule_tables
from sa_flax.porting.attention_rules import UnknownWeightsError
from sa_flax.porting.checkpoints import as_arrays, noted_options, read_checkpoint
from sa_flax.porting.rules import to_flax
from sa_flax.porting.rules import to_torch as apply_to_torch

_SHOWN = 6  # names that a message lists
Source = str | os.PathLike[str] | Mapping[str, Any]


def _read(source: Source) -> dict[str, np.ndarray]:
    return as_arrays(source) if isinstance(source, Mapping) else read_checkpoint(source)


def _without_common_names(state: Mapping[str, np.ndarray]) -> Iterator[Mapping[str, np.ndarray]]:
    """`state`, and then without each name that stands in front of all, e.g. "net.", "module."."""
    yield state
    while all("." in name for name in state) and len({n.partition(".")[0] for n in state}) == 1:
        state = {name.partition(".")[2]: array for name, array in state.items()}
        yield state


def load_torch(model: nnx.Module, source: Source) -> None:
    """Fills a network or an attention layer with PyTorch weights, all of it or nothing.

    The names of a layer's weights are those of the paper's code for `ShuffleAttention`, and those
    that `to_torch` gives for the other kinds, which have no common ones.

    Args:
      model: a network, or a layer of any kind that `make_attention` knows; concrete or from
        `nnx.eval_shape`. It is filled in place: weights are cast to its dtypes, and its mode
        (training or evaluation) stays.
      source: a .pth, .pth.tar, .pt or .safetensors file, or a mapping of names to PyTorch, NumPy or
        JAX arrays. `state_dict`, `params`, `params_ema` and `model` wrappers and the `module.`
        prefix are taken off, and so are other names in front of all (`model.`, `net.`), however
        many, where the architecture's names stand behind them.

    Raises:
      PortingError: where anything is left over, missing, claimed twice or of the wrong shape; all
        such entries are listed. Only BatchNorm's `num_batches_tracked` may be there or not.
      CheckpointError: for a file that can't be read, or not safely.
      InputError: for a network or a layer without porting rules.
    """
    _fill(model, _read(source))


def _fill(model: nnx.Module, state: Mapping[str, np.ndarray]) -> None:
    leaves = model_leaves(model)
    shapes = {path: leaf.get_value() for path, leaf in leaves.items()}
    failures = []
    for names in _without_common_names(state):
        for table in rule_tables(model):
            try:
                arrays = to_flax(table, names, shapes)
            except PortingError as error:
                failures.append(error)
                continue
            for path, array in arrays.items():
                leaves[path].set_value(jnp.asarray(array))
            return
    # The attempt that nearly fits tells most.
    raise min(failures, key=lambda error: error.count)


def _implied_options(architecture: Architecture, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the weights say of the network, also behind a name that stands in front of all."""
    failures = []
    for names in _without_common_names(state):
        try:
            return architecture.options(names)
        except UnknownWeightsError as error:
            failures.append(error)
        except (ValueError, IndexError, KeyError, ZeroDivisionError) as error:
            failures.append(
                UnknownWeightsError("arrays of these shapes make up no network of this kind.")
            )
            failures[-1].__cause__ = error
    shown = ", ".join(list(state)[:_SHOWN])
    more = f" and {len(state) - _SHOWN} more" if len(state) > _SHOWN else ""
    raise UnknownWeightsError(f"{failures[0]} Entries found: {shown}{more}.") from failures[0]


def from_torch(
    name: str, source: Source, *, rngs: nnx.Rngs | None = None, **options: Any
) -> nnx.Module:
    """Builds the network that PyTorch weights imply, and loads them: `from_torch("dncnn", path)`.

    Args:
      name: one of `sa_flax.list_models()`.
      source: as for `load_torch`.
      rngs: what a new classifier is drawn from; by default nnx.Rngs(0).
      **options: options of the network that its weights don't tell, or to insist on one that they
        do: it must then agree with them. But for num_classes: another number than that of the
        weights (or one, where they have no classifier) puts a new, untrained classifier in place
        of theirs.

    Returns:
      The network in evaluation mode.

    Raises:
      As `load_torch`, and UnknownWeightsError for weights of another architecture. All are
      InputErrors, and so ValueErrors.
    """
    return build_from_torch(name, source, options, rngs=rngs)[0]


def build_from_torch(
    name: str,
    source: Source,
    options: Mapping[str, Any],
    *,
    rngs: nnx.Rngs | None = None,
    noted: tuple[str, Mapping[str, Any]] | None = None,
) -> tuple[nnx.Module, dict[str, Any]]:
    """As `from_torch`; also returns the options that the network was built with.

    `noted`: class and options that the file notes, if `source` is what was read of one.
    """
    cls, implied = model_class(name)
    state = _read(source)
    if not isinstance(source, Mapping):
        noted = noted_options(source)
    if noted is not None and noted[0] == cls.__name__:
        found = dict(noted[1])  # of which weights don't tell all
    else:
        found = _implied_options(architecture_of(cls), state)
    options = dict(options)
    classes = None
    if issubclass(cls, SAResNet) and not options.get("features_only"):
        classes = options.pop("num_classes", None)
    for option, value in implied.items():
        if option in found and found[option] != value:
            raise UnknownWeightsError(
                f"these weights are not {name!r}: they have {option}={found[option]}, and {name!r} "
                f"has {option}={value}."
            )
    chosen = {key: value for key, value in found.items() if key not in implied}
    for key, value in options.items():
        both = isinstance(value, Mapping) and isinstance(chosen.get(key), Mapping)
        chosen[key] = {**chosen[key], **value} if both else value
    try:
        model = nnx.eval_shape(lambda: create_model(name, **chosen, rngs=nnx.Rngs(0)))
    except (ValueError, TypeError) as error:
        raise UnknownWeightsError(
            f"a {name!r} can't be built with {chosen}, the sizes of these weights: {error}"
        ) from error
    _fill(model, state)
    if isinstance(model, SAResNet) and classes not in (None, chosen.get("num_classes")):
        model.new_classifier(classes, rngs=nnx.Rngs(0) if rngs is None else rngs)
        chosen = {k: v for k, v in chosen.items() if k != "features_only"}
        chosen["num_classes"] = classes
    model.eval()
    return model, chosen


def to_torch(model: nnx.Module) -> dict[str, np.ndarray]:
    """The weights of a network or an attention layer under PyTorch's names.

    A new array each, for `load_state_dict`; `load_torch` reads them back.

    They load into the network's PyTorch twin with `strict=True`, once wrapped:
    `{name: torch.from_numpy(array) for name, array in to_torch(model).items()}` (of parameters in
    bfloat16, which NumPy lends to PyTorch by no name, `array.astype("float32")`). The twin of
    `AttentionUNet` is the file torch_unet.py beside this one; the layers are in it, too.

    Raises:
      InputError: for a network or a layer without porting rules.
    """
    leaves = {path: np.asarray(leaf.get_value()) for path, leaf in model_leaves(model).items()}
    return apply_to_torch(rule_tables(model)[0], leaves)
