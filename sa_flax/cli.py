"""The command `sa-flax`: uses trained networks on picture files.

Exit codes: 0 all done; 1 some files failed (each is named, the others are done); 2 the request
itself was wrong.
"""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from sa_flax.errors import InputError, out_of_memory
from sa_flax.limits import check_level, check_seed
from sa_flax.xla_flags import keep_compiled, tune_cpu

app = tyro.extras.SubcommandApp()

Paths = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]


@app.command
def denoise(
    paths: Paths,
    output: Path,
    model: str = "runs/quick",
    sigma: float | None = None,
    window: int | None = None,
    devices: int = 1,
) -> int:
    """Denoises picture files, and all pictures in folders.

    Args:
        paths: Picture files, or folders of pictures (with their sub-folders).
        output: Folder for the results; they keep their names, and originals are never touched.
        model: Directory of a training run or of a ported network, or a released name.
        sigma: Noise level, 0-255, for a network that was trained to be told it.
        window: Side in pixels of the window that attention's statistics are taken over, for
            pictures much larger than the training crops; by default the whole picture.
        devices: Split the rows of each picture over this many devices, for pictures that one
            device has too little memory for.
    """
    from sa_flax.inference.denoiser import Denoiser

    if window is not None and window < 1:
        raise InputError(f"--window must be at least 1 pixel; got {window}.")
    if sigma is not None:
        check_level("--sigma", sigma)
    side = None if window is None else (window, window)
    denoiser = Denoiser.load(model, window=side, devices=devices)
    if (sigma is not None) != denoiser.takes_noise_level:
        raise InputError(
            f"the network in {model} needs the noise level: give --sigma (0-255)."
            if denoiser.takes_noise_level
            else f"the network in {model} is blind: leave --sigma out."
        )
    level = None if sigma is None else sigma / 255
    return _process(paths, output, lambda pixels, index: denoiser(pixels, level))


@app.command(name="add-noise")
def add_noise(paths: Paths, output: Path, sigma: float, seed: int = 0) -> int:
    """Adds Gaussian noise to picture files, to try a denoiser on.

    The result is rounded and clipped to the file's depth, which published benchmarks do not do:
    `sa-flax evaluate` measures as they do.

    Args:
        paths: Picture files, or folders of pictures (with their sub-folders).
        output: Folder for the results.
        sigma: Standard deviation of the noise, 0-255.
        seed: Fixes the noise.
    """
    check_level("--sigma", sigma)
    check_seed("--seed", seed)

    def noisy(pixels: np.ndarray, index: int) -> np.ndarray:
        top = np.iinfo(pixels.dtype).max
        colours = pixels.shape[-1] - (pixels.shape[-1] in (2, 4)) if pixels.ndim == 3 else None
        colour = pixels[..., :colours]
        noise = np.random.default_rng([seed, index]).normal(0, sigma / 255 * top, colour.shape)
        result = pixels.copy()
        result[..., :colours] = np.clip(np.round(colour + noise), 0, top).astype(pixels.dtype)
        return result

    return _process(paths, output, noisy)


