"""A PyTorch checkpoint as a saved network."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sa_flax import porting
from sa_flax.models.saved import from_pretrained
from sa_flax.porting.port import port_checkpoint
from tests.torch_reference.dncnn import DnCNN as TorchDnCNN
from tests.torch_reference.weights import drawn_model, nchw, nhwc, randomise


@pytest.mark.parametrize("fold", [False, True])
def test_port_checkpoint(tmp_path, fold):
    twin = randomise(TorchDnCNN(1, 4, 4)).eval()
    source = tmp_path / "net.pth.tar"
    torch.save({"state_dict": {f"module.{k}": v for k, v in twin.state_dict().items()}}, source)
    port_checkpoint(
        source, "dncnn", tmp_path / "out", fold=fold, torch_file=tmp_path / "back.safetensors"
    )
    model, config = from_pretrained(tmp_path / "out")
    assert config["model"] == "dncnn"
    assert config["options"]["batch_norm"] is not fold
    assert config["source"]["file"] == "net.pth.tar"
    x = np.random.default_rng(0).random((1, 6, 6, 1), np.float32)
    with torch.no_grad():
        expected = nhwc(twin(nchw(x)))
    np.testing.assert_allclose(np.asarray(model(jnp.asarray(x))), expected, rtol=1e-5, atol=1e-5)
    back = TorchDnCNN(1, 4, 4, batch_norm=not fold, bias=fold).eval()
    arrays = load_file(tmp_path / "back.safetensors")
    back.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()}, strict=True)
    with torch.no_grad():
        np.testing.assert_allclose(nhwc(back(nchw(x))), expected, rtol=1e-5, atol=1e-5)


def test_only_dncnn_folds(tmp_path):
    model = drawn_model("attention_unet", width=4, levels=1)
    porting.write_checkpoint(tmp_path / "net.safetensors", porting.to_torch(model))
    with pytest.raises(ValueError, match="only DnCNN"):
        port_checkpoint(tmp_path / "net.safetensors", "attention_unet", tmp_path / "o", fold=True)
    port_checkpoint(tmp_path / "net.safetensors", "attention_unet", tmp_path / "o")
    assert json.loads((tmp_path / "o" / "config.json").read_text())["options"]["levels"] == 1
