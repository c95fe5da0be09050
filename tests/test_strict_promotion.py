"""Whatever a user has JAX promote, the library computes the same: it leaves no promotion to JAX."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import sa_flax
from sa_flax.config import Config, ModelConfig
from sa_flax.noise import NOISES
from sa_flax.training.state import create_state, make_optimizer
from sa_flax.training.steps import make_train_step
from tests.in_float64 import CASES, narrow


@pytest.mark.parametrize("name", CASES)
def test_functions_and_networks(name):
    """Outputs and gradients, operation by operation; with 64 bits allowed too."""
    case = CASES[name]()

    def loss(state, x):
        return sum(jnp.mean(part) for part in jax.tree.leaves(case.function(state, x)))

    arguments = narrow(case.state), jax.ShapeDtypeStruct(case.shape, jnp.float32)
    gradients = jax.grad(loss, argnums=(0, 1))
    with jax.enable_x64(True):
        jax.eval_shape(gradients, *arguments)
    strict = jax.make_jaxpr(gradients)(*arguments)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert str(jax.make_jaxpr(gradients)(*arguments)) == str(strict)


@pytest.mark.parametrize("kind", sa_flax.list_attentions())
def test_layers_of_half_precision(kind):
    layer = nnx.eval_shape(lambda: sa_flax.make_attention(kind, 8, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(layer)
    x = jax.ShapeDtypeStruct((2, 9, 7, 8), jnp.bfloat16)
    assert jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x), state, x).dtype == jnp.bfloat16


@pytest.mark.parametrize("kind", NOISES)
def test_noise(kind):
    clean = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    noisy, _ = jax.eval_shape(NOISES[kind](), jax.random.key(0), clean)
    assert noisy.shape == clean.shape


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("options", [{}, {"noise_level": True}, {"name": "dncnn"}])
def test_a_training_step(options, accumulate):
    config = Config(model=ModelConfig(width=4, levels=2, **options))
    optimizer = dataclasses.replace(config.optimizer, accumulate=accumulate)
    config = dataclasses.replace(config, optimizer=optimizer)
    updates = make_optimizer(config.optimizer, 10)
    graphs = []

    def start():
        graph, state = create_state(config, updates)
        graphs.append(graph)
        return state

    state = jax.eval_shape(start)
    batch = {"clean": jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.uint8)}
    jax.eval_shape(make_train_step(graphs[0], updates, config), state, batch, jax.random.key(0))
