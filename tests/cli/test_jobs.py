"""Which pictures are worked on, where results go, what is done already."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sa_flax.cli.jobs import STREAM, plan
from sa_flax.cli.written import NOTES, note
from sa_flax.errors import InputError
from tests.cli.conftest import snapshot


def names(plan_of, place: Path) -> list[tuple[str, str]]:
    return [
        (str(job.source.relative_to(place)), str(job.target.relative_to(place)))
        for job in plan_of.jobs
    ]


def test_folders_are_mirrored(folder, tmp_path):
    planned = plan([folder], tmp_path / "out")
    assert names(planned, tmp_path) == [
        ("in/a.png", "out/a.png"),
        ("in/sub/b.jpg", "out/sub/b.jpg"),
    ]
    assert planned.left_out == ()


def test_one_picture_to_a_file(folder, tmp_path):
    one = plan([folder / "a.png"], tmp_path / "o.jpg")
    assert names(one, tmp_path) == [("in/a.png", "o.jpg")]
    (tmp_path / "o.jpg").mkdir()
    into = plan([folder / "a.png"], tmp_path / "o.jpg")
    assert names(into, tmp_path) == [("in/a.png", "o.jpg/a.png")]
    assert names(plan([folder / "a.png"], tmp_path / "o"), tmp_path) == [("in/a.png", "o/a.png")]
    with pytest.raises(InputError, match=r"x.jpg names a picture, and more than one is asked for"):
        plan([folder / "a.png", folder / "sub" / "b.jpg"], tmp_path / "x.jpg")
    (tmp_path / "a.png").write_bytes((folder / "a.png").read_bytes())
    with pytest.raises(InputError, match="would both be written"):
        plan([folder / "a.png", tmp_path / "a.png"], tmp_path / "x")


def test_a_picture_named_twice_is_one(folder, tmp_path):
    alone = plan([folder], tmp_path / "out")
    twice = plan([folder, folder / "a.png", folder / "sub" / ".." / "a.png"], tmp_path / "out")
    assert names(twice, tmp_path)[1:] == names(alone, tmp_path)[1:]
    assert [job.target for job in twice.jobs] == [job.target for job in alone.jobs]


@pytest.mark.parametrize("link", [False, True])
def test_results_inside_the_folder_are_no_input(folder, tmp_path, link):
    out = folder / "out"
    if link:
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to(tmp_path / "elsewhere")
    first = plan([folder], out)
    assert len(first.jobs) == 2
    for job in first.jobs:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        job.target.write_bytes(b"a result")
    again = plan([folder], out)
    assert (len(again.jobs), len(again.done)) == (0, 2)
    assert "2 pictures in it, which are results" in again.left_out[0]
    assert [job.source for job in plan([folder], out, overwrite=True).jobs] == [
        job.source for job in first.jobs
    ]


def test_a_folder_whose_name_only_begins_like_the_output_is_input(folder):
    (folder / "out").mkdir()
    (folder / "outside").mkdir()
    (folder / "outside" / "c.png").write_bytes(b"")
    assert "c.png" in [job.source.name for job in plan([folder], folder / "out").jobs]


def test_done_is_what_is_there_and_newer(folder, tmp_path):
    source, target = folder / "a.png", tmp_path / "out" / "a.png"
    target.parent.mkdir()
    target.write_bytes(b"a result")
    assert len(plan([source], tmp_path / "out").done) == 1
    os.utime(target, (1, 1))
    planned = plan([source], tmp_path / "out")
    assert not planned.done
    assert "may be a picture of yours" in planned.jobs[0].refusal
    note(target)
    assert not plan([source], tmp_path / "out").jobs[0].refusal
    target.write_bytes(b"another's")
    os.utime(target, (1, 1))
    assert plan([source], tmp_path / "out").jobs[0].refusal


def test_a_picture_of_ones_own_in_the_output_folder_is_kept(sa_flax, folder, tmp_path):
    """An output folder inside the input may hold originals under the names of results."""
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folder / "sub" / "a.png")
    os.utime(folder / "sub" / "a.png", (1, 1))
    before = snapshot(folder)
    code, _, err = sa_flax("denoise", folder, "--output", folder / "sub")
    assert code == 1
    assert "may be a picture of yours; --overwrite" in err
    after = snapshot(folder)
    assert {name: after[name] for name in before} == before


def test_a_second_run_does_nothing_and_says_so(sa_flax, folder):
    out = folder / "out"
    code, _, _ = sa_flax("denoise", folder, "--output", out)
    assert code == 0
    before = {path: os.stat(path).st_mtime_ns for path in snapshot(out)}
    code, said, _ = sa_flax("denoise", folder, "--output", out)
    assert code == 0
    assert "2 were done already" in said
    assert "--overwrite" in said
    assert {path: os.stat(path).st_mtime_ns for path in snapshot(out)} == before
    code, said, _ = sa_flax("denoise", folder, "--output", out, "--overwrite")
    assert "denoised 2 of 2" in said
    assert sorted(p.name for p in out.rglob("[!.]*.*")) == ["a.png", "b.jpg"]


def test_noise_is_the_same_whatever_was_done_before(sa_flax, folder, tmp_path):
    words = ("add-noise", folder, "--sigma", 20, "--output")
    sa_flax(*words, tmp_path / "whole")
    sa_flax(*words, tmp_path / "parts")
    (tmp_path / "parts" / "sub" / "b.jpg").unlink()
    sa_flax(*words, tmp_path / "parts")
    for name in ("a.png", "sub/b.jpg"):
        whole, parts = ((tmp_path / which / name).read_bytes() for which in ("whole", "parts"))
        assert whole == parts


def test_results_may_go_into_the_folder_that_holds_the_pictures_folder(folder, tmp_path):
    assert names(plan([folder], tmp_path), tmp_path) == [
        ("in/a.png", "a.png"),
        ("in/sub/b.jpg", "sub/b.jpg"),
    ]


def test_other_files_beside_the_pictures_change_nothing(sa_flax, folder, tmp_path):
    """A result that is older than its picture is made again, whatever else lies there."""
    sa_flax("denoise", folder, "--output", tmp_path / "out")
    (folder / "notes.txt").write_text("hello")
    os.utime(tmp_path / "out" / "a.png", (1, 1))
    code, said, err = sa_flax("denoise", folder, "--output", tmp_path / "out")
    assert code == 0, err
    assert "denoised 1 of 2" in said
    assert "notes.txt: .txt is no suffix" in err


def test_a_picture_of_another_archive_is_kept(sa_flax, folder, tmp_path):
    """Cameras begin again at IMG_0001: what is there under that name may be somebody's picture."""
    words = ("denoise", folder / "a.png", "--output", tmp_path)
    shutil.copy(folder / "sub" / "b.jpg", tmp_path / "a.png")
    os.utime(tmp_path / "a.png", (1, 1))
    before = (tmp_path / "a.png").read_bytes()
    code, _, err = sa_flax(*words)
    assert code == 1
    assert "may be a picture of yours; --overwrite" in err
    assert (tmp_path / "a.png").read_bytes() == before
    assert sa_flax(*words, "--overwrite")[0] == 0
    for _ in range(2):  # a result, which is made again where its picture is newer
        os.utime(tmp_path / "a.png", (1, 1))
        code, _, err = sa_flax(*words)
        assert code == 0, err
    (tmp_path / NOTES).write_bytes(b'[1]\n"\n\xff\n[]')  # damaged: nothing is known
    os.utime(tmp_path / "a.png", (1, 1))
    assert sa_flax(*words)[0] == 1
    # One file that is asked for by its name leaves no notes beside it, and is kept, too.
    words = ("denoise", folder / "a.png", "--output", folder / "clean.png")
    assert sa_flax(*words)[0] == 0
    assert not (folder / NOTES).exists()
    os.utime(folder / "clean.png", (1, 1))
    assert sa_flax(*words)[0] == 1


