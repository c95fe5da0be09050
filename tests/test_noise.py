"""One contract for all noise classes, and what each is for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.stats import rankdata

from sa_flax.functional.noise import (
    _through_mosaic,
    camera_noise,
    from_linear,
    noise_before_resizing,
    to_linear,
)
from sa_flax.noise import NOISES, Blind, Camera, Correlated, Gaussian, Photo, PoissonGaussian
from tests.annotations import refuses

KEY = jax.random.key(0)
resized = jax.jit(noise_before_resizing, static_argnums=0)


def _gray_card(batch: int = 4, size: int = 64, channels: int = 3) -> jax.Array:
    """Half gray with a faint edge in colour, so that it is no gray picture."""
    card = jnp.full((batch, size, size, channels), 0.5)
    return card.at[:, :, :2, 0].set(0.6)


def _statistics(residual: jax.Array) -> tuple[float, float]:
    """Correlation of neighbours in a row, and of the first two channels."""
    r = np.asarray(residual[:, :, 4:], np.float64)
    r = r - r.mean()
    neighbours = (r[:, :, 1:] * r[:, :, :-1]).mean() / (r**2).mean()
    channels = (r[..., 0] * r[..., 1]).mean() / np.sqrt(
        (r[..., 0] ** 2).mean() * (r[..., 1] ** 2).mean()
    )
    return float(neighbours), float(channels)


@pytest.mark.parametrize(
    ("kind", "channels"),
    [
        *((kind, 3) for kind in NOISES),
        *((kind, 1) for kind in NOISES if kind != "photo"),
        pytest.param("photo", 1, marks=pytest.mark.slow),  # half a minute of compiling
    ],
)
def test_contract(kind, channels):
    noise, clean = NOISES[kind](), _gray_card(channels=channels)
    assert noise.kind == kind
    assert str(noise)
    draw = jax.jit(noise)
    noisy, sigma = draw(KEY, clean)
    chex.assert_shape(noisy, clean.shape)
    assert noisy.dtype == clean.dtype
    chex.assert_tree_all_finite(noisy)
    chex.assert_trees_all_equal(noisy, draw(KEY, clean)[0])
    assert not np.array_equal(noisy, draw(jax.random.key(1), clean)[0])
    assert (sigma is not None) == noise.has_level
    if noise.has_level:
        chex.assert_shape(sigma, (4,))
        np.testing.assert_allclose(jnp.std(noisy - clean, axis=(1, 2, 3)), sigma, rtol=0.1)
    # Equal classes are equal configurations, and can be static arguments of jit.
    assert hash(noise) == hash(NOISES[kind]())


def test_levels_of_white_noise():
    _, sigma = Blind(sigma_range=(10, 50))(KEY, _gray_card())
    assert ((sigma >= 10 / 255) & (sigma <= 50 / 255)).all()
    noisy, sigma = Gaussian(sigma=25)(KEY, _gray_card())
    np.testing.assert_allclose(sigma, 25 / 255, rtol=1e-6)
    assert Gaussian(sigma=200, clip=True)(KEY, _gray_card())[0].max() == 1
    noisy, _ = PoissonGaussian(gain=4, read_noise=3)(KEY, jnp.full((4, 64, 64, 1), 0.5))
    np.testing.assert_allclose(jnp.var(noisy), 4 / 255 * 0.5 + (3 / 255) ** 2, rtol=0.1)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (Blind(sigma_range=(55.0, 0.0)), "sigma_range needs lowest <= highest; got 55 0"),
        (Correlated(blur_range=(1.0, 0.5)), "blur_range needs lowest <= highest"),
        (Gaussian(sigma=-5), "sigma can't be negative"),
        (Gaussian(sigma=float("nan")), "sigma must be a finite number"),
        (PoissonGaussian(gain=0.0), "gain must be above 0"),
        (Camera(shot_range=(0.0, 0.01)), "shot_range must be above 0"),
        (Photo(white=0.9, correlated=0.9), "white, correlated and camera are shares of one whole"),
    ],
)
def test_numbers_outside_their_limits_are_refused(noise, message):
    with refuses(message):
        noise(KEY, _gray_card())


@pytest.mark.parametrize("kind", NOISES)
def test_pictures_that_are_none(kind):
    noise = NOISES[kind]()
    with refuses(r"takes \(B, H, W, C\) pictures; got shape \(8, 8, 3\)"):
        noise(KEY, jnp.zeros((8, 8, 3)))
    with refuses("floating-point numbers; got uint8"):
        noise(KEY, np.zeros((1, 8, 8, 3), np.uint8))
    noisy, _ = jax.eval_shape(noise, KEY, jnp.zeros((0, 32, 32, 3)))
    assert noisy.shape == (0, 32, 32, 3)


@pytest.mark.parametrize("side", [1, 2, 4, 9])
def test_correlated_noise_keeps_its_level_on_small_maps(side):
    noise = Correlated((25, 25), blur_range=(1, 1), chroma_blur_range=(1, 1), shared=0)
    clean = jnp.full((4000, side, side + 1, 3), 0.5)
    noisy, _ = noise(KEY, clean)
    assert float(jnp.std(noisy - clean)) == pytest.approx(25 / 255, rel=0.03)


def test_correlated_noise_keeps_its_level():
    clean = _gray_card(size=256)
    noise = Correlated(sigma_range=(30, 30), blur_range=(1, 1), chroma_blur_range=(1, 1))
    noisy, _ = jax.jit(noise)(KEY, clean)
    np.testing.assert_allclose(jnp.std(noisy - clean, axis=(1, 2, 3)), 30 / 255, rtol=0.05)


def test_what_correlated_noise_correlates():
    clean = _gray_card(size=128)
    white = Gaussian(sigma=25)(KEY, clean)[0] - clean
    blurred = Correlated((25, 25), blur_range=(0.8, 0.8), chroma_blur_range=(0.8, 0.8), shared=0)
    shared = Correlated((25, 25), blur_range=(0, 0), chroma_blur_range=(0, 0), shared=1)
    assert max(map(abs, _statistics(white))) < 0.02
    # White noise blurred by s has correlation exp(-1 / (4 s^2)) at distance 1.
    neighbours, _ = _statistics(jax.jit(blurred)(KEY, clean)[0] - clean)
    assert neighbours == pytest.approx(np.exp(-1 / (4 * 0.8**2)), abs=0.03)
    neighbours, channels = _statistics(jax.jit(shared)(KEY, clean)[0] - clean)
    assert channels == pytest.approx(1, abs=1e-3)
    assert abs(neighbours) < 0.02


def test_a_cameras_noise_depends_on_the_light_and_clips():
    steps = jnp.repeat(jnp.linspace(0.0, 1.0, 5), 64)
    clean = jnp.broadcast_to(steps[None, None, :, None], (1, 128, 320, 3))
    noise = jax.jit(Camera(shot_range=(3e-3, 3e-3), mosaic=0, smoothing=0))
    noisy = noise(KEY, clean)[0]
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    by_step = (noisy - clean).reshape(128, 5, 64, 3).std((0, 2, 3))
    # The tone curve's slope is nearly nil at black and white; the middle is noisy.
    assert by_step[4] < by_step[2] / 2
    white = _statistics(noise(KEY, _gray_card(size=128))[0] - _gray_card(size=128))
    mosaic = jax.jit(Camera(shot_range=(3e-3, 3e-3), mosaic=1, smoothing=0))
    sampled = _statistics(mosaic(KEY, _gray_card(size=128))[0] - _gray_card(size=128))
    assert abs(white[0]) < 0.05
    assert sampled[0] > 0.2


def test_the_mixture_of_photographs():
    clean = jnp.concatenate([_gray_card(48, 32), jnp.full((16, 32, 32, 3), 0.4)])
    noisy, _ = jax.jit(Photo())(KEY, clean)
    chex.assert_trees_all_equal(noisy[48:, ..., 0], noisy[48:, ..., 1], noisy[48:, ..., 2])
    colour = noisy[:48] - clean[:48]
    assert (jnp.abs(colour[..., 0] - colour[..., 1]).max((1, 2)) > 0).sum() > 24
    deviation = colour.std((1, 2, 3)) * 255
    assert (deviation < 0.5).any(), "no clean picture among them"
    assert (deviation > 25).any()
    in_8_bits = jnp.abs(noisy * 255 - jnp.round(noisy * 255)).max((1, 2, 3)) < 1e-3
    assert 5 < in_8_bits.sum() < 50, "not some compressed, and some not"


def test_shares_of_the_mixture():
    clean = _gray_card(32, 16)
    nothing = {"white": 0, "correlated": 0, "camera": 0, "resized": 0}
    chex.assert_trees_all_equal(jax.jit(Photo(**nothing, jpeg=0))(KEY, clean)[0], clean)
    compressed = jax.jit(Photo(**nothing, jpeg=1))(KEY, clean)[0]
    np.testing.assert_allclose(compressed * 255, jnp.round(compressed * 255), atol=1e-3)


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.0, 1.6])
def test_noise_is_resized_as_pillow_does(factor):
    field = np.asarray(jax.random.normal(KEY, (80, 80)))
    gray = jnp.full((1, 40, 40, 1), 0.5)
    noisy = resized(lambda x: x + field[None, ..., None], gray, factor)
    size = round(80 * factor)
    expected = Image.fromarray(field).resize((size, size), Image.Resampling.BICUBIC)
    np.testing.assert_allclose((noisy - gray)[0, ..., 0], np.asarray(expected)[:40, :40], atol=1e-4)


def test_what_is_drawn_for_a_camera_is_drawn_apart(monkeypatch):
    """Every two quantities are independent, and fill their ranges."""
    drawn = {}

    def look(key, clean, shot, read, *, white_balance, **others):
        excess = jnp.log(read**2) - 2.18 * jnp.log(shot)
        drawn.update(others, shot=shot, excess=excess, red=white_balance[:, 0])
        drawn["blue"] = white_balance[:, 2]
        return clean

    monkeypatch.setattr("sa_flax.functional.noise.camera_noise", look)
    count = 4000
    Camera(smoothing=1)(KEY, jnp.zeros((count, 1, 1, 3)))
    values = np.stack([np.asarray(value, np.float64) for value in drawn.values()])
    between = np.corrcoef(rankdata(values, axis=1)) - np.eye(len(values))
    assert np.abs(between).max() < 5 / np.sqrt(count)
    assert 0.14 < drawn["chroma_kept"].max() <= 0.16
    assert drawn["luma_blur"].min() < 0.32
    assert drawn["luma_blur"].max() > 2.9


def test_red_and_blue_by_their_difference_from_green_share_its_fine_noise():
    field = jax.random.normal(KEY, (4000, 8, 8, 3))
    seen = _through_mosaic(field, 1.0)
    # At a site of red, between two and among four; worked out from the weights of either mean.
    expected = {(2, 2): 1, (2, 3): 1 / 2 + 9 / 16 + 6 / 64, (3, 3): 1 / 4 + 4 / 64 + 8 / 256}
    for (row, column), power in expected.items():
        assert jnp.var(seen[:, row, column, 0]) == pytest.approx(power, rel=0.1)
    chex.assert_trees_all_equal(seen[..., 1], _through_mosaic(field)[..., 1])
    by_itself = _through_mosaic(field)
    for channel in (0, 2):
        together = [
            jnp.corrcoef(x[..., 1].ravel(), x[..., channel].ravel())[0, 1]
            for x in (by_itself, seen)
        ]
        assert abs(together[0]) < 0.02
        assert together[1] > 0.2


@pytest.mark.parametrize("contrast", [0, 1])
def test_a_cameras_noise_is_scaled_by_its_curve(contrast):
    """Faint noise by the slope from light to the picture's values, here by differences."""
    values, step = jnp.asarray([0.1, 0.4, 0.8]), 1e-3
    clean = jnp.broadcast_to(values[None, None, :, None], (1, 20_000, 3, 1))
    shot = 1e-6
    noisy = camera_noise(KEY, clean, shot, 0.0, contrast=float(contrast))
    to, back = (
        (to_linear, from_linear) if contrast else (lambda x: x**2.2, lambda x: x ** (1 / 2.2))
    )
    light = to(values)
    slope = (back(light + step * light) - back(light - step * light)) / (2 * step * light)
    np.testing.assert_allclose(
        (noisy - clean).std((0, 1, 3)), jnp.sqrt(shot * light) * slope, rtol=0.03
    )


