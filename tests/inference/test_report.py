"""The page of pictures before and after: self-contained, and safe whatever files are called."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import tifffile
from PIL import Image

from sa_flax.inference import report
from sa_flax.inference.evaluate import non_local_means
from sa_flax.inference.report import Entry, build, figures


class Reader(HTMLParser):
    """Collects what a page holds, and fails where its elements do not close in order."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("img", "meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def images(self) -> list[Image.Image]:
        sources = [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]
        encoded = [source.removeprefix("data:image/jpeg;base64,") for source in sources]
        return [Image.open(io.BytesIO(base64.b64decode(data, validate=True))) for data in encoded]


@pytest.fixture
def entries(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for name, size in (("a <b> & 'c'.png", (30, 40)), ("large.png", (900, 1300))):
        clean = np.full((*size, 3), 120, np.uint8)
        noisy = np.clip(clean + rng.normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
        for kind, pixels in (("before", noisy), ("after", clean), ("clean", clean)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / kind / name)
        found.append(Entry(name, *(tmp_path / k / name for k in ("before", "after", "clean"))))
    return found


def test_the_page_needs_nothing_else_and_shows_every_picture(entries):
    page = Reader(build(entries, title="Mine <2>").html())
    for _, name, value in page.attributes:
        if name in ("src", "href", "srcset", "action"):
            assert value.startswith("data:image/jpeg;base64,")
    text = " ".join(page.text)
    assert "a <b> & 'c'.png" in text
    assert "Mine <2>" in text
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", build(entries, title="x").html())
    # Before, after and removed of the small one; the large one also whole and smaller.
    sizes = [image.size for image in page.images()]
    assert sizes == [(40, 30)] * 3 + [(1200, 831)] * 2 + [(600, 400)] * 3
    ranges = [value for tag, name, value in page.attributes if (tag, name) == ("input", "type")]
    assert ranges == ["range"] * 3


def test_images_show_what_the_files_hold(entries):
    before, after, removed, *_ = Reader(build(entries, title="x").html()).images()
    with Image.open(entries[0].before) as picture:
        difference = np.asarray(before, float) - np.asarray(picture)
    assert np.sqrt((difference**2).mean()) < 8
    assert abs(np.asarray(after, float) - 120).max() <= 2
    assert np.asarray(removed, float).mean() == pytest.approx(128, abs=4)


def test_figures_of_a_picture(entries):
    page = " ".join(Reader(build(entries, title="x").html()).text)
    assert "40 x 30" in page
    rng = np.random.default_rng(1)
    clean = np.full((120, 120, 3), 120, np.uint8)
    noisy = np.clip(clean + rng.normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
    said = figures(noisy, clean, clean)
    before, after = (float(x) for x in re.findall(r"[\d.]+", said["estimated noise"]))
    assert before == pytest.approx(20, rel=0.1)
    assert after == 0
    psnr, perfect = re.fullmatch(r"(.*) dB before, (.*) dB after", said["PSNR"]).groups()
    assert float(psnr) == pytest.approx(20 * np.log10(255 / 20), abs=0.2)
    assert perfect == "inf"
    assert "PSNR" not in figures(noisy, clean, None)
    assert "another size or other colours" in figures(noisy, clean, clean[:5])["PSNR"]
    assert "another size or other colours" in figures(noisy, clean, clean[..., 0])["PSNR"]
    # The same picture, sixteen bits deep and with an alpha channel.
    deep = np.concatenate([clean, clean[..., :1]], -1).astype(np.uint16) * 257
    assert figures(noisy, clean, deep)["PSNR"] == said["PSNR"]


def test_a_channel_that_is_black_has_no_noise():
    noisy = np.random.default_rng(0).normal(128, 20, (64, 64, 3)).clip(0, 255).astype(np.uint8)
    noisy[..., 2] = 0
    said = figures(noisy, np.zeros_like(noisy), None)
    before, after = (float(word) for word in re.findall(r"[\d.]+", said["estimated noise"]))
    assert before == pytest.approx(2 / 3 * 20, rel=0.05)
    assert after == 0
    black = np.zeros((64, 64, 3), np.float32)
    np.testing.assert_array_equal(non_local_means(black, None), black)


def test_a_picture_of_a_few_pixels():
    few = np.zeros((3, 2, 3), np.uint8)
    assert figures(few, few, None)["estimated noise"] == "the picture is too small to tell"


def test_what_cannot_be_shown_is_named(entries, tmp_path, monkeypatch):
    (tmp_path / "before" / "broken.png").write_bytes(b"nothing")
    Image.new("RGB", (5, 5)).save(tmp_path / "small.png")
    broken = Entry("broken.png", tmp_path / "before" / "broken.png", entries[0].after)
    other = Entry("size.png", entries[0].before, tmp_path / "small.png")
    page = build([broken, other, *entries], title="x")
    assert len(page.sections) == 2
    assert "broken.png: not a readable picture" in page.left_out[0]
    assert "has another size" in page.left_out[1]
    assert "has another size" in " ".join(Reader(page.html()).text)
    monkeypatch.setattr(report, "MOST", 1)
    assert build(entries, title="x").left_out == ["1 more pictures: a page shows 1"]


def test_pages_and_values_of_every_kind(tmp_path):
    """A float TIFF on its own scale, and of a file with pages the first, and it says so."""
    rng = np.random.default_rng(0)
    clean = rng.random((30, 40)).astype(np.float32) * 4000
    for kind, change in (("before", 200), ("after", 100), ("clean", 0)):
        (tmp_path / kind).mkdir()
        values = (clean + change * np.sign(clean - 2000)).clip(0, 4000)
        tifffile.imwrite(tmp_path / kind / "float.tif", values)
        with tifffile.TiffWriter(tmp_path / kind / "pages.tif") as file:
            for height in (30, 20):
                file.write(np.round(values[:height]).astype(np.uint16))
    names = ("float.tif", "pages.tif")
    entries = [
        Entry(name, *(tmp_path / kind / name for kind in ("before", "after", "clean")))
        for name in names
    ]
    page = build(entries, title="x")
    assert page.left_out == []
    read = Reader(page.html())
    text = " ".join(read.text)
    assert "pages.tif, the first of 2 pages" in text
    before, after, *_ = read.images()
    assert np.asarray(before).max() == 255, "white is the brightest value"
    # Sizes of noise are of 255 over the picture's own range.
    assert re.search(r"standard deviation 6\.\d, mean [+-]\d", text)
    psnr = [float(x) for x in re.findall(r"([\d.]+) dB before", text)]
    assert psnr[0] == pytest.approx(20 * np.log10(4000 / 200), abs=0.5)
    assert np.asarray(after).shape[:2] == (30, 40)
