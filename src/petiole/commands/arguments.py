"""Keywords of Python are of the kinds that the command line reads from words, and numbers of both lie in their ranges."""

from __future__ import annotations

import math
import operator
import os
import types
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from petiole.errors import ConfigError

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import ArgumentCollection

EXACT = 2**53
"""Largest whole number of an option: every reader of JSON keeps it, and its product with a width fits in 64 bits."""


BOUNDS = {Ge: ("ge", "at least"), Gt: ("gt", "more than"), Le: ("le", "at most"), Lt: ("lt", "less than")}  # fmt: skip
"""Bound of a type -> the name of its number and of its operator, and its words."""

KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((Integral,), "True or False"),
    int: ((Integral,), "a whole number"),
    float: ((Real,), "a number"),
    str: ((str, os.PathLike), "a text"),
    Path: ((str, os.PathLike), "a path"),
}
"""Type of a hint -> types of values that are taken for it, and what they are called."""


def check_numbers(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Judge the numbers of a command line before cyclopts reads them.

    It would round fractions where a whole number is expected, and tell a range in pydantic's words.

    Raises:
        ConfigError: with the option, what was given, and what is taken.
    """
    for argument in arguments:
        hint = argument.field_info.annotation
        kinds = {one for kind in alternatives(hint) for part in (kind, *get_args(kind)) for one in alternatives(part)}  # fmt: skip
        if str in kinds or not kinds & {int, float}:
            continue
        for token in argument.tokens:
            if "." in token.value and float not in kinds:
                raise ConfigError(f"{argument.name} is a whole number, not {token.value}.")
            in_range(argument.name, _number(token.value), hint)


def _number(word: str) -> float | None:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return None


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
    bounds = [(*BOUNDS[type(bound)], bound) for bound in _bounds(hint)]
    limits = [(getattr(operator, key), words, getattr(bound, key)) for key, words, bound in bounds]
    for one in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(one, Real):
            continue
        if not isinstance(one, Integral) and not math.isfinite(one):
            wanted = "finite"
        elif not all(within(one, limit) for within, _, limit in limits):
            wanted = " and ".join(f"{words} {limit:,}" for _, words, limit in limits)
        elif isinstance(one, Integral) and abs(int(one)) > EXACT:
            wanted = f"between -{EXACT:,} and {EXACT:,}"
        else:
            continue
        raise ConfigError(f"{name} must be {wanted}, not {one}.")


def _bounds(hint: Any) -> Iterator[Any]:
    """Those of a number, or of the numbers of a list."""
    inner = get_args(hint)
    if get_origin(hint) is Annotated:
        yield from (note for note in inner[1:] if type(note) in BOUNDS)
        yield from _bounds(inner[0])
    elif get_origin(hint) in (Union, types.UnionType, Sequence, list):
        for one in inner:
            yield from _bounds(one)


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
