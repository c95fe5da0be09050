"""Feature maps by name: the sizes that benchmarks measure and that tests try."""

from typing import NamedTuple


class MapShape(NamedTuple):
    """A feature map (batch, height, width, features), and groups of a shuffle attention on it."""

    batch: int
    height: int
    width: int
    features: int
    groups: int

    @property
    def map(self) -> tuple[int, int, int, int]:
        return self[:4]

    def reduced(self) -> "MapShape":
        """The same channels and groups over few pixels, for tests; odd where the map was even."""
        sizes = (min(n, most) for n, most in zip(self[:3], (2, 7, 9), strict=True))
        return MapShape(*sizes, *self[3:])


SHUFFLE_ATTENTION = {
    "first stage of SA-ResNet-50": MapShape(8, 56, 56, 256, 64),
    "second stage of SA-ResNet-50": MapShape(16, 28, 28, 512, 64),
    "training crops, third level of a U-Net": MapShape(8, 64, 64, 128, 32),
    "training crops, second level of a U-Net": MapShape(4, 128, 128, 64, 16),
    "a picture of 512 x 512": MapShape(1, 512, 512, 64, 16),
    "a picture of 1024 x 1024": MapShape(1, 1024, 1024, 32, 8),
}


# Pictures that the U-Net is timed on: crops of a training step, and one to denoise.
UNET_CROPS = (8, 64, 64, 3)
UNET_PICTURE = (1, 512, 512, 3)


def few_pixels(shape: tuple[int, ...], *, multiple: int = 1) -> tuple[int, ...]:
    """A batch of pictures of the same channels with few pixels, for tests.

    Height and width differ and, unless `multiple` asks for even ones, are odd.
    """
    batch, height, width, channels = shape
    return min(batch, 2), min(height, 3 * multiple), min(width, 5 * multiple), channels


def map_sizes(size: int, width: int, levels: int) -> list[tuple[int, int]]:
    """(pixels along a side, features) at each level of a U-Net that doubles its features."""
    return [(size // 2**level, width * 2**level) for level in range(levels)]
