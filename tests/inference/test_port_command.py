"""`sa-flax port`, and what it writes under `sa-flax evaluate` and `Denoiser`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import sa_flax
from sa_flax.cli import main
from tests.torch_reference.dncnn import DnCNN as TorchDnCNN
from tests.torch_reference.sa_resnet import SAResNet as TorchSAResNet
from tests.torch_reference.weights import nchw, nhwc, randomise


@pytest.fixture
def checkpoint(tmp_path):
    twin = randomise(TorchDnCNN(1, 3, 4)).eval()
    torch.save(twin.state_dict(), tmp_path / "net.pth")
    return twin, tmp_path / "net.pth"


def test_ported_and_used(checkpoint, tmp_path, capsys):
    twin, source = checkpoint
    out = str(tmp_path / "out")
    assert main(["port", str(source), "--architecture", "dncnn", "--output", out]) == 0
    assert capsys.readouterr().out == f"{source} -> {out}\n"

    denoiser = sa_flax.Denoiser.from_pretrained(out)
    noisy = np.random.default_rng(0).random((12, 14), np.float32)
    with torch.no_grad():
        expected = nhwc(twin(nchw(noisy[None, :, :, None])))[0, :, :, 0]
    np.testing.assert_allclose(denoiser(noisy), np.clip(expected, 0, 1), atol=1e-5)

    (tmp_path / "pictures").mkdir()
    Image.fromarray((noisy * 255).astype(np.uint8)).save(tmp_path / "pictures" / "a.png")
    command = ["evaluate", out, "--images", str(tmp_path / "pictures"), "--sigma", "25"]
    assert main([*command, "--json", str(tmp_path / "result.json")]) == 0
    rows = json.loads((tmp_path / "result.json").read_text())["results"]
    assert [row["sigma"] for row in rows] == [25, 25]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.pth", "--architecture", "dncnn"], "no such file"),
        (["net.pth", "--architecture", "dncn"], "Did you mean 'dncnn'"),
        (["net.pth", "--architecture", "attention_unet"], "not the attention U-Net's weights"),
        (["net.pth", "--architecture", "sa_resnet50", "--fold"], "not SA-ResNet's weights"),
        (["net.txt", "--architecture", "dncnn"], "not a checkpoint"),
    ],
)
def test_wrong_requests(checkpoint, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.txt").write_text("text")
    assert main(["port", *arguments, "--output", "out"]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "out").exists()


def test_a_directory_that_can_not_be_written(checkpoint, tmp_path, capsys):
    _, source = checkpoint
    command = ["port", str(source), "--architecture", "dncnn", "--output", str(source / "out")]
    assert main(command) == 2
    assert "can't be written" in capsys.readouterr().err


def test_a_classifier_is_no_denoiser(tmp_path, capsys):
    twin = TorchSAResNet(width=8, num_classes=2, groups=4)
    torch.save({"state_dict": twin.state_dict()}, tmp_path / "net.pth.tar")
    out = str(tmp_path / "out")
    source = str(tmp_path / "net.pth.tar")
    assert main(["port", source, "--architecture", "sa_resnet50", "--output", out]) == 0
    assert main(["denoise", source, "--output", str(tmp_path / "o"), "--model", out]) == 2
    assert "is not a denoiser" in capsys.readouterr().err
