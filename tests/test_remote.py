"""Files at an address: what is there, what is removed, and what errors say."""

import errno
from pathlib import Path

import fsspec
import pytest

from sa_flax import remote
from sa_flax.errors import explain
from sa_flax.remote import AddressError, Remote

ADDRESS = "memory://bucket/run"


@pytest.fixture(autouse=True)
def empty_store() -> None:
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]


def test_a_place_that_holds_empty_folders_is_empty():
    store = fsspec.filesystem("memory")
    store.makedirs("/bucket/run/checkpoints", exist_ok=True)
    assert Remote(ADDRESS).is_empty()
    store.pipe("/bucket/run/checkpoints/mine", b"1")
    assert not Remote(ADDRESS).is_empty()


def test_names_are_no_patterns():
    store = fsspec.filesystem("memory")
    store.pipe({"/bucket/run[1]/old/a": b"1", "/bucket/run1/old/a": b"1", "/bucket/run[1]/b": b"2"})
    Remote("memory://bucket/run[1]").remove("old")
    assert sorted(store.find("/bucket")) == ["/bucket/run1/old/a", "/bucket/run[1]/b"]


def test_kinds_of_addresses_in_capitals():
    assert Remote("MEMORY://Bucket/Run/").address == "memory://Bucket/Run"


def test_a_full_disk_is_not_the_stores(tmp_path, monkeypatch):
    remote = Remote(ADDRESS)
    remote.write("a", b"1")

    def full(*paths):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(remote._files, "get", full)
    with pytest.raises(OSError, match="No space left") as raised:
        remote.fetch(["a"], tmp_path / "here")
    assert explain(raised.value) == (1, f"can't write: {raised.value}. Make room and run it again.")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (FileNotFoundError("bucket"), "There is no such bucket: make it"),
        (PermissionError("Forbidden"), r"\(Forbidden\). Let this machine's account read, write"),
        (RuntimeError("Unable to\nlocate"), r"\(Unable to locate\). Check the bucket's name"),
    ],
)
def test_what_stores_complain_of_becomes_a_sentence(error, advice, monkeypatch):
    def refuse(self, path, value, **options):
        raise error

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", refuse)
    with pytest.raises(AddressError, match=rf"memory://bucket/run can't be written .*{advice}"):
        Remote(ADDRESS).check_writable()


def test_what_is_an_address():
    assert remote.is_address("gs://bucket/run")
    assert not any(
        map(remote.is_address, ("runs/quick", r"C:\runs", "C:/runs", Path("a:b"), "a:b"))
    )
