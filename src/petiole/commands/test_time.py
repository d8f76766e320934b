"""Options of ``petiole predict`` and ``petiole eval`` about adapting to each test image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from petiole.commands.options import group, pairs
from petiole.errors import ConfigError

if TYPE_CHECKING:
    from petiole.methods.test_time.base import TestTimeMethod


@group("Test time")
@dataclass(frozen=True)
class TestTimeOptions:
    """How an adapter of labelled images is adapted further to each image that it predicts, and put back.

    Attributes:
        adapt: lora-ttt, affine, tpt (CLIP), or mta (no training; CLIP).
        adapt_set: key=value of it, e.g. views=32; several, or repeated.
    """

    adapt: str | None = None
    adapt_set: Annotated[Sequence[str], Parameter(negative=(), consume_multiple=True)] = ()

    def method(self) -> TestTimeMethod | None:
        """What was asked for, with its settings checked.

        Raises:
            ConfigError: unknown names or values, or settings of nothing.
        """
        from petiole.methods.test_time.base import make_test_time

        if self.adapt is None:
            if self.adapt_set:
                raise ConfigError("--adapt-set is of a way to adapt. Add --adapt lora-ttt.")
            return None
        return make_test_time(self.adapt, pairs(self.adapt_set))
