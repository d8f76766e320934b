"""Checkpoints of the prompt-learning family (Dassl's ``model.pth.tar-<epoch>``) as adapters.

    prompt_learner.ctx                                       words of layer 0
    meta_net.linear{1,2}.*                                   CoCoOp's network
    compound_prompts_text.<i>, proj.*,
        compound_prompt_projections.<i>.*                    MaPLe: text prompts of layer i + 1, F_0, F_{i+1}
    image_encoder.VPT,
        {image,text}_encoder.transformer.resblocks.<i>.VPT_shallow   IVLP and PromptSRC, which predict alike

(as in CoOp, Zhou et al., 2022, and what was built on it). All else in the file is left out: the frozen CLIP, the token buffers of the training's class
list, optimiser and scheduler. A file states neither its classes nor its backbone; both are given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petiole.backbones.base import Backbone
from petiole.backbones.torchscript import read_training_state
from petiole.errors import AdapterError
from petiole.methods.prompt_learning.class_names import PHRASE, towers_of
from petiole.methods.registry import create, settings_of
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import AdaptedClassifier

CONTEXT = "attach.text/embed.value"
RULES = (
    (r"meta_net\.linear1\.(weight|bias)", r"head.meta.0.\1"),
    (r"meta_net\.linear2\.(weight|bias)", r"head.meta.2.\1"),
    (r"proj\.(weight|bias)", r"attach.embed.rows.map.\1"),
    (r"compound_prompts_text\.(\d+)", r"attach.text/block/{+1}/in.rows.value"),
    (
        r"compound_prompt_projections\.(\d+)\.(weight|bias)",
        r"attach.block/{+1}/in.rows.map.\2",
    ),
    (r"image_encoder\.VPT", r"attach.embed.rows.value"),
    (
        r"image_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow",
        r"attach.block/\1/in.rows.value",
    ),
    (
        r"text_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow",
        r"attach.text/block/\1/in.rows.value",
    ),
    (r"ctx", CONTEXT),
)
"""Their name -> ours; ``{+1}`` is the first group's number and one."""


@dataclass(frozen=True)
class DasslCheckpoint:
    """What a checkpoint holds.

    Attributes:
        method: registered name.
        settings: that its shapes tell.
        tensors: trained values under our names, fp32.
    """

    method: str
    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def read(path: Path, width: int) -> DasslCheckpoint:
    """Read a checkpoint without running any of its code.

    Args:
        path: the file.
        width: of the joint space that it was trained in.

    Raises:
        AdapterError: no trained context in it, or a method that cannot be read.
        BackboneError: not a file of ``torch.save``.
    """
    state = read_training_state(path).get("state_dict")
    if not isinstance(state, dict):
        raise AdapterError(
            f"{path} has no state_dict. Give the file model.pth.tar-<epoch> or model-best.pth.tar that "
            "training wrote."
        )
    if other := next((k for k in state if "image_trans" in k), None):
        raise AdapterError(
            f"{path} was trained by PromptKD or TextRefiner ({other}), whose checkpoint lacks the teacher or "
            "the cache. CoOp, CoCoOp, MaPLe, IVLP and PromptSRC can be read."
        )
    tensors = dict(_renamed(state))
    if CONTEXT not in tensors:
        raise AdapterError(
            f"{path} holds no learned context (ctx). CoOp, CoCoOp, MaPLe, IVLP and PromptSRC can be read."
        )
    return DasslCheckpoint(*_settings(tensors, width), tensors)


def import_dassl(
    path: Path,
    backbone: Backbone,
    classes: Sequence[str],
    settings: Mapping[str, Any] | None = None,
    *,
    weights: Path | None = None,
    image_size: int | None = None,
) -> ClassificationAdapter:
    """Make an adapter of a checkpoint.

    Args:
        path: the file.
        backbone: what it was trained on.
        classes: names in the order of the training's labels.
        settings: what the file does not state, e.g. ``position``.
        weights, image_size: how the backbone was loaded, for the manifest.

    Raises:
        AdapterError: it does not fit the backbone or the classes, or cannot be read.
    """
    found = read(path, towers_of(backbone).width)
    method = create(found.method, {**found.settings, **(settings or {})})
    with torch.random.fork_rng():
        adapted = AdaptedClassifier(backbone, method.plan(backbone, len(classes))).eval()
    adapted.name(classes)
    own = adapted.state_dict()
    wrong = [
        f"{name}: {_shape(found.tensors.get(name))} in the file, {_shape(own.get(name))} here"
        for name in sorted((own.keys() - {"head.scale"}) | found.tensors.keys())
        if _shape(found.tensors.get(name)) != _shape(own.get(name))
    ]
    if wrong:
        raise AdapterError(
            f"{path} holds {found.method}, but does not fit {backbone.name} with {len(classes)} classes "
            f"({'; '.join(wrong[:3])}). Give the backbone and the classes that it was trained with."
        )
    adapted.load_state_dict({**own, **found.tensors})
    adapted.to(backbone.device)
    return ClassificationAdapter.of(
        adapted,
        method=found.method,
        settings=settings_of(method),
        classes=classes,
        weights=weights,
        image_size=image_size,
    )


def _renamed(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for key, value in state.items():
        name = key.removeprefix("module.").removeprefix("prompt_learner.")
        for pattern, ours in RULES:
            match = re.fullmatch(pattern, name)
            if match and isinstance(value, Tensor):
                one_more = str(int(match[1]) + 1) if "{+1}" in ours else ""
                yield match.expand(ours.replace("{+1}", one_more)), value.float()


def _settings(tensors: Mapping[str, Tensor], width: int) -> tuple[str, dict[str, Any]]:
    """Method and settings, by the names and shapes."""
    count = tensors[CONTEXT].shape[-2]
    phrase = PHRASE if count <= len(PHRASE.split()) else "a " * count
    deep = {"text_prompts": count, "image_prompts": count, "phrase": phrase}
    depth = 1 + sum(name.startswith("attach.text/block/") for name in tensors)
    if "head.meta.0.weight" in tensors:
        hidden = tensors["head.meta.0.weight"].shape[0]
        return "cocoop", {"context": count, "phrase": phrase, "squeeze": width // hidden}
    if "attach.embed.rows.map.weight" in tensors:
        return "maple", {**deep, "depth": depth}
    if (visual := tensors.get("attach.embed.rows.value")) is not None:
        return "ivlp", {**deep, "image_prompts": len(visual), "depth": depth}
    own = {"class_specific": tensors[CONTEXT].ndim == 3}
    return "coop", {"context": count, "phrase": "", **own}


def _shape(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else " x ".join(map(str, tensor.shape))
