"""The public interface: promised names, import without work, public functions' grammar."""

import importlib
import inspect
import subprocess
import sys

import pytest

import sa_flax

PROMISED = {
    "sa_flax": [
        "ShuffleAttention",
        "make_attention",
        "list_attentions",
        "create_model",
        "list_models",
        "Denoiser",
        "list_pretrained",
        "functional",
        "porting",
    ],
    "sa_flax.functional": [
        "shuffle_attention",
        "channel_shuffle",
        "gaussian_noise",
        "non_local_means",
        "ShuffleAttentionParams",
    ],
    "sa_flax.porting": ["load_torch", "from_torch", "to_torch"],
}


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in PROMISED.items() for name in names]
)
def test_promised_names(module, name):
    assert hasattr(importlib.import_module(module), name)


def test_everything_listed_is_there():
    for name in sa_flax.__all__:
        assert getattr(sa_flax, name) is not None
    assert set(dir(sa_flax)) == set(sa_flax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'shufle'"):
        sa_flax.shufle  # noqa: B018


def test_importing_does_no_work():
    code = "import sys, sa_flax, sa_flax.config; print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"


def test_functional_never_imports_flax():
    code = "import sys, sa_flax.functional; print('flax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", sa_flax.functional.__all__)
def test_public_functions_are_documented_and_speak_one_grammar(name):
    public = getattr(sa_flax.functional, name)
    assert public.__doc__
    if name.endswith("_noise"):
        assert list(inspect.signature(public).parameters)[:2] == ["key", "clean"]
    for parameter in inspect.signature(public).parameters.values():
        # Arrays, parameters, levels and sizes may be positional; switches may not.
        if isinstance(parameter.default, bool):
            assert parameter.kind is parameter.KEYWORD_ONLY, parameter
