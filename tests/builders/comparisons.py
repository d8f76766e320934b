"""Terms of comparisons, images and workspaces that are never run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from petiole.data.dataset import Dataset, Sample
from petiole.protocols.comparison import Comparison
from petiole.protocols.protocol import rows_of
from petiole.tasks.classification.workspace import Classification, ClassificationWorkspace

TASK = Classification("b", Path("photos"))
QUIET = replace(TASK, quiet=True)


def comparison(*methods: str, **terms: Any) -> Comparison:
    """Two splits and three seeds of four shots."""
    names = methods or ("ridge", "lora-qkv")
    given = {"title": "t", "rows": rows_of(names), "split_seeds": 2, "seeds": 3, "shots": 4,
             "baseline": names[-1], "headline": names[0]}  # fmt: skip
    return Comparison(**{**given, **terms})


def of_one_run(**terms: Any) -> Comparison:
    """One split and one seed, the first row the baseline."""
    return comparison(**{"split_seeds": 1, "seeds": 1, "baseline": "ridge", **terms})


def images(name: str, labels: list[int], classes: tuple[str, ...] = ("x", "y"), domain: str = "target") -> Dataset:  # fmt: skip
    samples = tuple(
        Sample(Path(f"{name}{i}.png"), k, f"{name}{i}", domain) for i, k in enumerate(labels)
    )
    return Dataset(name, classes, samples)


def opened(**more: Any) -> Any:
    """A workspace of photos without photos."""
    made = object.__new__(ClassificationWorkspace)
    for name, value in more.items():
        made.__dict__[name] = value
    return made
