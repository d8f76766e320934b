"""Settings that people state: known names, then values of the right type and range."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from petiole.errors import ConfigError, unknown

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def check_names(settings: Iterable[str], made: Callable[..., object], what: str) -> None:
    """Refuse a setting that a class or function does not take.

    Raises:
        ConfigError: naming it, what it was stated for, and the nearest.
    """
    accepted = signature(made).parameters
    for name in settings:
        if name not in accepted:
            raise unknown(what, name, accepted)


def validated(cls: type[T], values: Mapping[str, Any], what: str) -> T:
    """Make a dataclass of values, texts converted.

    Raises:
        ConfigError: a value of the wrong type or out of range.
    """
    from pydantic import ValidationError

    try:
        made: T = _adapter(cls).validate_python(dict(values))  # type: ignore[arg-type] # mypy: a class is no Hashable
    except ValidationError as error:
        rows = [
            f"{'.'.join(str(part) for part in e['loc'] if part != 'recipe') or 'value'}={e.get('input')!r}: {e['msg']}"
            for e in error.errors()
        ]
        raise ConfigError(f"Bad settings for {what}: {'; '.join(rows)}.") from error
    for name, value in _taken_for_numbers(values, made):
        raise ConfigError(f"Bad settings for {what}: {name}={value}: a number is expected.")
    return made


def _taken_for_numbers(values: Mapping[str, Any], made: object) -> Iterator[tuple[str, bool]]:
    """Truth values, which pydantic takes for 1 and 0."""
    for name, value in values.items():
        taken = getattr(made, name, None)
        if isinstance(value, Mapping):
            yield from _taken_for_numbers(value, taken)
        elif isinstance(value, bool) and type(taken) in (int, float):
            yield name, value


@cache
def _adapter(cls: type[T]) -> TypeAdapter[T]:
    """Made once a class, since that takes longer than all that it will check."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)
