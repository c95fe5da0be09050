"""How far a layer looks: what tiles of a picture must overlap by."""

from typing import Any

from sa_flax.modules.masks import SGE


def attention_reach(attention: Any) -> int:
    """Pixels of its map that an attention looks away from a pixel, statistics of the map apart.

    The half of a spatial gate's convolution, and of the window that statistics are taken over.
    """
    kernel = getattr(attention, "spatial_kernel", None)
    reach = 0 if kernel is None else kernel.shape[0] // 2
    window = getattr(attention, "window", None)
    if window is not None:
        # SGE takes statistics of what is made with the mean.
        reach += (max(window) // 2 + 1) * (2 if isinstance(attention, SGE) else 1)
    return reach
