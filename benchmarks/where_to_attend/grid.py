"""The cells of the study: which attention stands where, and the networks that they are.

A cell is one network, whatever the seed. `GRIDS` names them:

- main: no attention; each mask in the encoder, the decoder and both; the affinity of all positions
  at the bottom, where maps are small enough for it; a learned number on each skip connection,
  which is the cheapest gate there is.
- affinities: its relatives at the bottom, for pictures that repeat themselves.
- forms: masks at the two coarsest levels only, where they cost next to nothing; shuffle attention
  whose gates start at 1 in place of 0.731; statistics over a window in training as in use.

Beside each cell that has more parameters than the plain network stands a plain one of the width
whose parameters come nearest: `plain-25` is the network without attention of width 25.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import sa_flax
from sa_flax.models.unet import AttentionUNet

MASKS = ("shuffle", "squeeze_excite", "dual")
POSITIONS = ("encoder", "decoder", "both")
PLAIN = "none"


@dataclass(frozen=True)
class Cell:
    """A network of the study.

    Attributes:
      name: what it is called in files and tables.
      attention, attend, options: of `AttentionUNet`.
      skip_gates: multiply each skip connection by a learned number.
      window: side in pixels that statistics are taken over, also in training; None for the map.
      width: features at full resolution; None for the study's.
    """

    name: str
    attention: Any = "none"
    attend: Any = "none"
    options: Mapping[Any, Any] = field(default_factory=dict)
    skip_gates: bool = False
    window: int | None = None
    width: int | None = None


class SkipGatedUNet(AttentionUNet):
    """The U-Net with a learned number on each skip connection, 1 at the start."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.skip_gates = nnx.List(
            [nnx.Param(jnp.ones((), jnp.float32)) for _ in range(self.levels - 1)]
        )

    def _joined(self, level: int, x: jax.Array, skip: jax.Array) -> jax.Array:
        return x + self.skip_gates[level][...].astype(skip.dtype) * skip


class OpenShuffleAttention(sa_flax.ShuffleAttention):
    """Shuffle attention, divided by what its gates are at the start, so that they start at 1."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x) / jax.nn.sigmoid(jnp.ones((), x.dtype))


def grids(levels: int) -> dict[str, list[Cell]]:
    """The cells by the name of their grid, for a network of so many levels (at least two)."""
    coarse = (levels - 2, levels - 1)
    masks = [Cell(f"{kind}-{where}", kind, where) for kind in MASKS for where in POSITIONS]
    return {
        "main": [
            Cell(PLAIN),
            *masks,
            Cell("non_local-bottom", {"bottom": "non_local"}, "both"),
            Cell("skip", skip_gates=True),
        ],
        "affinities": [
            Cell("self_attention-bottom", {"bottom": "self_attention"}, "both"),
            Cell("danet-bottom", {"bottom": "danet"}, "both"),
            Cell(
                "dot_product-bottom",
                {"bottom": "non_local"},
                "both",
                {"bottom": {"affinity": "dot_product"}},
            ),
        ],
        "forms": [
            *(Cell(f"{kind}-coarse", dict.fromkeys(coarse, kind), "both") for kind in MASKS),
            Cell("shuffle-open", OpenShuffleAttention, "decoder"),
            Cell("shuffle-window", "shuffle", "decoder", window=32),
        ],
    }


def build(cell: Cell, *, width: int, levels: int, seed: int) -> AttentionUNet:
    """The network of a cell, for colour pictures; the seed fixes its initial parameters."""
    kind = SkipGatedUNet if cell.skip_gates else AttentionUNet
    model = kind(
        channels=3,
        width=cell.width or width,
        levels=levels,
        attention=cell.attention,
        attend=cell.attend,
        attention_options=dict(cell.options),
        # XLA's own generator compiles in a quarter of the time.
        rngs=nnx.Rngs(jax.random.key(seed, impl="rbg")),
    )
    return model if cell.window is None else model.with_window((cell.window, cell.window))


def parameters(cell: Cell, *, width: int, levels: int) -> int:
    """How many numbers a cell's network learns."""
    model = nnx.eval_shape(lambda: build(cell, width=width, levels=levels, seed=0))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def control(cell: Cell, *, width: int, levels: int) -> Cell:
    """The network without attention whose parameters come nearest to those of `cell`.

    It is never narrower than the study's plain network, and that one itself where a cell has
    hardly more.
    """
    wanted = parameters(cell, width=width, levels=levels)
    best = (abs(parameters(Cell(PLAIN), width=width, levels=levels) - wanted), Cell(PLAIN))
    wider = width
    while True:
        wider += 1
        plain = Cell(f"plain-{wider}", width=wider)
        count = parameters(plain, width=width, levels=levels)
        best = min(best, (abs(count - wanted), plain), key=lambda pair: pair[0])
        if count >= wanted:
            return best[1]


def with_controls(
    cells: list[Cell], *, width: int, levels: int
) -> tuple[list[Cell], dict[str, str]]:
    """The cells and the plain networks that match them, each once; cell -> its control's name."""
    found = {cell.name: cell for cell in cells}
    matched: dict[str, str] = {}
    for cell in cells:
        if cell.name != PLAIN:
            plain = control(cell, width=width, levels=levels)
            found.setdefault(plain.name, plain)
            matched[cell.name] = plain.name
    return list(found.values()), matched
