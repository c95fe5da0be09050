"""Puts a trained network into the package: half precision, with its card.

    python -m benchmarks.ship QUEUE/photo --name photo --cpu-minutes 60 --purpose "..." ...

Compares the network with its half-precision form on the bundled test photographs first (they must
agree within 0.005 dB), and takes the figures of the card from benchmarks/results/quality.json: run
`python -m benchmarks.quality` on it before.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.quality import held_out
from sa_flax.xla_flags import tune_cpu

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "sa_flax" / "models" / "weights"
QUALITY = Path(__file__).parent / "results" / "quality.json"


def _loss(model, half, channels: int) -> float:
    """How many dB the half-precision network is worse, on the test photographs at sigma 25."""
    from sa_flax.inference.denoiser import Denoiser
    from sa_flax.inference.evaluate import evaluate, noises_of
    from sa_flax.pictures import read_rgb8, to_channels

    pictures = [to_channels(read_rgb8(file), channels) for file in held_out()]
    methods = {"whole": Denoiser(model).method, "half": Denoiser(half).method}
    scores = evaluate(methods, pictures, noises=noises_of(None, [25]), with_ssim=False)
    psnr = {row["method"]: row["psnr"] for row in scores}
    return psnr["whole"] - psnr["half"]


def _figures(name: str) -> str:
    """A line for each set and noise; a column more where something is known by self-ensemble."""
    quality = json.loads(QUALITY.read_text())
    columns = {"input": "input", "output": name, "by `--self-ensemble`": f"{name}, self-ensemble"}
    measured = {title: result["psnr"] for title, result in quality.items()}
    measured = {title: psnr for title, psnr in measured.items() if name in psnr}
    columns = {
        title: method
        for title, method in columns.items()
        if any(method in psnr for psnr in measured.values())
    }
    lines = [f"| pictures: noise | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
    for title, psnr in measured.items():
        cells = (f"{psnr[m]:.2f}" if m in psnr else "" for m in columns.values())
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Ships one network; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("network", type=Path, help="the directory of its run")
    parser.add_argument("--name", required=True, help="what from_pretrained will call it")
    parser.add_argument("--cpu-minutes", type=float, required=True, help="spent on training it")
    parser.add_argument("--purpose", required=True, help="a sentence: for which pictures")
    parser.add_argument("--noise", required=True, help="a sentence: what it was trained on")
    parser.add_argument(
        "--keep-detail", type=float, default=0.0, help="how much texture its results get back"
    )
    parser.add_argument(
        "--declip", action="store_true", help="black and white are mended in its results"
    )
    parser.add_argument(
        "--specialists", action="store_true", help="it hands white noise to color and gray"
    )
    parser.add_argument(
        "--window", type=int, help="side of the window that its attention's statistics are over"
    )
    parser.add_argument("--limits", required=True, help="sentences: what it can't do, its harms")
    arguments = parser.parse_args()
    tune_cpu()
    from flax import nnx

    from sa_flax.models.saved import from_pretrained, model_leaves, save_pretrained

    model, config = from_pretrained(arguments.network)
    half = nnx.clone(model)
    for leaf in model_leaves(half).values():
        leaf.set_value(leaf.get_value().astype(np.float16).astype(np.float32))
    loss = _loss(model, half, config["options"]["channels"])
    print(f"half precision costs {loss:.4f} dB")
    if loss > 0.005:
        print("that is more than 0.005 dB: not shipped.", file=sys.stderr)
        return 1
    training = config["training"]
    count = len((WEIGHTS / "PICTURES.tsv").read_text().splitlines()) - 1
    run = training["config"]
    shipped = {
        "model": config["model"],
        "options": config["options"],
        **({"keep_detail": arguments.keep_detail} if arguments.keep_detail else {}),
        **({"declip": True} if arguments.declip else {}),
        **({"specialists": {"3": "color", "1": "gray"}} if arguments.specialists else {}),
        **({"window": [arguments.window] * 2} if arguments.window else {}),
        "training": {
            "steps": training["step"],
            "cpu_minutes": arguments.cpu_minutes,
            "noise": run["noise"],
            "gray_share": run["data"].get("gray_share", 0.0),
            "pictures": f"{count} photographs and wallpapers, named in PICTURES.tsv beside the "
            "network's folder; noise was added to them",
            "pictures_license": "each picture's own: CC0, public domain or CC BY",
        },
        "license": "Apache-2.0",
    }
    put_back = (
        f"- **Texture**: of what it takes for noise and is likely texture, the share "
        f"{arguments.keep_detail:g} is put\n  back into its results, in the figures too "
        "(`keep_detail` in config.json).\n"
        if arguments.keep_detail
        else ""
    )
    if arguments.declip:
        put_back += (
            "- **Clipping**: black and white, which are off where noise was clipped, are mended in "
            "its\n  results, in the figures too (`declip` in config.json).\n"
        )
    if arguments.specialists:
        put_back += (
            "- **White noise**: pictures whose noise turns out to be white go to `color` and "
            "`gray`, in the figures\n  too (`specialists` in config.json; `--no-specialists` "
            "keeps them).\n"
        )
    if arguments.window:
        put_back += (
            f"- **Attention's statistics** are over {arguments.window} x {arguments.window} pixels "
            "around each pixel, as on the\n  crops that it was trained on, in the figures too "
            "(`window` in config.json).\n"
        )
    text = f"""# {arguments.name}

{arguments.purpose}

- **Network**: {config["model"]}, {json.dumps(config["options"])}.
- **Trained on**: {arguments.noise}
- **Pictures**: the photographs in [PICTURES.tsv](../PICTURES.tsv), all CC0, public domain or CC-BY,
  cut into tiles (`benchmarks/training_queue.py` says how).
- **Training**: at last {training["step"]:,} steps of {run["data"]["batch_size"]} crops of
  {run["data"]["crop"]} x {run["data"]["crop"]} pixels, AdamW at
  {run["optimizer"]["learning_rate"]:g}, {arguments.cpu_minutes:g} minutes of processor time in all
  (`python -m benchmarks.training_queue`). One seed.
{put_back}- **Weights**: half precision, {loss:.4f} dB from the whole ones. Apache-2.0.

## Figures

PSNR in dB of the result, clipped and rounded to 8 bits (`python -m benchmarks.quality`):

{_figures(arguments.name)}

## Limits

{arguments.limits}
"""
    save_pretrained(model, WEIGHTS / arguments.name, config=shipped, card=text, dtype=np.float16)
    print(f"wrote {WEIGHTS / arguments.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
