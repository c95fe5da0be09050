"""Networks for darktable: what it reads of a file is there, and what it can't use is refused."""

import json
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sa_flax
from sa_flax.errors import InputError
from sa_flax.inference import darktable, export
from sa_flax.models.saved import card_of, from_pretrained


def network(name: str = "attention_unet", **options) -> nnx.Module:
    """One whose parameters nobody needs to know."""
    return nnx.eval_shape(lambda: sa_flax.create_model(name, **options, rngs=nnx.Rngs(0)))


def test_a_file_as_darktable_reads_it(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = sa_flax.create_model("dncnn", channels=3, depth=3, width=4, rngs=nnx.Rngs(0))
    model.eval()
    path = tmp_path / "denoise-tiny.dtmodel"
    card = {"license": "CC0-1.0", "long_description": "Tiny, for läders."}
    darktable.to_dtmodel(model, path, name="denoise-tiny", card=card)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with zipfile.ZipFile(path) as archive:
        # One folder, called as the file; darktable takes its name from the first entry.
        assert archive.namelist() == ["denoise-tiny/config.json", "denoise-tiny/model.onnx"]
        config = json.loads(archive.read("denoise-tiny/config.json"))
        content = archive.read("denoise-tiny/model.onnx")
    assert {k: config[k] for k in ("id", "name", "task", "backend", "version", "tiling")} == {
        "id": "denoise-tiny",
        "name": "denoise tiny",
        "task": "denoise",
        "backend": "onnx",
        "version": "1.0",
        "tiling": True,
    }
    assert config["description"] == card["long_description"]
    assert config["model_card"] == {"scope": "single-image denoising", **card}
    assert config["attributes"] == {"input_sizes": [768]}
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == (
        "input",
        "tensor(float)",
        [1, 3, "height", "width"],
    )
    assert given.name == "output"
    x = np.random.default_rng(0).random((1, 20, 30, 3), np.float32)
    (clean,) = session.run(None, {"input": x.transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(clean.transpose(0, 2, 3, 1), model(jnp.asarray(x)), atol=1e-5)
    assert export.check(model, path, x[0]) < export.TOLERANCE
    before = path.read_bytes()
    darktable.to_dtmodel(model, path, name="denoise-tiny", card=card)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"channels": 1}, "gives colour pictures to a network; this one takes 1 channels"),
        ({"noise_level": True}, "tells a network nothing of the noise"),
        (
            {"attention": "danet", "attend": "decoder"},
            "smallest tile, 256 x 256, would take 32 GiB",
        ),
    ],
)
def test_what_darktable_cannot_use_is_refused(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        darktable.to_dtmodel(network(**options), tmp_path / "a.dtmodel", name="a", card={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "ä", "-a", "a.b"])
def test_names_that_darktable_refuses(tmp_path, name):
    with pytest.raises(InputError, match="letters, digits"):
        darktable.to_dtmodel(network(), tmp_path / "a.dtmodel", name=name, card={})


def test_entries_that_darktable_does_not_show(tmp_path):
    with pytest.raises(InputError, match="no entry 'licence' in darktable's cards"):
        darktable.to_dtmodel(network(), tmp_path / "a.dtmodel", name="a", card={"licence": "CC0"})


@pytest.mark.parametrize(
    ("options", "tile"),
    [
        ({"attention": "none"}, 768),
        ({"attention": "shuffle", "attend": "both"}, 768),
        ({"attention": {"bottom": "non_local"}, "attend": "both"}, 768),
        ({"attention": {"bottom": "non_local"}, "attend": "both", "levels": 3}, 384),
        (
            {
                "attention": {"bottom": "non_local"},
                "attend": "both",
                "levels": 3,
                "attention_options": {"bottom": {"subsample": 2}},
            },
            512,
        ),
    ],
)
def test_tiles_are_as_large_as_affinities_allow(options, tile):
    assert darktable._tile(network(**options)) == tile


def test_the_card_of_a_shipped_network_says_what_darktable_shows():
    name = sa_flax.list_pretrained()[0]
    entries = darktable.card_of(from_pretrained(name)[1], card_of(name))
    assert entries["license"] == "Apache-2.0"
    assert {"long_description", "training_data", "training_data_license", "notes"} <= set(entries)
    assert not any(mark in text for text in entries.values() for mark in "*`\n")


def test_a_network_without_a_card_says_nothing():
    assert darktable.card_of({"model": "dncnn"}, "") == {}
    assert darktable.card_of({"license": "CC0-1.0"}, "Nothing but a line.") == {
        "license": "CC0-1.0"
    }
