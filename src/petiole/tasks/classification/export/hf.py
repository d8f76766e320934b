"""``hf``: a folder of transformers; ``AutoModelForImageClassification.from_pretrained(FOLDER)`` opens it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Resampling

from petiole.backbones.weights import read_json
from petiole.errors import AdapterError
from petiole.files import write_json
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.export.format import FORMATS, Format, Run
from petiole.tasks.classification.export.network import quiet
from petiole.tasks.classification.export.plain import plain
from petiole.tasks.classification.export.timm import of_module, write_timm


@FORMATS.register("hf", "a model folder of transformers: DINOv2, and what timm builds by name")
@dataclass(frozen=True)
class HuggingFace(Format):
    """``config.json``, ``model.safetensors`` and, of a model of transformers' own, ``preprocessor_config.json``."""

    needs: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    opening: ClassVar[str] = """\
import torch
from PIL.Image import Resampling
from transformers import AutoModelForImageClassification

MODEL = AutoModelForImageClassification.from_pretrained(HERE).eval()
[*_, HEAD] = [part for part in MODEL.modules() if isinstance(part, torch.nn.Linear)]
READ = {}
HEAD.register_forward_pre_hook(lambda _, given: READ.update(vector=given[0]))


def outputs(pixels):
    with torch.no_grad():
        logits = MODEL(torch.from_numpy(pixels)).logits.numpy()
    return logits, READ["vector"].numpy()
"""

    def write(self, adapter: ClassificationAdapter, folder: Path) -> None:
        from transformers import Dinov2Model

        module = adapter.adapted.backbone.module
        if isinstance(module, Dinov2Model):
            _write_dinov2(adapter, module, folder)
        elif getattr(module, "pretrained_cfg", None):
            _write_wrapped(adapter, folder)
        else:
            raise AdapterError(
                f"transformers has no classifier that reads the image vector of {type(module).__name__} as this adapter does. "
                "Export it as onnx or torch-export."
            )

    def open(self, folder: Path, adapter: ClassificationAdapter) -> Run:
        from transformers import AutoModelForImageClassification

        with quiet(), _no_bars():
            model = AutoModelForImageClassification.from_pretrained(folder).eval()
        return of_module(model, adapter.adapted.backbone.width)


def _write_wrapped(adapter: ClassificationAdapter, folder: Path) -> None:
    """A folder of timm's that says how transformers wraps it; the number of classes must stand in one place only."""
    write_timm(adapter, folder)
    config = read_json(folder / "config.json")
    config["model_args"].pop("num_classes", None)
    wrapped = {"model_type": "timm_wrapper", "architectures": ["TimmWrapperForImageClassification"]}
    write_json(folder / "config.json", {**config, **wrapped})


@contextmanager
def _no_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _write_dinov2(adapter: ClassificationAdapter, module: Any, folder: Path) -> None:
    """Its classifier reads [class token ; mean of patches]; the second half gets weights of 0."""
    from transformers import Dinov2ForImageClassification

    parts, stated = plain(adapter.adapted), adapter.adapted.backbone.preprocessing
    names = dict(enumerate(adapter.classes))
    config = type(module.config)(**{**module.config.to_dict(), "id2label": names})
    model = Dinov2ForImageClassification(config)
    model.dinov2.load_state_dict(parts.weights)
    with torch.no_grad():
        model.classifier.weight.copy_(torch.cat([parts.weight, 0 * parts.weight], 1))
        model.classifier.bias.copy_(parts.bias)
    with quiet(), _no_bars():
        model.save_pretrained(folder)
    (height, width), side = stated.size, [int(side / stated.crop) for side in stated.size]
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "BitImageProcessor",
            "do_convert_rgb": True,
            "size": {"shortest_edge": min(side)},
            "crop_size": {"height": height, "width": width},
            "resample": Resampling[stated.interpolation.upper()].value,
            "image_mean": stated.mean,
            "image_std": stated.std,
        },
    )
