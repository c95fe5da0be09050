"""From files to batches: splits, kinds of files, crops, and the same batches whenever asked for."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sa_flax.config import DataConfig
from sa_flax.data.builders import PHOTOGRAPHS, open_splits
from sa_flax.data.pipeline import Pictures, check_sizes, training_batches
from sa_flax.data.transforms import FlipAndRotate, TexturedCrop
from sa_flax.errors import InputError
from sa_flax.pictures import decode_rgb8, find_pictures, to_channels

CONFIG = DataConfig(crop=16, batch_size=4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def pictures(cache) -> Pictures:
    splits = open_splits("photographs", directory=cache)
    return Pictures(splits.train, splits, channels=3, cache_bytes=2**30)


def take(count: int, *args, **kwargs) -> list[np.ndarray]:
    batches = training_batches(*args, **kwargs)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def test_the_bundled_photographs(cache):
    splits = open_splits("photographs", directory=cache)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (26, 4, 6)
    names = {
        split: {record["filename"] for record in getattr(splits, split)}
        for split in ("train", "validation", "test")
    }
    assert not names["train"] & (names["test"] | names["validation"])
    record = splits.test[0]
    name = record["filename"]
    stored = np.asarray(
        Image.open(PHOTOGRAPHS / (name if isinstance(name, str) else name.decode()))
    )
    np.testing.assert_array_equal(splits.image_of(record), stored)
    total = sum(p.stat().st_size for p in PHOTOGRAPHS.iterdir())
    assert total < 4e6
    listed = (PHOTOGRAPHS / "LICENSES.tsv").read_text()
    for path in PHOTOGRAPHS.glob("*.jpg"):
        assert path.name in listed
    for line in listed.splitlines()[1:]:
        assert line.split("\t")[3].startswith(("CC0", "public domain"))


def test_batches(pictures):
    first = take(3, pictures, CONFIG, seed=0)
    again = take(3, pictures, CONFIG, seed=0)
    other = take(3, pictures, CONFIG, seed=1)
    for batch in first:
        assert batch.shape == (4, 16, 16, 3)
        assert batch.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_second_epoch_differs(pictures):
    # Batches of all 26 pictures: batch i is epoch i.
    epochs = take(2, pictures, DataConfig(crop=16, batch_size=26), seed=0)
    crops = [{crop.tobytes() for crop in epoch} for epoch in epochs]
    assert not crops[0] & crops[1]


def test_an_epoch_holds_every_picture_once():
    class Numbered(Pictures):
        def __init__(self):
            pass

        def __len__(self):
            return 12

        def __getitem__(self, index):
            rng = np.random.default_rng(index)
            return np.concatenate(
                [np.full((16, 16, 1), index), rng.integers(0, 255, (16, 16, 2))], axis=-1
            ).astype(np.uint8)

    for epoch in take(3, Numbered(), DataConfig(crop=16, batch_size=12), seed=0):
        assert sorted(epoch[:, 0, 0, 0]) == list(range(12))


def test_starting_later_goes_on_exactly(pictures):
    whole = take(6, pictures, CONFIG, seed=0)
    np.testing.assert_array_equal(take(3, pictures, CONFIG, seed=0, start=3), whole[3:])


def test_processes_share_every_batch(pictures):
    whole = take(2, pictures, CONFIG, seed=0)
    shares = [take(2, pictures, CONFIG, seed=0, process_index=i, process_count=2) for i in range(2)]
    for index, batch in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([share[index] for share in shares]), batch)
    with pytest.raises(InputError, match="multiple of 3"):
        take(1, pictures, CONFIG, seed=0, process_count=3)


def test_crops_prefer_texture():
    rng = np.random.default_rng(0)
    picture = np.full((64, 64, 1), 100, np.uint8)
    picture[:, 32:] = rng.integers(0, 255, (64, 32, 1))  # flat left half
    crop = TexturedCrop(16)
    flat = [crop.random_map(picture, rng).std() < 4 for _ in range(300)]
    # A crop is flat with probability 17/49; four tries leave (17/49)^4 = 1.4 %.
    assert np.mean(flat) < 0.06
    flat_picture = np.full((64, 64, 1), 100, np.uint8)
    assert crop.random_map(flat_picture, rng).shape == (16, 16, 1)


def test_flips_and_rotations_reach_all_eight():
    picture = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    rng = np.random.default_rng(0)
    seen = {FlipAndRotate().random_map(picture, rng).tobytes() for _ in range(200)}
    assert len(seen) == 8


def test_a_picture_smaller_than_the_crop_is_an_error():
    with pytest.raises(InputError, match=r"8 x 30 pixels, smaller.*Lower --data.crop to 8"):
        TexturedCrop(16).random_map(np.zeros((8, 30, 3), np.uint8), np.random.default_rng(0))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder as people have them: sub-folders, all sorts of files, one broken."""
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


