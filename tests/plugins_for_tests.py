"""A distribution that is installed for the length of a test: entry points and the modules behind them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from petiole.registry import Registry


def install(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    points: Mapping[str, Mapping[str, str]],
    modules: Mapping[str, str],
    *,
    name: str = "acme-petiole",
) -> None:
    """Put a distribution on the path.

    Args:
        points: group -> name of the entry point -> ``module`` or ``module:object``.
        modules: name -> text.
        name: of the distribution.
    """
    about = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, named in points.items()
        for line in (f"[{group}]", *(f"{point} = {value}" for point, value in named.items()), "")
    ]
    (about / "entry_points.txt").write_text("\n".join(lines))
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()


@contextmanager
def forgetting(*registries: Registry) -> Iterator[None]:
    """Let registries forget at the end which plug-ins were loaded meanwhile."""
    before = [set(registry._known) for registry in registries]
    yield
    for registry, known in zip(registries, before, strict=True):
        for name in set(registry._known) - known - set(registry.built_in):
            del registry._known[name]