def test_a_picture_beside_ones_own_is_kept(sa_flax, folder):
    """The result of b.jpg would be b.png, which is there and older."""
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folder / "sub" / "b.png")
    os.utime(folder / "sub" / "b.png", (1, 1))
    words = ("denoise", folder / "sub" / "b.jpg", "--output", folder / "sub", "--format", "png")
    before = snapshot(folder)
    code, _, err = sa_flax(*words)
    assert code == 1
    assert "may be a picture of yours; --overwrite" in err
    assert snapshot(folder) == before


def test_names_without_a_suffix_of_pictures_get_one(folder, tmp_path):
    """By their content; what is in the name stays."""
    for name, origin in (("photo", "sub/b.jpg"), ("scan 12.30", "a.png"), ("a.dat", "sub/b.jpg")):
        (tmp_path / name).write_bytes((folder / origin).read_bytes())
        (job,) = plan([tmp_path / name], tmp_path / "out").jobs
        assert job.target.name == f"{name}{'.png' if origin == 'a.png' else '.jpg'}"
        (job,) = plan([tmp_path / name], tmp_path / "out", suffix=".webp").jobs
        assert job.target.name == f"{name}.webp"


def test_a_format_that_the_file_is_not(folder, tmp_path):
    with pytest.raises(InputError, match=r"x.jpg is to be .jpg, and --format png says otherwise"):
        plan([folder / "a.png"], tmp_path / "x.jpg", suffix=".png")
    assert plan([folder / "a.png"], tmp_path / "x.jpg", suffix=".jpeg").count == 1


def test_streams():
    assert plan([STREAM], Path("x.png")).jobs[0].target == Path("x.png")
    assert plan([STREAM], Path("out")).jobs[0].target == Path("out/stdin")
    with pytest.raises(InputError, match="one picture to standard output"):
        plan([Path("a"), Path("b")], STREAM)
