"""Methods by name. A file registers itself with a decorator; nothing else has to know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from petiole.errors import ConfigError, unknown
from petiole.methods.recipe import Recipe
from petiole.methods.settings import validated
from petiole.registry import Registry

if TYPE_CHECKING:
    from petiole.methods.base import Method

M = TypeVar("M", bound="Method")
RECIPE_FIELDS = frozenset(f.name for f in fields(Recipe))
IN_STEPS = {"epochs": 0.0, "schedule": "steps", "average_mean": 0.0}


@dataclass(frozen=True)
class MethodEntry:
    """A registered name: the class, what differs from its defaults, one line about it, and what ``recipe=paper`` changes."""

    cls: type[Method]
    preset: Mapping[str, Any]
    about: str
    paper: Mapping[str, Any] = field(default_factory=dict)


METHODS = Registry[MethodEntry](
    "method", "petiole.methods", "register", "petiole.methods", described=True
)
FAMILIES = Registry[Callable[[str], MethodEntry]](
    "family of methods", "petiole.methods", "family", "petiole.method_families", described=True
)


def register(
    name: str, about: str, *, paper: Mapping[str, Any] | None = None, **preset: Any
) -> Callable[[type[M]], type[M]]:
    """Class decorator: make the method available as ``name``.

    Args:
        name: what ``--method`` takes; a literal string, as is ``about`` (see ``Registry``).
        about: one line for lists.
        paper: fields that the published tables were trained with, where the preset departs from them
            (``recipe=paper``).
        preset: fields of the method or of its recipe that differ from the defaults.
    """

    def add(cls: type[M]) -> type[M]:
        entry = MethodEntry(cls, preset, about, paper or {})
        METHODS.add(name, entry, about, origin=cls.__module__)
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
        FAMILIES.add(prefix, cache(build), about, origin=build.__module__)
        return build

    return add


def preset_of(name: str) -> Mapping[str, Any]:
    """What differs from the defaults in a method."""
    return find(name).preset


def abouts() -> Mapping[str, str]:
    """One line about every method and every family (``prefix:...``), by name; imports none of them."""
    lines = {name: METHODS.about(name) for name in METHODS.names()}
    return lines | {f"{prefix}:...": FAMILIES.about(prefix) for prefix in FAMILIES.names()}


def is_known(name: str) -> bool:
    """Whether there is such a method, or a family that answers for it; imports none of them."""
    prefix, colon, _ = name.partition(":")
    return name in METHODS or (bool(colon) and prefix in FAMILIES)


def find(name: str) -> MethodEntry:
    """Return what is registered as ``name``.

    Raises:
        ConfigError: nothing; the nearest names are listed.
    """
    prefix, colon, kind = name.partition(":")
    if colon and (build := FAMILIES.get(prefix)):
        return build(kind)
    return METHODS.find(name)


def methods() -> Mapping[str, MethodEntry]:
    """All registered methods, every one imported."""
    return METHODS.all()


def create(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """Build a method by name.

    Args:
        name: a registered name.
        settings: fields of the method or of its recipe; strings are converted. ``recipe=paper`` starts from the
            training of the published tables instead of the preset's; both agree where a preset is as published.

    Raises:
        ConfigError: unknown name or setting, or a value of the wrong type or out of range.
    """
    entry, given = find(name), dict(settings or {})
    preset = {**entry.preset, **_recipe(entry, given.pop("recipe", "default"))}
    if "steps" in given and "epochs" not in given:  # a length in steps replaces a preset in epochs
        counted = preset.get("schedule") == "epochs"
        given = {**(IN_STEPS if counted else {"epochs": 0.0}), **given}
    return configure(entry.cls(), {**preset, **given}, name)


def create_stated(name: str, settings: Mapping[str, Any]) -> Method:
    """``create`` of what a person states, every setting of which must be read.

    Raises:
        ConfigError: as ``create`` and ``check_read``.
    """
    method = create(name, settings)
    check_read(name, settings)
    return method


def check_read(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse a stated field of the recipe that the training of this method does not read.

    ``create`` takes it, since a kept adapter states its whole recipe.

    Raises:
        ConfigError: naming it, and those that are read.
    """
    read = find(name).cls.recipe_fields
    for key in settings:
        if read is not None and key in RECIPE_FIELDS - read:
            others = f" Of a recipe it reads {', '.join(sorted(read))}." if read else ""
            raise ConfigError(
                f"{name} is not trained by a recipe's steps, so nothing would use {key}. Leave it out.{others}"
            )


def settable(name: str) -> frozenset[str]:
    """Fields of a method, and those of its recipe that its training reads."""
    cls = find(name).cls
    read = RECIPE_FIELDS if cls.recipe_fields is None else cls.recipe_fields
    return frozenset(f.name for f in fields(cls)) - {"recipe"} | read


def _recipe(entry: MethodEntry, name: str) -> Mapping[str, Any]:
    recipes: dict[str, Mapping[str, Any]] = {"default": {}, "paper": entry.paper}
    if name not in list(recipes):
        raise unknown("recipe", str(name), recipes)
    return recipes[name]


def configure(method: M, settings: Mapping[str, Any], name: str = "") -> M:
    """Return ``method`` with fields of its own or of its recipe replaced, and validated."""
    own = {f.name for f in fields(method)} - {"recipe"}
    shared = RECIPE_FIELDS
    for key in settings:
        if key not in own | shared:
            raise unknown(f"setting of {name or type(method).__name__}", key, own | shared)
    values = {f: getattr(method, f) for f in own}
    values |= {k: v for k, v in settings.items() if k in own}
    recipe = asdict(method.recipe) | {k: v for k, v in settings.items() if k in shared}
    return validated(type(method), {**values, "recipe": recipe}, name or type(method).__name__)


def settings_of(method: Method) -> dict[str, Any]:
    """The method's fields and its recipe's, flat: what ``create`` takes."""
    flat = asdict(method)
    return {**flat.pop("recipe"), **flat}
