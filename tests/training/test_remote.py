"""Runs at an address: what gets there in which order, what a failure leaves, and a resume from
nothing but the address."""

import contextlib
import dataclasses
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.registry import known_implementations

from sa_flax.cli.networks import check_name
from sa_flax.config import PRESETS, Config, ModelConfig
from sa_flax.errors import InputError, StorageError
from sa_flax.models.saved import PretrainedError, card_of, from_pretrained
from sa_flax.remote import AddressError, Remote
from sa_flax.training import loop
from sa_flax.training.mirror import Mirror, mirrored
from sa_flax.training.network import network_of, save_network
from sa_flax.training.run import Run, evaluation_crops
from sa_flax.training.run_directory import damage, saved_steps, write_checksums
from tests.trainings import parameters

ADDRESS = "memory://bucket/run"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty machine and an empty store."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def start(folder: Path, name: str) -> None:
    """What the start of a run leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    with (folder / "starts.jsonl").open("a") as file:
        file.write(name + "\n")


def checkpoint(folder: Path, step: int, *, keep: int | None = None) -> None:
    """What a checkpoint leaves, the network beside it included."""
    parts = folder / "checkpoints" / str(step) / "state"
    parts.mkdir(parents=True)
    for part in "ab":
        (parts / part).write_bytes(bytes([step]) * 9)
    write_checksums(parts.parent)
    (folder / "network").mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "README.md"):
        (folder / "network" / name).write_text(f"{name} {step}")
    if keep is not None:
        shutil.rmtree(folder / "checkpoints" / str(keep))


def steps(folder: Path) -> list[int]:
    found = sorted(int(path.name) for path in saved_steps(folder))
    assert not any(damage(folder / "checkpoints" / str(step)) for step in found)
    return found


def fail_after(monkeypatch, count: int) -> None:
    """Lets so many files be written, and no more."""
    write, left = Remote.write, iter(range(count))

    def limited(self, name, content):
        if next(left, None) is None:
            raise AddressError(f"{self.address} can't be written.")
        write(self, name, content)

    monkeypatch.setattr(Remote, "write", limited)


def cut_off(monkeypatch) -> None:
    """Lets nothing be read, as without a network."""

    def nothing(self, name):
        raise AddressError(f"{self.address} can't be read.")

    monkeypatch.setattr(Remote, "read", nothing)


def test_what_is_there_is_found_on_another_machine(cache):
    with mirrored(ADDRESS) as mirror:
        assert (mirror.name, mirror.folder.name, mirror.shared) == (ADDRESS, "run", True)
        start(mirror.folder, "first")
        checkpoint(mirror.folder, 1)
        (mirror.folder / ".lock").touch()
        (mirror.folder / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
        (mirror.folder / "checkpoints" / "2.orbax-checkpoint-tmp" / "part").touch()
        mirror.push()
        checkpoint(mirror.folder, 3, keep=1)
        with (mirror.folder / "metrics.jsonl").open("w") as log:
            log.write("{}\n")
    there = Remote(ADDRESS).list()
    assert {name.split("/")[1] for name in there if name.startswith("checkpoints/")} == {"3"}
    assert not any(name.startswith(".") for name in there)
    shutil.rmtree(cache)
    with mirrored(ADDRESS + "/") as mirror:
        assert steps(mirror.folder) == [3]
        assert (mirror.folder / "metrics.jsonl").read_text() == "{}\n"
        assert (mirror.folder / "network" / "config.json").read_text() == "config.json 3"


def test_only_what_is_new_is_uploaded(monkeypatch):
    with mirrored(ADDRESS) as mirror:
        start(mirror.folder, "first")
        checkpoint(mirror.folder, 1)
    with mirrored(ADDRESS) as mirror:
        written = []
        monkeypatch.setattr(Remote, "write", lambda self, name, content: written.append(name))
        mirror.push()
        (mirror.folder / "metrics.jsonl").write_text("new")
        mirror.push()
        assert written == ["metrics.jsonl"]


def test_an_upload_that_is_cut_short_anywhere_leaves_what_was_there(cache, monkeypatch):
    """A checkpoint's five files and the network's three; read by another machine each time."""
    for files in range(10):
        fsspec.filesystem("memory").store.clear()
        shutil.rmtree(cache, ignore_errors=True)
        with mirrored(ADDRESS) as mirror:
            start(mirror.folder, "first")
            checkpoint(mirror.folder, 1)
        work = contextlib.ExitStack()
        mirror = work.enter_context(mirrored(ADDRESS))
        checkpoint(mirror.folder, 2, keep=1)
        with monkeypatch.context() as patch:
            fail_after(patch, files)
            mirror.push()
        elsewhere = cache.with_name("elsewhere")
        monkeypatch.setenv("XDG_CACHE_HOME", str(elsewhere))
        with mirrored(ADDRESS) as mirror:
            assert steps(mirror.folder) == ([1] if files < 3 else [1, 2] if files < 6 else [2])
        shutil.rmtree(elsewhere)
        work.close()
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def test_what_failed_is_said_tried_again_and_made_up_for_at_the_next_start(
    cache, monkeypatch, capsys
):
    work = contextlib.ExitStack()
    mirror = work.enter_context(mirrored(ADDRESS))
    start(mirror.folder, "first")
    mirror.push()
    checkpoint(mirror.folder, 1)
    with monkeypatch.context() as patch:
        fail_after(patch, 2)
        mirror.push()
    said = "not uploaded: memory://bucket/run can't be written. Training goes on"
    assert said in capsys.readouterr().err
    mirror.push()
    assert Remote(ADDRESS).read("checkpoints/1/checksums.json")
    checkpoint(mirror.folder, 2, keep=1)
    with monkeypatch.context() as patch:
        cut_off(patch)
        with pytest.raises(StorageError, match=r"The whole run is in .*/run; the same command"):
            work.close()
    with mirrored(ADDRESS) as mirror:
        assert steps(mirror.folder) == [2]
        assert "was not uploaded to its end" in capsys.readouterr().out
    shutil.rmtree(cache)
    with mirrored(ADDRESS) as mirror:
        assert steps(mirror.folder) == [2]


def test_a_run_that_went_on_elsewhere_wins_and_nothing_is_lost(cache, monkeypatch, capsys):
    work = contextlib.ExitStack()
    mirror = work.enter_context(mirrored(ADDRESS))
    start(mirror.folder, "first")
    mirror.push()
    checkpoint(mirror.folder, 1)
    with monkeypatch.context() as patch:
        fail_after(patch, 0)
        with pytest.raises(StorageError):
            work.close()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.with_name("elsewhere")))
    with mirrored(ADDRESS) as mirror:
        start(mirror.folder, "second")
        checkpoint(mirror.folder, 5)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    with mirrored(ADDRESS) as mirror:
        assert steps(mirror.folder) == [5]
    kept = capsys.readouterr().out.partition("is kept in ")[2].split("\n")[0]
    assert steps(Path(kept, "run")) == [1]


def test_of_two_starts_the_later_one_writes(monkeypatch, cache):
    work = contextlib.ExitStack()
    old = work.enter_context(mirrored(ADDRESS))
    start(old.folder, "first")
    old.push()
    with pytest.raises(InputError, match="another run is going on"), mirrored(ADDRESS):
        pass
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.with_name("elsewhere")))
    with mirrored(ADDRESS) as new:
        start(new.folder, "second")
    checkpoint(old.folder, 1)
    with pytest.raises(StorageError, match="another start of this run"):
        work.close()
    assert "network/config.json" not in Remote(ADDRESS).list()


def test_a_place_that_is_emptied_is_filled_again():
    with mirrored(ADDRESS) as mirror:
        start(mirror.folder, "first")
        checkpoint(mirror.folder, 1)
        mirror.push()
        fsspec.filesystem("memory").store.clear()
        mirror.push()
        assert len(Remote(ADDRESS).list()) == 8


def test_an_error_speaks_of_the_address():
    with (
        pytest.raises(InputError, match=r"^memory://bucket/run is no good$"),
        mirrored(ADDRESS) as m,
    ):
        raise InputError(f"{m.folder} is no good")


def test_a_folder_is_itself(tmp_path):
    with mirrored(tmp_path / "run") as mirror:
        mirror.push()
        assert mirror.folder == tmp_path / "run"
    assert not mirror.folder.exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("gs:/bucket/run", "gs:/bucket/run is no whole address"),
        ("memory://", "is no whole address"),
        ("s33://bucket/run", r"no kind of address s33://. Did you mean 's3'\?"),
        ("s3://bucket/run", r"needs a package .*pip install 'sa_flax\[cloud\]'"),
        ("memory://full", "memory://full is not empty and is not a training run's directory"),
        ("memory://file/run", r"memory://file/run can't be written \(.*\). Check"),
    ],
)
def test_addresses_that_can_not_be_used(address, message, monkeypatch):
    monkeypatch.setitem(known_implementations["s3"], "class", "none_such.S3")
    fsspec.filesystem("memory").pipe({"/full/thesis.pdf": b"mine", "/file": b"mine"})
    with pytest.raises(InputError, match=message), mirrored(address):
        pass


def test_what_consoles_leave_for_folders_is_no_file(monkeypatch):
    """An empty file with the folder's name and a slash."""
    with mirrored(ADDRESS) as mirror:
        start(mirror.folder, "first")
    there = Remote(ADDRESS)
    plain, root = there._files.find, there._root

    def find(path, **options):
        markers = [f"{root}/", f"{root}/checkpoints/"] if path == root else []
        return [*plain(path, **options), *markers]

    monkeypatch.setattr(there._files, "find", find)
    assert there.list() == ["config.json", "starts.jsonl"]
    with mirrored(ADDRESS) as mirror:
        assert (mirror.folder / "starts.jsonl").is_file()


