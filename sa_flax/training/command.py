"""The command line of train.py: `[PRESET] [--options]`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sa_flax.config import PRESETS, Config, differences, noise_class, preset, validate
from sa_flax.errors import InputError
from sa_flax.noise import NOISES, Noise


@dataclass(frozen=True)
class Command:
    """What the command line of train.py asks for."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    # No Path, which makes gs:/bucket/run of gs://bucket/run.
    output: Annotated[str, tyro.conf.arg(metavar="DIR|ADDRESS")]
    """Directory of the run: configuration, checkpoints, logs, pictures; or its address, such as
    gs://BUCKET/RUN. A run that stopped there goes on where it stopped."""
    resume: bool = False
    """Insist on going on with an earlier run: without a checkpoint in the directory, stop."""
    distributed: bool = False
    """Train together with the other processes that run this command. On TPU pods, SLURM and Open
    MPI they find each other; elsewhere give the next three options as well."""
    coordinator: str | None = None
    """HOST:PORT of the first process, for all processes the same."""
    num_processes: int | None = None
    """Number of processes."""
    process_id: int | None = None
    """Which of them this is, from 0."""


def _take_noise_kind(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The last --noise.kind and the arguments without it: the options that follow from it are
    known only then."""
    kind, rest, index = None, [], 0
    while index < len(arguments):
        name, given, value = arguments[index].partition("=")
        if name != "--noise.kind":
            rest.append(arguments[index])
        elif given:
            kind = value
        elif index + 1 == len(arguments):
            raise InputError(f"--noise.kind needs a name: {', '.join(NOISES)}.")
        else:
            index += 1
            kind = arguments[index]
        index += 1
    return kind, rest


def _check_noise_options(noise: Noise, arguments: Sequence[str]) -> None:
    """Raises InputError for an option that only other noises have, naming those."""

    def options(of: Any) -> set[str]:
        return {f"--noise.{f.name}" for f in dataclasses.fields(of) if f.init}

    for argument in arguments:
        name = argument.partition("=")[0].replace("-", "_").replace("__noise", "--noise")
        having = [kind for kind, cls in NOISES.items() if name in options(cls)]
        if having and noise.kind not in having:
            raise InputError(
                f"the noise {noise.kind!r} has no {argument.partition('=')[0]}. With it, give "
                f"--noise.kind {' or '.join(having)} besides."
            )


def refuse_idle_options(config: Config, default: Config) -> None:
    """Raises InputError for settings other than the default's that change nothing in this run."""
    changed = differences(default, config)
    model, reasons = config.model, {}
    if model.name != "attention_unet":
        from sa_flax.training.network import known_options

        known = known_options(config)
        reasons = {
            f"model.{name}": f"the network {model.name} has no such option"
            for name in model.options()
            if name not in known
        }
    elif model.attend == "none" and model.attention != "none":
        reasons["model.attention"] = "with --model.attend none there is no attention"
        reasons["model.attention_options"] = reasons["model.attention"]
    elif model.attention == "none" and model.attend != "none":
        reasons["model.attend"] = "with --model.attention none there is none to place"
    if model.channels == 1:
        reasons["data.gray_share"] = "a network of one channel sees gray pictures only"
    if config.optimizer.schedule != "wsd":
        reasons["optimizer.decay_share"] = "only --optimizer.schedule wsd has a decay of its own"
    for name, reason in reasons.items():
        if name in changed:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} would change nothing: {reason}. Leave it out.")


def parse_command(arguments: Sequence[str]) -> Command:
    """Reads `[PRESET] [--options]`; leaves with exit code 2 and a message where they are wrong.

    Raises:
      InputError: for an unknown preset, and for values that no run could use.
    """
    name, rest = "quick", list(arguments)
    if rest and not rest[0].startswith("-"):
        name = rest.pop(0)
    description = (
        "Trains a denoiser: python train.py [PRESET] [options]. "
        f"Presets: {', '.join(PRESETS)}; without one, quick. The defaults below are those of "
        f"{name}. --noise.kind chooses the noise ({', '.join(NOISES)}); its options are shown "
        "with it: --noise.kind camera --help."
    )
    config = preset(name)
    kind, rest = _take_noise_kind(rest)
    if kind is not None and kind != config.noise.kind:
        config = dataclasses.replace(config, noise=noise_class(kind, "--noise.kind")())
    _check_noise_options(config.noise, rest)
    command = tyro.cli(
        tyro.conf.AvoidSubcommands[Command],
        prog="train.py",
        description=description,
        args=rest,
        default=Command(config=config, output=str(Path("runs", name))),
    )
    validate(command.config)
    refuse_idle_options(command.config, config)
    together = (command.coordinator, command.num_processes, command.process_id)
    if not command.distributed and any(option is not None for option in together):
        raise InputError(
            "--coordinator, --num-processes and --process-id need --distributed besides."
        )
    return command
