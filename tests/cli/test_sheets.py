"""`denoise --compare`: its sheets lie beside the results, and in nobody's place."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from sa_flax.cli.jobs import STREAM, plan
from sa_flax.cli.sheets import Sheets
from sa_flax.errors import InputError


@pytest.fixture
def own(folder):
    """A picture of the user's own, called as a sheet is."""
    path = folder / "a_compare.png"
    Image.fromarray(np.full((5, 5), 7, np.uint8)).save(path)
    return path


def test_an_original_is_not_overwritten(sa_flax, folder, own):
    before = own.read_bytes()
    code, _, err = sa_flax(
        *("denoise", folder / "a.png", own, "--output", folder, "--format", "tif", "--compare")
    )
    assert code == 2
    assert "would overwrite another picture" in err
    assert own.read_bytes() == before
    assert not (folder / "a.tif").exists()


def test_nor_a_picture_that_is_there(sa_flax, folder, own):
    before = own.read_bytes()
    words = ("denoise", folder / "a.png", "--output", folder, "--format", "tif", "--compare")
    code, _, err = sa_flax(*words)
    assert code == 1
    assert "no sheet of" in err
    assert own.read_bytes() == before
    assert not (folder / "a.tif").exists(), "refused before the work"
    assert sa_flax(*words, "--overwrite")[0] == 0
    assert own.read_bytes() != before


def test_a_sheet_of_a_result_that_is_renewed_is_renewed(sa_flax, folder, tmp_path):
    words = ("denoise", folder / "a.png", "--output", tmp_path / "out", "--compare")
    assert sa_flax(*words)[0] == 0
    sheet = tmp_path / "out" / "a_compare.png"
    before = sheet.read_bytes()
    Image.fromarray(np.full((20, 30, 3), 7, np.uint8)).save(folder / "a.png")
    for path in (tmp_path / "out" / "a.png", sheet):
        os.utime(path, (1, 1))
    code, _, err = sa_flax(*words)
    assert code == 0, err
    assert sheet.read_bytes() != before


def test_a_sheet_that_is_older_than_its_result_is_made_again(sa_flax, folder, tmp_path):
    words = ("denoise", folder / "a.png", "--output", tmp_path / "out")
    assert sa_flax(*words, "--compare")[0] == 0
    sheet, result = tmp_path / "out" / "a_compare.png", tmp_path / "out" / "a.png"
    for value in (7, 99):
        before = sheet.read_bytes()
        Image.fromarray(np.full((20, 30, 3), value, np.uint8)).save(folder / "a.png")
        for path in (result, sheet):
            os.utime(path, (1, 1))
        assert sa_flax(*words)[0] == 0
        code, _, err = sa_flax(*words, "--compare")
        assert code == 0, err
        assert sheet.read_bytes() != before
    shutil.copy(folder / "sub" / "b.jpg", sheet)  # a picture of somebody's own now
    os.utime(sheet, (1, 1))
    before = sheet.read_bytes()
    code, _, err = sa_flax(*words, "--compare")
    assert code == 1
    assert "no sheet of" in err
    assert sheet.read_bytes() == before


def test_two_results_of_one_stem_have_two(folder, tmp_path):
    shutil.copy(folder / "sub" / "b.jpg", folder / "a.jpg")
    planned = plan([folder], tmp_path / "out")
    sheets = Sheets(planned, overwrite=False)
    assert [sheets.of(job.target).name for job in planned.jobs] == [
        "a.jpg_compare.png",
        "a.png_compare.png",
        "b_compare.png",
    ]
    shutil.copy(folder / "a.jpg", folder / "a.jpg_compare.png")
    with pytest.raises(InputError, match=r"a.jpg_compare.png, the sheet of --compare for"):
        Sheets(plan([folder], tmp_path / "out"), overwrite=True)


def test_what_was_done_before_gets_its_sheet(sa_flax, folder, tmp_path):
    words = ("denoise", folder, "--output", tmp_path / "out")
    assert sa_flax(*words)[0] == 0
    code, said, _ = sa_flax(*words, "--compare")
    assert (code, "2 were done already" in said) == (0, True)
    later = (tmp_path / "out" / "a_compare.png").read_bytes()
    assert (tmp_path / "out" / "sub" / "b_compare.png").is_file()
    assert sa_flax(*words, "--compare", "--overwrite")[0] == 0
    assert (tmp_path / "out" / "a_compare.png").read_bytes() == later


def test_from_standard_input_once_more(tmp_path):
    """Its result is made each time, and so is the sheet."""
    (tmp_path / "stdin_compare.png").touch()
    (job,) = Sheets(plan([STREAM], tmp_path), overwrite=False).plan.jobs
    assert job.refusal == ""
