"""Whatever is given on the command line or stands in a configuration: a result, or a message."""

import contextlib
import dataclasses
import io
import json
import math
import tempfile
from pathlib import Path

import jax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sa_flax import cli
from sa_flax.cli import networks
from sa_flax.config import (
    PRESETS,
    Config,
    ModelConfig,
    from_json,
    to_json,
    validate,
)
from sa_flax.data.builders import open_splits
from sa_flax.errors import InputError
from sa_flax.inference.denoiser import Denoiser
from sa_flax.training import run
from sa_flax.training.command import Command, parse_command
from sa_flax.training.network import network_of
from tests.fuzz.damage import cases, check_message, damaged, refusal, snapshot, untouched


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    found = {}
    for name, value in values.items():
        nested = isinstance(value, dict) and name != "attention_options"
        found.update(flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value})
    return found


OPTIONS = ["output", *flat(dataclasses.asdict(Config()))]
FLAGS = [name for name, value in flat(dataclasses.asdict(Config())).items() if value is False]
NUMBERS = [
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1",
    "2",
    "0.5",
    "1e308",
    "1e-320",
    "9" * 30,
    "510",
    "17",
]
WORDS = ["", " ", "none", "None", "True", "x", "''", "1,5", "0x10", "é", "\n", "shuffle", "both"]
values = st.sampled_from(NUMBERS + WORDS) | st.text(st.characters(codec="utf-8"), max_size=6)


