"""Ctrl-C and SIGTERM, sent to real processes at many moments: what is written is whole, the exit
code tells, and what was done is said."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
COUNT = 40
LONG = 100

# A network that takes a while, most of it in a callback of the garbage collector, which swallows
# every exception that is raised inside it.
STUB = """
import gc, sys, time
import sa_flax.inference.denoiser
from sa_flax.cli import networks
class Network:
    takes_noise_level, channels = False, 3
    def __call__(self, pixels, sigma, **options):
        self.until = time.monotonic() + {seconds}
        if {seconds} > 10:
            import pathlib
            from sa_flax import files
            folder = pathlib.Path(sys.argv[4])
            folder.mkdir()
            (folder / ".partial").write_bytes(b"half")
            files._unfinished.add(folder / ".partial")
            print("at work", file=sys.stderr, flush=True)
        gc.collect()
        return pixels
    def collecting(self, phase, info):
        while phase == "start" and time.monotonic() < self.until:
            pass
network = Network()
network.until = 0
gc.callbacks.append(network.collecting)
networks.load = lambda *args, **kwargs: network
from sa_flax.cli import main
sys.exit(main())
"""


@pytest.fixture
def pictures(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(COUNT):
        Image.new("RGB", (60, 50), (number, 0, 0)).save(tmp_path / "in" / f"{number:02}.png")
    return tmp_path / "in"


def start(command: list[str]) -> subprocess.Popen:
    before = signal.getsignal(signal.SIGINT)  # ignored where the tests run behind a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        )
    finally:
        signal.signal(signal.SIGINT, before)


def denoise(pictures: Path, seconds: float, *options: str) -> subprocess.Popen:
    words = ["denoise", str(pictures), "--output", str(pictures.parent / "out"), "--model", "x"]
    return start(["-c", STUB.format(seconds=seconds), *words, *options])


def check_whole(folder: Path) -> int:
    """How many results there are; all of them whole, and nothing but notes beside them."""
    files = [path for path in folder.rglob("[!.]*") if path.is_file()]
    for path in files:
        assert "partial" not in path.name
        with Image.open(path) as picture:
            picture.load()
    return len(files)


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, 0.029),
        (signal.SIGTERM, 0.0),
        *(pytest.param(signal.SIGINT, moment, marks=pytest.mark.slow) for moment in (0.0, 0.067)),
        *(pytest.param(signal.SIGTERM, m, marks=pytest.mark.slow) for m in (0.029, 0.067)),
    ],
)
def test_stops_after_the_picture_at_hand(pictures, number, moment):
    process = denoise(pictures, 0.03)
    assert process.stdout.readline().startswith("network: x")
    assert process.stdout.readline()
    time.sleep(moment)
    process.send_signal(number)
    asked = time.monotonic()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number, err
    assert time.monotonic() - asked < 5
    assert err == (
        "sa-flax: stopping after this picture, or the tile at hand of a large one; once more ends "
        "at once.\n"
    )
    done = check_whole(pictures.parent / "out")
    assert 0 < done < COUNT
    assert f"denoised {done} of {COUNT} pictures; {COUNT - done} are left" in out
    assert len(out.splitlines()) == done  # the first was read above, one is the sum


def test_going_on_does_what_is_left(pictures):
    process = denoise(pictures, 0.03)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    done = check_whole(pictures.parent / "out")
    again = denoise(pictures, 0)
    out, _ = again.communicate(timeout=300)
    assert again.returncode == 0
    assert f"denoised {COUNT - done} of {COUNT}" in out
    assert check_whole(pictures.parent / "out") == COUNT


def test_a_second_signal_ends_at_once(pictures):
    process = denoise(pictures, LONG)
    assert process.stderr.readline() == "at work\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("sa-flax: stopping after this picture")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "ended at once" in err
    assert list((pictures.parent / "out").iterdir()) == [], "half a picture was left"


@pytest.mark.parametrize("moment", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_anything_is_at_hand_it_ends_at_once(pictures, run_directory, number, moment):
    """While JAX is imported and the network is loaded, by the real command."""
    out = pictures.parent / "out"
    words = ["denoise", str(pictures), "--output", str(out), "--model", str(run_directory)]
    process = start(["-m", "sa_flax.cli", *words])
    time.sleep(moment)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    if moment < 0.3 and (process.returncode == -number or "import runpy module" in err):
        return  # Python itself was still starting
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err or moment < 0.3
    assert "Fatal" not in err
    if out.exists():
        check_whole(out)


def test_evaluate_ends_at_once(run_directory, pictures):
    process = start(
        ["-m", "sa_flax.cli", "evaluate", str(run_directory), "--images", str(pictures)]
    )
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, ""), err
    assert err == "sa-flax: interrupted.\n"
    assert time.monotonic() - asked < 2


def test_signals_that_the_process_was_started_to_ignore_stay_ignored(pictures):
    script = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + STUB
    words = ["denoise", str(pictures), "--output", str(pictures.parent / "out"), "--model", "x"]
    process = start(["-c", script.format(seconds=0.01), *words])
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 0
