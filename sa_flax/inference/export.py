"""Networks for other programs: ONNX, and StableHLO for programs that run XLA.

Files for PyTorch are written by `sa_flax.porting.twin`, those for darktable by `darktable` here.
"""

import contextlib
import dataclasses
import io
import logging
import warnings
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sa_flax.errors import InputError, RunError
from sa_flax.porting.checkpoints import read_checkpoint
from sa_flax.porting.twin import check_no_window, twin_of

# How far an exported network's results may be from ours, for pictures in [0, 1].
TOLERANCE = 1e-4
# Of a network that rounds to 16 bits on its way, which its exported form does not.
_ROUNDED = 1e-2
# Height and width of the picture that shapes are traced with: multiples of every stride, or the
# tracer finds no range of sizes for the padding.
_TRACED = 64, 96


def to_onnx(
    model: nnx.Module,
    path: Path,
    *,
    names: tuple[str, str] = ("noisy", "clean"),
    one_picture: bool = False,
) -> None:
    """Writes a denoiser as ONNX, through its PyTorch twin; number, height and width stay free.

    The file's input "noisy" and output "clean" are (B, C, H, W) float32 in [0, 1]; a network that
    takes the noise level has the input "sigma", (B,) in [0, 1] units, besides. Affinities (the
    attentions "non_local", "self_attention" and "danet") hold their whole matrix in memory, pixels
    of their map squared: give the file tiles.

    Args:
      model: an `AttentionUNet` or `DnCNN`.
      path: the file to write.
      names: what the input and the output are called.
      one_picture: B is 1, and not free.

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
    twin = twin_of(model)
    pictures = 1 if one_picture else 2
    example: tuple[Any, ...] = (torch.zeros(pictures, twin.options["channels"], *_TRACED),)
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    first: dict[int, Any] = {} if one_picture else {0: batch}
    shapes: tuple[Any, ...] = (first | {2: height, 3: width},)
    inputs = [names[0]]
    if twin.takes_noise_level:
        example += (torch.zeros(pictures),)
        shapes += (first,)
        inputs.append("sigma")
    with _quiet():
        program = torch.onnx.export(
            twin.module(),
            example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=inputs,
            output_names=[names[1]],
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


def check(model: nnx.Module, path: Path, picture: np.ndarray) -> float:
    """The largest difference between what an exported file and the network make of a picture.

    Args:
      model: the network.
      path: the file that it was exported to: .onnx, .dtmodel, .stablehlo, .pth, .pt, .safetensors.
      picture: (H, W, C) float32 in [0, 1], of another size than shapes were traced with.

    Raises:
      InputError: where onnxruntime, or PyTorch, is not installed.
      RunError: where the difference is above `TOLERANCE`, or above a hundredth for a network that
        computes in 16 bits: exported, it computes in 32.
    """
    ending = path.suffix.lower()
    if ending == ".stablehlo":
        stride = getattr(model, "stride", 1)
        height, width = (size - size % stride for size in picture.shape[:2])
        picture = picture[:height, :width]
    noisy = picture[None]
    inputs = [noisy]
    if getattr(model, "noise_level", False):
        inputs.append(np.full(1, 25 / 255, np.float32))
    run = {".stablehlo": _run_stablehlo, ".onnx": _run_onnx, ".dtmodel": _run_onnx}
    theirs = run.get(ending, _run_torch)(model, path, inputs)
    ours = np.asarray(model(*map(jnp.asarray, inputs)))
    difference = float(np.abs(theirs - ours).max())
    allowed = TOLERANCE if getattr(model, "dtype", None) in (None, jnp.float32) else _ROUNDED
    if not difference <= allowed:
        raise RunError(
            f"what was exported gives other results than the network: up to {difference:.2g}, and "
            f"{allowed:g} is allowed. To write it all the same, leave the check out."
        )
    return difference


def _run_onnx(model: nnx.Module, path: Path, inputs: list[np.ndarray]) -> np.ndarray:
    del model
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "checking needs onnxruntime, which is not installed: pip install 'sa_flax[export]', or "
            "leave the check out: --no-check."
        ) from error
    content = path.read_bytes()
    if path.suffix.lower() == ".dtmodel":
        with zipfile.ZipFile(path) as archive:
            content = archive.read(next(n for n in archive.namelist() if n.endswith(".onnx")))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    given = [inputs[0].transpose(0, 3, 1, 2), *inputs[1:]]
    names = [entry.name for entry in session.get_inputs()]
    (clean,) = session.run(None, dict(zip(names, given, strict=True)))
    return clean.transpose(0, 2, 3, 1)


def _run_torch(model: nnx.Module, path: Path, inputs: list[np.ndarray]) -> np.ndarray:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            "checking needs PyTorch, which is not installed: pip install torch, or leave the check "
            "out: --no-check."
        ) from error
    twin = dataclasses.replace(twin_of(model), weights=read_checkpoint(path))
    given = [torch.from_numpy(inputs[0].transpose(0, 3, 1, 2)), *map(torch.from_numpy, inputs[1:])]
    with torch.no_grad():
        return twin.module()(*given).numpy().transpose(0, 2, 3, 1)


def _run_stablehlo(model: nnx.Module, path: Path, inputs: list[np.ndarray]) -> np.ndarray:
    from jax import export

    del model
    return np.asarray(export.deserialize(bytearray(path.read_bytes())).call(*inputs))


def to_stablehlo(model: nnx.Module, path: Path) -> None:
    """Writes a denoiser as serialised StableHLO, for CPUs, GPUs and TPUs: `jax.export`'s format.

    `jax.export.deserialize(path.read_bytes()).call(noisy)` takes (B, H, W, C) float32 in [0, 1]
    with any number, and any height and width that are multiples of the network's `stride`; a
    network that takes the noise level is called with `(noisy, sigma)`, sigma (B,).

    Raises:
      InputError: where the network can't be exported with free height and width.
    """
    from jax import export

    check_no_window(model)
    if not hasattr(model, "channels"):
        raise InputError(f"{type(model).__name__} is no denoiser, which alone can be exported.")
    graphdef, state = nnx.split(model)
    stride, channels = getattr(model, "stride", 1), model.channels

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
