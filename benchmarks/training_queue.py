"""Trains the shipped networks, one after the other, for as long as the machine is there.

    nice python -m benchmarks.training_queue --data DIR --output QUEUE

DIR/photos holds photographs and LICENSES.tsv (columns `file` and `licence`). Those under CC0, in
the public domain or under CC-BY train; the bundled validation and test pictures do not. They are
cut into tiles: the most textured ones at 0.6 to 0.25 of their size, with the chroma of 4:2:0 files,
whose spectrum is that of the published test sets (at full size most crops of a photograph are
smooth, and its chroma is noisier than theirs). For `photo` there are besides tiles of every kind at
full size; some exposed so that whites or blacks are lost in large areas, and pages of text, since
clipped noise has a mean that is off there, which has to be learned; some seen through a mesh, since
fine regular patterns were taken for noise; some through a sensor's mosaic, since so was what
interpolating that makes of fine detail; some sharpened, as many pictures are; and some printed in
halftone, since its dots were taken for noise, too.

Validation is on DIR/bsds500/val outside CBSD68 (the ids are in DIR/bsds500/cbsd68_ids.txt) where
that is there, else on the bundled validation pictures.

SIGTERM or Ctrl-C stops the run at hand after its step; the same command goes on with it.
QUEUE/tally.json keeps each run's processor time and newest figures; QUEUE/RUN/network is its newest
network.

The runs are in `RUNS`, in order. Each starts from a network: that of an earlier run of this queue,
or the shipped one.
"""

import argparse
import csv
import io
import json
import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import convolve, correlate1d, gaussian_filter

from benchmarks.trainings import train
from sa_flax.data.builders import PHOTOGRAPHS

# Two cores: 24/48/96/192 features.
# At a rate of 4e-3 (clipped at 0.2) the loss ran away after 3,250 steps; 2e-3 held, and 1e-3 is for
# what has little left to learn.
# Muon at 3e-3 took 0.05 dB from `gray` in 7,000 steps, and at 1e-3 brought none in 2,500.
# In bfloat16 a step takes three quarters of the time where the processor multiplies it (jax 0.12).
_NETWORK = [
    *("--model.width", "24", "--model.levels", "4"),
    *("--optimizer.kind", "adamw", "--optimizer.learning-rate", "1e-3"),
    *("--optimizer.final-fraction", "0.001", "--optimizer.warmup-steps", "300"),
    *("--dtype", "bfloat16"),
    *("--checkpoint-every", "1000", "--evaluate-every", "4000", "--log-every", "250"),
]
# A seventh of the crops have no noise: with a tenth, fine texture was taken for it. Four fifths are
# clipped, as all pictures of 8 bits are: the white of clipped noise is the last thing that is
# learned, and with seven tenths it got worse again. White noise has a fifth only, since `color` and
# `gray` take it over where nothing else was done to it. Without `resized` and `cropped` (the
# default is a half) real noise was known by JPEG's blocks beginning at multiples of eight.
# log_mse counts faint and strong noise alike, and so clean pictures, which must not be harmed;
# weighted_mse (below) crops by what is lost in them besides, which the PSNR of whole pictures does.
_PHOTO = [
    *("--model.attention", "none", "--model.attend", "none"),
    *("--optimizer.loss", "log_mse", "--optimizer.clip-norm", "3"),
    *("--noise.kind", "photo", "--data.gray-share", "0.15"),
    *("--noise.white", "0.18", "--noise.correlated", "0.26", "--noise.camera", "0.42"),
    *("--noise.clipped", "0.8", "--noise.jpeg", "0.4", "--noise.resized", "0.25"),
]
# For white noise of one level in a crop, which gates can tell from the means of features.
_WHITE = [
    *("--optimizer.loss", "weighted_mse", "--optimizer.clip-norm", "0.075"),
    *("--model.attention", "squeeze_excite", "--model.attend", "both"),
]
# Larger crops tell the level better.
_GRAY = ["--model.channels", "1", "--data.crop", "96", "--data.batch-size", "4"]
# A second block at the two finest levels: half as much work again, the most at low noise.
_DEEPER = ["--model.blocks", "2", "2", "1", "1"]
# For `photo`, which is to stay quick: a fifth more time.
_LITTLE_DEEPER = ["--model.blocks", "1", "2", "1", "1"]

