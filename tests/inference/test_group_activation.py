"""Group activations and the Score-CAM over groups, against plain PyTorch, one group at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional as F

from sa_flax import porting
from sa_flax.inference.group_activation import group_activations, group_maps, group_score_cam
from sa_flax.models import SAResNet
from tests.torch_reference.sa_resnet import SAResNet as TorchSAResNet
from tests.torch_reference.weights import nchw, nhwc, randomise

SIZES = {"blocks": (1, 2, 1, 1), "width": 8, "num_classes": 5, "groups": 4}


@pytest.fixture(scope="module")
def pair():
    twin = randomise(TorchSAResNet(**SIZES).double()).eval()
    with jax.enable_x64(True):
        model = nnx.eval_shape(lambda: SAResNet(**SIZES, param_dtype="float64", rngs=nnx.Rngs(0)))
        porting.load_torch(model, twin.state_dict())
        model.eval()
        yield twin, model


def _picture():
    return np.random.default_rng(0).standard_normal((40, 48, 3))


def _twin_maps(twin, layer, x, groups=4):
    """Group means in front of the shuffle: the attention's output at (h C/2 + j) <- (2 j + h)."""
    caught = []
    hook = layer.sa.register_forward_hook(lambda module, inputs, out: caught.append(out))
    with torch.no_grad():
        twin(x)
    hook.remove()
    (out,) = caught
    ordered = torch.cat([out[:, 0::2], out[:, 1::2]], dim=1)
    return torch.stack([part.mean(dim=1) for part in ordered.chunk(groups, dim=1)], dim=1)


@pytest.mark.parametrize(("stage", "block"), [(1, 0), (1, -1)])
def test_group_maps_equal_the_twin(pair, stage, block):
    twin, model = pair
    x = jnp.asarray(_picture())[None]
    layer = getattr(twin, f"layer{stage + 1}")[block]
    expected = nhwc(_twin_maps(twin, layer, nchw(np.asarray(x))))
    maps = np.asarray(
        nnx.jit(lambda model, x: group_maps(model, x, stage=stage, block=block))(model, x)
    )
    np.testing.assert_allclose(maps, expected, rtol=1e-9, atol=1e-9)
    activations = group_activations(model, x, stage=stage, block=block)
    np.testing.assert_allclose(activations, expected.mean(axis=(1, 2)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("target", [None, 1])
def test_score_cam_equals_the_twin(pair, target):
    twin, model = pair
    picture = _picture()
    cam = group_score_cam(model, jnp.asarray(picture), target=target, stage=2, batch=3)

    x = nchw(picture[None])
    maps = F.interpolate(_twin_maps(twin, twin.layer3[-1], x), picture.shape[:2], mode="bilinear")
    with torch.no_grad():
        chosen = int(twin(x).argmax()) if target is None else target
        blank = torch.softmax(twin(torch.zeros_like(x)), dim=1)[0, chosen]
        heatmap, scores = torch.zeros(picture.shape[:2], dtype=torch.float64), []
        for group in range(4):
            mask = maps[0, group] - maps[0, group].min()
            mask = mask / mask.max()
            scores.append(float(torch.softmax(twin(x * mask), dim=1)[0, chosen] - blank))
            heatmap += scores[-1] * mask
            np.testing.assert_allclose(cam.masks[..., group], mask, rtol=1e-8, atol=1e-8)
    heatmap = heatmap.clamp(min=0)
    assert cam.target == chosen
    np.testing.assert_allclose(cam.scores, scores, rtol=1e-8, atol=1e-8)
    # Groups speak for the class that is chosen, and none for the other: the map is then blank.
    assert (heatmap.max() > 0) == (target is None)
    expected = heatmap / heatmap.max() if heatmap.max() > 0 else heatmap
    np.testing.assert_allclose(cam.heatmap, expected, rtol=1e-8, atol=1e-8)


def test_a_picture_that_is_the_same_everywhere_gives_no_nan(pair):
    _, model = pair
    cam = group_score_cam(model, jnp.zeros((40, 48, 3)), stage=2, batch=3)
    assert np.isfinite(cam.heatmap).all()
    assert np.isfinite(cam.scores).all()


def test_a_network_in_training_mode_is_left_as_it_is():
    model = SAResNet(**SIZES, rngs=nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.state(model))
    graph = nnx.graphdef(model)
    found = group_maps(model, jnp.asarray(_picture(), jnp.float32)[None])
    assert nnx.graphdef(model) == graph
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model), before)
    model.eval()
    np.testing.assert_array_equal(
        found, group_maps(model, jnp.asarray(_picture(), jnp.float32)[None])
    )


def test_requests_that_can_not_be_met(pair):
    _, model = pair
    picture = jnp.asarray(_picture())
    with pytest.raises(IndexError):
        group_maps(model, picture[None], stage=4)
    with pytest.raises(IndexError):
        group_maps(model, picture[None], stage=1, block=2)
    for target in (-3, SIZES["num_classes"]):
        with pytest.raises(ValueError, match=f"0 to .*; got {target}"):
            group_score_cam(model, picture, target=target)
    headless = nnx.eval_shape(
        lambda: SAResNet(**(SIZES | {"features_only": True}), rngs=nnx.Rngs(0))
    )
    with pytest.raises(ValueError, match="needs a classifier"):
        group_score_cam(headless, picture)
