"""What the groups of a shuffle attention respond to, in an SA-ResNet.

Shuffle attention is meant to make each group of channels stand for one thing. These functions show
it: how strongly each group answers a picture, where, and how much each speaks for a class.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sa_flax.functional import channel_unshuffle
from sa_flax.models.sa_resnet import SAResNet


class GroupScoreCAM(NamedTuple):
    """What `group_score_cam` found in a picture.

    Attributes:
      heatmap: where the groups that speak for the class answer, (H, W) in [0, 1].
        All 0 where none speaks for it.
      scores: for each group, how far the class' probability rises above a blank picture's where
        only what this group answers to is shown.
      masks: for each group, where it answers, (H, W, G) in [0, 1].
      target: the class.
    """

    heatmap: Float[Array, "H W"]
    scores: Float[Array, " G"]
    masks: Float[Array, "H W G"]
    target: int


def group_maps(
    model: SAResNet, pictures: Float[Array, "B H W C"], *, stage: int = -1, block: int = -1
) -> Float[Array, "B h w G"]:
    """The mean of each group's channels, as they leave a block's shuffle attention.

    The attention's last step, the channel shuffle, is undone, so that the channels of a group are
    together again.

    Args:
      model: the network; used in evaluation mode, and left as it is.
      pictures: what the network takes.
      stage, block: which block, counted from 0, or from the end with negative numbers.

    Raises:
      IndexError: where there is no such block.
    """
    model = _evaluating(model)
    stages = [list(made) for made in model.stages]
    stage = range(len(stages))[stage]
    before = [b for made in stages[:stage] for b in made]
    block = range(len(stages[stage]))[block]
    x = model.stem(pictures)
    for earlier in [*before, *stages[stage][:block]]:
        x = earlier(x)
    chosen = stages[stage][block]
    y = channel_unshuffle(chosen.branch(x), 2)
    return y.reshape(*y.shape[:-1], chosen.sa.groups, -1).mean(axis=-1)


def group_activations(
    model: SAResNet, pictures: Float[Array, "B H W C"], *, stage: int = -1, block: int = -1
) -> Float[Array, "B G"]:
    """How strongly each group answers: the mean of `group_maps` over positions."""
    return group_maps(model, pictures, stage=stage, block=block).mean(axis=(1, 2))


def group_score_cam(
    model: SAResNet,
    picture: Float[Array, "H W C"],
    *,
    target: int | None = None,
    stage: int = -1,
    block: int = -1,
    batch: int = 16,
) -> GroupScoreCAM:
    """Score-CAM with the groups of a shuffle attention in place of channels.

    Each group's map is enlarged to the picture (bilinear) and stretched to [0, 1]: its mask M_g.
    With p the probability of the class,

        score_g = p(picture * M_g) - p(0)
        heatmap = relu(sum_g score_g * M_g), divided by its maximum

    It takes one forward pass for each group, 64 in the paper's networks, and no gradients.

    Args:
      model: a classifier; used in evaluation mode, and left as it is.
      picture: what the network takes; 0 should mean "nothing", as it does in standardised pictures.
      target: the class; None takes the most probable one.
      stage, block: as for `group_maps`.
      batch: masked pictures in one pass.

    Raises:
      ValueError: for a network without a classifier, and a class that it does not have.
      IndexError: where there is no such block.

    Wang et al., "Score-CAM", CVPR Workshops 2020, https://arxiv.org/abs/1910.01279, where channels
    are weighed one by one.
    """
    if model.features_only:
        raise ValueError("Score-CAM needs a classifier; this network was built with features_only.")
    classes = model.fc.out_features
    if target is not None and not 0 <= target < classes:
        raise ValueError(f"target must be a class, 0 to {classes - 1}; got {target}.")
    graph, state = nnx.split(_evaluating(model))
    wanted = jnp.asarray(-1 if target is None else target)
    heatmap, scores, masks, chosen = _score_cam(
        graph, state, jnp.asarray(picture), wanted, stage, block, batch
    )
    return GroupScoreCAM(heatmap, scores, masks, int(chosen))


def _evaluating(model: SAResNet) -> SAResNet:
    """A network of the same variables in evaluation mode, whatever mode the given one is in."""
    copy = nnx.merge(*nnx.split(model), copy=True)
    copy.eval()
    return copy


@functools.partial(jax.jit, static_argnames=("graph", "stage", "block", "batch"))
def _score_cam(
    graph: nnx.GraphDef[Any],
    state: nnx.State[Any, Any],
    picture: jax.Array,
    target: jax.Array,
    stage: int,
    block: int,
    batch: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The fields of `GroupScoreCAM`; a negative target stands for the most probable class."""
    network = nnx.merge(graph, state)

    def probabilities(pictures):
        return jax.nn.softmax(network(pictures))

    maps = group_maps(network, picture[None], stage=stage, block=block)[0]
    maps = jax.image.resize(maps, (*picture.shape[:2], maps.shape[-1]), "bilinear")
    low, high = (extreme(maps, axis=(0, 1), keepdims=True) for extreme in (jnp.min, jnp.max))
    # A group that answers alike everywhere points nowhere.
    masks = jnp.where(high > low, (maps - low) / jnp.where(high > low, high - low, 1), 0)
    whole, blank = probabilities(jnp.stack([picture, jnp.zeros_like(picture)]))
    chosen = jnp.where(target < 0, whole.argmax(), target)
    shown = jax.lax.map(
        lambda mask: probabilities((picture * mask[..., None])[None])[0, chosen],
        jnp.moveaxis(masks, -1, 0),
        batch_size=batch,
    )
    scores = shown - blank[chosen]
    heatmap = jax.nn.relu(masks @ scores)
    top = heatmap.max()
    return jnp.where(top > 0, heatmap / jnp.where(top > 0, top, 1), 0), scores, masks, chosen