def test_any_folder_of_images(folder, cache):
    splits = open_splits(str(folder), directory=cache)
    everything = [
        splits.image_of(r) for s in (splits.train, splits.validation, splits.test) for r in s
    ]
    assert len(everything) == 6
    assert len(splits.validation) == len(splits.test) == 1
    assert all(p.shape == (40, 50, 3) and p.dtype == np.uint8 for p in everything)
    # As worker processes get it.
    sent = pickle.loads(pickle.dumps(Pictures(splits.train, splits, channels=3)))
    np.testing.assert_array_equal(sent[1], splits.image_of(splits.train[1]))
    assert len(splits.skipped) == 1
    assert splits.skipped[0].startswith("broken.png: ")
    with pytest.raises(InputError, match="smaller than the training crop of 64 x 64"):
        check_sizes(splits, 64)
    check_sizes(splits, 40)
    # A new picture makes a new data set; the old one is not served from the cache.
    shutil.copy(folder / "rgb.png", folder / "another.png")
    assert len(open_splits(str(folder), directory=cache).train) == 5


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
    assert to_channels(decode("gray.png"), 1).shape == (40, 50, 1)
    np.testing.assert_array_equal(to_channels(decode("gray.png"), 1), rgb[..., :1])


def test_a_folder_with_its_own_splits(tmp_path, cache):
    for split, count in (("train", 3), ("validation", 1), ("test", 2)):
        (tmp_path / split).mkdir()
        for i in range(count):
            pixels = np.full((20, 20, 3), i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / f"{i}.png")
    splits = open_splits(str(tmp_path), directory=cache)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (3, 1, 2)


def test_a_tfds_set_by_name(folder, tmp_path_factory):
    """A set that was prepared elsewhere is found in the directory by its name alone."""
    from sa_flax.data.builders import ImageFolder

    data_dir = tmp_path_factory.mktemp("tfds")
    ImageFolder(folder, file_format="array_record", data_dir=str(data_dir)).download_and_prepare()
    splits = open_splits("image_folder", directory=str(data_dir))
    assert len(splits.train) == 4
    assert splits.image_of(splits.train[0]).shape == (40, 50, 3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./missing", "no folder './missing'"),
        ("photograps", "Did you mean 'photographs'"),
    ],
)
def test_sources_that_do_not_exist(source, message, cache):
    with pytest.raises(InputError, match=message):
        open_splits(source, directory=cache)


def test_folders_without_enough_pictures(tmp_path, cache):
    with pytest.raises(InputError, match="no pictures in"):
        open_splits(str(tmp_path), directory=cache)
    Image.new("RGB", (20, 20)).save(tmp_path / "one.png")
    with pytest.raises(InputError, match="at least 3"):
        open_splits(str(tmp_path), directory=cache)


def test_hidden_files_are_left_out(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / ".hidden.png")
    (tmp_path / ".thumbnails").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / ".thumbnails" / "a.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "b.png")
    assert find_pictures(tmp_path) == [tmp_path / "b.png"]


def test_the_cache_keeps_to_its_limit(cache):
    splits = open_splits("photographs", directory=cache)
    none = Pictures(splits.train, splits, channels=3)
    some = Pictures(splits.train, splits, channels=3, cache_bytes=600_000)  # one picture, not two
    assert none[0] is not none[0]
    assert some[0] is some[0]
    assert some[1] is not some[1]
    assert some.cache_used_bytes == some[0].nbytes <= some.cache_limit_bytes == 600_000
    assert none.cache_used_bytes == none.cache_limit_bytes == 0
    in_a_worker = pickle.loads(pickle.dumps(some))
    assert (in_a_worker.cache_used_bytes, in_a_worker.cache_limit_bytes) == (0, 600_000)
    assert in_a_worker[0] is in_a_worker[0]
    np.testing.assert_array_equal(none[1], some[1])
