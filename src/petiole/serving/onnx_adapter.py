"""An adapter as the inputs of a slotted ONNX backbone (``serving.onnx_backbone``): a file of ONNX Runtime's own.

NAME.onnx_adapter   A and B of each slot, with the scale in B, and the linear head
NAME.head.onnx      vector -> logits, where the head is no linear map
NAME.json           classes, calibration, the backbone's fingerprint, and the digests of the others
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from petiole.backbones.hooks import Attach
from petiole.engine.model_card import FrozenModel
from petiole.errors import AdapterError
from petiole.files import replacing, sha256, write_sealed
from petiole.layers.lowrank import LowRank
from petiole.methods.prompt_learning.class_vectors import ClassVectors
from petiole.serving.onnx_backbone import BIAS, WEIGHT, factors, slots_of
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.calibration import Calibration
from petiole.tasks.classification.export.network import quiet
from petiole.tasks.classification.export.onnx import save
from petiole.tasks.classification.export.plain import linear_head
from petiole.tasks.classification.export.session import onnxruntime
from petiole.tasks.classification.fold import fold

REMEDY = "Serve it by petiole.AdapterPool, or export it whole: petiole export --format onnx."


class PoolEntry(FrozenModel):
    """NAME.json.

    Attributes:
        classes: names in the order of the logits.
        calibration: of the adapter.
        method: of adaptation.
        fingerprint: of the backbone.
        files: name -> SHA-256.
    """

    format: Literal[1] = 1
    classes: list[str]
    calibration: Calibration | None
    method: str
    fingerprint: str
    files: dict[str, str]


def write_adapter(adapter: ClassificationAdapter, folder: Path, name: str) -> Path:
    """Write an adapter for a slotted backbone.

    Args:
        adapter: opened.
        folder: where its files go.
        name: of the files.

    Returns:
        The file NAME.json.

    Raises:
        AdapterError: it changes the backbone by something else than LoRA of q, k and v; the message says what.
    """
    if isinstance(adapter.adapted.head, ClassVectors):
        adapter = fold(adapter)
    values = low_rank(adapter)
    files = [f"{name}.onnx_adapter"]
    try:
        values[WEIGHT], values[BIAS] = linear_head(adapter.adapted)
    except AdapterError:
        files.append(f"{name}.head.onnx")
        _write_head(adapter, folder / files[1])
    folder.mkdir(parents=True, exist_ok=True)
    _write_parameters(folder / files[0], {key: value.numpy() for key, value in values.items()})
    entry = PoolEntry(
        classes=adapter.classes,
        calibration=adapter.calibration,
        method=adapter.manifest.method,
        fingerprint=adapter.adapted.backbone.fingerprint,
        files={file: sha256(folder / file) for file in files},
    )
    place = folder / f"{name}.json"
    write_sealed(place, entry.model_dump(mode="json"))
    return place


def _write_parameters(file: Path, values: Mapping[str, NDArray[Any]]) -> None:
    """Write the file and read it again: ONNX Runtime points at the arrays' memory and does not hold it."""
    runtime = onnxruntime()
    arrays = {name: np.ascontiguousarray(value) for name, value in values.items()}
    made = runtime.AdapterFormat()
    made.set_adapter_version(1)
    made.set_model_version(1)
    made.set_parameters(
        {name: runtime.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
    )
    with replacing(file) as temporary:
        made.export_adapter(str(temporary))
        again = runtime.AdapterFormat.read_adapter(str(temporary)).get_parameters()
        for name, array in arrays.items():
            if not np.array_equal(again[name].numpy(), array):
                raise AdapterError(
                    f"{file}: {name} did not survive writing. Please report this as a bug."
                )


def low_rank(adapter: ClassificationAdapter) -> dict[str, Tensor]:
    """A and s B of every slot that an adapter changes.

    Raises:
        AdapterError: it changes something else.
    """
    plan, backbone = adapter.adapted.plan, adapter.adapted.backbone
    if plan.tune or plan.injected:
        raise AdapterError(
            f"{adapter.manifest.method} changes the backbone's own weights, and a slot takes LoRA of q, k and v alone. {REMEDY}"
        )
    slots = slots_of(backbone)
    found: dict[str, Tensor] = {}
    for attach in plan.attach:
        if not _fits(attach, slots.get(attach.role)):
            raise AdapterError(
                f"{type(attach.layer).__name__} at {attach.role} fits no slot of an ONNX backbone: those take LoRA of q, k and v "
                f"alone. {REMEDY}"
            )
        layer: Any = attach.layer
        a, b = factors(attach.role)
        found[a], found[b] = layer.a.detach(), layer.scale * layer.b.detach()
    return found


def _fits(attach: Attach, reads: str | None) -> bool:
    return type(attach.layer) is LowRank and attach.how == "add" and attach.reads == reads


def _write_head(adapter: ClassificationAdapter, file: Path) -> None:
    """What follows the image vector, as a graph of its own: ``vector`` -> ``logits``."""
    plan, backbone = adapter.adapted.plan, adapter.adapted.backbone
    if plan.reads != (backbone.vector,):
        raise AdapterError(
            f"This adapter reads {', '.join(plan.reads)}, and an ONNX backbone gives {backbone.vector} alone. {REMEDY}"
        )
    top = nn.Sequential(plan.pool, plan.refine, plan.head).eval()
    with torch.no_grad(), quiet():
        program = torch.export.export(
            top,
            (torch.zeros(2, backbone.width),),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            strict=False,
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    save(program, file, inputs=("vector",))
