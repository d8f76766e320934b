"""Rooms below a verb, exchanged for a list of what they were asked."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import SimpleNamespace
from typing import Any

import pytest

from petiole import protocols


class Asked(list[Any]):
    """Calls in their order: a name, arguments and keywords each."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.patch = patch
        for found in iter_modules(
            protocols.__path__
        ):  # first loaded now, one would keep a stand-in
            import_module(f"petiole.protocols.{found.name}")

    def of(self, target: str, result: Any = None) -> None:
        """Exchange what a dotted name means by a function that notes its call; a function as the result is called."""
        name = target.rpartition(".")[2]

        def call(*given: Any, **more: Any) -> Any:
            self.append((name, given, more))
            return result(*given, **more) if callable(result) else result

        self.patch.setattr(target, call)

    def one(self, name: str) -> tuple[Any, Any]:
        """Arguments and keywords of the only call of a function."""
        (found,) = [call[1:] for call in self if call[0] == name]
        return found  # type: ignore[no-any-return]

    @property
    def names(self) -> list[str]:
        return [call[0] for call in self]


PLAIN = {"backbone": "b", "device": "cpu", "quiet": True}


def workspace(**more: Any) -> Any:
    shift = SimpleNamespace(
        source=more.pop("source", None), classes=["a", "b"], train=None, test=None
    )
    return SimpleNamespace(shift=shift, notes=["n"], notes_with=lambda _: ["n"], task=SimpleNamespace(quiet=True), tasks=[], **more)  # fmt: skip
