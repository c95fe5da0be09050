"""Configurations: JSON round trip, presets, the command line, and what is refused."""

import dataclasses
import json

import pytest

from sa_flax.config import (
    PRESETS,
    Config,
    ModelConfig,
    differences,
    from_json,
    preset,
    to_json,
    validate,
)
from sa_flax.errors import InputError
from sa_flax.noise import NOISES, Camera
from sa_flax.training.command import parse_command
from sa_flax.training.run import rate_change


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_survive_json(name):
    validate(PRESETS[name])
    assert from_json(to_json(PRESETS[name])) == PRESETS[name]


def test_options_survive_json():
    for model in (
        ModelConfig(attention_options={"groups": 4}),
        ModelConfig(width=(48, 64, 96, 192), blocks=(3, 2, 1, 1)),
    ):
        config = Config(model=model)
        assert from_json(to_json(config)) == config
    assert parse_command(["smoke", "--model.blocks", "3", "1"]).config.model.blocks == (3, 1)
    assert parse_command(["smoke", "--model.blocks", "3"]).config.model.blocks == 3
    assert parse_command(["smoke", "--model.width", "8", "12"]).config.model.width == (8, 12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ('{"modle": {}}', "Did you mean 'model'"),
        ('{"model": {"width": "wide"}}', "model.width has the wrong type"),
        ('{"model": {"blocks": [2, "wide"]}}', r"model.blocks\[1\] has the wrong type"),
        ('{"model": {"attend": "up"}}', "none, encoder, decoder, both"),
        ("[]", "must be an object"),
    ],
)
def test_json_that_is_wrong_is_named(text, message):
    with pytest.raises(InputError, match=message):
        from_json(text)


@pytest.mark.parametrize("kind", NOISES)
def test_every_noise_survives_json_and_the_command_line(kind):
    config = parse_command(["smoke", f"--noise.kind={kind}"]).config
    assert config.noise == NOISES[kind]()
    assert from_json(to_json(config)) == config
    assert json.loads(to_json(config))["noise"]["kind"] == kind


def test_options_of_the_chosen_noise():
    noise = parse_command(["--noise.shot-range", "1e-4", "1e-3", "--noise.kind", "camera"]).config
    assert noise.noise == Camera(shot_range=(1e-4, 1e-3))


def test_differences_are_named_by_their_option():
    other = dataclasses.replace(Config(), steps=7, model=ModelConfig(width=8))
    assert differences(Config(), other) == {"steps": (3000, 7), "model.width": (32, 8)}


@pytest.mark.parametrize("old", NOISES)
def test_kinds_of_noise_differ_in_what_either_has(old):
    for new in NOISES:
        configs = (dataclasses.replace(Config(), noise=NOISES[kind]()) for kind in (old, new))
        found = differences(*configs)
        assert ("noise.kind" in found) == (old != new)
        if {old, new} == {"gaussian", "blind"}:
            assert set(found) == {"noise.kind", "noise.sigma", "noise.sigma_range"}


def test_command_line_overrides_a_preset():
    command = parse_command(["smoke", "--model.attention", "none", "--data.batch_size", "7"])
    assert command.config == dataclasses.replace(
        PRESETS["smoke"],
        model=dataclasses.replace(PRESETS["smoke"].model, attention="none"),
        data=dataclasses.replace(PRESETS["smoke"].data, batch_size=7),
    )
    assert command.output == "runs/smoke"
    assert parse_command(["--output", "gs://bucket/run"]).output == "gs://bucket/run"
    assert parse_command([]).config == PRESETS["quick"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smok"], "Did you mean 'smoke'"),
        (["--noise.kind", "gaussian", "--noise.sigma", "-1"], "can't be negative"),
        (["--noise.kind", "gausian"], "Did you mean 'gaussian'"),
        (["--noise.sigma", "50"], "give --noise.kind gaussian"),
        (["--noise.sigma-range", "0.1", "0.2"], "0-255 scale"),
        (["--noise.kind"], "needs a name"),
        (["--noise.kind=photo", "--noise.jpeg", "1.5"], "at most 1"),
        (["--noise.kind", "camera", "--model.noise-level"], "needs a noise with one level"),
        (["--data.workers", "5000"], "at most 1024"),
        (["--optimizer.ema-decay", "1"], "below 1"),
        (["--noise.sigma-range", "30", "20"], "lowest <= highest"),
        (["--model.channels", "2"], "3 .colour. or 1 .gray."),
        (["--data.scales", "0", "1"], "--data.scales must be above 0"),
        (["--data.crop", "0"], "--data.crop must be at least 1"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--optimizer.learning-rate", "0"], "above 0"),
        (["--evaluation-sigmas", "15", "-5"], "can't be negative"),
        (["--evaluation-sigmas", "25", "15", "25"], "has a level twice: 25 15 25"),
        (["--mesh.fsdp", "0"], "--mesh.fsdp must be at least 1"),
        (["--optimizer.accumulate", "3"], "8 can't be worked through in .* 3 equal parts"),
        (["--coordinator", "here:1"], "need --distributed"),
        (["--model.name", "dncnn", "--model.levels", "2"], "model.levels would change nothing"),
        (["--model.name", "dncnn", "--model.attention", "eca"], "dncnn has no such option"),
        (["--model.attend", "none", "--model.attention", "eca"], "attend none there is no att"),
        (["--model.attention", "none", "--model.attend", "both"], "there is none to place"),
        (["gray", "--data.gray-share", "0.5"], "data.gray-share would change nothing"),
        (["--optimizer.decay-share", "0.5"], "only --optimizer.schedule wsd"),
        (["--noise.kind", "photo", "--noise.white", "1"], "shares of one whole, and come to 1.6"),
    ],
)
def test_values_that_no_run_could_use(arguments, message):
    with pytest.raises(InputError, match=message):
        parse_command(arguments)


def test_options_that_have_an_effect_after_all():
    parse_command(["--model.attention", "none", "--model.attend", "none"])
    parse_command(["--model.name", "dncnn", "--model.width", "16"])
    parse_command(["--optimizer.schedule", "wsd", "--optimizer.decay-share", "0.5"])
    parse_command(["color", "--model.attend", "none"])


def test_a_rate_that_jumps_is_said():
    config = Config()
    longer = dataclasses.replace(config, steps=2 * config.steps)
    assert rate_change(None, config, 3000) == rate_change(config, longer, 0) == []
    assert rate_change(config, config, 3000) == []
    (line,) = rate_change(config, longer, 3000)
    assert line.startswith("  learning rate at step 3000: 1.0e-05 -> 5.2e-04; to be able to add")
    wsd, longer = (
        dataclasses.replace(c, optimizer=dataclasses.replace(c.optimizer, schedule="wsd"))
        for c in (config, longer)
    )
    assert rate_change(wsd, longer, 2000) == []  # stopped before it falls
    (line,) = rate_change(wsd, longer, 3000)
    assert line == "  learning rate at step 3000: 1.0e-05 -> 1.0e-03"


def test_unknown_option_leaves_with_code_2_and_the_nearest_name(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse_command(["--model.atention", "none"])
    assert exit_info.value.code == 2
    assert "--model.attention" in capsys.readouterr().err


def test_unknown_preset_lists_the_known():
    with pytest.raises(InputError, match="quick, quick_gray, smoke"):
        preset("nonsense")
