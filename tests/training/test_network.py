"""The network of a run: what a saved one gives to it, and what it leaves."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sa_flax.config import Config, ModelConfig
from sa_flax.errors import InputError
from sa_flax.models.registry import create_model
from sa_flax.models.saved import PretrainedError, from_pretrained, model_leaves
from sa_flax.modules import list_attentions
from sa_flax.training.command import parse_command
from sa_flax.training.network import (
    best_score,
    network_of,
    save_network,
    saved_options,
    start_from,
)
from sa_flax.training.state import create_state, make_optimizer
from tests.slow import some_slow
from tests.torch_reference.weights import drawn_model

COLOUR = Config(model=ModelConfig(width=4, levels=2), seed=3)


@pytest.fixture
def colour_run(tmp_path):
    """A run's directory with a colour network whose every array is random."""
    model = network_of(COLOUR)
    random = np.random.default_rng(0)
    for leaf in model_leaves(model).values():
        drawn = 0.2 * random.standard_normal(leaf.get_value().shape)
        leaf.set_value(jnp.asarray(drawn, jnp.float32))
    save_network(tmp_path / "colour", model, COLOUR, step=7, scores={"sigma 25": 29.5})
    return model, tmp_path / "colour"


def started(config: Config):
    return create_state(config, make_optimizer(config.optimizer, config.steps))


def test_what_a_run_leaves(colour_run):
    model, run = colour_run
    loaded, config = from_pretrained(run)
    assert config["training"]["step"] == 7
    assert config["training"]["validation_psnr"] == {"sigma 25": 29.5}
    assert config["training"]["config"]["seed"] == 3
    card = (run / "network" / "README.md").read_text()
    assert "sigma 25 | 29.50" in card
    for path, leaf in model_leaves(model).items():
        np.testing.assert_array_equal(model_leaves(loaded)[path][...], leaf[...])


def test_the_best_network_of_a_run(colour_run):
    model, run = colour_run
    assert best_score(run, ["sigma 25"]) == -np.inf
    with pytest.raises(PretrainedError, match="is not the directory of a run"):
        from_pretrained(f"{run}@best")
    (run / "starts.jsonl").write_text("")
    with pytest.raises(PretrainedError, match="has kept no best network"):
        from_pretrained(f"{run}@best")
    scores = {"sigma 25": 30.5, "sigma 50": 26.5}
    save_network(run, model, COLOUR, step=5, scores=scores, best=28.5)
    assert best_score(run, ["sigma 25", "sigma 50"]) == 28.5
    assert best_score(run, ["sigma 50"]) == 26.5, "of what is asked for now"
    assert best_score(run, ["sigma 15"]) == -np.inf, "not known"
    _, config = from_pretrained(f"{run}@best")
    assert config["training"]["step"] == 5
    assert from_pretrained(run)[1]["training"]["step"] == 7
    with pytest.raises(PretrainedError, match="only runs have a best network"):
        from_pretrained("color@best")
    _, state = started(dataclasses.replace(COLOUR, seed=5, init_from=f"{run}@best"))
    assert int(state.step) == 0


def test_a_run_starts_from_a_saved_network(colour_run):
    model, run = colour_run
    _, state = started(dataclasses.replace(COLOUR, seed=5, init_from=str(run)))
    expected = {path: leaf[...] for path, leaf in model_leaves(model).items()}
    for tree in (state.params, state.ema):
        values = {".".join(map(str, path)): v[...] for path, v in tree.flat_state()}
        jax.tree.map(np.testing.assert_array_equal, values, expected)
    assert int(state.step) == 0


def test_a_gray_network_starts_from_a_colour_one(colour_run):
    colour, run = colour_run
    gray = dataclasses.replace(
        COLOUR, model=dataclasses.replace(COLOUR.model, channels=1), init_from=str(run)
    )
    model = network_of(gray)
    from sa_flax.training.network import start_from

    start_from(model, str(run))
    x = jnp.asarray(np.random.default_rng(1).random((1, 8, 8, 1), np.float32))
    expected = jnp.mean(colour(jnp.repeat(x, 3, axis=-1)), axis=-1, keepdims=True)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["none", "shuffle", "danet"])
def test_a_deeper_network_starts_as_the_one_it_came_from(tmp_path, attention):
    shallow = dataclasses.replace(
        COLOUR, model=dataclasses.replace(COLOUR.model, attention=attention, attend="both")
    )
    source = network_of(shallow)
    save_network(tmp_path, source, shallow, step=1, scores={})
    config = dataclasses.replace(
        shallow, model=dataclasses.replace(shallow.model, blocks=(3, 2)), init_from=str(tmp_path)
    )
    graphdef, state = started(config)
    deeper = nnx.merge(graphdef, state.params, state.rest)
    assert [len(deeper.encoder[0].layers), len(deeper.bottom.layers)] == [3, 2]
    x = jnp.asarray(np.random.default_rng(1).random((1, 8, 8, 3), np.float32))
    np.testing.assert_allclose(deeper(x), source(x), rtol=1e-6, atol=1e-6)


