"""jpeg_compress against Pillow's libjpeg, and its contract."""

import io

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sa_flax.data.builders import PHOTOGRAPHS
from sa_flax.functional import jpeg_compress
from sa_flax.functional.jpeg import _CHROMA, _LUMA, _table


def _photograph(channels: int) -> np.ndarray:
    picture = Image.open(PHOTOGRAPHS / "budgie-perched-osprey.jpg").crop((40, 30, 241, 163))
    return np.asarray(picture.convert("L" if channels == 1 else "RGB")).reshape(133, 201, channels)


def _by_pillow(picture: np.ndarray, quality: int, subsampling: str) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture.squeeze()).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file)).reshape(picture.shape).astype(np.float32)


@pytest.mark.parametrize("quality", [30, 35, 50, 75, 90, 100])
@pytest.mark.parametrize(("channels", "subsampling"), [(1, "4:4:4"), (3, "4:4:4"), (3, "4:2:0")])
def test_against_libjpeg(channels, subsampling, quality):
    picture = _photograph(channels)
    theirs = _by_pillow(picture, quality, subsampling)
    x = jnp.asarray(picture[None] / np.float32(255))
    ours = 255 * jpeg_compress(x, quality, subsampling=subsampling)[0]
    np.testing.assert_allclose(ours, jnp.round(ours), atol=1e-3)
    # libjpeg rounds inside its integer DCT; where that tips a coefficient to the next step, the
    # whole block differs, and seldom: the mean says how alike the two are.
    difference = np.abs(ours - theirs)
    assert difference.mean() < 0.7
    compression = np.sqrt(np.mean((picture - theirs) ** 2))
    assert np.sqrt(np.mean(difference**2)) < 0.25 * compression + 0.5


@pytest.mark.parametrize("quality", range(1, 101))
def test_tables_are_libjpegs(quality):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    theirs = Image.open(file).quantization
    for number, table in enumerate((_LUMA, _CHROMA)):
        ours = _table(jnp.asarray([float(quality)]), table)[0]
        np.testing.assert_array_equal(np.asarray(ours).ravel(), theirs[number])


def test_every_picture_has_its_quality():
    x = jnp.asarray(_photograph(3)[None] / np.float32(255))
    both = jpeg_compress(jnp.concatenate([x, x]), jnp.array([20.0, 95.0]))
    chex.assert_trees_all_close(both[:1], jpeg_compress(x, 20), atol=1e-6)
    chex.assert_trees_all_close(both[1:], jpeg_compress(x, 95), atol=1e-6)
    assert jnp.mean((both[0] - x[0]) ** 2) > 3 * jnp.mean((both[1] - x[0]) ** 2)


def test_gray_stays_gray_and_jit_changes_nothing():
    x = jnp.repeat(jnp.asarray(_photograph(1)[None] / np.float32(255)), 3, axis=-1)
    y = jax.jit(jpeg_compress)(x, 60.0)
    chex.assert_shape(y, x.shape)
    chex.assert_trees_all_equal(y[..., 0], y[..., 1], y[..., 2])
    chex.assert_trees_all_close(y, jpeg_compress(x, 60.0), atol=1.5 / 255)


def test_what_jpeg_does_not_hold():
    with pytest.raises(ValueError, match="JPEG holds"):
        jpeg_compress(jnp.zeros((1, 8, 8, 2)), 90)
    with pytest.raises(ValueError, match="4:2:2"):
        jpeg_compress(jnp.zeros((1, 8, 8, 3)), 90, subsampling="4:2:2")
