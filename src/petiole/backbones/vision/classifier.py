"""The classifier that a network was trained with: one row a class, in the space of its image vector."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from torch import Tensor

from petiole.backbones.bundled.efficientnet_lite0 import fill_efficientnet
from petiole.backbones.weights import read_safetensors
from petiole.errors import BackboneError

IMAGENET = 1000


def imagenet_names() -> list[str]:
    """The first name of each of ImageNet-1k's classes, in the order of its classifiers (timm's list)."""
    from timm.data import ImageNetInfo

    return [text.split(",")[0] for text in ImageNetInfo("imagenet-1k").label_descriptions()]


def imagenet_rows(name: str, weights: Path | None = None) -> Tensor:
    """Rows (1000, d) of the ImageNet classifier of ``petiole/efficientnet-lite0`` or ``timm/<architecture>``.

    Args:
        weights: local file of the named architecture, its classifier included.

    Raises:
        BackboneError: the network has no such classifier, or its weights cannot be had.
    """
    if name == "petiole/efficientnet-lite0" and weights is None:
        network = timm.create_model("tf_efficientnet_lite0")
        fill_efficientnet(network)
        return _checked(network.get_classifier().weight.detach(), name)
    architecture = (
        "tf_efficientnet_lite0" if name.startswith("petiole/") else name.removeprefix("timm/")
    )
    if not timm.is_model(architecture):
        raise BackboneError(
            f"{name} has no ImageNet classifier that petiole can find. Use petiole/efficientnet-lite0 or "
            "timm/<architecture>, or teach the pair with captions."
        )
    if weights is None:
        try:
            network = timm.create_model(architecture, pretrained=True)
        except Exception as error:  # whatever network, disk or timm may raise
            raise BackboneError(
                f"The weights of {name} could not be had ({type(error).__name__}). Give a local file with "
                "--weights."
            ) from error
        return _checked(network.get_classifier().weight.detach(), name)
    with torch.device("meta"):
        stated = timm.create_model(architecture).pretrained_cfg.get("classifier")
    tensors = read_safetensors(weights)
    if f"{stated}.weight" not in tensors:
        raise BackboneError(
            f"{weights} has no {stated}.weight: its classifier was left out. Teach the pair with captions."
        )
    return _checked(tensors[f"{stated}.weight"].float(), str(weights))


def _checked(rows: Tensor, origin: str) -> Tensor:
    if len(rows) != IMAGENET:
        raise BackboneError(
            f"The classifier of {origin} has {len(rows)} classes, not ImageNet's {IMAGENET}. Teach the pair "
            "with captions."
        )
    return rows
