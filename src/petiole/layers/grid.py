"""Settings chosen from a grid, and the warning where the best one lies at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from petiole.errors import ConfigError
from petiole.layers.solved import SolvedLinear


def positive_grid(name: str, grid: Sequence[float]) -> tuple[float, ...]:
    """The values in order.

    Raises:
        ConfigError: none, or one that is not positive.
    """
    if not grid or not min(grid) > 0:
        raise ConfigError(f"The grid of {name} needs positive values, not {tuple(grid)}.")
    return tuple(sorted(grid))


def end_of_grid(grid: Sequence[Any], value: Any) -> str:
    """What to say where a chosen value is the first or last of three or more, which are ordered; else nothing."""
    if len(grid) < 3 or value not in (grid[0], grid[-1]):
        return ""
    return "an end of the grid: the best value may lie beyond"


def remarks_on(name: str, grid: Sequence[float], stored: float) -> list[str]:
    """A sentence where a value, stored in fewer bits, lies at an end of its grid."""
    value = min(grid, key=lambda known: abs(known - stored))
    end = end_of_grid(grid, value)
    return [f"{name}={value:g} of {grid[0]:g} to {grid[-1]:g} is {end}."] if end else []


class GridHead(SolvedLinear):
    """A head with a penalty chosen from a grid.

    Attributes:
        grid: to choose from, ascending.
        setting: what it is called.
        chosen: name of the buffer that says which one was; 0 before.
    """

    grid: tuple[float, ...]
    setting: ClassVar[str]
    chosen: ClassVar[str]

    def remarks(self) -> list[str]:
        return remarks_on(self.setting, self.grid, float(getattr(self, self.chosen)))

    def left_out(self, x: Tensor, y: Tensor, is_target: Tensor, folds: int = 5) -> Tensor | None:
        """As of every solved head, with the penalty that was chosen on all images, if one was.

        With two images a class none could be chosen: without a further one its class is empty.
        """
        grid, penalty = self.grid, float(getattr(self, self.chosen))
        self.grid = (penalty,) if penalty else grid
        try:
            return super().left_out(x, y, is_target, folds)
        finally:
            self.grid = grid
