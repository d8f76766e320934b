"""Ranges that settings are searched in: what a method declares by its learning rates, and what the caller adds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from petiole.engine.model_card import FrozenModel
from petiole.errors import ConfigError
from petiole.methods.registry import create, find, settable

if TYPE_CHECKING:
    import optuna

_BETWEEN = re.compile(r"(?P<low>[^:]+?)\.\.(?P<high>[^:]+?)(?P<log>:log)?")


class SearchRange(FrozenModel):
    """Values that a setting may take: a list of them, or all numbers from ``low`` to ``high``.

    Attributes:
        choices: the list, in the words of ``--set``; empty for numbers.
        low, high: both included; whole numbers stay whole.
        log: numbers are tried evenly on a logarithmic scale.
    """

    choices: list[str] = Field(default_factory=list)
    low: int | float = 0
    high: int | float = 0
    log: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.choices:
            return self
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"a range goes from a smaller number to a larger one, not {self}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range begins above 0, not at {self.low:g}")
        return self

    def __str__(self) -> str:
        if self.choices:
            return ",".join(self.choices)
        return f"{self.low:g}..{self.high:g}" + (":log" if self.log else "")

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that have to be possible for all to be."""
        return tuple(self.choices) or (self.low, self.high)

    def taking(self, value: Any) -> Any:
        """A setting's value as a trial has it; ``None`` where it may not be tried."""
        if self.choices:
            return next((word for word in self.choices if _same(word, value)), None)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if number and self.low <= value <= self.high else None

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """The value that an Optuna trial takes."""
        if self.choices:
            return trial.suggest_categorical(name, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


def parse_ranges(given: Sequence[str]) -> dict[str, SearchRange]:
    """``lr=1e-4..1e-2:log``, ``rank=4..16``, ``rank=4,8,16``.

    Raises:
        ConfigError: something else.
    """
    found = {}
    for text in given:
        name, sign, values = text.partition("=")
        between = _BETWEEN.fullmatch(values)
        try:
            if not (sign and name and values):
                raise ValueError("no name, or no values")
            found[name.strip().replace("-", "_")] = (
                SearchRange(
                    low=_number(between["low"]),
                    high=_number(between["high"]),
                    log=bool(between["log"]),
                )
                if between
                else SearchRange(choices=[one.strip() for one in values.split(",") if one.strip()])
            )
        except ValueError as error:
            said = (
                str(error).splitlines()[0]
                if "\n" not in str(error)
                else str(error).splitlines()[2].strip()
            )
            raise ConfigError(
                f"--range takes KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C, not {text!r} ({said}). For example: --range "
                "lr=1e-4..1e-2:log"
            ) from error
    return found


def _same(word: str, value: Any) -> bool:
    try:
        return word == str(value) or float(word) == float(value)
    except (TypeError, ValueError):
        return False


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def ranges_of(
    method: str, settings: Mapping[str, Any], added: Mapping[str, SearchRange]
) -> dict[str, SearchRange]:
    """What of a method is searched: its learning rates, from the least to the largest worth trying, and what was added.

    Args:
        method: registered name.
        settings: of the row, which are not searched.
        added: by name of a setting; those that the method does not have are left out.

    Raises:
        ConfigError: the method refuses an end of a range.
    """
    create(method, dict(settings))
    known = settable(method)
    rates = find(method).cls.lr_grid
    own = {"lr": SearchRange(low=min(rates), high=max(rates), log=True)} if rates else {}
    ranges = {**own, **{name: one for name, one in added.items() if name in known}}
    for name, one in ranges.items():
        for value in one.ends:
            create(method, {**settings, name: value})
    return {name: one for name, one in ranges.items() if name not in settings}
