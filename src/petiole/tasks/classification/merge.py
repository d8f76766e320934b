"""An adapter folded into the backbone's weights, where mathematics allows.

``engine.folding`` has the equations. Tuned copies are simply the weights; layers of the library peft
are merged by peft. The golden input then shows that the logits stayed.

What remains is a head on the image vector: an ordinary ``linear-probe`` adapter of the merged backbone,
whose golden logits are those of the original, so that every opening proves the two equal.
"""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from petiole.backbones.base import Backbone
from petiole.backbones.registry import load_backbone
from petiole.engine.adapter import TOLERANCE
from petiole.engine.folding import Weights, fold
from petiole.errors import AdapterError, ConfigError
from petiole.files import write_json, write_tensors
from petiole.layers.heads import LinearHead
from petiole.layers.injected import Injected
from petiole.layers.pool import First
from petiole.methods.base import Plan
from petiole.methods.registry import create, settings_of
from petiole.tasks.classification.adapter import ClassificationAdapter, golden_logits
from petiole.tasks.classification.model import AdaptedClassifier

HEAD = "linear-probe"
"""The method that is a linear head on the image vector, and nothing else."""


def merge(adapted: AdaptedClassifier) -> Weights:
    """The backbone's ``state_dict`` with the adapter in it; pooling, refinement and head stay outside.

    Raises:
        AdapterError: a part of it is no change of weights (the message says which, and why), nothing
            of it lies inside the backbone, or the logits would change.
    """
    backbone, plan = adapted.backbone, adapted.plan
    if not (plan.attach or plan.tune or plan.injected):
        raise AdapterError(
            "There is nothing to merge: this adapter changes nothing inside the backbone, only what is "
            "made of its final vector. Use the adapter with the backbone as it is."
        )
    if backbone.quantized:
        raise AdapterError(
            f"This adapter was trained beside weights stored as {backbone.quantized}, and an update folded into them would be "
            "rounded to their few bits. Use the adapter as it is, or train one without --quantize and merge that."
        )
    with torch.no_grad(), backbone.lock:
        own = {**_start(backbone, plan), **adapted.copies}
        weights = {name: value.clone() for name, value in own.items()}
        fold(backbone, plan.attach, weights)
        _check(adapted, weights)
    return weights


def write_merged(adapter: ClassificationAdapter, out: Path) -> Path:
    """Write the merged backbone and, beside it, its head.

    ``out`` gets the weights, for ``petiole.load(name, weights=out)``; the same name with ``.json`` the
    preprocessing; the folder ``<stem>-adapter`` the head, which is opened once to see that it gives
    the original's logits.

    Returns:
        The folder.

    Raises:
        AdapterError: as ``merge``, or the head is none that ``linear-probe`` has.
        BackboneError: the backbone's loader does not take its own weights back.
        ConfigError: ``out`` is no ``.safetensors`` file, or something is there already.
    """
    places = (out.with_suffix(".json"), out.with_name(f"{out.stem}-adapter"), out)
    if out.suffix != ".safetensors":
        raise ConfigError(f"Weights go into a .safetensors file, not into {out}.")
    for place in places:
        if place.exists():
            raise ConfigError(f"{place} exists already. Move it away, or choose another --out.")
    weights = merge(adapter.adapted)
    _check_head(adapter.adapted.plan)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=".tmp-") as staging:
        staged = [Path(staging) / place.name for place in places]
        _write(adapter, weights, out, *staged)
        for new, place in zip(staged, places, strict=True):
            os.replace(new, place)
    return places[1]


def _check_head(plan: Plan) -> None:
    plain = isinstance(plan.pool, First) and isinstance(plan.refine, nn.Identity)
    if not (plain and type(plan.head) is LinearHead):
        raise AdapterError(
            f"Only a linear head on the image vector can go with a merged backbone; this adapter ends in "
            f"{type(plan.pool).__name__}, {type(plan.refine).__name__} and {type(plan.head).__name__}."
        )


def _write(
    adapter: ClassificationAdapter,
    weights: Weights,
    out: Path,
    config: Path,
    folder: Path,
    file: Path,
) -> None:
    """Write all three to where they wait, and open them once."""
    card = adapter.manifest.backbone
    write_tensors(file, weights)
    assert card.preprocessing is not None
    write_json(config, card.preprocessing.model_dump(mode="json"))
    backbone = load_backbone(card.name, weights=file, image_size=card.image_size)
    _head(adapter, backbone, out).save(folder)
    ClassificationAdapter.load(folder, backbone=backbone)


def _head(
    adapter: ClassificationAdapter, backbone: Backbone, weights: Path
) -> ClassificationAdapter:
    method = create(HEAD)
    adapted = AdaptedClassifier(backbone, method.plan(backbone, len(adapter.classes)))
    adapted.head.load_state_dict(adapter.adapted.head.state_dict())
    new = ClassificationAdapter.of(
        adapted,
        method=HEAD,
        settings=settings_of(method),
        classes=adapter.classes,
        weights=weights,
        image_size=adapter.manifest.backbone.image_size,
        calibration=adapter.calibration,
    )
    new.manifest = new.manifest.model_copy(update={"golden": adapter.manifest.golden})
    return new


def _start(backbone: Backbone, plan: Plan) -> Weights:
    own: Weights = backbone.module.state_dict()
    if plan.injected is None:
        return own
    merged = _library(plan.injected)
    if merged.keys() != own.keys():
        raise AdapterError(
            f"The library that made {type(plan.injected.product).__name__} leaves more than weights "
            "behind when it merges, so there is no plain backbone to write. Use the adapter as it is."
        )
    return merged


def _library(injected: Injected) -> Weights:
    """What peft itself merges, on a copy."""
    try:
        merged: nn.Module = copy.deepcopy(injected.product).merge_and_unload()
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise AdapterError(
            f"peft cannot merge this type of adapter ({error}). Use the adapter as it is."
        ) from error
    return merged.state_dict()


def _check(adapted: AdaptedClassifier, weights: Weights) -> None:
    own = dict(adapted.backbone.module.named_parameters())
    changed = tuple(name for name, p in own.items() if not torch.equal(p, weights[name]))
    plan = replace(adapted.plan, attach=(), injected=None, tune=changed)
    merged = AdaptedClassifier(adapted.backbone, plan)
    for name, value in merged.copies.items():
        value.copy_(weights[name])
    got, want = golden_logits(merged), golden_logits(adapted)
    worst = float(((got - want).abs() / (1 + want.abs())).max())
    if not worst <= TOLERANCE:
        raise AdapterError(
            f"Merged weights would give logits that differ by {worst:.2g} (relative; allowed "
            f"{TOLERANCE:g}), so they are not the adapter's. Use the adapter as it is."
        )
