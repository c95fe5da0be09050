"""Checkpoints of every kind are read, and nothing in them is run."""

import argparse
import builtins
import os
import pickle

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import save_file

from sa_flax.porting.checkpoints import (
    CheckpointError,
    as_arrays,
    read_checkpoint,
    unwrap,
    write_checkpoint,
)

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def _assert_is_weights(arrays):
    assert arrays.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy())


@pytest.mark.parametrize("ending", ["pth", "pth.tar", "pt", "ckpt", "bin"])
def test_pickled_checkpoints(tmp_path, ending):
    path = tmp_path / f"net.{ending}"
    torch.save({"epoch": 3, "state_dict": WEIGHTS, "optimizer": {"lr": 0.1}}, path)
    _assert_is_weights(read_checkpoint(path))


def test_the_old_pickle_format(tmp_path):
    torch.save(WEIGHTS, tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    _assert_is_weights(read_checkpoint(str(tmp_path / "net.pth")))


def _without_torch(monkeypatch):
    real = builtins.__import__

    def blocked(name, *args, **kwargs):
        if name.split(".")[0] == "torch":
            raise ImportError("blocked by the test")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", blocked)


def test_safetensors_need_no_torch(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    write_checkpoint(path, {name: tensor.numpy() for name, tensor in WEIGHTS.items()})
    _without_torch(monkeypatch)
    _assert_is_weights(read_checkpoint(path))


def test_pickles_without_torch_say_what_to_do(tmp_path, monkeypatch):
    torch.save(WEIGHTS, tmp_path / "net.pth")
    _without_torch(monkeypatch)
    with pytest.raises(CheckpointError, match="pip install torch"):
        read_checkpoint(tmp_path / "net.pth")


def test_a_torch_whose_safe_mode_is_unsafe_is_refused(tmp_path, monkeypatch):
    torch.save(WEIGHTS, tmp_path / "net.pth")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(CheckpointError, match=r"2\.6"):
        read_checkpoint(tmp_path / "net.pth")


class _Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("how", ["torch.save", "old torch.save", "pickle"])
def test_code_in_a_pickle_is_not_run(tmp_path, how):
    target, path = tmp_path / "was_here", tmp_path / "net.pth"
    content = {"state_dict": WEIGHTS, "extra": _Bomb(target)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch.save")
    with pytest.raises(CheckpointError, match="could run code") as caught:
        read_checkpoint(path)
    assert not target.exists()
    assert "net.pth" in str(caught.value)
    assert len(str(caught.value)) < 800
    # The bomb is live: it is the reader that kept it from going off.
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert target.exists()


def test_objects_in_a_checkpoint_are_refused_with_advice(tmp_path):
    content = {"args": argparse.Namespace(lr=1), "state_dict": WEIGHTS}
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="state_dict"):
        read_checkpoint(tmp_path / "net.pth")


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.95])
def test_truncated_files(tmp_path, ending, kept):
    path = tmp_path / f"net.{ending}"
    write_checkpoint(path, {"w": np.random.default_rng(0).random((50, 50), np.float32)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(CheckpointError, match=path.name):
        read_checkpoint(path)


@pytest.mark.parametrize("ending", ["pth", "pt", "safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"hello, I am no checkpoint", b"PK\x03\x04 nor a zip", b"\x89PNG\r\n\x1a\n", b"\x80"],
)
def test_files_that_are_no_checkpoints(tmp_path, ending, content):
    path = tmp_path / f"net.{ending}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [torch.ones(3), [torch.ones(2)], {}, {"epoch": 3}, 5])
def test_content_that_is_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="state dict"):
        read_checkpoint(tmp_path / "net.pth")


def test_entries_that_are_not_dense_arrays_are_named():
    sparse = torch.eye(3).to_sparse()
    with pytest.raises(CheckpointError, match=r"b .*Tensor.*c .*str"):
        as_arrays({"a": np.ones(2), "b": sparse, "c": "text"})


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="directory"):
        read_checkpoint(tmp_path)
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"\.safetensors"):
        read_checkpoint(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    "wrapped",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "epoch": 1},
        {"params": WEIGHTS},
        {"params": {"a.weight": torch.zeros(1)}, "params_ema": WEIGHTS},
        {"model": WEIGHTS, "optimizer": {"state": {}}},
        {"model": {"state_dict": WEIGHTS}},
        {f"module.{name}": value for name, value in WEIGHTS.items()},
        {"state_dict": {f"module.{name}": value for name, value in WEIGHTS.items()}},
        {f"_orig_mod.module.{name}": value for name, value in WEIGHTS.items()},
    ],
)
def test_wrappers_are_taken_off(wrapped):
    _assert_is_weights(as_arrays(wrapped))


def test_a_prefix_that_only_some_names_have_stays():
    names = {"module.a": 1, "b": 2}
    assert unwrap(names) == names


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2"])
def test_numbers_of_eight_bits(tmp_path, kind):
    """NumPy has none. From PyTorch's own files they come as float32; of safetensors it is said."""
    tensor = torch.tensor([0.5, -2.0, 0.0]).to(getattr(torch, kind))
    torch.save({"a": tensor}, tmp_path / "a.pth")
    read = as_arrays(read_checkpoint(tmp_path / "a.pth"))
    np.testing.assert_array_equal(read["a"], np.float32([0.5, -2.0, 0.0]))
    safetensors.torch.save_file({"a": tensor}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="save them as float16 or float32"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_conjugates_are_resolved():
    values = torch.tensor([1 + 2j]).conj()
    np.testing.assert_array_equal(as_arrays({"a": values})["a"], [1 - 2j])


def test_bfloat16_and_float16_keep_their_values(tmp_path):
    values = torch.tensor([1.0, -0.375, 3e38])
    torch.save({"w": values.bfloat16(), "h": values[:2].half()}, tmp_path / "net.pth")
    arrays = read_checkpoint(tmp_path / "net.pth")
    np.testing.assert_array_equal(arrays["w"], values.bfloat16().float().numpy())
    np.testing.assert_array_equal(arrays["h"], values[:2].numpy())
    save_file({"w": values.numpy().astype(ml_dtypes.bfloat16)}, tmp_path / "net.safetensors")
    again = read_checkpoint(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(again["w"].astype("f4"), arrays["w"])


@pytest.mark.parametrize("ending", ["pth", "pt", "safetensors"])
def test_written_files_are_read_back_and_replaced_whole(tmp_path, ending):
    path = tmp_path / f"net.{ending}"
    path.write_bytes(b"old")
    arrays = {
        "a": np.arange(6, dtype="f4").reshape(2, 3).T,
        "b": np.array(0, np.int64),
        "c": np.ones(4),
    }
    write_checkpoint(path, arrays)
    back = read_checkpoint(path)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_nothing_is_left_behind_where_writing_fails(tmp_path):
    with pytest.raises(CheckpointError, match="can write"):
        write_checkpoint(tmp_path / "net.onnx", {"a": np.ones(1)})
    with pytest.raises(TypeError):
        write_checkpoint(tmp_path / "net.pth", {"a": np.array(["text"])})
    assert list(tmp_path.iterdir()) == []
