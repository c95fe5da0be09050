"""Tiles: whatever their size, the result is what the network makes of the whole picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sa_flax
from sa_flax.inference import tiling
from sa_flax.inference.tiling import Overlap, Planner, denoise_in_tiles
from tests.inference.test_rows_over_devices import network
from tests.slow import some_slow

MASKS = ["cbam", "dual", "eca", "sge", "shuffle", "squeeze_excite"]
AFFINITIES = ["danet", "non_local", "self_attention"]


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth and textured parts, so that regions differ as a photograph's do."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = 0.4 + 0.3 * np.sin(x / 17 + y / 29) * np.cos(y / 11)
    noise = np.random.default_rng(0).normal(0, 0.1, (height, width, channels))
    return np.clip(waves[..., None] + noise, 0, 1).astype(np.float32)


def whole(model: nnx.Module, x: np.ndarray) -> np.ndarray:
    graphdef, state = nnx.split(model)
    y = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x[None])[0]
    return np.clip(np.asarray(y), 0, 1)


def in_tiles_of(*sides: int, monkeypatch) -> None:
    """Lets denoisers that have not worked yet choose among these sides alone, at any cost."""
    monkeypatch.setattr(Planner, "_rounded", lambda self, usual: np.array(sorted(sides)))
    monkeypatch.setattr(tiling, "_ENOUGH", 10**9)


NETWORKS = {
    "U-Net of 3 levels": lambda: network("none", width=4),
    "U-Net of 2 levels": lambda: network("none", width=4, levels=2, blocks=2),
    "DnCNN": lambda: sa_flax.create_model(
        "dncnn", channels=3, depth=5, width=6, batch_norm=False, rngs=nnx.Rngs(0)
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(150, 131), (64, 33), (17, 200), (1, 1), (3, 130)])
def test_without_attention_tiles_are_exact(name, size, monkeypatch):
    model, noisy = NETWORKS[name](), picture(*size)
    denoiser = sa_flax.Denoiser(model)
    in_tiles_of(96, monkeypatch=monkeypatch)
    calls = []
    clean = denoiser(noisy, report=lambda done, total: calls.append((done, total)))
    # float32; the same sums in another order at most.
    np.testing.assert_allclose(clean, whole(model, noisy), atol=2e-6)
    if max(size) > 96:
        assert len(calls) > 1, "a single tile: nothing is shown"
    assert calls == [(i + 1, len(calls)) for i in range(len(calls))]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_receptive_radius_is_true_and_tight(name):
    """NaN in one pixel spreads as far as it says, and not much less."""
    model = NETWORKS[name]()
    x = np.zeros((1, 129, 129, 3), np.float32)
    x[0, 64, 64] = np.nan
    touched = np.argwhere(np.isnan(np.asarray(model(jnp.asarray(x))))[0].any(axis=-1)) - 64
    assert np.abs(touched).max() <= model.receptive_radius
    assert np.abs(touched).max() >= model.receptive_radius - 2 * getattr(model, "stride", 1)


@pytest.mark.parametrize("kind", ["cbam", "dual"])
def test_a_spatial_gate_looks_further(kind):
    plain, gated = network("none", width=4), network(kind, width=4)
    # 7 x 7 in cbam and 5 x 5 in dual, at every block: two of each but the lowest of three levels.
    assert gated.receptive_radius - plain.receptive_radius == (3 if kind == "cbam" else 2) * 10


@pytest.mark.parametrize("kind", MASKS)
def test_pooled_statistics_are_of_the_picture_alone(kind):
    """On a canvas larger than the picture nothing of the canvas counts."""
    model, noisy = network(kind, width=8, levels=2), picture(61, 90)
    denoiser = sa_flax.Denoiser(model)
    np.testing.assert_allclose(denoiser(noisy), whole(model, noisy), atol=1e-5)
    assert denoiser._engine._on_tile._cache_size() == 1


@pytest.mark.parametrize("kind", some_slow(MASKS, "shuffle", "cbam", "dual"))
def test_tiles_share_statistics_close_to_the_wholes(kind, monkeypatch):
    model, noisy = network(kind, width=8, levels=2), picture(320, 256)
    denoiser = sa_flax.Denoiser(model)
    in_tiles_of(128, monkeypatch=monkeypatch)
    tiled, exact = denoiser(noisy), whole(model, noisy)
    # Random gates, far stronger than trained ones; sixteen parts of 32 x 32 of 320 x 256.
    error = np.abs(tiled - exact)
    assert error.mean() < 0.02
    # The same statistics everywhere: no seam differs from what is beside it.
    columns = np.abs(np.diff(tiled - exact, axis=1)).mean(axis=(0, 2))
    assert columns.max() < 5 * np.median(columns) + 1e-6
    # Statistics of the whole in place of the parts', and the tiles are exact.
    whole_parts = lambda picture, tile, convert: convert(picture)[None]  # noqa: E731
    monkeypatch.setattr(denoiser._engine, "_parts", whole_parts)
    np.testing.assert_allclose(denoiser(noisy), exact, atol=1e-5)


# The second picture is lower than a tile: of what is beyond it the windows see nothing.
@pytest.mark.parametrize(
    ("kind", "size", "window"), [("sge", (300, 130), (8, 8)), ("shuffle", (60, 300), (16, 16))]
)
def test_a_window_is_exact_in_tiles(kind, size, window, monkeypatch):
    model, noisy = network(kind, width=8, levels=2), picture(*size)
    whole_of_it = sa_flax.Denoiser(model, window=window)(noisy)
    denoiser = sa_flax.Denoiser(model, window=window, memory="1MB")
    in_tiles_of(130, 192, monkeypatch=monkeypatch)
    calls = []
    clean = denoiser(noisy, report=lambda *call: calls.append(call))
    assert len(calls) > 1
    np.testing.assert_allclose(clean, whole_of_it, atol=1e-5)


def test_wide_windows_of_many_layers_are_nearly_exact_in_tiles(monkeypatch):
    """Overlapping by all of them together would leave nothing of a tile, and took gigabytes."""
    model = network("squeeze_excite", width=8, levels=3, attend="both").with_window((128, 128))
    assert model.receptive_radius > 256 > 128 > model.effective_radius > 64
    noisy = picture(480, 130)
    whole_of_it = sa_flax.Denoiser(model)(noisy)
    denoiser = sa_flax.Denoiser(model, memory="1MB")
    assert denoiser._engine.radius == model.effective_radius
    in_tiles_of(136, 320, monkeypatch=monkeypatch)
    calls = []
    clean = denoiser(noisy, report=lambda *call: calls.append(call))
    assert len(calls) > 1
    np.testing.assert_allclose(clean, whole_of_it, atol=2e-5)


@pytest.mark.slow
def test_tiles_of_the_shipped_gray_are_the_whole_to_a_hundredth_of_a_level(monkeypatch):
    noisy = picture(800, 168, channels=1)[..., 0]
    whole_of_it = sa_flax.Denoiser.from_pretrained("gray")(noisy)
    denoiser = sa_flax.Denoiser.from_pretrained("gray", memory="1MB")
    assert denoiser._engine.radius < 256 < denoiser.model.receptive_radius
    in_tiles_of(168, 400, monkeypatch=monkeypatch)
    calls = []
    clean = denoiser(noisy, report=lambda *call: calls.append(call))
    assert len(calls) > 1
    assert 0 < 255 * np.abs(clean - whole_of_it).max() < 0.01


@pytest.mark.parametrize("kind", some_slow(AFFINITIES, AFFINITIES[0]))
def test_attention_between_all_positions(kind, monkeypatch):
    model, noisy = network(kind, width=8, levels=2, attend="encoder"), picture(150, 24)
    whole_of_it = sa_flax.Denoiser(model)(noisy)
    np.testing.assert_allclose(whole_of_it, whole(model, noisy), atol=1e-5)
    denoiser = sa_flax.Denoiser(model, memory="1MB")
    in_tiles_of(112, monkeypatch=monkeypatch)
    calls = []
    clean = denoiser(noisy, report=lambda *call: calls.append(call))
    assert len(calls) > 1
    rows = np.abs(np.diff(clean - whole_of_it, axis=0)).mean(axis=(1, 2))
    assert rows.max() < 4 * np.median(rows) + 1e-5, "a seam"


def test_identical_tiles_stay_identical_where_they_are_faded():
    """The weights of a blend sum to exactly one."""
    overlap = Overlap.of(3, 2, ramp=10)
    plan = overlap.plan(200, 330, (64, 48))
    result = np.full((200, 330, 1), np.nan, np.float32)
    value = np.float32(0.1) + np.float32(2**-20)

    def write(first, rows):
        result[first : first + len(rows)] = rows

    denoise_in_tiles(
        plan, lambda r, c: np.full((64, 48, 1), value), lambda x: x, write, lambda: None
    )
    np.testing.assert_array_equal(result, value)


@pytest.mark.parametrize("radius", [0, 5, 28])
@pytest.mark.parametrize("ramp", [0, 16])
@pytest.mark.parametrize("stride", [1, 8])
def test_every_pixel_comes_from_where_a_tile_is_exact(radius, ramp, stride):
    overlap = Overlap.of(radius, stride, ramp=ramp)
    for length in (8, 96, 104, 480, 1000):
        spans = overlap.spans(length, 96)
        covered = 0
        for span, following in zip(spans, [*spans[1:], None], strict=True):
            assert span.start % stride == 0
            assert span.start + min(96, length) <= length
            assert span.low == covered
            until = length if following is None else following.high
            assert span.low - span.start >= (radius if span.start else 0)
            end = span.start + 96
            assert end >= length or end - until >= radius
            covered = length if following is None else following.low
        assert covered == length


def test_few_sizes_are_compiled_for_many_pictures():
    denoiser = sa_flax.Denoiser(network("none", width=4, levels=2))
    for index in range(40):
        denoiser(picture(40 + index, 60 + 2 * index % 37))
    assert denoiser._engine._on_tile._cache_size() <= 2


SIZES = [(128 + i, 160 + 2 * i % 37) for i in range(100)]


@pytest.mark.parametrize("order", ["larger and larger", "smaller and smaller", "mixed"])
def test_a_hundred_sizes_cost_little_more_than_their_pixels(order):
    sizes = SIZES if order == "larger and larger" else SIZES[::-1]
    if order == "mixed":
        sizes = [sizes[i] for i in np.random.default_rng(0).permutation(100)]
    planner, tiles, cost = Planner(Overlap.of(53, 8)), set(), 0
    for height, width in sizes:
        plan = planner.plan(height + -height % 8, width + -width % 8, room=2e9, per_pixel=288)
        tiles.add(plan.tile)
        cost += plan.cost
    assert len(tiles) <= 2
    assert cost < 1.6 * sum(height * width for height, width in sizes)


def test_a_size_is_taken_up_once_it_would_have_paid():
    planner = Planner(Overlap.of(53, 8))
    chosen = [planner.plan(64, 64, room=2e9, per_pixel=288).tile for _ in range(40)]
    assert chosen[0] == (192, 192)
    first = chosen.index((64, 64))
    assert (first - 1) * (192**2 - 64**2) <= tiling._COMPILING < (first + 1) * (192**2 - 64**2)
    assert set(chosen[first:]) == {(64, 64)}
    # What suits all pictures of a mixture, not the one that was seen last.
    planner = Planner(Overlap.of(53, 8))
    for width in [480, 320, 440] * 20:
        planner.plan(320, width, room=2e9, per_pixel=288)
    assert planner.plan(320, 360, room=2e9, per_pixel=288).tile == (320, 480)


def test_the_planner_goes_by_memory_and_by_cost():
    planner = Planner(Overlap.of(53, 8))
    roomy = planner.plan(4000, 6000, room=2e9, per_pixel=288)
    assert roomy.cost < 1.35 * 4000 * 6000
    tight = Planner(Overlap.of(53, 8)).plan(4000, 6000, room=2e8, per_pixel=288)
    assert 2 * tight.tile[0] * tight.tile[1] * 288 + 16 * tight.tile[0] * 6000 <= 2e8
    # Less than there is for any: the smallest tiles, not an error.
    assert Planner(Overlap.of(53, 8)).plan(4000, 6000, room=0, per_pixel=288).tile == (160, 160)
    # A whole picture needs larger tiles where statistics are of the whole.
    assert (
        Planner(Overlap.of(53, 8), whole=True).plan(2000, 3000, room=9e9, per_pixel=288).count == 1
    )


@pytest.mark.parametrize("shape", [(70, 50), (70, 50, 4), (2, 70, 50, 1)])
def test_channels_batches_and_kinds_in_tiles(shape, monkeypatch):
    for channels in (1, 3):
        model = network("none", width=4, levels=2, channels=channels)
        denoiser = sa_flax.Denoiser(model)
        noisy = (np.random.default_rng(0).random(shape) * 65535).astype(">u2")
        single, denoiser = denoiser(noisy), sa_flax.Denoiser(model)
        in_tiles_of(48, monkeypatch=monkeypatch)
        calls = []
        again = denoiser(noisy, report=lambda *call, calls=calls: calls.append(call))
        monkeypatch.undo()
        assert again.dtype == noisy.dtype
        assert np.abs(again.astype(int) - single.astype(int)).max() <= 1
        assert calls[-1][0] == calls[-1][1] == len(calls)


def test_a_report_can_stop_it(monkeypatch):
    denoiser = sa_flax.Denoiser(network("none", width=4, levels=2))
    in_tiles_of(48, monkeypatch=monkeypatch)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        denoiser(picture(200, 200), report=stop)
