"""Shuffle attention: one public function, and the forms that compute it."""

from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Array, Float

from sa_flax.functional._shuffle.derivative import fused
from sa_flax.functional._shuffle.parts import (
    ShuffleAttentionParams,
    check_params,
    gates_of_halves,
    group_split,
    textbook,
)
from sa_flax.functional.canvas import current_canvas
from sa_flax.functional.checks import check_map
from sa_flax.functional.layout import over_mesh
from sa_flax.functional.statistics import Window, covers

Implementation = Literal["textbook", "fused"]

# Each takes (x, params, *, groups, epsilon, shuffle), the textbook form a window besides.
IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {"textbook": textbook, "fused": fused}


def shuffle_attention(
    x: Float[Array, "*B H W C"],
    params: ShuffleAttentionParams,
    *,
    groups: int | None = None,
    epsilon: float = 1e-5,
    window: Window = None,
    shuffle: bool = True,
    implementation: Implementation | None = None,
) -> Float[Array, "*B H W C"]:
    """Shuffle attention.

    With x split into groups and each group into halves x0 and x1 of k = C / (2 groups) channels:

        y0 = x0 * sigmoid(channel_weight * mean_HW(x0) + channel_bias)
        y1 = x1 * sigmoid(spatial_weight * group_norm(x1) + spatial_bias)
        out = channel_shuffle(merge(y0, y1), 2)

    Args:
      x: feature map, (..., H, W, C), any float dtype; statistics are taken in float32 (float64 for
        float64). Over explicit axes of a mesh the result is sharded as x is.
      params: six vectors of length k, shared by all groups, of any float dtype;
        `ShuffleAttentionParams.init` makes them.
      groups: number of groups; 2 * groups must divide C. None for C / 2k, what the vectors'
        length says. The paper uses 64 for classifiers.
      epsilon: added to the variance in the group norm.
      window: (height, width) around each pixel that mean and group norm are taken over; None for
        the whole map. See `sa_flax.functional.statistics`.
      shuffle: False leaves `channel_shuffle` out, for inference where it has been folded into the
        next convolution by `fold_channel_shuffle`.
      implementation: "textbook" composes the functions of this module, as written above; "fused"
        gives the same in fewer passes over the map, without a window; None chooses: "fused", but
        "textbook" with a window.

    Returns:
      A map of x's shape and dtype.

    Raises:
      ValueError: where x is not (..., H, W, C) of floating-point numbers, C is not divisible by
        2 * groups (the groups that fit are listed), the vectors do not have length k, or the
        implementation is unknown or can't take a window.
    """
    x = check_map("shuffle_attention", x)
    groups = check_params(x.shape[-1], params, groups)
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(
            f"implementation must be None or one of {', '.join(IMPLEMENTATIONS)}; got "
            f"{implementation!r}."
        )
    options: dict[str, Any] = {"groups": groups, "epsilon": epsilon, "shuffle": shuffle}
    if not covers(window, x):
        if implementation == "fused":
            raise ValueError("statistics over a window need implementation='textbook', or None.")
        implementation, options["window"] = "textbook", window
    elif 0 in x.shape or current_canvas() is not None:
        # Of no maps there is nothing to make a pass over. On a canvas statistics may be given, and
        # the picture may be smaller than its map.
        implementation = "textbook"
    compute = IMPLEMENTATIONS[implementation or "fused"]
    return over_mesh(lambda x, params: compute(x, params, **options), x, params)


def shuffle_attention_maps(
    x: Float[Array, "*B H W C"],
    params: ShuffleAttentionParams,
    *,
    groups: int | None = None,
    epsilon: float = 1e-5,
    window: Window = None,
) -> dict[str, Float[Array, "..."]]:
    """The gates of `shuffle_attention`, to be looked at: `halves * gates`, before the shuffle.

    Takes the arguments of `shuffle_attention` and raises what it raises.

    Returns:
      {"channel": (..., 1, 1, C/2), or (..., H, W, C/2) over a window, "spatial": (..., H, W,
      C/2)}, in float32 or better: what the first and the second of the halves that
      `group_split(x, groups)` gives are multiplied by.
    """
    x = check_map("shuffle_attention_maps", x)
    groups = check_params(x.shape[-1], params, groups)

    def compute(x, params):
        halves = group_split(x, groups)
        by_channel, by_place = gates_of_halves(
            *halves, params, groups=groups, epsilon=epsilon, window=window
        )
        return {"channel": by_channel, "spatial": by_place}

    return over_mesh(compute, x, params, like_x=False)
