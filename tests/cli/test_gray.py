"""Gray pictures: never through a network that knows colour noise only; all commands agree."""

import json

import numpy as np
import pytest
from PIL import Image

from sa_flax.inference.denoiser import Denoiser
from sa_flax.models import saved
from sa_flax.models.saved import model_leaves, save_pretrained
from sa_flax.models.saved_use import suits_gray
from sa_flax.pictures import read_picture
from tests.torch_reference.weights import drawn_model


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package that comes with the tiny networks color and gray; gray halves what it sees."""
    for name, channels in (("color", 3), ("gray", 1)):
        options = {"width": 4, "levels": 1, "channels": channels, "attention": "none"}
        model = drawn_model("attention_unet", **options)
        for leaf in model_leaves(model).values():
            leaf.set_value(leaf.get_value() * 0.3)
        config = {"model": "attention_unet", "options": options}
        save_pretrained(model, tmp_path / "shipped" / name, config=config)
    monkeypatch.setattr(saved, "_SHIPPED", tmp_path / "shipped")


@pytest.fixture
def gray_file(tmp_path):
    picture = np.random.default_rng(0).integers(60, 200, (24, 20), np.uint8)
    Image.fromarray(picture).save(tmp_path / "gray.png")
    Image.fromarray(picture).convert("RGB").save(tmp_path / "as_rgb.png")
    return tmp_path / "gray.png"


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("name", ["gray.png", "as_rgb.png"])
def test_another_network_is_taken_and_said(sa_flax, gray_file, tmp_path, name):
    source = gray_file.with_name(name)
    code, out, err = sa_flax("denoise", source, "--model", "color", "--output", tmp_path / "o.png")
    assert code == 0
    assert "network: color" in out
    assert "gray pictures go through the network 'gray'" in err
    pixels = read_picture(source).pixels
    expected = Denoiser.from_pretrained("gray")(pixels)
    np.testing.assert_array_equal(read_picture(tmp_path / "o.png").pixels, expected)


@pytest.mark.usefixtures("shipped")
def test_evaluate_takes_the_same(sa_flax, gray_file, tmp_path):
    (tmp_path / "as_rgb.png").unlink()
    scores = {}
    for name in ("color", "gray"):
        code, _, _ = sa_flax(
            *("evaluate", name, "--images", tmp_path, "--sigma", 25),
            *("--json", tmp_path / f"{name}.json"),
        )
        assert code == 0
        rows = json.loads((tmp_path / f"{name}.json").read_text())["results"]
        scores[name] = [row["psnr"] for row in rows if row["method"] == name]
    assert scores["color"] == scores["gray"]


def test_without_one_the_picture_is_refused(sa_flax, shipped, gray_file, tmp_path, monkeypatch):
    del shipped
    color = tmp_path / "shipped" / "color"
    monkeypatch.setattr(saved, "_SHIPPED", tmp_path / "none")
    code, _, err = sa_flax("denoise", gray_file, "--model", color, "--output", tmp_path / "o.png")
    assert code == 1
    assert "knows the noise of colour pictures only" in err
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    ("config", "suits"),
    [
        ({"options": {"channels": 1}}, True),
        ({"options": {"channels": 3}}, False),
        ({"options": {"channels": 3}, "training": {"gray_share": 0.15}}, True),
        ({"options": {}, "training": {"config": {"data": {"gray_share": 0.1}}}}, True),
        ({"options": {}, "training": {"config": {"data": {"gray_share": 0.0}}}}, False),
    ],
)
def test_what_suits_gray_pictures(config, suits):
    assert suits_gray(config) is suits
