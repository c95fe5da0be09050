"""The network that a command uses: by name, by directory, and what people give by mistake."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_flax.errors import InputError, nearest
from sa_flax.remote import is_address

if TYPE_CHECKING:
    import numpy as np

    from sa_flax.inference.denoiser import Denoiser

HELP = (
    "the network: the name of one that comes with sa_flax, the directory of a training run or of "
    "a ported network, its address (gs://BUCKET/RUN), or OWNER/NAME on the Hugging Face hub"
)
_DTYPES = ("auto", "float32", "bfloat16")
# What is taken unless asked otherwise: the first of these that this version comes with.
_DEFAULTS = ("photo", "color", "gray")
_CHECKPOINTS = (".pth", ".pth.tar", ".pt", ".ckpt", ".bin", ".safetensors")


class Chosen:
    """The network that was asked for, and another for gray pictures where it knows colour only.

    Args:
      name: of the network, None for the one for photographs.
      dtype: "auto", "float32" or "bfloat16".
      window, devices, memory: as for `Denoiser`.
      specialists: whether it may hand pictures to those that it names.

    Attributes:
      asked: the network of that name.
      name: the name.
      instead: the name of the network that the last picture went through, where it was another.
      dtype: what it computes in; None for what it was saved with.

    Raises:
      InputError: where there is none, or `name` is something else; it says what.
    """

    def __init__(
        self,
        name: str | None,
        *,
        dtype: str = "auto",
        window: int | None = None,
        devices: int = 1,
        memory: str | None = None,
        specialists: bool = True,
    ):
        self.name = default() if name is None else name
        side = None if window is None else (window, window)
        self._options: dict[str, Any] = {
            "dtype": dtype,
            "window": side,
            "devices": devices,
            "memory": memory,
        }
        self._specialists = specialists
        self.asked = self._load(self.name)
        self.dtype: str | None = getattr(self.asked, "dtype", None)
        self.instead: str | None = None
        self._for_gray: Denoiser | None = None

    def _load(self, name: str) -> "Denoiser":
        denoiser = load(name, **self._options)
        if not self._specialists:
            denoiser.specialists = {}
        return denoiser

    def check_window(self) -> None:
        """Raises InputError where a window would change nothing."""
        from flax import nnx

        layers = (layer for _, layer in nnx.iter_modules(self.asked.model))
        if not any(hasattr(layer, "window") for layer in layers):
            raise InputError(
                f"--window would change nothing: {self.name} has no attention that takes "
                "statistics. Leave it out."
            )

    def note(self, specialist: str) -> None:
        """The last picture was handed to this one."""
        self.instead = specialist

    def of(self, pixels: "np.ndarray") -> "Denoiser":
        """The network for a picture.

        Raises:
          InputError: for a gray picture, where neither this network nor a shipped one suits it.
        """
        from sa_flax.pictures import is_gray

        self.instead = None
        if getattr(self.asked, "suits_gray", True) or not is_gray(pixels):
            return self.asked
        if self._for_gray is None:
            name = for_gray(self.name)
            print(
                f"sa-flax: gray pictures go through the network {name!r}: {self.name} knows the "
                "noise of colour pictures only.",
                file=sys.stderr,
            )
            self._for_gray = self._load(name)
            self._gray = name
        self.instead = self._gray
        return self._for_gray

    def method(
        self, noisy: "np.ndarray", sigma: float | None, *, self_ensemble: bool = False
    ) -> "np.ndarray":
        """The form that evaluation compares: float pictures (H, W, C), sigma in [0, 1] units."""
        return self.of(noisy).method(noisy, sigma, self_ensemble=self_ensemble)


def add_self_ensemble(options: argparse.ArgumentParser) -> None:
    """Adds whether pictures go through the network turned and mirrored as well."""
    options.add_argument(
        "--self-ensemble",
        action="store_true",
        help="mean over eight flips and rotations: a little better, eight times the work",
    )


def add_dtype(options: argparse.ArgumentParser) -> None:
    """Adds what the network computes in."""
    options.add_argument(
        "--dtype",
        choices=_DTYPES,
        default="auto",
        help="what the network computes in: bfloat16 takes little more than half the time where "
        "the processor multiplies it; auto takes it there with U-Nets, which lose less than "
        "0.01 dB (default: auto)",
    )


def load(name: str, *, dtype: str = "auto", **options: Any) -> "Denoiser":
    """The network of a name or directory, with the options of `Denoiser`.

    Raises:
      InputError: where there is none, or what is given is something else; it says what.
    """
    from sa_flax.inference.denoiser import Denoiser

    checked = name if _is_shipped(name) else check_name(name)
    taken = _dtype_for(checked) if dtype == "auto" else dtype
    return Denoiser.from_pretrained(checked, dtype=taken, **options)


def _dtype_for(name: str) -> str | None:
    """bfloat16 where a network is faster in it, and as good: a DnCNN loses up to 0.05 dB."""
    import jax

    from sa_flax.models.saved import config_of
    from sa_flax.xla_flags import is_bfloat16_fast

    if jax.default_backend() != "cpu" or not is_bfloat16_fast():
        return None
    return "bfloat16" if config_of(name)["model"] == "attention_unet" else None


def load_with_card(name: str) -> tuple[Any, dict[str, Any], str]:
    """The network itself, in evaluation mode, its config and its card. Raises as `load`."""
    from sa_flax.models.saved import card_of, from_pretrained

    checked = name if _is_shipped(name) else check_name(name)
    model, config = from_pretrained(checked)
    return model, config, card_of(checked)


def for_gray(instead_of: str) -> str:
    """The shipped network for gray pictures. Raises InputError where there is none."""
    for name in ("photo", "gray"):
        if _is_shipped(name) and name != instead_of:
            return name
    raise InputError(
        f"the picture is gray, and {instead_of} knows the noise of colour pictures only. Give "
        "--model with a network for gray pictures."
    )


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
    from sa_flax.models.saved import BEST, list_pretrained
    from sa_flax.pictures import SUFFIXES

    path = os.path.expanduser(name)
    if not path.strip():
        raise InputError("--model needs a name or a directory; got nothing.")
    if is_address(name):
        return name
    if os.path.isdir(path):
        return path if path != name else name
    if path.endswith(BEST):
        return path
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
    where = "here" if path.parent == Path() else f"in {path.parent}"
    return f"{nearest(path.name, there)} Networks {where}: {', '.join(there[:8])}."
