"""Configuration files: the keywords of one verb in TOML, read with ``--config`` and written into every folder that a verb makes."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cyclopts import App, Token
from cyclopts.argument import ArgumentCollection
from cyclopts.config import Dict

from petiole.errors import ConfigError, boundary, unknown
from petiole.files import write_text
from petiole.stores.address import Address

FILE = "config.toml"
MADE_ANEW = {"out", "resume"}
"""Keywords of the folder itself, which a repetition does not share."""


def read_config(path: Path) -> dict[str, Any]:
    """The keywords that a file gives.

    Raises:
        ConfigError: there is none, or it is no TOML.
    """
    with boundary(path, "Correct it; petiole writes such files as config.toml.", ConfigError):
        return tomllib.loads(path.read_text(encoding="utf-8"))


def options_from(path: Path) -> Callable[[App, tuple[str, ...], ArgumentCollection], None]:
    """Gives a command what a file says and the command line does not.

    Raises:
        ConfigError: see ``read_config``; in use, a key that the verb does not know, with the nearest that it does.
    """
    values = read_config(path)

    def fill(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        known = {one.field_info.name: one for one in arguments if not one.children}
        given = {}
        for key, value in values.items():
            if key not in known:
                raise unknown(f"key in {path} for petiole {' '.join(commands)}", key, known)
            told = (
                [f"{name}={_text(one)}" for name, one in value.items()]
                if isinstance(value, dict)
                else value
            )
            option = known[key].name
            if option.startswith("--"):
                given[option.lstrip("-")] = told
            elif not known[key].tokens:  # by its place alone, which a file does not have
                for i, one in enumerate(told if isinstance(told, list) else [told]):
                    known[key].append(Token(value=str(one), source=str(path), index=i))
        Dict(given, source=str(path), use_commands_as_keys=False)(app, commands, arguments)

    return fill


def write_config(folder: Path, verb: str, given: Mapping[str, Any]) -> None:
    """Write the file that repeats a call.

    Args:
        folder: that the verb wrote.
        verb: its name.
        given: keywords that differ from their defaults.
    """
    import tomli_w

    told, left = {}, []
    for name in given.keys() - MADE_ANEW:
        try:
            told[name] = _plain(given[name])
        except TypeError:
            left.append(name)
    lines = [f"# petiole {verb} --config {FILE} --out FOLDER, from where it was called first"]
    lines += [f"# {name} was given in Python and has no form here: give it again" for name in left]
    ordered = {name: told[name] for name in given if name in told}
    write_text(folder / FILE, "\n".join(lines) + "\n" + tomli_w.dumps(ordered))


def _plain(value: Any) -> Any:
    """As TOML has it.

    Raises:
        TypeError: it has no form there.
    """
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(Address.parse(value) or value)  # a path has one slash where an address has two
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    raise TypeError(type(value).__name__)


def _text(value: Any) -> str:
    """As ``--set`` takes it."""
    return f"({','.join(map(str, value))})" if isinstance(value, list) else str(value)
