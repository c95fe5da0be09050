"""The network that a command uses: by name, by directory, and what people give by mistake."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_flax.errors import InputError, nearest

if TYPE_CHECKING:
    from sa_flax.inference.denoiser import Denoiser

HELP = (
    "the network: the name of one that comes with sa_flax, the directory of a training run or of "
    "a ported network, or OWNER/NAME on the Hugging Face hub"
)
# What is taken unless asked otherwise: the first of these that this version comes with.
_DEFAULTS = ("photo", "color", "gray")
_CHECKPOINTS = (".pth", ".pth.tar", ".pt", ".ckpt", ".bin", ".safetensors")


def load(name: str | None, *, window: int | None = None, devices: int = 1) -> "Denoiser":
    """The network of a name or directory; without one, the one for photographs.

    Raises:
      InputError: where there is none, or what is given is something else; it says what.
    """
    from sa_flax.inference.denoiser import Denoiser

    if name is None:
        name = default()
    if not _is_shipped(name):
        name = check_name(name)
    side = None if window is None else (window, window)
    return Denoiser.from_pretrained(name, window=side, devices=devices)


def load_model(name: str) -> Any:
    """The network itself, in evaluation mode, for what needs its layers.

    Raises:
      InputError: as `load`.
    """
    from flax import nnx

    from sa_flax.models.registry import network_of
    from sa_flax.models.saved import from_pretrained
    from sa_flax.training.run_directory import read_config, restore_ema

    name = name if _is_shipped(name) else check_name(name)
    if not os.path.isdir(name) or os.path.isfile(os.path.join(name, "model.safetensors")):
        return from_pretrained(name)[0]
    config = read_config(Path(name))
    abstract = nnx.eval_shape(lambda: network_of(config))
    graphdef, *states = nnx.split(abstract, nnx.Param, ...)
    model = nnx.merge(graphdef, *restore_ema(Path(name), *states))
    model.eval()
    return model


def default() -> str:
    """The name of the network that is used unless asked otherwise.

    Raises:
      InputError: where this version comes with none.
    """
    from sa_flax.models.saved import list_pretrained

    shipped = list_pretrained()
    for name in _DEFAULTS:
        if name in shipped:
            return name
    raise InputError(
        "this version comes without trained networks: train one (python train.py) and give its "
        "directory, --model runs/quick; or port one, sa-flax port --help."
    )


def _is_shipped(name: str) -> bool:
    from sa_flax.models.saved import list_pretrained

    return name in list_pretrained()


def check_name(name: str) -> str:
    """`name` as a network's, with ~ for the home folder; raises InputError for what is none."""
    from sa_flax.models.saved import list_pretrained
    from sa_flax.pictures import SUFFIXES

    path = os.path.expanduser(name)
    if not path.strip():
        raise InputError("--model needs a name or a directory; got nothing.")
    if os.path.isdir(path):
        return path if path != name else name
    lower = path.lower()
    exists = os.path.exists(path)
    folder = os.path.dirname(path) or "."
    if exists and lower.endswith(".safetensors") and os.path.isfile(f"{folder}/config.json"):
        raise InputError(f"{name} is a file of a network; give its directory: --model {folder}.")
    if lower.endswith(_CHECKPOINTS):
        raise InputError(
            f"{name} {'is' if exists else 'is not there; by its name it is'} a checkpoint of "
            f"PyTorch. Port it first: sa-flax port {name} --architecture dncnn --output ported; "
            "then --model ported."
        )
    if exists and lower.endswith(SUFFIXES):
        raise InputError(
            f"{name} is a picture, and --model takes a network. Pictures stand by themselves: "
            f"sa-flax denoise {name} --output FOLDER."
        )
    if exists:
        raise InputError(f"{name} is a file; --model takes a directory or a name.")
    if _is_path(name):
        raise InputError(
            f"no network in {name}: there is no such directory"
            f"{'' if os.path.isabs(path) else f', seen from {os.getcwd()}'}."
            f"{_neighbours(Path(path))} `python train.py` makes runs/quick."
        )
    if "/" not in name:
        known = list_pretrained()
        raise InputError(
            f"no network {name!r}: it is neither among those that come with sa_flax "
            f"({', '.join(known) or 'none in this version'}) nor a directory in {os.getcwd()}."
            f"{_neighbours(Path(path)) or nearest(name, known)}"
        )
    return name


def _is_path(name: str) -> bool:
    """Whether `name` means a place on this machine rather than OWNER/NAME on the hub."""
    if os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1:
        return True
    owner, slash, _ = name.partition("/")
    return bool(slash) and (owner == "runs" or os.path.isdir(owner))


def _neighbours(path: Path) -> str:
    try:
        there = sorted(p.name for p in path.parent.iterdir() if (p / "config.json").is_file())
    except OSError:
        return ""
    if not there:
        return ""
    return f"{nearest(path.name, there)} There are {', '.join(there[:8])} in {path.parent}."
