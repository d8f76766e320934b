"""Images come to a model as its weights' own library prepares them: every tag of timm, every processor of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
import transformers
from PIL import Image
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg, list_pretrained

from petiole.backbones.preprocessor import read_preprocessor
from petiole.backbones.vision.timm_models import preprocessing_of
from petiole.data.preprocessing import evaluate_transform
from petiole.errors import BackboneError

WIDE, TALL = (600, 300), (200, 600)


def picture(size: tuple[int, int]) -> Image.Image:
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def test_every_tag_of_timm_is_prepared_as_timm_does() -> None:
    """All tags state the same as timm resolves; one of each way of resizing is computed, on a wide and a tall image."""
    ways: dict[tuple[Any, ...], str] = {}
    for name in list_pretrained():
        stated = get_pretrained_cfg(name).to_dict()
        p, theirs = preprocessing_of(stated), resolve_data_config(pretrained_cfg=stated)
        assert (p.size, p.crop, p.crop_mode, p.interpolation) == (
            tuple(theirs["input_size"][1:]),
            theirs["crop_pct"],
            theirs["crop_mode"],
            theirs["interpolation"],
        ), name
        assert (p.mean, p.std) == (tuple(theirs["mean"]), tuple(theirs["std"])), name
        if max(p.size) < 300 or p.crop > 1 or (p.crop_mode == "border" and max(p.size) < 400):
            ways.setdefault((p.size, p.crop, p.crop_mode, p.interpolation, p.fill), name)
    assert {way[2] for way in ways} == {"center", "squash", "border"}
    assert len(ways) > 20
    for name in ways.values():
        stated = get_pretrained_cfg(name).to_dict()
        theirs = timm.data.create_transform(**resolve_data_config(pretrained_cfg=stated))
        for size in (WIDE, TALL):
            image = picture(size)
            got = evaluate_transform(preprocessing_of(stated))(image)
            assert torch.equal(got, theirs(image)), f"{name} {size}"


PROCESSORS: dict[str, dict[str, Any]] = {
    "CLIPImageProcessor": {},
    "SiglipImageProcessor": {},
    "BitImageProcessor": {"size": {"shortest_edge": 256}},
    "DINOv3ViTImageProcessor": {},
    "ViTImageProcessor": {},
    "BeitImageProcessor": {"do_center_crop": True, "size": {"height": 256, "width": 256}},
    "ConvNextImageProcessor": {},
}
CHANGED: list[tuple[str, dict[str, Any]]] = [
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.9}),
    (
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 235}, "crop_size": {"height": 224, "width": 224}},
    ),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 200}}),  # laid on black
    ("ViTImageProcessor", {"do_normalize": False}),
    ("ViTImageProcessor", {"rescale_factor": 1 / 127.5, "resample": 3}),
    ("BitImageProcessor", {"do_rescale": False, "image_mean": [99.0] * 3, "image_std": [51.0] * 3}),
]


@pytest.mark.parametrize(("kind", "changes"), [*PROCESSORS.items(), *CHANGED])
@pytest.mark.parametrize("form", ["preprocessor_config.json", "processor_config.json"])
def test_a_processors_folder_is_prepared_as_transformers_does(
    tmp_path: Path, kind: str, changes: dict[str, Any], form: str
) -> None:
    getattr(transformers, kind)(**changes).save_pretrained(tmp_path)
    if form == "processor_config.json":
        stated = json.loads((tmp_path / "preprocessor_config.json").read_text())
        (tmp_path / "preprocessor_config.json").unlink()
        (tmp_path / form).write_text(json.dumps({"image_processor": stated}))
    p = read_preprocessor(tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    for size in (WIDE, TALL):
        image = picture(size)
        want = processor(image, return_tensors="pt").pixel_values[0].float()
        # Resized pixels are equal; the last operations round in another order.
        loose = 1e-4 if kind == "DINOv3ViTImageProcessor" else 1e-6
        got = evaluate_transform(p)(image)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=loose * float(want.abs().max()))


def test_what_leads_to_no_common_size_or_is_unknown_is_refused(tmp_path: Path) -> None:
    transformers.Siglip2ImageProcessor(do_resize=False).save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="not resized have no common budget"):
        read_preprocessor(tmp_path)
    transformers.CLIPImageProcessor(do_center_crop=False).save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="without a square centre crop"):
        read_preprocessor(tmp_path)
    transformers.ViTImageProcessor().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "do_sharpen": True}))
    with pytest.raises(BackboneError, match=r"preprocessor_config\.json states do_sharpen"):
        read_preprocessor(tmp_path)
