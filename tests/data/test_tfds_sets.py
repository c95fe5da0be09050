"""TFDS sets of every kind without TensorFlow and without a connection."""

import gzip
import http.server
import io
import os
import pickle
import struct
import sys
import tarfile
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.image_classification import cifar, mnist

from sa_flax.data import preparing
from sa_flax.data.builders import PHOTOGRAPHS, open_splits, prepared_in
from sa_flax.data.preparing import cache_directory
from sa_flax.errors import InputError

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (40, 20, 24, 3), np.uint8)


class SmallBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """40 pictures in `SPLITS`, with `FEATURES`, as `value` gives them."""

    VERSION = tfds.core.Version("1.2.0")
    SPLITS = ("train",)
    FEATURES: dict = {}  # noqa: RUF012

    def _info(self):
        features = tfds.features.FeaturesDict(dict(self.FEATURES))
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        self.asked = dl_manager
        return {name: self._generate_examples() for name in self.SPLITS}

    def _generate_examples(self):
        for index, picture in enumerate(PICTURES):
            yield index, self.value(index, picture)


class ArraysOfPixels(SmallBuilder):
    """Yields arrays, as mnist and cifar10 do."""

    SPLITS = ("train", "dev")
    FEATURES = {"image": tfds.features.Image(shape=(20, 24, 3)), "label": np.int64}  # noqa: RUF012

    def value(self, index, picture):
        return {"image": picture, "label": index}


class EncodedFiles(SmallBuilder):
    """Yields files, of several sizes, and other pictures beside."""

    FEATURES = {  # noqa: RUF012
        "depth": tfds.features.Image(shape=(None, None, 1), dtype=np.float32),
        "mask": tfds.features.LabeledImage(labels=3, shape=(None, None, 1)),
        "lr": tfds.features.Image(),
        "hr": tfds.features.Image(),
    }

    def value(self, index, picture):
        picture = picture[: 12 + index % 9]
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        return {
            "depth": np.full((4, 4, 1), index / 7, np.float32),
            "mask": np.ones((3, 3, 1), np.uint8),
            "lr": np.ascontiguousarray(picture[::2, ::2]),
            "hr": io.BytesIO(file.getvalue()),
        }


class NumbersOnly(SmallBuilder):
    FEATURES = {"value": np.int64, "depth": tfds.features.Image(shape=(4, 4, 1), dtype=np.float32)}  # noqa: RUF012

    def _split_generators(self, dl_manager):
        raise AssertionError("it was asked to download")


class FarAway(SmallBuilder):
    FEATURES = {"image": tfds.features.Image()}  # noqa: RUF012

    def _split_generators(self, dl_manager):
        return {"train": dl_manager.download("http://nowhere.invalid/a.zip")}


class Broken(SmallBuilder):
    FEATURES = {"image": tfds.features.Image(shape=(2, 2, 3))}  # noqa: RUF012

    def value(self, index, picture):
        return {"image": picture.astype(np.int32)}


class NeedsTensorFlow(SmallBuilder):
    FEATURES = {"image": tfds.features.Image()}  # noqa: RUF012

    def value(self, index, picture):
        from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow

        return {"image": tensorflow.image.resize(picture, (4, 4))}


class TestSetOnly(SmallBuilder):
    __test__ = False
    SPLITS = ("test", "validation")
    FEATURES = {"image": tfds.features.Image()}  # noqa: RUF012

    def value(self, index, picture):
        return {"image": picture}


