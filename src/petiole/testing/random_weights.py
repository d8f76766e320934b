"""Random weights that hide no mistake: seeded, and nowhere zero or one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.data.preprocessing import Preprocessing

Module = TypeVar("Module", bound=nn.Module)

HF_PREPROCESSOR = {
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 28, "width": 28},
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
"""As Hugging Face writes preprocessor_config.json."""


def preprocessing(size: int = 28) -> Preprocessing:
    """Square images of ``size`` pixels, scaled to -1..1."""
    return Preprocessing.symmetric(size)


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Seed torch inside the context; its generator goes on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def shaken(module: Module) -> Module:
    """Move every parameter off its initial value, so that no zero or one hides a mistake."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer += 0.1 * torch.randn_like(buffer)
    return module


def images(backbone: Backbone, count: int = 3, seed: int = 1) -> Tensor:
    """Noise (count, 3, H, W) of the size that the backbone's preprocessing states."""
    generator = torch.Generator().manual_seed(seed)
    device = backbone.device if not backbone.is_meta else "cpu"
    return torch.randn(count, 3, *backbone.preprocessing.size, generator=generator).to(device)
