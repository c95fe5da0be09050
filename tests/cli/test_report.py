"""`sa-flax report`, and `denoise --report --compare`."""

import shutil

import pytest
from PIL import Image


def sections(page) -> list[str]:
    return [part.split("</h2>")[0] for part in page.read_text().split("<h2>")[1:]]


def test_denoise_writes_comparisons_and_a_page(sa_flax, folder, tmp_path):
    out, page = tmp_path / "out", tmp_path / "page.html"
    words = ("denoise", folder, "--output", out, "--report", page)
    code, said, _ = sa_flax(*words, "--compare")
    assert code == 0
    assert "denoised 2 of 2" in said
    names = ["a.png", "a_compare.png", "b.jpg", "b_compare.png"]
    assert sorted(p.name for p in out.rglob("[!.]*.*")) == names
    with Image.open(out / "a_compare.png") as sheet:
        assert sheet.width > 3 * 30
    assert sections(page) == [str(folder / "a.png"), str(folder / "sub" / "b.jpg")]
    page.unlink()
    assert sa_flax(*words)[0] == 0, "all was done before, and is shown all the same"
    assert len(sections(page)) == 2


def test_results_find_their_originals(sa_flax, folder, tmp_path):
    out = folder / "out"
    sa_flax("denoise", folder, "--output", out, "--compare")
    code, said, _ = sa_flax("report", out)
    assert code == 0
    assert said == f"2 pictures -> {out / 'report.html'}\n"
    assert sections(out / "report.html") == ["a.png", "sub/b.jpg"]
    shutil.move(out, tmp_path / "moved")
    Image.new("RGB", (3, 3)).save(tmp_path / "moved" / "other.png")
    code, _, err = sa_flax(
        *("report", tmp_path / "moved", "--before", folder, "--clean", folder),
        *("--output", tmp_path / "p.html"),
    )
    assert code == 0
    assert "other.png: has no original of its name" in err
    assert "dB before" in (tmp_path / "p.html").read_text()


def test_originals_of_other_suffixes_and_names(sa_flax, folder, tmp_path):
    """As cameras name them, and what denoise makes of a.gif beside a.png."""
    shutil.copy(folder / "sub" / "b.jpg", folder / "DSC1.JPG")
    with Image.open(folder / "a.png") as picture:
        picture.save(folder / "a.gif")
        picture.save(folder / "scan", "PNG")
    out = tmp_path / "out"
    assert sa_flax("denoise", folder, folder / "scan", "--output", out, "--format", "png")[0] == 0
    code, _, err = sa_flax("report", out, "--before", folder)
    assert (code, err) == (0, "")
    names = ["DSC1.png", "a.gif.png", "a.png", "scan.png", "sub/b.png"]
    assert sorted(sections(out / "report.html")) == names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "{out}"], "no folder"),
        (["report", "{in}"], "say where the originals are"),
        (["report", "{in}", "--before", "{out}"], "--before takes a folder"),
        (["report", "{in}", "--before", "{in}/sub"], "none of the pictures"),
        (["report"], "DIR is missing"),
        (["report", "{in}", "--before", "{in}", "--output", "{in}"], "takes the name of a file"),
        (["denoise", "{in}/a.png", "--output", "-", "--compare"], "need files"),
    ],
)
def test_requests_that_are_wrong(sa_flax, folder, tmp_path, words, said):
    code, _, err = sa_flax(*(w.format(**{"in": folder, "out": tmp_path / "out"}) for w in words))
    assert code == 2
    assert said in err
