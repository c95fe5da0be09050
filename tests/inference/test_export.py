"""Networks for other programs give what they give here, at every size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sa_flax
from sa_flax.errors import InputError, RunError
from sa_flax.inference import export
from sa_flax.porting.twin import write_torch_file

denoised = nnx.jit(lambda model, *given: model(*given))
SIZES = [(1, 24, 36), (2, 33, 17), (1, 8, 50), (1, 1, 7), (1, 9, 1)]


def network(name: str, **options) -> nnx.Module:
    """With random biases and statistics, so that nothing is left out unseen."""
    model = sa_flax.create_model(name, rngs=nnx.Rngs(0), **options)
    keys = iter(jax.random.split(jax.random.key(1), 500))
    for leaf in jax.tree.leaves(
        nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)),
        is_leaf=lambda x: hasattr(x, "get_value"),
    ):
        noise = jax.random.uniform(next(keys), leaf.get_value().shape) - 0.5
        leaf.set_value(leaf.get_value() + 0.1 * noise)
    model.eval()
    return model


NETWORKS = {
    "shuffle": ("attention_unet", {"width": 4, "levels": 2, "attention": "shuffle"}),
    "sigma": (
        "attention_unet",
        {"width": 4, "levels": 2, "attention": "none", "noise_level": True},
    ),
    # Every attention that is not pooling and gating alone, each at its place.
    "kinds": (
        "attention_unet",
        {
            "width": 8,
            "levels": 3,
            "attend": "both",
            "attention": {
                "encoder.0": "dual",
                "encoder.1": "danet",
                "bottom": "non_local",
                "decoder.1": "self_attention",
                "decoder.0": "sge",
            },
            "attention_options": {"bottom": {"subsample": 2}},
        },
    ),
    "dncnn": ("dncnn", {"depth": 4, "width": 4, "channels": 1}),
}


def inputs(model, size) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    noisy = rng.random((*size, model.channels), np.float32)
    level = rng.random(size[0], np.float32) / 4
    return (noisy, level) if getattr(model, "noise_level", False) else (noisy,)


every_network = pytest.mark.parametrize(
    "name",
    [
        *(name for name in NETWORKS if name != "kinds"),
        # A minute; each attention alone is exported in tests/modules/test_modes.py.
        pytest.param("kinds", marks=pytest.mark.slow),
    ],
)


@every_network
def test_onnx_at_every_size(tmp_path, name):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    kind, options = NETWORKS[name]
    model = network(kind, **options)
    path = tmp_path / "net.onnx"
    export.to_onnx(model, path)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for size in SIZES:
        given = inputs(model, size)
        feed = {"noisy": given[0].transpose(0, 3, 1, 2)}
        feed |= {"sigma": given[1]} if len(given) > 1 else {}
        (clean,) = session.run(["clean"], feed)
        np.testing.assert_allclose(
            clean.transpose(0, 2, 3, 1),
            denoised(model, *map(jnp.asarray, given)),
            atol=export.TOLERANCE,
        )
    assert export.check(model, path, inputs(model, (1, 20, 21))[0][0]) < export.TOLERANCE
    if name == "shuffle":
        other = network(kind, **{**options, "width": 8})
        with pytest.raises(RunError, match="gives other results"):
            export.check(other, path, inputs(model, (1, 20, 21))[0][0])


def test_networks_of_sixteen_bits(tmp_path):
    """Parameters that PyTorch's arrays can't be made of directly, and results that were rounded."""
    options = {"width": 4, "levels": 2, "attention": "none", "attend": "none"}
    options |= {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    model = sa_flax.create_model("attention_unet", rngs=nnx.Rngs(0), **options)
    path = tmp_path / "net.safetensors"
    write_torch_file(model, path)
    assert export.check(model, path, inputs(model, (1, 20, 21))[0][0]) < 0.01


@every_network
def test_stablehlo_at_every_size(tmp_path, name):
    kind, options = NETWORKS[name]
    model = network(kind, **options)
    export.to_stablehlo(model, tmp_path / "net.stablehlo")
    loaded = jax.export.deserialize((tmp_path / "net.stablehlo").read_bytes())
    for size in ((1, 24, 36), (2, 8, 12)):
        given = [jnp.asarray(x) for x in inputs(model, size)]
        np.testing.assert_allclose(loaded.call(*given), denoised(model, *given), atol=1e-5)
    picture = inputs(model, (1, 9, 15))[0][0]
    assert export.check(model, tmp_path / "net.stablehlo", picture) < export.TOLERANCE


def test_what_cannot_be_exported_says_so(tmp_path):
    classifier = nnx.eval_shape(
        lambda: sa_flax.create_model("sa_resnet50", num_classes=2, rngs=nnx.Rngs(0))
    )
    with pytest.raises(InputError, match="AttentionUNet and DnCNN have"):
        export.to_onnx(classifier, tmp_path / "a.onnx")
    windowed = network("attention_unet", width=4, levels=2).with_window((32, 32))
    for write in (export.to_onnx, export.to_stablehlo):
        with pytest.raises(InputError, match=r"without with_window\(\).* 32 x 32 pixels"):
            write(windowed, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
