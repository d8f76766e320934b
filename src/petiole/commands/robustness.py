"""Options of ``petiole eval`` about attacks and corruptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from petiole.commands.options import group
from petiole.errors import ConfigError

if TYPE_CHECKING:
    from petiole.engine.adversary import Adversary


@group("Robustness")
@dataclass(frozen=True)
class RobustnessOptions:
    """What is done to labelled images before an adapter is scored on them once more.

    Attributes:
        attack: fgsm (one step) or pgd (many), with all weights and the true class known.
        epsilon: how far a pixel may go, on the scale 0 to 1: a number, or a fraction such as 4/255; by default 1/255.
        attack_steps: of pgd; by default 10.
        corrupt: corruptions that keep the label: blur, noise, jpeg, dark, bright, contrast.
    """

    attack: str | None = None
    epsilon: str | float | None = None
    attack_steps: int | None = None
    corrupt: Annotated[Sequence[str], Parameter(negative=(), consume_multiple=True)] = ()

    def adversary(self) -> Adversary | None:
        """The attack, with all options checked.

        Raises:
            ConfigError: unknown names, a radius that is none, or options of an attack without one.
        """
        from petiole.data.corruptions import corruption
        from petiole.engine.adversary import attack

        for name in self.corrupt:
            corruption(name)
        if self.attack is None:
            if self.epsilon is not None or self.attack_steps is not None:
                raise ConfigError(
                    "--epsilon and --attack-steps are of an attack. Add --attack pgd."
                )
            return None
        self.radius()
        options: dict[str, Any] = {}
        if self.attack_steps is not None:
            options["steps"] = self.attack_steps
        return attack(self.attack, **options)

    def radius(self) -> float:
        """Epsilon as a number.

        Raises:
            ConfigError: it is none, or not in [0, 1].
        """
        said = self._said()
        try:
            over, sign, under = said.partition("/")
            value = float(over) / float(
                under if sign else 1
            )  # a Fraction would compute 10 to the 10^9 of 1e-1000000000
        except (ValueError, ZeroDivisionError):
            value = -1.0
        if not 0 <= value <= 1:
            raise ConfigError(
                f"--epsilon is how far a pixel may go on the scale 0 to 1, not {said!r}: give a number or a fraction, e.g. 4/255."
            )
        return value

    def title(self) -> str:
        """Of the attack's scores: ``pgd, 1/255``."""
        return f"{self.attack}, {self._said()}"

    def _said(self) -> str:
        return "1/255" if self.epsilon is None else str(self.epsilon)
