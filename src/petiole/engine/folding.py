"""How one attached layer changes the weight that it sits at, if it can.

With y = W x + b the value that a linear module gives,

    beside   y + F(x),  F(x) = M x + c     W + M, b + c                 LoRA, DoRA, GLoRA
    behind   y + F(y),  F(y) = s * y + c   (1 + s) W, (1 + s) b + c     SSF

(of a normalisation W is the gain, of a convolution the kernel; behind a layer scale g, c / g goes into
the bias below it). A bottleneck with an activation is no linear map, prompts are tokens and no weights,
and the stream that leaves a block is a sum that no single weight makes: these are refused.

Which weight makes a value is not looked up but seen: in one forward, it is the one whose module gives
the very memory that the role has.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.hooks import Attach, observed
from petiole.errors import AdapterError
from petiole.layers.affine import Affine
from petiole.layers.bottleneck import Bottleneck
from petiole.layers.glora import GLoRA
from petiole.layers.lowrank import LowRank
from petiole.layers.prompt import DropLast, PromptTokens

Weights = dict[str, Tensor]
"""Tensors by their name in the backbone's module."""


def fold(backbone: Backbone, attachments: Sequence[Attach], weights: Weights) -> None:
    """Change ``weights`` in place as the layers do, in their order.

    Raises:
        AdapterError: a layer is no change of weights; the message says which, and why.
    """
    if attachments:
        makers = _Makers.of(backbone, attachments)
        for attachment in attachments:
            _fold(weights, attachment, backbone, makers)


def _fold(weights: Weights, attachment: Attach, backbone: Backbone, makers: _Makers) -> None:
    role, layer = attachment.role, attachment.layer
    call = makers.of_value(makers.values[role])
    if isinstance(layer, Affine) and attachment.reads in (None, role) and call:
        below = makers.of_value(call.x) if call.is_scale else None
        if call.is_scale and below is None:
            raise _refused(attachment)
        g = weights[f"{call.path}.{call.gain}"] if below else torch.ones(())
        if (g == 0).any():
            raise AdapterError(
                f"{_named(attachment)} cannot be merged: a layer scale of 0 stands before it, which no "
                "bias below can shift. Use the adapter as it is."
            )
        into = below or call
    elif isinstance(layer, LowRank | GLoRA) and call and _reads_input(attachment, call, makers):
        into, g = call, torch.ones(())
    else:
        raise _refused(attachment)
    rows = backbone.site(role).columns or slice(None)
    weight, bias = weights[f"{into.path}.weight"], weights.get(f"{into.path}.bias")
    new = layer.merged(weight[rows], g * (torch.zeros(()) if bias is None else bias[rows]))
    weight[rows] = new[0].to(weight.dtype)
    if bias is not None:
        bias[rows] = (new[1] / g).to(bias.dtype)
    elif new[1].any():
        raise AdapterError(
            f"{_named(attachment)} cannot be merged: {into.path} has no bias to take its shift. Use the "
            "adapter as it is."
        )


def _reads_input(attachment: Attach, call: _Call, makers: _Makers) -> bool:
    """Whether the layer stands beside the linear map: both see the same value."""
    reads = makers.values[attachment.reads or attachment.role]
    return _memory(reads) == _memory(call.x) and reads.shape == call.x.shape


@dataclass(frozen=True)
class _Call:
    """One call of a module that has a gain: where the gain is, what came in, what went out."""

    path: str
    gain: str
    x: Tensor
    y: Tensor

    @property
    def is_scale(self) -> bool:
        """Whether it only multiplies each channel (layer scale)."""
        return self.gain != "weight"


@dataclass(frozen=True)
class _Makers:
    """What made which value in one forward of the bare backbone.

    All tensors are kept, so that equal memory means equal value.
    """

    calls: tuple[_Call, ...]
    values: dict[str, Tensor]

    @classmethod
    def of(cls, backbone: Backbone, attachments: Sequence[Attach]) -> _Makers:
        calls: list[_Call] = []

        def callbacks(path: str, gain: str, module: nn.Module) -> None:
            def note(_: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
                calls.append(_Call(path, gain, args[0], y))

            undo.callback(module.register_forward_hook(note).remove)

        roles = {role for a in attachments for role in (a.role, a.reads) if role}
        weight = next(backbone.module.parameters())
        image = torch.zeros(1, 3, *backbone.preprocessing.size, device=weight.device)
        with ExitStack() as undo:
            for path, module in backbone.module.named_modules():
                if gain := _gain(module):
                    callbacks(path, gain, module)
            values = undo.enter_context(observed(backbone, sorted(roles)))
            backbone.upper({IMAGES: image.to(weight.dtype)}, (backbone.vector,))
        return cls(tuple(calls), values)

    def of_value(self, value: Tensor) -> _Call | None:
        """The call that made ``value`` or the tensor that it is a view of."""
        return next((c for c in self.calls if _memory(c.y) == _memory(value)), None)


def _gain(module: nn.Module) -> str | None:
    """The parameter that multiplies: ``weight``, or the only one of a layer scale."""
    own = dict(module.named_parameters(recurse=False))
    if "weight" in own:
        return "weight"
    return next((name for name, p in own.items() if len(own) == 1 and p.ndim == 1), None)


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _refused(attachment: Attach) -> AdapterError:
    match attachment.layer:
        case Bottleneck():
            reason = "its activation makes it no linear map, so no weight can stand for it"
        case PromptTokens() | DropLast():
            reason = "its prompts are tokens, and no weight holds tokens"
        case Affine() | LowRank() | GLoRA():
            reason = "no single weight makes the value that it adds to from the one that it reads"
        case _:
            reason = "nothing is known of how it would change a weight"
    return AdapterError(
        f"{_named(attachment)} cannot be merged: {reason}. Use the adapter as it is."
    )


def _named(attachment: Attach) -> str:
    return f"{type(attachment.layer).__name__} at {attachment.role}"
