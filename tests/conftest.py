"""Before any test module is imported: eight simulated CPU devices, so that sharding is real, and
little optimisation by the compiler, which would take longer than the tiny tests themselves; the
shapes that annotations state are checked at every call of pure functions and layers; and JAX
promotes neither dtypes nor ranks."""

import dataclasses
import gc
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

import tests.annotations  # the hook below looks for it in what is imported
from tests.compiling import QUICKLY

# Beartype looks at every argument and result of these, jaxtyping at how their shapes fit.
install_import_hook(
    [
        "sa_flax.functional",
        "sa_flax.inference.denoiser",
        "sa_flax.inference.group_activation",
        "sa_flax.models.dncnn",
        "sa_flax.models.sa_resnet",
        "sa_flax.models.unet",
        "sa_flax.modules",
    ],
    "tests.annotations.check",
)

for _flag in ("--xla_force_host_platform_device_count=8", *QUICKLY):
    if _flag.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}".strip()
# Tests compile what they test.
os.environ.setdefault("SA_FLAX_COMPILATION_CACHE", "off")
# Computes wrong numbers without it, see sa_flax.xla_flags; other releases may not know the option.
if importlib.metadata.version("jaxlib") == "0.10.2" and "ynn_fusion" not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] += " --xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_REDUCE"


# Looking for garbage among all that is compiled takes a twentieth of the time.
gc.set_threshold(50_000, 20, 100)

# Nothing in the library leaves a promotion to JAX. What tests start in processes of their own runs
# with JAX's defaults, as users do.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def jax_defaults() -> Iterator[None]:
    """For what stands as users write it: JAX promotes what it promotes for them, and NumPy's arrays
    do where annotations say JAX's."""
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        tests.annotations.unchecked(),
    ):
        yield


@pytest.fixture(scope="session")
def few_pictures(tmp_path_factory) -> Path:
    """A folder of twelve small pictures in splits, to train on."""
    from tests.trainings import save_few_pictures

    folder = tmp_path_factory.mktemp("few") / "pictures"
    save_few_pictures(folder)
    return folder


@pytest.fixture(scope="session")
def training_environment(tmp_path_factory) -> dict[str, str]:
    """What trainings by the command run with."""
    from tests.trainings import environment

    return environment(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory) -> Path:
    """The directory of a run that saved its untrained network: two levels of four features."""
    from flax import nnx

    from sa_flax.config import Config, DataConfig, ModelConfig, to_json
    from sa_flax.training.checkpoint import Checkpoints
    from sa_flax.training.network import save_network
    from sa_flax.training.run_directory import CONFIG
    from sa_flax.training.state import create_state, make_optimizer

    run = tmp_path_factory.mktemp("run")
    config = dataclasses.replace(
        Config(), model=ModelConfig(width=4, levels=2), data=DataConfig(gray_share=0.1)
    )
    (run / CONFIG).write_text(to_json(config))
    graphdef, state = create_state(config, make_optimizer(config.optimizer, config.steps))
    checkpoints = Checkpoints(run)
    checkpoints.save(state, 0)
    checkpoints.close()
    save_network(run, nnx.merge(graphdef, state.ema, state.rest), config, step=0, scores={})
    return run
