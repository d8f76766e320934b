"""Options of ``petiole eval`` about attacks and corruptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from petiole.commands.options import group
from petiole.errors import ConfigError
from petiole.ranges import PositiveInt

if TYPE_CHECKING:
    from petiole.methods.adversary import Adversary

ALL = "all"


@group("Robustness")
@dataclass(frozen=True)
class RobustnessOptions:
    """What is done to labelled images before an adapter is scored on them once more.

    Attributes:
        attack: fgsm (one step) or pgd (many), with all weights and the true class known.
        epsilon: how far a pixel may go, on the scale 0 to 1: a number, or a fraction such as 4/255; by default 1/255.
        attack_steps: of pgd; by default 10.
        corrupt: corruptions of ImageNet-C, e.g. gaussian_noise fog jpeg_compression; or all fifteen.
        severity: of the corruptions, 1 to 5, one or several; by default 3.
    """

    attack: str | None = None
    epsilon: str | float | None = None
    attack_steps: PositiveInt | None = None
    corrupt: Annotated[Sequence[str], Parameter(negative=(), consume_multiple=True)] = ()
    severity: Annotated[Sequence[int], Parameter(negative=(), consume_multiple=True)] = ()

    def adversary(self) -> Adversary | None:
        """The attack, with all options checked.

        Raises:
            ConfigError: unknown names, a radius that is none, or options of an attack without one.
        """
        from petiole.data.corruptions import corruption
        from petiole.methods.adversary import attack

        for name in self.corruptions():
            for level in self.severities():
                corruption(name, level)
        if self.severity and not self.corrupt:
            raise ConfigError("--severity is of corruptions. Add --corrupt all.")
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

    def corruptions(self) -> tuple[str, ...]:
        """Their names, each once."""
        from petiole.data.corruptions import CORRUPTIONS

        return CORRUPTIONS if ALL in self.corrupt else tuple(dict.fromkeys(self.corrupt))

    def severities(self) -> tuple[int, ...]:
        """From 1 to 5, each once."""
        return tuple(dict.fromkeys(self.severity)) or (3,)

    def radius(self) -> float:
        """Epsilon as a number.

        Raises:
            ConfigError: it is none, or not in [0, 1].
        """
        from petiole.methods.adversary import radius

        return radius(self._said(), "--epsilon")

    def title(self) -> str:
        """Of the attack's scores: ``pgd, 1/255``."""
        return f"{self.attack}, {self._said()}"

    def _said(self) -> str:
        return "1/255" if self.epsilon is None else str(self.epsilon)
