"""Adapters ride on hooks: put on for the length of a context, taken off without a trace.

An attachment is one of two equations

    add       value[role] <- value[role] + layer(value[reads])
    replace   value[role] <- layer(value[role])

With ``add`` a fresh zero-initialised layer leaves every bit as it was. Tuned parameters (full or
partial fine-tuning) are copies that stand in for the backbone's own while the context lasts; whole
modules (layers of the library peft) answer calls in the place of the backbone's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn

from petiole.backbones.frozen_network import FrozenNetwork, Site
from petiole.errors import BackboneError, ConfigError


@dataclass(frozen=True)
class Attach:
    """A layer at a role.

    Attributes:
        role: the value that changes.
        layer: maps (..., width of ``reads``) to (..., width of ``role``); with ``replace`` it may
            also change the number of tokens, which a later attachment must undo.
        reads: the value that the layer sees; ``None`` means ``role`` itself. It must be computed
            before ``role`` and in the same block.
        how: ``add`` or ``replace``, as above.
    """

    role: str
    layer: nn.Module
    reads: str | None = None
    how: Literal["add", "replace"] = "add"

    def __post_init__(self) -> None:
        if self.how == "replace" and self.reads not in (None, self.role):
            raise ConfigError(f"A layer that replaces {self.role} reads it, not {self.reads}.")


@contextmanager
def attached(
    backbone: FrozenNetwork,
    attachments: Sequence[Attach],
    tuned: Mapping[str, Tensor] | None = None,
    swapped: Mapping[str, nn.Module] | None = None,
) -> Iterator[None]:
    """Run the backbone with these attachments, parameter copies and modules inside the context.

    The backbone is locked meanwhile: threads that use it bare or with other adapters take turns.

    Args:
        backbone: the frozen model; on leaving it has the same hooks, keys and tensors as before.
        attachments: applied in the given order where they share a role.
        tuned: parameter name -> the copy that replaces it.
        swapped: module path -> the module that answers its calls; hooks on the original stay at work.

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
        undo.enter_context(_copies(backbone.module, tuned or {}))
        for path, module in (swapped or {}).items():
            undo.callback(_answer(backbone.module.get_submodule(path), module))
        changes = [(backbone.site(a.role), _change(a, seen)) for a in attachments]
        for site, change in _by_module(changes):
            undo.callback(_attach(site, change))
        for role in sources:
            undo.callback(_hook(backbone.site(role), _observer(role, seen)))
        try:
            yield
        finally:
            seen.clear()


@contextmanager
def observed(backbone: FrozenNetwork, roles: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Give a table that holds, after each forward, the values at ``roles``.

    Values are seen as the adapters leave them that are on already when the context is entered.
    """
    seen: dict[str, Tensor] = {}
    with backbone.lock, ExitStack() as undo:
        for role in roles:
            undo.callback(_hook(backbone.site(role), _observer(role, seen)))
        yield seen


Change = Callable[[Tensor], Tensor | None]
"""Old value -> new value, or ``None`` to leave it."""
Update = Callable[[Tensor], Tensor]


def _change(attachment: Attach, seen: dict[str, Tensor]) -> Update:
    layer, reads = attachment.layer, attachment.reads

    def add(value: Tensor) -> Tensor:
        source = value if reads is None or reads == attachment.role else seen[reads]
        # The cast keeps the stream's dtype, hence its bits, under autocast.
        branch: Tensor = layer(source)
        return value + branch.to(value.dtype)

    def put(value: Tensor) -> Tensor:
        new: Tensor = layer(value)
        return new.to(value.dtype)

    return add if attachment.how == "add" else put


def _observer(role: str, seen: dict[str, Tensor]) -> Change:
    def observe(value: Tensor) -> None:
        seen[role] = value

    return observe


def _by_module(changes: Iterable[tuple[Site, Update]]) -> Iterator[tuple[Site, Update]]:
    """Neighbours that change slices of one value (q, k and v of a fused qkv) as one change of it: it is copied once."""
    for place, group in groupby(changes, lambda c: (c[0].module, c[0].side, c[0].columns is None)):
        several = list(group)
        whole = place[2] or any(site.rejoin for site, _ in several)
        if whole or len(several) == 1:
            yield from several
        else:
            yield replace(several[0][0], columns=None), _slices(several)


def _slices(changes: Sequence[tuple[Site, Update]]) -> Update:
    """Changes of slices of the last axis, those of one slice one after the other, as one change of the whole."""
    by_columns: dict[tuple[int, int], list[Update]] = {}
    for site, change in changes:
        assert site.columns is not None
        by_columns.setdefault((site.columns.start, site.columns.stop), []).append(change)

    def update(value: Tensor) -> Tensor:
        parts, done = [], 0
        for (start, stop), here in sorted(by_columns.items()):
            part = value[..., start:stop]
            for change in here:
                part = change(part)
            parts += [value[..., done:start], part]
            done = stop
        return torch.cat([*parts, value[..., done:]], dim=-1)

    return update


def _attach(site: Site, change: Update) -> Callable[[], None]:
    """Change the value at the site and, where it has one, past it."""
    if site.rejoin is None:
        return _hook(site, change)
    difference: list[Tensor] = []

    def first(value: Tensor) -> Tensor:
        new = change(value)
        difference.append(new - value)
        return new

    def again(value: Tensor) -> Tensor:
        return value + difference.pop()

    removers = _hook(site, first), _hook(Site(site.rejoin, "out", site.width), again)

    def remove() -> None:
        for one in removers:
            one()

    return remove


def _hook(site: Site, change: Change) -> Callable[[], None]:
    """Register ``change`` at the site; returns what removes it again."""

    def apply(value: Tensor) -> Tensor | None:
        if site.columns is None:
            return change(value)
        part = change(value[..., site.columns])
        if part is None:
            return None
        before, after = value[..., : site.columns.start], value[..., site.columns.stop :]
        return torch.cat([before, part, after], dim=-1)

    if site.side == "in":

        def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            new = apply(args[0])
            return None if new is None else (new, *args[1:])

        return site.module.register_forward_pre_hook(before).remove

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if not isinstance(output, tuple):
            return apply(output)
        new = apply(output[0])
        return None if new is None else (new, *output[1:])

    return site.module.register_forward_hook(after).remove


def _answer(original: nn.Module, new: nn.Module) -> Callable[[], None]:
    """Let ``new`` answer calls of ``original``; returns what ends that."""
    # An instance attribute hides the class's forward wherever the module is referred to.
    original.__dict__["forward"] = new.__call__
    return lambda: original.__dict__.pop("forward")


@contextmanager
def _copies(module: nn.Module, new: Mapping[str, Tensor]) -> Iterator[None]:
    """Let copies stand in for parameters, wherever these are tied to; the originals come back untouched."""
    originals: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for name, table, leaf in _places(module, new) if new else ():
            originals.append((table, leaf, table[leaf]))
            table[leaf] = new[name]
        yield
    finally:
        for table, leaf, original in reversed(originals):
            table[leaf] = original


def _places(module: nn.Module, names: Iterable[str]) -> list[tuple[str, dict[str, Any], str]]:
    """Every (name, table, key) under which a module holds the named parameters, ties included."""
    named = {id(module.get_parameter(name)): name for name in names}
    return [
        (named[id(parameter)], part._parameters, leaf)
        for part in module.modules()
        for leaf, parameter in part._parameters.items()
        if id(parameter) in named
    ]
