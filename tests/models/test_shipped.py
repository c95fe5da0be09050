"""The networks that come with the package: there, small, described, good at what they are for."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import sa_flax
from benchmarks.printed import scanned
from benchmarks.raw import through_raw
from sa_flax.data import PHOTOGRAPHS
from sa_flax.functional import psnr
from sa_flax.functional.jpeg import jpeg_compress
from sa_flax.inference.evaluate import evaluate, noises_of
from sa_flax.models.saved import CARD, shipped_directory
from sa_flax.noise import Camera, Correlated, Gaussian, Noise
from sa_flax.pictures import read_rgb8, to_channels

NETWORKS = {"photo": 3, "color": 3, "gray": 1}


def _crops(channels: int) -> list[np.ndarray]:
    """Parts of two test photographs, which no network has been trained on."""
    names = ("budgie-the-spices-of-life.jpg", "elem-ryan-schroeder.jpg")
    return [to_channels(read_rgb8(PHOTOGRAPHS / name)[60:188, 100:260], channels) for name in names]


def _gain(name: str, pictures: list[np.ndarray], noises: dict[str, Noise | None]) -> dict:
    method = sa_flax.Denoiser.from_pretrained(name).method
    rows = evaluate({name: method}, pictures, noises=noises, with_ssim=False)
    psnr = {(row["noise"], row["method"]): row["psnr"] for row in rows}
    return {title: psnr[title, name] - psnr[title, "noisy"] for title in noises}


def test_they_are_there_and_small():
    assert set(sa_flax.list_pretrained()) == set(NETWORKS)
    files = [path for path in shipped_directory("photo").parent.rglob("*") if path.is_file()]
    in_the_wheel = [len(zlib.compress(path.read_bytes())) for path in files]
    assert sum(in_the_wheel) < 8e6


@pytest.mark.parametrize("name", NETWORKS)
def test_each_has_a_card_and_its_config(name):
    model, config = sa_flax.from_pretrained(name)
    assert model.channels == NETWORKS[name]
    assert config["license"] == "Apache-2.0"
    card = (shipped_directory(name) / CARD).read_text()
    for word in ("Trained on", "PICTURES.tsv", "processor time", "## Figures", "## Limits"):
        assert word in card


@pytest.mark.parametrize("name", NETWORKS)
def test_white_noise(name):
    gain = _gain(name, _crops(NETWORKS[name]), noises_of(None, [15, 25, 50]))
    assert gain["sigma 15"] > 4
    assert gain["sigma 25"] > 6
    assert gain["sigma 50"] > 8


@pytest.mark.parametrize(
    "name", [n if n == "gray" else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
)
def test_bfloat16_loses_next_to_nothing(name):
    pictures = _crops(NETWORKS[name])
    methods = {
        dtype: sa_flax.Denoiser.from_pretrained(name, dtype=dtype).method
        for dtype in ("float32", "bfloat16")
    }
    rows = evaluate(methods, pictures, noises=noises_of(None, [15]), with_ssim=False)
    psnr = {row["method"]: row["psnr"] for row in rows}
    assert abs(psnr["bfloat16"] - psnr["float32"]) < 0.01
    one, other = (method(pictures[0] / 255.0, None) for method in methods.values())
    assert 0 < np.abs(one - other).max() < 3 / 255


def test_what_photographs_have_besides():
    noises: dict[str, Noise | None] = {
        "shared": Correlated((25, 25), (0, 0), (0, 0), shared=1),
        "blurred": Correlated((25, 25), (0.8, 0.8), (0.8, 0.8), shared=0),
        "clipped": Gaussian(25, clip=True),
    }
    gain = _gain("photo", _crops(3), noises)
    assert gain["shared"] > 4
    assert gain["blurred"] > 3
    assert gain["clipped"] > 5


def test_a_gray_picture():
    assert _gain("photo", _crops(1), noises_of(None, [25]))["sigma 25"] > 5


@pytest.mark.parametrize(("number", "least"), [(0, 58), (1, 54)])
def test_a_clean_picture_stays_as_it_is(number, least):
    """What it takes for noise of fine texture is put back: the first picture is full of it."""
    denoiser = sa_flax.Denoiser.from_pretrained("photo")
    picture = _crops(3)[number]
    error = (denoiser(picture).astype(float) - picture) / 255
    assert np.mean(error**2) < 10 ** (-least / 10)


@pytest.mark.parametrize("ink", [(0, 0, 0), (40, 60, 120)])
def test_pictures_of_two_values_stay_as_they_are(ink):
    """Dots are no noise, whatever network takes them for it: dithered, in squares, all in one."""
    picture = Image.open(PHOTOGRAPHS / "budgie-roman-colosseum.jpg").resize((240, 180))
    diffused = np.asarray(picture.convert("1"))
    squares = np.indices((180, 240)).sum(0) % 2 == 1
    random = np.random.default_rng(0).random((180, 240)) < 0.5
    denoiser = sa_flax.Denoiser.from_pretrained("photo")
    for dots in (diffused, squares, random, np.ones((40, 40), bool)):
        printed = np.where(dots[..., None], 235, np.array(ink)).astype(np.uint8)
        np.testing.assert_array_equal(denoiser(printed), printed)
        np.testing.assert_array_equal(denoiser(printed[..., 0]), printed[..., 0])


def test_printed_dots_and_what_a_mosaic_leaves_are_no_noise():
    denoiser = sa_flax.Denoiser.from_pretrained("photo")
    for index, crop in enumerate(_crops(3)):
        clean = crop.astype(np.float32) / 255
        for made, level, least in ((scanned, 5.0, -0.1), (through_raw, 1e-3, 1.0)):
            noisy, reference = made(clean, level, index)
            gain = float(psnr(denoiser(noisy), reference) - psnr(noisy, reference))
            assert gain > least, made.__name__


def test_faint_noise_of_a_camera_is_no_harm():
    faint = Camera(shot_range=(3e-5, 1e-4))
    for picture in _crops(3):
        assert _gain("photo", [picture], {"faint": faint})["faint"] > -0.3


@pytest.mark.slow
def test_noise_is_known_wherever_jpegs_blocks_begin():
    """A camera's, compressed and then cropped: the blocks no longer begin at multiples of eight."""
    clean = _crops(3)[1][None].astype(np.float32) / 255
    noise = Camera(shot_range=(3e-4, 3e-4), mosaic=0, smoothing=0)
    noisy = noise(jax.random.key(1), jnp.asarray(clean))[0]
    noisy = np.asarray(jpeg_compress(noisy, 80.0))
    denoiser = sa_flax.Denoiser.from_pretrained("photo")

    def gain(x: np.ndarray, y: np.ndarray) -> float:
        return 10 * np.log10(np.mean((x - y) ** 2) / np.mean((denoiser(x) - y) ** 2))

    whole = gain(noisy[0], clean[0])
    assert whole > 2
    assert gain(noisy[0, 3:, 5:], clean[0, 3:, 5:]) > whole / 2


def test_black_and_white_come_back_from_clipped_noise():
    """Its mean is off by 10 gray levels in both."""
    clean = np.zeros((128, 128, 3), np.float32)
    clean[:, 64:] = 1
    noise = 25 / 255 * np.random.default_rng(0).standard_normal(clean.shape)
    noisy = np.clip(clean + noise, 0, 1).astype(np.float32)
    error = 255 * (sa_flax.Denoiser.from_pretrained("photo")(noisy) - clean)
    assert abs(error[:, :48].mean()) < 2
    assert abs(error[:, 80:].mean()) < 5