for _builder in (
    ArraysOfPixels, EncodedFiles, NumbersOnly, FarAway, Broken, NeedsTensorFlow, TestSetOnly
):  # fmt: skip
    tfds.core.registered._DATASET_REGISTRY[_builder.name] = _builder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _no_traces(monkeypatch, tmp_path):
    """Nothing is left among temporary files, and nobody has TensorFlow afterwards."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield
    assert list(temporary.iterdir()) == []
    assert "tensorflow" not in sys.modules


def test_the_bundled_photographs(cache):
    splits = open_splits("photographs", directory=cache)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (26, 4, 6)
    shown = {p.read_bytes(): p.name for p in PHOTOGRAPHS.glob("*.jpg")}
    names = {
        split: {shown[part.encoded(i)] for i in range(len(part))}
        for split in ("train", "validation", "test")
        if (part := getattr(splits, split))
    }
    assert sum(map(len, names.values())) == len(set.union(*names.values())) == 36
    stored = Image.open(io.BytesIO(splits.test.encoded(0)))
    np.testing.assert_array_equal(splits.test[0]["clean"], np.asarray(stored))
    assert sum(p.stat().st_size for p in PHOTOGRAPHS.iterdir()) < 4e6
    listed = (PHOTOGRAPHS / "LICENSES.tsv").read_text()
    for path in PHOTOGRAPHS.glob("*.jpg"):
        assert path.name in listed
    for line in listed.splitlines()[1:]:
        assert line.split("\t")[3].startswith(("CC0", "public domain"))


def test_a_builder_that_yields_arrays(cache, capsys):
    splits = open_splits("arrays_of_pixels", directory=cache)
    assert "preparing the TFDS data set arrays_of_pixels/1.2.0" in capsys.readouterr().err
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (38, 40, 2)
    assert splits.notes == ("TFDS splits: train[2:] to train, dev to validate, train[0:2] to test",)
    found = {example["clean"].tobytes() for part in (splits.train, splits.test) for example in part}
    assert found == {picture.tobytes() for picture in PICTURES}
    again = pickle.loads(pickle.dumps(splits.train))
    np.testing.assert_array_equal(again[3]["clean"], splits.train[3]["clean"])
    with pytest.raises(
        InputError,
        match=r"no picture in train\[2:\] .* 32 pixels.*all are 20 x 24 pixels.*--data.crop",
    ):
        open_splits("arrays_of_pixels", directory=cache, crop=32)


def test_a_builder_that_yields_files(cache):
    splits = open_splits("encoded_files", directory=cache, crop=16)
    assert "of the entries with pictures (hr, lr), hr is used" in splits.notes
    # Of 40 pictures the heights are 12 to 20, each number in turn.
    heights = [12 + i % 9 for i in range(40)]
    small = sum(h < 16 for h in heights)
    assert 0 < len(splits.skipped) <= small
    assert len(splits.train) + len(splits.validation) + len(splits.test) + len(splits.skipped) == 40
    for example in splits.train:
        assert example["clean"].shape[0] >= 16
        assert example["clean"].shape[1:] == (24, 3)
    assert "pixels; its shorter side must have 16" in splits.skipped[0]


def test_sets_without_pictures_are_refused_before_anything_is_downloaded(cache):
    with pytest.raises(InputError, match=r"'numbers_only' has no pictures; its .* value, depth"):
        open_splits("numbers_only", directory=cache)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("far_away", "must be downloaded, and nowhere.invalid can't be reached.*--data.source"),
        ("broken", "can't be prepared: .* should be .H, W, C. uint8; got int32 of shape"),
        ("needs_tensor_flow", "can't be prepared: .*No module named 'tensorflow'"),
        ("test_set_only", "nothing to train on: its splits are test, validation"),
        ("arrays_of_pixels:7.7.7", "is not to be had: .*only: 1.2.0"),
        ("arrays_of_pixels/big", "is not to be had: "),
        ("arrays_of_pixel", "Did you mean 'arrays_of_pixels'"),
        ("photograps", "Did you mean 'photographs'"),
        ("./missing", "no folder './missing'"),
        ("", "no folder ''"),
    ],
)
def test_sets_that_can_not_be_had(cache, name, message):
    with pytest.raises(InputError, match=message) as refused:
        open_splits(name, directory=cache)
    assert "\n" not in str(refused.value)


def test_prepared_sets_are_found(cache, tmp_path, monkeypatch):
    open_splits("arrays_of_pixels", directory=cache)
    whole = Path(cache, "tfds", "arrays_of_pixels", "1.2.0")

    def refuse(*args, **kwargs):
        raise AssertionError("it was prepared again")

    monkeypatch.setattr(ArraysOfPixels, "_split_generators", refuse)
    assert prepared_in(whole) == prepared_in(whole.parent) == whole
    for source, directory in (
        (str(whole), None),
        (str(whole.parent), None),
        (str(whole.parent.parent), None) if len(os.listdir(whole.parent.parent)) == 1 else ("", ""),
        ("arrays_of_pixels:1.2.0", cache),
        ("arrays_of_pixels:1.*.*", cache),
        ("arrays_of_pixels", str(whole.parent.parent)),
        ("arrays_of_pixels:1.2.0", str(whole.parent.parent)),
    ):
        if source:
            splits = open_splits(source, directory=directory)
            assert len(splits.train) == 38, source
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(whole.parent.parent))
    assert len(open_splits("arrays_of_pixels", directory=str(tmp_path / "new")).train) == 38
    assert not (tmp_path / "new").exists()
    several = tmp_path / "several"
    several.mkdir()
    for name in ("one", "two"):
        (several / name).symlink_to(whole)
    with pytest.raises(InputError, match=r"holds several prepared data sets. Give one of them"):
        open_splits(str(several))


def test_a_prepared_set_is_read_where_nothing_can_be_written(cache, monkeypatch):
    open_splits("photographs", directory=cache)
    before = sorted(Path(cache).rglob("*"))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    for owner, name in (
        (os, "mkdir"),
        (os, "makedirs"),
        (Path, "mkdir"),
        (preparing.filelock, "FileLock"),
    ):
        monkeypatch.setattr(owner, name, refuse)
    assert len(open_splits("photographs", directory=cache).train) == 26
    assert sorted(Path(cache).rglob("*")) == before
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    with pytest.raises(InputError, match=r"can't prepare .*Permission denied.*--data.directory"):
        open_splits("photographs", directory=cache)


def test_where_sets_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory("~/sets") == tmp_path / "sets"
    assert cache_directory(None) == Path("/x/sa_flax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory(None) == tmp_path / ".cache" / "sa_flax"
    # Neither HOME nor an entry in passwd: a folder of the user's own.
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    own = cache_directory(None)
    assert own.parent == Path(tempfile.gettempdir())
    assert cache_directory(None) == own
    assert own.stat().st_mode & 0o777 == 0o700
    own.rmdir()
    monkeypatch.setattr(tempfile, "tempdir", "/")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(Path, "mkdir", lambda self, mode: None)
    monkeypatch.setattr(os, "stat", lambda path, follow_symlinks: os.lstat("/"))
    with pytest.raises(InputError, match=r"belongs to someone else.* Give a folder with --data"):
        cache_directory(None)


@pytest.fixture
def server(tmp_path):
    """Serves a folder on this machine: its address and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/", folder
        running.shutdown()
        thread.join()


