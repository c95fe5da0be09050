"""Networks for other programs: ONNX, and StableHLO for programs that run XLA."""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sa_flax.errors import InputError, RunError
from sa_flax.models.dncnn import DnCNN, fold_batch_norm
from sa_flax.models.unet import AttentionUNet
from sa_flax.porting.architectures import architecture_of
from sa_flax.porting.convert import to_torch

# How far an exported network's results may be from ours, for pictures in [0, 1].
TOLERANCE = 1e-4
# Height and width of the picture that shapes are traced with: multiples of every stride, or the
# tracer finds no range of sizes for the padding.
_TRACED = 64, 96


def to_onnx(model: nnx.Module, path: Path) -> None:
    """Writes a denoiser as ONNX, through its PyTorch twin; number, height and width stay free.

    The file's input "noisy" and output "clean" are (B, C, H, W) float32 in [0, 1]; a network that
    takes the noise level has the input "sigma", (B,) in [0, 1] units, besides.

    Args:
      model: an `AttentionUNet` or `DnCNN`.
      path: the file to write.

    Raises:
      InputError: where PyTorch or onnxscript is missing, or the network has no PyTorch twin.
    """
    try:
        import onnxscript  # noqa: F401  torch.onnx imports it when it exports
        import torch
    except ImportError as error:
        raise InputError(
            f"ONNX needs {error.name}, which is not installed: pip install 'sa_flax[export]'."
        ) from error
    twin, channels, takes_level = _torch_twin(model)
    example: tuple[Any, ...] = (torch.zeros(2, channels, *_TRACED),)
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    shapes: tuple[Any, ...] = ({0: batch, 2: height, 3: width},)
    names = ["noisy"]
    if takes_level:
        example += (torch.zeros(2),)
        shapes += ({0: batch},)
        names.append("sigma")
    with _quiet():
        program = torch.onnx.export(
            twin,
            example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=names,
            output_names=["clean"],
            verbose=False,
        )
        assert program is not None
        program.save(str(path), external_data=False)


@contextlib.contextmanager
def _quiet():
    """Inside, PyTorch does not tell of its own steps and of packages that nobody needs."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _torch_twin(model: nnx.Module) -> tuple[Any, int, bool]:
    """A PyTorch module with this network's weights, its channels, and whether it takes a level."""
    import torch

    if isinstance(model, AttentionUNet):
        from sa_flax.porting.torch_unet import AttentionUNet as Twin

        arrays = to_torch(model)
        options = architecture_of(AttentionUNet).options(arrays)
        twin: Any = Twin(**options)
    elif isinstance(model, DnCNN):
        arrays = to_torch(fold_batch_norm(model))
        options = {"channels": model.channels, "noise_level": False}
        twin = _torch_dncnn(arrays)
    else:
        raise InputError(
            f"{type(model).__name__} can't be exported to ONNX; AttentionUNet and DnCNN can."
        )
    weights = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    twin.load_state_dict(weights, strict=True)
    return twin.eval(), int(options["channels"]), bool(options["noise_level"])


def _torch_dncnn(arrays: dict[str, np.ndarray]) -> Any:
    """DnCNN without batch norm, as `to_torch` names its weights."""
    from torch import nn

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            layers: list[nn.Module] = []
            for name, array in arrays.items():
                if name.endswith(".weight"):
                    bias = name.replace(".weight", ".bias") in arrays
                    layers += [nn.Conv2d(array.shape[1], array.shape[0], 3, 1, 1, bias=bias)]
                    layers += [nn.ReLU()]
            self.dncnn = nn.Sequential(*layers[:-1])

        def forward(self, noisy):
            return noisy - self.dncnn(noisy)

    return Twin()


def check_onnx(model: nnx.Module, path: Path, picture: np.ndarray) -> float:
    """The largest difference between an ONNX file's result and the network's.

    Args:
      model: the network.
      path: the file that `to_onnx` wrote.
      picture: (H, W, C) float32 in [0, 1], of another size than the file was traced with.

    Raises:
      InputError: where onnxruntime is not installed.
      RunError: where the difference is above `TOLERANCE`.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "checking needs onnxruntime, which is not installed: pip install 'sa_flax[export]'."
        ) from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = {"noisy": picture.transpose(2, 0, 1)[None]}
    level = jnp.float32(25 / 255) if getattr(model, "noise_level", False) else None
    if level is not None:
        inputs["sigma"] = np.full(1, level, np.float32)
    (theirs,) = session.run(None, inputs)
    noisy = jnp.asarray(picture)[None]
    ours = model(noisy) if level is None else model(noisy, level)
    difference = float(np.abs(theirs[0].transpose(1, 2, 0) - np.asarray(ours)[0]).max())
    if not difference <= TOLERANCE:
        raise RunError(
            f"{path}: gives other results than the network: up to {difference:.2g}, and "
            f"{TOLERANCE:g} is allowed."
        )
    return difference


def to_stablehlo(model: nnx.Module, path: Path) -> None:
    """Writes a denoiser as serialised StableHLO, for CPUs, GPUs and TPUs: `jax.export`'s format.

    `jax.export.deserialize(path.read_bytes()).call(noisy)` takes (B, H, W, C) float32 in [0, 1]
    with any number, and any height and width that are multiples of the network's `stride`; a
    network that takes the noise level is called with `(noisy, sigma)`, sigma (B,).

    Raises:
      InputError: where the network can't be exported with free height and width.
    """
    from jax import export

    graphdef, state = nnx.split(model)
    stride, channels = getattr(model, "stride", 1), model.channels  # type: ignore[attr-defined]

    def forward(*inputs: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, state)(*inputs)

    times = "" if stride == 1 else f"{stride}*"
    shape = export.symbolic_shape(f"b, {times}h, {times}w, {channels}")
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32)]
    if getattr(model, "noise_level", False):
        inputs.append(jax.ShapeDtypeStruct(shape[:1], jnp.float32))
    try:
        exported = export.export(jax.jit(forward), platforms=("cpu", "cuda", "tpu"))(*inputs)
        content = bytes(exported.serialize())
    except Exception as error:  # of whatever layer asks for a size that it does not know
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            "this network can't be exported with free height and width: one of its layers needs to "
            f"know them ({reason}). ONNX may do: --output NAME.onnx."
        ) from error
    path.write_bytes(content)
