"""A comparison folder: which rows a table has, and where their runs lie.

    comparison.json                       the rows, and which of them plays which part
    runs/<row>/draw-<i>-init-<j>/         one run folder each (see ``petiole.engine.record``)

It holds no result: every number is computed from the runs' own records.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from petiole.engine.model_card import FrozenModel
from petiole.errors import RunError
from petiole.files import write_json

COMPARISON = "comparison.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class ComparisonRow(FrozenModel):
    """One row of the table.

    Attributes:
        name: identifies the row and names its folder: letters, digits, ``. _ + -``.
        label: for people.
        method: registered name.
        settings: what differs from the method's defaults.
        grid: setting -> values, of which the best on validation is taken.
    """

    name: str
    label: str
    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _folder_safe(self) -> Self:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"row name {self.name!r} cannot name a folder; use letters, digits, '.', '_', '+', '-'"
            )
        return self


class Comparison(FrozenModel):
    """Rows run on the same support draws and tested on the same images.

    Attributes:
        title: heading of table and page.
        rows: in the order of the table.
        draws: support draws, the unit of the result.
        inits: initialisation seeds a draw.
        shots: target images drawn from each class; ``None`` for all.
        fraction: share of each class of the training images that is used.
        validation: share of the training images on which grids are decided.
        scored: the runs are scored on the ``test`` images, or on the ``validation`` ones, and then
            the test set stays closed.
        reference: name of the row that all others are tested against.
        baseline: name of the row that gains are counted from, e.g. source only.
        headline: name of the row whose vectors, flips and confusion are shown.
        claims: published accuracy by row name, in per cent.
        notes: one sentence each, e.g. what the leak check found.
    """

    format: int = 1
    title: str
    rows: list[ComparisonRow] = Field(min_length=1)
    draws: int = Field(ge=1)
    inits: int = Field(ge=1)
    shots: int | None
    fraction: float = Field(default=1.0, gt=0, le=1)
    validation: float = Field(default=0.0, ge=0, lt=1)
    scored: Literal["test", "validation"] = "test"
    reference: str
    baseline: str
    headline: str
    claims: dict[str, float] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [row.name for row in self.rows]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"row names occur twice: {', '.join(twice)}")
        if not self.validation and (self.scored == "validation" or any(r.grid for r in self.rows)):
            raise ValueError(
                "a grid or scores on validation need validation images: validation > 0"
            )
        parts = {"reference": self.reference, "baseline": self.baseline, "headline": self.headline}
        parts |= {f"claims[{name!r}]": name for name in self.claims}
        for part, name in parts.items():
            if name not in names:
                raise ValueError(f"{part} names no row: {name!r} is not among {', '.join(names)}")
        return self

    def row(self, name: str) -> ComparisonRow:
        """Return the row called ``name``."""
        return next(row for row in self.rows if row.name == name)

    def runs(self, folder: Path, row: ComparisonRow | str) -> list[Path]:
        """Return the run folders of a row: draw 0 with every init, then draw 1, and so on."""
        name = row if isinstance(row, str) else row.name
        return [
            folder / "runs" / name / f"draw-{draw}-init-{init}"
            for draw in range(self.draws)
            for init in range(self.inits)
        ]

    def write(self, folder: Path) -> Path:
        """Write ``comparison.json`` atomically and return its path."""
        write_json(folder / COMPARISON, self.model_dump(mode="json"))
        return folder / COMPARISON

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``comparison.json``.

        Raises:
            RunError: there is none, or it is damaged.
        """
        file = folder / COMPARISON
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(
                f"{folder} holds no comparison ({COMPARISON} is missing). Give the folder that "
                "petiole compare wrote."
            ) from error
        except (ValidationError, UnicodeDecodeError) as error:
            details = (
                "; ".join(e["msg"] for e in error.errors())
                if isinstance(error, ValidationError)
                else str(error)
            )
            raise RunError(
                f"{file} is damaged or of another version: {details}. Run petiole compare again."
            ) from error
