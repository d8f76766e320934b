"""A verb is one typed function: the command line and the keywords of Python both come from its signature.

Options that several verbs share are dataclasses (``options``). On the command line their fields are options; in Python
they are keywords: ``petiole.fit("photos/", backbone="petiole/tiny-vit", shots=5)``.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, wraps
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from petiole.errors import ConfigError, unknown

P = ParamSpec("P")
R = TypeVar("R")


def verb(function: Callable[P, R]) -> Callable[..., R]:
    """Let every option of a verb be a keyword, also those that lie in a group."""

    @wraps(function)
    def call(*args: Any, **given: Any) -> R:
        return function(*args, **gathered(function, given))

    return call


def gathered(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a call with those of its groups put into them.

    Raises:
        ConfigError: an unknown keyword, or a group together with one of its fields.
    """
    groups, own = groups_of(function), inspect.signature(function).parameters
    whole = {name: value for name, value in given.items() if name in own}
    loose = {name: value for name, value in given.items() if name not in own}
    for name, kind in groups.items():
        inside = {f.name for f in fields(kind)} & loose.keys()
        if not inside:
            continue
        if whole.get(name) is not None:
            raise ConfigError(f"Give {name}=..., or {', '.join(sorted(inside))}, not both.")
        whole[name] = kind(**{key: loose.pop(key) for key in inside})
    if loose:
        raise unknown(f"option of {function.__name__}", next(iter(loose)), keywords(function))
    return whole


def keywords(function: Callable[..., Any]) -> tuple[str, ...]:
    """Every keyword that a verb takes."""
    function = inspect.unwrap(function)
    groups = groups_of(function)
    own = (name for name in inspect.signature(function).parameters if name not in groups)
    return (*own, *(f.name for kind in groups.values() for f in fields(kind)))


@cache
def groups_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameters that are groups of options, and their dataclasses."""
    found = {}
    for name, hint in get_type_hints(function).items():
        for one in _alternatives(hint):
            if name != "return" and isinstance(one, type) and is_dataclass(one):
                found[name] = one
    return found


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Annotated:
        return _alternatives(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(one for arg in get_args(hint) for one in _alternatives(arg))
    return (hint,)
