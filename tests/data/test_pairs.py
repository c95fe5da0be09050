"""Which noisy picture belongs to which clean one, and training on both."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sa_flax.config import DataConfig
from sa_flax.data.builders import open_splits
from sa_flax.data.pairs import find_pairs
from sa_flax.data.pipeline import open_pictures, training_batches
from sa_flax.errors import InputError


def save(path: Path, height: int = 40, width: int = 48, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Positions stand in the picture, so that crops show where they are from.
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows, columns, np.full_like(rows, seed)], -1).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.mark.parametrize(
    ("noisy", "clean", "patterns"),
    [
        ("noisy/{}.png", "clean/{}.png", ("noisy", "clean")),
        ("Noisy/{}.png", "CLEAN/{}.png", ("noisy", "clean")),
        ("noisy/sub/{}.png", "clean/sub/{}.tif", ("noisy", "clean")),
        ("train/noisy/{}.png", "train/clean/{}.png", ("noisy", "clean")),
        ("{}_real.png", "{}_mean.png", ("*_real.*", "*_mean.*")),
        ("deep/{}_Real.PNG", "deep/{}_mean.png", ("*_real.png", "*_mean.png")),
        ("{}/NOISY_SRGB_010.PNG", "{}/GT_SRGB_010.PNG", ("NOISY_*", "GT_*")),
        ("in/{}.png", "groundtruth/{}.png", ("in/*", "groundtruth/*")),
        ("a/low/{}.png", "a/high/{}.png", ("low", "high")),
        ("x-{}a.png", "{}b.png", ("x-?a", "?b")),
    ],
)
def test_partners_by_their_names(tmp_path, noisy, clean, patterns):
    for i in range(4):
        save(tmp_path / noisy.format(i))
        save(tmp_path / clean.format(i))
    pairs, left_out = find_pairs(
        tmp_path, tmp_path, noisy_names=patterns[0], clean_names=patterns[1]
    )
    assert left_out == []
    assert [(p.noisy.path, p.clean.path) for p in pairs] == [
        (tmp_path / noisy.format(i), tmp_path / clean.format(i)) for i in range(4)
    ]
    assert len({p.name for p in pairs}) == 4


def test_two_folders(tmp_path):
    for i in range(3):
        save(tmp_path / "a" / f"{i}.png")
        save(tmp_path / "b" / f"{i}.jpg")
    pairs, left_out = find_pairs(tmp_path / "a", tmp_path / "b")
    assert left_out == []
    assert [p.name for p in pairs] == ["0", "1", "2"]
    with pytest.raises(InputError, match=r"no folder .*missing"):
        find_pairs(tmp_path / "missing", tmp_path / "b")


def test_what_is_no_pair_is_named(tmp_path):
    noisy, clean = tmp_path / "noisy", tmp_path / "clean"
    for i in range(2):
        save(noisy / f"{i}.png")
        save(clean / f"{i}.png")
    save(noisy / "alone.png")
    save(clean / "lonely.png")
    save(noisy / "size.png", 40, 48)
    save(clean / "size.png", 48, 40)
    save(noisy / "broken.png")
    (clean / "broken.png").write_bytes(b"")
    save(noisy / "two.png")
    save(noisy / "two.bmp")
    save(clean / "two.tif")
    save(tmp_path / "beside.png")
    (noisy / "notes.txt").write_text("")
    pairs, left_out = find_pairs(tmp_path, tmp_path, noisy_names="noisy", clean_names="clean")
    assert [p.name for p in pairs] == ["0", "1"]
    expected = [
        f"{noisy / 'notes.txt'}: .txt is no suffix of a picture that can be read",
        f"{tmp_path / 'beside.png'}: named neither like noisy (noisy) nor like clean ones (clean)",
        f"{noisy / 'alone.png'}: no clean picture belongs to it",
        f"{noisy / 'two.bmp'}: more than one picture could belong to it",
        f"{noisy / 'two.png'}: more than one picture could belong to it",
        f"{clean / 'two.tif'}: more than one picture could belong to it",
        f"{clean / 'lonely.png'}: no noisy picture belongs to it",
        f"{noisy / 'broken.png'}: its partner can't be read",
        f"{noisy / 'size.png'}: is 40 x 48 pixels, {clean / 'size.png'} 48 x 40",
    ]
    assert sorted(line for line in left_out if "not a readable" not in line) == sorted(expected)
    (broken,) = [line for line in left_out if "not a readable" in line]
    assert broken.startswith(f"{clean / 'broken.png'}: ")


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("noisy", "noisy"), "can't be told apart"),
        (("*", "*"), "can't be told apart"),
        (("*", "*_mean"), "2 pictures .* are noisy by .* and clean by"),
        (("", "*"), "is no pattern of names"),
        (("/", "*"), "is no pattern of names"),
    ],
)
def test_patterns_that_tell_nothing(tmp_path, patterns, message):
    for name in ("a_real", "a_mean", "b_real", "b_mean"):
        save(tmp_path / f"{name}.png")
    with pytest.raises(InputError, match=message):
        find_pairs(tmp_path, tmp_path, noisy_names=patterns[0], clean_names=patterns[1])


@pytest.fixture
def folder(tmp_path) -> Path:
    """Eight pairs; in the noisy ones the third channel is 100 more."""
    for i in range(8):
        save(tmp_path / "noisy" / f"{i}.png", seed=100 + i)
        save(tmp_path / "clean" / f"{i}.png", seed=i)
    return tmp_path


def test_a_folder_of_pairs_is_a_data_set(folder):
    splits = open_splits(str(folder), crop=16)
    assert splits.pairs
    assert splits.notes[0] == "8 pairs of noisy (noisy) and clean (clean) pictures"
    for part in (splits.train, splits.validation, splits.test):
        assert len(part) > 0
        for example in part:
            difference = example["noisy"].astype(int) - example["clean"]
            np.testing.assert_array_equal(difference[..., 2], 100)
    # With one of the folders alone there are no pairs.
    assert not open_splits(str(folder / "clean"), crop=16).pairs
    with pytest.raises(InputError, match="go together"):
        open_splits(str(folder), noisy="noisy")
    with pytest.raises(InputError, match=r"no pairs of noisy \(\*_real\) and clean"):
        open_splits(str(folder), noisy="*_real", clean="*_mean")
    with pytest.raises(InputError, match="tell pairs in a folder"):
        open_splits("photographs", noisy="*_real", clean="*_mean")


@pytest.mark.parametrize("layout", ["{split}/{kind}/{i}.png", "{kind}/{split}/{i}.png"])
def test_pairs_with_splits_of_their_own(tmp_path, layout):
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for kind in ("noisy", "clean"):
            for i in range(count):
                seed = 10 * len(split) + i + 5 * (split == "val")
                save(tmp_path / layout.format(split=split, kind=kind, i=i), seed=seed)
    splits = open_splits(str(tmp_path), crop=16)
    assert splits.pairs
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (3, 1, 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_of_pairs_show_the_same_place(folder, channels):
    config = DataConfig(source=str(folder), crop=16, batch_size=4)
    pictures = open_pictures(config, channels=channels)
    batches = training_batches(pictures.train, config, seed=0)
    for _ in range(5):
        batch = next(batches)
        assert set(batch) == {"noisy", "clean"}
        assert batch["noisy"].shape == batch["clean"].shape == (4, 16, 16, channels)
        difference = batch["noisy"].astype(int) - batch["clean"]
        if channels == 3:
            np.testing.assert_array_equal(difference[..., :2], 0)
            np.testing.assert_array_equal(difference[..., 2], 100)
        else:
            np.testing.assert_allclose(difference, 11.4, atol=1)  # of luma 0.114 are blue
    batches.close()
