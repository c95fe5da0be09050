"""Every option of every command runs through the command once."""

import importlib

import pytest
from flax import nnx
from PIL import Image

import sa_flax as package
from sa_flax.cli.commands import COMMANDS

# {in}: a folder of two pictures; {pairs}: a_real.png and a_mean.png; {run}: a run's directory;
# {told}: a network that is told the noise level; {pth}: DnCNN's weights from PyTorch.
LINES = [
    "denoise {in} --output {tmp}/out --model {run} --memory 1GB --strength 0.5 --keep-detail 0.3 "
    "--declip --self-ensemble --estimate-noise --compare --report {tmp}/page.html --overwrite "
    "--json {tmp}/work.json --format png --dtype bfloat16 --verbose",
    "denoise {in}/a.png -o {tmp}/a.jpg --model {told} --sigma 25 --devices 2 --quality 90 --quiet",
    "denoise {in}/a.png -o {tmp}/a.png --model {run} --window 8 --no-specialists",
    "evaluate {run} --images {in} --sigma 25 --baseline --seed 3 --dtype float32 "
    "--self-ensemble --json {tmp}/e.json --csv {tmp}/e.csv --quiet",
    "evaluate --model {run} --images {pairs} --noisy {pairs} --noisy-suffix _real "
    "--clean-suffix _mean --verbose",
    "evaluate {run} --images {in} --noise gaussian poisson_gaussian correlated --sigma 20 "
    "--noise.clip --noise.gain 0.01 --noise.read-noise 0.01 --noise.sigma-range 5 20 "
    "--noise.blur-range 0 1 --noise.chroma-blur-range 0 1 --noise.shared 0.5",
    "evaluate {run} --images {in} --noise.kind camera photo --noise.shot-range 1e-4 1e-2 "
    "--noise.mosaic 1 --noise.by-difference 1 --noise.contrast 0.5 --noise.smoothing 0 "
    "--noise.white 0.3 --noise.correlated 0.3 --noise.camera 0.3 --noise.clipped 1 --noise.jpeg 1 "
    "--noise.quality-range 50 90 --noise.cropped 1 --noise.resized 1 --noise.resized-by 0.5 2",
    "add-noise {in} --output {tmp}/noisy --noise gaussian --sigma 10 --seed 1 --overwrite "
    "--json {tmp}/noise.json --format png --quiet",
    "add-noise {in}/a.png -o {tmp}/n.jpg --noise correlated --quality 80 --verbose",
    "add-noise {in}/a.png -o {tmp}/1.png --noise correlated --noise.clip --noise.sigma-range 5 20 "
    "--noise.blur-range 0 1 --noise.chroma-blur-range 0 1 --noise.shared 0.5",
    "add-noise {in}/a.png -o {tmp}/2.png --noise poisson_gaussian --noise.gain 0.01 "
    "--noise.read-noise 0.01",
    "add-noise {in}/a.png -o {tmp}/3.png --noise camera --noise.shot-range 1e-4 1e-2 "
    "--noise.mosaic 1 --noise.by-difference 1 --noise.contrast 0 --noise.smoothing 0",
    "add-noise {in}/a.png -o {tmp}/4.png --noise photo --noise.white 0.3 --noise.correlated 0.3 "
    "--noise.camera 0.3 --noise.clipped 1 --noise.jpeg 1 "
    "--noise.quality-range 50 90 --noise.cropped 1 --noise.resized 1 --noise.resized-by 0.5 2",
    "report {in}/sub --before {in}/sub --clean {in}/sub --output {tmp}/seen.html --quiet",
    "report {in} --before {in} --verbose",
    "export {run} --output {tmp}/net.stablehlo --no-check --quiet",
    "export {run} -o {tmp}/other.stablehlo --verbose",
    "export {run} -o {tmp}/net.dtmodel --license MIT --training-data photographs "
    "--training-data-license CC0",
    "port {pth} --architecture dncnn --output {tmp}/ported --fold --torch-file {tmp}/net.pth "
    "--largest 2 --quiet",
    "port {pth} --architecture dncnn --output {tmp}/again --verbose",
]


@pytest.fixture
def places(folder, tmp_path, run_directory):
    """What the lines above name."""
    told = {"channels": 3, "width": 4, "levels": 2, "attention": "none", "noise_level": True}
    network = package.create_model("attention_unet", rngs=nnx.Rngs(0), **told)
    config = {"model": "attention_unet", "options": told}
    package.save_pretrained(network, tmp_path / "told", config=config)
    (tmp_path / "pairs").mkdir()
    for end in ("real", "mean"):
        Image.open(folder / "a.png").save(tmp_path / "pairs" / f"a_{end}.png")
    places = {"in": folder, "tmp": tmp_path, "run": run_directory}
    return places | {name: tmp_path / name for name in ("told", "pairs")}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.partition(" {")[0])
def test_it_runs(sa_flax, places, line):
    if "{pth}" in line:
        torch = pytest.importorskip("torch")
        from tests.torch_reference.dncnn import DnCNN

        places["pth"] = places["tmp"] / "torch.pth"
        torch.save(DnCNN(1, 3, 4).state_dict(), places["pth"])
    code, _, err = sa_flax(*(word.format(**places) for word in line.split()))
    assert code == 0, err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_a_line(name):
    words = {word for line in LINES if line.split()[0] == name for word in line.split()}
    actions = importlib.import_module(COMMANDS[name][0]).parser()._actions
    options = [action.option_strings for action in actions if action.option_strings]
    missing = [flags[-1] for flags in options if not words.intersection(flags)]
    assert missing == ["--help"], f"give each once in a line of {__file__}"
