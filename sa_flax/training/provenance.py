"""What made a result: versions, device, revision."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax


def versions() -> dict[str, Any]:
    """What made a result: packages, Python, device, and the git revision where there is one."""
    packages = ("sa_flax", "jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint")
    return {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    """The revision of the checkout that sa_flax runs from, with "-dirty" where files differ from
    it; None for an installed package."""
    here = str(Path(__file__).parent)
    command = ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
