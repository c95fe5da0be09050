"""What a run notes of its data set, in data.json, and what it says of it at its next start."""

import os
from pathlib import Path

from sa_flax.config import PRESETS, Config, from_json
from sa_flax.data import manifest as manifests
from sa_flax.data.manifest import Manifest
from sa_flax.data.pipeline import open_pictures
from sa_flax.data.splits import Splits
from sa_flax.errors import InputError
from sa_flax.files import write_whole
from sa_flax.training import processes
from sa_flax.training.run_directory import CONFIG

DATA = "data.json"


def open_data(config: Config, output: Path) -> Splits:
    """The data set of a run, the same for all processes.

    Raises:
      InputError: where there is none that can be used, or the processes see different ones, or the
        network asks for a noise level that pairs don't tell.
    """
    earlier = earlier_data(output)
    splits = processes.first_then_others(
        lambda: open_pictures(config.data, channels=config.model.channels, earlier=earlier)
    )
    processes.check_alike(
        splits.manifest.digest,
        f"the processes don't see the same pictures in {config.data.source}, or not the same run "
        f"in {output}. Let all of them see one folder.",
    )
    if splits.pairs and config.noise not in (preset.noise for preset in PRESETS.values()):
        raise InputError(
            f"--noise.* would change nothing: the pairs in {config.data.source} bring their own "
            "noise. Leave it out, or train on the clean pictures alone: --data.source with their "
            "folder."
        )
    if splits.pairs and config.data.scales != (1, 1):
        raise InputError(
            f"--data.scales would change the noise of the pairs in {config.data.source}: leave it "
            "out."
        )
    if splits.pairs and config.model.noise_level:
        raise InputError("--model.noise-level needs a noise with one level; pairs don't tell it.")
    return splits


def earlier_data(output: Path) -> Manifest | None:
    """What a run's data set was at its last start; None for a new run, and for one of a release
    that did not note it. Raises InputError where the note is damaged."""
    path = output / DATA
    if not os.path.isfile(path):
        return None
    try:
        return manifests.from_json(path.read_text(encoding="utf-8", errors="replace"))
    except InputError as error:
        raise InputError(
            f"{path}: {error} It keeps what the run held out; restore it from a backup, or start a "
            "new run with another --output."
        ) from error


def data_changes(output: Path, data: Manifest) -> list[str]:
    """What differs in a run's data set from its last start, a line each.

    Raises:
      InputError: where the run trained on other pictures.
    """
    earlier = earlier_data(output)
    if earlier is not None:
        return manifests.check_unmoved(earlier, data)
    config = output / CONFIG
    if os.path.isfile(config):
        source = from_json(config.read_text()).data.source
        if source != data.source:
            raise InputError(
                f"{output} belongs to a run with other settings:\n  data.source: {source} there, "
                f"{data.source} now\nStart this one elsewhere with --output DIR, or go on with "
                "that one by giving its settings."
            )
    return []


def note_data(output: Path, data: Manifest) -> None:
    """Writes data.json: what served for what, and what was left out."""
    path = output / DATA
    text = data.remembering(earlier_data(output)).to_json()
    write_whole(path, text)
