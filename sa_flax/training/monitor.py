"""What becomes of a step's metrics: means to log, and an end to runs that diverge."""

from collections.abc import Sequence

import jax
import numpy as np

from sa_flax.errors import DivergedError


class Monitor:
    """Fetches metrics from the device, and stops a run whose updates are skipped again and again.

    Args:
      most_in_row: so many skipped updates in a row stop the run.

    Attributes:
      skipped: updates skipped so far, because their loss or gradient was not finite.
    """

    def __init__(self, most_in_row: int):
        self.skipped, self._in_row, self._most = 0, 0, most_in_row

    def means(self, pending: Sequence[dict[str, jax.Array]], *, last_step: int) -> dict[str, float]:
        """Means of the metrics of the last steps, fetched at once.

        But for skipped, which is how many were, and learning_rate, which is the last. Steps that
        were skipped are left out of the other means; where all were, there are none.

        Raises:
          DivergedError: where too many in a row were skipped, with the step and what to try.
        """
        fetched = jax.device_get(list(pending))
        for offset, metrics in enumerate(fetched):
            self._in_row = self._in_row + 1 if metrics["skipped"] else 0
            self.skipped += int(metrics["skipped"])
            if self._in_row == self._most:
                step = last_step - len(fetched) + 1 + offset
                raise DivergedError(
                    f"loss or gradient was not finite {self._most} times in a row, at step {step} "
                    f"the last time (loss {metrics['loss']}, gradient norm "
                    f"{metrics['grad_norm']}). Try a lower --optimizer.learning-rate, a longer "
                    "--optimizer.warmup-steps, a lower --optimizer.clip-norm, or --dtype float32. "
                    "To go on from the last checkpoint with a lower rate, run the same command "
                    "with --optimizer.learning-rate."
                )
        good = [m for m in fetched if not m["skipped"]]
        names = fetched[0].keys() - {"skipped", "learning_rate"} if good else ()
        means = {name: float(np.mean([m[name] for m in good])) for name in names}
        rate = float(fetched[-1]["learning_rate"])
        return {**means, "learning_rate": rate, "skipped": float(len(fetched) - len(good))}
