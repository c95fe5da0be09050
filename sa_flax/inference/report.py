"""One HTML page of pictures before and after, with a divider to move, that needs nothing else."""

import base64
import html
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from sa_flax.errors import InputError
from sa_flax.inference.comparison import both_rgb8, most_detailed, removed, rgb8
from sa_flax.inference.evaluate import wavelet_sigma
from sa_flax.pictures import read_pages, split_alpha
from sa_flax.pictures.values import Span, span

MOST = 60  # pictures on a page; more would make it too large to open
_LONGEST = 1200  # pixels of the longer side of a whole picture on the page
_LEAST = 16  # pixels of the shorter side that a level of noise is told from
_PART = 400, 600  # height and width of the part that is shown pixel by pixel


@dataclass(frozen=True)
class Entry:
    """Files of one picture on the page.

    Attributes:
      name: its title.
      before, after: the files.
      clean: the true picture, where there is one.
    """

    name: str
    before: Path
    after: Path
    clean: Path | None = None


@dataclass
class Page:
    """A page as it grows.

    Attributes:
      title: shown at its head.
      sections: HTML of each picture.
      left_out: a line for each picture that is not shown, with the reason.
    """

    title: str
    sections: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def html(self) -> str:
        """The whole page."""
        notes = "".join(f"<li>{html.escape(line)}</li>" for line in self.left_out)
        return _PAGE.format(
            title=html.escape(self.title),
            count="1 picture" if len(self.sections) == 1 else f"{len(self.sections)} pictures",
            sections="\n".join(self.sections),
            notes=f"<h2>Not shown</h2><ul>{notes}</ul>" if notes else "",
        )


def build(
    entries: Iterable[Entry], *, title: str, shown: Callable[[str], None] = lambda name: None
) -> Page:
    """A page of pictures; what can't be read is left out and named at its end.

    Args:
      entries: the pictures, of which the first `MOST` are shown.
      title: of the page.
      shown: called with each name that is done.
    """
    page = Page(title)
    waiting = 0
    for entry in entries:
        if len(page.sections) == MOST:
            waiting += 1
            continue
        try:
            page.sections.append(_section(entry, len(page.sections)))
        except InputError as error:
            text = str(error)
            page.left_out.append(text if str(entry.before) in text else f"{entry.before}: {text}")
        except Exception as error:  # whatever a reader raises
            page.left_out.append(f"{entry.before}: {type(error).__name__}: {error}")
        shown(entry.name)
    if waiting:
        page.left_out.append(f"{waiting} more pictures: a page shows {MOST}")
    return page


def noise_level(pixels: np.ndarray) -> float:
    """An estimate of sigma on the 0-255 scale, as if the noise were white: see `wavelet_sigma`."""
    return wavelet_sigma(rgb8(pixels).astype(np.float32))


def figures(before: np.ndarray, after: np.ndarray, clean: np.ndarray | None) -> dict[str, str]:
    """What is said of a picture: sizes, noise before and after, and PSNR where it can be."""
    height, width = before.shape[:2]
    first, second = both_rgb8(before, after)
    change = first.astype(np.float32) - second
    levels = "the picture is too small to tell"
    if min(height, width) >= _LEAST:
        levels = f"sigma {noise_level(first):.1f} before, {noise_level(second):.1f} after"
    said = {
        "size": f"{width} x {height}",
        "estimated noise": levels,
        "removed": f"standard deviation {change.std():.1f}, mean {change.mean():+.2f} of 255",
    }
    if clean is not None:
        said["PSNR"] = _psnr(before, after, clean)
    return said


def _psnr(before: np.ndarray, after: np.ndarray, clean: np.ndarray) -> str:
    """PSNR of the colours. Every depth has a white of its own; files of one depth share it."""
    truth = _colours(clean)
    if truth.shape != _colours(before).shape:
        return "not known: the true picture has another size or other colours"
    shared = span(truth)
    said = []
    for picture, when in ((before, "before"), (after, "after")):
        colours = _colours(picture)
        own = shared if colours.dtype == truth.dtype else span(colours)
        mse = np.mean((_unit(colours, own) - _unit(truth, shared)) ** 2)
        said.append(f"{-10 * np.log10(mse) if mse else np.inf:.2f} dB {when}")
    return ", ".join(said)


def _colours(pixels: np.ndarray) -> np.ndarray:
    return split_alpha(pixels[..., None] if pixels.ndim == 2 else pixels)[0]


def _unit(pixels: np.ndarray, scale: Span) -> np.ndarray:
    return (pixels.astype(np.float64) - scale.low) / (scale.high - scale.low)


