"""Methods by name. A file registers itself with a decorator; nothing else has to know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import walk_packages
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from petiole.errors import ConfigError, unknown
from petiole.methods.base import Method
from petiole.methods.recipe import Recipe

M = TypeVar("M", bound=Method)
IN_STEPS = {"epochs": 0.0, "schedule": "steps", "average_mean": 0.0}


@dataclass(frozen=True)
class MethodEntry:
    """A registered name: the class, what differs from its defaults, and one line about it."""

    cls: type[Method]
    preset: Mapping[str, Any]
    about: str


_ENTRIES: dict[str, MethodEntry] = {}
_FAMILIES: dict[str, tuple[Callable[[str], MethodEntry], str]] = {}


def register(name: str, about: str, **preset: Any) -> Callable[[type[M]], type[M]]:
    """Class decorator: make the method available as ``name``.

    Args:
        name: what ``--method`` takes.
        about: one line for lists.
        preset: fields of the method or of its recipe that differ from the defaults.
    """

    def add(cls: type[M]) -> type[M]:
        if name in _ENTRIES:
            raise ConfigError(f"Two methods are named {name!r}: {_ENTRIES[name].cls} and {cls}.")
        _ENTRIES[name] = MethodEntry(cls, preset, about)
        return cls

    return add


def family(
    prefix: str, about: str
) -> Callable[[Callable[[str], MethodEntry]], Callable[[str], MethodEntry]]:
    """Function decorator: answer for every method that is called ``prefix:kind``.

    Args:
        prefix: before the colon.
        about: one line for lists.
    """

    def add(build: Callable[[str], MethodEntry]) -> Callable[[str], MethodEntry]:
        _FAMILIES[prefix] = cache(build), about
        return build

    return add


def preset_of(name: str) -> Mapping[str, Any]:
    """What differs from the defaults in a method of this package, also while files are being read."""
    if name not in _ENTRIES:  # its file comes later in the walk
        methods()
    return _ENTRIES[name].preset


def families() -> Mapping[str, str]:
    """One line about each family, by prefix."""
    methods()
    return {prefix: about for prefix, (_, about) in _FAMILIES.items()}


def find(name: str) -> MethodEntry:
    """Return what is registered as ``name``.

    Raises:
        ConfigError: nothing; the nearest names are listed.
    """
    known = methods()
    prefix, colon, kind = name.partition(":")
    if colon and prefix in _FAMILIES:
        return _FAMILIES[prefix][0](kind)
    if name not in known:
        raise unknown("method", name, known)
    return known[name]


def methods() -> Mapping[str, MethodEntry]:
    """All registered methods, from this package and from the entry points ``petiole.methods``."""
    package = import_module("petiole.methods")
    for module in walk_packages(package.__path__, "petiole.methods."):
        import_module(module.name)
    for point in entry_points(group="petiole.methods"):
        point.load()
    return dict(sorted(_ENTRIES.items()))


def create(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """Build a method by name.

    Args:
        name: a registered name.
        settings: fields of the method or of its recipe; strings are converted.

    Raises:
        ConfigError: unknown name or setting, or a value of the wrong type or out of range.
    """
    entry, given = find(name), dict(settings or {})
    if "steps" in given and "epochs" not in given:  # a length in steps replaces a preset in epochs
        counted = entry.preset.get("schedule") == "epochs"
        given = {**(IN_STEPS if counted else {"epochs": 0.0}), **given}
    return configure(entry.cls(), {**entry.preset, **given}, name)


def configure(method: M, settings: Mapping[str, Any], name: str = "") -> M:
    """Return ``method`` with fields of its own or of its recipe replaced, and validated."""
    own = {f.name for f in fields(method)} - {"recipe"}
    shared = {f.name for f in fields(Recipe)}
    for key in settings:
        if key not in own | shared:
            raise unknown(f"setting of {name or type(method).__name__}", key, own | shared)
    values = {f: getattr(method, f) for f in own}
    values |= {k: v for k, v in settings.items() if k in own}
    recipe = asdict(method.recipe) | {k: v for k, v in settings.items() if k in shared}
    checked: M = _validate(type(method), {**values, "recipe": recipe}, name)
    return checked


def settings_of(method: Method) -> dict[str, Any]:
    """The method's fields and its recipe's, flat: what ``create`` takes."""
    flat = asdict(method)
    return {**flat.pop("recipe"), **flat}


def _validate(cls: type[M], values: Mapping[str, Any], name: str) -> M:
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        rows = [
            f"{'.'.join(map(str, e['loc'])) or 'value'}={e.get('input')!r}: {e['msg']}"
            for e in error.errors()
        ]
        raise ConfigError(f"Bad settings for {name or cls.__name__}: {'; '.join(rows)}.") from error
