"""Which network took white noise over is said, and can be forbidden; evaluate does as denoise."""

import json

import numpy as np
import pytest
from PIL import Image

from sa_flax.data import PHOTOGRAPHS
from sa_flax.pictures import read_rgb8


@pytest.fixture
def pairs(tmp_path):
    """A picture with white noise, and one with noise that the channels share."""
    clean = read_rgb8(PHOTOGRAPHS / "elem-ryan-schroeder.jpg")[:128, :160]
    noise = np.random.default_rng(0).normal(0, 25, clean.shape)
    for name, added in (("white", noise), ("shared", noise[..., :1])):
        noisy = np.clip(np.round(clean + added), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / f"{name}_real.png")
        Image.fromarray(clean).save(tmp_path / f"{name}_mean.png")
    return tmp_path


def test_the_command_says_who_took_it(sa_flax, pairs, tmp_path):
    files = [pairs / f"{name}_real.png" for name in ("white", "shared")]
    report = tmp_path / "work.json"
    code, out, _ = sa_flax(
        *("denoise", *files, "--model", "photo", "-o", tmp_path / "out", "--json", report)
    )
    assert code == 0
    assert out.splitlines()[0] == "network: photo"
    assert [line.count(", by color;") for line in out.splitlines()[1:3]] == [1, 0]
    white, shared = json.loads(report.read_text())["pictures"]
    assert white["network"] == "color"
    assert "network" not in shared

    code, out, _ = sa_flax(
        *("denoise", files[0], "--model", "photo", "-o", tmp_path / "kept", "--no-specialists")
    )
    assert code == 0
    assert ", by" not in out
    results = [(tmp_path / place / "white_real.png").read_bytes() for place in ("out", "kept")]
    assert results[0] != results[1]


def test_evaluate_does_the_same(sa_flax, pairs, tmp_path):
    options = ("--images", pairs, "--noisy-suffix", "_real", "--clean-suffix", "_mean")
    code, _, _ = sa_flax("evaluate", "photo", *options, "--json", tmp_path / "scores.json")
    assert code == 0
    files = sorted(pairs.glob("*_real.png"))
    sa_flax("denoise", *files, "--model", "photo", "-o", tmp_path / "out", "--quiet")
    rows = json.loads((tmp_path / "scores.json").read_text())["pictures"]
    measured = {row["picture"]: row["psnr"] for row in rows if row["method"] == "photo"}
    assert len(measured) == 2
    for file in files:
        clean = read_rgb8(pairs / file.name.replace("_real", "_mean")).astype(float)
        error = np.mean((read_rgb8(tmp_path / "out" / file.name) - clean) ** 2)
        (psnr,) = (v for k, v in measured.items() if k.startswith(file.name.split("_")[0]))
        assert psnr == pytest.approx(10 * np.log10(255**2 / error), abs=0.005)


def test_another_networks_specialists_are_forbidden_too(sa_flax, pairs, tmp_path):
    gray = tmp_path / "gray.png"
    Image.open(pairs / "white_real.png").convert("L").save(gray)
    taken = []
    for number, more in enumerate(([], ["--no-specialists"])):
        target = tmp_path / f"{number}.png"
        code, out, _ = sa_flax("denoise", gray, "--model", "color", "-o", target, *more)
        assert code == 0
        taken.append(out.splitlines()[-1].rpartition(", by ")[2])
    assert taken == ["gray)", "photo)"]
