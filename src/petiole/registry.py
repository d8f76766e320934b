"""Things by name, found without importing those that nobody asked for.

A file makes itself known with a decorator whose names are written out:

    @register("lora-qkv", "LoRA on q, k and v of every block")
    class Lora(Method): ...

The names of a package are read from the text of its files, so listing them imports nothing and asking for one
imports one file. Other distributions add names by entry points, which load by name as well.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from petiole.errors import ConfigError, PetioleError, unknown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
V = TypeVar("V")
_DEFINITION = re.compile(r"^(?:class|def) ", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """Where a name of this package is registered.

    Attributes:
        module: to import.
        about: one line for lists; empty where the decorator has none.
    """

    module: str
    about: str = ""


class Registry(Generic[T]):
    """Objects of one kind by name.

    Args:
        kind: what they are, for messages: ``method``.
        package: whose files register the built-in ones; only modules below it are searched.
        decorator: what stands behind the ``@`` there. Its positional arguments must be literal strings, or constants of
            the same file: with ``described`` a name and one line about it, else one or more names.
        group: of the entry points that add more: ``petiole.methods``. The name of an entry point is the name of the thing;
            loading it either registers that name, or gives the thing itself.
        described: whether the second argument is a line about the thing.
        error: raised for an unknown name.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        decorator: str,
        group: str,
        *,
        described: bool = False,
        error: type[PetioleError] = ConfigError,
    ) -> None:
        self.kind, self.package, self.decorator, self.group = kind, package, decorator, group
        self.described, self.error = described, error
        self._known: dict[str, tuple[T, str]] = {}

    def add(self, name: str, value: T, about: str = "", *, origin: str = "") -> None:
        """Register a thing; what decorators call.

        Args:
            origin: the module that does, where it is not that of ``value``.

        Raises:
            PetioleError: the name belongs to another thing, or cannot be read from its file.
        """
        origin = origin or getattr(value, "__module__", "")
        if name in self._known:
            raise self.error(
                f"Two {self.kind}s are named {name!r}: {self._known[name][0]} and {value}. Rename one."
            )
        if origin.startswith(f"{self.package}.") and name not in self.built_in:
            raise self.error(
                f"{origin} registers the {self.kind} {name!r} under a name that is not written out. Write it as a literal "
                f"string behind @{self.decorator}."
            )
        self._known[name] = value, about

    def register(self, name: str, about: str = "") -> Callable[[V], V]:
        """Decorator: make a thing available as ``name``; both must be literal strings, as the class says."""

        def adding(value: V) -> V:
            self.add(name, cast(T, value), about)
            return value

        return adding

    @cached_property
    def built_in(self) -> Mapping[str, Source]:
        """Names that the package's own files register."""
        found: dict[str, Source] = {}
        for module, text in _files(self.package):
            for name, about in _decorations(text, self.decorator, self.described):
                if not name:
                    raise self.error(
                        f"{module} has a @{self.decorator}(...) without a name that is written out. Names are read from the "
                        "file without running it: write a literal string."
                    )
                if name in found:
                    raise self.error(
                        f"Two {self.kind}s are named {name!r}: in {found[name].module} and {module}. Rename one."
                    )
                found[name] = Source(module, about)
        return found

    def plug_ins(self) -> Mapping[str, EntryPoint]:
        """Names that other distributions add. What is built in, or registered by hand, comes before them.

        Raises:
            PetioleError: two distributions add the same name.
        """
        from importlib.metadata import entry_points

        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            if point.name in found and found[point.name].value != point.value:
                one, two = _distribution(found[point.name]), _distribution(point)
                raise self.error(
                    f"{one} and {two} both add the {self.kind} {point.name!r}. Uninstall one of them."
                )
            found[point.name] = point
        return found

    def names(self) -> tuple[str, ...]:
        """All names, sorted; imports nothing."""
        return tuple(sorted({*self.built_in, *self._known, *self.plug_ins()}))

    def __contains__(self, name: str) -> bool:
        return name in self._known or name in self.built_in or name in self.plug_ins()

    def about(self, name: str) -> str:
        """One line about a thing; imports nothing."""
        if name in self.built_in:
            return self.built_in[name].about
        if name in self._known:
            return self._known[name][1]
        point = self.plug_ins().get(name)
        return f"from {_distribution(point)}" if point else ""

    def get(self, *names: str) -> T | None:
        """The thing of the first of these names that there is, imported if need be; ``None`` if there is none.

        Built-in names are tried before plug-ins, which are looked up only if no built-in one fits.

        Raises:
            PetioleError: a plug-in fails to load, or does not register what its entry point names.
        """
        for name in names:
            if name not in self._known and name in self.built_in:
                import_module(self.built_in[name].module)
            if name in self._known:
                return self._known[name][0]
        plug_ins = self.plug_ins()
        for name in names:
            if name in plug_ins:
                self._load(plug_ins[name])
                return self._known[name][0]
        return None

    def find(self, name: str) -> T:
        """The thing of this name.

        Raises:
            PetioleError: there is none; the nearest names are listed.
        """
        found = self.get(name)
        if found is None:
            raise unknown(self.kind, name, self.names(), self.error)
        return found

    def all(self) -> dict[str, T]:
        """Everything, imported, by name."""
        return {name: self.find(name) for name in self.names()}

    def _load(self, point: EntryPoint) -> None:
        where = f"{_distribution(point)} adds the {self.kind} {point.name!r} as {point.value}"
        try:
            loaded = point.load()
        except PetioleError:
            raise
        except Exception as error:  # another's code can fail in any way
            raise self.error(
                f"{where}, which cannot be imported ({type(error).__name__}: {error}). Update or uninstall it."
            ) from error
        if point.name in self._known:
            return
        if ":" not in point.value:  # a module, which should have registered the name
            raise self.error(f"{where}, which registers no {self.kind} of that name.")
        self.add(point.name, loaded, f"from {_distribution(point)}", origin=point.module)


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an installed package"


