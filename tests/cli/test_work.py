"""The loop over pictures: whatever fails, the rest is done; pipes, reports, one error policy."""

import errno
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sa_flax import pictures as image_io
from sa_flax.cli import progress, work
from sa_flax.errors import InputError, StorageError, exit_code
from sa_flax.inference.denoiser import Denoiser

ROOT = Path(__file__).parent.parent.parent


class Network:
    """What the command knows of a denoiser; `fail` is raised for the first picture."""

    takes_noise_level, channels = False, 3

    def __init__(self, fail: Exception | None = None):
        self.fail, self.calls = fail, 0

    def __call__(self, pixels, sigma, **options):
        self.calls += 1
        if self.fail is not None and self.calls == 1:
            raise self.fail
        return pixels


@pytest.fixture
def use(monkeypatch):
    """Makes the commands use a network."""

    def set_network(network: Network) -> Network:
        monkeypatch.setattr(Denoiser, "from_pretrained", lambda *args, **kwargs: network)
        return network

    return set_network


FAILURES = [
    struct.error("unpack requires a buffer of 8 bytes"),
    RuntimeError("INTERNAL: something of XLA"),
    ValueError("shapes do not match"),
    ZeroDivisionError(),
    KeyError("tag"),
    OSError(errno.EIO, "Input/output error"),
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    AssertionError(),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("where", ["reader", "network", "writer"])
def test_whatever_is_raised_the_file_is_named_and_the_rest_done(
    sa_flax, folder, tmp_path, monkeypatch, use, where, error
):
    network = use(Network(error if where == "network" else None))
    name = {"reader": "read_pages", "writer": "write_pages"}.get(where)
    if name is not None:
        whole = getattr(image_io, name)

        def failing(path, *arguments, **options):
            if path.name == "a.png":
                raise error
            return whole(path, *arguments, **options)

        monkeypatch.setattr(image_io, name, failing)
    code, out, err = sa_flax("denoise", folder, "--output", tmp_path / "out")
    assert code == 1
    assert f"{folder / 'a.png'}: " in err
    assert "1 of 2 pictures failed" in err
    assert "denoised 1 of 2" in out
    assert [p.name for p in (tmp_path / "out").rglob("[!.]*.*")] == ["b.jpg"]
    assert network.calls == (1 if where == "reader" else 2)


def test_a_full_disk_ends_the_batch(sa_flax, folder, tmp_path, monkeypatch, use):
    network = use(Network())

    def full(path, pages, **options):
        raise InputError(f"{path}: can't be written") from OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(image_io, "write_pages", full)
    code, _, err = sa_flax("denoise", folder, "--output", tmp_path / "out")
    assert code == 1
    assert network.calls == 1
    assert "Make room, and repeat the command" in err


@pytest.mark.parametrize(
    ("mode", "name", "lacks"),
    [
        ("RGBA", "o.jpg", "hold no transparency"),
        ("LA", "o.bmp", "hold no transparency"),
        ("I;16", "o.webp", "16 bits"),
        ("I;16", "o.jpeg", "16 bits"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_network_runs(
    sa_flax, tmp_path, use, mode, name, lacks
):
    network = use(Network())
    Image.new(mode, (20, 20)).save(tmp_path / "a.png")
    code, _, err = sa_flax("denoise", tmp_path / "a.png", "--output", tmp_path / name)
    assert (code, network.calls) == (1, 0)
    assert lacks in err
    assert "--format png" in err


def test_a_place_that_cannot_be_written_is_refused_before_the_network_runs(
    sa_flax, folder, tmp_path, use
):
    network = use(Network())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").write_text("mine")
    (tmp_path / "out" / "a.png").mkdir()
    code, _, err = sa_flax("denoise", folder, "--output", tmp_path / "out")
    assert (code, network.calls) == (1, 0)
    assert "a.png: can't be written: a folder of this name" in err
    assert "sub is no folder" in err


def strict(text: str):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_report_says_what_became_of_every_picture(sa_flax, folder, tmp_path, use):
    use(Network())
    (folder / "c.png").write_bytes(b"nothing")
    report = tmp_path / "report.json"
    words = ("denoise", folder, "--output", tmp_path / "out", "--json", report)
    assert sa_flax(*words)[0] == 1
    written = strict(report.read_text())
    status = {Path(entry["source"]).name: entry["status"] for entry in written["pictures"]}
    assert status == {"a.png": "done", "b.jpg": "done", "c.png": "failed"}
    by_name = {Path(entry["source"]).name: entry for entry in written["pictures"]}
    assert (by_name["a.png"]["width"], by_name["a.png"]["height"]) == (30, 20)
    assert "not a readable picture" in by_name["c.png"]["reason"]
    assert written["interrupted"] is False
    sa_flax(*words)
    status = [entry["status"] for entry in strict(report.read_text())["pictures"]]
    assert sorted(status) == ["failed", "skipped", "skipped"]


def test_reports_are_written_through_links_and_into_pipes(sa_flax, folder, tmp_path, use):
    use(Network())
    (tmp_path / "kept.json").write_text("old")
    (tmp_path / "link.json").symlink_to("kept.json")
    words = ("denoise", folder, "--output", tmp_path / "out", "--overwrite", "--json")
    sa_flax(*words, tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    strict((tmp_path / "kept.json").read_text())
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    sa_flax(*words, tmp_path / "pipe")
    reader.join(timeout=20)
    assert len(strict(read[0])["pictures"]) == 2
    assert (tmp_path / "pipe").is_fifo()
    code, _, err = sa_flax(*words, tmp_path)
    assert code == 2
    assert "is a folder; --json" in err


def test_names_that_are_no_text_are_in_every_report(sa_flax, folder, tmp_path, use):
    use(Network())
    name = os.fsencode(folder) + b"/caf\xe9.png"
    Path(os.fsdecode(name)).write_bytes((folder / "a.png").read_bytes())
    files = {end: tmp_path / f"r.{end}" for end in ("json", "html")}
    code, _, err = sa_flax(
        *("denoise", folder, "--output", tmp_path / "o"),
        *("--json", files["json"], "--report", files["html"]),
    )
    assert code == 0, err
    report = json.loads(files["json"].read_text())
    assert os.fsencode(report["pictures"][1]["source"]) == name
    assert "caf\\udce9.png" in files["html"].read_text()


def test_a_page_that_fails_takes_no_report_with_it(sa_flax, folder, tmp_path, use, monkeypatch):
    use(Network())

    def fail(*args):
        raise StorageError("no room for the page")

    monkeypatch.setattr("sa_flax.cli.denoise._write_report", fail)
    words = ("--json", tmp_path / "r.json", "--report", tmp_path / "r.html")
    code, _, err = sa_flax("denoise", folder, "--output", tmp_path / "o", *words)
    assert (code, "no room for the page" in err) == (1, True)
    assert len(json.loads((tmp_path / "r.json").read_text())["pictures"]) == 2


def test_names_that_look_like_options(sa_flax, folder, tmp_path, use, monkeypatch):
    use(Network())
    monkeypatch.chdir(folder)
    shutil.copy("a.png", "-x.png")
    words = ("--model", "photo", "--output", tmp_path / "o", "--", "-x.png")
    code, _, err = sa_flax("denoise", "a.png", *words)
    assert code == 0, err
    assert sorted(p.name for p in (tmp_path / "o").glob("[!.]*")) == ["-x.png", "a.png"]


def test_quiet_and_verbose(sa_flax, folder, tmp_path, use):
    use(Network(ValueError("odd")))
    words = ("denoise", folder, "--output", tmp_path / "out")
    code, out, err = sa_flax(*words, "--quiet")
    assert (code, out) == (1, "")
    assert "odd" in err


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_standard_input_to_standard_output(folder, tmp_path, run_directory, kind):
    with Image.open(folder / "a.png") as picture:
        picture.save(tmp_path / "a", kind)
    words = ["denoise", "-", "--output", "-", "--model", str(run_directory), "--estimate-noise"]
    done = subprocess.run(
        [sys.executable, "-m", "sa_flax.cli", *words],
        input=(tmp_path / "a").read_bytes(),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout)) as result:
        assert (result.format, result.size) == (kind, (30, 20))
    assert b"- -> - (30 x 20" in done.stderr
    assert b"noise: sigma " in done.stderr


def test_standard_input_to_files(sa_flax, folder, tmp_path, use, monkeypatch):
    use(Network())
    encoded = (folder / "a.png").read_bytes()
    for output, expected in (("o.tif", "o.tif"), ("out", "out/stdin.png")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(encoded)))
        assert sa_flax("denoise", "-", "--output", tmp_path / output)[0] == 0
        with Image.open(tmp_path / expected) as result, Image.open(folder / "a.png") as source:
            np.testing.assert_array_equal(np.asarray(result), np.asarray(source))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    code, _, err = sa_flax("denoise", "-", "--output", tmp_path / "o.png")
    assert code == 1
    assert "nothing came through standard input" in err


def test_whoever_reads_the_output_may_leave(folder, tmp_path, run_directory):
    words = ["denoise", str(folder), "--output", str(tmp_path / "out"), "--model"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sa_flax.cli", *words, str(run_directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert err == ""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("a wrong word"), 2, "a wrong word"),
        (StorageError("not saved"), 1, "not saved"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "Make room"),
        (MemoryError(), 1, "not enough memory (MemoryError). Less."),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 bytes"), 1, "not enough memory"),
    ],
)
def test_one_policy_for_errors(capsys, error, code, said):
    def work_that_fails():
        raise error

    assert exit_code("sa-flax", work_that_fails, less_memory="Less.") == code
    assert said in capsys.readouterr().err


def test_errors_that_nobody_foresaw_have_no_policy():
    def work_that_fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        exit_code("sa-flax", work_that_fails)


def test_time_that_is_left():
    spans = {0.2: "1 s", 59: "59 s", 61: "1 min", 240: "4 min", 7800: "2 h 10 min"}
    assert {seconds: progress.time_left(seconds) for seconds in spans} == spans


def test_lines_and_bars(capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = progress.Progress(200, quiet=False, verbose=False, stream=sys.stdout)
    for number in range(17):
        shown.done(f"{number}.png -> out/{number}.png", "1 x 1")
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"16\.png -> out/16\.png \(1 x 1; 17 of 200, 1 s left\)", line)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = progress.Progress(200, quiet=False, verbose=False, stream=sys.stdout)
    for number in range(17):
        bar.done(f"{number}.png -> out/{number}.png", "1 x 1")
    bar.failed("x.png: odd")
    bar.close()
    assert capsys.readouterr().out == ""
    assert "of 200, 1 s left |" in terminal.getvalue()
    assert "sa-flax: x.png: odd" in terminal.getvalue()


def test_an_unexpected_error_keeps_to_one_line():
    assert "\n" not in work.unexpected(ValueError("two\nlines"))
