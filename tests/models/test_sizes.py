"""Files that would take far more memory than their size: refused by their headers."""

import json
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from flax import nnx

import sa_flax
from sa_flax.models import saved
from sa_flax.porting import CheckpointError, read_checkpoint, write_checkpoint

MIB = 2**20
CLAIMED = 256 * MIB


def stretched(path: Path, **options) -> None:
    """One number, stretched to 256 MiB by its strides."""
    torch.save({"a": torch.ones(1).expand(CLAIMED // 4)}, path, **options)


def compressed(path: Path) -> None:
    """A zip archive with 256 MiB of zeros beside the tensor."""
    torch.save({"a": torch.zeros(3)}, path.with_suffix(".plain"))
    with (
        zipfile.ZipFile(path.with_suffix(".plain")) as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
        with packed.open(f"{path.stem}/data/9", "w", force_zip64=True) as more:
            for _ in range(16):
                more.write(bytes(CLAIMED // 16))


def sparse_safetensors(path: Path, size: int = CLAIMED) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}})
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + size)


MAKERS = {
    "stretched.pth": stretched,
    "old.pth": lambda path: stretched(path, _use_new_zipfile_serialization=False),
    "compressed.pth": compressed,
    "sparse.safetensors": sparse_safetensors,
}


@pytest.mark.parametrize("name", MAKERS)
def test_refused_by_size_before_it_is_read(tmp_path, name):
    path = tmp_path / name
    MAKERS[name](path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=rf"{name}: would take 256 MiB .*--largest 1"):
        read_checkpoint(path, largest=128 * MIB)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024, "KiB: what a checkpoint of this size takes was taken"


def test_a_saved_network_with_another_networks_weights(tmp_path, monkeypatch):
    """Its limit is that of the network which its config describes: there is nothing to raise."""
    model = sa_flax.create_model("dncnn", channels=1, depth=3, width=4, rngs=nnx.Rngs(0))
    sa_flax.save_pretrained(
        model,
        tmp_path,
        config={"model": "dncnn", "options": {"channels": 1, "depth": 3, "width": 4}},
    )
    sparse_safetensors(tmp_path / "model.safetensors")
    monkeypatch.setattr(saved, "LARGEST_CHECKPOINT", 128 * MIB)
    with pytest.raises(CheckpointError, match=r"256 MiB .* the two don't belong together"):
        sa_flax.from_pretrained(tmp_path)


def test_the_limit_counts_what_is_there(tmp_path):
    array = np.ones((256, 1024), np.float32)
    for name in ("a.pth", "a.safetensors"):
        write_checkpoint(tmp_path / name, {"w": array})
        assert read_checkpoint(tmp_path / name, largest=array.nbytes + 4096)["w"].shape
        with pytest.raises(CheckpointError, match="raise the limit"):
            read_checkpoint(tmp_path / name, largest=array.nbytes - 1)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"\xff" * 8, "claims"),
        (b"\x02" + bytes(7) + b"[]", "no object"),
        (b"\x02" + bytes(7) + b"{}" + b"more", "4 are there"),
        (b"\x0f" + bytes(7) + b'{"a": {"b": 1}}', "damaged"),
        (b"\x02" + bytes(7) + b"{x", "damaged"),
    ],
)
def test_headers_that_are_none(tmp_path, header, said):
    (tmp_path / "a.safetensors").write_bytes(header)
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(tmp_path / "a.safetensors")


def test_a_reader_that_panics_is_an_error_with_a_message(tmp_path):
    """With a limit on memory, a large file ends in a panic of the reader or a MemoryError."""
    sparse_safetensors(tmp_path / "big.safetensors", 3 * 1024 * MIB)
    script = f"""
import resource
from sa_flax.porting import CheckpointError, read_checkpoint
resource.setrlimit(resource.RLIMIT_AS, ({2048 * MIB}, {2048 * MIB}))
try:
    read_checkpoint({str(tmp_path / "big.safetensors")!r})
except CheckpointError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "big.safetensors: " in done.stdout, done.stderr
    assert "memory" in done.stdout