@pytest.mark.parametrize("sides", [(8, 8), (9, 9), (8, 9), (9, 8)])
def test_the_mosaic_has_the_power_of_its_sites_at_every_edge(sides):
    field = jax.random.normal(KEY, (4000, *sides, 3))
    power = np.asarray(jnp.var(_through_mosaic(field), axis=0))
    # Where a colour has its own site, all of it; between two or four of those, a half or a quarter.
    red = np.array([[1, 0.5], [0.5, 0.25]])
    expected = np.tile(red, (5, 5))[: sides[0], : sides[1]]
    np.testing.assert_allclose(power[..., 0], expected, rtol=0.15)


def test_a_cameras_noise_has_gradients_at_black_and_white():
    values = jnp.asarray([0.0, 1e-9, 1e-8, 3e-8, 1e-6, 0.5, 1 - 1e-6, 1 - 6e-8, 1.0])
    slope = jax.grad(lambda x: to_linear(x).sum())(values)
    assert jnp.isfinite(slope).all()
    assert slope[5] > 0.5
    chex.assert_trees_all_close(from_linear(to_linear(values)), values, atol=2e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_light_is_computed_in_float32(dtype):
    values = jnp.asarray([1e-4, 1e-3, 0.1, 0.9], dtype)
    light = to_linear(values)
    assert light.dtype == dtype
    exact = to_linear(values.astype(jnp.float32))
    np.testing.assert_allclose(light.astype(jnp.float32), exact, rtol=4e-3)
    slope = jax.grad(lambda x: to_linear(x).astype(jnp.float32).sum())(values)
    assert jnp.isfinite(slope).all()


@pytest.mark.parametrize("function", [to_linear, from_linear])
def test_light_of_whole_numbers_is_refused(function):
    with refuses("floating-point numbers; got uint8"):
        function(np.full((4, 4, 3), 128, np.uint8))


def test_what_a_camera_leaves_of_its_noise():
    """Fine noise is taken away and sharpening adds to it; in colour hardly any but blotches."""
    draw = jax.jit(camera_noise)  # one compilation for all
    card, one = _gray_card(1, 128), jnp.ones(1)

    def left(blur, kept, *, luma):
        blurs = {"luma_blur": blur * one, "luma_kept": kept * one}
        still = {"chroma_blur": 0 * one, "chroma_kept": one}
        if not luma:
            blurs = {name.replace("luma", "chroma"): value for name, value in blurs.items()}
            still = {name.replace("chroma", "luma"): value for name, value in still.items()}
        noise = draw(KEY, card, 1e-3 * one, 0.0 * one, **blurs, **still) - card
        mean = noise.mean(-1, keepdims=True)
        return mean if luma else noise - mean

    for luma in (True, False):
        as_it_was = left(0, 1, luma=luma)
        chex.assert_trees_all_close(left(3, 1, luma=luma), as_it_was, atol=1e-6)
        # A Gaussian blur by s leaves 1 / (4 pi s^2) of the power of white noise.
        blotches = left(2, 0, luma=luma)
        share = jnp.var(blotches) / jnp.var(as_it_was)
        assert share == pytest.approx(1 / (4 * np.pi * 2**2), rel=0.2)
        half = left(2, 0.5, luma=luma)
        chex.assert_trees_all_close(half, (as_it_was + blotches) / 2, atol=1e-6)


def test_blocks_begin_anywhere_in_pictures_that_were_cropped():
    only = {"white": 1, "correlated": 0, "camera": 0, "resized": 0, "jpeg": 1}
    photo = Photo(**only, quality_range=(20, 20), cropped=0.5)
    noisy = np.asarray(jax.jit(photo)(KEY, _gray_card(32))[0])[..., 1]
    edges = np.abs(np.diff(noisy, axis=2)).mean(1)  # (32, 63): the highest between two blocks
    first = [int(np.argmax([e[start::8].mean() for start in range(8)])) for e in edges]
    aligned = first.count(7)
    assert 10 <= aligned <= 24
    assert len(set(first)) >= 5


def test_each_picture_is_resized_by_its_own_factor_and_keeps_its_detail():
    clean = jax.random.uniform(KEY, (2, 16, 16, 3))
    factors = jnp.array([0.5, 1.6])
    chex.assert_trees_all_equal(resized(lambda x: x, clean, factors), clean)

    def add(x):
        return x + jax.random.normal(KEY, x.shape[1:])[None]

    both = resized(add, clean, factors)
    for index in range(2):
        alone = resized(add, clean[index : index + 1], factors[index])
        np.testing.assert_allclose(both[index], alone[0], atol=1e-5)


def test_some_of_the_mixture_are_resized():
    only = {"white": 1, "correlated": 0, "camera": 0, "clipped": 0, "jpeg": 0}
    photo = jax.jit(Photo(**only, resized=0.25, resized_by=(1.6, 1.6)))

    def is_resized(noisy, clean):  # larger than they were: neighbours are alike
        return [_statistics(n[None] - c[None])[0] > 0.3 for n, c in zip(noisy, clean, strict=True)]

    # A quarter of a batch, and one of four that come alone. Gray ones stay gray.
    clean = _gray_card(8, 32).at[0].set(0.4)
    noisy, _ = photo(KEY, clean)
    assert is_resized(noisy, clean) == [True, True] + 6 * [False]
    chex.assert_trees_all_equal(noisy[0, ..., 0], noisy[0, ..., 1], noisy[0, ..., 2])
    alone = [photo(jax.random.key(seed), clean[:1])[0] for seed in range(40)]
    assert 3 < sum(is_resized(jnp.concatenate(alone), 40 * [clean[0]])) < 20


def test_the_mixture_is_computed_once():
    """XLA drew all of it again for the first channel, which is the noise of gray pictures."""
    only = {"white": 0, "correlated": 0, "camera": 1, "jpeg": 0, "resized": 0}

    def operations(noise):
        return jax.jit(noise).lower(KEY, _gray_card()).compile().cost_analysis()["flops"]

    assert operations(Photo(**only)) < 1.1 * operations(Camera())
