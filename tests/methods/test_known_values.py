"""What every method makes of a tiny model of its kind: scores, losses, gradients and the ledger, as they were when they were last looked into.

The formulas have tests of their own. This one notices that a number has changed which none of them asks for. After a change that is meant:
``PETIOLE_SNAPSHOT=1 pytest tests/methods/test_known_values.py``, and say so in the changelog.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from builders.known import changed, digits, short
from builders.snapshot import kept_row, names_in
from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.ledger import Ledger, ledger
from petiole.methods.recipe import Recipe
from petiole.methods.registry import methods
from petiole.tasks.codebook.batches import BatchLoader
from petiole.tasks.codebook.images import ImageFolder
from petiole.tasks.codebook.model import CodebookLoss
from petiole.tasks.text.model import GenerationLoss
from petiole.testing import backbones as tiny
from petiole.testing.codebook_methods import CodebookCase
from petiole.testing.image_case import ImageCase, backward, descends, losses
from petiole.testing.methods import carries
from petiole.testing.random_weights import seeded, shaken
from petiole.testing.text_methods import TextCase, scores

FILE = Path(__file__).with_name("known_values.json")
BACKBONES = {name: build() for name, build in tiny.TIMM.items() if name in ("vit", "clip")}
OWN = {name: e.cls.adapts for name, e in methods().items() if e.cls.__module__.startswith("petiole.")}  # fmt: skip
RECIPE = {field.name for field in fields(Recipe)}
CODEBOOK_FAMILY = "llama"
WHOLE = {"epochs": 2, "batch_size": 6, "min_steps": 0, "max_steps": 0}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "adaptertune": {
        "pre": {"placement": "pre", "activation": "relu", "init": "small", "scale": 0.5},
        "attn_only": {"placement": "attn_only", "init": "xavier", "dropout": 0.3},
        "intermediate": {"placement": "intermediate", "init": "default/zero", "drop_path": 0.3, "blocks": "every:2"},
        "norms": {"train_norms": True, "learn_scale": True, "clip": 0.1, "decay_all": True, "weight_decay": 0.5},
    },
    "lora-qkv": {
        "stable": {"rank_stabilised": True, "scale": 3, "targets": "q,v", "blocks": "last:2", "dropout": 0.2},
        "linear": {"schedule": "linear", "warmup": 0.5, "head_lr": 0.1},
        "epochs": {"schedule": "epochs", "optimizer": "sgd", "momentum": 0.5, **WHOLE},
        "source": {"train_on": "source", "label_smoothing": 0.2},
        "target": {"train_on": "target", "class_weight": "balanced", "batch_size": 4},
        "sequential": {"train_on": "sequential"},
        "gaussian": {"average_mean": 1.0, "average_sd": 0.7, **WHOLE},
        "exponential": {"average_decay": 0.6, "average_from": 0.1, "average_rise": 0.6},
        "window": {"average_window": 2, "steps": 6},
        "mixup": {"mixup": 0.5},
        "best": {"select": "best", "held_back": 0.34, "patience": 1},
        **{rule: {"step_rule": rule} for rule in ("sam", "asam", "glad", "glad-project", "glad-mix", "flat-lora", "eflat-lora", "eflat-lora-exact")},
        "per tensor": {"step_rule": "glad", "step_rule_settings": {"rho": 0.3, "per_tensor": 1.0}},
    },
    "full": {"decayed": {"layer_decay": 0.5, "head_lr": 3.0}, "part": {"part": "block.1"}},
    "vpt-deep": {"dropped": {"dropout": 0.3, "blocks": "last:2", "prompts": 3}},
    "coop": {"front": {"position": "front", "phrase": ""}, "middle": {"position": "middle", "class_specific": True, "context": 3}},
    "maple": {"shallow": {"depth": 2}},
    "ivlp": {"uneven": {"text_prompts": 3, "image_prompts": 2}},
    "promptsrc": {"weights": {"text_weight": 2.0, "image_weight": 3.0, "logit_weight": 5.0}},
    "coop+ogen": {"unknown": {"unknown_names": "elm, fir", "neighbours": 1, "warm_up": 0.0}},
    "cls-residual-lora": {
        "patches": {"representation": "cls+patch", "form": "c1", "head": "linear", "lora_dropout": 0.3, "lora_scale": 2.0},
        "attention": {"representation": "attention", "attention_heads": 2, "post_norm": "ln_frozen", "learn_tau": False, "tau": 5.0},
        "means": {"start": "class-means", "representation": "patch", "form": "c3", "temperature": 0.5},
        "ridge": {"start": "ridge", "contrastive": False},
    },
    "linear-probe": {"ridge": {"start": "ridge"}, "aligned": {"align_source": True, "target_weight": 0.8}},
    "advclip-lora": {"each": {"perturbation": "each", "attack_steps": 2}, "compat": {"compat": True, "attack_steps": 2}},
    "glora": {"paths": {"paths": "vector-lora-vector-scalar-vector"}, "small": {"paths": "scalar-none-none-vector-none", "targets": "q,narrow"}},
    "craft": {"remembers": {"remember": 0.5, "targets": "answer+question", "end": True}, "lora": {"encoder": "lora-qkv", "sal": 2.0}},
    "ldifs": {"contrast": {"contrast": 0.3}},
    "vl-adapter": {"up": {"sharing": "half_up"}, "down": {"sharing": "half_down", "init": "zero"}, "each": {"sharing": "multiple", "reduction": 4.0}},
    "vl-compacter": {"low": {"rank": 1, "k": 4, "shared_rule": True}, "factors": {"rank": 2, "drawn": "factors", "sharing": "multiple"}},
    "vl-prompt": {"up": {"sharing": "half_up"}, "down": {"sharing": "half_down"}},
}  # fmt: skip
"""Settings that the defaults leave aside: the label of a row, and what it sets."""


def gradients(module: nn.Module) -> list[float]:
    """How many parameters have one, and digits of their lengths."""
    found = [p.grad.double().norm() for p in module.parameters() if p.grad is not None]
    return [float(len(found)), *digits(torch.stack(found))]


def counts(counted: Ledger) -> dict[str, Any]:
    """Its whole numbers."""
    return {name: value for name, value in counted if type(value) is int and value}


@cache
def bart() -> Seq2Seq:
    """Frozen, and the same for all rows."""
    return TextCase("vl-adapter", "bart").model


def of_images(name: str, folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    backbone = next(one for one in BACKBONES.values() if carries(one, name, settings))
    case = ImageCase(name, backbone, folder, settings)
    found: dict[str, Any] = {"backbone": backbone.name}
    found["trained"] = digits(case.logits(case.trained))
    adapted = case.adapted()
    if not descends(adapted) or (settings and settings.keys() <= RECIPE):
        return found
    with seeded(1):
        shaken(adapted)
        shaken(losses(adapted))
    found["logits"] = digits(case.logits(adapted))
    said: list[Tensor] = []
    for loss in losses(adapted):
        loss.register_forward_hook(lambda _, __, value: said.append(value))
    adapted.train()
    backward(case, adapted)
    found["losses"] = [short(float(one.detach())) for one in said]
    return found | {"gradients": gradients(adapted)}


def of_texts(name: str, _: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    case = TextCase(name, "bart", settings)
    case.__dict__["model"] = bart()
    one, batch = case.trained(), case.batch()
    loss_module = GenerationLoss(one)
    loss = loss_module(batch)
    loss.backward()
    return {
        "ledger": {} if settings else counts(ledger(case.model, case.method())),
        "scores": digits(scores(one, batch)),
        "loss": short(float(loss.detach())),
        "gradients": gradients(loss_module),
    }


def of_codebook(name: str, folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    case = CodebookCase(name, CODEBOOK_FAMILY, folder, settings)  # type: ignore[arg-type]
    made = case.adapted()
    with seeded(1):
        shaken(made)
    found: dict[str, Any] = {"ledger": counts(ledger(case.model, case.method)), "tokens": digits(case.z(made))}  # fmt: skip
    loss_module = CodebookLoss(made, case.method.losses(case.model))
    if not any(p.requires_grad for p in loss_module.parameters()):
        return found
    images = ImageFolder(case.data.root, case.model.tower)
    batch = BatchLoader(made, case.method, images, case.data["train"], 0, case.data)(0, range(4), 0, 1)  # fmt: skip
    with made.attached(), seeded(7):
        said = [short(float(one(loss_module._loss_inputs(batch)).detach())) for one in loss_module.losses]  # fmt: skip
        loss_module(batch).backward()
    return found | {"losses": said, "gradients": gradients(loss_module)}


MAKERS = {"images": of_images, "language": of_texts, "codebook": of_codebook}


def rows() -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Label of a row -> method and settings."""
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for name in sorted(OWN):
        found[name] = name, {}
        variants = VARIANTS.get(name, {}).items()
        found |= {f"{name}, {label}": (name, settings) for label, settings in variants}
    return found


@pytest.mark.parametrize("label", rows())
def test_numbers_are_those_that_were_looked_into(label: str, tmp_path: Path) -> None:
    name, settings = rows()[label]
    now = MAKERS[OWN[name]](name, tmp_path, settings)
    assert changed(kept_row(FILE, label, now), now) == []


def test_no_row_is_of_a_method_that_is_gone() -> None:
    assert names_in(FILE) == set(rows())