def _section(entry: Entry, number: int) -> str:
    pages = [read_pages(path) for path in (entry.before, entry.after)]
    before, after = (of_one[0].pixels for of_one in pages)
    if before.shape[:2] != after.shape[:2]:
        raise InputError(f"{entry.after}: has another size than {entry.before}.")
    clean = None if entry.clean is None else read_pages(entry.clean)[0].pixels
    name = entry.name if len(pages[0]) == 1 else f"{entry.name}, the first of {len(pages[0])} pages"
    rows = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
        for name, value in figures(before, after, clean).items()
    )
    first, second = both_rgb8(before, after)
    height, width = (min(n, m) for n, m in zip(_PART, first.shape[:2], strict=True))
    top, left = most_detailed(second, height, width)
    part = np.s_[top : top + height, left : left + width]
    whole = "" if (height, width) == first.shape[:2] else _divider(first, second, "whole picture")
    noise, gain = removed(first, second)
    return _SECTION.format(
        number=number,
        name=html.escape(name),
        rows=rows,
        whole=whole,
        part=_divider(first[part], second[part], "pixel by pixel"),
        removed=_image(noise[part], "removed noise"),
        gain=gain,
    )


def _divider(before: np.ndarray, after: np.ndarray, caption: str) -> str:
    return _DIVIDER.format(
        width=min(before.shape[1], _LONGEST),
        before=_image(before, "before"),
        after=_image(after, "after"),
        caption=html.escape(caption),
    )


def _image(pixels: np.ndarray, what: str) -> str:
    picture = Image.fromarray(pixels)
    if max(picture.size) > _LONGEST:
        picture.thumbnail((_LONGEST, _LONGEST), Image.Resampling.BOX)
    encoded = io.BytesIO()
    # Colour at full resolution: halved, as JPEG and WebP have it by default, it loses its noise.
    picture.save(encoded, "JPEG", quality=92, subsampling=0)
    data = base64.b64encode(encoded.getvalue()).decode("ascii")
    width, height = picture.size
    return (
        f'<img src="data:image/jpeg;base64,{data}" alt="{what}" width="{width}" height="{height}">'
    )


# The input is what keys move; it lies over the picture, unseen, and lets the pointer through.
_DIVIDER = """<figure class="pair" style="--at: 50%; max-width: {width}px">
<div class="stack">{before}<div class="over">{after}</div>
<input type="range" min="0" max="100" value="50" aria-label="divider: before and after">
<div class="line"></div><span class="left">before</span><span class="right">after</span></div>
<figcaption>{caption}; drag the divider, or move it by the arrow keys</figcaption>
</figure>"""

_SECTION = """<section id="picture{number}">
<h2>{name}</h2>
<dl>{rows}</dl>
{whole}
{part}
<figure>{removed}<figcaption>removed noise, {gain} x as strong</figcaption></figure>
</section>"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1240px;
  padding: 0 1rem; color: #222; background: #fafafa; }}
h2 {{ overflow-wrap: anywhere; margin-bottom: 0; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; margin: .5rem 0 1rem; }}
dt {{ color: #666; }}
dd {{ margin: 0; }}
figure {{ margin: 0 0 1.5rem; }}
figcaption {{ color: #666; font-size: .875rem; }}
img {{ display: block; max-width: 100%; height: auto; }}
.stack {{ position: relative; width: fit-content; max-width: 100%; cursor: ew-resize;
  touch-action: pan-y pinch-zoom; user-select: none; -webkit-user-select: none; }}
.stack img {{ pointer-events: none; }}
.over {{ position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at)); }}
.over img {{ width: 100%; }}
.line {{ position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000; pointer-events: none; }}
.line::after {{ content: "\\25C2 \\25B8"; position: absolute; top: 50%; left: 1px; width: 2.2em;
  height: 2.2em; line-height: 2.2em; text-align: center; transform: translate(-50%, -50%);
  border-radius: 50%; background: #fff; box-shadow: 0 0 3px #000; }}
.stack input {{ position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
  pointer-events: none; }}
.stack input:focus-visible + .line::after {{ background: #ffd54a; }}
.left, .right {{ position: absolute; top: .5rem; padding: 0 .4rem; font-size: .875rem;
  color: #fff; background: #0009; pointer-events: none; }}
.left {{ left: .5rem; }}
.right {{ right: .5rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{count}. Move the dividers to compare.</p>
{sections}
{notes}
<script>
for (const stack of document.querySelectorAll(".stack")) {{
  const input = stack.querySelector("input");
  const move = (percent) => stack.parentElement.style.setProperty("--at", percent + "%");
  const follow = (event) => {{
    const box = stack.getBoundingClientRect();
    const at = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * 100;
    input.value = at;
    move(at);
  }};
  input.addEventListener("input", () => move(input.value));
  stack.addEventListener("pointerdown", (event) => {{
    if (event.button) return;
    event.preventDefault();
    stack.setPointerCapture(event.pointerId);
    input.focus({{ preventScroll: true }});
    follow(event);
  }});
  stack.addEventListener("pointermove", (event) => {{
    if (stack.hasPointerCapture(event.pointerId)) follow(event);
  }});
}}
</script>
</body>
</html>
"""
