"""Rank as capacity: one method at several ranks, on several shares of the training images.

    sweep.json                  the terms
    fraction-<share>/           one comparison folder each (see ``petiole.protocols.comparison``)
    spectrum.json               the shift that the highest rank learned (see ``engine.spectrum``)

Everything is scored on validation images, the same for all runs; the test set stays closed. A seed is
another draw of the images *and* another start, except with all images, where only the start varies.
Smaller shares of one seed are part of its larger ones. It holds no result: every number is computed
from the runs' records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack

import torch
from pydantic import Field, field_validator, model_validator

from petiole.backbones.base import Backbone
from petiole.backbones.registry import load_backbone
from petiole.engine.run import RunSpec
from petiole.engine.task import open_workspace
from petiole.errors import ConfigError
from petiole.files import write_sealed
from petiole.ledger import size_of
from petiole.methods.registry import create, create_stated, find, methods
from petiole.protocols import domain_shift
from petiole.protocols.comparison import Comparison
from petiole.protocols.jobs import Running
from petiole.protocols.protocol import ComparisonRow, Protocol
from petiole.tasks.classification.spectrum import SPECTRUM, measure
from petiole.tasks.classification.workspace import Classification

SWEEP = "sweep.json"


class RankSweep(Protocol):
    """What is swept.

    Attributes:
        method: registered name, of a method that has a ``rank``.
        settings: the same for every rank.
        ranks: rising.
        fractions: shares of each class of the training images, rising.
        seeds: runs of each rank on each share; at least two, because one has no spread.
        validation: share of the training images that is held back, and scored.
    """

    STATE: ClassVar[str] = SWEEP
    NOUN: ClassVar[str] = "sweep"

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    ranks: list[int] = Field(min_length=1)
    fractions: list[float] = Field(min_length=1)
    seeds: int = Field(ge=2)
    validation: float = Field(gt=0, lt=1)

    @field_validator("ranks", "fractions")
    @classmethod
    def _rising(cls, values: list[Any]) -> list[Any]:
        return sorted(set(values))

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if len(self.ranks) < 2 or self.ranks[0] < 1:
            raise ValueError(f"at least 2 ranks are needed, of at least 1, not {self.ranks}")
        if not 0 < self.fractions[0] <= self.fractions[-1] <= 1:
            raise ValueError(f"fractions lie in (0, 1], not {self.fractions}")
        return self

    def comparison(self, fraction: float) -> Comparison:
        """The comparison that one share of the images is: a row for each rank."""
        names = [f"r{rank}" for rank in self.ranks]
        rows = [
            ComparisonRow(
                name=name, label=f"rank {rank}", method=self.method, settings={"rank": rank}
            )
            for name, rank in zip(names, self.ranks, strict=True)
        ]
        whole = fraction == 1.0
        return Comparison(
            title=f"{self.method} by rank, {100 * fraction:g} % of the training images",
            rows=rows,
            split_seeds=1 if whole else self.seeds,
            seeds=self.seeds if whole else 1,
            shots=None,
            fraction=fraction,
            validation=self.validation,
            scored="validation",
            reference=names[-1],
            baseline=names[0],
            headline=names[-1],
        )


def plan(method: str, settings: Mapping[str, Any], **terms: Any) -> RankSweep:
    """Check and state a sweep.

    Args:
        method: registered name.
        settings: fields of the method or of its recipe, for every rank.
        terms: further fields of ``RankSweep``.

    Raises:
        ConfigError: an unknown method or setting, a method without a rank, or a value out of range.
    """
    if "rank" in settings:
        raise ConfigError("rank is what is swept: give its values with --values, not with --set.")
    if not _has_rank(method):
        ranked = ", ".join(name for name in methods() if _has_rank(name))
        raise ConfigError(f"{method} has no rank to sweep. Methods with one: {ranked}.")
    create_stated(method, settings)
    return RankSweep.checked(method=method, settings=dict(settings), **terms)


def _has_rank(name: str) -> bool:
    """Whether there is such a field, and it decides a size: some presets leave it unused."""
    if "rank" not in {f.name for f in fields(find(name).cls)}:
        return False
    try:
        with torch.device("meta"):
            plans = [create(name, {"rank": rank}).plan(_shape(), 2) for rank in (1, 2)]
    except ConfigError:  # a method for other backbones: the field has to do
        return True
    one, two = (sum(size_of(module) for module in plan.modules()) for plan in plans)
    return one != two


@cache
def _shape() -> Backbone:
    return load_backbone("petiole/tiny-vit", device="meta")


def place(folder: Path, fraction: float) -> Path:
    """The comparison folder of one share of the images."""
    return folder / f"fraction-{fraction:g}"


def jobs_of(
    sweep: RankSweep,
    fraction: float,
    task: Classification,
    folder: Path,
    *,
    resume: bool = False,
) -> list[RunSpec]:
    """All runs on one share of the images, rank by rank."""
    own, where = sweep.comparison(fraction), place(folder, fraction)
    jobs = domain_shift.jobs_of(own, task, where, sweep.settings, resume=resume)
    # A split seed is the start as well, so that the spread over seeds holds both.
    return [
        replace(
            job,
            seed=job.options.split_seed + job.seed,
            options=replace(job.options, vectors=False),
        )
        for job in jobs
    ]


def run(
    sweep: RankSweep,
    task: Classification,
    folder: Path,
    **running: Unpack[Running],
) -> None:
    """Do what is unfinished of a sweep, then measure the shift that the highest rank learned.

    Raises:
        RunError: the folder holds another sweep, or this one without ``resume``.
    """
    sweep.claim(folder, resume=running.get("resume", False))
    for fraction in sweep.fractions:
        domain_shift.compare(
            sweep.comparison(fraction),
            jobs_of(sweep, fraction, task, folder, resume=running.get("resume", False)),
            place(folder, fraction),
            **running,
        )
    if not (folder / SPECTRUM).exists():
        most = sweep.fractions[-1]
        teacher = jobs_of(sweep, most, task, folder)[-sweep.seeds]  # highest rank, first seed
        measured = measure(open_workspace(task), teacher)
        if measured is not None:
            write_sealed(folder / SPECTRUM, measured.model_dump(mode="json"))