def test_mnist_itself(server, tmp_path, monkeypatch):
    """TFDS's own builder, on fewer digits."""
    address, folder = server
    digits = RNG.integers(0, 256, (30, 28, 28), np.uint8)
    for names, count in (
        ((mnist._MNIST_TRAIN_DATA_FILENAME, mnist._MNIST_TRAIN_LABELS_FILENAME), 30),
        ((mnist._MNIST_TEST_DATA_FILENAME, mnist._MNIST_TEST_LABELS_FILENAME), 20),
    ):
        pixels = struct.pack(">4i", 2051, count, 28, 28) + digits[:count].tobytes()
        labels = struct.pack(">2i", 2049, count) + bytes(count)
        for name, content in zip(names, (pixels, labels), strict=True):
            (folder / name).write_bytes(gzip.compress(content))
    monkeypatch.setattr(mnist.MNIST, "URL", address)
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", 30)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", 20)
    splits = open_splits("mnist", directory=str(tmp_path / "cache"), crop=28)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (28, 2, 20)
    shown = {example["clean"][..., 1].tobytes() for example in splits.test}
    assert shown == {digit.tobytes() for digit in digits[:20]}


def test_cifar10_itself(server, tmp_path, monkeypatch):
    address, folder = server
    pixels = RNG.integers(0, 256, (25, 3, 32, 32), np.uint8)
    with tarfile.open(folder / "cifar.tar.gz", "w:gz") as archive:
        records = b"".join(b"\1" + picture.tobytes() for picture in pixels)
        for name, content in (
            ("batches.meta.txt", "\n".join(f"kind{i}" for i in range(10)).encode()),
            ("train.bin", records),
            ("test.bin", records[: 3073 * 5]),
        ):
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    info = cifar.Cifar10._cifar_info.fget(cifar.Cifar10.__new__(cifar.Cifar10))
    ours = info._replace(
        url=f"{address}cifar.tar.gz", train_files=["train.bin"], test_files=["test.bin"]
    )
    monkeypatch.setattr(cifar.Cifar10, "_cifar_info", ours)
    splits = open_splits("cifar10", directory=str(tmp_path / "cache"), crop=32)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (24, 1, 5)
    shown = {example["clean"].tobytes() for example in splits.test}
    assert shown == {np.ascontiguousarray(p.transpose(1, 2, 0)).tobytes() for p in pixels[:5]}
