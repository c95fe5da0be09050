"""Options for XLA: added once, only for releases that know them, and accepted by the one here."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from sa_flax import xla_flags

_OPTIONS = (
    "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION "
    "--xla_cpu_prefer_vector_width=512"
)


@pytest.mark.parametrize("version", ["0.10.2", "0.11.0rc1", "0.12.0"])
def test_adds_the_options_once_and_keeps_what_was_there(monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    assert xla_flags.tune_cpu()
    assert os.environ["XLA_FLAGS"] == f"--xla_cpu_multi_thread_eigen=true {_OPTIONS}"
    assert not xla_flags.tune_cpu()
    assert os.environ["XLA_FLAGS"].count(_OPTIONS) == 1


def test_sets_flags_where_none_were_set(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.10.2")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert xla_flags.tune_cpu()
    assert os.environ["XLA_FLAGS"] == _OPTIONS


def test_leaves_the_users_choice(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.10.2")
    chosen = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE"
    monkeypatch.setenv("XLA_FLAGS", chosen)
    assert xla_flags.tune_cpu()
    assert os.environ["XLA_FLAGS"] == f"{chosen} --xla_cpu_prefer_vector_width=512"


@pytest.mark.parametrize("version", ["0.9.2", "0.13.0", "1.0", "unknown"])
def test_does_nothing_on_untried_releases(monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    monkeypatch.setenv("XLA_FLAGS", "")
    assert not xla_flags.tune_cpu()
    assert os.environ["XLA_FLAGS"] == ""


def test_does_nothing_without_jaxlib(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setenv("XLA_FLAGS", "")
    assert not xla_flags.tune_cpu()


def test_the_installed_jax_starts_with_it_and_it_imports_no_jax():
    program = (
        "import sys; from sa_flax.xla_flags import tune_cpu; tune_cpu();"
        "assert 'jax' not in sys.modules; import jax.numpy as jnp;"
        "print(float(jnp.sum(jnp.ones(3))))"
    )
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3.0"
