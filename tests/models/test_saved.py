"""Networks as directories: written, read back, and refused with reasons where they do not fit."""

import re
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sa_flax
from sa_flax import porting
from sa_flax.errors import InputError
from sa_flax.models import saved as saved_networks
from sa_flax.models.saved import (
    PretrainedError,
    from_pretrained,
    list_pretrained,
    model_leaves,
    save_pretrained,
)
from tests.annotations import unchecked
from tests.torch_reference.weights import drawn_model

OPTIONS = {"depth": 4, "width": 4}
CONFIG = {"model": "dncnn", "options": OPTIONS}


@pytest.fixture
def saved(tmp_path):
    model = drawn_model("dncnn", **OPTIONS)
    save_pretrained(model, tmp_path / "net", config=CONFIG | {"sigmas": [15, 50]})
    return model, tmp_path / "net"


def _assert_same(a, b):
    ours, theirs = model_leaves(a), model_leaves(b)
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        assert leaf[...].dtype == theirs[path][...].dtype
        np.testing.assert_array_equal(leaf[...], theirs[path][...])


def test_there_and_back(saved):
    model, directory = saved
    assert sorted(p.name for p in directory.iterdir()) == ["config.json", "model.safetensors"]
    loaded, config = from_pretrained(directory)
    assert config == CONFIG | {"sigmas": [15, 50]}
    assert loaded.norms[0].use_running_average
    _assert_same(model, loaded)
    assert "convs.0.kernel" in load_file(directory / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "attention_unet",
            {"width": 8, "levels": 2, "attention": "squeeze_excite", "attend": "both"},
        ),
        ("attention_unet", {"width": 8, "levels": 2, "param_dtype": "bfloat16"}),
        ("dncnn", {"depth": 3, "width": 2, "batch_norm": False}),
    ],
)
def test_other_networks(tmp_path, name, options):
    model = drawn_model(name, **options)
    save_pretrained(model, tmp_path, config={"model": name, "options": options})
    loaded, _ = from_pretrained(str(tmp_path))
    _assert_same(model, loaded)


@pytest.mark.parametrize(
    ("options", "noted"),
    [
        ({"attention": "cbam", "attention_options": {"window": (8, 8)}}, {}),
        (
            {
                "attention": {0: "cbam", "bottom": "eca"},
                "attention_options": {0: {"window": (8, 8)}},
                "attend": "both",
            },
            {},
        ),
        ({"dtype": jnp.bfloat16}, {"dtype": "bfloat16"}),
        ({"param_dtype": np.dtype("float16")}, {"param_dtype": "float16"}),
    ],
)
def test_options_that_json_has_no_types_for(tmp_path, options, noted):
    sizes = {"width": 4, "levels": 2}
    model = drawn_model("attention_unet", **sizes, **options)
    config = {"model": "attention_unet", "options": sizes | options}
    save_pretrained(model, tmp_path, config=config)
    again, config = from_pretrained(tmp_path)
    _assert_same(again, model)
    assert noted.items() <= config["options"].items()
    noisy = jnp.ones((1, 12, 12, 3))
    np.testing.assert_array_equal(again(noisy), model(noisy))


def test_options_that_are_numbers_of_numpy(tmp_path):
    options = {"channels": np.int64(3), "width": np.int64(4), "levels": 2, "blocks": np.int32(1)}
    options["noise_level"] = np.bool_(False)
    config = {"model": "attention_unet", "options": options}
    with unchecked():
        model = drawn_model("attention_unet", **options)
        save_pretrained(model, tmp_path, config=config)
    again, config = from_pretrained(tmp_path)
    _assert_same(again, model)
    assert config["options"] == {
        "channels": 3,
        "width": 4,
        "levels": 2,
        "blocks": 1,
        "noise_level": False,
    }


@pytest.mark.parametrize("number", [np.float32(31.5), jnp.float32(31.5), np.array(31.5)])
def test_numbers_of_arrays_are_noted_as_numbers(tmp_path, number):
    model = drawn_model("dncnn", **OPTIONS)
    save_pretrained(model, tmp_path, config=CONFIG | {"psnr": number, "step": np.int64(7)})
    _, config = from_pretrained(tmp_path)
    assert (config["psnr"], config["step"]) == (31.5, 7)


