"""Ranges of numbers, as types of the fields of a method, a recipe or a way to adapt at test time, and of the options of verbs.

``validated`` and ``commands.arguments`` refuse what lies outside as soon as it is stated, before an image is read or a network loaded. NaN and infinity
lie in no range, nor in a plain ``float`` of a class with ``FINITE``.
"""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
"""What torch, NumPy and scikit-learn all take."""
PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
UnitInterval = Annotated[float, Ge(0), Le(1)]
PositiveFraction = Annotated[float, Gt(0), Le(1)]
ProperFraction = Annotated[float, Gt(0), Lt(1)]
Decay = Annotated[float, Ge(0), Lt(1)]
"""Of a moving average: a decay of 1 would keep the start for ever."""
DropRate = Annotated[float, Ge(0), Lt(1)]
"""A probability of dropping: what is kept is divided by its own, which is not 0."""

FINITE: dict[str, Any] = {"allow_inf_nan": False}
"""As ``__pydantic_config__``, which subclasses inherit."""
