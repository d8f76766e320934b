"""What images a forward pass takes, said where it ended because it was given others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from petiole.errors import BackboneError

if TYPE_CHECKING:
    from petiole.backbones.base import Backbone


@contextmanager
def expecting_images(backbone: Backbone, images: Any) -> Iterator[None]:
    """Run a forward pass on images.

    Nothing is asked before, since convolutional networks take more sizes than their own; and what ends on images that are right
    is not theirs to explain.

    Raises:
        BackboneError: it ended, and the images are no tensor (B, 3, H, W) of the backbone's size, type and device.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, AttributeError, TypeError, ValueError) as error:
        wanted = (3, *backbone.preprocessing.size), backbone.dtype, backbone.device
        what = type(images).__name__
        if isinstance(images, Tensor):
            if images.ndim == 4 and (images.shape[1:], images.dtype, images.device) == wanted:
                raise
            what = f"{tuple(images.shape)} of {images.dtype} on {images.device}"
        shape, dtype, device = wanted
        raise BackboneError(
            f"{backbone.name} takes preprocessed images, a tensor (B, {', '.join(map(str, shape))}) of {dtype} on {device}, not "
            f"{what}. Make one of a picture by preprocess(image), and a batch by torch.stack."
        ) from error
