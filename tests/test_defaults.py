"""Defaults of every method, schedule and option, and the constants of the science, as they were published or chosen.

A change of one is a change of results.

After a change that is meant: ``PETIOLE_SNAPSHOT=1 pytest tests/test_defaults.py``, and say so in the changelog.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Container, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import FunctionType
from typing import Any

import numpy as np

from builders.snapshot import kept
from petiole.cli import _FILES, VERBS
from petiole.commands import options
from petiole.commands.verb import groups_of
from petiole.data.corruptions import ON_PIXELS
from petiole.data.preprocessing import AUGMENTATIONS
from petiole.data.readers.base import Reader, readers
from petiole.data.readers.public.registry import names
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create, methods, settings_of

FILE = Path(__file__).with_name("defaults.json")
ROOMS = ("data", "layers", "losses", "methods", "metrics", "planning", "protocols")
ROOMS += ("backbones", "commands", "engine", "ledger", "report", "serving", "stores", "tasks")
"""Rooms whose constants are part of a result, of an estimate, or of what is promised: bounds, patience, places kept."""
FILLED = {"_READERS", "_KNOWN", "_OPENED"}
"""No constants: what is registered, or opened, while the library runs. Built-in readers and sets have rows of their own."""


def plain(value: Any) -> Any:
    """As JSON; what has no form there, by its text."""
    return json.loads(json.dumps(value, default=str))


def of_command(verb: str) -> dict[str, Any]:
    name = _FILES.get(verb, verb)
    function = inspect.unwrap(getattr(import_module(f"petiole.commands.{name}"), name))
    parameters = inspect.signature(function).parameters.values()
    groups = groups_of(function)
    own = [group for group in groups.values() if group not in vars(options).values()]
    given = {p.name: plain(p.default) for p in parameters if p.default is not p.empty}
    return dict(
        {
            name: value
            for name, value in given.items()
            if name not in groups or groups[name] not in own
        },
        **{name: value for group in own for name, value in of_group(group).items()},
    )


def of_group(group: type) -> dict[str, Any]:
    return {
        field.name: plain(field.default)
        for field in dataclasses.fields(group)
        if field.default is not dataclasses.MISSING
    }


def of_corruption(name: str) -> dict[str, Any]:
    """How far each severity moves a ramp on the mean, and its new spread: the published constants are within."""
    ramp = np.linspace(0.1, 0.9, 48 * 64 * 3).reshape(48, 64, 3)
    change = [ON_PIXELS[name](ramp, level, np.random.default_rng(level)) for level in range(5)]
    return {str(i + 1): [round(float(v), 4) for v in (abs(x - ramp).mean(), x.std())] for i, x in enumerate(change)}  # fmt: skip


def numbers(value: Any) -> Any:
    """What of a value are numbers, a mapping's keys among them; nothing where none is."""
    if isinstance(value, Mapping):
        rows = {str(k): n for k, v in value.items() if (n := numbers(v)) is not None}
        return rows or numbers(list(value))
    if isinstance(value, list | tuple | set | frozenset):
        each = sorted(value) if isinstance(value, set | frozenset) else value
        return [n for v in each if (n := numbers(v)) is not None] or None
    if isinstance(value, np.ndarray):
        return [round(float(n), 6) for n in (value.mean(), value.std(), value.ravel()[-1])]
    if hasattr(value, "__metadata__"):  # bounds beside an annotated type
        return numbers([getattr(one, "metadata", one) for one in value.__metadata__])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return numbers(
            {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        )
    return value if isinstance(value, bool | int | float) else None


def of_class(own: Mapping[str, Any]) -> dict[str, Any]:
    """Of a class how it is compared, its own numbers, and defaults and bounds of a model's fields."""
    found, fields = {}, own.get("__dataclass_fields__", {})
    if "__dataclass_params__" in own:
        found[" (frozen)"] = own["__dataclass_params__"].frozen
        here = [fields[name] for name in own.get("__annotations__", ()) if name in fields]
        apart = [sum(f.kw_only is True for f in here), sum(not f.compare for f in here)]
        apart += [sum(f.hash is False for f in here), sum(not f.repr for f in here)]
        if any(apart):
            found[" (keyword-only, not compared, not hashed, not shown)"] = apart
        if not own["__dataclass_params__"].eq:
            found[" (equal to itself alone)"] = True
    for name, value in own.items():
        stated = "ClassVar" in str(fields[name].type) if name in fields else name[0] != "_"
        if stated and isinstance(value, bool | int | float | tuple):
            found[f".{name}"] = numbers(value)
    if "frozen" in own.get("model_config", {}):
        found[" (frozen)"] = own["model_config"]["frozen"]
    for name, field in own.get("__pydantic_fields__", {}).items():
        slots = [getattr(one, "__slots__", ()) or vars(one) for one in field.metadata]
        bounds = [{k: getattr(one, k) for k in names} for one, names in zip(field.metadata, slots, strict=True)]  # fmt: skip
        found[f".{name}"] = numbers([field.default, *bounds])
    return found


def of_room(room: str, told: Container[Any]) -> dict[str, Any]:
    """Numbers among the constants of its modules and the defaults of their functions and classes, but for fields that are ``told`` elsewhere."""
    package = import_module(f"petiole.{room}")
    found, seen = {}, set()
    for info in walk_packages(package.__path__, f"petiole.{room}."):
        for name, value in vars(import_module(info.name)).items():
            bounded = hasattr(value, "__metadata__")  # a type of another module, with bounds
            if getattr(value, "__module__", info.name) != info.name and not bounded:
                continue
            own = vars(value) if isinstance(value, type) else {}
            found |= {f"{info.name}.{name}{k}": v for k, v in of_class(own).items()}
            plainly = {k: getattr(f, "__func__", f) for k, f in own.items()}  # class methods, too
            functions = {
                f"{name}.{k}": f for k, f in plainly.items() if isinstance(f, FunctionType)
            }
            functions = {k.removesuffix(".__init__"): f for k, f in functions.items()}
            if isinstance(value, FunctionType):
                functions = {name: value}
            elif not own and (name.isupper() or bounded) and name not in FILLED | {"TYPE_CHECKING"}:
                row = plain(numbers(value))
                if (name, str(row)) not in seen:  # not where it is imported, too
                    seen.add((name, str(row)))
                    found[f"{info.name}.{name}"] = row
            for known, function in functions.items():
                if known != name or value not in told:
                    for parameter in inspect.signature(function).parameters.values():
                        key = f"{info.name}.{known}({parameter.name})"
                        found[key] = numbers(parameter.default)
    return {name: value for name, value in found.items() if value is not None}


def found() -> dict[str, Mapping[str, Any]]:
    """Of methods, only what differs from the recipe that all start from."""
    recipe = plain(dataclasses.asdict(Recipe()))
    result: dict[str, Mapping[str, Any]] = {"recipe": recipe}
    known = {n: e for n, e in methods().items() if e.cls.__module__.startswith("petiole.")}
    told = {parent for entry in known.values() for parent in entry.cls.__mro__}
    for name, entry in known.items():
        settings = plain(settings_of(create(name)))
        result[f"method {name}"] = {
            k: v for k, v in settings.items() if k not in recipe or recipe[k] != v
        } | {f"paper: {k}": v for k, v in plain(entry.paper).items()}
    result |= {f"augmentation {name}": plain(vars(a)) for name, a in AUGMENTATIONS.items()}
    result |= {f"corruption {name}": of_corruption(name) for name in ON_PIXELS}
    result |= {f"constants {room}": of_room(room, told) for room in ROOMS}
    result["readers"] = {
        r.name: r.rank for r in readers(Reader) if r.open.__module__.startswith("petiole.")
    }
    result["public sets"] = {name: [one.classes, one.images] for name, one in names().items()}
    groups = [value for value in vars(options).values() if dataclasses.is_dataclass(value)]
    result |= {f"options {group.__name__}": of_group(group) for group in groups}  # type: ignore[union-attr,arg-type]
    return result | {f"command {verb}": of_command(verb) for verb in VERBS}


def test_defaults_are_those_that_were_chosen() -> None:
    now = found()
    was = kept(FILE, now)
    changed = {
        f"{name}, {key}": (was[name].get(key), now[name].get(key))
        for name in was
        for key in was[name].keys() | now[name].keys()
        if was[name].get(key, "absent") != now[name].get(key, "absent")
    }
    assert changed == {}, "was, is"
