"""One HTML page of pictures before and after, with a divider to move, that needs nothing else."""

import base64
import html
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.restoration import estimate_sigma

from sa_flax.errors import InputError
from sa_flax.inference.comparison import most_detailed, removed, rgb8
from sa_flax.pictures import read_picture

MOST = 60  # pictures on a page; more would make it too large to open
_LONGEST = 1200  # pixels of the longer side of a whole picture on the page
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
            count=len(self.sections),
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
            page.left_out.append(str(error))
        except Exception as error:  # whatever a reader raises
            page.left_out.append(f"{entry.before}: {type(error).__name__}: {error}")
        shown(entry.name)
    if waiting:
        page.left_out.append(f"{waiting} more pictures: a page shows {MOST}")
    return page


def noise_level(pixels: np.ndarray) -> float:
    """An estimate of sigma on the 0-255 scale, the mean over the channels.

    From the finest wavelet details (Donoho and Johnstone 1994), as if the noise were white.
    """
    return float(np.mean(estimate_sigma(rgb8(pixels).astype(np.float32), channel_axis=-1)))


def figures(before: np.ndarray, after: np.ndarray, clean: np.ndarray | None) -> dict[str, str]:
    """What is said of a picture: sizes, noise before and after, and PSNR where it can be."""
    height, width = before.shape[:2]
    first, second = rgb8(before), rgb8(after)
    change = first.astype(np.float32) - second
    levels = noise_level(before), noise_level(after)
    said = {
        "size": f"{width} x {height}",
        "estimated noise": f"sigma {levels[0]:.1f} before, {levels[1]:.1f} after",
        "removed": f"standard deviation {change.std():.1f}, mean {change.mean():+.2f} of 255",
    }
    if clean is not None and clean.shape == before.shape:
        top = np.iinfo(clean.dtype).max
        colours = clean.shape[-1] - (clean.shape[-1] in (2, 4)) if clean.ndim == 3 else None
        values = [_psnr(x[..., :colours], clean[..., :colours], top) for x in (before, after)]
        said["PSNR"] = f"{values[0]:.2f} dB before, {values[1]:.2f} dB after"
    return said


def _psnr(picture: np.ndarray, clean: np.ndarray, top: int) -> float:
    mse = np.mean((picture.astype(np.float64) - clean) ** 2)
    return float(10 * np.log10(top**2 / mse)) if mse else float("inf")


def _section(entry: Entry, number: int) -> str:
    before, after = read_picture(entry.before).pixels, read_picture(entry.after).pixels
    if before.shape[:2] != after.shape[:2]:
        raise InputError(f"{entry.after}: has another size than {entry.before}.")
    clean = None if entry.clean is None else read_picture(entry.clean).pixels
    rows = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
        for name, value in figures(before, after, clean).items()
    )
    first, second = rgb8(before), rgb8(after)
    height, width = (min(n, m) for n, m in zip(_PART, first.shape[:2], strict=True))
    top, left = most_detailed(second, height, width)
    part = np.s_[top : top + height, left : left + width]
    whole = "" if (height, width) == first.shape[:2] else _divider(first, second, "whole picture")
    noise, gain = removed(first, second)
    return _SECTION.format(
        number=number,
        name=html.escape(entry.name),
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


_DIVIDER = """<figure class="pair" style="--at: 50%; max-width: {width}px">
<div class="stack">{before}<div class="over">{after}</div><div class="line"></div></div>
<label>before <input type="range" min="0" max="100" value="50" aria-label="divider"
 oninput="this.closest('figure').style.setProperty('--at', this.value + '%')"> after</label>
<figcaption>{caption}: left of the line before, right of it after</figcaption>
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
.stack {{ position: relative; }}
.over {{ position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at)); }}
.over img {{ width: 100%; }}
.line {{ position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000; }}
label {{ display: flex; gap: .5rem; align-items: center; }}
input {{ flex: 1; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{count} pictures. Move the dividers to compare.</p>
{sections}
{notes}
</body>
</html>
"""