def outcome(function, *arguments):
    """What a command line gives: its result, or the message it leaves with."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            return function(*arguments)
    except InputError as error:
        check_message(str(error))
        return None
    except SystemExit as left:  # tyro's way to refuse, with a message of its own
        code = left.code
    assert code == 2
    assert len(errors.getvalue().split()) > 3
    assert "Traceback" not in errors.getvalue()
    return None


@st.composite
def training_arguments(draw: st.DrawFn) -> list[str]:
    arguments = draw(st.sampled_from([[], ["smoke"], ["quick_gray"]]))
    for name in draw(st.lists(st.sampled_from(OPTIONS), min_size=1, max_size=3, unique=True)):
        arguments = [*arguments, f"--{name.replace('_', '-')}"]
        if name == "noise.sigma_range":
            arguments += [draw(values), draw(values)]
        elif name == "model.attention_options":
            arguments += ["groups", draw(values)]
        elif name == "evaluation_sigmas":
            arguments += draw(st.lists(values, max_size=3))
        elif name not in FLAGS:
            arguments += [draw(values)]
    return arguments


@cases(120)
@given(training_arguments())
def test_options_of_a_training_run(arguments):
    command = outcome(parse_command, arguments)
    if isinstance(command, Command):
        check_usable(command.config)


def check_usable(config: Config) -> None:
    """What every configuration must be that was not refused."""
    assert from_json(to_json(config)) == config
    for name, value in flat(dataclasses.asdict(config)).items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float):
                assert math.isfinite(number), name
                assert number >= 0, name
            elif isinstance(number, int):
                assert 0 <= number < 2**32 or name == "model.attention_options", name
    assert config.evaluation_sigmas
    jax.random.key(config.seed)


EXTREMES = (math.nan, math.inf, -math.inf, -1, -0.5, 0, 1, 2**31, 2**32, 2**70, 1e5, 1e308)


@pytest.mark.parametrize("name", [n for n in OPTIONS[1:] if n not in FLAGS])
def test_extreme_numbers(name):
    """All of them for every option that is a number, without the command line in between."""
    *path, last = name.split(".")
    owner = getattr(Config(), path[0]) if path else Config()
    usual = getattr(owner, last)
    if isinstance(usual, str | dict | None):
        return
    for number in EXTREMES:
        if isinstance(usual, int) and not isinstance(number, int):
            continue  # neither the command line nor JSON gives one
        value = (0.0, number) if isinstance(usual, tuple) else number
        changed = dataclasses.replace(owner, **{last: value})
        config = dataclasses.replace(Config(), **{path[0]: changed}) if path else changed
        if refusal(validate, config, names=f"--{name.replace('_', '-')}") is None:
            check_usable(config)


@cases(40)
@given(st.sampled_from(OPTIONS), st.integers(0, 20), st.sampled_from("aeqxz-."), st.booleans())
def test_misspelt_options_leave_with_a_hint(option, place, letter, replace):
    flag = f"--{option.replace('_', '-')}"
    place = 2 + place % (len(flag) - 2)
    wrong = flag[:place] + letter + flag[place + replace :]
    known = {f"--{name.replace('_', '-')}" for name in OPTIONS}
    if wrong in known or wrong.replace("-", "_") in {k.replace("-", "_") for k in known}:
        return
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as left:
        parse_command([wrong, "1"])
    assert left.value.code == 2
    check_message(errors.getvalue())


@cases(60)
@given(st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda t: not t.startswith("-")))
def test_presets_that_are_none(name):
    if name not in PRESETS:
        assert "Presets: quick" in refusal(parse_command, [name], names=repr(name))


@cases(40)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from(["attention_unet", "dncnn", "sa_resnet50", "unet", ""]),
            "width": st.sampled_from([1, 3, 8, 2**16, 2**31 - 1]),
            "levels": st.sampled_from([1, 2, 13, 10**6]),
            "blocks": st.sampled_from([1, 257, 10**9]),
            "attention": st.sampled_from(["none", "shuffle", "eca", "danet", "shufle", ""]),
            "attend": st.sampled_from(["none", "encoder", "both"]),
            "attention_options": st.dictionaries(
                st.sampled_from(["groups", "window", "reduction", "x", "rngs"]),
                st.sampled_from([-1, 0, 1, 4, 10**9]),
                max_size=1,
            ),
        },
    )
)
def test_networks_are_built_or_refused(options):
    config = dataclasses.replace(
        Config(), model=ModelConfig(**{"width": 8, "levels": 2, **options})
    )
    if refusal(validate, config) is None:
        refusal(lambda: nnx.eval_shape(lambda: network_of(config)))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def altered(values: dict, where: list[str], value: object, action: str) -> dict:
    """A copy of nested dictionaries with one entry replaced, removed, or another one added."""
    name, *rest = where
    if rest and isinstance(values[name], dict):
        return {**values, name: altered(values[name], rest, value, action)}
    if action == "add":
        return {**values, f"{name}2": value}
    if action == "remove":
        return {k: v for k, v in values.items() if k != name}
    return {**values, name: value}


@cases(250)
@given(st.sampled_from(OPTIONS[1:]), json_values, st.sampled_from(["replace", "remove", "add"]))
def test_entries_of_a_configuration(option, value, action):
    text = json.dumps(altered(json.loads(to_json(Config())), option.split("."), value, action))
    message = refusal(lambda: validate(from_json(text)))
    if action == "add":
        assert "unknown entry" in message
    if message is None:
        config = from_json(text)
        assert from_json(to_json(config)) == config
        optimizer = config.optimizer
        assert all(isinstance(s, int | float) for s in config.evaluation_sigmas)
        assert 0 < optimizer.learning_rate < math.inf


@cases(60)
@given(st.sampled_from(["noise.sigma_range", "evaluation_sigmas"]), st.lists(json_values))
def test_lists_in_a_configuration(option, value):
    text = json.dumps(altered(json.loads(to_json(Config())), option.split("."), value, "replace"))
    if refusal(lambda: validate(from_json(text))) is None:
        assert all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
        assert len(value) == 2 or option == "evaluation_sigmas"


@cases(100)
@given(damaged(to_json(Config()).encode()))
def test_damaged_configurations(content):
    refusal(lambda: validate(from_json(content.decode("latin-1"))))


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "", "null", '{"model": null}'])
def test_json_that_python_itself_refuses(text):
    assert refusal(from_json, text) is not None


@pytest.fixture
def workplace(tmp_path, run_directory, monkeypatch) -> Path:
    """A folder with one picture, as the current one; commands find the tiny network loaded."""
    (tmp_path / "in").mkdir()
    Image.new("RGB", (12, 12), "gray").save(tmp_path / "in" / "a.png")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "same").symlink_to("in")
    denoiser = Denoiser.from_pretrained(run_directory)
    monkeypatch.setattr(networks, "load", lambda *args, **kwargs: denoiser)
    monkeypatch.setattr(networks, "default", lambda: "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


places = st.sampled_from(
    [
        *("in", "same", "in/../in", "file", "file/x", "/proc/none", "/dev/null", "out", "out/x"),
        *("", ".", "y" * 300, "in/a.png", "in/a.png/x", "a\nb"),
    ]
)


USUAL = {
    "denoise": {"--output": ["out", "in", "same"]},
    "add-noise": {"--output": ["out", "in", "same"], "--sigma": ["5", "60"]},
    "evaluate": {"--images": ["in"], "--sigma": ["15"]},
    "report": {"--before": ["in"], "--output": ["page.html"]},
}


@st.composite
def use_arguments(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from([*USUAL, *USUAL, "port", "", "denoize"]))
    usual = USUAL.get(name, {})
    # Most options as one should give them, so that a wrong one meets right ones.
    words = [name]
    for option, wrong in (
        *(("--output", places), ("--images", places), ("--json", places), ("--csv", places)),
        *(("--before", places), ("--report", places), ("--noisy", places), ("--clean", places)),
        *(("--sigma", values), ("--seed", values), ("--window", values), ("--outptu", values)),
    ):
        chance = draw(st.integers(0, 9))
        if chance == 0 or (option == "--seed" and chance < 4 and usual):
            words += [option, draw(wrong)]
        elif option in usual:
            words += [option, draw(st.sampled_from(usual[option]))]
    right = st.sampled_from(["in", "in/a.png", "same/a.png"])
    return [*words, *draw(st.lists(right | right | places | values, min_size=1, max_size=2))]


@cases(200)
@given(use_arguments())
def test_options_of_the_commands(workplace, arguments):
    with contextlib.chdir(workplace), untouched(workplace / "in"):
        before = set(snapshot(workplace))
        code = outcome(cli.main, arguments)
        assert code in (None, 0, 1, 2)
        assert (workplace / "file").read_text() == "a file"
        new = sorted(set(snapshot(workplace)) - before, reverse=True)
        for name in new:  # what was written is whole: a picture or a report
            path = workplace / name
            if path.is_dir():
                path.rmdir()
                continue
            assert "partial" not in name
            assert path.read_bytes()[:1] in (b"\x89", b"{", b"<", b"p")  # p: the CSV's "picture"
            path.unlink()


@pytest.mark.parametrize(
    ("command", "option"),
    [
        *(("add-noise in --output out --sigma 5", o) for o in ("--sigma", "--seed")),
        *(("evaluate any --images in --sigma 15", o) for o in ("--sigma", "--seed")),
        *(("denoise in --output out", o) for o in ("--sigma", "--window")),
    ],
)
def test_numbers_of_the_commands(workplace, command, option):
    for number in NUMBERS:
        assert outcome(cli.main, [*command.split(), option, number]) in (None, 0, 2), number


@cases(60)
@given(values.filter(lambda v: not v.isalnum()) | places)
def test_data_sources_that_do_not_exist(tmp_path_factory, source):
    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
        if source not in (".", "~"):
            assert refusal(lambda: open_splits(source, directory=empty)) is not None


@pytest.mark.parametrize("output", ["file", "file/x", "/proc/none", "y" * 300, "folder"])
def test_outputs_that_cannot_be_a_run(tmp_path, output):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("somebody's")

    def claim():
        with run.claim(tmp_path / output, Config(), resume=False):
            pass

    with untouched(tmp_path):
        assert refusal(claim, names=output) is not None


@pytest.mark.parametrize("directory", ["file", "file/x", "/proc/none"])
def test_data_directories_that_cannot_be_written(tmp_path, directory):
    (tmp_path / "file").write_text("a file")
    with untouched(tmp_path):
        message = refusal(lambda: open_splits("photographs", directory=str(tmp_path / directory)))
    assert "--data.directory" in message
