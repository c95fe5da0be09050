"""Random crops, flips and rotations of pictures, as grain transforms on (H, W, C) uint8 arrays."""

import grain
import numpy as np

from sa_flax.errors import InputError


class TexturedCrop(grain.transforms.RandomMap):
    """A random square crop that prefers texture.

    Skies and walls teach a denoiser little: a crop whose standard deviation is below `flat` gray
    levels is drawn again, `tries` times at most, so that some flat ones remain.

    Args:
      size: side of the crop in pixels.
      flat: standard deviation, in 8-bit gray levels, below which a crop counts as flat.
      tries: how many crops are drawn at most.

    Raises (when applied):
      InputError: where the picture is smaller than the crop.
    """

    def __init__(self, size: int, *, flat: float = 4.0, tries: int = 4):
        self.size, self.flat, self.tries = size, flat, tries

    def random_map(self, element: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = element.shape[:2]
        if min(height, width) < self.size:
            raise InputError(too_small(height, width, self.size))
        for _ in range(self.tries):
            top = rng.integers(height - self.size + 1)
            left = rng.integers(width - self.size + 1)
            crop = element[top : top + self.size, left : left + self.size]
            if crop.std(axis=(0, 1)).max() >= self.flat:
                break
        return crop


class FlipAndRotate(grain.transforms.RandomMap):
    """One of the eight flips and quarter turns of a square, each equally likely."""

    def random_map(self, element: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        turned = np.rot90(element, int(rng.integers(4)))
        return np.ascontiguousarray(turned[:, ::-1] if rng.integers(2) else turned)


class SomeGray(grain.transforms.RandomMap):
    """A share of the RGB pictures as three equal channels of ITU-R 601 luma.

    Args:
      share: of the pictures, 0 to 1.
    """

    def __init__(self, share: float):
        self.share = share

    def random_map(self, element: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if element.shape[-1] != 3 or rng.random() >= self.share:
            return element
        luma = np.round(element @ np.array([0.299, 0.587, 0.114])).astype(element.dtype)
        return np.repeat(luma[..., None], 3, axis=-1)


def too_small(height: int, width: int, crop: int, name: str = "a picture") -> str:
    """The message for a picture that training crops don't fit in."""
    return (
        f"{name} is {height} x {width} pixels, smaller than the training crop of {crop} x {crop}. "
        f"Lower --data.crop to {min(height, width)} or less, or leave such pictures out."
    )
