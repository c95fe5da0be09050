"""Options for XLA: added once, only for releases that know them; right numbers on all of those."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sa_flax import xla_flags

YNN = "--xla_cpu_experimental_ynn_fusion_type"
OWN_SUMS = "-LIBRARY_FUSION_TYPE_REDUCE"
OPTIONS = f"{YNN}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION --xla_cpu_prefer_vector_width=512"
OPTIONS_WITHOUT_SUMS = OPTIONS.replace("CONVOLUTION", f"CONVOLUTION,{OWN_SUMS}")


ONEDNN = "--xla_cpu_experimental_onednn_custom_call"


@pytest.fixture
def release(monkeypatch):
    """Sets the version of jaxlib that is found, on a processor of which nothing is known; malloc
    stays as it is."""
    monkeypatch.setattr(xla_flags, "_keep_large_blocks", lambda: None)
    monkeypatch.setattr(xla_flags, "_has", lambda feature: False)
    return lambda version: monkeypatch.setattr(xla_flags, "_jaxlib_version", lambda: version)


def python(program: str, flags: str = "") -> subprocess.CompletedProcess:
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("version", "options"),
    [
        ("0.10.1", OPTIONS_WITHOUT_SUMS),
        ("0.10.2", OPTIONS_WITHOUT_SUMS),
        ("0.11.0rc1", OPTIONS_WITHOUT_SUMS),
        ("0.12.0.1", OPTIONS),
    ],
)
def test_adds_the_options_once_and_keeps_what_was_there(monkeypatch, release, version, options):
    release(version)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    assert xla_flags.tune_cpu()
    assert os.environ["XLA_FLAGS"] == f"--xla_cpu_multi_thread_eigen=true {options}"
    assert not xla_flags.tune_cpu()
    assert os.environ["XLA_FLAGS"].count(options) == 1


def test_sets_flags_where_none_were_set(monkeypatch, release):
    release("0.12.0")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert xla_flags.tune_cpu()
    assert os.environ["XLA_FLAGS"] == OPTIONS


def test_leaves_the_users_choice(monkeypatch, release):
    release("0.10.2")
    chosen = f"{YNN}=LIBRARY_FUSION_TYPE_REDUCE"
    monkeypatch.setenv("XLA_FLAGS", chosen)
    assert xla_flags.tune_cpu()
    assert os.environ["XLA_FLAGS"] == f"{chosen} --xla_cpu_prefer_vector_width=512"


@pytest.mark.parametrize(
    ("version", "features", "user", "taken", "fast"),
    [
        ("0.12.0.1", "avx2 avx512_bf16", "", True, True),
        ("0.12.0.1", "avx2 amx_bf16", "", True, True),
        ("0.12.0.1", "avx2", "", True, False),
        ("0.12.0.1", "avx", "", False, False),
        ("0.10.2", "avx2 avx512_bf16", "", False, False),
        ("0.13.0", "avx2 avx512_bf16", "", False, False),
        ("0.12.0.1", "avx2 avx512_bf16", f"{ONEDNN}=false", False, False),
        ("0.12.0.1", "avx", f"{ONEDNN}=true", True, False),
        ("0.10.2", "avx2 avx512_bf16", f"{ONEDNN}=true", True, False),
    ],
)
def test_convolutions_of_onednn_and_whether_bfloat16_is_fast(
    monkeypatch, release, version, features, user, taken, fast
):
    release(version)
    monkeypatch.setattr(xla_flags, "_has", lambda feature: feature in features.split())
    monkeypatch.setenv("XLA_FLAGS", user)
    assert not xla_flags.is_bfloat16_fast()
    xla_flags.tune_cpu()
    assert (f"{ONEDNN}=true" in os.environ["XLA_FLAGS"].split()) == taken
    assert xla_flags.is_bfloat16_fast() == fast


@pytest.mark.parametrize("version", ["0.9.2", "0.13.0", "1.0", "unknown", None])
def test_does_nothing_on_untried_releases(monkeypatch, release, version):
    release(version)
    monkeypatch.setenv("XLA_FLAGS", "")
    assert not xla_flags.tune_cpu()
    assert os.environ["XLA_FLAGS"] == ""


def test_the_version_is_that_of_the_jaxlib_that_will_be_imported():
    import jaxlib

    assert xla_flags._jaxlib_version() == jaxlib.__version__


@pytest.mark.parametrize(
    ("flags", "warns"),
    [
        ("", True),
        ("--xla_cpu_prefer_vector_width=512", True),
        (f"{YNN}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION", True),
        (f"{YNN}=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE", True),
        (f"{YNN}={OWN_SUMS} {YNN}=all", True),  # the last one holds
        (f"{YNN}={OWN_SUMS}", False),
        (f"{YNN}=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT", False),
        (f"{YNN}=", False),
        (OPTIONS_WITHOUT_SUMS, False),
    ],
)
def test_a_warning_of_wrong_numbers(monkeypatch, release, recwarn, flags, warns):
    monkeypatch.setenv("XLA_FLAGS", flags)
    for version in ("0.10.1", "0.11.1", "0.12.0.1", "0.13.0", None):
        release(version)
        xla_flags.warn_of_wrong_numbers()
    assert not recwarn
    release("0.10.2")
    if warns:
        with pytest.warns(RuntimeWarning, match=r"0\.10\.2 computes wrong.*pip install.*tune_cpu"):
            xla_flags.warn_of_wrong_numbers()
    else:
        xla_flags.warn_of_wrong_numbers()
        assert not recwarn


def test_importing_the_package_warns_once_on_such_a_release_and_imports_no_jax():
    wrong = xla_flags._jaxlib_version() in xla_flags._WRONG
    done = python("import sys, sa_flax; import sa_flax; assert 'jax' not in sys.modules")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("computes wrong numbers") == wrong
    # The commands set the options themselves: nothing to tell their users.
    environment = {**os.environ, "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "sa_flax.cli", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert not done.stderr


# What jaxlib 0.10.2 gets wrong (a sum over a small product of more than 32,768 rows), and what ends
# it and on some processors 0.11.0 (sums over arrays of seven and eight axes).
REPRODUCER = """
from sa_flax.xla_flags import tune_cpu
tune_cpu()
import jax, jax.numpy as jnp, numpy as np
norm = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))
for rows in (32_769, 50_000, 181 * 185 * 3):
    x = np.random.default_rng(0).random((rows, 3), np.float32) + np.arange(rows)[:, None] / rows
    x = x.astype(np.float32)
    exact = (x.astype(np.float64) ** 2).sum(axis=1)
    np.testing.assert_allclose(norm(x), exact, rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda x: norm(x).sum()))(x)
    np.testing.assert_allclose(gradient, 2 * x, rtol=1e-6)
