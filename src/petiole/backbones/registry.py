"""``petiole.load(name)``: finds the loader of a backbone by the first part of its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

from petiole.backbones.base import Backbone, FrozenNetwork
from petiole.backbones.weights import read_json
from petiole.errors import BackboneError, unknown


@dataclass(frozen=True)
class LoadRequest:
    """What is wanted: a name, perhaps local weights, perhaps another image size.

    Attributes:
        name: e.g. ``timm/vit_small_patch14_dinov2.lvd142m`` or a folder.
        weights: a safetensors file to use instead of the hub's.
        image_size: pixels; ``None`` takes the weights' own.
        meta: build only the shape, without weights.
        vision_width: of a language model, the width of the visual features that it shall see; 0 for none
            (or for the model's own).
        options: of a language model, see ``VisualOptions``.
    """

    name: str
    weights: Path | None = None
    image_size: int | None = None
    meta: bool = False
    vision_width: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


Loader = Callable[[LoadRequest], FrozenNetwork]
FolderLoader = Callable[[LoadRequest, dict[str, Any], Path | None], FrozenNetwork]
"""From a stated configuration, and the folder with its files; without one only the shape."""

CONFIGS = {"open_clip_config.json": "open_clip", "config.json": ""}
"""Files that state a model, and what they mean where they name no model_type."""

_LOADERS: dict[str, Loader] = {}
_FOLDERS: dict[str, FolderLoader] = {}
_FILES: dict[str, Loader] = {}


def loader(prefix: str) -> Callable[[Loader], Loader]:
    """Register the loader of all names ``<prefix>/...``, and of ``prefix`` itself."""

    def add(function: Loader) -> Loader:
        _LOADERS[prefix] = function
        return function

    return add


def folder_loader(*model_types: str) -> Callable[[FolderLoader], FolderLoader]:
    """Register the loader of folders whose config.json states one of ``model_types``."""

    def add(function: FolderLoader) -> FolderLoader:
        _FOLDERS.update(dict.fromkeys(model_types, function))
        return function

    return add


def file_loader(suffix: str) -> Callable[[Loader], Loader]:
    """Register the loader of files whose names end so."""

    def add(function: Loader) -> Loader:
        _FILES[suffix] = function
        return function

    return add


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
    device: str = "cpu",
) -> Backbone:
    """Load a frozen backbone of images.

    Args:
        name: ``petiole/tiny-vit``, ``petiole/efficientnet-lite0``, ``petiole/tiny-clip``,
            ``timm/<model>``, ``hf/<owner>/<model>``, an OpenAI ``.pt`` file, or a folder with a Dinov2, CLIP,
            SigLIP or open_clip model or a pair.
        weights: local safetensors file with the weights of the named architecture.
        image_size: pixels, where the model accepts other sizes than its own.
        device: ``cpu``, ``cuda`` ...; ``meta`` builds the shape without any weights.

    Raises:
        BackboneError: the name is unknown or that of a language model, or the weights cannot be loaded
            completely.
    """
    request = LoadRequest(name, Path(weights) if weights else None, image_size, device == "meta")
    backbone = load_any(request, device=device)
    if not isinstance(backbone, Backbone):
        raise BackboneError(
            f"{name} is a language model, and an image backbone is wanted here. In Python use petiole.load_language "
            "or petiole.load_lvlm; as a command petiole multitask, or petiole fit --method craft."
        )
    return backbone


def load_any(request: LoadRequest, *, device: str = "cpu") -> FrozenNetwork:
    """Load whatever kind of model a request names, on a device.

    Raises:
        BackboneError: the name is unknown, or the weights cannot be loaded completely.
    """
    frozen = resolve(request)
    if not request.meta:
        try:
            frozen.module.to(device)
        except (RuntimeError, AssertionError) as error:
            raise BackboneError(
                f"{request.name} cannot be put on device {device!r}: {error}. Use cpu, or install torch for "
                "that device."
            ) from error
    return frozen


def resolve(request: LoadRequest) -> FrozenNetwork:
    """Load a model where its loader puts it."""
    _import_all()
    return _find(request.name)(request)


def _find(name: str) -> Loader:
    if Path(name).is_dir():
        return lambda request: from_folder(request, Path(name))
    if Path(name).is_file() and Path(name).suffix in _FILES:
        return _FILES[Path(name).suffix]
    prefix = name.split("/")[0]
    if name not in _LOADERS and (prefix not in _LOADERS or "/" not in name):
        examples = ["petiole/tiny-vit", "petiole/efficientnet-lite0", "timm/<model>", "<folder>"]
        examples += [known for known in _LOADERS if "-" in known]
        raise unknown("backbone", name, examples, BackboneError)
    return _LOADERS[prefix]


def from_folder(request: LoadRequest, folder: Path) -> FrozenNetwork:
    """Load what a folder's config.json states.

    Raises:
        BackboneError: there is none, or it states a model that nobody here knows.
    """
    config = next((folder / name for name in CONFIGS if (folder / name).is_file()), None)
    if config is None:
        raise BackboneError(
            f"{folder} has no config.json, so it is not a model folder. Give the folder that "
            "holds config.json and model.safetensors."
        )
    return from_config(request, {"model_type": CONFIGS[config.name], **read_json(config)}, folder)


def from_config(request: LoadRequest, config: dict[str, Any], folder: Path | None) -> FrozenNetwork:
    """Build what a configuration states; without a folder only its shape."""
    kind = str(config.get("model_type", ""))
    if kind not in _FOLDERS:
        raise unknown(f"model_type in {folder}/config.json", kind, _FOLDERS, BackboneError)
    return _FOLDERS[kind](request, config, folder)


def _import_all() -> None:
    """Import every family file, so that adding one edits no other."""
    package = import_module("petiole.backbones")
    for module in walk_packages(package.__path__, "petiole.backbones."):
        import_module(module.name)
