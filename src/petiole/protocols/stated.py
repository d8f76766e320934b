"""What a measurement states before it starts: rows, the one that the others are compared with, runs of each.

It lies as one JSON file in the measurement's folder and holds no result. Another one in the same folder is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, ValidationError, model_validator

from petiole.engine.model_card import FrozenModel
from petiole.errors import ConfigError, RunError
from petiole.files import write_json
from petiole.protocols.comparison import ComparisonRow


class Protocol(FrozenModel):
    """Rows on equal terms.

    Attributes:
        rows: methods.
        reference: the row that the others are compared with.
        seeds: runs of each.
    """

    STATE: ClassVar[str]
    """Name of the file."""

    format: int = 1
    rows: list[ComparisonRow] = Field(min_length=1)
    reference: str
    seeds: int = Field(ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError("a row is named twice")
        if self.reference not in names:
            raise ValueError(f"the reference {self.reference!r} is not among {', '.join(names)}")
        return self

    @classmethod
    def checked(cls, **terms: Any) -> Self:
        """Check and state what is to be done.

        Raises:
            ConfigError: a row named twice, an unknown reference, or a value out of range.
        """
        try:
            return cls(**terms)
        except ValidationError as error:
            said = "; ".join(": ".join([*map(str, e["loc"]), e["msg"]]) for e in error.errors())
            raise ConfigError(f"This cannot be measured: {said}.") from error

    @classmethod
    def read(cls, root: Path) -> Self:
        """Read what a folder's measurement was.

        Raises:
            RunError: there is none, or it is damaged.
        """
        file = root / cls.STATE
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(
                f"{root} holds no {cls.STATE}. Give the folder that was written."
            ) from error
        except (ValidationError, UnicodeDecodeError) as error:
            raise RunError(f"{file} is damaged or of another version: {error}.") from error

    def claim(self, root: Path, *, resume: bool) -> None:
        """Take a folder for this measurement.

        Raises:
            RunError: it holds another one, or this one without ``resume``.
        """
        if not (root / self.STATE).exists():
            write_json(root / self.STATE, self.model_dump(mode="json"))
            return
        if not resume:
            raise RunError(
                f"{root} already holds results. Add --resume to finish them, or choose another --out."
            )
        if (old := type(self).read(root)) != self:
            raise RunError(
                f"{root} holds another measurement ({old.differences(self)}). Repeat the command as it was, "
                "or choose another --out."
            )

    def differences(self, new: Self) -> str:
        """Which terms differ; rows by their names."""
        a, b = ({**vars(one), "rows": [row.name for row in one.rows]} for one in (self, new))
        said = [f"{term}: {a[term]!r} -> {b[term]!r}" for term in a if a[term] != b[term]]
        return "; ".join(said) or "settings of a row"
