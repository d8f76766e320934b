"""Room to move from base to novel classes: what the names alone give, and what labelled images would.

    zero-shot               the names and nothing else
    class-means             the shots of a half, tested on that half
    logistic-regression     the same, a linear probe; on novel classes no method here may see these shots

A prompt learner can gain on base classes where zero-shot lies below the probe; where it does not, a table of base to novel says
little. The last two train on the novel half's own shots, so they are no rows of the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from petiole.engine.record import read_record
from petiole.engine.run import RunSpec
from petiole.protocols import published
from petiole.protocols.jobs import average
from petiole.tasks.classification.workspace import Classification, Subset

HEADROOM = "headroom"
Half = Literal["base", "novel"]
HALVES: tuple[Half, ...] = ("base", "novel")
LABELLED = {"class-means": "class means", "logistic-regression": "a linear probe"}
ZERO_SHOT = "zero-shot"


def jobs_of(
    task: Classification, root: Path, *, shots: int | None, seeds: int, known: str, resume: bool
) -> list[RunSpec]:
    """The runs, of zero-shot one a half, since it draws nothing."""

    def job(method: str, half: Half, seed: int) -> RunSpec:
        return RunSpec(
            task=replace(task, part=half, quiet=True),
            method=method,
            settings=published.sentences(method, known, {}),
            folder=_folder(root, method, half, seed),
            options=Subset(shots, split_seed=seed),
            seed=seed,
            resume=resume,
        )

    return [job(*which) for which in _runs(seeds)]


def _runs(seeds: int) -> Iterator[tuple[str, Half, int]]:
    for half in HALVES:
        yield ZERO_SHOT, half, 0
        yield from ((method, half, seed) for method in LABELLED for seed in range(seeds))


def _folder(root: Path, method: str, half: str, seed: int) -> Path:
    return root / HEADROOM / half / method / f"seed-{seed}"


def accuracies(root: Path, seeds: int) -> dict[str, dict[str, list[float]]]:
    """Method -> half -> accuracy by seed, fractions; empty where they were not asked for.

    Raises:
        RunError: a run is missing or damaged.
    """
    if not (root / HEADROOM).is_dir():
        return {}
    found: dict[str, dict[str, list[float]]] = {}
    for method, half, seed in _runs(seeds):
        record = read_record(_folder(root, method, half, seed))
        found.setdefault(method, {}).setdefault(half, []).append(average(record))
    return found
