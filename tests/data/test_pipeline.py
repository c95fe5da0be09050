"""From examples to batches: crops, channels, the cache, and the same batches whenever asked for."""

import dataclasses
import pickle

import numpy as np
import pytest

from sa_flax.config import DataConfig
from sa_flax.data.builders import open_splits
from sa_flax.data.pipeline import Pictures, to_channels, training_batches
from sa_flax.data.transforms import FlipAndRotate, TexturedCrop
from sa_flax.errors import InputError

CONFIG = DataConfig(crop=16, batch_size=4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def pictures(cache) -> Pictures:
    splits = open_splits("photographs", directory=cache)
    return Pictures(splits.train, channels=3, cache_bytes=2**30)


def take(count: int, *args, **kwargs) -> list[np.ndarray]:
    """The first batches; of clean pictures alone."""
    batches = training_batches(*args, **kwargs)
    taken = [next(batches)["clean"] for _ in range(count)]
    batches.close()
    return taken


def test_batches(pictures):
    first = take(3, pictures, CONFIG, seed=0)
    again = take(3, pictures, CONFIG, seed=0)
    other = take(3, pictures, CONFIG, seed=1)
    for batch in first:
        assert batch.shape == (4, 16, 16, 3)
        assert batch.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    smaller = dataclasses.replace(CONFIG, scales=(0.5, 0.5))
    assert not np.array_equal(first, take(3, pictures, smaller, seed=0))


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
            noise = rng.integers(0, 255, (16, 16, 2))
            picture = np.concatenate([np.full((16, 16, 1), index), noise], axis=-1)
            return {"clean": picture.astype(np.uint8)}

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
    flat = [crop.random_map({"clean": picture}, rng)["clean"].std() < 4 for _ in range(300)]
    # A crop is flat with probability 17/49; four tries leave (17/49)^4 = 1.4 %.
    assert np.mean(flat) < 0.06
    flat_picture = {"clean": np.full((64, 64, 1), 100, np.uint8)}
    assert crop.random_map(flat_picture, rng)["clean"].shape == (16, 16, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_at_several_scales(channels):
    """Of a ramp: its slope says how much smaller the picture was made."""
    picture = np.broadcast_to(np.arange(0, 240, 2, np.uint8)[:, None, None], (120, 80, channels))
    crop, rng = TexturedCrop(32, scales=(0.5, 1.0), flat=0), np.random.default_rng(0)
    slopes = []
    for _ in range(100):
        made = crop.random_map({"clean": picture}, rng)["clean"]
        assert made.shape == (32, 32, channels)
        slopes.append((float(made[24, 5, 0]) - float(made[8, 5, 0])) / 16)
    assert 2 <= min(slopes) < 2.2
    assert 3.7 < max(slopes) <= 4.1
    # No smaller than it fits, and without the option as it always was.
    small = {"clean": picture[:40, :40]}
    assert TexturedCrop(32, scales=(0.1, 0.1)).random_map(small, rng)["clean"].shape[:2] == (32, 32)
    again, plain = (TexturedCrop(32, **options) for options in ({"scales": (1.0, 1.0)}, {}))
    np.testing.assert_array_equal(
        again.random_map(small, np.random.default_rng(1))["clean"],
        plain.random_map(small, np.random.default_rng(1))["clean"],
    )


def test_flips_and_rotations_reach_all_eight():
    picture = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    rng = np.random.default_rng(0)
    turned = [
        FlipAndRotate().random_map({"clean": picture, "noisy": 9 - picture}, rng)
        for _ in range(200)
    ]
    assert len({example["clean"].tobytes() for example in turned}) == 8
    for example in turned:
        np.testing.assert_array_equal(example["clean"] + example["noisy"], 9)


def test_a_picture_smaller_than_the_crop_is_an_error():
    small = {"clean": np.zeros((8, 30, 3), np.uint8)}
    with pytest.raises(InputError, match=r"8 x 30 pixels, smaller.*Lower --data.crop to 8"):
        TexturedCrop(16).random_map(small, np.random.default_rng(0))


def test_channels(pictures):
    rgb = pictures[0]["clean"]
    assert to_channels(rgb, 3) is rgb
    gray = to_channels(rgb, 1)
    assert gray.shape == (*rgb.shape[:2], 1)
    np.testing.assert_allclose(gray[..., 0], rgb @ [0.299, 0.587, 0.114], atol=1)


def test_the_cache_keeps_to_its_limit(cache):
    splits = open_splits("photographs", directory=cache)
    none = Pictures(splits.train, channels=3)
    some = Pictures(splits.train, channels=3, cache_bytes=600_000)  # one picture, not two
    assert none[0] is not none[0]
    assert some[0] is some[0]
    assert some[1] is not some[1]
    assert some.cache_used_bytes == some[0]["clean"].nbytes <= some.cache_limit_bytes == 600_000
    assert none.cache_used_bytes == none.cache_limit_bytes == 0
    in_a_worker = pickle.loads(pickle.dumps(some))
    assert (in_a_worker.cache_used_bytes, in_a_worker.cache_limit_bytes) == (0, 600_000)
    assert in_a_worker[0] is in_a_worker[0]
    np.testing.assert_array_equal(none[1]["clean"], some[1]["clean"])
