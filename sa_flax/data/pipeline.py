"""From stored pictures to batches of training crops: grain -> {"clean": (B, crop, crop, C) uint8}.

Every batch is a function of the seed and its index alone, whatever the number of threads, worker
processes or hosts. That makes the data position of a run one number.
"""

import dataclasses
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grain

from sa_flax.config import DataConfig
from sa_flax.data.builders import open_splits
from sa_flax.data.manifest import Manifest
from sa_flax.data.splits import Example, Splits
from sa_flax.data.transforms import FlipAndRotate, SomeGray, TexturedCrop
from sa_flax.errors import InputError, WorkerDiedError
from sa_flax.pictures import to_channels


class Batches(Iterator[Example]):
    """The batches that `training_batches` makes.

    Raises (from `next`):
      InputError: where a picture is smaller than the crop, or can't be decoded.
      WorkerDiedError: where a worker process is gone; grain notices it within seconds.
    """

    def __init__(self, batches: grain.DatasetIterator[Example]):
        self._batches = batches

    def __next__(self) -> Example:
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


class Pictures(Sequence[Example]):
    """A split as a sequence of examples: dicts of decoded (H, W, channels) uint8 pictures.

    Decoded pictures are kept in memory until `cache_bytes` are used; the rest are decoded each
    time.

    Args:
      examples: a random-access source of RGB examples.
      channels: 3 for RGB, 1 for gray (ITU-R 601 luma).
      cache_bytes: how much decoded data may be kept.
    """

    def __init__(self, examples: Sequence[Example], *, channels: int, cache_bytes: int = 0):
        self._examples, self._channels = examples, channels
        self._cache: dict[int, Example] = {}
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
        return len(self._examples)

    def __getitem__(self, index):
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        rgb = self._examples[index]
        example = {name: to_channels(picture, self._channels) for name, picture in rgb.items()}
        size = sum(picture.nbytes for picture in example.values())
        with self._lock:
            if index not in self._cache and size <= self._room:
                self._cache[index] = example
                self._room -= size
        return example

    def __getstate__(self) -> dict[str, Any]:
        # A worker process starts with an empty cache and a lock of its own.
        return {**self.__dict__, "_cache": {}, "_room": self._limit, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def describe_cache(config: DataConfig) -> str:
    """What the start-up table says of the memory that decoded pictures may take."""
    if config.workers:
        return (
            f"decoded pictures, up to {config.cache_mb} MB in each of {config.workers} worker "
            "processes"
        )
    return f"decoded pictures, up to {config.cache_mb} MB"


def open_pictures(config: DataConfig, *, channels: int, earlier: Manifest | None = None) -> Splits:
    """The data set of a run, its pictures in the network's channels.

    Args:
      config: what to open; those to train on are kept in memory as it allows.
      channels: 3 for RGB, 1 for gray.
      earlier: what the data set was when the run began, if it is going on.

    Raises:
      InputError: see `open_splits`.
    """
    splits = open_splits(
        config.source,
        directory=config.directory,
        crop=config.crop,
        noisy=config.noisy,
        clean=config.clean,
        earlier=earlier,
    )
    return dataclasses.replace(
        splits,
        train=Pictures(splits.train, channels=channels, cache_bytes=config.cache_mb * 2**20),
        validation=Pictures(splits.validation, channels=channels),
        test=Pictures(splits.test, channels=channels),
    )


def training_batches(
    pictures: Sequence[Example],
    config: DataConfig,
    *,
    seed: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Endless batches: {"clean": (batch_size / process_count, crop, crop, C) uint8 crops}.

    Of pairs, "noisy" holds the same crops of the noisy pictures.

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
        .random_map(TexturedCrop(config.crop, scales=config.scales))
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
            grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=2),
            worker_init_fn=_begin_work,
        )
    return Batches(iter(iterable))


def _begin_work(index: int, count: int) -> None:
    """In a worker process: only the main process ends it, which hears signals and saves first.

    Ctrl-C, and what ends a whole job, reach workers too, whose batches that last step needs.
    """
    del index, count
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()


def _end_with_the_main_process() -> None:
    main = multiprocessing.parent_process()
    if main is not None:
        main.join()
        os._exit(1)
