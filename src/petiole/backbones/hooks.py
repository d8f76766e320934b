"""Adapters ride on hooks: put on for the length of a context, taken off without a trace.

An attachment is the equation

    value[role] <- value[role] + layer(value[reads])

so a fresh zero-initialised layer leaves every bit as it was. Tuned parameters (full or partial
fine-tuning) are copies that stand in for the backbone's own while the context lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from petiole.backbones.base import Backbone, Site
from petiole.errors import BackboneError


@dataclass(frozen=True)
class Attach:
    """``value[role] <- value[role] + layer(value[reads])``.

    Attributes:
        role: the value that changes.
        layer: maps (..., width of ``reads``) to (..., width of ``role``).
        reads: the value that the layer sees; ``None`` means ``role`` itself. It must be computed
            before ``role`` and in the same block.
    """

    role: str
    layer: nn.Module
    reads: str | None = None


@contextmanager
def attached(
    backbone: Backbone, attachments: Sequence[Attach], tuned: Mapping[str, Tensor] | None = None
) -> Iterator[None]:
    """Run the backbone with these attachments and parameter copies inside the context.

    The backbone is locked meanwhile: threads that use it bare or with other adapters take turns.

    Args:
        backbone: the frozen model; on leaving it has the same hooks, keys and tensors as before.
        attachments: applied in the given order where they share a role.
        tuned: parameter name -> the copy that replaces it.

    Raises:
        BackboneError: this thread already has an adapter on it; both together would be neither.
    """
    seen: dict[str, Tensor] = {}
    sources = dict.fromkeys(a.reads for a in attachments if a.reads not in (None, a.role))
    with backbone.lock, ExitStack() as undo:
        if backbone.carries:
            raise BackboneError(
                f"{backbone.name} already carries an adapter. Leave that one's attached() first, or "
                "put both into one plan."
            )
        backbone.carries = True
        undo.callback(setattr, backbone, "carries", False)
        undo.enter_context(_swapped(backbone.module, tuned or {}))
        for attachment in attachments:
            undo.callback(_hook(backbone.site(attachment.role), _adder(attachment, seen)))
        for role in sources:
            undo.callback(_hook(backbone.site(role), _observer(role, seen)))
        try:
            yield
        finally:
            seen.clear()


def _adder(attachment: Attach, seen: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    def add(value: Tensor) -> Tensor:
        reads = attachment.reads
        source = value if reads is None or reads == attachment.role else seen[reads]
        # The cast keeps the stream's dtype, hence its bits, under autocast.
        branch: Tensor = attachment.layer(source)
        return value + branch.to(value.dtype)

    return add


def _observer(role: str, seen: dict[str, Tensor]) -> Callable[[Tensor], Tensor | None]:
    def observe(value: Tensor) -> None:
        seen[role] = value

    return observe


def _hook(site: Site, change: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
    """Register ``change`` at the site; returns what removes it again."""

    def apply(value: Tensor) -> Tensor | None:
        if site.columns is None:
            return change(value)
        part = change(value[..., site.columns])
        if part is None:
            return None
        value = value.clone()
        value[..., site.columns] = part
        return value

    if site.side == "in":

        def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            new = apply(args[0])
            return None if new is None else (new, *args[1:])

        return site.module.register_forward_pre_hook(before).remove

    def after(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return apply(output)

    return site.module.register_forward_hook(after).remove


@contextmanager
def _swapped(module: nn.Module, tuned: Mapping[str, Tensor]) -> Iterator[None]:
    """Let copies stand in for parameters; the originals come back untouched."""
    originals: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for name, copy in tuned.items():
            path, _, leaf = name.rpartition(".")
            owner = module.get_submodule(path)
            original = owner._parameters[leaf]
            assert original is not None
            originals.append((owner, leaf, original))
            owner._parameters[leaf] = copy  # type: ignore[assignment]
        yield
    finally:
        for owner, leaf, original in originals:
            owner._parameters[leaf] = original
