"""Small faults in the source, drawn by chance: what is changed, where, and what is compiled instead."""

from __future__ import annotations

import ast
import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "petiole"
LEFT_OUT = {"testing", "synthetic", "claims"}
"""Rooms whose code tests others, or draws data."""

COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt} | {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult} | {
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Mult,
}  # fmt: skip
KINDS = ("general", "machine learning")
SWAPS = {"transpose", "swapaxes", "movedim"}
FREES = {"eval", "detach"}


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        file: of the source, relative to the repository.
        line: where.
        lines: first and last of the statement's own, or of the function whose default or decorator it is; what runs
            one of them may notice.
        inside: a function; otherwise it acts when the module is loaded.
        kind: general or machine learning.
        what: is changed, in words.
        number, change: of the node, and of the change of it.
    """

    file: str
    line: int
    lines: tuple[int, int]
    inside: bool
    kind: str
    what: str
    number: int
    change: int

    @property
    def name(self) -> str:
        """What it is called in the log; the same of equal sources."""
        return f"{self.file}:{self.line}:{self.number}.{self.change}: {self.what}"

    @property
    def room(self) -> str:
        """The folder below the package, or the file."""
        return Path(self.file).parts[2].removesuffix(".py")

    def code(self) -> CodeType:
        """Its module, compiled with the fault."""
        file = ROOT / self.file
        tree = ast.parse(file.read_text(encoding="utf-8"))
        node, place = list(_nodes(tree))[self.number]
        new = list(changes(node, place.statement))[self.change][2](node)
        if new is not node and new is not None:
            tree = _Replace(node, new).visit(tree)
        return compile(ast.fix_missing_locations(tree), str(file), "exec")


@dataclass(frozen=True)
class Place:
    """Where a node stands: inside a function, as a statement of its own, on which lines."""

    inside: bool = False
    statement: bool = False
    lines: tuple[int, int] = (1, 1)


Change = tuple[str, str, Callable[[Any], ast.AST | None]]
"""Kind, words, and what makes the node another one (in place or as a new node)."""


def changes(node: ast.AST, statement: bool) -> Iterator[Change]:
    """All single faults of a node."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        new = COMPARISONS[type(node.ops[0])]
        yield "general", f"comparison -> {new.__name__}", lambda n: _set(n.ops, 0, new(), n)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS and not _text(node):
        other = OPERATORS[type(node.op)]
        yield (
            "general",
            f"operator -> {other.__name__}",
            lambda n: ast.BinOp(n.left, other(), n.right),
        )
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        value = not node.value if isinstance(node.value, bool) else node.value + 1
        yield "general", f"{node.value} -> {value}", lambda n: ast.Constant(value)  # noqa: ARG005
    docstring = isinstance(getattr(node, "value", None), ast.Constant)
    if statement and isinstance(node, ast.Expr | ast.AugAssign | ast.Raise) and not docstring:
        # Dead instead of gone, so that the function's closure stays what it is (super() is one).
        yield (
            "general",
            f"dropped {ast.unparse(node)[:60]}",
            lambda n: ast.If(ast.Constant(False), [n], []),
        )
    yield from machine_learning(node)


def machine_learning(node: ast.AST) -> Iterator[Change]:
    """Faults that training and tensors invite."""
    kind = "machine learning"
    if isinstance(node, ast.With) and "no_grad()" in ast.unparse(node.items[0]):
        yield kind, "no_grad is gone", lambda n: ast.If(ast.Constant(True), n.body, [])
    for place, decorator in enumerate(getattr(node, "decorator_list", ())):
        if "no_grad" in ast.unparse(decorator):
            yield kind, "@no_grad is gone", lambda n, p=place: _drop(n, p)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    name = node.func.attr
    if name in FREES and not node.args:
        yield kind, f".{name}() is gone", lambda n: n.func.value
    if name == "requires_grad_":
        yield kind, "requires_grad_ is the opposite", lambda n: _opposite(n)
    if name in SWAPS and len(node.args) == 2:
        yield kind, f".{name}() is gone", lambda n: n.func.value
    for place, word in enumerate(node.keywords):
        if word.arg in ("dim", "axis") and (axis := _number(word.value)) is not None:
            new = {-1: 0, 0: -1, 1: 0}.get(axis, axis - 1)
            yield kind, f"{word.arg}={axis} -> {new}", (
                lambda n, p=place, a=new: _set(n.keywords, p, ast.keyword(n.keywords[p].arg, ast.Constant(a)), n)
            )  # fmt: skip


