"""Layouts over eight simulated devices: each trains as one device does and holds what it should."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

from sa_flax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimizerConfig
from sa_flax.errors import InputError
from sa_flax.training import sharding
from sa_flax.training.checkpoint import Checkpoints
from sa_flax.training.network import network_of
from sa_flax.training.state import TrainState, create_state, make_optimizer
from sa_flax.training.steps import make_train_step

CONFIG = Config(
    model=ModelConfig(width=8, levels=2, channels=1),
    data=DataConfig(batch_size=16, crop=16),
    optimizer=OptimizerConfig(warmup_steps=2, ema_decay=0.5),
    steps=10,
)


def one_device() -> Mesh:
    return sharding.make_mesh(MeshConfig(), jax.devices()[:1])


def batch(seed: int) -> dict[str, np.ndarray]:
    return {"clean": np.random.default_rng(seed).integers(0, 256, (16, 16, 16, 1), np.uint8)}


def train(
    config: Config,
    mesh: Mesh,
    steps: int = 3,
    # Plain gradient descent: Adam would divide differences of a rounding by their own size.
    optimizer: optax.GradientTransformation = optax.sgd(0.05),
) -> tuple[TrainState, list[float]]:
    graphdef, state = create_state(config, optimizer)
    state = sharding.place(state, mesh)
    step = make_train_step(graphdef, optimizer, config, mesh)
    losses = []
    for i in range(steps):
        state, metrics = step(state, sharding.place_batch(batch(i), mesh), jax.random.key(0))
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.fixture(scope="module")
def expected() -> tuple[TrainState, list[float]]:
    state, losses = train(CONFIG, one_device())
    return jax.device_get(state), losses


@pytest.mark.parametrize(
    ("mesh", "optimizer"),
    [
        (MeshConfig(), {}),
        pytest.param(MeshConfig(fsdp=8), {}, marks=pytest.mark.slow),
        (MeshConfig(fsdp=2, height=2), {}),
        pytest.param(MeshConfig(height=8), {}, marks=pytest.mark.slow),
        pytest.param(MeshConfig(), {"accumulate": 2}, marks=pytest.mark.slow),
        (MeshConfig(fsdp=4), {"accumulate": 2, "remat": True}),
        (MeshConfig(), {"remat": True}),
    ],
    ids=str,
)
def test_eight_devices_train_as_one(mesh, optimizer, expected):
    changed = dataclasses.replace(CONFIG.optimizer, **optimizer)
    config = dataclasses.replace(CONFIG, mesh=mesh, optimizer=changed)
    state, losses = train(config, sharding.make_mesh(mesh))
    # Sums in another order: a few roundings of float32 in the loss (about 0.1) and, three steps of
    # at most 0.05 times the gradient later, in the parameters (up to 1).
    np.testing.assert_allclose(losses, expected[1], rtol=2e-6)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected[0]), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.slow
def test_muon_on_eight_devices():
    """Its products go over the whole kernel, wherever its parts rest."""
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=8))
    optimizer = make_optimizer(OptimizerConfig(kind="muon", warmup_steps=0), 3)
    one, _ = train(config, one_device(), optimizer=optimizer)
    eight, _ = train(config, sharding.make_mesh(config.mesh), optimizer=optimizer)
    kernels = [
        state.params["bottom"]["layers"][0]["conv1"]["kernel"][...] for state in (one, eight)
    ]
    assert kernels[1].sharding.spec == PartitionSpec(None, None, None, "fsdp")
    # Three steps of 2e-4.
    np.testing.assert_allclose(*kernels, atol=1e-5)


def test_bfloat16_on_eight_devices(expected):
    """Computed in bfloat16, kept in float32; against one device in bfloat16."""
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    one, one_losses = train(config, one_device())
    eight, losses = train(config, sharding.make_mesh(MeshConfig(fsdp=2)))
    # bfloat16 has 8 bits; the sums over pictures are taken in another order.
    np.testing.assert_allclose(losses, one_losses, rtol=2**-8)
    for a, b in zip(jax.tree.leaves(eight.params), jax.tree.leaves(one.params), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=2**-8)
    for leaf in jax.tree.leaves((eight.ema, eight.opt_state)):
        assert leaf.dtype in (np.float32, np.int32)
    assert abs(losses[0] / expected[1][0] - 1) < 0.01


def test_every_parameter_rests_split():
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=8))
    mesh = sharding.make_mesh(config.mesh)
    optimizer = make_optimizer(config.optimizer, config.steps)
    graphdef, state = create_state(config, optimizer)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    state = sharding.place(state, mesh)
    step = make_train_step(graphdef, optimizer, config, mesh)
    state, _ = step(state, sharding.place_batch(batch(0), mesh), jax.random.key(0))
    kernel = state.params["bottom"]["layers"][0]["conv1"]["kernel"][...]
    assert kernel.sharding.spec == PartitionSpec(None, None, None, "fsdp")
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    # All but the attention's vectors of one or two numbers and the tail's bias.
    assert held < 1.05 * whole / 8
    gathered = sharding.on_one_device(state)
    jax.tree.map(np.testing.assert_array_equal, gathered, jax.device_get(state))
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(gathered)} == {1}


@pytest.mark.parametrize("after", [MeshConfig(), MeshConfig(fsdp=2)])
def test_a_checkpoint_of_eight_devices_is_restored_on_others(tmp_path, after):
    optimizer = make_optimizer(CONFIG.optimizer, CONFIG.steps)
    _, fresh = create_state(CONFIG, optimizer)
    eight = sharding.place(fresh, sharding.make_mesh(MeshConfig(fsdp=8)))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(jax.tree.map(lambda x: x + 1, eight), 5)
    checkpoints.close()
    mesh = sharding.make_mesh(after, jax.devices()[: 2 * after.fsdp])
    checkpoints = Checkpoints(tmp_path)
    state, step, broken = checkpoints.restore(sharding.place(fresh, mesh))
    checkpoints.close()
    assert (step, broken) == (5, [])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + 1), state, fresh)
    assert {leaf.sharding.mesh for leaf in jax.tree.leaves(state)} == {mesh}


@pytest.mark.parametrize(
    ("mesh", "data", "optimizer", "message"),
    [
        (MeshConfig(fsdp=3), {}, {}, "3 x --mesh.height 1 does not divide .* 8"),
        (MeshConfig(), {"batch_size": 12}, {}, "over 8 devices; use a multiple of 8"),
        (MeshConfig(), {"batch_size": 24}, {"accumulate": 2}, "2 parts; use a multiple of 16"),
        (MeshConfig(height=4), {"crop": 18}, {}, "--data.crop 18 .* 4 devices"),
    ],
)
def test_layouts_that_do_not_fit(mesh, data, optimizer, message):
    config = dataclasses.replace(
        CONFIG,
        data=dataclasses.replace(CONFIG.data, **data),
        optimizer=dataclasses.replace(CONFIG.optimizer, **optimizer),
    )
    with pytest.raises(InputError, match=message):
        sharding.check_batch(config, sharding.make_mesh(mesh))


def test_networks_that_cannot_do_what_is_asked():
    dncnn = dataclasses.replace(CONFIG, model=ModelConfig(name="dncnn", channels=1))
    assert network_of(dncnn).channels == 1
    remat = dataclasses.replace(dncnn, optimizer=OptimizerConfig(remat=True))
    with pytest.raises(InputError, match=r"dncnn has no --optimizer.remat"):
        network_of(remat)
    classifier = dataclasses.replace(CONFIG, model=ModelConfig(name="sa_resnet50"))
    with pytest.raises(InputError, match="not a denoiser"):
        network_of(classifier)
