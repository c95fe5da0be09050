"""A U-Net for denoising, with a choice of attention and of where it stands."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sa_flax.functional.checks import check_floating, is_whole
from sa_flax.functional.initializers import variance_scaling
from sa_flax.functional.layout import is_over_explicit_axes, over_mesh
from sa_flax.functional.statistics import WindowLike, check_window, statistics_dtype
from sa_flax.models.places import Attend, Kinds, kinds_by_place
from sa_flax.modules.blocks import Downsample, ResidualBlock, Upsample, conv3x3
from sa_flax.modules.layer import Maps, set_window
from sa_flax.modules.reach import kernel_reach, window_reach

Dtype = jax.typing.DTypeLike
# Called with the name of a residual block, the block, what goes in and what comes out.
_Look = Callable[[str, Any, jax.Array, jax.Array], None]


def pad_to_multiple(x: Float[Array, "B H W C"], multiple: int) -> Float[Array, "B H2 W2 C"]:
    """Mirrors the right and lower edges until height and width are multiples of `multiple`.

    The mirror does not repeat the edge pixel (`reflect`). Where a picture is narrower than the
    padding it needs, it is mirrored again and again; a single row or column is repeated.
    """
    pad = [(0, 0), (0, -x.shape[1] % multiple), (0, -x.shape[2] % multiple), (0, 0)]
    if not any(after for _, after in pad):
        return x
    for axis in (1, 2):
        if pad[axis][1]:
            alone = [(0, 0)] * 4
            alone[axis] = pad[axis]
            x = jnp.pad(x, alone, mode="edge" if x.shape[axis] == 1 else "reflect")
    return x


def _check_size(name: str, value: int, most: int) -> int:
    if not is_whole(value):
        raise ValueError(f"{name} must be a whole number; got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1; got {value}.")
    if value > most:
        raise ValueError(f"{name} can't be more than {most}; got {value}.")
    return int(value)


def _check_sizes(name: str, values: Any, levels: int, most: int) -> list[int]:
    values = list(values) if np.iterable(values) else [values]
    if len(values) != levels:
        raise ValueError(
            f"{name} must be one number, or one for each of the {levels} levels; got {values}."
        )
    return [_check_size(name, value, most) for value in values]


def _recomputed(block: Any, x: jax.Array) -> jax.Array:
    """`block(x)`, computed a second time in the backward pass instead of kept.

    As a function of arrays: `nnx.remat` would not let `jax.grad` or `jax.jit` close over the
    network.
    """
    graphdef, params, *others = nnx.split(block, nnx.Param, ...)
    rest = others[0]

    @jax.checkpoint
    def apply(params: Any, rest: Any, x: jax.Array) -> Any:
        block = nnx.merge(graphdef, params, rest, copy=True)
        return block(x), nnx.state(block, nnx.Not(nnx.Param))

    y, rest = apply(params, rest, x)
    if jax.tree.leaves(rest):  # of an attention of the user's own
        nnx.update(block, rest)
    return y


class AttentionUNet(nnx.Module):
    """U-Net denoiser: `model(noisy) -> clean`, any height and width, pictures in [0, 1].

    Residual blocks without batch norm; strided convolutions down, 1 x 1 convolutions with pixel
    shuffle up, skip connections added at each level. The network predicts the noise and subtracts
    it, so an untrained one nearly returns its input. By default it is blind: it is told nothing of
    the noise.

    Where attention stands (`attend`): going down, features are gathered from ever larger
    neighbourhoods; going up, they are fused with the skip connections and refined into the result.
    A gate that weighs features against each other has most to say where two sources have just been
    added, and its output is closest to the picture there, so "decoder" is the default. "encoder"
    gates the way down, "both" everything, the bottom included; "none" is the plain U-Net.

    Args:
      channels: 1 (gray) or 3 (colour), or any other number of channels of the picture.
      width: features at full resolution, which every level down doubles; or those of each level,
        the finest first.
      levels: number of resolutions; height and width are padded to multiples of 2^(levels - 1).
      blocks: residual blocks at each level, on each side: one number for all levels, or one for
        each, the finest first. A block at full resolution costs most and has the fewest parameters.
      attention: kind of attention, a name that `make_attention` knows, or "none". Or a class or
        function of your own, called as `attention(features, rngs=..., param_dtype=...)` with
        `attention_options` besides: what it returns maps (B, H, W, features) to the same shape.
        Or a mapping to such kinds from levels (0 is full resolution) and places ("encoder.0",
        "bottom", "decoder.0"); a place outranks its level, and what is not named has none.
      attend: "none", "encoder", "decoder" or "both".
      attention_options: keyword arguments of the attention layers; where `attention` is a mapping,
        a mapping to them from its keys.
      noise_level: expect the noise level as a second argument, and add it as a constant channel.
      remat: in the backward pass compute the features inside each residual block a second time,
        instead of keeping them (`jax.checkpoint`).
      dtype: dtype of the computation, e.g. bfloat16; None takes that of input and parameters. The
        first and the last convolution, which see the picture and the noise, take no less than
        float32: rounding a picture to bfloat16 alone is noise of 0.3 gray levels. The result has
        the input's dtype.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.

    Raises:
      ValueError: for an unknown `attend` or attention, for sizes that don't fit each other, and for
        sizes that no network has (more than 12 levels, 256 blocks or 65,536 features).

    Ronneberger et al., MICCAI 2015; residual blocks and added skips as in DRUNet (Zhang et al.,
    TPAMI 2021).
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int | Sequence[int] = 32,
        levels: int = 4,
        blocks: int | Sequence[int] = 1,
        attention: Kinds = "shuffle",
        attend: Attend = "decoder",
        attention_options: Mapping[Any, Any] | None = None,
        noise_level: bool = False,
        remat: bool = False,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        channels = _check_size("channels", channels, 2**16)
        levels = _check_size("levels", levels, 12)  # pictures are padded to multiples of 2048 then
        if is_whole(width):
            width = [int(width) * 2**level for level in range(levels)]
        widths = _check_sizes("width", width, levels, 2**16)
        if is_whole(blocks):
            blocks = [blocks] * levels
        counts = _check_sizes("blocks", blocks, levels, 256)
        kinds = kinds_by_place(attention, attention_options, attend=attend, levels=levels)
        self.channels, self.levels, self.noise_level = channels, levels, noise_level
        self.remat, self.dtype = remat, dtype
        self.stride = 2 ** (levels - 1)
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        outer = {**kwargs, "dtype": None if dtype is None else statistics_dtype(dtype)}

        def stack(place: str, level: int) -> nnx.Sequential:
            kind, options = kinds[place]
            features = widths[level]
            return nnx.Sequential(
                *(
                    ResidualBlock(features, attention=kind, attention_options=options, **kwargs)
                    for _ in range(counts[level])
                )
            )

        self.head = conv3x3(channels + noise_level, widths[0], **outer)
        self.encoder = nnx.List([stack(f"encoder.{i}", i) for i in range(levels - 1)])
        self.down = nnx.List([Downsample(a, b, **kwargs) for a, b in itertools.pairwise(widths)])
        self.bottom = stack("bottom", levels - 1)
        self.up = nnx.List([Upsample(b, a, **kwargs) for a, b in itertools.pairwise(widths)])
        self.decoder = nnx.List([stack(f"decoder.{i}", i) for i in range(levels - 1)])
        self.tail = conv3x3(
            widths[0],
            channels,
            kernel_init=variance_scaling(1e-4, "fan_in", "truncated_normal"),
            **outer,
        )

    def __call__(
        self,
        noisy: Float[Array, "B H W C"],
        noise_level: Float[Array, " B"] | Float[Array, ""] | float | None = None,
    ) -> Float[Array, "B H W C"]:
        """Denoises pictures in [0, 1]. `noise_level`: sigma in [0, 1] units, one or one a picture.

        A picture split over explicit axes of a mesh comes out split in the same way.

        Raises:
          ValueError: for a picture with another number of channels, or not of floating-point
            numbers, or a noise level where none is expected, or none where one is.
        """
        noisy = check_floating("this network", noisy, "the picture")
        if not is_over_explicit_axes(noisy):
            return self._denoised(noisy, noise_level, None)
        # Convolutions can't say how their results lie over explicit axes: as the picture does.
        graphdef, state = nnx.split(self)
        level = None if noise_level is None else jnp.asarray(noise_level, noisy.dtype)
        return over_mesh(
            lambda noisy, level, state: nnx.merge(graphdef, state)._denoised(noisy, level, None),
            noisy,
            level,
            state,
        )

    def features(
        self,
        noisy: Float[Array, "B H W C"],
        noise_level: Float[Array, " B"] | Float[Array, ""] | float | None = None,
    ) -> dict[str, Float[Array, "B _ _ _"]]:
        """What comes out of each residual block, by its name, in the order that it is computed.

        Names are "encoder.LEVEL.BLOCK", "bottom.BLOCK" and "decoder.LEVEL.BLOCK". Height and width
        are those of the picture padded to multiples of 2^(levels - 1), divided by 2^LEVEL. Takes
        what the network takes, and raises what it raises.
        """
        found: dict[str, jax.Array] = {}
        self._denoised(noisy, noise_level, lambda name, _, x, y: found.update({name: y}))
        return found

    def attention_maps(
        self,
        noisy: Float[Array, "B H W C"],
        noise_level: Float[Array, " B"] | Float[Array, ""] | float | None = None,
    ) -> dict[str, Maps]:
        """The gates or affinities of each block that has attention, by the names of `features`.

        See `attention_maps` of the layers. Affinity matrices are whole: for small pictures. Takes
        what the network takes, and raises what it raises.
        """
        found: dict[str, Maps] = {}
        self._denoised(
            noisy,
            noise_level,
            lambda name, block, x, y: found.update({name: block.attention_maps(x)}),
        )
        return {name: maps for name, maps in found.items() if maps}

    def _denoised(
        self,
        noisy: jax.Array,
        noise_level: jax.Array | float | None,
        look: _Look | None,
    ) -> jax.Array:
        noisy = check_floating("this network", noisy, "the picture")
        if noisy.ndim != 4 or noisy.shape[-1] != self.channels:
            raise ValueError(
                f"this network denoises (B, H, W, {self.channels}) pictures; got {noisy.shape}."
            )
        if (noise_level is None) == self.noise_level:
            raise ValueError(
                "this network was built with noise_level=True and needs the noise level: "
                "model(noisy, sigma)."
                if self.noise_level
                else "this network is blind (noise_level=False): call model(noisy)."
            )
        height, width = noisy.shape[1:3]
        x = pad_to_multiple(noisy, self.stride)
        if noise_level is not None:
            sigma = jnp.broadcast_to(jnp.asarray(noise_level, x.dtype), x.shape[:1])
            constant = jnp.broadcast_to(sigma[:, None, None, None], (*x.shape[:3], 1))
            x = jnp.concatenate([x, constant], axis=-1)
        x = self.head(x)
        x = x if self.dtype is None else x.astype(self.dtype)
        skips = []
        for level, (blocks, down) in enumerate(zip(self.encoder, self.down, strict=True)):
            x = self._through(f"encoder.{level}", blocks, x, look)
            skips.append(x)
            x = down(x)
        x = self._through("bottom", self.bottom, x, look)
        for level in reversed(range(self.levels - 1)):
            x = self._joined(level, self.up[level](x), skips[level])
            x = self._through(f"decoder.{level}", self.decoder[level], x, look)
        noise = self.tail(x)[:, :height, :width, :]
        return noisy - noise.astype(noisy.dtype)

    def _joined(self, level: int, x: jax.Array, skip: jax.Array) -> jax.Array:
        """What comes up and the skip connection, for variants that weigh them."""
        return x + skip

    def _through(
        self, place: str, stack: nnx.Sequential, x: jax.Array, look: _Look | None
    ) -> jax.Array:
        for number, block in enumerate(stack.layers):
            y = _recomputed(block, x) if self.remat else block(x)
            if look is not None:
                look(f"{place}.{number}", block, x, y)
            x = y
        return x

    def _attentions(self) -> Iterator[tuple[int, Any]]:
        """(level, attention) of every block."""
        for level in range(self.levels):
            stacks = [self.bottom]
            if level < self.levels - 1:
                stacks = [self.encoder[level], self.decoder[level]]
            blocks: list[Any] = [block for stack in stacks for block in stack.layers]
            yield from ((level, block.attention) for block in blocks)

    def _radius_without_windows(self) -> int:
        # Head and tail; where a pixel lies in its coarsest one; two convolutions in each block.
        edges: int = 2 + self.stride - 1
        return edges + sum(2**level * (2 + kernel_reach(a)) for level, a in self._attentions())

    @property
    def receptive_radius(self) -> int:
        """How many pixels away from a pixel its result depends on, at most.

        Of statistics that attention takes of the whole picture nothing is said here.
        """
        windows = sum(2**level * window_reach(a) for level, a in self._attentions())
        return self._radius_without_windows() + windows

    @property
    def effective_radius(self) -> int:
        """How many pixels away its result depends on noticeably: the windows of attention's
        statistics don't add up as the convolutions do, since a mean over many pixels hardly knows
        what has changed in those at its edge."""
        windows = max(2**level * window_reach(a) for level, a in self._attentions())
        return self._radius_without_windows() + windows

    def with_window(self, window: WindowLike) -> "AttentionUNet":
        """This network with attention's statistics taken over a window around each pixel.

        A network that learned on small crops knows the statistics of small crops. On a picture much
        larger than those, let it pool over a window of about one and a half times the crop:
        `model.with_window((96, 96))` after training on 64 x 64. At each level down the window is
        halved, as the map is. Pictures inside the window come out exactly as without it.

        Args:
          window: (height, width) in pixels of the picture, rounded up to multiples of
            2^(levels - 1), as pictures are; None for the whole picture again.

        Returns:
          A network of its own that shares this one's parameters. Convolutions, and attentions that
          pool nothing, are as they were.

        Raises:
          ValueError: unless window is None or two positive integers.

        Chu et al., ECCV 2022, https://arxiv.org/abs/2112.04491.
        """
        window = check_window(window)
        model = nnx.clone(self, variables=False)
        for level in range(self.levels):
            # Whole pixels of the coarsest map, so that a window covers all levels or none.
            at_level = window and (
                -(-window[0] // self.stride) * self.stride // 2**level,
                -(-window[1] // self.stride) * self.stride // 2**level,
            )
            stacks = (
                [model.bottom]
                if level == self.levels - 1
                else [model.encoder[level], model.decoder[level]]
            )
            for stack in stacks:
                set_window(stack, at_level)
        return model
