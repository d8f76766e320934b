"""preprocessor_config.json, as transformers keeps it beside a vision model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from petiole.backbones.weights import read_json
from petiole.data.preprocessing import Interpolation, Preprocessing
from petiole.errors import BackboneError

CLIP_COLOURS: dict[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
"""What CLIP's images are normalised with."""

_RESAMPLE: dict[int, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}  # PIL's numbering


def read_preprocessor(folder: Path, size: int | None = None) -> Preprocessing:
    """Read how a model's images are prepared.

    Args:
        folder: with preprocessor_config.json.
        size: side of the image in pixels; ``None`` takes the stated one.

    Raises:
        BackboneError: the file is missing, or does not state what is needed.
    """
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        raise BackboneError(
            f"{folder} has no preprocessor_config.json, so the size and colours that these weights "
            "expect are unknown. Copy it from where the model came from."
        )
    stated = read_json(file)
    try:
        resized = _side(stated["size"])
        cropped = _side(stated["crop_size"]) if stated.get("do_center_crop", True) else resized
        mean, std = tuple(stated["image_mean"]), tuple(stated["image_std"])
        interpolation = _RESAMPLE[stated.get("resample", 3)]
    except (KeyError, TypeError) as error:
        raise BackboneError(
            f"{file} does not state size, crop_size, image_mean, image_std and a known resample "
            f"({type(error).__name__}: {error}). Copy it from where the model came from."
        ) from error
    side = cropped if size is None else size
    return Preprocessing(
        size=(side, side), crop=cropped / resized, interpolation=interpolation, mean=mean, std=std
    )


def _side(size: int | dict[str, int]) -> int:
    """Older files state a number, newer ones the shortest edge or height and width."""
    if isinstance(size, int):
        return size
    return size["shortest_edge"] if "shortest_edge" in size else size["height"]
