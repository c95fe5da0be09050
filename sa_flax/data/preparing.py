"""Where prepared TFDS sets are kept, and how they are made: without TensorFlow, and soon an error
where there is no connection."""

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder
from tensorflow_datasets.core.download import downloader

from sa_flax.data.without_tensorflow import replaced, without_bucket, without_tensorflow
from sa_flax.errors import InputError
from sa_flax.files import cache_folder

# Of a connection; TFDS itself tries ten times, with pauses of three minutes in all.
_RETRIES = 2
_PATIENCE = (10, 60)  # seconds for a connection, and for the next part of an answer


def cache_directory(directory: str | None) -> Path:
    """Where prepared sets are kept: `directory`, or sa_flax in the user's cache folder.

    For a user without a home (in a container, say) it is a folder of the user's own among temporary
    files.
    """
    if directory is not None:
        return Path(os.path.expanduser(directory))
    try:
        return cache_folder()
    except InputError as error:
        raise InputError(f"{error} Give a folder with --data.directory.") from error


def prepared(
    builder: tfds.core.DatasetBuilder, cache: Path, *, say: bool = False
) -> tfds.core.DatasetBuilder:
    """The set as it can be read, prepared where it hasn't been."""
    if not os.path.isdir(builder.data_dir):
        try:
            os.makedirs(cache, exist_ok=True)
            # Beside the set: whoever may write there may take the lock.
            lock = cache / f".{builder.info.full_name.replace('/', '-')}.lock"
            with filelock.FileLock(lock, mode=0o666), contextlib.redirect_stdout(io.StringIO()):
                _prepare(builder, say)
        except (InputError, filelock.Timeout):
            raise
        except OSError as error:
            raise InputError(
                f"can't prepare the data set {builder.name} in {cache}: {error}. Give a folder "
                "that can be written in, or one where it is prepared, with --data.directory."
            ) from error
    return read_only_builder.builder_from_directory(str(builder.data_dir))


def _prepare(builder: tfds.core.DatasetBuilder, say: bool) -> None:
    import requests

    if os.path.isdir(builder.data_dir):  # by another process, meanwhile
        return
    if say:
        size = builder.info.download_size
        print(
            f"preparing the TFDS data set {builder.info.full_name} in {builder.data_dir}"
            + (f" (download {size})" if size else ""),
            file=sys.stderr,
        )
    if not (say and sys.stderr.isatty()):
        tfds.disable_progress_bar()
    try:
        with without_bucket(), without_tensorflow(), _impatient():
            builder.download_and_prepare()
    except requests.exceptions.ConnectionError as error:
        raise InputError(
            f"the TFDS data set {builder.name} must be downloaded, and {_host(error)} can't be "
            "reached. Prepare it where there is a connection and give its directory, or train on a "
            "folder of images, with --data.source."
        ) from error
    except InputError:
        raise
    except OSError as error:
        if isinstance(error, requests.exceptions.RequestException):
            raise InputError(_cannot(builder, error)) from error
        raise
    except Exception as error:  # of any class: builders are other people's code
        raise InputError(_cannot(builder, error)) from error


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Inside, downloads give up soon where there is no connection."""
    import requests

    request = requests.Session.request

    def with_timeout(*args, **kwargs):
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = _PATIENCE
        return request(*args, **kwargs)

    log = logging.getLogger("urllib3.connectionpool")
    level = log.level
    log.setLevel(logging.ERROR)  # every retry would be a warning
    with (
        replaced(downloader, "MAX_RETRIES", _RETRIES),
        replaced(requests.Session, "request", with_timeout),
    ):
        yield
    log.setLevel(level)  # not where one has failed: others go on trying in their threads


def _host(error: Exception) -> str:
    request = getattr(error, "request", None)
    found = re.match(r"\w+://([^/]+)", getattr(request, "url", None) or "")
    return found[1] if found else "its server"


def _cannot(builder: tfds.core.DatasetBuilder, error: Exception) -> str:
    manual = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    if manual and "anual" in str(error):
        return f"the TFDS data set {builder.name} is downloaded by hand: {error}"
    return (
        f"the TFDS data set {builder.name} can't be prepared: {type(error).__name__}: "
        f"{reason(error)}"
    )


def reason(error: Exception) -> str:
    """What TFDS says, without the arguments that it begins with."""
    text = " ".join(str(error).split())
    text = re.sub(r"^Failed to construct dataset .*?}\": ", "", text)
    # An example that can't be stored is shown before the reason.
    return text if len(text) < 400 else f"{text[:100]} ... {text[-300:]}"
