"""How far a layer looks: what tiles of a picture must overlap by."""

from typing import Any

from sa_flax.modules.masks import SGE


def kernel_reach(attention: Any) -> int:
    """Pixels of its map that an attention's convolution looks away from a pixel."""
    kernel = getattr(attention, "spatial_kernel", None)
    return 0 if kernel is None else kernel.shape[0] // 2


def window_reach(attention: Any) -> int:
    """Pixels of its map that the window of an attention's statistics goes beyond a pixel."""
    window = getattr(attention, "window", None)
    if window is None:
        return 0
    # SGE takes statistics of what is made with the mean.
    return (max(window) // 2 + 1) * (2 if isinstance(attention, SGE) else 1)
