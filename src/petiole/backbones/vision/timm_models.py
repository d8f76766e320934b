"""``timm/<name>``: a model of timm, from the hub or from a local safetensors file; see ``timm_families`` for which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from math import isqrt, prod
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import ValidationError
from timm.data import resolve_data_config
from timm.models import PretrainedCfg
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.folders import read_weights
from petiole.backbones.registry import LoadRequest, folder_loader, loader
from petiole.backbones.vision.timm_families import family_of
from petiole.backbones.vision.trace import run_timm, traced
from petiole.backbones.weights import load_strictly, read_json, read_safetensors, without_prefix
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError, first_line, unknown


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
    if request.weights is not None:
        tensors = read_safetensors(request.weights)
        return _load(request, architecture, {}, lambda: (tensors, str(request.weights)))

    def from_hub() -> tuple[Mapping[str, Tensor], str]:
        # With its own classifier timm loads strictly; asked for none, it accepts partial files.
        whole = _create(request, architecture, pretrained=True)
        return whole.state_dict(), f"the hub's {request.name}"

    return _load(request, architecture, {}, from_hub, local=False)


@folder_loader("timm", "timm_wrapper")
def load_folder(request: LoadRequest, config: dict[str, Any], folder: Path | None) -> Backbone:
    """A folder as timm's ``save_for_hf`` or transformers' TimmWrapperModel writes it.

    Raises:
        BackboneError: unknown architecture, an unknown field, or weights that are missing or do not fit.
    """
    assert folder is not None  # no shape of timm's is built in as a folder
    architecture, stated = str(config.get("architecture")), dict(config.get("pretrained_cfg", {}))
    if not timm.is_model(architecture):
        raise unknown("timm model", architecture, timm.list_models(), BackboneError)
    if odd := sorted(set(stated) - {field.name for field in fields(PretrainedCfg)}):
        raise BackboneError(
            f"{folder}/config.json: pretrained_cfg states {', '.join(odd)}, which timm does not know. Remove it, or install "
            "the timm that wrote it."
        )
    kept = {k: v for k, v in stated.items() if k not in SOURCES}
    options = {k: v for k, v in (config.get("model_args") or {}).items() if k != "num_classes"}
    options["pretrained_cfg"] = kept

    def from_folder() -> tuple[Mapping[str, Tensor], str]:
        return read_weights(folder, request.weights)

    return _load(request, architecture, options, from_folder)


SOURCES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source")
"""Fields of a pretrained_cfg that say where weights were."""
Weights = Callable[[], tuple[Mapping[str, Tensor], str]]


def _load(
    request: LoadRequest,
    architecture: str,
    options: dict[str, Any],
    weights: Weights,
    *,
    local: bool = True,
) -> Backbone:
    """Wrapped before anything is fetched, so that what cannot be used costs no download."""
    shape = _create(request, architecture, device="meta", num_classes=0, **options)
    preprocessing = _preprocessing(shape, request)
    tensors, origin = weights() if local else ({}, "")
    tensors = without_prefix(tensors, shape.state_dict())
    if sized := _sized(shape, request, preprocessing, tensors):
        options |= sized
        shape = _create(request, architecture, device="meta", num_classes=0, **options)
    if "img_size" in sized and request.image_size is None:
        preprocessing = preprocessing.model_copy(update={"size": sized["img_size"]})
    family = family_of(shape)
    backbone = family.wrap(request.name, shape, preprocessing)
    if request.meta:
        return backbone
    module = _create(request, architecture, num_classes=0, **options)
    tensors, origin = (tensors, origin) if tensors else weights()
    load_strictly(module, tensors, origin, _heads(module))
    return family.wrap(request.name, module, preprocessing)


def _sized(
    shape: nn.Module, request: LoadRequest, p: Preprocessing, tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Options of timm for another image size: one that is asked for, or that of a file's position table."""
    embed: Any = getattr(shape, "patch_embed", None)
    own = tuple(getattr(embed, "img_size", None) or p.size)
    options: dict[str, Any] = {}
    table = next((t for k, t in tensors.items() if k.endswith("pos_embed") and t.ndim == 3), None)
    mine = getattr(shape, "pos_embed", None)
    if table is not None and isinstance(mine, Tensor) and mine.ndim == 3:
        prefix = mine.shape[1] - prod(embed.grid_size)
        side = isqrt(max(0, table.shape[1] - prefix))
        if table.shape != mine.shape and side * side == table.shape[1] - prefix:
            sides = tuple(side * patch for patch in embed.patch_size)
            own = options["img_size"] = sides
            p = p if request.image_size else p.model_copy(update={"size": sides})
    if p.size != own:
        options |= family_of(shape).options or _rebuilt(shape, request, p)
    return options


def _rebuilt(shape: nn.Module, request: LoadRequest, p: Preprocessing) -> dict[str, Any]:
    """``img_size`` where the network is made for one; nothing where it takes any."""
    try:
        traced(request.name, shape, run_timm, p.size)
    except BackboneError:
        return {"img_size": p.size}
    return {}


def _create(
    request: LoadRequest, architecture: str, *, device: str = "cpu", **options: Any
) -> nn.Module:
    try:
        with torch.device(device):
            module: nn.Module = timm.create_model(architecture, **options)
    except Exception as error:  # whatever network, disk or timm may raise
        reason = first_line(error)
        if options.get("pretrained"):
            raise BackboneError(
                f"The weights of {request.name} could not be had ({type(error).__name__}: {reason}). "
                "Give a local file with weights=PATH (--weights), check the connection to the hub, "
                "or use petiole/efficientnet-lite0 or petiole/tiny-vit, which need none."
            ) from error
        remedy = "Check the tag after the dot, or leave it out."
        if "img_size" in options:
            remedy = "It takes images of its own size only: leave image_size out."
        raise BackboneError(
            f"timm cannot build {request.name} ({type(error).__name__}: {reason}). {remedy}"
        ) from error
    return module


def _heads(module: nn.Module) -> tuple[str, ...]:
    """First names of the classifiers that files from the hub carry beside the network."""
    stated = getattr(module, "pretrained_cfg", {}).get("classifier") or ()
    return (stated,) if isinstance(stated, str) else tuple(stated)


def _preprocessing(module: nn.Module, request: LoadRequest) -> Preprocessing:
    """From the file beside local weights if there is one, else from timm's own configuration."""
    beside = request.weights.with_suffix(".json") if request.weights else None
    try:
        if beside is not None and beside.is_file():
            stated = Preprocessing.model_validate(read_json(beside))
        else:
            stated = preprocessing_of(getattr(module, "pretrained_cfg", {}))
        if request.image_size is not None:
            size = (request.image_size, request.image_size)
            stated = Preprocessing.model_validate({**stated.model_dump(), "size": size})
    except ValidationError as error:
        raise BackboneError(
            f"The preprocessing of {request.weights or request.name} is not usable: "
            + "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}" for e in error.errors())
        ) from error
    return stated


def preprocessing_of(stated: Mapping[str, Any]) -> Preprocessing:
    """The evaluation transform of a pretrained_cfg of timm's."""
    config = resolve_data_config(pretrained_cfg=dict(stated) or {"input_size": None})
    border = config["crop_mode"] == "border"
    return Preprocessing(
        size=tuple(config["input_size"][1:]),
        crop=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop_mode=config["crop_mode"],
        fill=tuple(round(255 * value) for value in config["mean"]) if border else (0, 0, 0),
    )
