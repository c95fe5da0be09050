"""Folders as people have them: read where they are, what can't be used is named."""

import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sa_flax.data import headers
from sa_flax.data.builders import open_splits
from sa_flax.data.headers import look_at, look_at_all
from sa_flax.data.listing import in_words
from sa_flax.data.splits import position
from sa_flax.errors import InputError
from sa_flax.pictures import decode_rgb8, find_pictures, read_rgb8, survey


def everything(splits) -> list[np.ndarray]:
    parts = (splits.train, splits.validation, splits.test)
    return [example["clean"] for part in parts for example in part]


def save(path: Path, height: int = 20, width: int = 24, seed: int = 0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Sub-folders, all sorts of files, one broken."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (40, 50, 3), np.uint8)
    (tmp_path / "sub").mkdir()
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    Image.fromarray(rgb).save(tmp_path / "sub" / "photo.JPG", quality=95)
    Image.fromarray(rgb[..., 0]).save(tmp_path / "gray.png")
    deep = rng.integers(0, 65536, (40, 50), np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(rgb).quantize(16).save(tmp_path / "palette.png")
    alpha = np.full((40, 50, 1), 128, np.uint8)
    Image.fromarray(np.concatenate([rgb, alpha], -1)).save(tmp_path / "alpha.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "rgb.png").read_bytes()[:900])
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_any_folder_of_images(folder):
    before = sorted(folder.rglob("*"))
    splits = open_splits(str(folder), crop=40)
    pictures = everything(splits)
    assert len(pictures) == 6
    assert len(splits.validation) == len(splits.test) == 1
    assert all(p.shape == (40, 50, 3) and p.dtype == np.uint8 for p in pictures)
    # As worker processes get it.
    sent = pickle.loads(pickle.dumps(splits.train))
    np.testing.assert_array_equal(sent[1]["clean"], splits.train[1]["clean"])
    assert [line.split(":")[0] for line in splits.skipped] == [
        "notes.txt",
        "broken.png",
    ]
    assert splits.skipped[0] == "notes.txt: .txt is no suffix of a picture that can be read"
    with pytest.raises(
        InputError, match=r"smaller than the training crop of 64 x 64.*to 40 or less"
    ):
        open_splits(str(folder), crop=64)
    # Nothing is copied; a new picture is there at once.
    assert sorted(folder.rglob("*")) == before
    shutil.copy(folder / "gray.png", folder / "another.png")
    shutil.copy(folder / "rgb.png", folder / "one more.png")
    assert len(everything(open_splits(str(folder)))) + 2 == 8 + 2 - len(
        [line for line in open_splits(str(folder)).skipped if "a copy of" in line]
    )


def test_what_decoding_does_to_each_kind(folder):
    def decode(name):
        return decode_rgb8((folder / name).read_bytes())

    rgb = np.asarray(Image.open(folder / "rgb.png"))
    np.testing.assert_array_equal(decode("rgb.png"), rgb)
    np.testing.assert_array_equal(decode("gray.png"), np.repeat(rgb[..., :1], 3, -1))
    deep = np.asarray(Image.open(folder / "deep.png")).astype(float)
    np.testing.assert_array_equal(decode("deep.png")[..., 1], np.round(deep / 257))
    over_white = np.asarray(rgb, float) * 128 / 255 + 127
    np.testing.assert_allclose(decode("alpha.png"), over_white, atol=1)


def test_a_folder_with_its_own_splits(tmp_path):
    for split, count in (("train", 3), ("val", 1), ("Test", 2)):
        for i in range(count):
            save(tmp_path / split / f"{i}.png", seed=len(split) * 10 + i)
    save(tmp_path / "beside.png")
    (tmp_path / "holdout").mkdir()
    splits = open_splits(str(tmp_path))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (3, 1, 2)
    assert splits.notes == (
        "split by its folders: train to train, val to validate, Test to test",
        "1 picture beside these folders not used: beside.png",
    )
    assert set(splits.manifest.splits["test"]) == {
        os.path.join("Test", "0.png"),
        os.path.join("Test", "1.png"),
    }


@pytest.mark.parametrize("missing", ["validation", "test"])
def test_an_empty_split_is_cut_from_train(tmp_path, missing):
    for i in range(6):
        save(tmp_path / "train" / f"{i}.png", seed=i)
    other = {"validation": "test", "test": "validation"}[missing]
    save(tmp_path / other / "0.png", seed=10)
    (tmp_path / missing).mkdir()
    splits = open_splits(str(tmp_path))
    assert len(getattr(splits, other)) == 1
    assert len(splits.train) + len(getattr(splits, missing)) == 6
    assert len(getattr(splits, missing)) >= 1


def test_folders_without_enough_pictures(tmp_path):
    (tmp_path / "film.mov").write_text("")
    with pytest.raises(InputError, match=r"no pictures in[\s\S]*film.mov: .mov is no suffix"):
        open_splits(str(tmp_path))
    save(tmp_path / "one.png")
    with pytest.raises(InputError, match="at least 3"):
        open_splits(str(tmp_path))
    (tmp_path / "one.png").write_text("")
    with pytest.raises(InputError, match=r"none of the 1 pictures in .* can be read:\n  one.png: "):
        open_splits(str(tmp_path))


def test_hidden_files_are_left_out(tmp_path):
    save(tmp_path / ".hidden.png")
    save(tmp_path / ".thumbnails" / "a.png")
    save(tmp_path / "b.png")
    assert find_pictures(tmp_path) == [tmp_path / "b.png"]
    assert survey(tmp_path).left_out == []


def test_what_a_listing_leaves_out(tmp_path, monkeypatch):
    for name in ("a.svg", "b.SVG", "c.svg", "sub/d.svg", "e.png", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    scandir = os.scandir

    def locked(path):  # as root nothing is
        if os.fspath(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    assert in_words(survey(tmp_path).left_out, tmp_path) == (
        "README: has no suffix",
        "4 files (a.svg, b.SVG, c.svg and 1 more): .svg is no suffix of a picture that can be read",
    )
    monkeypatch.setattr(os, "scandir", locked)
    found = survey(tmp_path)
    assert found.pictures == [tmp_path / "e.png"]
    assert f"{tmp_path / 'sub'}: can't be listed (Permission denied)" in [
        f"{path}: {reason}" for path, reason in found.left_out
    ]


KINDS = {
    "PNG": {},
    "JPEG": {},
    "WEBP": {},
    "BMP": {},
    "PPM": {},
    "TIFF": {"compression": "tiff_lzw"},
}


def read_rgb8_shape(path: Path) -> tuple[int, ...]:
    return read_rgb8(path).shape[:2]


def outcome(function, path: Path):
    """What a function gives, or its message."""
    try:
        return function(path)
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_headers_tell_what_decoding_would(tmp_path, kind):
    path = save(tmp_path / "whole", 30, 40, format=kind, **KINDS[kind])
    whole = path.read_bytes()
    assert look_at(path)[:3] == (path, 30, 40)
    for length in (0, 1, 20, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        assert outcome(lambda p: look_at(p)[1:3], path) == outcome(read_rgb8_shape, path)


def test_headers_of_turned_pictures(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("jpg", "png", "webp", "tif"):
        path = save(tmp_path / f"turned.{suffix}", 30, 40, exif=exif)
        assert look_at(path)[1:3] == read_rgb8(path).shape[:2] == (40, 30)


def test_digests_change_with_the_content(tmp_path):
    first = look_at(save(tmp_path / "a.png", 300, 300, seed=0)).digest
    assert look_at(save(tmp_path / "b.png", 300, 300, seed=0)).digest == first
    assert look_at(save(tmp_path / "a.png", 300, 300, seed=1)).digest != first


def test_frames_with_black_bars_are_no_copies(tmp_path):
    """Without compression they begin and end alike."""
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 256, (120, 160, 3), np.uint8)
        pixels[:20] = pixels[-20:] = 0
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.bmp")
    frames = look_at_all(sorted(tmp_path.iterdir()))[0]
    assert len({frame.digest for frame in frames}) == 1
    splits = open_splits(str(tmp_path), crop=32)
    assert splits.skipped == ()
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 40
    held_out = next(iter(splits.manifest.splits["test"]))
    names = [n for i in range(99) if position(n := f"again{i}.bmp") >= 0.3][:20]  # to be trained on
    for name in names:
        shutil.copy(tmp_path / held_out, tmp_path / name)
    again = open_splits(str(tmp_path), crop=32, earlier=splits.manifest)
    assert set(again.skipped) == {f"{n}: a copy of {held_out}, which is held out" for n in names}
    assert len(again.test) == len(splits.test)


def test_files_that_can_not_be_opened(tmp_path):
    (tmp_path / "dangling.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    good, bad = look_at_all([tmp_path / "dangling.png", tmp_path / "pipe.png"])
    assert good == []
    assert [why for _, why in bad] == [
        "is a link to a file that is not there.",
        "is not a file.",
    ]


def test_most_files_are_not_decoded(tmp_path, monkeypatch):
    """Else a folder of 20,000 photographs would take an hour to start."""
    for kind in KINDS:
        for i in range(3):
            save(tmp_path / f"{kind}{i}.{kind.lower()}", format=kind, **KINDS[kind])
    decoded = []
    monkeypatch.setattr(headers, "read_rgb8", lambda path: decoded.append(path) or read_rgb8(path))
    good, bad = look_at_all(find_pictures(tmp_path))
    assert (len(good), len(bad)) == (18, 0)
    assert not [path for path in decoded if path.suffix not in (".bmp", ".ppm")]


def test_a_thousand_files_are_looked_through_in_a_moment(tmp_path):
    source = save(tmp_path / "0.jpg", 64, 64)
    for i in range(1, 1000):
        os.link(source, tmp_path / f"{i}.jpg")
    started = time.monotonic()
    good, _ = look_at_all(find_pictures(tmp_path))
    assert len(good) == 1000
    assert time.monotonic() - started < 10  # 0.15 s on a quiet core


def test_files_that_change_during_training_are_named(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.png", seed=i)
    splits = open_splits(str(tmp_path))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"\d.png: .*(truncated|broken).* Mend it or take it away"):
        splits.train[0]
    for path in tmp_path.iterdir():
        save(path, 21, 24)
    with pytest.raises(InputError, match=r"\d.png: has 21 x 24 pixels; it had 20 x 24"):
        splits.train[0]
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"\d.png: no such file"):
        splits.train[0]


def test_small_pictures_are_left_out(tmp_path):
    for i in range(6):
        save(tmp_path / f"{i}.png", 48, 56, seed=i)
    save(tmp_path / "icon.png", 16, 16)
    splits = open_splits(str(tmp_path), crop=32)
    assert sum(map(len, (splits.train, splits.validation, splits.test))) == 6
    assert splits.skipped == (
        "icon.png: its shorter side has 16 pixels; 32 are the least that the training crop of "
        "32 x 32 fits in",
    )
    assert splits.manifest.left_out == splits.skipped
