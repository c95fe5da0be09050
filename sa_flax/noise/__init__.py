"""Noise: what a configuration says of it, and the thing itself.

Each class is an entry of the configuration (its fields are the options, with their limits) and a
function at once: `noise(key, clean) -> (noisy, sigma)`. To add one, write its class in
`kinds.py`, what it does in `_drawn`, and name it in `NOISES`: training, evaluation, `sa-flax
add-noise` and the texts take it from there.

Levels in the fields are on the 0-255 scale of papers; pictures are (B, H, W, C) in [0, 1].
"""

from sa_flax.noise.kinds import Blind, Camera, Correlated, Gaussian, PoissonGaussian
from sa_flax.noise.photo import Photo

Noise = Gaussian | Blind | PoissonGaussian | Correlated | Camera | Photo
NOISES: dict[str, type[Noise]] = {
    noise.kind: noise for noise in (Gaussian, Blind, PoissonGaussian, Correlated, Camera, Photo)
}

__all__ = [
    "NOISES",
    "Blind",
    "Camera",
    "Correlated",
    "Gaussian",
    "Noise",
    "Photo",
    "PoissonGaussian",
]
