"""Files are written whole or not at all, through links and pipes, with one error."""

import os
import stat
import threading

import pytest

from sa_flax.errors import StorageError
from sa_flax.files import write_whole


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "content", ["schön\n", "schön\n".encode(), lambda f: f.write("schön\n".encode())]
)
def test_text_bytes_and_functions(tmp_path, content):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_whole(path, content)
    assert path.read_text(encoding="utf-8") == "schön\n"
    assert names(path.parent) == ["a.txt"]


def test_the_longest_name_and_a_name_without_a_folder(tmp_path, monkeypatch):
    write_whole(tmp_path / ("n" * 255), "x")
    monkeypatch.chdir(tmp_path)
    write_whole("plain", "x")
    assert names(tmp_path) == ["n" * 255, "plain"]


def test_whoever_looks_meanwhile_finds_the_old_content(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def writer(file):
        file.write(b"ne")
        file.flush()
        assert path.read_text() == "old"
        file.seek(0)
        file.write(b"new")

    write_whole(path, writer)
    assert path.read_text() == "new"


@pytest.mark.parametrize("problem", [ValueError("no"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_nothing(tmp_path, problem):
    (tmp_path / "a").write_text("old")

    def writer(file):
        file.write(b"half")
        raise problem

    with pytest.raises(type(problem)):
        write_whole(tmp_path / "a", writer)
    with pytest.raises(type(problem)):
        write_whole(tmp_path / "b", writer)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_permissions_are_kept_and_new_files_have_the_usual_ones(tmp_path):
    private, usual, plain = (tmp_path / name for name in ("private", "usual", "plain"))
    private.write_text("old")
    private.chmod(0o600)
    plain.write_text("as open() makes it")
    write_whole(private, "new")
    write_whole(usual, "new")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert usual.stat().st_mode == plain.stat().st_mode


def test_links_stay_links(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_text("old")
    (tmp_path / "link").symlink_to("far/file")
    (tmp_path / "again").symlink_to("link")
    (tmp_path / "dangling").symlink_to("far/other")
    write_whole(tmp_path / "again", "new")
    write_whole(tmp_path / "dangling", "first")
    assert os.readlink(tmp_path / "again") == "link"
    assert os.readlink(tmp_path / "link") == "far/file"
    assert os.readlink(tmp_path / "dangling") == "far/other"
    assert (tmp_path / "far" / "file").read_text() == "new"
    assert (tmp_path / "far" / "other").read_text() == "first"
    assert names(tmp_path / "far") == ["file", "other"]


@pytest.mark.parametrize("through_a_link", [False, True])
def test_pipes_are_written_to(tmp_path, through_a_link):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = pipe
    if through_a_link:
        path = tmp_path / "link"
        path.symlink_to("pipe")
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()

    def writer(file):
        file.write(b"x" * 100_000)
        file.seek(0)  # as Pillow does for TIFF
        file.write(b"y")

    write_whole(path, writer)
    reader.join(timeout=20)
    assert received == [b"y" + b"x" * 99_999]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert path.is_symlink() == through_a_link


def test_what_is_open_is_written_to_at_its_end(tmp_path):
    with (tmp_path / "output").open("w") as file:
        file.write("line\n")
        file.flush()
        write_whole(f"/proc/self/fd/{file.fileno()}", "result\n")
    assert (tmp_path / "output").read_text() == "line\nresult\n"
    assert names(tmp_path) == ["output"]


def test_the_error_names_the_file_and_the_reason(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "folder").mkdir()
    before = names(tmp_path)
    for path, reason in (
        ("file/a", "Not a directory|File exists"),
        ("itself", "symbolic links"),
        ("folder", "Is a directory"),
        ("x" * 300, "too long"),
        ("x" * 300 + "/a", "too long"),
    ):
        with pytest.raises(StorageError, match=rf"{path}: can't be written \(.*({reason})"):
            write_whole(tmp_path / path, "x")
    with pytest.raises(StorageError, match="can't be written"):
        write_whole("/proc/nowhere/a", "x")
    assert names(tmp_path) == before
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_says_what_to_do(tmp_path):
    def writer(file):
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"a: can't be written \(No space left.*Make room"):
        write_whole(tmp_path / "a", writer)
    assert names(tmp_path) == []


def test_threads_do_not_meet(tmp_path):
    def write(number):
        for _ in range(20):
            write_whole(tmp_path / "a", str(number) * 5000)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = (tmp_path / "a").read_text()
    assert len(content) == 5000
    assert len(set(content)) == 1
    assert names(tmp_path) == ["a"]