@app.command
def evaluate(
    model: Annotated[str, tyro.conf.Positional],
    images: Path,
    sigma: tuple[float, ...] = (15.0, 25.0, 50.0),
    baseline: bool = False,
    seed: int = 0,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> int:
    """Measures PSNR and SSIM of a network under the published protocol.

    Gaussian noise, not clipped; the result clipped and rounded to 8 bits; means over the pictures.

    Args:
        model: Directory of a training run or of a ported network, or a released name.
        images: Folder of clean pictures.
        sigma: Noise levels, 0-255.
        baseline: Measure scikit-image's non-local means as well.
        seed: Fixes the noise.
        json_file: Write the results to this file as well.
    """
    from sa_flax.data.builders import find_pictures
    from sa_flax.data.decoding import read_rgb8
    from sa_flax.data.pipeline import to_channels
    from sa_flax.inference import evaluate as evaluation
    from sa_flax.inference.denoiser import Denoiser

    if not sigma:
        raise InputError("--sigma needs at least one noise level.")
    for level in sigma:
        check_level("--sigma", level)
    check_seed("--seed", seed)
    if json_file is not None and os.path.isdir(json_file):
        raise InputError(f"{json_file} is a folder; --json takes the name of a file.")
    if not os.path.isdir(images):
        raise InputError(f"no folder {images}. --images takes a folder of clean pictures.")
    files = find_pictures(images)
    if not files:
        raise InputError(f"no pictures in {images}.")
    denoiser = Denoiser.load(model)
    pictures, failed = [], 0
    for file in files:
        try:
            picture = read_rgb8(file)
            if min(picture.shape[:2]) < evaluation.SMALLEST:
                height, width = picture.shape[:2]
                raise InputError(
                    f"{file}: is {width} x {height} pixels; SSIM is defined from "
                    f"{evaluation.SMALLEST} x {evaluation.SMALLEST}."
                )
            pictures.append(to_channels(picture, denoiser.channels))
        except InputError as error:
            failed += 1
            print(f"{str(error).removesuffix('.')}; left out.", file=sys.stderr)
    if not pictures:
        raise InputError(f"none of the {len(files)} pictures in {images} can be used.")
    methods: dict[str, evaluation.Method] = {}
    if baseline:
        methods["non-local means"] = evaluation.non_local_means
    methods[Path(model).name] = denoiser.method
    rows = evaluation.evaluate(
        methods,
        pictures,
        sigmas=sigma,
        seed=seed,
        report=_progress if sys.stderr.isatty() else _quiet,
    )
    print(f"{evaluation.format_table(rows)}\n({len(pictures)} pictures in {images})")
    if json_file is not None:
        _write_whole(json_file, json.dumps({"model": model, "results": rows}, indent=2) + "\n")
    return 1 if failed else 0


@app.command
def port(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    architecture: str,
    output: Path,
    fold: bool = False,
    torch_file: Path | None = None,
) -> int:
    """Ports PyTorch weights to a directory that denoise and evaluate take as their model.

    Nothing in the checkpoint is executed, and everything in it must find its place.

    Args:
        checkpoint: A .pth, .pth.tar, .pt or .safetensors file (all but the last need PyTorch).
        architecture: attention_unet, dncnn, sa_resnet50, sa_resnet101 or sa_resnet152; depth,
            channels and other sizes are read off the weights.
        output: Directory for config.json and model.safetensors.
        fold: Fold DnCNN's batch norm into its convolutions.
        torch_file: Write the weights under PyTorch's names as well, to this .pth or .safetensors.
    """
    from sa_flax.inference.pretrained import port_checkpoint

    try:
        port_checkpoint(checkpoint, architecture, output, fold=fold, torch_file=torch_file)
    except OSError as error:
        raise InputError(f"{error.filename}: can't be written ({error.strerror}).") from error
    print(f"{checkpoint} -> {output}")
    return 0


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror}).") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _quiet(line: str) -> None:
    del line


def _progress(line: str) -> None:
    print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)


def _process(
    paths: Sequence[Path], output: Path, function: Callable[[np.ndarray, int], np.ndarray]
) -> int:
    """Reads each picture, applies `function(pixels, index)`, writes the result under `output`."""
    from sa_flax.inference.image_io import Picture, read_picture, write_picture

    failed = 0
    jobs = _jobs(paths, output)
    for index, (source, target) in enumerate(jobs):
        started = time.monotonic()
        try:
            picture = read_picture(source)
            pixels = _apply(function, picture.pixels, index, source)
            write_picture(target, Picture(pixels, picture.metadata))
        except InputError as error:
            failed += 1
            print(f"sa-flax: {error}", file=sys.stderr)
            continue
        height, width = pixels.shape[:2]
        seconds = time.monotonic() - started
        print(f"{source} -> {target} ({width} x {height}, {seconds:.1f} s)", flush=True)
    if failed:
        print(f"sa-flax: {failed} of {len(jobs)} pictures failed.", file=sys.stderr)
    return 1 if failed else 0


def _apply(
    function: Callable[[np.ndarray, int], np.ndarray], pixels: np.ndarray, index: int, source: Path
) -> np.ndarray:
    """`function(pixels, index)`, with errors that name the file."""
    try:
        return function(pixels, index)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        height, width = pixels.shape[:2]
        raise InputError(
            f"{source}: not enough memory for {width} x {height} pixels; cut it into parts."
        ) from error


def _jobs(paths: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    """(source, target) of every picture that is asked for.

    Raises:
      InputError: where nothing is asked for, a folder is empty, two results would have one name,
        or a result would overwrite an original.
    """
    from sa_flax.data.builders import find_pictures

    jobs = []
    for path in paths:
        if os.path.isdir(path):
            found = find_pictures(path)
            if not found:
                raise InputError(f"no pictures in {path}.")
            jobs += [(file, output / file.relative_to(path)) for file in found]
        else:
            jobs.append((path, output / path.name))
    if not jobs:
        raise InputError("give at least one picture or folder.")
    if os.path.exists(output) and not os.path.isdir(output):
        raise InputError(f"{output} is a file; --output must be a folder.")
    taken: dict[Path, Path] = {}
    for source, target in jobs:
        if target in taken:
            raise InputError(
                f"{taken[target]} and {source} would both be written to {target}. Denoise them "
                "into different folders."
            )
        taken[target] = source
    originals = {os.path.realpath(source) for source, _ in jobs}
    for target in taken:
        if os.path.realpath(target) in originals:
            raise InputError(
                f"{target} would overwrite an original. Choose another --output folder."
            )
    return jobs


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    tune_cpu()  # XLA reads its options when the first array is made
    keep_compiled()
    for stream in (sys.stdout, sys.stderr):  # names of files may be no text at all
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return app.cli(prog="sa-flax", description=__doc__, args=arguments)
    except InputError as error:
        print(f"sa-flax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sa-flax: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
