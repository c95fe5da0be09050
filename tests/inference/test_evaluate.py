"""The published protocol: same noise for all, nothing clipped before, rounded and clipped after."""

import jax
import numpy as np
import pytest

from sa_flax.functional import psnr, ssim
from sa_flax.inference.evaluate import (
    _score,
    evaluate,
    format_table,
    label,
    noises_of,
    noisy_version,
    non_local_means,
    own_name,
)
from sa_flax.noise import Blind, Camera, Gaussian, Photo

CLEAN = (127 + 80 * np.sin(np.add.outer(np.arange(40), np.arange(48)) / 7))[..., None]
CLEAN = CLEAN.astype(np.uint8)


@pytest.mark.parametrize("noise", [Gaussian(), Photo(), Camera()])
def test_noise_is_fixed(noise):
    clean = np.full((40, 50, 3), 0.5, np.float32)
    noisy, _ = noisy_version(clean, noise, seed=0, index=1)
    assert noisy.shape == clean.shape
    assert noisy.dtype == np.float32
    np.testing.assert_array_equal(noisy, noisy_version(clean, noise, seed=0, index=1)[0])
    for seed, index in ((1, 1), (0, 2)):
        assert not np.array_equal(noisy, noisy_version(clean, noise, seed=seed, index=index)[0])


def test_the_published_noise_is_not_clipped():
    white = np.ones((32, 32, 1), np.float32)
    noisy, sigma = noisy_version(white, Gaussian(25), seed=0, index=0)
    assert noisy.max() > 1
    assert sigma == 25 / 255
    np.testing.assert_allclose((noisy - white).std(), 25 / 255, rtol=0.1)


def test_white_noise_is_that_of_the_pictures_own_shape():
    """It is cut from a longer row of numbers, so that no size of picture is compiled anew."""
    clean = np.zeros((32, 48, 3), np.float32)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 2), 25000)
    expected = jax.random.normal(key, clean.shape) * np.float32(25 / 255)
    noisy, _ = noisy_version(clean, Gaussian(25), seed=0, index=2)
    np.testing.assert_allclose(noisy, expected, rtol=1e-6)


def test_a_run_is_judged_on_its_own_noise_besides():
    assert list(noises_of(Blind(), [15, 50])) == ["sigma 15", "sigma 50"]
    assert list(noises_of(Blind(clip=True), [15])) == ["sigma 15", "blind"]
    assert noises_of(Photo(), [15])["photo"] == Photo()
    assert list(noises_of(Gaussian(40), [15, 50])) == ["sigma 15", "sigma 50", "sigma 40"]
    assert list(noises_of(Gaussian(50), [15, 50])) == ["sigma 15", "sigma 50"]
    assert [own_name(n) for n in (Gaussian(50), Blind(), Photo())] == ["sigma 50", None, "photo"]


def test_methods_see_the_same_noise_and_are_rounded_before_comparison():
    seen = []

    def nearly_perfect(noisy, sigma):
        seen.append((noisy, sigma))
        return CLEAN / 255 + 0.3 / 255  # less than half a gray level away

    rows = evaluate(
        {"a": nearly_perfect, "b": nearly_perfect}, [CLEAN], noises=noises_of(None, [15])
    )
    np.testing.assert_array_equal(seen[0][0], seen[1][0])
    assert seen[0][1] == pytest.approx(15 / 255)
    by_method = {row["method"]: row for row in rows}
    assert by_method["a"]["psnr"] == np.inf, "not rounded to 8 bits"
    assert by_method["a"]["ssim"] == pytest.approx(1)
    assert by_method["noisy"]["psnr"] == pytest.approx(20 * np.log10(255 / 15), abs=0.3)


@pytest.mark.parametrize(
    ("model", "called"),
    [
        ("runs/quick", "quick"),
        ("runs/quick/", "quick"),
        ("color", "color"),
        ("runs/noisy", "network noisy"),
        ("somewhere/non-local means", "network non-local means"),
        ("/", "network "),
    ],
)
def test_no_network_is_called_as_another_row(model, called):
    assert label(model) == called
    with pytest.raises(ValueError, match="can't be called 'noisy'"):
        evaluate({"noisy": lambda x, s: x}, [CLEAN], noises={})


def test_a_folder_that_is_the_current_one_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert label(".") == "mine"


def test_non_local_means_removes_noise():
    rows = evaluate(
        {"nlm": non_local_means}, [CLEAN], noises=noises_of(None, [25]), with_ssim=False
    )
    scores = {row["method"]: row["psnr"] for row in rows}
    assert scores["nlm"] > scores["noisy"] + 5


@pytest.mark.parametrize("shape", [(11, 11, 1), (61, 130, 3), (700, 530, 3)])
def test_scores_are_those_of_the_functions(shape):
    """Of `functional.psnr` and `functional.ssim` in float64, whatever the size."""
    rng = np.random.default_rng(0)
    clean = rng.random(shape, np.float32)
    noisy = np.clip(clean + rng.normal(0, 0.1, shape), 0, 1).astype(np.float32)
    with jax.enable_x64(True):
        wide = noisy.astype(np.float64), clean.astype(np.float64)
        expected = float(psnr(*wide)), float(ssim(*wide))
    found = _score(noisy, clean, True)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-9)


def test_table():
    rows = evaluate({"same": lambda x, s: x}, [CLEAN, CLEAN], noises=noises_of(None, [50, 15]))
    lines = format_table(rows).splitlines()
    assert lines[0].split() == ["sigma", "50", "sigma", "15"]
    assert [line.split()[0] for line in lines[1:3]] == ["noisy", "same"]
    assert f"{rows[0]['psnr']:.2f} / {rows[0]['ssim']:.4f}" in lines[1]
