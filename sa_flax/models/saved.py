"""Saved networks: a directory with `config.json` and `model.safetensors`, the hub's convention.

`config.json` holds `{"model": name, "options": {...}}`, what `create_model` takes, and whatever
else one wants to note; `model.safetensors` holds every parameter and statistic under its Flax path,
e.g. `convs.0.kernel`; `README.md`, where there is one, is the model card. It is the only form that
networks have: a run of train.py keeps one in its folder `network`, the package ships some in
`models/weights`, and the hub holds some.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save

from sa_flax.errors import InputError, PortingError, nearest
from sa_flax.files import cache_folder, write_whole
from sa_flax.limits import LARGEST_CHECKPOINT
from sa_flax.models.registry import create_model
from sa_flax.models.weight_files import read_safetensors
from sa_flax.remote import Remote, check_path, is_address

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
# The saved networks in the directory of a run: the newest, and the best on its validation pictures.
NETWORK, BEST_NETWORK = "network", "best"
# In the directory of every run: a line for each of its starts.
STARTS = "starts.jsonl"
# Behind the directory of a run: its best network instead of its newest.
BEST = "@best"
# Kinds of numbers that a file of weights may have.
_SAVED = ("float16", "bfloat16", "float32", "float64")

_SHIPPED = Path(__file__).parent / "weights"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class PretrainedError(InputError):
    """A trained network that can't be found or fetched."""


def list_pretrained() -> list[str]:
    """The names of shipped networks that `from_pretrained` knows, in alphabetical order."""
    return sorted(path.parent.name for path in _SHIPPED.glob(f"*/{CONFIG}"))


def shipped_directory(name: str) -> Path:
    """Where a shipped network lies: its files, with the card."""
    return _SHIPPED / name


def model_leaves(model: nnx.Module) -> dict[str, nnx.Variable[Any]]:
    """A network's parameters and statistics by their dotted path, e.g. "convs.0.kernel"."""
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def save_pretrained(
    model: nnx.Module,
    directory: str | os.PathLike[str],
    *,
    config: Mapping[str, Any],
    card: str | None = None,
    dtype: Any = None,
) -> None:
    """Writes a network to `directory`, for `from_pretrained`.

    Args:
      model: the network.
      directory: made where it does not exist; the files in it are replaced, each as a whole.
      config: {"model": name, "options": {...}}, the arguments of `create_model` that built the
        network, and any further entries to note beside them. JSON, and dtypes, which are noted by
        their names.
      card: text of the model card, README.md: what it was trained on, for what, its limits.
      dtype: of the numbers in the file, e.g. "float16", which halves it; by default the network's.

    Raises:
      InputError: where `config` does not build this network, or is not JSON, where a file is in
        the place of the directory, or that is a training run's or an address, and for numbers that
        are not finite in `dtype`, or a `dtype` that can't be read back. What is there stays.
      StorageError: where the directory can't be written.
    """
    check_path(directory, "save_pretrained")
    abstract = _build(config, "config")
    leaves = {path: leaf.get_value() for path, leaf in model_leaves(model).items()}
    described = {path: leaf.get_value().shape for path, leaf in model_leaves(abstract).items()}
    actual = {path: leaf.shape for path, leaf in leaves.items()}
    if described != actual:
        path = min(set(described.items()) ^ set(actual.items()))[0]
        raise InputError(
            f"config does not describe this network: {config['model']!r} with options "
            f"{dict(config.get('options', {}))} has {described.get(path, 'nothing')} at {path}, "
            f"the network has {actual.get(path, 'nothing')}. Give the arguments that create_model "
            "was called with."
        )
    if _windows(model) != _windows(abstract):
        raise InputError(
            "the window of attention's statistics is not saved: save the network without "
            "with_window(), and call that on the one that from_pretrained gives."
        )
    try:
        text = json.dumps(dict(config), indent=2, allow_nan=False, default=_plain) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"config must be JSON: {error}.") from error
    arrays = {path: _as(dtype, path, leaf) for path, leaf in leaves.items()}
    directory = Path(directory)
    if (directory / STARTS).exists():
        raise InputError(
            f"{directory} is the directory of a training run, which would be lost. Choose another."
        )
    place = next((p for p in (directory, *directory.parents) if os.path.exists(p)), directory)
    if os.path.exists(place) and not os.path.isdir(place):
        raise InputError(f"{directory}: can't be written, since {place} is a file. Give a folder.")
    write_whole(directory / WEIGHTS, save(arrays, metadata={"format": "flax"}))
    write_whole(directory / CONFIG, text)
    if card is not None:
        write_whole(directory / CARD, card)


def _windows(model: nnx.Module) -> list[Any]:
    return [getattr(layer, "window", None) for _, layer in nnx.iter_modules(model)]


