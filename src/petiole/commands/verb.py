"""A verb is one typed function: the command line and the keywords of Python both come from its signature.

Options that several verbs share are dataclasses (``options``). On the command line their fields are options; in Python
they are keywords: ``petiole.fit("photos/", backbone="petiole/tiny-vit", shots=5)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_type_hints

from petiole.commands.arguments import alternatives, fitting
from petiole.commands.places import placed
from petiole.errors import ConfigError, unknown
from petiole.processes import is_main

P = ParamSpec("P")
R = TypeVar("R")


def verb(function: Callable[P, R]) -> Callable[..., R]:
    """Let every option of a verb be a keyword, also those that lie in a group; a folder of runs keeps those that were given."""

    @wraps(function)
    def call(*args: Any, **given: Any) -> R:
        name = function.__name__.replace("_", "-")
        signature = inspect.signature(function)
        bound = signature.bind(*args, **gathered(function, given))
        bound.arguments.update(_fitting(function, bound.arguments))
        stated = dict(bound.arguments)
        with placed(name, stated) as local:
            bound.arguments.update(local)
            result = function(*bound.args, **bound.kwargs)
            folder = getattr(result, "folder", None)
            of_runs = {"out", "resume"} <= signature.parameters.keys()
            if folder is not None and of_runs and is_main() and Path(folder).is_dir():
                from petiole.commands.config_file import write_config

                write_config(Path(folder), name, differing(function, stated))
        return result

    return call


def differing(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a call whose values are not the defaults; those of groups each by itself."""
    groups, own = groups_of(function), inspect.signature(function).parameters
    pairs = {
        name: (value, own[name].default) for name, value in given.items() if name not in groups
    }
    for name in groups.keys() & given.keys():
        group = given[name]
        pairs |= (
            {f.name: (getattr(group, f.name), f.default) for f in fields(group)} if group else {}
        )
    order = keywords(function)
    return {
        name: pairs[name][0]
        for name in sorted(pairs, key=order.index)
        if not (pairs[name][0] is pairs[name][1] or _equal(*pairs[name]))
    }


def _equal(value: Any, default: Any) -> bool:
    """Of arrays and the like, never."""
    return (
        type(value) is type(default)
        and isinstance(value, str | int | float | tuple)
        and value == default
    )


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


def _fitting(owner: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values as the options of a verb, or of a group, take them.

    Raises:
        ConfigError: a value of another kind than the option's.
    """
    hints, groups, found = _hints(owner), groups_of(owner), dict(given)
    for name, value in given.items():
        if name in groups:
            found[name] = _group(name, value, groups[name])
        elif name in hints:
            found[name] = fitting(name, value, hints[name])
    return found


def _group(name: str, value: Any, kind: type[Any]) -> Any:
    """A group that was built in Python, its fields judged as keywords are."""
    if value is None:
        return None
    if not isinstance(value, kind):
        few = ", ".join(f.name for f in fields(kind)[:3])
        raise ConfigError(
            f"{name} is {kind.__name__}(...), not {repr(value)[:100]} ({type(value).__name__}). Its fields are keywords "
            f"too: {few}, ..."
        )
    return replace(value, **_fitting(kind, vars(value)))


@cache
def _hints(owner: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(inspect.unwrap(owner), include_extras=True)


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
    for name, hint in _hints(function).items():
        for one in alternatives(hint):
            if name != "return" and isinstance(one, type) and is_dataclass(one):
                found[name] = one
    return found