@cache
def _files(package: str) -> tuple[tuple[str, str], ...]:
    """Module and text of every file of a package that decorates something at its top level."""
    spec = find_spec(package)
    assert spec is not None
    found = []
    for folder in map(Path, spec.submodule_search_locations or ()):
        for file in sorted(folder.rglob("*.py")):
            if "\n@" in (text := file.read_text(encoding="utf-8")):
                parts = file.relative_to(folder).with_suffix("").parts
                parts = parts[:-1] if parts[-1] == "__init__" else parts
                found.append((".".join((package, *parts)), text))
    return tuple(found)


def _decorations(text: str, decorator: str, described: bool) -> Iterator[tuple[str, str]]:
    """Names, and lines about them, of a file's decorators at top level."""
    for call in _calls(text, decorator):
        texts = [found for arg in call.args for found in _string(arg, text)]
        if described:
            yield texts[0] if texts else "", texts[1] if len(texts) > 1 else ""
        else:
            yield from ((name, "") for name in texts or ("",))


def _calls(text: str, decorator: str) -> Iterator[ast.Call]:
    """The decorators themselves.

    Only what stands between each and its definition is parsed, since whole files would take 20 times as long; they are
    where that is no Python by itself (an example in a text, say).
    """
    start = re.compile(rf"^@{re.escape(decorator)}\(", re.MULTILINE)
    nodes: list[ast.stmt] = []
    at = 0
    while found := start.search(text, at):
        end = _DEFINITION.search(text, found.start())
        at = end.start() if end else len(text)
        try:
            nodes += ast.parse(f"{text[found.start() : at]}class _: ...").body
        except SyntaxError:
            nodes = ast.parse(text).body
            break
    for node in nodes:
        for call in getattr(node, "decorator_list", ()):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == decorator:
                yield call


def _string(node: ast.expr, text: str) -> Iterator[str]:
    """The value of a literal string, or of a constant that the file sets to one; nothing for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Name):
        constant = re.search(rf"^{node.id} = (\"[^\"\n]*\")$", text, re.MULTILINE)
        if constant:
            yield str(ast.literal_eval(constant[1]))
