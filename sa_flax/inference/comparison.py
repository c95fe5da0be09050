"""Before and after in one picture: whole, enlarged, and what was removed."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sa_flax.pictures.values import Span, span, split_alpha

_SHOWN_NOISE = 40  # standard deviation that removed noise is shown with, of 255
_LONGEST = 640  # pixels of a whole picture's longer side; larger ones are shown smaller
_ZOOM = 3  # pixels of the enlarged part are squares of this side
_GAP, _TITLE = 8, 22
_PAPER, _INK, _FRAME = (255, 255, 255), (40, 40, 40), (230, 60, 40)


def rgb8(pixels: np.ndarray, scale: Span | None = None) -> np.ndarray:
    """Pixels as `read_picture` gives them to (H, W, 3) uint8; alpha is left out.

    `scale` says what is black and white (`sa_flax.pictures.values.span`), by default the pixels'
    own.
    """
    colours, _ = split_alpha(pixels[..., None] if pixels.ndim == 2 else pixels)
    if colours.dtype != np.uint8:
        low, high, _ = span(colours) if scale is None else scale
        unit = (colours.astype(np.float64) - low) / (high - low)
        colours = np.round(255 * np.clip(unit, 0, 1)).astype(np.uint8)
    return np.repeat(colours, 3, -1) if colours.shape[-1] == 1 else colours


def both_rgb8(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures as `rgb8` gives them, with the first one's black and white."""
    scale = span(before[..., None] if before.ndim == 2 else split_alpha(before)[0])
    return rgb8(before, scale), rgb8(after, scale)


def removed(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, int]:
    """What was taken away, around middle gray: (H, W, 3) uint8, and how many times as strong.

    Of good denoising nothing of the picture is seen in it.
    """
    difference = before.astype(np.float32) - after.astype(np.float32)
    gain = int(np.clip(round(_SHOWN_NOISE / max(float(difference.std()), 1e-3)), 1, 16))
    return np.clip(np.round(128 + gain * difference), 0, 255).astype(np.uint8), gain


def most_detailed(picture: np.ndarray, height: int, width: int) -> tuple[int, int]:
    """Top and left of the part, height x width, with the most edges, which denoising could blur.

    Args:
      picture: (H, W, 3) uint8; best the denoised one, where noise makes no edges.
      height, width: of the part; no larger than the picture.
    """
    gray = picture.astype(np.float32).mean(-1)
    edges = np.zeros_like(gray)
    edges[:-1] += np.abs(np.diff(gray, axis=0))
    edges[:, :-1] += np.abs(np.diff(gray, axis=1))
    edges = np.minimum(edges, 40)  # many edges rather than one that is strong
    sums = np.pad(edges.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    inside = (sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width]) + sums[
        :-height, :-width
    ]
    top, left = np.unravel_index(np.argmax(inside), inside.shape)
    return int(top), int(left)


def compare(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Before, after, and what was removed, side by side; below, a part of each, enlarged.

    Args:
      before, after: pixels of one shape, as `read_picture` gives them.

    Returns:
      (H, W, 3) uint8.
    """
    before, after = both_rgb8(before, after)
    noise, gain = removed(before, after)
    panels = {"before": before, "after": after, f"removed, {gain} x as strong": noise}
    height, width = before.shape[:2]
    scale = min(1.0, _LONGEST / max(height, width))
    shown = max(round(width * scale), 1), max(round(height * scale), 1)
    # As wide as the column above, whatever the picture's shape is.
    part = min(height, max(shown[0] // _ZOOM, 32)), min(width, max(shown[0] // _ZOOM, 32))
    top, left = most_detailed(after, *part)
    column = max(shown[0], part[1] * _ZOOM)
    sheet = Image.new(
        "RGB",
        (
            3 * column + 4 * _GAP,
            _TITLE + shown[1] + part[0] * _ZOOM + 3 * _GAP,
        ),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for number, (title, panel) in enumerate(panels.items()):
        x = _GAP + number * (column + _GAP)
        draw.text((x, 4), title, fill=_INK, font=font)
        picture = Image.fromarray(panel)
        whole = picture.resize(shown, Image.Resampling.BOX) if scale < 1 else picture
        sheet.paste(whole, (x, _TITLE))
        frame = (
            x + left * scale,
            _TITLE + top * scale,
            x + (left + part[1]) * scale - 1,
            _TITLE + (top + part[0]) * scale - 1,
        )
        draw.rectangle(frame, outline=_FRAME)
        cut = picture.crop((left, top, left + part[1], top + part[0]))
        enlarged = cut.resize((part[1] * _ZOOM, part[0] * _ZOOM), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (x, _TITLE + shown[1] + _GAP))
    return np.asarray(sheet)
