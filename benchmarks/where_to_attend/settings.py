"""What all cells of one study have in common."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from benchmarks.where_to_attend.pictures import WhiteOrCorrelated
from sa_flax.config import Config, DataConfig, OptimizerConfig
from sa_flax.errors import InputError
from sa_flax.files import write_whole
from sa_flax.limits import ABOVE_ZERO, AT_LEAST_ONE, Limit, check_fields

FILE = "settings.json"


@dataclass(frozen=True)
class Settings:
    """Equal for all cells of a study; its folder keeps them."""

    minutes: Annotated[float, ABOVE_ZERO] = 8.0
    """Processor minutes, over all threads, that the training steps of each cell may take."""
    steps: int | None = None
    """Training steps of each cell in place of a budget: equal steps instead of equal time."""
    width: Annotated[int, AT_LEAST_ONE] = 24
    """Features at full resolution; doubled at each level down."""
    levels: Annotated[int, Limit(2, 12)] = 4
    """Resolutions of the U-Net."""
    crop: Annotated[int, AT_LEAST_ONE] = 64
    """Side of the training crops in pixels, and of the window of statistics in the test."""
    batch: Annotated[int, AT_LEAST_ONE] = 8
    """Crops a step."""
    rate: Annotated[float, ABOVE_ZERO] = 2e-3
    """Highest learning rate."""
    source: str = "photographs"
    """Pictures to train on: photographs (bundled) or a folder."""
    largest: Annotated[int, AT_LEAST_ONE] = 512
    """Test pictures are cut to their centres of so many pixels a side."""
    most: Annotated[int, AT_LEAST_ONE] = 24
    """Pictures of each test set, at most."""

    def config(self, steps: int, seed: int) -> Config:
        """The training configuration of a cell (its network is the cell's own)."""
        return Config(
            data=DataConfig(
                source=self.source, crop=self.crop, batch_size=self.batch, gray_share=0.15
            ),
            noise=WhiteOrCorrelated(),  # type: ignore[arg-type]
            # As the shipped networks are trained: clipped tightly, annealed to a thousandth.
            optimizer=OptimizerConfig(learning_rate=self.rate, clip_norm=0.1, final_fraction=1e-3),
            steps=steps,
            seed=seed,
        )


def settle(settings: Settings, folder: Path) -> None:
    """Notes the settings in the folder of a study, or checks that they are those it has.

    Raises:
      InputError: where it was begun with others, which are named; and for impossible ones.
    """
    check_fields(settings)
    if settings.steps is not None and settings.steps < 1:
        raise InputError(f"--steps must be at least 1; got {settings.steps}.")
    path, now = folder / FILE, dataclasses.asdict(settings)
    if not path.is_file():
        write_whole(path, json.dumps(now, indent=1) + "\n")
        return
    then = json.loads(path.read_text())
    changed = [f"--{k} {then.get(k)} then, {now[k]} now" for k in now if then.get(k) != now[k]]
    if changed:
        raise InputError(
            f"{folder} holds a study with other settings: {'; '.join(changed)}. Its cells can't be "
            "compared with these: give those settings, or another --output."
        )
