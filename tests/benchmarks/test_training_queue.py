"""What the training queue makes of photographs before it trains."""

import csv

import numpy as np
import pytest
from PIL import Image

import sa_flax
from benchmarks.training_queue import (
    RUNS,
    exposed,
    halftone,
    is_free,
    page,
    prepare,
    sharpened,
    through_a_mesh,
    through_a_mosaic,
    tiles,
    with_subsampled_chroma,
)


def half_textured() -> Image.Image:
    """600 x 300 pixels: smooth on the left, noise that differs in each colour on the right."""
    pixels = np.full((300, 600, 3), 128, np.uint8)
    pixels[:, 300:] = np.random.default_rng(0).integers(0, 256, (300, 300, 3))
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", RUNS)
def test_what_a_run_starts_from_is_there(name):
    start, options = RUNS[name]
    network, _ = sa_flax.from_pretrained(start or "photo")
    channels = int(options[options.index("--model.channels") + 1]) if name == "gray" else 3
    assert network.channels in (3, channels), "a gray one starts from a colour one, or a gray one"
    assert "--steps" in options


def test_tiles_cover_the_picture_and_know_their_texture():
    found = tiles(half_textured(), 1.0)
    assert sum(tile.width * tile.height for _, tile in found) == 600 * 300
    textures = [texture for texture, _ in found]
    assert textures[0] == 0
    assert max(textures) > 50
    assert sum(texture > 50 for texture in textures) == len(textures) // 2


def test_chroma_is_that_of_a_subsampled_file():
    sharp = half_textured().crop((300, 0, 444, 144))
    chroma = np.asarray(with_subsampled_chroma(sharp).convert("YCbCr"), float)[..., 1]
    before = np.asarray(sharp.convert("YCbCr"), float)[..., 1]
    steps = [np.mean(np.abs(np.diff(c, axis=1))) for c in (chroma, before)]
    assert steps[0] < 0.4 * steps[1]


def test_exposure_loses_whites_or_blacks():
    ramp = Image.fromarray(
        np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(3).reshape(16, 16, 3)
    )
    bright, dark = (np.asarray(exposed(ramp, percentile)) for percentile in (70, 30))
    assert np.mean(bright == 255) == pytest.approx(0.3, abs=0.02)
    assert np.mean(dark == 0) == pytest.approx(0.3, abs=0.02)
    assert bright.min() == 0
    assert dark.max() == 255


def test_a_mesh_is_regular_and_fine():
    gray = Image.fromarray(np.full((144, 144, 3), 200, np.uint8))
    seen = [np.asarray(through_a_mesh(gray, seed), float) for seed in range(8)]
    for picture in seen:
        assert picture.max() == 200
        changed = np.argwhere(picture.min(-1) < 199)
        assert len(changed) > 500
        spectrum = np.abs(np.fft.rfft2(picture[..., 0] - picture[..., 0].mean()))
        strongest = np.unravel_index(spectrum.argmax(), spectrum.shape)
        frequency = np.hypot(np.fft.fftfreq(144)[strongest[0]], strongest[1] / 144)
        assert frequency < 0.71
    assert np.std([picture.mean() for picture in seen]) > 1


def test_a_mosaic_keeps_what_is_flat_and_colours_what_is_fine():
    flat = Image.new("RGB", (70, 61), (200, 120, 40))
    y, x = np.mgrid[:61, :70]
    stripes = Image.fromarray(np.uint8(40 + 160 * ((x + y) % 4 < 2))).convert("RGB")
    seen, coloured = set(), []
    for seed in range(12):
        np.testing.assert_array_equal(np.asarray(through_a_mosaic(flat, seed)), np.asarray(flat))
        developed = np.asarray(through_a_mosaic(stripes, seed), float)
        coloured.append(np.ptp(developed, axis=-1).mean())
        seen.add(developed.tobytes())
        again = np.asarray(through_a_mosaic(stripes, seed), float)
        np.testing.assert_array_equal(again, developed)
    assert len(seen) == 12
    # Gray stripes get false colours, but where second differences tell what green must be.
    assert 6 <= np.sum(np.array(coloured) > 2) < 12


def test_a_sharpened_picture_overshoots_and_has_contrast():
    step = np.full((60, 80, 3), 100, np.uint8)
    step[:, 40:] = 140
    for seed in range(6):
        sharp = np.asarray(sharpened(Image.fromarray(step), seed), float)[30]
        middle = slice(30, 50)
        assert sharp[middle].min() < sharp[0].min() - 1, "darker before the step"
        assert sharp[middle].max() > sharp[-1].max() + 1, "lighter behind it"
        assert sharp[-1, 0] - sharp[0, 0] > 1.2 * 40
        again = np.asarray(sharpened(Image.fromarray(step), seed), float)[30]
        np.testing.assert_array_equal(again, sharp)


def test_halftone_is_as_bright_as_the_picture_and_nearly_of_two_values():
    ramp = Image.fromarray(np.linspace(0, 255, 144 * 150).reshape(150, 144).astype(np.uint8))
    two_valued = 0
    for seed in range(12):
        printed = np.asarray(halftone(ramp.convert("RGB"), seed), float)[..., 1]
        low, high = np.percentile(printed, [1, 99])
        assert high - low > 60
        share = (printed - low) / (high - low)
        thirds = [part.mean() for part in np.array_split(share, 3)]
        assert thirds[0] < 0.35 < thirds[1] < 0.65 < thirds[2], seed
        two_valued += np.mean((share < 0.1) | (share > 0.9)) > 0.8
    assert two_valued >= 4


def test_pages_are_mostly_paper():
    for seed, extreme in ((1, 255), (3, 0)):
        levels = np.asarray(page(seed).convert("L"))
        assert np.mean(np.abs(levels.astype(int) - extreme) < 70) > 0.5
        assert np.ptp(levels) > 120
    assert page(4).tobytes() == page(4).tobytes()


def test_only_free_photographs_train_and_textured_tiles_first(tmp_path):
    assert [is_free(x) for x in ("CC0", "CC-BY 4.0", "public domain (NASA)")] == [True] * 3
    assert [is_free(x) for x in ("CC-BY-SA 4.0", "GPL", "Unsplash")] == [False] * 3
    (tmp_path / "photos").mkdir()
    with (tmp_path / "photos" / "LICENSES.tsv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerows([("file", "licence"), ("a.png", "CC0"), ("b.png", "GPL")])
    for name in ("a.png", "b.png"):
        half_textured().save(tmp_path / "photos" / name)
    for everything in (False, True):
        folder = tmp_path / f"pictures-{everything}"
        prepare(tmp_path, folder, everything)
        names = sorted(path.name for path in (folder / "train").iterdir())
        assert {name[0] for name in names} == ({"a", "p"} if everything else {"a"})
        assert any(name.startswith("a-100-") for name in names) == everything
        assert all((folder / split).is_dir() for split in ("validation", "test"))
