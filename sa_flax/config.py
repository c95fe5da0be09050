"""What a training run is made of: frozen dataclasses, presets, and their JSON form.

Noise levels in a configuration (and on the command line) are on the 0-255 scale of papers; inside
the library everything is in [0, 1].
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from sa_flax.errors import InputError, nearest
from sa_flax.limits import (
    ABOVE_ZERO,
    AT_LEAST_ONE,
    INCREASING,
    LEVEL,
    NOT_NEGATIVE,
    SHARE,
    Limit,
    check_fields,
    check_seed,
)
from sa_flax.noise import NOISES, Blind, Noise


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = "attention_unet"
    """Name of the network (see sa_flax.list_models())."""
    channels: int = 3
    """3 for colour, 1 for gray."""
    width: Annotated[int | tuple[int, ...], AT_LEAST_ONE] = 32
    """Features at full resolution, doubled at each level down; or one number for each level, the
    finest first."""
    levels: Annotated[int, AT_LEAST_ONE] = 4
    """Number of resolutions."""
    blocks: Annotated[int | tuple[int, ...], AT_LEAST_ONE] = 1
    """Residual blocks per level and side: one number, or one for each level, the finest first."""
    attention: str = "shuffle"
    """Kind of attention, or none (see sa_flax.list_attentions())."""
    attend: Literal["none", "encoder", "decoder", "both"] = "decoder"
    """Which side of the U-Net gets attention."""
    attention_options: dict[str, int] = field(default_factory=dict)
    """Options of the attention layer, e.g. `groups 4`."""
    noise_level: bool = False
    """Give the network the noise level as an extra input channel."""

    def options(self) -> dict[str, Any]:
        """Keyword arguments for `create_model(self.name, ...)`."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "name"}


@dataclass(frozen=True)
class DataConfig:
    """The pictures."""

    source: str = "photographs"
    """photographs (bundled), a folder of images (its sub-folders train, validation and test, or
    noisy and clean, are taken for what they are called), the name of a TFDS data set, or the
    directory of one that is prepared."""
    noisy: str | None = None
    """In a folder of noisy/clean pairs: which are the noisy ones, as a pattern of names
    (`*_real.*`) or a sub-folder (`noisy`)."""
    clean: str | None = None
    """Which are the clean ones: a pattern (`*_mean.*`) or a sub-folder (`clean`)."""
    crop: Annotated[int, AT_LEAST_ONE] = 64
    """Side of the square training crops, in pixels."""
    scales: Annotated[tuple[float, float], Limit(0, 1, above=True), INCREASING] = (1.0, 1.0)
    """Each crop is taken from its picture made smaller by a factor from this range, drawn anew: few
    pictures show more that way, and large ones more texture. Not for noisy/clean pairs, whose noise
    would change."""
    batch_size: Annotated[int, AT_LEAST_ONE] = 8
    """Crops per step, over all devices."""
    workers: Annotated[int, Limit(0, 1024)] = 0
    """Worker processes that read and crop; 0 uses threads."""
    cache_mb: Annotated[int, NOT_NEGATIVE] = 2048
    """Decoded pictures are kept in memory up to this many megabytes (for each worker)."""
    gray_share: Annotated[float, SHARE] = 0.0
    """Share of the crops that a colour network sees in gray (three equal channels)."""
    directory: str | None = None
    """Where prepared data sets are kept; by default a folder in the user's cache."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Muon with warm-up and decay."""

    kind: Literal["adamw", "muon"] = "adamw"
    """muon: the kernels that map features to features move along their momentum with all of its
    singular values made equal, as far as AdamW would; all else by Adam with Nesterov's momentum."""
    learning_rate: Annotated[float, ABOVE_ZERO] = 1e-3
    """Highest learning rate, reached after the warm-up."""
    warmup_steps: Annotated[int, NOT_NEGATIVE] = 100
    """Steps over which the learning rate rises from zero."""
    final_fraction: Annotated[float, SHARE] = 0.01
    """The learning rate ends at this fraction of the highest."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """cosine: the rate falls from the warm-up to the last step. wsd (warm-up, stable, decay): it
    stays at the highest and falls over the last steps only, so that a run can be given more."""
    decay_share: Annotated[float, SHARE] = 0.2
    """The share of all steps over which the rate falls, with the schedule wsd."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 1e-4
    """Decoupled weight decay, on kernels only; with muon on those that it moves."""
    b2: Annotated[float, Limit(0, 1, below=True)] = 0.999
    """Adam's decay of the mean of squared gradients: a lower one forgets the start sooner."""
    clip_norm: Annotated[float, ABOVE_ZERO] = 1.0
    """Gradients are scaled down to this global norm."""
    ema_decay: Annotated[float, Limit(0, 1, below=True)] = 0.999
    """Decay of the exponential moving average of the parameters that is evaluated and kept."""
    loss: Literal["charbonnier", "l1", "l2", "log_mse", "weighted_mse"] = "charbonnier"
    """Distance between the denoised and the clean picture. Faint and strong noise count alike with
    log_mse, which is PSNR in other units (its gradients are larger: clip at about 3), and with
    weighted_mse, the mean square over the noise's standard deviation (clip at about 0.1)."""
    accumulate: Annotated[int, AT_LEAST_ONE] = 1
    """Work through each batch in this many parts, one after the other, and sum their gradients:
    less memory, the same step."""
    remat: bool = False
    """Compute every block's features a second time in the backward pass instead of keeping them:
    less memory, about a third more work."""
    max_skipped: Annotated[int, AT_LEAST_ONE] = 10
    """An update with a loss or gradient that is not finite is skipped; after this many in a row
    the run stops."""