seven = jnp.ones((3, 1, 2, 2, 8, 8, 8))
assert jnp.all(jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(seven, seven) == 2)
eight = jnp.ones((1, 4, 6, 5, 5, 5, 5, 5))
few = jnp.ones((1, 4, 6, 1, 1, 1, 1, 1))
assert jnp.all(jax.jit(lambda a, b: jnp.sum(a * b, axis=2))(few, eight) == 6)
print("right")
"""


def test_the_numbers_that_some_releases_get_wrong_are_right_with_it():
    done = python(REPRODUCER)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "right"


def test_the_installed_jax_starts_with_it_and_it_imports_no_jax():
    done = python(
        "import sys; from sa_flax.xla_flags import tune_cpu; tune_cpu();"
        "assert 'jax' not in sys.modules; import jax.numpy as jnp;"
        "print(float(jnp.sum(jnp.ones(3))))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3.0"


COMPILE = """
import os
from sa_flax.xla_flags import keep_compiled
{before}
folder = keep_compiled()
import jax, jax.numpy as jnp, jax.monitoring
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name.endswith("cache_hits")))
x = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: jnp.linalg.qr(x)[0], x))(jnp.eye(30))
print(folder, sum(hits), float(x[0, 0]))
"""


def compile_with(cache, before="", **environment) -> tuple[str, int]:
    """(folder, entries that were found in it) of a process that compiles something."""
    own = {
        "XDG_CACHE_HOME": str(cache),
        "SA_FLAX_COMPILATION_CACHE": "on",
        "JAX_PLATFORMS": "cpu",
        # Whatever this machine compiles in less time than is worth keeping.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment = {**os.environ, **own, **environment}
    program = COMPILE.format(before=before)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "ache" not in done.stderr, done.stderr
    folder, hits, value = done.stdout.split()
    assert abs(float(value)) == pytest.approx(1)
    return folder, int(hits)


def test_what_is_compiled_is_found_at_the_next_start(tmp_path):
    folder, hits = compile_with(tmp_path)
    assert folder.startswith(str(tmp_path / "sa_flax" / "xla"))
    assert hits == 0
    assert list(Path(folder).glob("*-cache"))
    assert os.stat(folder).st_mode & 0o077 == 0, "others may write code into it"
    assert compile_with(tmp_path, "import jax")[1] > 0
    # Other options compile other code.
    other = os.environ["XLA_FLAGS"].replace("level=0", "level=1")
    assert compile_with(tmp_path, XLA_FLAGS=other)[1] == 0
    # Damaged, cut short and unfinished entries are compiled anew.
    entries = list(Path(folder).glob("*-cache"))
    for index, entry in enumerate(entries):
        entry.write_bytes(b"" if index % 2 else entry.read_bytes()[:-20])
    assert compile_with(tmp_path)[1] == 0
    for entry in Path(folder).glob("*-cache"):
        entry.with_name(entry.name.removesuffix("-cache") + "-atime").unlink()
        os.utime(entry, (0, 0))
    assert compile_with(tmp_path)[1] == 0
    assert compile_with(tmp_path)[1] > 0, "an unfinished entry stands in the way"


@pytest.mark.parametrize(
    "environment",
    [
        {"SA_FLAX_COMPILATION_CACHE": "off"},
        {"JAX_COMPILATION_CACHE_DIR": "/elsewhere"},
        {"XDG_CACHE_HOME": "a file"},
        {"XDG_CACHE_HOME": "/proc/nowhere"},
        {"XDG_CACHE_HOME": "", "HOME": "relative"},
    ],
)
def test_nothing_is_kept_where_it_must_not_or_can_not_be(tmp_path, monkeypatch, environment):
    file = tmp_path / "file"
    file.touch()
    defaults = {"XDG_CACHE_HOME": str(tmp_path), "SA_FLAX_COMPILATION_CACHE": "on"}
    for name, value in {**defaults, **environment}.items():
        monkeypatch.setenv(name, str(file) if value == "a file" else value)
    before = dict(os.environ)
    assert xla_flags.keep_compiled() is None
    assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == [file]


def test_folders_of_other_machines_go_when_long_unused(tmp_path):
    every = tmp_path / "sa_flax" / "xla"
    for name, seconds in (("0" * 16, 0), ("1" * 16, None), ("notes", 0)):
        (every / name).mkdir(parents=True)
        if seconds is not None:
            os.utime(every / name, (seconds, seconds))
    folder = every / xla_flags._machine()
    folder.mkdir()
    xla_flags._tidy(every, folder)
    assert {path.name for path in every.iterdir()} == {"1" * 16, "notes", folder.name}
