"""The benchmark of who gets which noise: what it draws, and how it counts."""

import numpy as np
import pytest

from benchmarks.specialists import KINDS, draws, files, measure, table


def test_draws():
    drawn = list(draws(files(None), 6, seed=3))
    assert [kind for kind, _, _ in drawn] == [*KINDS, KINDS[0]]
    assert {noisy.shape[-1] for _, noisy, _ in drawn} == {1, 3}
    for (_, noisy, clean), (_, again, _) in zip(drawn, draws(files(None), 6, 3), strict=True):
        assert noisy.shape == clean.shape
        assert noisy.dtype == clean.dtype == np.float32
        assert 0 <= clean.min() < clean.max() <= 1
        assert not np.array_equal(noisy, clean)
        np.testing.assert_array_equal(noisy, again)
    other = next(iter(draws(files(None), 1, seed=4)))[1]
    assert not np.array_equal(drawn[0][1], other)


@pytest.mark.slow
def test_rows_and_table():
    (row,) = measure(None, 1, seed=0)
    assert row["kind"] == "white"
    assert (row["psnr"] == row["given"]) if row["handed"] else (row["psnr"] == row["alone"])
    rows = [
        {"kind": "white", "handed": True, "psnr": 31.0, "alone": 30.0, "given": 31.0},
        {"kind": "white", "handed": False, "psnr": 30.0, "alone": 30.0, "given": 30.5},
        {"kind": "camera", "handed": True, "psnr": 29.0, "alone": 30.0, "given": 29.0},
    ]
    lines = table([*rows, *({**row, "kind": kind} for kind in KINDS for row in rows[:1])])
    assert "| camera | 2 | 2 | +0.00 | +0.50 | -1.00 |" in lines
    assert "| all | 8 | 7 |" in lines
