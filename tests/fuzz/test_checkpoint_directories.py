"""Whatever happened to the directory of a network: it is used, or a message says what is wrong.

The directories themselves are only read: nothing in them may change.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file, save_file

from sa_flax.cli import main
from sa_flax.errors import InputError
from sa_flax.inference.denoiser import Denoiser
from sa_flax.models.saved import from_pretrained, model_leaves, save_pretrained
from tests.fuzz.damage import cases, damaged, refusal, snapshot, untouched
from tests.fuzz.test_options import altered, json_values
from tests.torch_reference.weights import drawn_model

CONFIG = {"model": "dncnn", "options": {"depth": 3, "width": 2, "channels": 1}}


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A directory as save_pretrained makes it."""
    directory = tmp_path_factory.mktemp("network")
    save_pretrained(drawn_model("dncnn", **CONFIG["options"]), directory, config=CONFIG)
    return directory


@pytest.fixture
def copy_of(tmp_path):
    """Copies a directory to a place of its own, over the copy of the case before."""

    def copy(directory: Path) -> Path:
        target = tmp_path / "copy"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(directory, target)
        return target

    return copy


def harm(directory: Path, data: st.DataObject) -> None:
    """Removes, replaces, empties or damages one entry of a directory, or adds one."""
    paths = sorted(directory.rglob("*"))
    path = data.draw(st.sampled_from(paths), "path")
    action = data.draw(st.sampled_from(["remove", "other kind", "empty", "add", *["damage"] * 3]))
    if action == "add":
        (path if path.is_dir() else path.parent).joinpath("another").write_bytes(b"")
    elif path.is_dir():
        shutil.rmtree(path)
        if action == "other kind":
            path.write_bytes(b"")
    elif action == "damage" and path.stat().st_size:
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    else:
        path.unlink()
        if action == "other kind":
            path.mkdir()
        elif action == "empty":
            path.write_bytes(b"")


def load_pretrained(directory: Path) -> None:
    model, config = from_pretrained(directory)
    assert isinstance(config, dict)
    for leaf in model_leaves(model).values():
        assert np.isfinite(leaf.get_value()).all()


@cases(250)
@given(st.data())
def test_harmed_directories_of_networks(network, copy_of, data):
    directory = copy_of(network)
    harm(directory, data)
    with untouched(directory):
        refusal(load_pretrained, directory, names=str(directory))


@cases(100)
@given(
    st.sampled_from(["model", "options", "options.depth", "options.width", "options.channels"]),
    json_values | st.sampled_from(["dncnn", "attention_unet", "sa_resnet50", 4, 17, 10**9, 2**16]),
    st.sampled_from(["replace", "remove", "add"]),
)
def test_altered_descriptions_of_networks(network, copy_of, where, value, action):
    directory = copy_of(network)
    described = altered(CONFIG, where.split("."), value, action)
    (directory / "config.json").write_text(json.dumps(described))
    message = refusal(load_pretrained, directory, names=str(directory))
    usual = {"depth": 17, "width": 64, "channels": 1}
    if message is None:  # the same network, perhaps with what stands there anyway left out
        assert {**usual, **described["options"]} == CONFIG["options"]
    elif "options" in described and isinstance(described["options"], dict):
        assert described != CONFIG


@cases(60)
@given(
    st.sampled_from(["convs.0.kernel", "convs.1.kernel", "norms.0.mean", "another"]),
    st.sampled_from(["float16", "int32", "bool", "float64", "complex64"]),
    st.sampled_from([(), (0,), (2,), (3, 3, 1, 2), (3, 3, 2, 2)]),
    st.sampled_from([0, 1, np.nan, np.inf]),
)
def test_weights_of_other_shapes_and_kinds(network, copy_of, name, dtype, shape, value):
    directory = copy_of(network)
    arrays = load_file(directory / "model.safetensors")
    fits = name in arrays and arrays[name].shape == shape
    with np.errstate(invalid="ignore"):
        arrays[name] = np.full(shape, value).astype(dtype)
    usable = fits and dtype.startswith("float") and np.isfinite(value)
    save_file(arrays, directory / "model.safetensors")
    message = refusal(load_pretrained, directory, names=str(directory))
    assert (message is None) == usable
    if message:
        assert name in message


@pytest.mark.parametrize("harmed", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\xff" * 100, b"[" * 50_000, b"{}"])
def test_files_of_something_else(network, copy_of, harmed, content):
    directory = copy_of(network)
    (directory / harmed).write_bytes(content)
    assert refusal(load_pretrained, directory, names=str(directory)) is not None


def test_what_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "empty").mkdir()
    for name in ("file", "file/x", "empty", "nothing", "y" * 300):
        assert refusal(Denoiser.from_pretrained, tmp_path / name, names=name[:40]) is not None


@cases(50)
@given(st.data())
def test_harmed_directories_of_runs(run_directory, copy_of, data):
    directory = copy_of(run_directory)
    harm(directory, data)
    with untouched(directory):
        refusal(Denoiser.from_pretrained, directory, names=directory.name)


def test_a_result_that_is_not_finite_is_not_written(network, copy_of, tmp_path, capsys):
    """Weights that are finite, and large enough for the result not to be."""
    directory = copy_of(network)
    arrays = load_file(directory / "model.safetensors")
    arrays["convs.0.kernel"] = np.full_like(arrays["convs.0.kernel"], 3e38)
    save_file(arrays, directory / "model.safetensors")
    denoiser = Denoiser.from_pretrained(directory)
    picture = np.full((8, 8), 200, np.uint8)
    picture[::2] = 3
    with pytest.raises(InputError, match="not finite"):
        denoiser(picture)
    Image.fromarray(picture).save(tmp_path / "a.png")
    before = snapshot(tmp_path)
    words = ["denoise", tmp_path / "a.png", "--output", tmp_path / "out", "--model", directory]
    assert main([str(word) for word in words]) == 1
    assert "a.png" in capsys.readouterr().err
    assert snapshot(tmp_path) == before
