"""The command sa-flax, in this process: what it writes, what it refuses, its exit codes."""

import json

import numpy as np
import pytest
import tifffile
from flax import nnx
from PIL import Image

import sa_flax as package
from sa_flax import xla_flags
from sa_flax.cli import networks
from sa_flax.inference.denoiser import Denoiser
from sa_flax.pictures import read_picture
from tests.cli.conftest import snapshot


def test_denoise_a_folder(sa_flax, folder, tmp_path):
    before = snapshot(folder)
    code, out, _ = sa_flax("denoise", folder, "--output", tmp_path / "out")
    assert code == 0
    assert "1 of 2)" in out
    assert out.splitlines()[-1] == "denoised 2 of 2 pictures."
    assert snapshot(folder) == before
    for name in ("a.png", "sub/b.jpg"):
        assert read_picture(tmp_path / "out" / name).pixels.shape == (20, 30, 3)
    clean = read_picture(tmp_path / "out" / "a.png").pixels.astype(float)
    noisy = read_picture(folder / "a.png").pixels.astype(float)
    assert 0 < np.abs(clean - noisy).mean() < 30, "an untrained network nearly returns its input"


@pytest.mark.parametrize(
    ("fast", "asked", "taken"),
    [
        pytest.param(False, [], None, marks=pytest.mark.slow),
        (True, [], "bfloat16"),
        (True, ["--dtype", "float32"], "float32"),
    ],
)
def test_bfloat16_is_taken_where_it_is_fast(
    sa_flax, folder, tmp_path, monkeypatch, fast, asked, taken
):
    monkeypatch.setattr(xla_flags, "is_bfloat16_fast", lambda: fast)
    page = tmp_path / "work.json"
    code, out, _ = sa_flax(
        *("denoise", folder / "a.png", "--model", "photo", "--output", tmp_path / "o.png"),
        *("--json", page, *asked),
    )
    assert code == 0
    assert out.splitlines()[0] == f"network: photo{f', in {taken}' if taken else ''}"
    assert json.loads(page.read_text())["dtype"] == taken
    denoiser = Denoiser.from_pretrained("photo", dtype=taken)
    pixels = read_picture(folder / "a.png").pixels
    np.testing.assert_array_equal(read_picture(tmp_path / "o.png").pixels, denoiser(pixels))


def test_a_dncnn_keeps_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(xla_flags, "is_bfloat16_fast", lambda: True)
    options = {"channels": 1, "depth": 3, "width": 4}
    network = package.create_model("dncnn", rngs=nnx.Rngs(0), **options)
    config = {"model": "dncnn", "options": options}
    package.save_pretrained(network, tmp_path / "net", config=config)
    assert networks.Chosen(str(tmp_path / "net")).dtype is None
    assert networks.Chosen(str(tmp_path / "net"), dtype="bfloat16").dtype == "bfloat16"


def test_a_broken_file_is_named_and_the_others_done(sa_flax, folder, tmp_path):
    (folder / "broken.png").write_bytes(b"nothing")
    code, _, err = sa_flax("denoise", folder, "--output", tmp_path / "out")
    assert code == 1
    assert "broken.png: not a readable picture" in err
    assert "1 of 3 pictures failed" in err
    assert sorted(p.name for p in (tmp_path / "out").rglob("[!.]*.*")) == ["a.png", "b.jpg"]


def test_add_noise_then_denoise_keeps_alpha(sa_flax, tmp_path):
    pixels = np.full((64, 64, 4), 128, np.uint8)
    pixels[..., 3] = np.arange(64)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    code, *_ = sa_flax("add-noise", tmp_path / "a.png", "--sigma", 25, "--output", tmp_path / "n")
    assert code == 0
    noisy = read_picture(tmp_path / "n" / "a.png").pixels.astype(float)
    np.testing.assert_allclose((noisy - pixels)[..., :3].std(), 25, rtol=0.05)
    np.testing.assert_array_equal(noisy[..., 3], pixels[..., 3])
    code, *_ = sa_flax("denoise", tmp_path / "n", "--output", tmp_path / "out")
    assert code == 0
    clean = read_picture(tmp_path / "out" / "a.png").pixels
    np.testing.assert_array_equal(clean[..., 3], pixels[..., 3])