def test_an_address_is_no_directory():
    with pytest.raises(InputError, match="folder of this machine; got the address gs://bucket/net"):
        save_pretrained(drawn_model("dncnn", **OPTIONS), "gs://bucket/net", config=CONFIG)


def test_the_dtype_of_the_computation_is_ones_own_choice(saved):
    model, directory = saved
    half, config = from_pretrained(directory, dtype="bfloat16")
    _assert_same(half, model)  # parameters keep theirs
    assert config["options"] == OPTIONS
    x = jnp.asarray(np.random.default_rng(0).random((1, 8, 8, 1)), jnp.float32)
    model.eval()
    whole, rounded = np.asarray(model(x)), np.asarray(half(x))
    assert rounded.dtype == np.float32
    # Eight bits, through four convolutions.
    np.testing.assert_allclose(rounded, whole, atol=0.05 * np.abs(whole).max())
    assert np.any(rounded != whole)
    denoised = sa_flax.Denoiser.from_pretrained(directory, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(denoised.apply(denoised.params, x), rounded)


@pytest.mark.parametrize("dtype", ["int8", "bfloat17", jnp.int32])
def test_a_computation_in_no_floating_point_is_refused(saved, dtype):
    _, directory = saved
    with pytest.raises(InputError, match="networks compute in floating-point numbers; got dtype"):
        from_pretrained(directory, dtype=dtype)


def test_an_attention_of_ones_own_is_not_written(tmp_path):
    def own(features, *, rngs, param_dtype):
        return lambda x: x

    sizes = {"width": 4, "levels": 2, "attention": own}
    model = drawn_model("attention_unet", **sizes)
    with pytest.raises(InputError, match="own has no place in a file"):
        save_pretrained(model, tmp_path, config={"model": "attention_unet", "options": sizes})


def test_half_the_size_and_a_card(tmp_path):
    model = drawn_model("dncnn", **OPTIONS)
    save_pretrained(model, tmp_path, config=CONFIG, card="# A network\n", dtype="float16")
    loaded, _ = from_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# A network\n"
    assert load_file(tmp_path / "model.safetensors")["convs.0.kernel"].dtype == np.float16
    for path, leaf in model_leaves(model).items():
        loaded_leaf = model_leaves(loaded)[path][...]
        assert loaded_leaf.dtype == leaf[...].dtype
        np.testing.assert_allclose(loaded_leaf, leaf[...], rtol=2**-10, atol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("int8", 1.0, "saved as one of float16, bfloat16, float32, float64; got int8"),
        ("float8_e4m3fn", 1.0, "got float8_e4m3fn"),
        ("nonsense", 1.0, "dtype 'nonsense' is none of"),
        ("float16", 1e5, "norms.0.scale holds numbers that are not finite in float16"),
        (None, np.nan, "not finite in float32"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(saved, dtype, value, message):
    model, directory = saved
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    model_leaves(model)["norms.0.scale"][...] = jnp.full(OPTIONS["width"], value)
    with pytest.raises(InputError, match=re.escape(message)):
        save_pretrained(model, directory, config=CONFIG, dtype=dtype)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_window_is_not_saved_in_silence(tmp_path):
    options = {"width": 8, "levels": 2, "attention": "shuffle"}
    model = drawn_model("attention_unet", **options).with_window((8, 8))
    with pytest.raises(InputError, match="without with_window"):
        save_pretrained(model, tmp_path, config={"model": "attention_unet", "options": options})


def test_a_run_is_not_overwritten(tmp_path):
    (tmp_path / "starts.jsonl").touch()
    with pytest.raises(InputError, match="the directory of a training run"):
        save_pretrained(drawn_model("dncnn", **OPTIONS), tmp_path, config=CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["starts.jsonl"]


def test_saving_again_replaces(saved):
    _, directory = saved
    other = drawn_model("dncnn", seed=1, **OPTIONS)
    save_pretrained(other, directory, config=CONFIG)
    _assert_same(other, from_pretrained(directory)[0])
    assert len(list(directory.iterdir())) == 2


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"model": "dncnn", "options": {"depth": 5, "width": 4}}, "does not describe"),
        ({"model": "dncnn", "options": {"depth": 4, "width": 3}}, "does not describe"),
        ({"model": "dncnn", "options": {"depht": 4}}, "can't be built"),
        ({"model": "dncn", "options": {}}, "Did you mean 'dncnn'"),
        ({"options": OPTIONS}, "list_models"),
        (CONFIG | {"when": object()}, "JSON"),
        (CONFIG | {"psnr": np.ones(2)}, "JSON: an array is no number"),
        (CONFIG | {"psnr": np.float32("nan")}, "JSON"),
    ],
)
def test_configs_that_do_not_fit_are_not_written(tmp_path, config, match):
    model = drawn_model("dncnn", **OPTIONS)
    with pytest.raises(ValueError, match=match):
        save_pretrained(model, tmp_path / "net", config=config)
    assert not (tmp_path / "net").exists()