# name -> (network it starts from, options). docs/experiments.md has what ran before, and that
# `photo` took more detail for noise with the tiles and noise of now: the shipped one had others.
RUNS: dict[str, tuple[str | None, list[str]]] = {
    "photo": ("photo", [*_LITTLE_DEEPER, *_PHOTO, "--steps", "8000", "--seed", "73"]),
    "color": ("color", [*_DEEPER, *_WHITE, "--steps", "5500", "--seed", "91"]),
    "gray": ("gray", [*_DEEPER, *_WHITE, *_GRAY, "--steps", "4000", "--seed", "90"]),
}

_PAGES = 300

# Channel at each site of a Bayer pattern.
_BAYER = [0, 1, 1, 2]
# With tiles of every kind, or not -> folder of pictures in the queue's.
_PICTURES = {True: "pictures-all", False: "pictures-fine"}


def is_free(licence: str) -> bool:
    """Whether weights trained on a photograph may go anywhere, its author named at most."""
    attribution = licence.startswith("CC-BY") and not licence.startswith("CC-BY-SA")
    return licence.startswith(("CC0", "public domain")) or attribution


def tiles(picture: Image.Image, scale: float) -> list[tuple[float, Image.Image]]:
    """A picture at a share of its size in tiles of about 144 x 144, and how textured each is.

    Texture is the median of the second differences of luma along both axes, in gray levels.
    """
    size = (round(picture.width * scale), round(picture.height * scale))
    pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    found = []
    for band in np.array_split(pixels, max(1, size[1] // 144), axis=0):
        for tile in np.array_split(band, max(1, size[0] // 144), axis=1):
            luma = tile @ np.array([0.299, 0.587, 0.114])
            down, across = (np.abs(np.diff(luma, 2, axis=axis)) for axis in (0, 1))
            texture = float(np.median(down[:, 2:] + across[2:]))
            found.append((texture, Image.fromarray(tile)))
    return found


def training_tiles(
    picture: Image.Image, everything: bool, seed: int
) -> Iterator[tuple[str, Image.Image]]:
    """The tiles of a photograph that train, by name: see above. `seed` draws its meshes."""
    for percent in (60, 45, 33, 25):
        found = sorted(tiles(picture, percent / 100), key=lambda tile: -tile[0])
        for number, (texture, tile) in enumerate(found[: max(1, round(0.6 * len(found)))]):
            if texture >= 2:
                yield f"{percent}-{number}", with_subsampled_chroma(tile)
            if everything and texture >= 2:
                draw, seen = seed + number + percent, tile
                if number % 2 == 1:
                    seen = sharpened(tile, draw)
                    yield f"sharp-{percent}-{number}", seen
                yield f"mosaic-{percent}-{number}", through_a_mosaic(seen, draw)
    if everything:
        for number, (_, tile) in enumerate(tiles(picture, 1.0)):
            if number % 5 == 0:  # about half as many as the textured ones
                yield f"100-{number}", tile
            if number % 5 == 1:
                yield f"bright-{number}", exposed(tile, 51)
            if number % 5 == 3:
                yield f"dark-{number}", exposed(tile, 40)
            if number % 10 == 4:
                yield f"halftone-{number}", halftone(tile, seed + number)
            elif number % 5 in (2, 4):
                yield f"mesh-{number}", through_a_mesh(tile, seed + number)


def exposed(picture: Image.Image, percentile: int) -> Image.Image:
    """With all that is beyond a percentile of its values white (above 50), or black (below)."""
    pixels = np.asarray(picture) / 255
    edge = float(np.percentile(pixels, percentile))
    low, high = (0.0, max(edge, 0.1)) if percentile > 50 else (min(edge, 0.9), 1.0)
    return Image.fromarray((255 * np.clip((pixels - low) / (high - low), 0, 1)).astype(np.uint8))


def sharpened(picture: Image.Image, seed: int) -> Image.Image:
    """With an unsharp mask on its brightness and more contrast.

    The mask's width (0.5 to 2 pixels) and amount, and the standard deviation that brightness has
    afterwards, are drawn.
    """
    random = np.random.default_rng(seed)
    pixels = np.asarray(picture) / 255
    light = pixels.mean(axis=-1, keepdims=True)
    width, amount = 0.5 * 4 ** random.uniform(), random.uniform(0.2, 1.2)
    pixels += amount * (light - gaussian_filter(light, (width, width, 0)))
    gain = np.clip(random.uniform(0.12, 0.28) / max(light.std(), 1e-3), 1, 2.5)
    mean = light.mean()
    pixels = gain * (pixels - mean) + np.clip(mean, 0.35, 0.65)
    return Image.fromarray((255 * np.clip(pixels, 0, 1)).round().astype(np.uint8))


def through_a_mesh(picture: Image.Image, seed: int) -> Image.Image:
    """With a part of it multiplied by a fine regular pattern: holes, lines or squares.

    Periods are 2 to 10 pixels along each of two directions; contrast, hardness and the part (from a
    quarter to all of the picture) are drawn.
    """
    random = np.random.default_rng(seed)
    pixels = np.asarray(picture) / 255
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    angle = random.uniform(0, np.pi)
    skew = random.choice([0.5, 0.5, 0.33, random.uniform(0.2, 0.8)]) * np.pi
    waves = []
    for direction in (angle, angle + skew):
        frequency = 2 * np.pi / random.uniform(2, 10)
        along = np.cos(direction) * x + np.sin(direction) * y
        waves.append(np.cos(frequency * along + random.uniform(0, 2 * np.pi)))
    wave = waves[0] if random.random() < 0.3 else (waves[0] + waves[1]) / 2
    pattern = 0.5 + 0.5 * np.tanh(random.uniform(0.7, 4) * (wave - random.uniform(-0.3, 0.3)))
    depth = random.uniform(0.1, 1) * np.ones(3)
    if random.random() < 0.3:  # coloured threads
        depth = depth * random.uniform(0.3, 1, 3)
    rows, columns = (int(random.uniform(0.5, 1) * side) for side in pixels.shape[:2])
    top, left = (
        int(random.uniform(0, s - n + 1))
        for s, n in zip(pixels.shape[:2], (rows, columns), strict=True)
    )
    part = np.s_[top : top + rows, left : left + columns]
    meshed = pixels.copy()
    meshed[part] *= 1 - depth * pattern[part][..., None]
    return Image.fromarray((255 * meshed).round().astype(np.uint8))


def through_a_mosaic(picture: Image.Image, seed: int) -> Image.Image:
    """As a camera makes it: one colour seen at each pixel in a Bayer pattern, the others filled in.

    How much the lens blurs, where the pattern begins, the interpolation (green linearly or along
    the edge, that with the second difference of red or blue added, as Hamilton and Adams do, US
    5,629,734, or without; red and blue by themselves, or by their difference from green) and the
    sharpening are drawn.
    """
    random = np.random.default_rng(seed)
    width = random.uniform(0, 0.7)
    pixels = gaussian_filter(np.asarray(picture) / 255, (width, width, 0))
    rows, columns = (np.arange(n) + random.integers(2) for n in pixels.shape[:2])
    site = 2 * (rows[:, None] % 2) + columns % 2
    sparse = np.outer([1, 2, 1], [1, 2, 1]) / 4
    dense = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4

    def filled(values: np.ndarray, seen: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        return convolve(values * seen, kernel, mode="mirror")  # which goes on with the pattern

    seen = (site == 1) | (site == 2)
    green = filled(pixels[..., 1], seen, dense)
    along = random.choice(["neither", "edge", "edge, corrected"])
    if along != "neither":
        known, mosaic = pixels[..., 1] * seen, np.choose(site, pixels.transpose(2, 0, 1)[_BAYER])

        def by(x: np.ndarray, weights: list[float]) -> list[np.ndarray]:
            return [correlate1d(x, weights, axis=axis, mode="mirror") for axis in (0, 1)]

        beside, steps = by(known, [0.5, 0, 0.5]), np.abs(by(known, [1, 0, -1]))
        if along == "edge, corrected":
            second = np.array(by(mosaic, [-0.25, 0, 0.5, 0, -0.25]))
            beside, steps = beside + second, steps + 4 * np.abs(second)
        green = np.where(seen, green, np.where(steps[0] < steps[1], beside[0], beside[1]))
    base = green * (along == "edge, corrected" or random.random() < 0.6)
    red, blue = (
        base + filled(pixels[..., channel] - base, site == at, sparse)
        for channel, at in ((0, 0), (2, 3))
    )
    developed = np.stack([red, green, blue], axis=-1)
    blurred = gaussian_filter(developed, (1, 1, 0))
    developed += random.choice([0, random.uniform(0, 1)]) * (developed - blurred)
    return Image.fromarray((255 * np.clip(developed, 0, 1)).round().astype(np.uint8))


def halftone(picture: Image.Image, seed: int) -> Image.Image:
    """Printed: in dots of a screen, or by error diffusion, in one ink or three, and scanned.

    The screen's period (2.5 to 9 pixels) and angle, the ink, the paper and the scanner's blur are
    drawn.
    """
    random = np.random.default_rng(seed)
    channels = picture.split() if random.random() < 0.3 else [picture.convert("L")]
    y, x = np.mgrid[: picture.height, : picture.width]
    diffused, angle = random.random() < 0.4, random.uniform(0, np.pi / 2)
    frequency, hardness = 2 * np.pi / random.uniform(2.5, 9), random.uniform(2, 20)
    printed = []
    for number, channel in enumerate(channels):
        turned = angle + number * np.pi / 6
        along = np.cos(turned) * x + np.sin(turned) * y
        across = np.cos(turned) * y - np.sin(turned) * x
        screen = 0.5 + 0.25 * (np.cos(frequency * along) + np.cos(frequency * across))
        if diffused:
            printed.append(np.asarray(channel.convert("1"), float))
        else:
            lighter = np.asarray(channel) / 255 - screen
            printed.append(0.5 + 0.5 * np.tanh(hardness * lighter))
    ink, paper = random.uniform(0, 0.3, 3), random.uniform(0.7, 1, 3)
    if random.random() < 0.5:
        ink, paper = np.zeros(3), np.ones(3)
    width = random.choice([0, random.uniform(0.2, 0.8)])
    seen = gaussian_filter(np.stack(printed, axis=-1), (width, width, 0))
    return Image.fromarray((255 * (ink + (paper - ink) * seen)).round().astype(np.uint8))


def page(seed: int) -> Image.Image:
    """A piece of a page, 256 x 256: lines of letters in one ink on one paper, often black on white.

    Every third is printed white on black.
    """
    random = np.random.default_rng(seed)
    paper, ink = np.full(3, 255), random.integers(0, 80, 3) * (random.random() < 0.5)
    if random.random() < 0.4:
        paper = 255 - random.integers(0, 60, 3)
    if seed % 3 == 0:
        paper, ink = 255 - paper, 255 - ink
    picture = Image.new("RGB", (256, 256), tuple(map(int, paper)))
    draw = ImageDraw.Draw(picture)
    y = int(random.integers(0, 60))
    while y < 230:
        size = int(random.choice([9, 11, 14, 18, 28]))
        letters = "".join(random.choice(list("abcdefghijklmnopqrstuvwxyz    ABC.,019"), 60))
        font = ImageFont.load_default(size)
        draw.text((int(random.integers(0, 80)), y), letters, fill=tuple(map(int, ink)), font=font)
        y += round(1.3 * size) + int(random.integers(0, 50) * (random.random() < 0.3))
    return picture


def with_subsampled_chroma(picture: Image.Image) -> Image.Image:
    """As a 4:2:0 file of high quality holds it."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95, subsampling=2)
    return Image.open(file).convert("RGB")


def prepare(data: Path, folder: Path, everything: bool) -> None:
    """Makes a folder of training pictures, whole or not at all."""
    if folder.is_dir():
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split in ("train", "validation", "test"):
        (partial / split).mkdir(parents=True)
    with (PHOTOGRAPHS / "LICENSES.tsv").open(newline="") as table:
        bundled = {row["file"]: row["split"] for row in csv.DictReader(table, delimiter="\t")}
    with (data / "photos" / "LICENSES.tsv").open(newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    for row in rows:
        if not is_free(row["licence"]) or bundled.get(row["file"]) in ("validation", "test"):
            continue
        source = data / "photos" / row["file"]
        picture, seed = Image.open(source).convert("RGB"), zlib.crc32(row["file"].encode())
        for name, tile in training_tiles(picture, everything, seed):
            tile.save(partial / "train" / f"{source.stem}-{name}.png")
    for seed in range(_PAGES if everything else 0):
        page(seed).save(partial / "train" / f"page-{seed}.png")
    ids = data / "bsds500" / "cbsd68_ids.txt"
    if ids.is_file():
        taken = set(ids.read_text().split())
        others = (
            p for p in sorted((data / "bsds500" / "val").glob("*.jpg")) if p.stem not in taken
        )
        validation = list(others)[:24]
    else:
        validation = [
            PHOTOGRAPHS / name for name, split in bundled.items() if split == "validation"
        ]
    for picture_file in validation:
        shutil.copy(picture_file, partial / "validation" / picture_file.name)
    for name, split in bundled.items():
        if split == "test":
            shutil.copy(PHOTOGRAPHS / name, partial / "test" / name)
    partial.rename(folder)


def command(name: str, queue: Path) -> list[str]:
    """The command that starts a run, or goes on with it."""
    start, options = RUNS[name]
    words = [sys.executable, "-m", "sa_flax.training", "quick", "--output", str(queue / name)]
    words += ["--data.source", str(queue / _PICTURES[name == "photo"]), *_NETWORK, *options]
    if start is not None:
        trained = queue / start / "network"
        here = start != name and trained.is_dir()
        words += ["--init-from", str(trained) if here else start]
    return words


def main() -> int:
    """Works the queue off; returns 0 when it is done, or the code of the run that was stopped."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with photos/")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--only", nargs="*", choices=list(RUNS), default=list(RUNS), help="runs")
    arguments = parser.parse_args()
    queue = arguments.output.resolve()
    queue.mkdir(parents=True, exist_ok=True)
    for everything, folder in _PICTURES.items():
        prepare(arguments.data, queue / folder, everything)
    tally_file = queue / "tally.json"
    for name in arguments.only:
        tally = json.loads(tally_file.read_text()) if tally_file.is_file() else {}
        entry = tally.setdefault(name, {"cpu_minutes": 0.0, "done": False})
        if entry["done"]:
            continue
        code, seconds = train(command(name, queue))
        entry["cpu_minutes"] = round(entry["cpu_minutes"] + seconds / 60, 1)
        entry["done"] = code == 0
        config = queue / name / "network" / "config.json"
        if config.is_file():
            training = json.loads(config.read_text())["training"]
            entry |= {key: training[key] for key in ("step", "validation_psnr")}
        partial = tally_file.with_suffix(".partial")
        partial.write_text(json.dumps(tally, indent=1) + "\n")
        os.replace(partial, tally_file)
        if code != 0:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
