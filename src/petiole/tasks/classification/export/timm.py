"""``timm``: a folder as timm keeps models on the hub; ``timm.create_model("local-dir:FOLDER", pretrained=True)`` opens it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from petiole.errors import AdapterError
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.export.format import FORMATS, Format, Run
from petiole.tasks.classification.export.plain import plain
from petiole.tasks.classification.model import Predictions


@FORMATS.register("timm", "a model folder of timm")
@dataclass(frozen=True)
class Timm(Format):
    """``config.json`` and ``model.safetensors``."""

    needs: ClassVar[tuple[str, ...]] = ("torch", "timm")
    opening: ClassVar[str] = """\
import timm
import torch

MODEL = timm.create_model(f"local-dir:{HERE}", pretrained=True).eval()
[*_, HEAD] = [part for part in MODEL.modules() if isinstance(part, torch.nn.Linear)]
READ = {}
HEAD.register_forward_pre_hook(lambda _, given: READ.update(vector=given[0]))


def outputs(pixels):
    with torch.no_grad():
        logits = MODEL(torch.from_numpy(pixels)).numpy()
    return logits, READ["vector"].numpy()
"""

    def write(self, adapter: ClassificationAdapter, folder: Path) -> None:
        write_timm(adapter, folder)

    def open(self, folder: Path, adapter: ClassificationAdapter) -> Run:
        import timm

        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        return of_module(model, adapter.adapted.backbone.width)


def write_timm(adapter: ClassificationAdapter, folder: Path) -> None:
    """Write the folder.

    Raises:
        AdapterError: timm does not build this backbone by a name, or the adapter is no plain network.
    """
    import timm
    from timm.models import save_for_hf

    backbone = adapter.adapted.backbone
    architecture = (getattr(backbone.module, "pretrained_cfg", None) or {}).get("architecture", "")
    if not timm.is_model(architecture):
        raise AdapterError(
            f"timm builds no {backbone.name} by name, so it cannot open such a folder. Export it as onnx or torch-export."
        )
    parts, stated = plain(adapter.adapted), backbone.preprocessing
    model: Any = copy.deepcopy(backbone.module)
    model.reset_classifier(len(adapter.classes))
    head = model.get_classifier()
    if not isinstance(head, nn.Linear) or head.weight.shape != parts.weight.shape:
        raise AdapterError(
            f"timm's {architecture} ends in no linear layer on the image vector. Export it as onnx or torch-export."
        )
    place = next(name for name, module in model.named_modules() if module is head)
    bottom = {f"{place}.weight": parts.weight, f"{place}.bias": parts.bias}
    model.load_state_dict({**parts.weights, **bottom})
    save_for_hf(
        model,
        str(folder),
        model_config={"label_names": adapter.classes},
        safe_serialization=True,
        data_config={
            "input_size": (3, *stated.size),
            "crop_pct": stated.crop,
            "interpolation": stated.interpolation,
            "mean": stated.mean,
            "std": stated.std,
        },
    )


def of_module(module: nn.Module, width: int) -> Run:
    """A module of pixels, as ``Format.open`` gives it; its vectors are the first ``width`` numbers that its last layer reads."""
    [*_, head] = [part for part in module.modules() if isinstance(part, nn.Linear)]
    read: dict[str, Tensor] = {}

    def keep(_: nn.Module, given: tuple[Tensor]) -> None:
        read["vector"] = given[0][:, :width]

    head.register_forward_pre_hook(keep)

    @torch.no_grad()
    def run(pixels: Tensor) -> Predictions:
        made = module(pixels)
        logits: Tensor = getattr(made, "logits", made)
        return Predictions(read["vector"], logits)

    return run
