"""`sa-flax evaluate`: under the published protocol and on pairs; tables, CSV and JSON."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sa_flax.inference.denoiser import Denoiser
from sa_flax.inference.evaluate import noisy_version
from sa_flax.models.saved import save_pretrained
from sa_flax.noise import Gaussian
from sa_flax.pictures import read_picture
from tests.torch_reference.weights import drawn_model

SMALL = {"width": 4, "levels": 2, "attention": "none", "attend": "none"}


def strict(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture
def pairs(tmp_path):
    """clean/ and noisy/ with sub/a.png (colour), b.png (gray), c.png (16 bits), d.png (alpha)."""
    rng = np.random.default_rng(0)
    clean = (128 + 90 * np.sin(np.add.outer(np.arange(24), np.arange(32)) / 5))[..., None]
    for kind, sigma in (("clean", 0), ("noisy", 20)):
        (tmp_path / kind / "sub").mkdir(parents=True)
        noise = rng.normal(0, sigma, (24, 32, 3)) if sigma else np.zeros((24, 32, 3))
        colour = np.clip(np.round(clean + noise), 0, 255).astype(np.uint8)
        Image.fromarray(colour).save(tmp_path / kind / "sub" / "a.png")
        Image.fromarray(colour[..., 0]).save(tmp_path / kind / "b.png")
        Image.fromarray(colour[..., 0].astype(np.uint16) * 257).save(tmp_path / kind / "c.png")
        Image.fromarray(np.dstack([colour, colour[..., :1]])).save(tmp_path / kind / "d.png")
    return tmp_path


@pytest.mark.parametrize("both", [(), ("--self-ensemble",)])
def test_on_pairs_it_agrees_with_what_denoise_writes(sa_flax, pairs, run_directory, both):
    code, out, _ = sa_flax(
        *("evaluate", run_directory, "--images", pairs / "clean", "--noisy", pairs / "noisy"),
        *("--json", pairs / "scores.json", "--csv", pairs / "scores.csv", "--baseline", *both),
    )
    assert code == 0
    words = ("--model", run_directory, "--output", pairs / "out", *both)
    assert sa_flax("denoise", pairs / "noisy", *words)[0] == 0
    report = strict(pairs / "scores.json")
    network = run_directory.name
    rows = {(row["picture"], row["method"]): row for row in report["pictures"]}
    for name in ("sub/a", "b", "c", "d"):
        for method, folder in ((network, "out"), ("noisy", "noisy")):
            clean, result = (
                read_picture(pairs / kind / f"{name}.png").pixels for kind in ("clean", folder)
            )
            if name == "d":
                clean, result = clean[..., :3], result[..., :3]
            top = np.iinfo(clean.dtype).max
            psnr = peak_signal_noise_ratio(clean, result, data_range=top)
            assert rows[name, method]["psnr"] == pytest.approx(psnr, abs=1e-3)
            ssim = structural_similarity(
                *(clean / top, result / top),
                data_range=1,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                channel_axis=-1 if clean.ndim == 3 else None,
            )
            assert rows[name, method]["ssim"] == pytest.approx(ssim, abs=1e-4)
    means = {row["method"]: row for row in report["results"]}
    assert set(means) == {"noisy", "non-local means", network}
    of_network = [row["psnr"] for row in report["pictures"] if row["method"] == network]
    assert means[network]["psnr"] == pytest.approx(np.mean(of_network))
    assert means["non-local means"]["psnr"] > means["noisy"]["psnr"] + 2
    with (pairs / "scores.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12
    assert float(lines[0]["psnr"]) == report["pictures"][0]["psnr"]
    assert "sub/a" in out
    assert out.splitlines()[-3].startswith("mean ")
    assert "(4 pairs" in out


def test_pairs_in_one_folder_by_how_their_names_end(sa_flax, pairs, run_directory):
    both = pairs / "both"
    both.mkdir()
    for name in "bc":
        shutil.copy(pairs / "noisy" / f"{name}.png", both / f"{name}_real.png")
        shutil.copy(pairs / "clean" / f"{name}.png", both / f"{name}_mean.png")
    shutil.copy(pairs / "clean" / "b.png", both / "alone_mean.png")
    code, out, err = sa_flax(
        *("evaluate", run_directory, "--images", both),
        *("--noisy-suffix", "_real", "--clean-suffix", "_mean"),
    )
    assert code == 1, "a picture was left out"
    assert "(2 pairs" in out
    assert "alone_mean.png: no noisy picture belongs to it" in err


def test_pairs_that_do_not_fit_are_named_and_the_others_measured(sa_flax, pairs, run_directory):
    Image.new("RGB", (31, 24)).save(pairs / "noisy" / "b.png")
    (pairs / "noisy" / "c.png").write_bytes(b"nothing")
    words = ("evaluate", run_directory, "--images", pairs / "clean", "--noisy", pairs / "noisy")
    code, out, err = sa_flax(*words)
    assert code == 1
    assert "noisy/b.png: is 24 x 31 pixels" in err
    assert "clean/b.png 24 x 32" in err
    assert "c.png: not a readable picture" in err
    assert "(2 pairs" in out
    code, _, err = sa_flax(*words, "--sigma", 15, 25)
    assert code == 2
    assert "give one" in err
    code, _, err = sa_flax(*words, "--sigma", 15)
    assert code == 2
    assert "is blind: leave --sigma out" in err


@pytest.mark.parametrize(
    ("noisy", "said"),
    [("empty", "no pairs in"), ("clean", "can't be told apart"), ("gone", "no folder")],
)
def test_folders_without_pairs(sa_flax, pairs, run_directory, noisy, said):
    (pairs / "empty").mkdir()
    code, _, err = sa_flax(
        *("evaluate", run_directory, "--images", pairs / "clean", "--noisy", pairs / noisy)
    )
    assert code == 2
    assert said in err


@pytest.mark.parametrize("name", ["noisy", "non-local means", "."])
def test_no_network_shares_a_row_with_another(
    sa_flax, folder, tmp_path, run_directory, monkeypatch, name
):
    if name == ".":
        (tmp_path / "noisy").symlink_to(run_directory)
        monkeypatch.chdir(tmp_path / "noisy")
    else:
        (tmp_path / name).symlink_to(run_directory)
    report = tmp_path / "scores.json"
    code, out, _ = sa_flax(
        *("evaluate", name if name == "." else tmp_path / name, "--images", folder),
        *("--sigma", 25, 25, "--baseline", "--json", report),
    )
    assert code == 0
    rows = strict(report)["results"]
    assert len(rows) == len({row["method"] for row in rows}) == 3
    assert len({row["psnr"] for row in rows}) == 3
    assert len([line for line in out.splitlines() if " / " in line]) == 4


def test_self_ensemble_on_added_noise(sa_flax, folder, tmp_path, run_directory):
    scores = tmp_path / "scores.json"
    words = ("evaluate", run_directory, "--images", folder, "--sigma", 25, "--json", scores)
    assert sa_flax(*words, "--self-ensemble")[0] == 0
    report = strict(scores)
    assert report["self_ensemble"] is True
    clean = read_picture(folder / "a.png").pixels.astype(np.float32) / 255
    noisy, _ = noisy_version(clean, Gaussian(25), seed=0, index=0)
    denoiser = Denoiser.from_pretrained(run_directory)
    for options in ({"self_ensemble": True}, {}):
        result = np.round(255 * denoiser(noisy, **options)) / np.float32(255)
        expected = peak_signal_noise_ratio(clean, result, data_range=1)
        (row,) = (
            row
            for row in report["pictures"]
            if (row["picture"], row["method"]) == ("a.png", run_directory.name)
        )
        assert (row["psnr"] == pytest.approx(expected, abs=1e-4)) == bool(options)


def test_no_noise_at_all_is_valid_json(sa_flax, folder, tmp_path, run_directory):
    code, out, _ = sa_flax(
        *("evaluate", run_directory, "--images", folder, "--sigma", 0),
        *("--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv"),
    )
    assert code == 0
    assert "inf / 1.0000" in out
    noisy = strict(tmp_path / "a.json")["results"][0]
    assert noisy["psnr"] is None
    assert noisy["not_finite"] == {"psnr": "inf"}
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "picture,noise,method,psnr,ssim"
    assert lines[1] == "a.png,sigma 0,noisy,inf,1.0"


def test_any_noise_in_one_table(sa_flax, folder, tmp_path, run_directory):
    code, out, err = sa_flax(
        *("evaluate", run_directory, "--images", folder, "--noise", "gaussian", "blind", "-v"),
        *("--sigma", 20, "--noise.sigma-range", 40, 40, "--noise.clip"),
        *("--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv"),
    )
    assert (code, err) == (0, "")
    report = strict(tmp_path / "a.json")
    assert report["noises"] == {
        "sigma 20 clipped": {"kind": "gaussian", "sigma": 20.0, "clip": True},
        "blind": {"kind": "blind", "sigma_range": [40.0, 40.0], "clip": True},
    }
    noisy = {r["noise"]: r["psnr"] for r in report["results"] if r["method"] == "noisy"}
    # Of noise on uniform colours: -20 log10(sigma / 255), and less where it is clipped.
    assert 0 < noisy["sigma 20 clipped"] - 22.1 < 1
    assert 0 < noisy["blind"] - 16.1 < 2.5
    pictures = {r["picture"] for r in report["pictures"]}
    assert pictures == {"a.png", "sub/b.jpg"}
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1 + 2 * 2 * 2
    lines = out.splitlines()
    assert lines[0] == "sigma 20 clipped", "with -v a table of every picture comes first"
    assert sum(line.startswith("sub/b.jpg ") for line in lines) == 2
    assert lines[-1] == f"(2 pictures in {folder})"


def test_a_network_that_needs_the_level_and_noise_without_one(sa_flax, folder, tmp_path):
    model = drawn_model("attention_unet", **SMALL, noise_level=True)
    config = {"model": "attention_unet", "options": SMALL | {"noise_level": True}}
    save_pretrained(model, tmp_path / "told", config=config)
    code, _, err = sa_flax(
        "evaluate", tmp_path / "told", "--images", folder, "--noise", "gaussian", "camera"
    )
    assert code == 2
    assert "needs the noise level, and camera noise has none" in err