def test_a_checkpoint_that_was_not_uploaded_before_the_run_died_is_kept(cache, capsys):
    class Killed(BaseException):
        pass

    with contextlib.suppress(Killed), mirrored(ADDRESS) as mirror:
        start(mirror.folder, "first")
        checkpoint(mirror.folder, 1)
        mirror.push()
        mirror.changing()
        checkpoint(mirror.folder, 2)
        raise Killed
    with mirrored(ADDRESS) as mirror:
        assert "was not uploaded to its end" in capsys.readouterr().out
        assert steps(mirror.folder) == [1, 2]
    shutil.rmtree(cache)
    with mirrored(ADDRESS) as mirror:
        assert steps(mirror.folder) == [1, 2]


def test_a_machine_without_room_is_told_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    message = r"can't be written \(.*\). Set XDG_CACHE_HOME"
    with pytest.raises(InputError, match=message), mirrored(ADDRESS):
        pass


def test_a_store_with_folders(tmp_path):
    """There a file is put in its place when it is whole."""
    address = f"file://{tmp_path}/store/run"
    with mirrored(address) as mirror:
        start(mirror.folder, "first")
        checkpoint(mirror.folder, 1)
        mirror.push()
        checkpoint(mirror.folder, 2, keep=1)
    assert steps(tmp_path / "store" / "run") == [2]
    assert not [*(tmp_path / "store").rglob(".*")]


