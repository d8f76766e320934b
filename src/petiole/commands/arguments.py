"""Keywords of Python are of the kinds that the command line reads from words."""

from __future__ import annotations

import math
import os
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from petiole.errors import ConfigError

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import ArgumentCollection

EXACT = 2**53
"""Largest whole number of an option: every reader of JSON keeps it, and its product with a width fits in 64 bits."""


@dataclass(frozen=True)
class Range:
    """What a number may be, as a note of its option's type; pydantic's, which cyclopts would try, speak of their own types.

    Attributes:
        least, most: within the range.
        above, below: just outside.
    """

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf

    def __contains__(self, value: Any) -> bool:
        return bool(self.least <= value <= self.most and self.above < value < self.below)

    def __str__(self) -> str:
        bounds = {
            "at least": self.least, "more than": self.above, "at most": self.most, "less than": self.below,
        }  # fmt: skip
        return " and ".join(f"{word} {x:,}" for word, x in bounds.items() if math.isfinite(x))


Seed = Annotated[int, Range(least=0, most=2**32 - 1)]
"""What torch, NumPy and scikit-learn all take."""
PositiveInt = Annotated[int, Range(least=1)]
NonNegativeInt = Annotated[int, Range(least=0)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(above=0, most=1)]
ProperFraction = Annotated[float, Range(above=0, below=1)]

KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((Integral,), "True or False"),
    int: ((Integral,), "a whole number"),
    float: ((Real,), "a number"),
    str: ((str, os.PathLike), "a text"),
    Path: ((str, os.PathLike), "a path"),
}
"""Type of a hint -> types of values that are taken for it, and what they are called."""


def whole_numbers(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse fractions on the command line where a whole number is expected, which cyclopts would round.

    Raises:
        ConfigError: with the option and what was given.
    """
    for argument in arguments:
        kinds = {one for kind in alternatives(argument.hint) for one in (kind, *get_args(kind))}
        if int in kinds and not kinds & {float, str}:
            for token in argument.tokens:
                if "." in token.value:
                    raise ConfigError(f"{argument.name} is a whole number, not {token.value}.")


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows, one by one."""
    if get_origin(hint) is Annotated:
        return alternatives(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(one for arg in get_args(hint) for one in alternatives(arg))
    return (hint,)


def fitting(name: str, value: Any, hint: Any) -> Any:
    """A value as its option takes it: a lone one in the place of several is a list of one.

    Numbers, texts, switches and choices are judged; data and places may be objects of many types, and say themselves what is wrong.

    Raises:
        ConfigError: a value of another kind, out of range, or none of the choices.
    """
    allowed = [one for one in alternatives(hint) if one is not type(None)]
    in_range(name, value, hint)
    for one in allowed:
        if get_origin(one) is Sequence and _is(value, alternatives(get_args(one)[0])):
            return [value]
    listed = any(get_origin(one) in (list, Sequence) for one in allowed)
    if value is None or (listed and isinstance(value, Iterable)):
        return value
    plain = [one for one in allowed if get_origin(one) is not list]
    choices = [choice for one in plain if get_origin(one) is Literal for choice in get_args(one)]
    if choices and value not in choices:
        raise ConfigError(f"{name} is one of {', '.join(map(repr, choices))}, not {value!r}.")
    judged = bool(plain) and all(one in KINDS and one is not Path for one in plain)
    if choices or not judged or _is(value, plain):
        return value
    said = " or ".join(KINDS[one][1] for one in plain)
    given = type(value).__name__
    if isinstance(value, str | Real | Sequence):
        given = f"{repr(value)[:100]} ({given})"
    raise ConfigError(f"{name} is {said}, not {given}.{_remedy(name, value, plain)}")


def in_range(name: str, value: Any, hint: Any) -> None:
    """Refuse a number, alone or in a list, that lies outside the bounds of its option, or that is not finite.

    Raises:
        ConfigError: with what is in range.
    """
    ranges = list(_ranges(hint))
    for one in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(one, Real):
            continue
        if not isinstance(one, Integral) and not math.isfinite(one):
            wanted = "finite"
        elif outside := [kind for kind in ranges if one not in kind]:
            wanted = str(outside[0])
        elif isinstance(one, Integral) and abs(int(one)) > EXACT:
            wanted = f"between -{EXACT:,} and {EXACT:,}"
        else:
            continue
        raise ConfigError(f"{name} must be {wanted}, not {one}.")


def _ranges(hint: Any) -> Iterator[Range]:
    """Those of a number, or of the numbers of a list."""
    inner = get_args(hint)
    if get_origin(hint) is Annotated:
        yield from (note for note in inner[1:] if isinstance(note, Range))
        yield from _ranges(inner[0])
    elif get_origin(hint) in (Union, types.UnionType, Sequence, list):
        for one in inner:
            yield from _ranges(one)


def _is(value: Any, hints: Sequence[Any]) -> bool:
    if isinstance(value, bool):  # which Python takes for a number
        return bool in hints
    return any(isinstance(value, KINDS[one][0]) for one in hints if one in KINDS)


def _remedy(name: str, value: Any, wanted: Sequence[Any]) -> str:
    """The number that a text is in quotes."""
    for kind in wanted:
        if isinstance(value, str) and kind in (int, float):
            try:
                return f" Write {name}={kind(value)}."
            except ValueError:
                continue
    return ""
