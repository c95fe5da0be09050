"""Printed pictures in the benchmark of quality."""

import numpy as np
import pytest

from benchmarks.printed import scanned


def test_dots_have_their_period_and_the_pictures_brightness():
    clean = np.full((128, 128, 3), 0.5)
    noisy, reference = scanned(clean, 8.0, 0)
    assert np.std(noisy - reference) == pytest.approx(5 / 255, rel=0.05)
    assert reference.mean() == pytest.approx((30 + 235) / 2 / 255, abs=0.03)
    spectrum = np.abs(np.fft.rfft2(reference[..., 0] - reference.mean()))
    strongest = np.unravel_index(spectrum.argmax(), spectrum.shape)
    frequency = np.hypot(np.fft.fftfreq(128)[strongest[0]], strongest[1] / 128)
    assert frequency == pytest.approx(1 / 8, abs=0.01)
    darker = scanned(np.full((128, 128, 3), 0.2), 8.0, 0)[1]
    assert darker.mean() < reference.mean() - 0.1
