"""Memory of one device, as XLA plans it, for ways to lay out training and large pictures.

    python -m benchmarks.memory

Nothing is computed: everything is compiled for eight simulated CPU devices, and XLA says what each
of them will hold. Accelerators fuse differently and hold somewhat more or less; what a layout saves
is much the same.
"""

import dataclasses
import os
from typing import Any

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
)

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.timing import save
from sa_flax.config import PRESETS, Config, MeshConfig
from sa_flax.inference.denoiser import Denoiser
from sa_flax.training import sharding
from sa_flax.training.network import network_of
from sa_flax.training.state import create_state, make_optimizer
from sa_flax.training.steps import make_train_step

MB = 2**20
# name -> (devices, mesh, options of the optimiser)
LAYOUTS: dict[str, tuple[int, MeshConfig, dict[str, Any]]] = {
    "1 device": (1, MeshConfig(), {}),
    "1 device, --optimizer.accumulate 4": (1, MeshConfig(), {"accumulate": 4}),
    "8 devices": (8, MeshConfig(), {}),
    "8 devices, --mesh.fsdp 8": (8, MeshConfig(fsdp=8), {}),
    "8 devices, --mesh.height 8": (8, MeshConfig(height=8), {}),
}


def of_training(config: Config, devices: int) -> dict[str, float]:
    """What one device holds between steps, and besides during a step, in MB."""
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:devices])
    sharding.check_batch(config, mesh)
    optimizer = make_optimizer(config.optimizer, config.steps)
    graphdef, state = create_state(config, optimizer)
    state = sharding.place(state, mesh)
    shape = (config.data.batch_size, config.data.crop, config.data.crop, config.model.channels)
    batch = {
        "clean": jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=sharding.batch_sharding(mesh))
    }
    step = make_train_step(graphdef, optimizer, config, mesh)
    memory = step.lower(state, batch, jax.random.key(0)).compile().memory_analysis()
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    return {"state_mb": held / MB, "step_mb": memory.temp_size_in_bytes / MB}


def kept_for_backward(config: Config) -> float:
    """What the network's forward pass keeps for its backward pass, without the parameters, in MB.

    By JAX's own account, before XLA: its CPU compiler undoes rematerialisation.
    """
    graphdef, params = nnx.split(network_of(config))
    shape = (config.data.batch_size, config.data.crop, config.data.crop, config.model.channels)
    noisy = jax.ShapeDtypeStruct(shape, jnp.float32)

    def backward(params: nnx.State, noisy: jax.Array):
        return jax.vjp(lambda p: nnx.merge(graphdef, p)(noisy), params)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, params, noisy))
    of_parameters = {leaf.shape for leaf in jax.tree.leaves(params)}
    return sum(a.size * a.dtype.itemsize for a in kept if a.shape not in of_parameters) / MB


def of_a_picture(config: Config, height: int, width: int, devices: int) -> float:
    """What one device holds while it denoises a picture or its rows of it, in MB."""
    compiled = Denoiser(network_of(config), devices=devices).compile(height, width)
    memory = compiled.memory_analysis()
    sizes = (
        memory.temp_size_in_bytes, memory.argument_size_in_bytes, memory.output_size_in_bytes,
    )  # fmt: skip
    return sum(sizes) / MB


def main() -> None:
    color, quick = PRESETS["color"], PRESETS["quick"]
    batch = f"{color.data.batch_size} x {color.data.crop} x {color.data.crop}"
    print(f"training, preset color (batch {batch}), MB on each device: state + during a step")
    training = {}
    for name, (devices, mesh, options) in LAYOUTS.items():
        optimizer = dataclasses.replace(color.optimizer, **options)
        config = dataclasses.replace(color, mesh=mesh, optimizer=optimizer)
        training[name] = of_training(config, devices)
        row = training[name]
        print(f"  {name:<38}{row['state_mb']:8.0f} + {row['step_mb']:6.0f}", flush=True)
    print("kept for the backward pass, the same preset, MB on one device")
    kept = {}
    for remat in (False, True):
        optimizer = dataclasses.replace(color.optimizer, remat=remat)
        label = "with --optimizer.remat" if remat else "as it is"
        kept[label] = kept_for_backward(dataclasses.replace(color, optimizer=optimizer))
        print(f"  {label:<38}{kept[label]:8.0f}", flush=True)
    print("a picture of 4000 x 6000 pixels, float32, MB on each device")
    pictures = {}
    for name, config in (
        ("quick", quick),
        ("color, float32", dataclasses.replace(color, dtype="float32")),
    ):
        for devices in (1, 8):
            label = f"{name}, {devices} device{'s' if devices > 1 else ''}"
            pictures[label] = of_a_picture(config, 4000, 6000, devices)
            print(f"  {label:<38}{pictures[label]:8.0f}", flush=True)
    results = {"training": training, "kept_for_backward_mb": kept, "picture_mb": pictures}
    print(save("memory", results))


if __name__ == "__main__":
    main()
