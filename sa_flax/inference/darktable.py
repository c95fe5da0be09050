"""Networks for darktable, which takes them as one file: NAME.dtmodel.

A .dtmodel file is a zip archive with one folder, called as the file: `config.json`, which says what
the network is, and `model.onnx`. darktable gives it tiles of sRGB pictures, (1, 3, H, W) float32 in
[0, 1], and shows `model_card` to the user. The format is described in the documentation of
darktable's package for making models, https://github.com/andriiryzhkov/darktable-ai-sdk; networks
are installed by "import from file" in darktable's preferences (5.6 and later).
"""

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from sa_flax import __version__
from sa_flax.errors import InputError
from sa_flax.inference.export import to_onnx
from sa_flax.models.unet import AttentionUNet
from sa_flax.modules.affinities import DANet, NonLocal, SelfAttention
from sa_flax.porting.architectures import unet_places

# What darktable's network files are called inside.
NETWORK = "model.onnx"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# Sides of tiles, best first: statistics of attention are those of a tile.
_TILES = (768, 512, 384, 256)
# Bytes that the affinities of one tile may take.
_AFFINITY_BYTES = 2**30
# Entries of the model card that darktable shows.
CARD_ENTRIES = (
    "long_description",
    "scope",
    "author",
    "source",
    "paper",
    "license",
    "training_data",
    "training_data_license",
    "notes",
)


def check_name(name: str) -> None:
    """Raises InputError unless a file NAME.dtmodel could have this name, and darktable take it."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"darktable takes names of letters, digits, - and _, such as denoise-photo.dtmodel; "
            f"got {name!r}."
        )


def to_dtmodel(
    model: nnx.Module, path: Path, *, name: str, card: Mapping[str, str], version: str = "1.0"
) -> None:
    """Writes a denoiser as darktable takes it.

    Args:
      model: an `AttentionUNet` or `DnCNN` for colour pictures that needs no noise level.
      path: the file to write.
      name: the network's, which the file must have before its ending.
      card: what darktable shows of it: some of `CARD_ENTRIES`. Licence, data and its licence are
        what people judge it by.
      version: darktable offers an update where it changes.

    Raises:
      InputError: for another network, a name or an entry that darktable does not take, affinities
        on maps so large that no tile of darktable's would fit into memory, and as `to_onnx`.
    """
    check_name(name)
    unknown = [entry for entry in card if entry not in CARD_ENTRIES]
    if unknown:
        raise InputError(f"no entry {unknown[0]!r} in darktable's cards: {', '.join(CARD_ENTRIES)}")
    if getattr(model, "channels", 3) != 3:
        raise InputError(
            f"darktable gives colour pictures to a network; this one takes {model.channels} "  # type: ignore[attr-defined]
            "channels. Export one that was trained with --model.channels 3."
        )
    if getattr(model, "noise_level", False):
        raise InputError(
            "darktable tells a network nothing of the noise of the picture, and this one needs it. "
            "Export a blind one (noise_level=False)."
        )
    config = {
        "id": name,
        "name": re.sub(r"[-_]+", " ", name),
        "description": card.get("long_description", "A denoiser trained with sa_flax"),
        "task": "denoise",
        "arch": "unet" if isinstance(model, AttentionUNet) else "dncnn",
        "backend": "onnx",
        "version": version,
        "tiling": True,
        "model_card": {"scope": "single-image denoising", **card},
        "attributes": {"input_sizes": [_tile(model)]},
        "made_with": f"sa_flax {__version__}",
    }
    network = path.with_name(f"{path.name}.onnx")
    try:
        to_onnx(model, network, names=("input", "output"), one_picture=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            text = json.dumps(config, indent=4, ensure_ascii=False) + "\n"
            # The date is fixed: the same network makes the same file.
            for entry, content in (("config.json", text), (NETWORK, network.read_bytes())):
                about = zipfile.ZipInfo(f"{name}/{entry}")
                about.compress_type, about.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(about, content)
    finally:
        network.unlink(missing_ok=True)


def _tile(model: Any) -> int:
    """The largest of darktable's tiles whose affinities fit into memory."""
    for side in _TILES:
        if _affinity_bytes(model, side) <= _AFFINITY_BYTES:
            return side
    needed = _affinity_bytes(model, _TILES[-1]) / 2**30
    raise InputError(
        f"this network compares all pixels of a large map with each other: darktable's smallest "
        f"tile, {_TILES[-1]} x {_TILES[-1]}, would take {needed:.0f} GiB. Build one with such "
        "attention at the bottom of more levels."
    )


def _affinity_bytes(model: Any, side: int) -> int:
    """Bytes of the largest affinity matrix and its softmax for a tile."""
    if not isinstance(model, AttentionUNet):
        return 0
    most = 0
    for place, blocks in unet_places(model).items():
        level = model.levels - 1 if place == "bottom" else int(place.partition(".")[2])
        positions = (side // 2**level) ** 2
        for block in blocks:
            if isinstance(block.attention, DANet | NonLocal | SelfAttention):
                step = getattr(block.attention, "subsample", 1)
                most = max(most, 2 * 4 * positions * positions // step**2)
    return most


def card_of(config: Mapping[str, Any], card: str) -> dict[str, str]:
    """What is noted with a saved network, as darktable shows it.

    Args:
      config: the content of its config.json.
      card: the text of its README.md, "" where there is none: the first paragraph says what it is
        for, the section "Limits" what it can't do.
    """
    training = config.get("training", {})
    sections = re.split(r"^#+ *(.+)$", card, flags=re.MULTILINE)  # before, title, text, title, ...
    texts = dict(zip(sections[1::2], sections[2::2], strict=True))
    entries = {
        "long_description": next(iter(texts.values()), "").strip().partition("\n\n")[0],
        "license": config.get("license", ""),
        "training_data": training.get("pictures", ""),
        "training_data_license": training.get("pictures_license", ""),
        "notes": texts.get("Limits", ""),
    }
    plain = {
        name: " ".join(re.sub(r"[*`]", "", str(text)).split()) for name, text in entries.items()
    }
    return {name: text for name, text in plain.items() if text}
