"""A comparison folder: which rows a table has, and where their runs lie, for every kind of task.

    comparison.json                       the rows, and which of them plays which part
    runs/<row>/split-<i>-seed-<j>/        one run folder each (see ``petiole.engine.record``)

It holds no result: every number is computed from the runs' own records.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from petiole.protocols.protocol import ComparisonRow, RowsProtocol

__all__ = ["COMPARISON", "Comparison", "ComparisonRow"]

COMPARISON = "comparison.json"


class Comparison(RowsProtocol):
    """Rows run on the same data and scored on the same samples.

    Attributes:
        kind: of the task.
        title: heading of table and page.
        split_seeds: draws of the training images, the unit of the result of photos; 1 for other kinds, whose unit
            is the seed.
        seeds: runs on each of them, which differ in initialisation and batches; of images without classes also in the
            draw, where shots are drawn.
        shots: target images drawn from each class, or in all where there are none; ``None`` for all.
        fraction: share of each class of the training images that is used.
        validation: share of the training images on which grids and searches are decided.
        trials: of each search.
        scored: the runs are scored on the ``test`` images, or on the ``validation`` ones, and then
            the test set stays closed.
        baseline: name of the row that gains are counted from, e.g. source only.
        headline: name of the row whose vectors, flips and confusion are shown.
        claims: published accuracy by row name, in per cent.
        claimed_costs: published ``percent`` of trained parameters and ``gflops`` by row name, as printed.
        notes: one sentence each, e.g. what the leak check found.
    """

    STATE: ClassVar[str] = COMPARISON
    NOUN: ClassVar[str] = "comparison"
    LOOSE: ClassVar[frozenset[str]] = RowsProtocol.LOOSE | {"notes"}

    kind: str = "classification"
    title: str
    split_seeds: int = Field(default=1, ge=1)
    shots: int | None = None
    fraction: float = Field(default=1.0, gt=0, le=1)
    validation: float = Field(default=0.0, ge=0, lt=1)
    trials: int = Field(default=0, ge=0)
    scored: Literal["test", "validation"] = "test"
    baseline: str
    headline: str
    claims: dict[str, float] = Field(default_factory=dict)
    claimed_costs: dict[str, dict[str, float | str]] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        grids = any(row.grid or row.ranges for row in self.rows)
        if not self.validation and (self.scored == "validation" or grids):
            raise ValueError(
                "a grid or scores on validation need validation images: validation > 0"
            )
        shots = self.shots is not None and self.kind in ("text", "codebook")
        drawn = self.split_seeds > 1 or self.validation or shots
        if self.kind != "classification" and drawn:
            raise ValueError(
                f"split seeds, shots and validation are of classification, and this is {self.kind}"
            )
        self.row(self.baseline, "baseline")
        self.row(self.headline, "headline")
        for name in {**self.claims, **self.claimed_costs}:
            self.row(name, f"claims[{name!r}]")
        return self

    def folder(self, root: Path, row: ComparisonRow, seed: int, split_seed: int = 0) -> Path:
        """Where a run lies."""
        return root / "runs" / row.name / f"split-{split_seed}-seed-{seed}"

    def runs(self, root: Path, row: ComparisonRow | str) -> list[Path]:
        """The run folders of a row: split seed 0 with every seed, then split seed 1, and so on."""
        one = self.row(row) if isinstance(row, str) else row
        return [
            self.folder(root, one, seed, split_seed)
            for split_seed in range(self.split_seeds)
            for seed in range(self.seeds)
        ]
