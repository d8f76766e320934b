"""``timm/<name>``: any timm ViT or CNN, from the hub or from a local safetensors file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from petiole.backbones import cnn, vit
from petiole.backbones.base import Backbone
from petiole.backbones.registry import Request, loader
from petiole.backbones.weights import load_strictly, read_safetensors
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError, unknown


@loader("timm")
def load(request: Request) -> Backbone:
    """Load ``timm/<architecture>[.<tag>]``.

    Raises:
        BackboneError: unknown architecture, weights that cannot be had or do not fit, or an image
            size that the model does not accept.
    """
    architecture = request.name.removeprefix("timm/")
    if not timm.is_model(architecture):
        raise unknown("timm model", architecture.split(".")[0], timm.list_models(), BackboneError)
    hub = request.weights is None and not request.meta
    module = _create(request, architecture, pretrained=hub)
    if request.weights is not None and not request.meta:
        tensors = read_safetensors(request.weights)
        load_strictly(module, tensors, str(request.weights))
    return wrap(request.name, module, _preprocessing(module, request))


def wrap(name: str, module: nn.Module, preprocessing: Preprocessing) -> Backbone:
    """Choose the family of a timm module."""
    if isinstance(module, VisionTransformer):
        return vit.wrap(name, module, preprocessing)
    if any("Attention" in type(part).__name__ for part in module.modules()):
        raise BackboneError(
            f"{name} ({type(module).__name__}) mixes attention in a way whose roles petiole does not "
            "know. Choose a plain ViT, DeiT, DINOv2, or a CNN."
        )
    return cnn.wrap(name, module, preprocessing)


def _create(request: Request, architecture: str, *, pretrained: bool) -> nn.Module:
    options: dict[str, Any] = {"num_classes": 0}
    if _is_vit(architecture):
        # Interpolating the position table at run time keeps the weights, hence the fingerprint.
        options["dynamic_img_size"] = True
    try:
        with torch.device("meta" if request.meta else "cpu"):
            module: nn.Module = timm.create_model(architecture, pretrained=pretrained, **options)
    except Exception as error:
        raise BackboneError(
            f"The weights of {request.name} could not be had ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}). "
            "Give a local file with weights=PATH (--weights), check the connection to the hub, or "
            "use petiole/efficientnet-lite0 or petiole/tiny-vit, which need none."
        ) from error
    return module


def _is_vit(architecture: str) -> bool:
    """Whether the architecture is defined in timm's own vision_transformer module."""
    entry = timm.model_entrypoint(architecture)
    return entry.__module__ == "timm.models.vision_transformer"


def _preprocessing(module: nn.Module, request: Request) -> Preprocessing:
    """From the file beside local weights if there is one, else from timm's own configuration."""
    beside = request.weights.with_suffix(".json") if request.weights else None
    if beside is not None and beside.is_file():
        config = json.loads(beside.read_text())
    else:
        config = resolve_data_config({}, model=module)
        config = {
            "size": config["input_size"][1:],
            "crop": config["crop_pct"],
            **{k: config[k] for k in ("interpolation", "mean", "std")},
        }
    fields = {k: config[k] for k in ("size", "crop", "interpolation", "mean", "std")}
    if request.image_size is not None:
        fields["size"] = _accepted(module, request)
    return Preprocessing(**fields)


def _accepted(module: nn.Module, request: Request) -> tuple[int, int]:
    assert request.image_size is not None
    size = request.image_size
    if isinstance(module, VisionTransformer):
        patch = module.patch_embed.patch_size[0]
        if size % patch:
            near = max(patch, round(size / patch) * patch)
            raise BackboneError(
                f"{request.name} cuts images into {patch} px patches, so an image size of {size} "
                f"does not fit. Use a multiple, e.g. {near}."
            )
    return (size, size)
