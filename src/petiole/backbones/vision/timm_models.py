"""``timm/<name>``: a model of timm, from the hub or from a local safetensors file; see ``timm_families`` for which."""

from __future__ import annotations

from typing import Any

import timm
import torch
from pydantic import ValidationError
from timm.data import resolve_data_config
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.registry import LoadRequest, loader
from petiole.backbones.vision.timm_families import family_of
from petiole.backbones.weights import load_strictly, read_json, read_safetensors
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError, unknown


@loader("timm/")
def load(request: LoadRequest) -> Backbone:
    """Load ``timm/<architecture>[.<tag>]``.

    Raises:
        BackboneError: unknown architecture or family, weights that cannot be had or do not fit, or
            an image size that the model does not accept.
    """
    architecture = request.name.removeprefix("timm/")
    if not timm.is_model(architecture):
        raise unknown("timm model", architecture.split(".")[0], timm.list_models(), BackboneError)
    # Wrapped before anything is fetched, so that what cannot be used costs no download.
    shape = _create(request, architecture, device="meta", num_classes=0)
    family = family_of(shape)
    if options := dict(family.options):
        shape = _create(request, architecture, device="meta", num_classes=0, **options)
    preprocessing = _preprocessing(shape, request)
    backbone = family.wrap(request.name, shape, preprocessing)
    if request.meta:
        return backbone
    module = _create(request, architecture, num_classes=0, **options)
    if request.weights is not None:
        tensors, origin = read_safetensors(request.weights), str(request.weights)
    else:
        # With its own classifier timm loads strictly; asked for none, it accepts partial files.
        whole = _create(request, architecture, pretrained=True, **options)
        tensors, origin = whole.state_dict(), f"the hub's {request.name}"
    load_strictly(module, _without_classifier(module, tensors), origin)
    return family.wrap(request.name, module, preprocessing)


def _create(
    request: LoadRequest, architecture: str, *, device: str = "cpu", **options: Any
) -> nn.Module:
    try:
        with torch.device(device):
            module: nn.Module = timm.create_model(architecture, **options)
    except Exception as error:  # whatever network, disk or timm may raise
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        if options.get("pretrained"):
            raise BackboneError(
                f"The weights of {request.name} could not be had ({type(error).__name__}: {reason}). "
                "Give a local file with weights=PATH (--weights), check the connection to the hub, "
                "or use petiole/efficientnet-lite0 or petiole/tiny-vit, which need none."
            ) from error
        raise BackboneError(
            f"timm cannot build {request.name} ({type(error).__name__}: {reason}). "
            "Check the tag after the dot, or leave it out."
        ) from error
    return module


def _without_classifier(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Files from the hub carry their ImageNet classifier, which a backbone has no use for."""
    stated = getattr(module, "pretrained_cfg", {}).get("classifier") or ()
    names = (stated,) if isinstance(stated, str) else tuple(stated)
    ends = tuple(f"{name}.{leaf}" for name in names for leaf in ("weight", "bias"))
    return {key: value for key, value in tensors.items() if key not in ends}


def _preprocessing(module: nn.Module, request: LoadRequest) -> Preprocessing:
    """From the file beside local weights if there is one, else from timm's own configuration."""
    beside = request.weights.with_suffix(".json") if request.weights else None
    if beside is not None and beside.is_file():
        config = read_json(beside)
    else:
        config = resolve_data_config({}, model=module)
        config |= {"size": config["input_size"][1:], "crop": config["crop_pct"]}
    fields: dict[str, Any] = {name: config.get(name) for name in Preprocessing.model_fields}
    if request.image_size is not None:
        fields["size"] = (request.image_size, request.image_size)
    try:
        stated = Preprocessing.model_validate(fields)
    except ValidationError as error:
        raise BackboneError(
            f"The preprocessing of {request.weights or request.name} is not usable: "
            + "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}" for e in error.errors())
        ) from error
    return stated
