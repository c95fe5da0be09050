"""Shuffle attention: every implementation of ours, PyTorch, and a copy of the map, interleaved.

    python -m benchmarks.shuffle_attention

"compiler not told" is the fused form without what `sa_flax/functional/_shuffle/cpu.py` tells XLA's
CPU compiler. Prints a table, and writes it to benchmarks/results/ by device and JAX release.
Needs PyTorch.
"""

# ruff: noqa: E402
import argparse
import functools
import statistics

from sa_flax.xla_flags import tune_cpu

tune_cpu()

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import timing
from benchmarks.shapes import SHUFFLE_ATTENTION
from sa_flax.functional import ShuffleAttentionParams, shuffle_attention
from sa_flax.functional._shuffle import passes
from sa_flax.porting.torch_unet import ShuffleAttention as TorchShuffleAttention

# Least traffic in units of the map: forward 2 reads, 1 write; backward 4 reads, 1 write.
UNITS = {"forward": 3, "forward+backward": 8}
KEYS = ("cweight", "cbias", "sweight", "sbias", "gn.weight", "gn.bias")


def jax_runs(name, x, g, params, groups):
    """(forward, forward+backward) of one of our implementations, and the bytes it keeps."""
    apply = functools.partial(shuffle_attention, groups=groups, implementation=name)

    def both(x, params, g):
        out, transpose = jax.vjp(apply, x, params)
        return out, transpose(g)

    forward, both = jax.jit(apply), jax.jit(both)
    kept = jax.eval_shape(lambda x, params: jax.vjp(apply, x, params)[1], x, params)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
    return (
        lambda: jax.block_until_ready(forward(x, params)),
        lambda: jax.block_until_ready(both(x, params, g)),
        size,
    )


def untold_runs(x, g, params, groups):
    """(forward, forward+backward) of the fused form's passes as they come, and no bytes kept."""
    static = {"groups": groups, "epsilon": 1e-5, "shuffle": True, "tuned": False}
    forward = jax.jit(lambda x, params: passes.forward(x, *params, **static)[0])

    @jax.jit
    def both(x, params, g):
        out, *known = passes.forward(x, *params, **static)
        return out, passes.backward(x, *known, *params, g, **static)

    return (
        lambda: jax.block_until_ready(forward(x, params)),
        lambda: jax.block_until_ready(both(x, params, g)),
        None,
    )


def torch_runs(x, g, vectors, groups, *, compiled, memory_format):
    """The same of the PyTorch twin, on NCHW tensors in the given memory format."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layer = TorchShuffleAttention(x.shape[-1], groups).to(device)
    named = dict(layer.named_parameters())
    with torch.no_grad():
        for key, vector in zip(KEYS, vectors, strict=True):
            named[key].copy_(torch.from_numpy(np.array(vector)).reshape(named[key].shape))

    def move(a):
        moved = torch.from_numpy(np.asarray(a).transpose(0, 3, 1, 2).copy()).to(device)
        return moved.contiguous(memory_format=memory_format)

    x, g = move(x), move(g)
    apply = torch.compile(layer, dynamic=False) if compiled else layer
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def forward():
        with torch.no_grad():
            out = apply(x)
        wait()
        return out

    def both():
        leaf.grad = None
        layer.zero_grad(set_to_none=True)
        apply(leaf).backward(g)
        wait()

    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = apply(leaf)
    del out
    return forward, both, sum(storages.values())


def measure(shape, *, rounds, seconds, compiled):
    *sizes, groups = shape
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.standard_normal(sizes), jnp.float32) for _ in range(2))
    k = sizes[-1] // (2 * groups)
    params = ShuffleAttentionParams(
        *(jnp.asarray(rng.standard_normal(k), jnp.float32) for _ in range(6))
    )
    negate = jax.jit(lambda x: -x)
    built = {name: jax_runs(name, x, g, params, groups) for name in ("fused", "textbook")}
    built["compiler not told"] = untold_runs(x, g, params, groups)
    variants = {
        "torch eager NCHW": (False, torch.contiguous_format),
        "torch eager channels_last": (False, torch.channels_last),
    }
    if compiled:
        torch._dynamo.reset()
        variants["torch.compile NCHW"] = (True, torch.contiguous_format)
    for name, (compile_it, memory_format) in variants.items():
        built[name] = torch_runs(
            x, g, params, groups, compiled=compile_it, memory_format=memory_format
        )
    expected = built["torch eager NCHW"][0]().cpu().numpy().transpose(0, 2, 3, 1)
    error = float(np.abs(np.asarray(built["fused"][0]()) - expected).max())
    if error > 1e-4:
        raise SystemExit(f"{shape}: fused and PyTorch differ by {error}")
    result = {"shape": sizes, "groups": groups, "bytes": x.nbytes, "difference": error}
    for index, pass_ in enumerate(UNITS):
        runs = {name: b[index] for name, b in built.items()}
        copies = {"copy": lambda: negate(x).block_until_ready()} if index == 0 else {}
        result[pass_] = timing.interleaved({**copies, **runs}, rounds=rounds, seconds=seconds)
    result["kept"] = {name: b[2] / x.nbytes for name, b in built.items() if b[2] is not None}
    return result


def show(result):
    print(
        f"\n{tuple(result['shape'])}, {result['groups']} groups, {result['bytes'] / 2**20:.0f} MiB"
    )
    print(f"{'':28s}{'ms':>9s}{'least':>9s}{'processor':>11s}{'GB/s':>7s}{'kept':>7s}")
    for pass_, units in UNITS.items():
        for name, times in result[pass_].items():
            traffic = (2 if name == "copy" else units) * result["bytes"]
            kept = result["kept"].get(name)
            print(
                f"{pass_ if name == next(iter(result[pass_])) else '':17s}{name:26s}"
                f"{times['median_ms']:9.2f}{times['least_ms']:9.2f}{times['processor_ms']:11.2f}"
                f"{traffic / times['median_ms'] / 1e6:7.1f}" + (f"{kept:7.2f}" if kept else "")
            )


def ratios(results, kind):
    """Median over the shapes of PyTorch's time over ours, forward and forward + backward."""
    summary = {}
    for pass_ in UNITS:
        others = [name for name in results[0][pass_] if name.startswith("torch")]
        each = {
            name: [r[pass_][name][kind] / r[pass_]["fused"][kind] for r in results]
            for name in others
        }
        best = [min(column) for column in zip(*each.values(), strict=True)]
        summary[pass_] = {name: statistics.median(v) for name, v in each.items()}
        summary[pass_]["best of PyTorch on each shape"] = statistics.median(best)
        summary[pass_]["worst shape"] = min(best)
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each shape and pass")
    parser.add_argument("--only", nargs="+", help="words of the shapes' names; all without it")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    args = parser.parse_args()
    results = []
    for name, shape in SHUFFLE_ATTENTION.items():
        if args.only and not any(words in name for words in args.only):
            continue
        results.append(
            measure(shape, rounds=args.rounds, seconds=args.seconds, compiled=not args.no_compile)
        )
        show(results[-1])
    summary = {kind: ratios(results, kind) for kind in ("median_ms", "least_ms", "processor_ms")}
    print("\nPyTorch's time over that of the fused form, median over the shapes:")
    for kind, by_pass in summary.items():
        for pass_, columns in by_pass.items():
            text = ", ".join(f"{name} {value:.2f}" for name, value in columns.items())
            print(f"  {kind:13s} {pass_:17s} {text}")
    path = timing.save("shuffle_attention", {"results": results, "ratios": summary})
    print(f"\n{timing.device()}; written to {path}")


if __name__ == "__main__":
    main()
