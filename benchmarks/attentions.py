"""What each attention costs at the U-Net's four map sizes: parameters, FLOPs, time and memory.

    python -m benchmarks.attentions                     # a 128 x 128 picture, width 32, four levels
    python -m benchmarks.attentions --size 64 --kinds shuffle danet --seconds 2

Prints a table and writes it, and a picture, to attentions-DEVICE-jax-RELEASE.json and .png in
benchmarks/results. Of what it measures:

- parameters: numbers in the layer;
- FLOPs: of the forward pass, by XLA's cost analysis, which counts a multiplication and an addition
  as two and leaves out exponentials (they are in the JSON, as `transcendentals`);
- milliseconds: the shortest of the runs that fit into half a second (or of five), of the forward
  pass and of forward and backward together (gradients of parameters and map), compiled
  beforehand, float32, one picture, all kinds in turn; the median processor time of all threads is
  in the JSON;
- megabytes: what XLA sets aside for forward and backward together: parameters, map, their
  gradients and all intermediate results.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import sa_flax
from benchmarks import timing
from benchmarks.shapes import map_sizes

# Every kind as `make_attention` builds it, and the one affinity that is linear in the pixels.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in sa_flax.list_attentions()},
    "non_local (dot product)": ("non_local", {"affinity": "dot_product"}),
}
AFFINITIES = ("danet", "non_local", "self_attention")


def build(kind: str, options: dict[str, Any], size: int, features: int):
    """What is counted of one attention on one map, and its passes, compiled: name -> function."""
    layer = sa_flax.make_attention(kind, features, rngs=nnx.Rngs(0), **options)
    graphdef, state = nnx.split(layer)
    x = jax.random.normal(jax.random.key(0), (1, size, size, features))

    def forward(state, x):
        return nnx.merge(graphdef, state)(x)

    def loss(state, x):
        return jnp.sum(jnp.square(forward(state, x)))

    # XLA counts the body of a loop once: count FLOPs with all queries in one block (never run).
    whole = {"block_size": size * size} if hasattr(layer, "block_size") else {}
    counted = sa_flax.make_attention(kind, features, rngs=nnx.Rngs(0), **options, **whole)
    cost = jax.jit(counted.__call__).lower(x).cost_analysis()

    run = jax.jit(forward).lower(state, x).compile()
    train = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(state, x).compile()
    needed = train.memory_analysis()
    counts = {
        "size": size,
        "features": features,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state)),
        "flops": int(cost["flops"]),
        "transcendentals": int(cost.get("transcendentals", 0)),
        "bytes": needed.temp_size_in_bytes
        + needed.argument_size_in_bytes
        + needed.output_size_in_bytes,
    }
    passes = {
        "forward": lambda: jax.block_until_ready(run(state, x)),
        "forward_backward": lambda: jax.block_until_ready(train(state, x)),
    }
    return counts, passes


def measure(kinds: Sequence[str], size: int, features: int, seconds: float) -> list[dict[str, Any]]:
    """Everything that is measured of these attentions on one map, timed in turn."""
    counts, runs = {}, {}
    for name in kinds:
        counts[name], passes = build(*CASES[name], size, features)
        runs |= {f"{name}, {pass_}": run for pass_, run in passes.items()}
    times = timing.interleaved(runs, rounds=1000, seconds=seconds * len(runs))
    rows = []
    for name in kinds:
        row = {"attention": name, **counts[name]}
        for pass_ in ("forward", "forward_backward"):
            timed = times[f"{name}, {pass_}"]
            row[f"{pass_}_ms"] = timed["least_ms"]
            row[f"{pass_}_processor_ms"] = timed["processor_ms"]
        rows.append(row)
    return rows


def table(results: list[dict]) -> str:
    """All rows as text, one map size after the other."""
    head = f"{'attention':<24}{'map':>12}{'parameters':>12}{'MFLOPs':>11}{'forward':>11}"
    lines = [head + f"{'+ backward':>12}{'memory':>11}"]
    for row in sorted(results, key=lambda row: -row["size"]):
        lines.append(
            f"{row['attention']:<24}{row['size']:>6}²x{row['features']:<4}{row['parameters']:>12,}"
            f"{row['flops'] / 1e6:>11,.1f}{row['forward_ms']:>8,.2f} ms"
            f"{row['forward_backward_ms']:>9,.2f} ms{row['bytes'] / 1e6:>8,.1f} MB"
        )
    return "\n".join(lines)


def picture(results: list[dict], device: str, path: pathlib.Path) -> None:
    """Cost against map size, log-log, where the quadratic kinds are the steep ones."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {
        "flops": ("FLOPs, forward", 1.0),
        "forward_backward_ms": ("milliseconds, forward and backward", 1.0),
        "bytes": ("megabytes, forward and backward", 1e-6),
    }
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.4), layout="constrained")
    names = list(dict.fromkeys(row["attention"] for row in results))
    for axis, (key, (label, scale)) in zip(axes, panels.items(), strict=True):
        for number, name in enumerate(names):
            rows = sorted((r for r in results if r["attention"] == name), key=lambda r: r["size"])
            style = "o-" if name in AFFINITIES else "s--"
            pixels, costs = zip(*((r["size"] ** 2, scale * r[key]) for r in rows), strict=True)
            axis.loglog(pixels, costs, style, color=f"C{number}", ms=4, label=name)
        ticks = sorted({(row["size"], row["features"]) for row in results})
        axis.set_xticks(
            [size**2 for size, _ in ticks], [f"{size}²\nx {features}" for size, features in ticks]
        )
        axis.minorticks_off()
        axis.set_xlabel("positions x features of the map")
        axis.set_title(label, fontsize=10)
        axis.grid(alpha=0.3)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside right center",
        fontsize=8,
        title="solid: quadratic in\nthe positions",
        title_fontsize=8,
    )
    figure.suptitle(f"Attentions at the U-Net's map sizes ({device})", fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="side of the picture, in pixels")
    parser.add_argument("--width", type=int, default=32, help="features at full resolution")
    parser.add_argument("--levels", type=int, default=4, help="resolutions of the U-Net")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long each is timed")
    parser.add_argument("--kinds", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--output", type=pathlib.Path, default=timing.RESULTS)
    options = parser.parse_args(arguments)

    results = []
    for size, features in map_sizes(options.size, options.width, options.levels):
        results += measure(options.kinds, size, features, options.seconds)
    device = timing.device()
    print(f"{device}; jax {jax.__version__}\n\n{table(results)}")
    path = timing.save(
        "attentions", {"seconds": options.seconds, "results": results}, folder=options.output
    )
    picture(results, device, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
