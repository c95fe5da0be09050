"""Mistakes at the command line: each is named, with what is allowed and what to do."""

import shutil

import pytest

from tests.cli.conftest import snapshot

MODEL = "--model {tmp}/"
DENOISE = "denoise {in}/a.png --output {tmp}/o"


@pytest.fixture
def place(folder, tmp_path, run_directory, monkeypatch):
    """A folder with pictures, a run in runs/quick, a checkpoint, and the current folder there."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quick").symlink_to(run_directory)
    (tmp_path / "net.pth").write_bytes(b"weights")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "ported").mkdir()
    (tmp_path / "ported" / "config.json").write_text("{}")
    (tmp_path / "ported" / "model.safetensors").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("denois {in} --output o", "Did you mean 'denoise'?"),
        ("{in}/a.png --output o", "sa-flax denoise {in}/a.png --output"),
        ("denoise {in}/a.png", "say where the results shall go: --output"),
        ("denoise --output o", "give at least one picture or folder"),
        ("denoise {in}/a.png --output", "--output needs a value"),
        ("denoise {in}/a.png --ouput o", "no option '--ouput'. Did you mean '--output'?"),
        ("denoise empty --output o", "no pictures in empty"),
        ("denoise {in} --output ''", "--output: needs the name of a file or folder; got nothing"),
        ("denoise '' --output o", "needs the name of a file or folder; got nothing"),
        (
            "denoise {in}/a.png --output s3://b/o",
            "folder of this machine; got the address s3://b/o",
        ),
        ("denoise gs://b/a.png --output o", "folder of this machine; got the address gs://b/a.png"),
        (f"{DENOISE} --json {{in}}/sub/b.jpg", "b.jpg names a picture; --json writes a text"),
        (f"{DENOISE} --report {{in}}/a.png", "a.png names a picture; --report writes a text"),
        (f"{DENOISE} --json -", "--json takes the name of a file; /dev/stdout is one"),
        (f"{DENOISE} --report r --json r", "--json and --report would both be written to r"),
        ("add-noise {in}/a.png --output o --sigma 5 --json {in}/a.png", "names a picture"),
        ("report {in} --before {in} --output {in}/a.png", "names a picture; --output writes"),
        ("evaluate runs/quick --images {in} --csv {in}/a.png", "names a picture; --csv writes"),
        ("export ported --output ported/model.safetensors", "would overwrite the network"),
        ("export runs/quick --output ported/model.safetensors", "would overwrite the network"),
        (
            "port net.pth --architecture dncnn --output o --torch-file net.pth",
            "overwrite the check",
        ),
        ("denoise {in} --output o.jpg", "o.jpg names a picture, and more than one is asked for"),
        ("denoise {in}/a.png {in}/sub/b.jpg --output o.jpg", "give a folder, --output o"),
        ("denoise {in}/a.png --output o.gif", ".gif files can't be written; name it .png"),
        (f"{DENOISE} --model net.pth", "Port it first: sa-flax port net.pth --architecture"),
        (f"{DENOISE} --model gone.pth", "gone.pth is not there"),
        (f"{DENOISE} --model {{in}}/a.png", "is a picture, and --model takes a network"),
        (f"{DENOISE} --model notes.txt", "notes.txt is a file; --model takes a directory"),
        (f"{DENOISE} --model ported/model.safetensors", "give its directory: --model ported"),
        (f"{DENOISE} --model runs/quik", "Did you mean 'quick'? Networks in runs: quick."),
        (f"{DENOISE} --model ./elsewhere/quick", "no such directory, seen from {tmp}"),
        (f"{DENOISE} --model portd", "Did you mean 'ported'?"),
        (f"{DENOISE} --model ''", "--model needs a name or a directory"),
        (f"{DENOISE} --model empty", "holds no trained network"),
        (f"{DENOISE} --sigma abc", "a sigma is a number, the standard deviation of the noise"),
        (f"{DENOISE} --sigma nan", "on the 0-255 scale"),
        (f"{DENOISE} --sigma -3", "can't be negative"),
        (f"{DENOISE} --sigma 900", "from 0 to 510"),
        (f"{DENOISE} --window 1.5", "a whole number, at least 1; got '1.5'"),
        (f"{DENOISE} --devices 0", "a whole number, at least 1; got 0"),
        ("add-noise {in} --output o", "say how much noise: --sigma 25"),
        ("add-noise {in} --output o --sigma 5 --seed x", "a seed is a whole number; got 'x'"),
        ("add-noise {in} --output o --noise camra", "got 'camra'. Did you mean 'camera'? See"),
        ("add-noise {in} --output o --noise camera --noise.mosaic 3", "mosaic must be at most 1"),
        ("add-noise {in} --output o --noise camera --noise.mosaic x", "must be a number; got 'x'"),
        ("add-noise {in} --output o --sigma 5 --noise.gain 3", "gaussian has no --noise.gain"),
        (
            "add-noise {in} --output o --noise blind --noise.sigma-range 9",
            "--noise.sigma-range needs two values",
        ),
        (
            "add-noise {in} --output o --noise blind --noise.sigma-range 9 5",
            "needs lowest <= highest; got 9 5",
        ),
        ("denoise {in} --output o --json {in}/a.png/x.json", "a.png is no folder"),
        (
            "denoise {in}/a.png --output o --model photo --window 16",
            "--window would change nothing: photo has no attention",
        ),
        ("export runs/quick", "say where the network shall go: --output FILE"),
        ("port net.pth --architecture dncnn", "say where the network shall go: --output DIR"),
        ("port net.pth --architecture unet --output o", "Did you mean 'attention_unet'?"),
        ("port ported --architecture dncnn --output o", "is a network already"),
        ("port ported/model.safetensors --architecture dncnn --output o", "--model ported"),
        ("evaluate runs/quick --images {in} --noisy empty", "a.png: no noisy picture belongs"),
        ("evaluate a --model b --images {in}", "two networks, a and --model b"),
        ("evaluate runs/quick", "say where the clean pictures are"),
        ("evaluate runs/quick --images {in} --noise blind --sigma 5", "--noise gaussian besides"),
        ("evaluate runs/quick --images {in} --noisy {in} --noise blind", "pairs have theirs"),
        ("evaluate runs/quick --images {in}/a.png", "--images takes a folder"),
        ("evaluate {in} --images runs/quick", "runs/quick holds a network; --images takes"),
        ("evaluate runs/quick --images {in} --sigma 15,25", "stand apart: --sigma 15 25 50"),
        ("evaluate --images {in} --sigma 15 runs/quick", "files stand before --sigma"),
        ("evaluate runs/quick --images {in} --noisy gone", "--noisy takes a folder"),
        ("port net.pth --output p", "--architecture dncnn"),
        ("port --architecture dncnn --output p", "CHECKPOINT is missing"),
        ("port empty --architecture dncnn --output p", "is a directory; give the checkpoint"),
        ("port net.pth --architecture dncn --output p", "Did you mean 'dncnn'?"),
    ],
)
def test_each_is_named_with_what_to_do(sa_flax, place, folder, words, said):
    before = snapshot(place)
    places = {"in": folder, "tmp": place}
    given = [("" if w == "''" else w.format(**places)) for w in words.split()]
    code, out, err = sa_flax(*given)
    assert (code, out) == (2, "")
    assert said.format(**places) in err
    assert len(err.splitlines()) == 1
    assert snapshot(place) == before, "something was written"


def test_a_pattern_that_matches_nothing(sa_flax, place):
    code, _, err = sa_flax("denoise", "in/*.tiff", "--output", "o")
    assert code == 1
    assert "in/*.tiff: nothing has a name of this pattern" in err


def test_a_level_on_the_other_scale_is_pointed_out(sa_flax, place):
    code, _, err = sa_flax("add-noise", "in", "--sigma", 0.1, "--output", "o")
    assert code == 0
    assert "For 0.1 of the whole range give 25.5" in err


def test_the_home_folder_is_found(sa_flax, place, run_directory, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    shutil.rmtree(place / "empty")
    assert sa_flax("denoise", "in", "--output", "o", "--model", "~/runs/quick")[0] == 0