@dataclass(frozen=True)
class MeshConfig:
    """How the work is laid out over the devices; what these leave over splits the batch."""

    fsdp: Annotated[int, AT_LEAST_ONE] = 1
    """Split parameters, moving average and the optimiser's moments over this many devices (fully
    sharded data parallel). The batch is split over them as well."""
    height: Annotated[int, AT_LEAST_ONE] = 1
    """Split the height of every picture over this many devices."""


@dataclass(frozen=True)
class Config:
    """A whole training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    noise: Noise = field(default_factory=Blind)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    steps: Annotated[int, AT_LEAST_ONE] = 3000
    """Training steps."""
    init_from: str | None = None
    """Start from a saved network instead of random parameters: a shipped name, a directory, or that
    of a run. A gray network can start from a colour one."""
    seed: int = 0
    """Fixes initial parameters, order of pictures, crops and noise."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the network's computation; parameters and statistics stay float32."""
    log_every: Annotated[int, AT_LEAST_ONE] = 50
    """Steps between log lines."""
    evaluate_every: Annotated[int, AT_LEAST_ONE] = 500
    """Steps between evaluations on the validation pictures."""
    checkpoint_every: Annotated[int, AT_LEAST_ONE] = 500
    """Steps between checkpoints."""
    keep_checkpoints: Annotated[int, AT_LEAST_ONE] = 2
    """How many of the newest checkpoints are kept, besides the best."""
    evaluation_sigmas: Annotated[tuple[float, ...], LEVEL] = (15.0, 25.0, 50.0)
    """Noise levels of the final evaluation, 0-255."""


# A high rate, for a small network and few steps: lower it for larger ones and long runs.
_FEW_STEPS = OptimizerConfig(kind="muon", learning_rate=5e-3, clip_norm=0.2)

# Each preset's comment says what it is for and what to expect of it.
PRESETS: dict[str, Config] = {
    # Two CPU cores, about seven minutes: a 0.3 M-parameter blind colour denoiser.
    "quick": Config(model=ModelConfig(width=24, levels=3), optimizer=_FEW_STEPS, steps=2800),
    # The same in gray.
    "quick_gray": Config(
        model=ModelConfig(width=24, levels=3, channels=1), optimizer=_FEW_STEPS, steps=2800
    ),
    # A few seconds: shows that everything works; the result is no good.
    "smoke": Config(
        model=ModelConfig(width=8, levels=2),
        data=DataConfig(crop=32, batch_size=4),
        steps=20,
        log_every=5,
        evaluate_every=10,
        checkpoint_every=10,
        optimizer=OptimizerConfig(warmup_steps=5, ema_decay=0.9),
    ),
    # One accelerator, hours: a blind colour denoiser for real use. Give it more pictures than the
    # bundled ones (--data.source).
    "color": Config(
        model=ModelConfig(width=64, levels=4, blocks=2),
        data=DataConfig(crop=128, batch_size=32, workers=8, cache_mb=1024),
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=1000, ema_decay=0.9995),
        steps=200_000,
        dtype="bfloat16",
        evaluate_every=5000,
        checkpoint_every=5000,
        log_every=100,
    ),
}
PRESETS["gray"] = dataclasses.replace(
    PRESETS["color"], model=dataclasses.replace(PRESETS["color"].model, channels=1)
)

# A run may be continued with other values of these; everything else must be as it was.
CHANGEABLE = (
    "steps",
    "log_every",
    "evaluate_every",
    "checkpoint_every",
    "keep_checkpoints",
    "evaluation_sigmas",
    "optimizer.learning_rate",
    "optimizer.schedule",
    "optimizer.decay_share",
    "optimizer.accumulate",
    "optimizer.remat",
    "optimizer.max_skipped",
    "mesh.fsdp",
    "mesh.height",
    "data.workers",
    "data.cache_mb",
    "data.directory",
    "data.source",  # moved; that it holds the same pictures is checked when it has been opened
)


