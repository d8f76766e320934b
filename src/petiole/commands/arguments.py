"""Keywords of Python are of the kinds that the command line reads from words."""

from __future__ import annotations

import os
import types
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from petiole.errors import ConfigError

KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((Integral,), "True or False"),
    int: ((Integral,), "a whole number"),
    float: ((Real,), "a number"),
    str: ((str, os.PathLike), "a text"),
    Path: ((str, os.PathLike), "a path"),
}
"""Type of a hint -> types of values that are taken for it, and what they are called."""


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
        ConfigError: a value of another kind, or none of the choices.
    """
    allowed = [one for one in alternatives(hint) if one is not type(None)]
    for one in allowed:
        if get_origin(one) is Sequence and _is(value, get_args(one)):
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


def _is(value: Any, hints: Sequence[Any]) -> bool:
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
