"""Adapters of tasks that other packages bring: a command serves those that descend from a kind that it knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from petiole.errors import ConfigError

SERVED = "served"
"""Of adapters that say themselves how they are served (``petiole.engine.task.Serves``)."""


def served_as(adapter: Path, kind: str, known: Sequence[str]) -> str:
    """The one of the known kinds that an adapter's kind is, or descends from; ``SERVED`` where it serves itself.

    Raises:
        ConfigError: it is of none of them, or its package is not installed.
    """
    from petiole.engine.adapter import descends
    from petiole.engine.task import Serves, adapter_class

    for one in known:
        if descends(kind, one):
            return one
    if "text" in known and issubclass(adapter_class(kind), Serves):
        return SERVED
    raise ConfigError(
        f"{adapter} is of the kind {kind}, and this command knows {', '.join(known)}. Open it in Python with "
        f'petiole.Adapter.load("{adapter}").'
    )