def test_a_wider_network_starts_as_the_one_it_came_from(tmp_path):
    narrow = dataclasses.replace(
        COLOUR, model=dataclasses.replace(COLOUR.model, attention="none", attend="none", levels=3)
    )
    source = drawn_model("attention_unet", **saved_options(narrow))
    save_network(tmp_path, source, narrow, step=1, scores={})
    config = dataclasses.replace(
        narrow,
        model=dataclasses.replace(narrow.model, width=7, blocks=(2, 1, 1)),
        init_from=str(tmp_path),
    )
    graphdef, state = started(config)
    wider = nnx.merge(graphdef, state.params, state.rest)
    x = jnp.asarray(np.random.default_rng(1).random((1, 8, 8, 3), np.float32))
    np.testing.assert_allclose(wider(x), source(x), rtol=1e-5, atol=1e-5)
    # What is new learns from the first step.
    gradients = nnx.grad(lambda model: jnp.sum(model(x) ** 2))(wider)
    assert jnp.any(gradients.tail.kernel[:, :, 4:] != 0)
    assert jnp.any(gradients.decoder[0].layers[0].conv1.kernel[:, :, 4:, :4] != 0)


@pytest.mark.parametrize("kind", some_slow(list_attentions(), "squeeze_excite", "dual"))
def test_attention_that_is_new_changes_nothing_at_first(kind, tmp_path):
    plain = dataclasses.replace(
        COLOUR, model=dataclasses.replace(COLOUR.model, width=8, attention="none", attend="none")
    )
    source, random = network_of(plain), np.random.default_rng(0)
    for leaf in model_leaves(source).values():
        leaf.set_value(jnp.asarray(0.2 * random.standard_normal(leaf.shape), jnp.float32))
    save_network(tmp_path, source, plain, step=1, scores={})
    asked = dataclasses.replace(plain.model, blocks=(2, 1), attention=kind, attend="both")
    config = dataclasses.replace(plain, model=asked, init_from=str(tmp_path))
    graphdef, half = started(dataclasses.replace(config, dtype="bfloat16"))
    graphdef, state = started(config)
    chex.assert_trees_all_equal(half.params, state.params)
    model = nnx.merge(graphdef, state.params, state.rest)
    x = jnp.asarray(np.random.default_rng(1).random((1, 8, 8, 3), np.float32))
    np.testing.assert_allclose(nnx.jit(model)(x), nnx.jit(source)(x), rtol=1e-4, atol=1e-4)
    # It learns from the first step.
    gradients = nnx.jit(nnx.grad(lambda model: jnp.sum(model(x) ** 2)))(model)
    of_attention = jax.tree.leaves(gradients.encoder[0].layers[0].attention)
    assert any(bool(jnp.any(leaf != 0)) for leaf in of_attention)


def test_attention_that_cannot_begin_as_a_constant_is_refused(tmp_path):
    plain = dataclasses.replace(
        COLOUR, model=dataclasses.replace(COLOUR.model, attention="none", attend="none")
    )
    save_network(tmp_path, network_of(plain), plain, step=1, scores={})

    class Square(nnx.Module):
        def __init__(self, features, *, rngs, param_dtype=None):
            self.scale = nnx.Param(jnp.ones(features))

        def __call__(self, x):
            return self.scale[...].reshape(1, 1, 1, -1) * x**2

    model = create_model(
        "attention_unet", **saved_options(plain) | {"attention": Square, "attend": "both"},
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"filled by nothing(.|\n)*attention\.scale"):
        start_from(model, str(tmp_path))
    wider = network_of(dataclasses.replace(COLOUR, model=ModelConfig(width=6, levels=2)))
    with pytest.raises(InputError, match=r"conv2\.kernel: has shape \(3, 3, 4, 4\)"):
        start_from(wider, str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 2}, "of the wrong shape"),
        ({"levels": 3}, "filled by nothing"),
        ({"noise_level": True}, "head.kernel"),
    ],
)
def test_what_does_not_fit_is_listed(colour_run, change, message):
    _, run = colour_run
    other = dataclasses.replace(COLOUR.model, attention="none", **change)
    with pytest.raises(InputError, match=message) as caught:
        started(dataclasses.replace(COLOUR, model=other, init_from=str(run)))
    assert "--init-from" in str(caught.value)
    # And the options that the saved network answers to.
    asked = str(caught.value).rpartition("ask for: ")[2].split()
    assert parse_command(["quick", *asked]).config.model == COLOUR.model


def test_a_colour_network_does_not_start_from_a_gray_one(tmp_path):
    plain = dataclasses.replace(COLOUR.model, attention="none", attend="none")
    gray = dataclasses.replace(COLOUR, model=dataclasses.replace(plain, channels=1))
    save_network(tmp_path, network_of(gray), gray, step=1, scores={})
    for width in (4, 6):
        model = dataclasses.replace(plain, width=width)
        with pytest.raises(InputError, match=r"head\.kernel"):
            started(dataclasses.replace(COLOUR, model=model, init_from=str(tmp_path)))


def test_a_start_that_is_not_there():
    with pytest.raises(InputError, match="no shipped network"):
        started(dataclasses.replace(COLOUR, init_from="runs/nothing"))


def test_the_configuration_is_saved_as_json(colour_run):
    _, run = colour_run
    config = json.loads((run / "network" / "config.json").read_text())
    assert config["model"] == "attention_unet"
    assert config["options"]["width"] == 4
