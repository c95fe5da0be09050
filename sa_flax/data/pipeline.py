"""From stored pictures to batches of training crops: tfds -> grain -> (B, crop, crop, C) uint8.

Every batch is a function of the seed and its index alone, whatever the number of threads, worker
processes or hosts. That makes the data position of a run one number.
"""

import re
import threading
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from sa_flax.config import DataConfig
from sa_flax.data.builders import Splits
from sa_flax.data.transforms import FlipAndRotate, SomeGray, TexturedCrop, too_small
from sa_flax.errors import InputError, WorkerDiedError
from sa_flax.pictures import to_channels


class Batches(Iterator[np.ndarray]):
    """The batches that `training_batches` makes.

    Raises (from `next`):
      InputError: where a picture is smaller than the crop, or can't be decoded.
      WorkerDiedError: where a worker process is gone; grain notices it within seconds.
    """

    def __init__(self, batches: grain.DatasetIterator[np.ndarray]):
        self._batches = batches

    def __next__(self) -> np.ndarray:
        try:
            return next(self._batches)
        except RuntimeError as error:
            # grain has no class of its own for this.
            found = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
            if found is None:
                raise
            raise WorkerDiedError(_why_it_died(int(found[1]))) from error

    def close(self) -> None:
        """Ends threads and worker processes."""
        self._batches.close()


def _why_it_died(code: int) -> str:
    if code != -9:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return (
            f"a worker process that prepares training data {how}; what it said stands above. With "
            "--data.workers 0 threads do its work. The same command goes on from the last "
            "checkpoint."
        )
    return (
        "a worker process that prepares training data was killed (signal 9), perhaps for lack of "
        "memory: every worker keeps decoded pictures of its own. Lower --data.cache-mb or "
        "--data.workers; the same command goes on from the last checkpoint."
    )


class Pictures(Sequence[np.ndarray]):
    """A split as a sequence of decoded (H, W, channels) uint8 pictures.

    Decoded pictures are kept in memory until `cache_bytes` are used; the rest are decoded each
    time.

    Args:
      records: a random-access source of encoded pictures.
      splits: the data set it belongs to, which knows how to decode a record.
      channels: 3 for RGB, 1 for gray (ITU-R 601 luma).
      cache_bytes: how much decoded data may be kept.
    """

    def __init__(self, records: Sequence, splits: Splits, *, channels: int, cache_bytes: int = 0):
        self._records, self._image_of, self._channels = records, splits.image_of, channels
        self._cache: dict[int, np.ndarray] = {}
        self._limit = self._room = cache_bytes
        self._lock = threading.Lock()

    @property
    def cache_limit_bytes(self) -> int:
        """How many bytes of decoded pictures may be kept."""
        return self._limit

    @property
    def cache_used_bytes(self) -> int:
        """How many bytes of decoded pictures are kept now, in this process.

        Worker processes have caches of their own, which this does not count.
        """
        return self._limit - self._room

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index):
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        picture = to_channels(self._image_of(self._records[index]), self._channels)
        with self._lock:
            if index not in self._cache and picture.nbytes <= self._room:
                self._cache[index] = picture
                self._room -= picture.nbytes
        return picture

    def __getstate__(self) -> dict:
        # A worker process starts with an empty cache and a lock of its own.
        return {**self.__dict__, "_cache": {}, "_room": self._limit, "_lock": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def describe_cache(config: DataConfig) -> str:
    """What the start-up table says of the memory that decoded pictures may take."""
    if config.workers:
        return (
            f"decoded pictures, up to {config.cache_mb} MB in each of {config.workers} worker "
            "processes"
        )
    return f"decoded pictures, up to {config.cache_mb} MB"


def check_sizes(splits: Splits, crop: int) -> None:
    """Raises InputError, naming the file, where a crop doesn't fit the smallest known picture."""
    if splits.smallest is not None:
        height, width, name = splits.smallest
        if min(height, width) < crop:
            raise InputError(too_small(height, width, crop, name))


def training_batches(
    pictures: Pictures,
    config: DataConfig,
    *,
    seed: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Endless batches of (batch_size / process_count, crop, crop, C) uint8 crops.

    The pictures are shuffled anew in every epoch; batch number i (from 0) is the same whenever it
    is asked for, so `start=i` continues a run exactly. Of each global batch every process gets its
    own share: the first its first crops, and so on, so that the whole is the same for any number of
    processes.

    Args:
      pictures: what to crop from.
      config: crop size, batch size, workers.
      seed: fixes order, crops, flips and rotations.
      start: index of the first batch.
      process_index: which of `process_count` processes this is.
      process_count: number of processes that train together; must divide the batch size.
    """
    if config.batch_size % process_count:
        raise InputError(
            f"--data.batch-size {config.batch_size} can't be shared by {process_count} processes; "
            f"use a multiple of {process_count}."
        )
    dataset = (
        grain.MapDataset.source(pictures)
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(TexturedCrop(config.crop))
        .random_map(FlipAndRotate())
    )
    if config.gray_share:
        dataset = dataset.random_map(SomeGray(config.gray_share))
    shares = dataset.batch(config.batch_size // process_count, drop_remainder=True)
    batches = shares[process_index::process_count][start:]
    threads = 0 if config.workers else 2
    iterable = batches.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 if threads else 1)
    )
    if config.workers:
        from absl import flags

        flags.FLAGS.mark_as_parsed()  # grain's worker processes read absl's flags
        iterable = iterable.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=2)
        )
    return Batches(iter(iterable))
