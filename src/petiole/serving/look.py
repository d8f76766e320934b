"""Where an adapter looks: gradient x input, summed over each patch."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from petiole.backbones.frozen_network import IMAGES
from petiole.data.preprocessing import Preprocessing
from petiole.engine.adapter import Adapter
from petiole.errors import unknown
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import AdaptedClassifier

QUALITY = 90
"""Of the JPEG that is shown."""


def look(adapter: Adapter, pixels: Tensor, label: str | None) -> dict[str, Any]:
    """Patches that speak for a class, by default the most probable one; the answer of ``/v1/look``.

    Raises:
        ConfigError: the adapter has no such class.
    """
    assert isinstance(adapter, ClassificationAdapter)
    adapted, classes = adapter.adapted.eval(), adapter.classes
    if label is None:
        with torch.no_grad():
            logits = adapted({IMAGES: pixels[None].to(adapted.backbone.device)}).logits
        label = classes[int(logits.argmax())]
    elif label not in classes:
        raise unknown("class of this adapter", label, classes)
    patches = attribution(adapted, pixels, classes.index(label))
    return {
        "label": label,
        "patches": patches.tolist(),
        "seen": seen(pixels, adapted.backbone.preprocessing),
    }


def attribution(adapted: AdaptedClassifier, pixels: Tensor, label: int) -> Tensor:
    """How much each patch of an image speaks for a class.

    A_p = sum_{i in p} x_i  dz_c / dx_i,

    over the normalised pixels of patch p (Shrikumar et al., 2016, "Not just a black box", arXiv:1605.01713): to first order the
    logit of class c loses so much when the patch fades to the mean colour. A negative patch speaks against the class.

    Args:
        adapted: in evaluation mode.
        pixels: (3, H, W), preprocessed.
        label: c.

    Returns:
        (rows, columns) of the backbone's grid.
    """
    backbone = adapted.backbone
    with torch.enable_grad(), backbone.lock:
        given = pixels[None].to(backbone.device).requires_grad_(True)
        logit = adapted({IMAGES: given}).logits[0, label]
        [gradient] = torch.autograd.grad(logit, given)
    product = (given * gradient).detach().sum(1)
    rows, columns = backbone.grid
    height, width = product.shape[-2] // rows, product.shape[-1] // columns
    cut = product[0, : rows * height, : columns * width]
    return cut.reshape(rows, height, columns, width).sum((1, 3)).float().cpu()


def seen(pixels: Tensor, preprocessing: Preprocessing) -> str:
    """The image as the model sees it, cropped and resized: a JPEG in base64.

    Args:
        pixels: (3, H, W), preprocessed.
        preprocessing: whose normalisation is undone.
    """
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    values = ((pixels * std + mean).clamp(0, 1) * 255).round().byte()
    content = io.BytesIO()
    Image.fromarray(values.permute(1, 2, 0).numpy()).save(content, "JPEG", quality=QUALITY)
    return base64.b64encode(content.getvalue()).decode()