def _number(node: ast.expr) -> int | None:
    with contextlib.suppress(ValueError, TypeError):
        value = ast.literal_eval(node)
        return value if type(value) is int else None
    return None


def _text(node: ast.BinOp) -> bool:
    return any(
        isinstance(n, ast.JoinedStr) or isinstance(getattr(n, "value", 0), str)
        for n in ast.walk(node)
    )


def _set(place: list[Any], index: int, value: Any, node: ast.AST) -> ast.AST:
    place[index] = value
    return node


def _drop(node: Any, index: int) -> ast.AST:
    del node.decorator_list[index]
    return node  # type: ignore[no-any-return]


def _opposite(node: ast.Call) -> ast.AST:
    frozen = bool(node.args) and ast.unparse(node.args[0]) == "False"
    node.args, node.keywords = [ast.Constant(frozen)], []
    return node


def mutants(file: Path) -> Iterator[Mutant]:
    """Every mutant of a file; annotations, overloads and texts are left alone."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    name = file.relative_to(ROOT).as_posix()
    for number, (node, place) in enumerate(_nodes(tree)):
        for change, (kind, what, _) in enumerate(changes(node, place.statement)):
            line, lines = getattr(node, "lineno", 1), place.lines
            if isinstance(node, ast.FunctionDef):  # its decorator
                lines = node.body[0].lineno, node.end_lineno or line
            yield Mutant(name, line, lines, place.inside, kind, what, number, change)


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, ast.copy_location(new, old)

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else self.generic_visit(node)


def _nodes(tree: ast.AST, place: Place = Place()) -> Iterator[tuple[ast.AST, Place]]:
    yield tree, place
    function = isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef)
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "type_comment"):
            continue
        inside = place.inside or (name == "body" and (function or isinstance(tree, ast.Lambda)))
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                lines = _lines(child, place.lines)
                if function and name in ("args", "decorator_list"):
                    lines = tree.body[0].lineno, tree.end_lineno or 0  # type: ignore[attr-defined]
                elif isinstance(tree, ast.ClassDef) and not isinstance(child, ast.FunctionDef):
                    lines = place.lines
                statement = name in ("body", "orelse", "finalbody")
                yield from _nodes(child, Place(inside, statement, lines))


def _lines(node: ast.AST, above: tuple[int, int]) -> tuple[int, int]:
    """Those of a statement, of a compound one its head's."""
    if not isinstance(node, ast.stmt):
        return above
    body = getattr(node, "body", None)
    if isinstance(node, ast.ClassDef):
        return node.lineno, node.end_lineno or node.lineno
    last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
    return node.lineno, last


def sample(seed: int, rooms: list[str], kinds: list[str]) -> list[Mutant]:
    """All mutants in an order drawn by chance: the rooms take turns, and in each room the kinds."""
    files = [file for file in sorted(SOURCE.rglob("*.py")) if not LEFT_OUT & set(file.parts)]
    every = [found for file in files for found in mutants(file)]
    random.Random(seed).shuffle(every)
    groups: dict[str, dict[str, list[Mutant]]] = {}
    for found in every:
        if (not rooms or found.room in rooms) and (not kinds or found.kind in kinds):
            groups.setdefault(found.room, {}).setdefault(found.kind, []).append(found)
    return _in_turn([_in_turn(list(groups[room].values())) for room in sorted(groups)])


def _in_turn(rows: list[list[Mutant]]) -> list[Mutant]:
    return [found for column in zip_longest(*rows) for found in column if found]