def test_evaluate(sa_flax, run_directory, folder, tmp_path):
    (folder / "broken.png").write_bytes(b"nothing")
    report = tmp_path / "sub" / "report.json"
    code, out, err = sa_flax(
        *("evaluate", run_directory, "--images", folder, "--sigma", 15, 25, "--baseline"),
        *("--json", report),
    )
    assert code == 1, "a picture failed"
    assert "broken.png" in err
    assert "non-local means" in out
    assert "2 pictures" in out
    rows = json.loads(report.read_text())["results"]
    assert {row["sigma"] for row in rows} == {15, 25}
    assert all(10 < row["psnr"] < 50 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["denoise", "{in}/a.png", "--output", "{in}"], "would overwrite an original"),
        (["denoise", "{in}/a.png", "{in}/b/a.png", "--output", "{out}"], "would both be written"),
        (["denoise", "--output", "{out}"], "at least one picture"),
        (["denoise", "{out}", "--output", "{out}2"], "no such file"),
        (["denoise", "{in}/a.png", "--output", "{in}/a.png"], "would overwrite an original"),
        (["denoise", "{in}", "--output", "{in}/a.png"], "must be a folder"),
        (["denoise", "{in}", "--output", "{out}", "--sigma", "9"], "blind: leave --sigma out"),
        (["denoise", "{in}", "--output", "{out}", "--model", "{in}"], "holds no trained network"),
        (["denoise", "{in}", "--outptu", "{out}"], "--output"),
        (["denoize", "{in}"], "denoise"),
        (["add-noise", "{in}", "--sigma", "-1", "--output", "{out}"], "can't be negative"),
        (["evaluate", "{run}", "--images", "{out}"], "no folder"),
        (["evaluate", "{run}", "--images", "{in}", "--sigma", "-3"], "can't be negative"),
    ],
)
def test_requests_that_are_wrong(sa_flax, folder, tmp_path, run_directory, arguments, message):
    before = snapshot(tmp_path)
    places = {"in": folder, "out": tmp_path / "out", "run": run_directory}
    code, _, err = sa_flax(*(a.format(**places) for a in arguments))
    assert code == (1 if message == "no such file" else 2)
    assert message in err
    assert len(err.splitlines()) < 25
    assert snapshot(tmp_path) == before, "something was written"


def test_every_page_has_noise_of_its_own(sa_flax, tmp_path):
    gray = np.full((40, 40), 128, np.uint8)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        for _ in range(3):
            file.write(gray)
    Image.fromarray(gray).save(tmp_path / "one.png")
    for name in ("pages.tif", "one.png"):
        assert sa_flax("add-noise", tmp_path / name, "-o", tmp_path / "o", "--sigma", 20)[0] == 0
    noise = tifffile.imread(tmp_path / "o" / "pages.tif").astype(float) - 128
    between = np.corrcoef(noise.reshape(3, -1))
    assert np.abs(between - np.eye(3)).max() < 0.1
    assert noise.std() == pytest.approx(20, rel=0.05)
    alone = np.asarray(Image.open(tmp_path / "o" / "one.png")).astype(float) - 128
    np.testing.assert_array_equal(noise[0], alone)


def test_every_noise_can_be_added(sa_flax, folder, tmp_path):
    for kind in ("camera", "photo"):
        code, out, _ = sa_flax("add-noise", folder, "--noise", kind, "--output", tmp_path / kind)
        assert code == 0, out
        assert (tmp_path / kind / "a.png").exists()
    code, _, err = sa_flax(
        *("add-noise", folder, "--noise", "camera", "--sigma", 5, "--output", tmp_path / "o")
    )
    assert code == 2
    assert "draws its own" in err
    code, _, err = sa_flax("add-noise", folder, "--output", tmp_path / "o")
    assert code == 2
    assert "say how much noise" in err
