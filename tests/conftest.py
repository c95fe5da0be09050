"""Before any test module is imported: eight simulated CPU devices, so that sharding is real, and
little optimisation by the compiler, which would take longer than the tiny tests themselves."""

import dataclasses
import importlib.metadata
import os
from pathlib import Path

import pytest

for _flag, _value in (
    ("--xla_force_host_platform_device_count", 8),
    ("--xla_backend_optimization_level", 0),
):
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}={_value}".strip()
# Tests compile what they test.
os.environ.setdefault("SA_FLAX_COMPILATION_CACHE", "off")
# Computes wrong numbers without it, see sa_flax.xla_flags; other releases may not know the option.
if importlib.metadata.version("jaxlib") == "0.10.2" and "ynn_fusion" not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] += " --xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_REDUCE"


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory) -> Path:
    """The directory of a run that saved its untrained network: two levels of four features."""
    from sa_flax.config import Config, ModelConfig, to_json
    from sa_flax.inference.run_directory import CONFIG, Progress
    from sa_flax.training.checkpoint import Checkpoints
    from sa_flax.training.state import create_state, make_optimizer

    run = tmp_path_factory.mktemp("run")
    config = dataclasses.replace(Config(), model=ModelConfig(width=4, levels=2))
    (run / CONFIG).write_text(to_json(config))
    _, state = create_state(config, make_optimizer(config.optimizer, config.steps))
    checkpoints = Checkpoints(run)
    checkpoints.save(state, Progress(0, 0, None))
    checkpoints.close()
    return run
