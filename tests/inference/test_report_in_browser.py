"""The dividers of the report move by mouse, finger and keys, and the page looks as it should."""

import numpy as np
import pytest
from PIL import Image

from sa_flax.inference.report import Entry, build
from tests.inference.chromium import chromium, installed

pytestmark = pytest.mark.skipif(installed() is None, reason="no Chromium here")

RED, BLUE = (200, 30, 30), (30, 30, 200)


@pytest.fixture
def page(tmp_path):
    """One picture, red before and blue after, open in a browser that has no network."""
    for kind, colour in (("before", RED), ("after", BLUE)):
        Image.fromarray(np.full((300, 500, 3), colour, np.uint8)).save(tmp_path / f"{kind}.png")
    entry = Entry("a picture", tmp_path / "before.png", tmp_path / "after.png")
    path = tmp_path / "report.html"
    path.write_text(build([entry], title="Before and after").html(), encoding="utf-8")
    with chromium(installed(), tmp_path / "browser") as opened:
        opened.path, opened.shot = path, tmp_path / "shot.png"
        yield opened


def divider(page) -> tuple[float, float, float, float]:
    """Left, top, width and height of the picture in the window."""
    return tuple(
        page.value(
            "(() => { const b = document.querySelector('.stack').getBoundingClientRect();"
            "return [b.left, b.top, b.width, b.height]; })()"
        )
    )


def border(page) -> float:
    """Where the picture turns from before to after in a screenshot, as a share of its width."""
    left, top, width, height = divider(page)
    page.screenshot(page.shot)
    with Image.open(page.shot) as picture:
        row = np.asarray(picture.convert("RGB"), int)[round(top + 0.9 * height)]
    row = row[round(left) : round(left + width)]
    red = np.abs(row - RED).max(-1) < 40
    blue = np.abs(row - BLUE).max(-1) < 40
    assert (red | blue).sum() > len(row) - 16, "nothing but the two pictures and the line"
    place = red.sum()
    assert red[: place - 8].all()
    assert not blue[: place - 8].any()
    return place / len(row)


def test_dividers_move_by_mouse_and_keys(page):
    page.open(page.path, width=900, height=900)
    left, top, width, height = divider(page)
    assert (width, height) == (500, 300)
    assert border(page) == pytest.approx(0.5, abs=0.02)
    page.mouse("mousePressed", left + 0.5 * width, top + 50)
    page.mouse("mouseMoved", left + 0.7 * width, top + 60)
    page.mouse("mouseMoved", left + 0.83 * width, top + 250)
    page.mouse("mouseReleased", left + 0.83 * width, top + 250)
    page.mouse("mouseMoved", left + 0.3 * width, top + 60, pressed=False)
    assert border(page) == pytest.approx(0.83, abs=0.02)
    # A press anywhere moves it there, and what leaves the picture stops at its edge.
    page.mouse("mousePressed", left + 0.2 * width, top + 20)
    page.mouse("mouseReleased", left + 0.2 * width, top + 20)
    assert border(page) == pytest.approx(0.2, abs=0.02)
    for _ in range(5):
        page.key("ArrowRight", 39)
    assert border(page) == pytest.approx(0.25, abs=0.02)
    page.mouse("mousePressed", left + 0.2 * width, top + 20)
    page.mouse("mouseMoved", left + 2 * width, top - 100)
    page.mouse("mouseReleased", left + 2 * width, top - 100)
    assert page.value("document.querySelector('.stack input').value") == "100"
    page.key("Home", 36)
    assert page.value("document.querySelector('figure').style.getPropertyValue('--at')") == "0%"


def test_dividers_move_by_a_finger_on_a_small_screen(page):
    page.open(page.path, width=360, height=640, touch=True)
    left, top, width, _ = divider(page)
    assert left + width <= 360, "the picture is as wide as the screen lets it"
    page.touch("touchStart", (left + 0.5 * width, top + 40))
    for share in (0.4, 0.3, 0.2):
        page.touch("touchMove", (left + share * width, top + 42))
    page.touch("touchEnd")
    assert border(page) == pytest.approx(0.2, abs=0.03)
    assert page.value("document.documentElement.scrollWidth") <= 360
