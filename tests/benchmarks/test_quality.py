"""The sets that networks are measured on, and the figures."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import quality


@pytest.fixture
def data(tmp_path, monkeypatch):
    """One picture, and one pair of real noise."""
    rng = np.random.default_rng(0)
    picture = rng.integers(60, 190, (40, 48, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    monkeypatch.setattr(quality, "held_out", lambda: [tmp_path / "picture.png"])
    (tmp_path / "polyu100").mkdir()
    for kind in ("real", "mean"):
        Image.fromarray(picture).save(tmp_path / "polyu100" / f"a_{kind}.JPG", quality=95)
    return tmp_path


def test_each_set_has_the_noise_that_its_name_says(data):
    found = {title: next(iter(cases())) for title, cases in quality.sets(data).items()}
    assert len(found) >= 18
    for title, case in found.items():
        assert case.noisy.shape == case.clean.shape, title
        assert case.noisy.dtype == case.clean.dtype == np.float32, title
        assert case.clean.shape[-1] == (1 if title.split(":")[0] in quality.GRAY else 3)
        exact = title.endswith("clean") or title.startswith("polyu100")
        assert np.array_equal(case.noisy, case.clean) == exact, title
    assert found["photographs: resized 0.75"].clean.shape == (30, 36, 3)
    assert found["polyu100: cropped"].clean.shape == (37, 43, 3)
    assert found["polyu100: resized 0.5"].clean.shape == (20, 24, 3)
    white = found["photographs: sigma 25"]
    assert np.std(white.noisy - white.clean) == pytest.approx(25 / 255, rel=0.05)
    assert white.sigma == pytest.approx(25 / 255)


def test_figures_are_those_of_the_written_picture():
    def level(gray: float) -> np.ndarray:
        return np.full((8, 8, 3), gray / 255, np.float32)

    cases = [quality.Case(level(110.3), level(100)), quality.Case(level(120.3), level(100))]
    half = {"half": lambda noisy, sigma: (noisy + 100 / 255) / 2}
    result = quality.measure(half, iter(cases), 2)
    decibels = {error: 20 * np.log10(255 / error) for error in (5, 10, 20)}
    assert result["psnr"]["input"] == pytest.approx((decibels[10] + decibels[20]) / 2, abs=1e-3)
    assert result["psnr"]["half"] == pytest.approx((decibels[5] + decibels[10]) / 2, abs=1e-3)
    assert result["worst_gain"]["half"] == pytest.approx(20 * np.log10(2), abs=1e-3)
    assert quality.table({"a set": result}).endswith("| a set | 25.12 | 31.14 (+6.02) |")


def test_methods_stand_beside_each_other_where_their_inputs_are_the_same():
    def row(name: str, noisy: float) -> dict:
        figures = {"worst_gain": {name: 1.0}, "cpu_seconds_per_megapixel": {name: 2.0}}
        return {"pictures": 6, "psnr": {"input": noisy, name: 30.0}, **figures}

    old, new = row("a", 20.0), row("b", 20.001)
    both = quality.merged(old, new)
    assert both["psnr"] == {"input": 20.001, "a": 30.0, "b": 30.0}
    assert both["worst_gain"] == {"a": 1.0, "b": 1.0}
    assert quality.merged({}, new) == quality.merged(row("a", 20.1), new) == new
    assert quality.merged(old | {"pictures": 5}, new) == new
