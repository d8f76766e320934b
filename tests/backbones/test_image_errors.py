"""What a backbone takes is said where it was given something else, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import petiole
from petiole.backbones.base import Backbone
from petiole.backbones.image_errors import expecting_images
from petiole.errors import BackboneError
from petiole.testing import backbones


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return backbones.build("vit", tmp_path_factory.mktemp("vit"))


@pytest.mark.parametrize("through", ["backbone", "features", "adapted"])
def test_other_images_are_told_from_those_that_are_taken(vit: Backbone, through: str) -> None:
    rows, columns = vit.preprocessing.size
    images = torch.randn(2, 3, rows, columns)
    adapted = petiole.adapt(vit, "linear-probe", classes=["a", "b"])
    call: Any = {"backbone": vit, "features": vit.features, "adapted": adapted}[through]
    taken = rf"takes preprocessed images, a tensor \(B, 3, {rows}, {columns}\) of torch\.float32 on cpu, not "
    for wrong, what in (
        (images[0], rf"\(3, {rows}, {columns}\) of torch\.float32 on cpu\. Make one"),
        (images[:, :1], rf"\(2, 1, {rows}, {columns}\) of"),
        (torch.randn(2, 3, rows + 3, columns), rf"\(2, 3, {rows + 3}, {columns}\) of"),
        (images.double(), r"\(2, 3, 28, 28\) of torch\.float64 on cpu"),
        ("a.png", r"str\. Make one"),
    ):
        with pytest.raises(BackboneError, match=taken + what):
            call(wrong)
    assert call(images) is not None


def test_sizes_that_a_network_takes_are_not_refused(tmp_path: Path) -> None:
    resnet = backbones.build("resnet", tmp_path)
    rows, columns = resnet.preprocessing.size
    assert resnet(torch.randn(1, 3, rows + 32, columns)).shape == (1, resnet.width)


@pytest.mark.parametrize("kind", [RuntimeError, torch.OutOfMemoryError])
def test_what_ends_on_right_images_is_not_explained(vit: Backbone, kind: type[Exception]) -> None:
    images = torch.randn(1, 3, *vit.preprocessing.size)
    with pytest.raises(kind, match=r"^mine$"), expecting_images(vit, images):
        raise kind("mine")
    with pytest.raises(torch.OutOfMemoryError), expecting_images(vit, images[0]):
        raise torch.OutOfMemoryError


def test_hooks_of_a_user_are_not_lost(vit: Backbone) -> None:
    def stop(*_: Any) -> None:
        raise KeyError("hook")

    handle = next(m for m in vit.modules() if isinstance(m, nn.Linear)).register_forward_hook(stop)
    try:
        with pytest.raises(KeyError, match="hook"):
            vit(torch.randn(1, 3, *vit.preprocessing.size))
    finally:
        handle.remove()
