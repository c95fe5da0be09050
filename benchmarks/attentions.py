"""What each attention costs at the U-Net's four map sizes: parameters, FLOPs, time and memory.

    python -m benchmarks.attentions                     # a 128 x 128 picture, width 32, four levels
    python -m benchmarks.attentions --size 64 --kinds shuffle danet --seconds 2

Prints a table and writes it, and a picture, to benchmarks/results/attentions-DEVICE.json and .png.
Of what it measures:

- parameters: numbers in the layer;
- FLOPs: of the forward pass, by XLA's cost analysis, which counts a multiplication and an addition
  as two and leaves out exponentials (they are in the JSON, as `transcendentals`);
- milliseconds: the shortest of the runs that fit into half a second (or of three), of the forward
  pass and of forward and backward together (gradients of parameters and map), compiled
  beforehand, float32, one picture;
- megabytes: what XLA sets aside for forward and backward together: parameters, map, their
  gradients and all intermediate results.
"""

import argparse
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import sa_flax
from benchmarks.shapes import map_sizes

# Every kind as `make_attention` builds it, and the one affinity that is linear in the pixels.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in sa_flax.list_attentions()},
    "non_local (dot product)": ("non_local", {"affinity": "dot_product"}),
}
AFFINITIES = ("danet", "non_local", "self_attention")


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name() -> str:
    """The accelerator, or the processor and how many cores of it there are to use."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    model, cpuinfo = platform.processor() or platform.machine(), pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = models[0] if models else model
    return f"{model}, {cores()} cores"


def file_name() -> str:
    """Results of different devices stand side by side."""
    where = jax.default_backend()
    return f"attentions-{where}" + (f"-{cores()}-core" if where == "cpu" else "")


def shortest(function: Callable, *args, seconds: float) -> float:
    """Milliseconds of the shortest of as many calls as take `seconds`, and of three at least."""
    jax.block_until_ready(function(*args))
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def measure(kind: str, options: dict[str, Any], size: int, features: int, seconds: float) -> dict:
    """Everything that is measured of one attention on one map."""
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
    return {
        "size": size,
        "features": features,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state)),
        "flops": int(cost["flops"]),
        "transcendentals": int(cost.get("transcendentals", 0)),
        "forward_ms": shortest(run, state, x, seconds=seconds),
        "forward_backward_ms": shortest(train, state, x, seconds=seconds),
        "bytes": needed.temp_size_in_bytes
        + needed.argument_size_in_bytes
        + needed.output_size_in_bytes,
    }


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
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("benchmarks/results"))
    options = parser.parse_args(arguments)

    results = []
    for size, features in map_sizes(options.size, options.width, options.levels):
        for name in options.kinds:
            kind, given = CASES[name]
            row = measure(kind, given, size, features, options.seconds)
            results.append({"attention": name, **row})
    device = device_name()
    print(f"{device}; jax {jax.__version__}\n\n{table(results)}")
    options.output.mkdir(parents=True, exist_ok=True)
    report = {
        "device": device,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "seconds": options.seconds,
        "load_average": os.getloadavg()[0],
        "results": results,
    }
    path = options.output / f"{file_name()}.json"
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    picture(results, device, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