def to_json(config: Config) -> str:
    """The configuration as JSON text; `from_json` reads it back to an equal configuration."""
    return json.dumps(dataclasses.asdict(config), indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> Config:
    """The configuration that `to_json` wrote.

    Raises:
      InputError: for text that is not JSON, and for unknown or misspelt entries.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError
        raise InputError(f"the configuration is not valid JSON: {error}") from error
    return _build(Config, values, "")


def _build(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise InputError(f"the configuration's entry {where or 'at the top'} must be an object.")
    fields = {field.name for field in dataclasses.fields(cls) if field.init}
    hints = {name: h for name, h in typing.get_type_hints(cls).items() if name in fields}
    for name in values:
        if name not in hints:
            raise InputError(f"unknown entry {where}{name!r}.{nearest(name, hints)}")
    return cls(**{name: _convert(hints[name], v, where + name) for name, v in values.items()})


def _build_noise(value: Any, where: str) -> Noise:
    """A noise from its fields and its `kind`."""
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise InputError(f"{where} must be an object with the entry 'kind'.")
    return _build(
        noise_class(value["kind"], f"{where}.kind"),
        {name: entry for name, entry in value.items() if name != "kind"},
        f"{where}.",
    )


def noise_class(kind: str, option: str) -> type[Noise]:
    """The class of a noise by name. Raises InputError, with the nearest, for an unknown one."""
    if kind not in NOISES:
        raise InputError(
            f"{option} must be one of {', '.join(NOISES)}; got {kind!r}.{nearest(kind, NOISES)}"
        )
    return NOISES[kind]


def _convert(hint: Any, value: Any, where: str) -> Any:
    """A JSON value as the type the dataclass declares (JSON has no tuples)."""
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if hint == Noise:
        return _build_noise(value, where)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, f"{where}.")
    origin = typing.get_origin(hint)
    if origin is types.UnionType and isinstance(value, list):  # of the alternatives, the tuple
        hint = next((h for h in typing.get_args(hint) if typing.get_origin(h) is tuple), hint)
        origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list):
        kinds = typing.get_args(hint)
        if kinds[-1] is not Ellipsis and len(kinds) != len(value):
            raise InputError(f"{where} must have {len(kinds)} entries; got {value!r}.")
        return tuple(_convert(kinds[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        kind = typing.get_args(hint)[1]
        return {k: _convert(kind, v, f"{where}.{k}") for k, v in value.items()}
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise InputError(
                f"{where} must be one of {', '.join(map(str, choices))}; got {value!r}."
            )
        return value
    kinds = typing.get_args(hint) if origin is types.UnionType else (hint,)
    allowed = tuple(typing.get_origin(kind) or kind for kind in kinds)
    if float in allowed:
        allowed = (*allowed, int)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise InputError(f"{where} has the wrong type: {value!r}.")
    return value


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Every entry, by dotted name, in which two configurations differ: name -> (old, new).

    What only one of two kinds of noise has is None in the other.
    """
    a, b = _flat(dataclasses.asdict(old)), _flat(dataclasses.asdict(new))
    both = {name: (a.get(name), b.get(name)) for name in a | b}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value of a nested dictionary."""
    flat = {}
    for name, value in values.items():
        nested = isinstance(value, dict) and name != "attention_options"
        flat.update(_flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value})
    return flat


def validate(config: Config) -> None:
    """Raises InputError, with what to do, for values that no run could use."""

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise InputError(message)

    check_fields(config)
    check_seed("--seed", config.seed)
    data, noise, optimizer = config.data, config.noise, config.optimizer
    require(
        config.model.channels in (1, 3),
        f"--model.channels must be 3 (colour) or 1 (gray); got {config.model.channels}.",
    )
    require(
        data.batch_size % optimizer.accumulate == 0,
        f"--data.batch-size {data.batch_size} can't be worked through in --optimizer.accumulate "
        f"{optimizer.accumulate} equal parts.",
    )
    require(
        noise.has_level or not config.model.noise_level,
        f"--model.noise-level needs a noise with one level; {noise.kind} has none. Use "
        "--noise.kind blind or gaussian.",
    )
    highest = getattr(noise, "sigma_range", (0, getattr(noise, "sigma", 0)))[1]
    require(
        not 0 < highest < 1,
        f"noise levels are on the 0-255 scale: {highest:g} is less than one gray level. Multiply "
        "levels in [0, 1] by 255.",
    )
    require(len(config.evaluation_sigmas) > 0, "--evaluation-sigmas needs at least one level.")
    levels = [f"{level:g}" for level in config.evaluation_sigmas]
    require(
        len(set(levels)) == len(levels),
        f"--evaluation-sigmas has a level twice: {' '.join(levels)}. Leave one of them out.",
    )


def preset(name: str) -> Config:
    """A preset by name. Raises InputError, with the nearest name, for an unknown one."""
    if name not in PRESETS:
        raise InputError(
            f"unknown preset {name!r}.{nearest(name, PRESETS)} Presets: {', '.join(PRESETS)}."
        )
    return PRESETS[name]
