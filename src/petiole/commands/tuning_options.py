"""Settings that are chosen on validation images: options that the verbs which train on labelled images share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from petiole.commands.options import group
from petiole.errors import ConfigError
from petiole.ranges import PositiveInt, ProperFraction

if TYPE_CHECKING:
    from petiole.protocols.settled import Tuning


@group("Settings by validation")
@dataclass(frozen=True)
class TuningOptions:
    """Settings that are chosen on images held back from the training images; the test images stay closed.

    Attributes:
        tune: choose each method's learning rate from its own grid, on validation only.
        trials: with --tune, let Optuna try so many settings of each method, within the ends of its grid and --range, instead
            of the grid.
        ranges: further settings to try: KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C; for the methods that have them.
        tune_storage: URL of an Optuna storage, e.g. sqlite:///study.db; by default a journal in the folder.
        validation: share of the training images that this is decided on; by default 0.25.
    """

    tune: bool = False
    trials: PositiveInt | None = None
    ranges: Annotated[
        Sequence[str], Parameter(name="--range", negative=(), consume_multiple=True)
    ] = ()
    tune_storage: str | None = None
    validation: ProperFraction | None = None

    @property
    def share(self) -> float:
        """Of the training images."""
        return 0.25 if self.validation is None else self.validation

    def make(self, *, grids: bool = False) -> Tuning | None:
        """How settings are chosen; ``None`` where they are not.

        Args:
            grids: rows bring some of their own, which are decided on validation, too.

        Raises:
            ConfigError: an option of the search where there is none.
        """
        from petiole.protocols.settled import Tuning

        trials = self.trials
        if trials is not None and not self.tune:
            raise ConfigError("--trials is for --tune. Add it.")
        if self.validation is not None and not (self.tune or grids):
            raise ConfigError("--validation is for --tune. Add it.")
        if trials is not None and trials < 1:
            raise ConfigError(f"--trials is a number of settings to try, from 1 on, not {trials}.")
        for option, named in (("--range", self.ranges), ("--tune-storage", self.tune_storage)):
            if named and trials is None:
                raise ConfigError(
                    f"{option} is for a search by Optuna: --tune --trials 20. Leave it out."
                )
        if not self.tune:
            return None
        return Tuning(self.share, trials or 0, tuple(self.ranges), self.tune_storage)