def _as(dtype: Any, path: str, leaf: Any) -> np.ndarray:
    """An array of the network in the file's numbers. Raises InputError where they can't hold it."""
    try:
        kind = jnp.dtype(leaf.dtype if dtype is None else dtype)
    except TypeError as error:
        raise InputError(f"dtype {dtype!r} is none of {', '.join(_SAVED)}.") from error
    if dtype is not None and kind.name not in _SAVED:
        raise InputError(f"networks are saved as one of {', '.join(_SAVED)}; got {kind.name}.")
    with np.errstate(over="ignore"):
        array = np.array(leaf, kind, order="C")
    if not np.all(np.isfinite(array.astype(np.float32 if array.itemsize < 4 else array.dtype))):
        raise InputError(f"{path} holds numbers that are not finite in {kind.name}; nothing saved.")
    return array


def from_pretrained(
    name: str | os.PathLike[str], *, revision: str | None = None, dtype: Any = None
) -> tuple[nnx.Module, dict[str, Any]]:
    """A trained network and its config.

    Args:
      name: a shipped name (`list_pretrained()`), a directory that `save_pretrained` wrote, the
        directory of a run of train.py, the address of either (gs://BUCKET/RUN), or OWNER/NAME on
        the Hugging Face hub (needs the package huggingface_hub). A directory that exists comes
        before a shipped name. A run's newest network is taken; RUN@best is the one with the best
        validation PSNR.
      revision: branch, tag or commit on the hub.
      dtype: of the computation, e.g. "bfloat16"; by default what the network was saved with. Its
        parameters keep their dtype.

    Returns:
      The network, in evaluation mode, and the content of its config.json.

    Raises:
      PretrainedError: where there is no such network, or it can't be fetched.
      InputError: where its files are damaged or don't fit each other; everything that does not fit
        is listed.
    """
    try:
        floating = jnp.issubdtype(dtype, jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise InputError(f"networks compute in floating-point numbers; got dtype {dtype!r}.")
    directory = _find(os.fspath(name), revision)
    config = _read_config(directory / CONFIG)
    model = _build(config, str(directory / CONFIG), dtype=dtype)
    fill(model, _read_weights(directory / WEIGHTS, model), str(directory))
    model.eval()
    return model, config


def config_of(name: str | os.PathLike[str], *, revision: str | None = None) -> dict[str, Any]:
    """A saved network's config, without the network. Takes and raises as `from_pretrained`."""
    return _read_config(_find(os.fspath(name), revision) / CONFIG)


def card_of(name: str | os.PathLike[str], *, revision: str | None = None) -> str:
    """The text of a saved network's card, "" where it has none. Takes and raises as above."""
    card = _find(os.fspath(name), revision) / CARD
    try:
        return card.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{card}: can't be read ({error}).") from error


def fill(model: nnx.Module, arrays: Mapping[str, np.ndarray], origin: str) -> None:
    """Gives a network's parameters and statistics the values of `arrays`, in place.

    Args:
      model: a network, concrete or from `nnx.eval_shape`; values are cast to its dtypes.
      arrays: by path, as `model_leaves` names them.
      origin: where they come from, for the error.

    Raises:
      PortingError: where anything is missing, left over, of the wrong shape, or not finite; all of
        it is listed, and the network is as it was.
    """
    leaves = model_leaves(model)
    shapes = {path: leaf.get_value().shape for path, leaf in leaves.items()}
    unused = [f"{path} {array.shape}" for path, array in arrays.items() if path not in shapes]
    unfilled = [f"{path} {shape}" for path, shape in shapes.items() if path not in arrays]
    misfits = [
        f"{path}: has shape {arrays[path].shape}; the network needs {shape}"
        for path, shape in shapes.items()
        if path in arrays and arrays[path].shape != shape
    ]
    misfits += [
        f"{path}: holds {array.dtype}; parameters are floating-point numbers"
        for path, array in arrays.items()
        if not jnp.issubdtype(array.dtype, jnp.floating)
    ]
    with np.errstate(over="ignore"):
        misfits += [
            f"{path}: holds values that are not finite (the training diverged, or the file is "
            "damaged)"
            for path, array in arrays.items()
            if jnp.issubdtype(array.dtype, jnp.floating)
            and not np.isfinite(array.astype(np.float32)).all()
        ]
    if unused or unfilled or misfits:
        raise PortingError(
            f"{origin}: does not hold the network that is asked for",
            unused=unused,
            unfilled=unfilled,
            misfits=misfits,
        )
    for path, leaf in leaves.items():
        leaf.set_value(jnp.asarray(arrays[path], leaf.get_value().dtype))


def _build(config: Mapping[str, Any], origin: str, *, dtype: Any = None) -> nnx.Module:
    """The network that a config describes, computing in `dtype` where one is given; no arrays."""
    name, options = config.get("model"), config.get("options", {})
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise InputError(
            f'{origin}: needs "model", a name from list_models(), and "options", the arguments of '
            f"create_model; got model={name!r}, options={options!r}."
        )
    options = {**options, **({} if dtype is None else {"dtype": dtype})}
    try:
        return nnx.eval_shape(lambda: create_model(name, **options, rngs=nnx.Rngs(0)))
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise InputError(
            f"{origin}: {name!r} can't be built from these options: {error}."
        ) from error


def _plain(value: Any) -> Any:
    """What JSON has no form of: numbers of NumPy and JAX, and dtypes, by their names."""
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        if np.ndim(value) > 0:
            raise TypeError("an array is no number, text, list or mapping")
        return np.asarray(value).item()
    try:
        return jnp.dtype(value).name
    except TypeError:
        name = getattr(value, "__name__", repr(value))
        raise TypeError(
            f"{name} has no place in a file. A network with an attention of your own is kept by "
            "its parameters, nnx.state(model), and built by your code"
            if callable(value)
            else f"{name} is no number, text, list or mapping"
        ) from None


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PretrainedError(
            f"{path.parent}: has no {path.name}, so it holds no trained network. "
            "train.py, `sa-flax port` and save_pretrained write such directories."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON: {error}.") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}).") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: must hold an object, not a {type(config).__name__}.")
    return config


def _read_weights(path: Path, model: nnx.Module) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise PretrainedError(f"{path.parent}: has no {path.name}.")
    # A smaller file that is another network's is read, so that `fill` can say what does not fit.
    needed = 8 * sum(leaf.get_value().size for leaf in model_leaves(model).values())
    advice = (
        f"The network that {CONFIG} beside it describes takes {needed / 2**20:,.0f} MiB at most: "
        "the two don't belong together."
    )
    return read_safetensors(path, max(LARGEST_CHECKPOINT, 2 * needed), advice=advice)


def _find(name: str, revision: str | None) -> Path:
    """The local directory of a network, fetched where it is on the hub."""
    if is_address(name):
        return _from_address(name)
    if os.path.isdir(name):
        return _in_run(Path(name))
    if name.endswith(BEST):
        return _best_of(Path(name.removesuffix(BEST)))
    if name in list_pretrained():
        return shipped_directory(name)
    # Runs are kept in runs/: of one that is not there yet, don't say the hub hasn't got it.
    if _HUB_NAME.fullmatch(name) and Path(name).parts[0] != "runs":
        return _fetch(name, revision)
    known = ", ".join(list_pretrained()) or "none in this version"
    raise PretrainedError(
        f"{name!r} is no directory and no shipped network.{nearest(name, list_pretrained())} "
        f"Shipped: {known}. Give one of them, the directory of a run of train.py, a directory with "
        f"{CONFIG} and {WEIGHTS}, or OWNER/NAME on the hub."
    )


def _in_run(directory: Path) -> Path:
    """The network of a run's directory; any other directory as it is."""
    if (directory / NETWORK / CONFIG).is_file():
        return directory / NETWORK
    if (directory / "starts.jsonl").is_file():
        raise PretrainedError(
            f"{directory} is the directory of a run that has saved no network yet: train a little "
            "longer."
        )
    return directory


def _best_of(run: Path) -> Path:
    """The best network of a run."""
    if (run / BEST_NETWORK / CONFIG).is_file():
        return run / BEST_NETWORK
    if (run / "starts.jsonl").is_file():
        raise PretrainedError(
            f"{run} has kept no best network: it has not been saved at a step at which it was "
            f"measured on its validation pictures. Give {run} for its newest."
        )
    raise PretrainedError(
        f"{run}{BEST}: {run} is not the directory of a run, and only runs have a best network."
    )


def _from_address(name: str) -> Path:
    """The network of a run, or one saved by itself, at an address; fetched at each call."""
    remote = Remote(name.removesuffix(BEST))
    key = hashlib.sha256(name.encode()).hexdigest()[:16]
    here = cache_folder() / "networks" / key / remote.name
    for folder in [f"{BEST_NETWORK}/"] if name.endswith(BEST) else [f"{NETWORK}/", ""]:
        files = {file: remote.read(folder + file) for file in (WEIGHTS, CONFIG, CARD)}
        if files[WEIGHTS] and files[CONFIG]:
            for file, content in files.items():
                write_whole(here / file, content or b"")
            return here
    raise PretrainedError(
        f"{name}: there is no trained network. Give the address of a run that has saved one, or of "
        f"a folder with {CONFIG} and {WEIGHTS}."
    )


def _fetch(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise PretrainedError(
            f"{name!r} is no directory here. To fetch it from the Hugging Face hub, install "
            "huggingface_hub: pip install 'sa_flax[hub]'."
        ) from error
    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=[CONFIG, WEIGHTS, CARD])
        )
    except Exception as error:  # its errors differ between versions and transports
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise PretrainedError(
            f"{name!r} is no directory here, and fetching it from the Hugging Face hub failed. "
            "Check the name and the network; with the files at hand, give their directory.\n"
            f"  The hub says: {reason}"
        ) from error
