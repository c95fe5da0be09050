"""The Pallas kernel, interpreted on the CPU, against the textbook form."""

import contextlib
import functools
import inspect

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from sa_flax.functional import ShuffleAttentionParams, pallas_shuffle_attention, shuffle_attention
from sa_flax.functional import pallas_gpu_shuffle_attention as gpu

textbook = functools.partial(shuffle_attention, groups=2, implementation="textbook")
kernel = functools.partial(shuffle_attention, groups=2, implementation="pallas")


def draw(shape=(2, 5, 6, 16), dtype=jnp.float32):
    rng = np.random.default_rng(0)
    k = shape[-1] // 4
    vectors = (jnp.asarray(rng.standard_normal(k), jnp.float32) for _ in range(6))
    return jnp.asarray(rng.standard_normal(shape) + 2, dtype), ShuffleAttentionParams(*vectors)


def test_blocks_of_channels_give_the_same(monkeypatch):
    """Fast memory for two pairs of channels of eight, so that each picture takes four programs."""
    primals = draw()
    pair = 2 * 30 * (2 * 4 + 2 * 4)
    monkeypatch.setattr(pallas_shuffle_attention, "_FAST_MEMORY", 2 * pair)
    assert pallas_shuffle_attention._channels_per_program(primals[0]) == 2
    chex.assert_trees_all_close(kernel(*primals), textbook(*primals), rtol=1e-5, atol=1e-5)


def test_gradient_forward_mode_and_vmap():
    x, params = draw()
    loss = lambda f: lambda x, p: jnp.sum(jnp.sin(f(x, p)))  # noqa: E731
    make = lambda f: (  # noqa: E731
        jax.grad(loss(f), argnums=(0, 1))(x, params),
        jax.jvp(f, (x, params), (x, params)),
        jax.vmap(jax.grad(loss(f)), in_axes=(0, None))(jnp.stack([x, 2 * x]), params),
    )
    expected, got = (jax.jit(lambda f=f: make(f))() for f in (textbook, kernel))
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16():
    x, params = draw(dtype=jnp.bfloat16)
    out = kernel(x, params)
    assert out.dtype == jnp.bfloat16
    exact = textbook(x.astype(jnp.float32), params)
    chex.assert_trees_all_close(out.astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)


def test_says_what_to_do_where_the_map_does_not_fit():
    x, params = draw()
    large = jax.ShapeDtypeStruct((1, 2048, 2048, 16), x.dtype)
    with pytest.raises(ValueError, match=r"2048 x 2048 float32 .*implementation='fused'"):
        jax.eval_shape(kernel, large, params)


def test_lowers_for_tpus():
    x, params = draw((2, 8, 8, 16))
    jax.export.export(jax.jit(kernel), platforms=("tpu",))(x, params)


# --- The kernel for GPUs ------------------------------------------------------------------------

needs_triton = pytest.mark.skipif(gpu.triton() is None, reason="this JAX has no Triton back end")


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """JAX says that it has a GPU, so that the GPU's kernel is what it interprets on the CPU.

    Compiled functions are forgotten before and after, as the answer is not part of their key.
    """
    jax.clear_caches()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    yield
    jax.clear_caches()


@needs_triton
@pytest.mark.filterwarnings("ignore:.*[Tt]riton:DeprecationWarning")
@pytest.mark.parametrize("shape", [(2, 5, 6, 16), (1, 20, 33, 20), (3, 1, 1, 4), (1, 16, 32, 48)])
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_gpu_kernel_computes_the_same(shape, dtype):
    """Blocks of positions and of channels that are full, and that are cut off.

    Tolerance: roundings of sums of up to 660 terms, or of the result to bfloat16.
    """
    with jax.enable_x64(dtype == jnp.float64):
        rng = np.random.default_rng(0)
        wide = jnp.promote_types(dtype, jnp.float32)
        x = jnp.asarray(rng.standard_normal(shape) + 2, dtype)
        vectors = jnp.asarray(rng.standard_normal((3, shape[-1])), wide)
        out, mean, offset, variance = gpu.gpu_forward(x, vectors, epsilon=1e-5, interpret=True)
        expected = pallas_shuffle_attention.pallas_forward(x, vectors, epsilon=1e-5)
        assert out.dtype == dtype
        tolerance = {jnp.float64: 1e-12, jnp.float32: 1e-5, jnp.bfloat16: 2**-7}[dtype]
        chex.assert_trees_all_close(
            (out.astype(wide), mean + offset, variance),
            (expected[0].astype(wide), expected[1] + expected[2], expected[3]),
            rtol=tolerance,
            atol=tolerance,
        )


@needs_triton
@pytest.mark.filterwarnings("ignore:.*[Tt]riton:DeprecationWarning")
def test_gpu_kernel_gradient(as_on_a_gpu):
    x, params = draw()
    loss = lambda f: lambda x, p: jnp.sum(jnp.sin(f(x, p)))  # noqa: E731
    expected, got = (jax.grad(loss(f), argnums=(0, 1))(x, params) for f in (textbook, kernel))
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-4)


def on_an_abstract_gpu():
    """Releases of JAX from 0.12 on ask which GPU they lower for; where none is, for one by name."""
    if "platform" not in inspect.signature(AbstractDevice).parameters:
        return contextlib.nullcontext()
    device = AbstractDevice("NVIDIA H200", num_cores=None, platform="gpu")
    return use_abstract_mesh(AbstractMesh((), (), abstract_device=device))


@needs_triton
@pytest.mark.filterwarnings("ignore:.*[Tt]riton:DeprecationWarning")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_lowers_for_nvidia_gpus(dtype):
    x, params = draw((2, 8, 8, 16), dtype)
    target = "__gpu$xla.gpu.triton"
    with on_an_abstract_gpu():
        exported = jax.export.export(
            jax.jit(kernel),
            platforms=("cuda",),
            # Exported kernels may not run in another release: of no matter here.
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(target)],
        )(x, params)
    assert target in exported.mlir_module()


def test_without_triton_it_says_what_to_use(as_on_a_gpu, monkeypatch):
    monkeypatch.setattr(gpu, "triton", lambda: None)
    with pytest.raises(NotImplementedError, match=r"Use implementation='fused'"):
        kernel(*draw())
