"""Any causal language model of transformers behind one face: its blocks as roles, its linear layers by purpose."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from petiole.backbones.frozen_network import Site
from petiole.errors import BackboneError

PROJECTORS = ("linear", "mlp2x_gelu")
ATTENTION = re.compile(
    r"\.(?:self_)?att(?:ention|n)\."
    r"(?:[qkvo]_proj|out_proj|qkv_proj|query_key_value|Wqkv|c_attn|c_proj|dense)$"
)
"""Names of the projections of an attention, in the families of transformers."""


def projector(kind: str, d: int, width: int) -> nn.Module:
    """Codes' width d -> the language model's width.

    Raises:
        BackboneError: no such kind.
    """
    if kind == "linear":
        return nn.Linear(d, width)
    if kind == "mlp2x_gelu":
        return nn.Sequential(nn.Linear(d, width), nn.GELU(), nn.Linear(width, width))
    raise BackboneError(f"No projector {kind!r}. Known are {', '.join(PROJECTORS)}.")


def build(config: Mapping[str, Any]) -> nn.Module:
    """A ``...ForCausalLM`` with fresh weights, as its configuration states it.

    Args:
        config: of transformers; ``attn_implementation`` is ``sdpa`` where it states none.

    Raises:
        BackboneError: transformers knows no causal language model of that kind, or the values do not fit.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    # What it says of kernels that no processor has is nothing that a user could act on.
    logging.getLogger("transformers.integrations.hub_kernels").setLevel(logging.ERROR)

    values = dict(config)
    try:
        attention = values.pop("attn_implementation", "sdpa")
        stated = AutoConfig.for_model(values.pop("model_type"), **values)
        model: Any = AutoModelForCausalLM.from_config(stated, attn_implementation=attention)
    except (KeyError, ValueError, TypeError) as error:
        raise BackboneError(
            f"model_type {config.get('model_type')!r} gives no causal language model: {error}. Name one that "
            "transformers has, e.g. llama, gpt2, qwen2."
        ) from error
    # Masks say what is padding; with a pad token of its own it warns of every row whose answer has ended.
    model.config.pad_token_id = None
    built: nn.Module = model
    return built


def blocks(language: nn.Module) -> tuple[str, nn.ModuleList]:
    """Path and list of the model's blocks: its longest list of modules.

    Raises:
        BackboneError: it has none.
    """
    lists = [(name, m) for name, m in language.named_modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise BackboneError(f"{type(language).__name__} has no list of blocks.")
    return max(lists, key=lambda item: len(item[1]))


def sites(language: nn.Module, width: int) -> dict[str, Site]:
    """What every block takes and gives."""
    table: dict[str, Site] = {}
    for i, block in enumerate(blocks(language)[1]):
        table[f"language.block.{i}.in"] = Site(block, "in", width)
        table[f"language.block.{i}.out"] = Site(block, "out", width)
    return table


def attention_layers(language: nn.Module) -> tuple[str, ...]:
    """Paths of the linear layers of every attention.

    Raises:
        BackboneError: none is known by its name.
    """
    found = tuple(
        name
        for name, module in language.named_modules()
        if ATTENTION.search(f".{name}") and getattr(module, "weight", torch.zeros(1)).ndim == 2
    )
    if not found:
        raise BackboneError(
            f"No projection of an attention is known in {type(language).__name__}. Name the modules to adapt."
        )
    return found


def accepts_positions(language: nn.Module) -> bool:
    """Whether places can be told it; a model without positions takes them in order."""
    from inspect import signature

    return "position_ids" in signature(language.forward).parameters
