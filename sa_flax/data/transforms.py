"""Random crops, flips and rotations of examples, as grain transforms.

An example is a dict of (H, W, C) uint8 arrays of one size: "clean", and "noisy" where it is a pair.
What is drawn is drawn once and done to all of them.
"""

import grain
import numpy as np
from PIL import Image

from sa_flax.data.splits import Example
from sa_flax.errors import InputError
from sa_flax.pictures import to_channels


class TexturedCrop(grain.transforms.RandomMap):
    """A random square crop that prefers texture.

    Skies and walls teach a denoiser little: a crop whose clean picture has a standard deviation
    below `flat` gray levels is drawn again, `tries` times at most, so that some flat ones remain.

    Args:
      size: side of the crop in pixels.
      scales: lowest and highest of the factors that pictures are seen at, drawn for each crop from
        a uniform distribution: a larger square is made that much smaller. Never smaller than fits.
      flat: standard deviation, in 8-bit gray levels, below which a crop counts as flat.
      tries: how many crops are drawn at most.

    Raises (when applied):
      InputError: where the picture is smaller than the crop.
    """

    def __init__(
        self,
        size: int,
        *,
        scales: tuple[float, float] = (1.0, 1.0),
        flat: float = 4.0,
        tries: int = 4,
    ):
        self.size, self.scales, self.flat, self.tries = size, scales, flat, tries

    def random_map(self, element: Example, rng: np.random.Generator) -> Example:
        clean = element["clean"]
        height, width = clean.shape[:2]
        if min(height, width) < self.size:
            raise InputError(too_small(height, width, self.size))
        side = self.size
        if self.scales != (1, 1):
            side = min(round(self.size / rng.uniform(*self.scales)), height, width)
        for _ in range(self.tries):
            top = rng.integers(height - side + 1)
            left = rng.integers(width - side + 1)
            window = np.s_[top : top + side, left : left + side]
            if clean[window].std(axis=(0, 1)).max() >= self.flat:
                break
        crops = {name: picture[window] for name, picture in element.items()}
        return crops if side == self.size else {k: self._resized(x) for k, x in crops.items()}

    def _resized(self, crop: np.ndarray) -> np.ndarray:
        square = crop[..., 0] if crop.shape[-1] == 1 else crop
        small = Image.fromarray(square).resize((self.size, self.size), Image.Resampling.LANCZOS)
        return np.asarray(small).reshape(self.size, self.size, crop.shape[-1])


class FlipAndRotate(grain.transforms.RandomMap):
    """One of the eight flips and quarter turns of a square, each equally likely."""

    def random_map(self, element: Example, rng: np.random.Generator) -> Example:
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))

        def turn(picture: np.ndarray) -> np.ndarray:
            turned = np.rot90(picture, turns)
            return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)

        return {name: turn(picture) for name, picture in element.items()}


class SomeGray(grain.transforms.RandomMap):
    """A share of the RGB pictures as three equal channels of ITU-R 601 luma.

    Args:
      share: of the pictures, 0 to 1.
    """

    def __init__(self, share: float):
        self.share = share

    def random_map(self, element: Example, rng: np.random.Generator) -> Example:
        if element["clean"].shape[-1] != 3 or rng.random() >= self.share:
            return element
        return {name: np.repeat(to_channels(x, 1), 3, axis=-1) for name, x in element.items()}


def too_small(height: int, width: int, crop: int) -> str:
    """The message for a picture that training crops don't fit in."""
    return (
        f"a picture is {height} x {width} pixels, smaller than the training crop of {crop} x "
        f"{crop}. Lower --data.crop to {min(height, width)} or less, or leave such pictures out."
    )
