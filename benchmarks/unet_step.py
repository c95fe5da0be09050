"""The attention U-Net: training steps and whole pictures a second, ours and PyTorch's, interleaved.

    python -m benchmarks.unet_step

Training: 8 x 64 x 64 x 3, base width 32, four levels, Adam. Inference: 1 x 512 x 512 x 3. Each with
shuffle attention in the decoder and without attention. Prints a table and writes
benchmarks/results/unet_step-DEVICE-jax-RELEASE.json. Needs PyTorch.
"""

# ruff: noqa: E402
import argparse

from sa_flax.xla_flags import tune_cpu

tune_cpu()

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx

import sa_flax
from benchmarks import timing
from benchmarks.shapes import UNET_CROPS, UNET_PICTURE
from sa_flax.porting import to_torch
from sa_flax.porting.torch_unet import AttentionUNet as TorchUNet


def jax_runs(attention, noisy, clean, picture):
    """(training step, inference, state dict for the twin) of our network."""
    model = sa_flax.create_model("attention_unet", attention=attention, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)
    weights = {name: torch.from_numpy(array) for name, array in to_torch(model).items()}
    # The training step gives its parameters' memory away.
    kept = jax.tree.map(jnp.copy, params)
    optimizer = optax.adam(1e-4)

    def loss(params, noisy, clean):
        return jnp.mean(jnp.square(nnx.merge(graph, params)(noisy) - clean))

    def step(params, state, noisy, clean):
        value, gradients = jax.value_and_grad(loss)(params, noisy, clean)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    step = jax.jit(step, donate_argnums=(0, 1))
    infer = jax.jit(lambda params, picture: nnx.merge(graph, params)(picture))
    held = [params, optimizer.init(params)]

    def train():
        *held[:], value = step(*held, noisy, clean)
        jax.block_until_ready((held, value))
        return float(value)

    return train, lambda: infer(kept, picture).block_until_ready(), weights


def torch_runs(attention, weights, noisy, clean, picture, *, compiled, memory_format):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = TorchUNet(attention=attention)
    model.load_state_dict(weights, strict=True)
    model = model.to(device, memory_format=memory_format)
    noisy, clean, picture = (
        torch.from_numpy(np.asarray(a).transpose(0, 3, 1, 2).copy())
        .to(device)
        .contiguous(memory_format=memory_format)
        for a in (noisy, clean, picture)
    )
    apply = torch.compile(model, dynamic=False) if compiled else model
    trained = TorchUNet(attention=attention)
    trained.load_state_dict(weights, strict=True)
    trained = trained.to(device, memory_format=memory_format)
    apply_trained = torch.compile(trained, dynamic=False) if compiled else trained
    optimizer = torch.optim.Adam(trained.parameters(), 1e-4, foreach=True)

    def train():
        optimizer.zero_grad(set_to_none=True)
        loss = torch.mean((apply_trained(noisy) - clean) ** 2)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def infer():
        with torch.no_grad():
            out = apply(picture)
        if device == "cuda":
            torch.cuda.synchronize()
        return out

    return train, infer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0, help="for training and inference")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    noisy, clean = (jnp.asarray(rng.random(UNET_CROPS), jnp.float32) for _ in range(2))
    picture = jnp.asarray(rng.random(UNET_PICTURE), jnp.float32)
    variants = {
        "torch eager NCHW": (False, torch.contiguous_format),
        "torch eager channels_last": (False, torch.channels_last),
        "torch.compile NCHW": (True, torch.contiguous_format),
        "torch.compile channels_last": (True, torch.channels_last),
    }
    runs = {}
    for attention in ("none", "shuffle"):
        *ours, weights = jax_runs(attention, noisy, clean, picture)
        runs["ours", attention] = ours
        for name, (compiled, memory_format) in variants.items():
            if not (compiled and args.no_compile):
                runs[name, attention] = torch_runs(
                    attention,
                    weights,
                    noisy,
                    clean,
                    picture,
                    compiled=compiled,
                    memory_format=memory_format,
                )
        # The same network: the same loss at the first step.
        losses = [run[0]() for (_, kind), run in runs.items() if kind == attention]
        if max(losses) - min(losses) > 1e-5 * max(losses):
            raise SystemExit(f"the networks differ: first losses {losses}")
    results = {}
    for index, (task, images) in enumerate(
        {"training": UNET_CROPS[0], "inference": UNET_PICTURE[0]}.items()
    ):
        flat = {f"{name}, attention {kind}": run[index] for (name, kind), run in runs.items()}
        times = timing.interleaved(flat, rounds=args.rounds, seconds=args.seconds)
        print(f"\n{task}\n{'':46s}{'images/s':>9s}{'ms':>9s}{'least':>9s}{'processor':>11s}")
        for name, t in times.items():
            t["images_per_second"] = images / t["median_ms"] * 1e3
            print(
                f"{name:46s}{t['images_per_second']:9.2f}{t['median_ms']:9.1f}"
                f"{t['least_ms']:9.1f}{t['processor_ms']:11.1f}"
            )
        ratios = {}
        for kind in ("median_ms", "least_ms", "processor_ms"):
            ratio = {
                attention: min(
                    t[kind]
                    for name, t in times.items()
                    if name.startswith("torch") and name.endswith(attention)
                )
                / times[f"ours, attention {attention}"][kind]
                for attention in ("none", "shuffle")
            }
            cost = times["ours, attention shuffle"][kind] / times["ours, attention none"][kind]
            ratios[kind] = {
                "PyTorch's best over ours": ratio,
                "ours with attention over without": cost,
            }
            print(f"{kind}: PyTorch's best over ours {ratio}, attention costs a factor {cost:.3f}")
        results[task] = {"times": times, "ratios": ratios}
    path = timing.save("unet_step", {"results": results})
    print(f"\n{timing.device()}; written to {path}")


if __name__ == "__main__":
    main()