def test_everything_in_the_weights_that_does_not_fit_is_listed(saved):
    _, directory = saved
    arrays = load_file(directory / "model.safetensors")
    del arrays["norms.0.mean"]
    arrays["stranger"] = np.ones(2, np.float32)
    arrays["convs.0.kernel"] = arrays["convs.0.kernel"][..., :2].copy()
    save_file(arrays, directory / "model.safetensors")
    with pytest.raises(porting.PortingError) as caught:
        from_pretrained(directory)
    for word in ("norms.0.mean", "stranger", "convs.0.kernel"):
        assert word in str(caught.value)
    assert caught.value.count == 3


def test_damaged_directories(saved):
    _, directory = saved
    whole = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cut short"):
        from_pretrained(directory)
    (directory / "model.safetensors").unlink()
    with pytest.raises(PretrainedError, match=r"no model\.safetensors"):
        from_pretrained(directory)
    for text, match in (("{", "not JSON"), ("[1]", "must hold an object"), ("{}", "needs")):
        (directory / "config.json").write_text(text)
        with pytest.raises(ValueError, match=match):
            from_pretrained(directory)
    (directory / "config.json").unlink()
    with pytest.raises(PretrainedError, match=r"no config\.json"):
        from_pretrained(directory)


def test_names_that_are_nothing(monkeypatch, saved):
    with pytest.raises(PretrainedError, match="no shipped network"):
        from_pretrained("nonsense")
    with pytest.raises(PretrainedError, match="no shipped network"):
        from_pretrained("/no/such/directory")
    model, directory = saved
    monkeypatch.setattr(saved_networks, "_SHIPPED", directory.parent)
    assert list_pretrained() == sa_flax.list_pretrained() == [directory.name]
    _assert_same(from_pretrained(directory.name)[0], model)
    with pytest.raises(PretrainedError, match=f"Did you mean '{directory.name}'"):
        from_pretrained(f"{directory.name}s")


def test_the_hub_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PretrainedError, match=r"sa_flax\[hub\]"):
        from_pretrained("someone/network")


def _fake_hub(monkeypatch, download):
    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)


def test_the_hub_is_asked_for_a_network_and_its_card(monkeypatch, saved):
    model, directory = saved
    asked = []

    def download(name, *, revision, allow_patterns):
        asked.append((name, revision, sorted(allow_patterns)))
        return str(directory)

    _fake_hub(monkeypatch, download)
    _assert_same(from_pretrained("someone/network", revision="v1")[0], model)
    files = ["README.md", "config.json", "model.safetensors"]
    assert asked == [("someone/network", "v1", files)]


def test_without_a_network_the_message_is_clear(monkeypatch):
    def download(*args, **kwargs):
        raise ConnectionError("no route to host\n" + "x" * 1000)

    _fake_hub(monkeypatch, download)
    with pytest.raises(PretrainedError, match="Check the name and the network") as caught:
        from_pretrained("someone/network")
    assert "no route to host" in str(caught.value)
    assert len(str(caught.value)) < 600
