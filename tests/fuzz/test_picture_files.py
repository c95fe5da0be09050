"""Whatever a picture file holds and is called: a result, or a message that names it."""

import functools
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sa_flax.cli import main, networks
from sa_flax.cli.written import NOTES
from sa_flax.data.builders import open_splits
from sa_flax.errors import InputError
from sa_flax.inference.denoiser import Denoiser
from sa_flax.pictures import (
    SUFFIXES,
    find_pictures,
    output_suffix,
    read_pages,
    read_picture,
    read_rgb8,
    what_cannot_be_written,
    write_pages,
    write_picture,
)
from sa_flax.pictures.formats import by_suffix
from tests.fuzz.damage import cases, check_message, damaged, refusal, snapshot, untouched
from tests.fuzz.pictures import HEIGHT, KINDS, WIDTH, encoded, paged, pictures, refused

# Suffixes of formats whose packages are installed.
READ = sorted(s for s in SUFFIXES if not by_suffix(f"a{s}").is_missing)
as_root = hasattr(os, "geteuid") and os.geteuid() == 0
any_damaged_picture = st.sampled_from(sorted(pictures())).flatmap(
    lambda name: st.tuples(st.just(name), damaged(pictures()[name]))
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pictures")


LOSSLESS = (".png", ".tif", ".bmp", ".ppm", ".pgm")


def as_webp_keeps_it(pixels: np.ndarray) -> np.ndarray:
    """In colour, and without an alpha channel that hides nothing."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    colours = np.repeat(pixels[..., :1], 3, -1) if pixels.shape[-1] < 3 else pixels[..., :3]
    hidden = pixels.shape[-1] in (2, 4) and (pixels[..., -1] < 255).any()
    return np.concatenate([colours, pixels[..., -1:]], -1) if hidden else colours


def fresh(place: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=place))


@pytest.fixture
def tiny(run_directory, monkeypatch):
    """Commands use the tiny network, which is loaded once."""
    denoiser = Denoiser.from_pretrained(run_directory)
    monkeypatch.setattr(networks, "load", lambda *args, **kwargs: denoiser)
    monkeypatch.setattr(networks, "default", lambda: "tiny")


def command(capsys, *words) -> tuple[int, str]:
    """Exit code and errors of a command in this process."""
    code = main([str(word) for word in words])
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    if code:
        check_message(errors)
    return code, errors


@cases(900)
@given(any_damaged_picture)
def test_damaged_files_are_read_and_written_or_refused(place, case):
    name, content = case
    folder = fresh(place)
    path, copy = folder / name, folder / "out" / f"copy{output_suffix(name)}"
    path.write_bytes(content)

    def there_and_back():
        pages = read_pages(path)
        for page in pages:
            assert page.pixels.dtype.kind in "iuf"
            assert page.pixels.size
        if what_cannot_be_written(copy, pages[0].pixels, pages=len(pages)):
            write_pages(copy.with_suffix(".tif"), pages)
            return
        write_pages(copy, pages)
        for page, again in zip(pages, read_pages(copy), strict=True):
            expected = page.pixels
            if copy.suffix == ".webp":
                expected = as_webp_keeps_it(expected)
            assert again.pixels.shape == expected.shape
            if copy.suffix in LOSSLESS:
                np.testing.assert_array_equal(again.pixels, expected)

    refusal(there_and_back, names=str(folder))
    refusal(read_rgb8, path, names=str(path))
    assert path.read_bytes() == content
    assert not list(folder.rglob("*.partial*"))
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", pictures())
def test_whole_files_of_every_kind_are_read(place, name):
    path = fresh(place) / name
    path.write_bytes(pictures()[name])
    turned = name.startswith("upright")
    shape = (WIDTH, HEIGHT) if turned else (HEIGHT, WIDTH)
    picture = read_picture(path)
    assert picture.pixels.shape[:2] == shape
    assert picture.pixels.dtype == KINDS.get(name.split("_")[0].split(".")[0], np.uint8)
    if picture.pixels.dtype in (np.uint8, np.uint16):
        assert read_rgb8(path).shape == (*shape, 3)
    else:
        assert "no fixed range" in refusal(read_rgb8, path, names=str(path))
    copy = path.with_name("copy" + output_suffix(path))
    write_picture(copy, picture)
    again = read_picture(copy)
    if copy.suffix in LOSSLESS or name in ("rgba.webp", "lossless.webp"):
        np.testing.assert_array_equal(again.pixels, picture.pixels)
    assert again.metadata.keys() == picture.metadata.keys()
    # tifffile notes a resolution and itself.
    tagged = turned or name in ("big.tif", "planar.tif", "tiled.tif")
    assert ("exif" in picture.metadata) == tagged


def test_pages_are_read_one_by_one_and_thumbnails_are_none(place):
    path = fresh(place) / "a.tif"
    for name, content in paged().items():
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a.tif: holds 2 pages"):
            read_picture(path)
        pages = read_pages(path)
        assert [page.pixels.shape[:2] for page in pages] == [(HEIGHT, WIDTH)] * 2, name
        write_pages(path.with_stem("copy"), pages)
        for page, again in zip(pages, read_pages(path.with_stem("copy")), strict=True):
            np.testing.assert_array_equal(page.pixels, again.pixels)
            assert page.metadata == again.metadata
        if name != "stack":  # of floats
            assert read_rgb8(path).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("name", refused())
def test_files_that_cannot_be_used_are_refused_with_the_reason(place, name):
    content, reason = refused()[name]
    path = fresh(place) / name
    path.write_bytes(content)
    assert reason in refusal(read_picture, path, names=str(path))
    # Training takes the first frame of an animation.
    if reason != "2 frames":
        assert reason in refusal(read_rgb8, path, names=str(path))
    else:
        assert read_rgb8(path).dtype == np.uint8


@cases(60)
@given(
    st.sampled_from(sorted(pictures())),
    st.sampled_from([(1, 1), (1, 13), (13, 1), (2, 3), (40, 1)]),
    st.sampled_from(["L", "LA", "RGB", "RGBA", "1", "P", "I;16"]),
)
def test_the_smallest_pictures_keep_their_size(place, name, size, mode):
    """As files of another name, too: the content counts, not the suffix."""
    path = fresh(place) / name
    path.write_bytes(encoded(Image.new(mode, size), "PNG"))
    assert read_picture(path).pixels.shape[:2] == size[::-1]
    assert read_rgb8(path).shape == (*size[::-1], 3)


@cases(5)
@given(st.sampled_from([(1, 1), (1, 13), (13, 1), (2, 3)]), st.sampled_from(["L", "RGBA", "I;16"]))
def test_the_smallest_pictures_are_denoised(place, run_directory, size, mode):
    folder = fresh(place)
    Image.new(mode, size).save(folder / "a.png")
    words = ["denoise", folder, "--output", folder / "out", "--model", run_directory]
    assert main([str(word) for word in words]) == 0
    with Image.open(folder / "out" / "a.png") as result:
        assert result.size == size


@cases(120)
@given(st.lists(any_damaged_picture, min_size=1, max_size=3), st.sampled_from(READ))
def test_add_noise_does_what_it_can_and_says_so(place, case, suffix):
    folder = fresh(place)
    (folder / "in").mkdir()
    for number, (_, content) in enumerate(case):
        (folder / "in" / f"{number}{suffix}").write_bytes(content)
    with untouched(folder / "in"):
        code = main(
            ["add-noise", str(folder / "in"), "--sigma", "9", "--output", str(folder / "out")]
        )
    done = find_pictures(folder / "out")
    assert code == (len(done) < len(case))
    for path in done:
        read_picture(path)
    there = [path for path in folder.rglob("*") if path.name != NOTES]
    assert len(there) == len(case) + len(done) + 1 + (folder / "out").exists()
    shutil.rmtree(folder)


@cases(10)
@given(st.lists(any_damaged_picture, min_size=1, max_size=3))
def test_a_training_folder_names_what_it_skips(place, tmp_path_factory, case):
    folder = fresh(place)
    for number in range(3):
        (folder / f"whole{number}.png").write_bytes(large_png())
    for number, (name, content) in enumerate(case):
        (folder / f"{number}{name}").write_bytes(content)
    looked_at = len(find_pictures(folder))
    with untouched(folder):
        splits = open_splits(str(folder), directory=str(fresh(place)))
    parts = (splits.train, splits.validation, splits.test)
    others = [line for line in splits.skipped if "no suffix of a picture" not in line]
    assert sum(map(len, parts)) + len(others) == looked_at
    for part in parts:
        for number in range(len(part)):
            try:  # damage in the middle of a file is found when it is decoded
                assert part[number]["clean"].shape[2] == 3
            except InputError as error:
                check_message(str(error))
    for line in splits.skipped:
        check_message(line)


@pytest.mark.parametrize("name", ["add-noise", "denoise"])
def test_every_kind_goes_through_the_commands(place, tiny, capsys, name):
    folder = fresh(place)
    (folder / "in").mkdir()
    files = {**pictures(), **{f"{kind}.tif": content for kind, content in paged().items()}}
    for number, (file, content) in enumerate(files.items()):
        (folder / "in" / f"{number}_{file}").write_bytes(content)
    (folder / "in" / "deep_named.jpg").write_bytes(pictures()["deep.png"])
    options = ("--sigma", 5) if name == "add-noise" else ()
    code, errors = command(capsys, name, folder / "in", "--output", folder / "out", *options)
    assert code == 1
    assert "deep_named.jpg: can't be written (JPEG files hold 8 bits" in errors
    assert "--format png" in errors
    assert len(errors.splitlines()) == 2, errors
    for path in find_pictures(folder / "in"):
        if path.name == "deep_named.jpg":
            continue
        result = (folder / "out" / path.name).with_suffix(output_suffix(path))
        for before, after in zip(read_pages(path), read_pages(result), strict=True):
            expected = before.pixels
            if path.suffix in (".webp", ".avif"):
                expected = as_webp_keeps_it(expected)
            assert after.pixels.shape == expected.shape, path
            assert after.pixels.dtype == expected.dtype
            assert after.metadata.get("icc_profile") == before.metadata.get("icc_profile")


ODD_NAMES = [
    "schön.png",
    "two words.png",
    "new\nline.png",
    "写真.png",
    "-q.png",
    "a" * 251 + ".png",
]
NOT_TEXT = os.fsdecode(b"\xff\xfe.png")


@functools.cache
def large_png() -> bytes:
    """A picture that is large enough to be measured on."""
    return encoded(Image.effect_noise((24, 20), 80).convert("RGB"), "PNG")


def odd_folder(folder: Path) -> tuple[list[str], list[str]]:
    """A folder with names of every sort, and with what only looks like a picture: (good, bad)."""
    names = [*ODD_NAMES, *([NOT_TEXT] if sys.platform == "linux" else [])]
    for name in names:
        (folder / name).write_bytes(large_png())
    (folder / "folder.png").mkdir()
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "up").symlink_to(".")
    (folder / "below").mkdir()
    (folder / "below" / "top").symlink_to("..")
    os.mkfifo(folder / "pipe.png")
    bad = ["dangling.png", "itself.png", "pipe.png"]
    if not as_root:
        (folder / "locked.png").write_bytes(large_png())
        (folder / "locked.png").chmod(0)
        bad.append("locked.png")
    return names, bad


def test_odd_names_and_odd_files_in_a_folder(place, tiny, capsys):
    folder = fresh(place)
    (folder / "in").mkdir()
    good, bad = odd_folder(folder / "in")
    assert sorted(p.name for p in find_pictures(folder / "in")) == sorted(good + bad)
    for name, *options in (("denoise",), ("add-noise", "--sigma", 5)):
        code, errors = command(capsys, name, folder / "in", "--output", folder / name, *options)
        assert code == 1
        assert sorted(p.name for p in (folder / name).iterdir()) == sorted({NOTES, *good})
        for file in bad:
            assert f"{file}: " in errors
    splits = open_splits(str(folder / "in"), directory=str(folder / "cache"))
    assert sorted(line.split(": ")[0] for line in splits.skipped) == sorted(bad)
    assert len(splits.train) == len(good) - 2


@pytest.mark.parametrize("name", ["dangling.png", "itself.png", "pipe.png", "x" * 300, "in/a/b"])
def test_one_file_that_is_none(place, tiny, capsys, name):
    folder = fresh(place)
    (folder / "in").mkdir()
    odd_folder(folder / "in")
    (folder / "in" / "a").write_text("a file, not a folder")
    code, errors = command(capsys, "denoise", folder / "in" / name, "--output", folder / "out")
    assert code == 1
    assert name in errors
    assert not (folder / "out").exists() or not list((folder / "out").iterdir())


def test_evaluate_leaves_out_what_it_cannot_use(place, tiny, capsys):
    folder = fresh(place)
    Image.new("RGB", (16, 12), "gray").save(folder / "good.png")
    for name, (content, _) in refused().items():
        if name.startswith(("empty", "giant", "half.")):
            (folder / name).write_bytes(content)
    Image.new("RGB", (40, 3)).save(folder / "narrow.png")
    words = ("evaluate", "any", "--images", folder, "--sigma", 15, "--json", folder / "result")
    code, errors = command(capsys, *words)
    assert code == 1
    assert len(errors.splitlines()) == 6
    assert "narrow.png: is 40 x 3 pixels" in errors
    assert (folder / "result").is_file()
    (folder / "good.png").unlink()
    code, errors = command(capsys, *words)
    assert code == 2
    assert "none of the 6 pictures" in errors


def test_a_file_in_the_way_of_a_result_is_named_and_kept(place, tiny, capsys):
    folder = fresh(place)
    (folder / "in" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        (folder / "in" / name).write_bytes(pictures()["rgb.png"])
    (folder / "out").mkdir()
    (folder / "out" / "sub").write_text("mine")
    (folder / "out" / "a.png").mkdir()
    before = snapshot(folder)
    code, errors = command(capsys, "denoise", folder / "in", "--output", folder / "out")
    assert code == 1
    assert "a.png: can't be written" in errors
    assert "b.png: can't be written" in errors
    assert snapshot(folder) == before


def test_pillow_warnings_are_not_shown(place):
    """A picture of more than 89 million pixels, at which Pillow warns, is a picture like others."""
    path = place / "large.png"
    Image.new("1", (10_000, 9_000)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(path).pixels.shape == (9_000, 10_000)


def test_running_out_of_memory_is_said(place, monkeypatch, capsys):
    folder = fresh(place)
    (folder / "a.png").write_bytes(pictures()["rgb.png"])

    def denoiser(*args, **options):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    denoiser.takes_noise_level = False
    monkeypatch.setattr(networks, "load", lambda *args, **kwargs: denoiser)
    monkeypatch.setattr(networks, "default", lambda: "tiny")
    code, errors = command(capsys, "denoise", folder / "a.png", "--output", folder / "out")
    assert code == 1
    assert "a.png: not enough memory for 7 x 9 pixels" in errors
    with pytest.raises(InputError, match="can't be written"):
        write_picture(Path("/proc/nowhere/a.png"), read_picture(folder / "a.png"))