def test_networks_at_an_address(cache):
    config = Config(model=ModelConfig(width=4, levels=2))
    with pytest.raises(PretrainedError, match="there is no trained network"):
        from_pretrained(ADDRESS)
    with mirrored(ADDRESS) as mirror:
        start(mirror.folder, "first")
        save_network(mirror.folder, network_of(config), config, step=7, scores={})
        save_network(mirror.folder, network_of(config), config, step=5, scores={}, best=30.0)
    for name, step in ((ADDRESS, 7), (f"{ADDRESS}@best", 5), (f"{ADDRESS}/network", 7)):
        assert from_pretrained(check_name(name))[1]["training"]["step"] == step
    assert card_of(ADDRESS).startswith("# run")


@pytest.mark.slow
def test_a_run_goes_on_from_the_address_alone(tmp_path, cache, monkeypatch):
    """It ends by an error right after step 3, on a machine of which nothing is left."""
    smoke = PRESETS["smoke"]
    config = dataclasses.replace(
        smoke,
        steps=4,
        log_every=1,
        checkpoint_every=2,
        evaluate_every=4,
        evaluation_sigmas=(25.0,),
        model=dataclasses.replace(smoke.model, width=4, levels=2),
        data=dataclasses.replace(smoke.data, batch_size=8),
    )
    monkeypatch.setattr(
        loop, "evaluation_crops", lambda e, largest: evaluation_crops(e, largest=16, most=1)
    )
    loop.train(config, Mirror(tmp_path / "whole"), resume=False)

    def train() -> None:
        with mirrored(ADDRESS) as mirror:
            loop.train(config, mirror, resume=False)

    note = Run.note

    def die(self, step, metrics):
        note(self, step, metrics)
        if step == 3:
            raise OSError("the machine is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "note", die)
        with pytest.raises(OSError, match="is gone"):
            train()
    shutil.rmtree(cache)
    train()
    (run,) = cache.glob("sa_flax/runs/*/run")
    for a, b in zip(parameters(tmp_path / "whole"), parameters(run), strict=True):
        np.testing.assert_array_equal(a, b)
    here = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    assert set(Remote(ADDRESS).list()) == here
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 5
    assert len((run / "starts.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of boto3 and flask
def test_a_real_store(cache, monkeypatch):
    """moto's server for S3, which `pip install s3fs 'moto[server]'` brings."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        with pytest.raises(AddressError, match=r"does not exist\). There is no such bucket"):
            Remote("s3://bucket/run").check_writable()
        fsspec.filesystem("s3").mkdir("bucket")
        with mirrored("s3://bucket/run") as mirror:
            start(mirror.folder, "first")
            checkpoint(mirror.folder, 1)
            mirror.push()
            checkpoint(mirror.folder, 2, keep=1)
        shutil.rmtree(cache)
        with mirrored("s3://bucket/run") as mirror:
            assert steps(mirror.folder) == [2]
    finally:
        server.stop()
