"""The contract of backbones, on a tiny one of every family and on those that the package brings."""

from __future__ import annotations

from pathlib import Path

import pytest

from petiole.backbones.base import Backbone
from petiole.testing import check_backbone, codebook_lvlm, encoder_decoder


def test_a_tiny_backbone_of_every_family(backbone: Backbone) -> None:
    check_backbone(backbone)


@pytest.mark.parametrize("family", encoder_decoder.FAMILIES)
@pytest.mark.parametrize("seen", [0, encoder_decoder.SEEN])
def test_an_encoder_decoder(family: encoder_decoder.Family, seen: int) -> None:
    check_backbone(encoder_decoder.model(family, seen=seen))


@pytest.mark.parametrize("family", codebook_lvlm.FAMILIES)
def test_a_model_over_a_codebook(family: codebook_lvlm.Family) -> None:
    check_backbone(codebook_lvlm.model(family))


def test_a_folder_is_checked_with_its_shape(tmp_path: Path) -> None:
    check_backbone(str(codebook_lvlm.save(tmp_path)["llama"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-vit", "tiny-clip", "tiny-vl", "tiny-lvlm"])
def test_a_backbone_of_the_package(name: str) -> None:
    check_backbone(f"petiole/{name}")
