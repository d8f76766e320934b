"""The part of an adapter that the library peft can load, as a folder of its own.

    peft/adapter_config.json, peft/adapter_model.safetensors

``PeftModel.from_pretrained(network, folder / "peft")`` then gives the adapted vectors; the head stays
with our own file. LoRA on slices of one fused projection W_qkv becomes one LoRA whose B is
block-diagonal,

    A = [A_q; A_k; A_v],   B = diag(B_q, B_k, B_v),   rank 3 r,   the same a / r

and DoRA the same, since its lengths belong to rows. Layers of peft are written by peft.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.hooks import Attach
from petiole.files import write_json, write_tensors
from petiole.layers.dora import DoRA
from petiole.layers.injected import Injected
from petiole.layers.lowrank import LowRank
from petiole.layers.packed import dense
from petiole.tasks.classification.model import AdaptedClassifier

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def write(adapted: AdaptedClassifier, folder: Path) -> None:
    """Write the folder if peft has a form for this plan."""
    plan = adapted.plan
    if plan.injected is not None:
        _by_peft(plan.injected, folder)
    elif plan.attach and not plan.tune and all(_is_lora(a, adapted.backbone) for a in plan.attach):
        _as_lora(plan.attach, adapted.backbone, folder)


def _by_peft(injected: Injected, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".tmp-") as temporary:
        injected.product.save_pretrained(temporary)
        for name in (WEIGHTS, CONFIG):
            os.replace(Path(temporary) / name, folder / name)


def _is_lora(attach: Attach, backbone: Backbone) -> bool:
    """Whether the layer adds to the output of a linear layer what it makes of that layer's input."""
    linear = isinstance(backbone.site(attach.role).module, nn.Linear)
    inputs = attach.reads is not None and attach.reads == f"{attach.role.rpartition('.')[0]}.in"
    return isinstance(attach.layer, LowRank) and linear and inputs


def _as_lora(attachments: Sequence[Attach], backbone: Backbone, folder: Path) -> None:
    paths = {id(module): path for path, module in backbone.module.named_modules()}
    parts: dict[str, list[Attach]] = {}
    for attach in attachments:
        parts.setdefault(paths[id(backbone.site(attach.role).module)], []).append(attach)
    tensors: dict[str, Tensor] = {}
    shapes = set()
    for path, group in parts.items():
        own, rank, scale = _fused(group, backbone)
        shapes.add((rank, scale))
        tensors |= {f"base_model.model.{path}.{name}": value for name, value in own.items()}
    if len(shapes) > 1:  # one configuration, one rank
        return
    rank, scale = shapes.pop()
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / CONFIG, _config(backbone.name, list(parts), rank, scale, attachments))


def _config(
    name: str, targets: list[str], rank: int, scale: float, attachments: Sequence[Attach]
) -> Mapping[str, Any]:
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": name,
        "target_modules": targets,
        "r": rank,
        "lora_alpha": rank * scale,
        "use_dora": any(isinstance(a.layer, DoRA) for a in attachments),
        "inference_mode": True,
    }


@torch.no_grad()
def _fused(group: Sequence[Attach], backbone: Backbone) -> tuple[dict[str, Tensor], int, float]:
    """Tensors of one linear layer's LoRA, its rank and its scale."""
    module = backbone.site(group[0].role).module
    assert isinstance(module, nn.Linear)
    layers = [layer for a in group if isinstance(layer := a.layer, LowRank)]
    down = torch.cat([layer.a for layer in layers])
    up = down.new_zeros(module.out_features, len(down))
    tensors, place = {"lora_A.weight": down, "lora_B.weight": up}, 0
    if isinstance(layers[0], DoRA):
        tensors["lora_magnitude_vector"] = dense(module.weight).norm(dim=1)
    for attach, layer in zip(group, layers, strict=True):
        rows = backbone.site(attach.role).columns or slice(None)
        up[rows, place : place + len(layer.a)] = layer.b
        place += len(layer.a)
        if isinstance(layer, DoRA):
            tensors["lora_magnitude_vector"][rows] = layer.magnitude
    return tensors, len(down), layers[0].scale
