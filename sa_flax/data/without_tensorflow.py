"""What TFDS builders need of TensorFlow to prepare a data set, by the standard library and Pillow.

Builders read their downloads through `tf.io.gfile`, archives are unpacked through it, and arrays
are encoded by `tf.image`. For files on a disk that takes no TensorFlow.
"""

import contextlib
import glob
import importlib
import io
import os
import shutil
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow as lazy_tensorflow


@contextlib.contextmanager
def without_tensorflow() -> Iterator[None]:
    """Inside, TFDS prepares data sets without TensorFlow.

    Raises (inside):
      ImportError: where a builder needs more of TensorFlow, and it isn't installed.
    """
    # The one object behind every `tf` in TFDS and its builders keeps the module here once it has
    # been imported.
    loaded = vars(lazy_tensorflow)
    already = "_module" in loaded
    if not already:
        loaded["_module"] = _StandIn("tensorflow")
    encode = tfds.features.Image.encode_example

    def encode_example(feature: tfds.features.Image, value: Any) -> bytes:
        is_array = isinstance(value, np.ndarray)
        return encoded(feature, value) if is_array else encode(feature, value)

    try:
        with replaced(tfds.features.Image, "encode_example", encode_example):
            yield
    finally:
        if not already:
            loaded.pop("_module", None)


@contextlib.contextmanager
def without_bucket() -> Iterator[None]:
    """Inside, TFDS makes no temporary folders for what it won't download.

    For every builder it makes one, and leaves it, before it looks whether the bucket with notes on
    prepared sets may be asked (by default not).
    """
    with replaced(tfds.core.DatasetInfo, "initialize_from_bucket", lambda info: None):
        yield


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, the attribute `name` of a module or a class is `value`."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def encoded(feature: tfds.features.Image, value: np.ndarray) -> bytes:
    """An array as the bytes of a picture file, as `feature` stores it.

    Raises:
      ValueError: for an array that is no picture of the feature's type.
    """
    if value.ndim != 3 or value.dtype != feature.np_dtype:
        raise ValueError(
            f"a picture should be (H, W, C) {np.dtype(feature.np_dtype)}; got {value.dtype} of "
            f"shape {value.shape}."
        )
    if value.dtype == np.float32:  # one channel, its four bytes as four channels
        value = np.ascontiguousarray(value).view(np.uint8)
    if value.dtype == np.uint16 and value.shape[-1] > 1:
        raise ValueError("pictures with 16 bits in several channels can't be written.")
    picture = Image.fromarray(value[..., 0] if value.shape[-1] == 1 else value)
    file = io.BytesIO()
    if feature.encoding_format == "jpeg":
        picture.save(file, "JPEG", quality=95)
    else:
        picture.save(file, "PNG")
    return file.getvalue()


class _StandIn(types.ModuleType):
    """Takes the place of the module tensorflow."""

    __version__ = "2.1.0"  # the oldest that TFDS takes

    def __init__(self, name: str):
        super().__init__(name)
        self.io = types.SimpleNamespace(gfile=_gfile())
        self.compat = types.SimpleNamespace(as_text=_text, as_str=_text, as_bytes=_bytes)
        self.errors = _Errors()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module("tensorflow"), name)


class _Errors:
    """Classes of errors that nothing raises."""

    NotFoundError = FileNotFoundError
    PermissionDeniedError = PermissionError
    AlreadyExistsError = FileExistsError

    def __getattr__(self, name: str) -> type[Exception]:
        return type(name, (Exception,), {})


def _gfile() -> types.SimpleNamespace:
    return types.SimpleNamespace(
        GFile=lambda name, mode="r": open(name, mode),
        exists=os.path.exists,
        isdir=os.path.isdir,
        listdir=os.listdir,
        glob=lambda pattern: sorted(glob.glob(os.fspath(pattern))),
        mkdir=os.mkdir,
        makedirs=lambda path: os.makedirs(path, exist_ok=True),
        remove=os.remove,
        rename=lambda old, new, overwrite=False: os.replace(old, new),
        copy=lambda old, new, overwrite=False: shutil.copyfile(old, new),
        rmtree=shutil.rmtree,
        stat=os.stat,
        walk=os.walk,
        join=os.path.join,
    )


def _text(value: str | bytes, encoding: str = "utf-8") -> str:
    return value.decode(encoding) if isinstance(value, bytes) else value


def _bytes(value: str | bytes, encoding: str = "utf-8") -> bytes:
    return value.encode(encoding) if isinstance(value, str) else value
