"""How many small faults in the source the tests notice: a sample, by room, with the survivors.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/mutation.py --mutants 300 --minutes 60

Two kinds of mutants, half of the sample each. General: a comparison, an operator or a constant is another, a statement is
gone. Machine learning: ``.eval()``, ``.detach()`` or ``no_grad`` are gone, an axis is another, what is frozen is not. Each
is tried by the test files nearest to its module (those that import it, then those of its name, then of its folder), as
many as fit into --seconds of processor time, in a fork of one process that has other libraries loaded. A mutant is killed when
a test fails or ends no more. What only a process of its own would run (the command line's) does not see the mutant. Test
files that fail undisturbed say nothing.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import importlib.machinery
import math
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE, TESTS = ROOT / "src" / "petiole", ROOT / "tests"
LEFT_OUT = {"testing", "synthetic", "claims"}
"""Rooms whose code tests others, or draws data."""

COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt} | {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult} | {
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Mult,
}  # fmt: skip
SWAPS = {"transpose", "swapaxes", "movedim"}
FREES = {"eval", "detach"}


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        file: of the source.
        line: where.
        kind: general or machine learning.
        what: is changed, in words.
        source: of the file with it.
    """

    file: Path
    line: int
    kind: str
    what: str
    source: str

    @property
    def module(self) -> str:
        """Its dotted name."""
        return ".".join(("petiole", *self.file.relative_to(SOURCE).with_suffix("").parts))

    @property
    def room(self) -> str:
        """The folder below the package, or the file."""
        return self.file.relative_to(SOURCE).parts[0].removesuffix(".py")


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
        yield "general", f"dropped {ast.unparse(node)[:60]}", lambda n: ast.Pass()  # noqa: ARG005
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


def mutants(file: Path) -> Iterator[tuple[str, Callable[[], Mutant]]]:
    """(kind, what makes it) of every mutant of a file; annotations, overloads and texts are left alone."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for number, (node, statement) in enumerate(_nodes(tree)):
        for index, (kind, what, _) in enumerate(changes(node, statement)):
            yield kind, lambda n=number, i=index, k=kind, w=what: _made(file, n, i, k, w)  # type: ignore[misc]


def _made(file: Path, number: int, index: int, kind: str, what: str) -> Mutant:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    node, statement = list(_nodes(tree))[number]
    change = list(changes(node, statement))[index][2]
    new = change(node)
    if new is not node and new is not None:
        _Replace(node, new).visit(tree)
    source = ast.unparse(ast.fix_missing_locations(tree))
    return Mutant(file, getattr(node, "lineno", 0), kind, what, source)


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return copy.copy(self.new) if node is self.old else self.generic_visit(node)


def _nodes(tree: ast.AST, statement: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    yield tree, statement
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield from _nodes(child, name in ("body", "orelse", "finalbody"))


def tests_of(module: str) -> list[Path]:
    """Test files, the nearest first."""
    *above, last = module.split(".")
    package = ".".join(above)

    def distance(file: Path) -> tuple[int, bool, int]:
        text = _content(file)
        near = 9
        if module in text or (f"from {package} import" in text and last in text):
            near = 0
        elif last in file.stem:
            near = 1
        elif above[-1] in file.parts or package in text:
            near = 2
        return near, last not in file.stem, text.count("petiole.")  # those about little else first

    ranked = sorted(TESTS.rglob("test_*.py"), key=lambda file: (*distance(file), file.name))
    return [file for file in ranked if distance(file)[0] < 9]


@cache
def _content(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def outcome(file: Path, most: float, mutant: Mutant | None = None) -> tuple[str, float]:
    """How a test file ends in a fork (passed, failed or late), and its seconds of processor time."""
    child = os.fork()
    if not child:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(most), math.ceil(most) + 1))
        if mutant:
            _install(mutant)
        import pytest

        words = ["-x", "-q", "-p", "no:cacheprovider"]
        words += ["-W", "ignore::pytest.PytestAssertRewriteWarning", str(file)]
        os._exit(min(int(pytest.main(words)), 100))
    end = time.monotonic() + 10 * most + 60  # a test that waits for ever takes no processor time
    while time.monotonic() < end:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            how = "late" if code < 0 else "failed" if code else "passed"
            return how, used.ru_utime + used.ru_stime
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "late", most


def _install(mutant: Mutant) -> None:
    """Let the import system give the mutant for its module."""
    loader, given = (
        importlib.machinery.SourceFileLoader,
        importlib.machinery.SourceFileLoader.get_code,
    )

    def get_code(self: Any, name: str) -> Any:
        if Path(self.path) == mutant.file:
            return compile(mutant.source, self.path, "exec")
        return given(self, name)

    loader.get_code = get_code  # type: ignore[method-assign]


@cache
def seconds_of(file: Path) -> float:
    """What a test file takes undisturbed; infinite where it fails."""
    how, seconds = outcome(file, 300)
    return seconds if how == "passed" else math.inf


def killed(mutant: Mutant, left: float) -> bool:
    """Whether the nearest tests notice a mutant; a file that does not pass is run undisturbed too, once for all mutants."""
    for file in tests_of(mutant.module):
        how, took = outcome(file, left, mutant)
        if how == "failed" and seconds_of(file) < math.inf:
            return True
        if how == "late" and 3 * seconds_of(file) + 5 < left:
            return True
        if (left := left - took) < 1:
            return False
    return False


def sample(seed: int, count: int, rooms: list[str]) -> Iterator[Mutant]:
    """Mutants of both kinds in turn, drawn from all of the source."""
    files = sorted(
        file
        for file in SOURCE.rglob("*.py")
        if not LEFT_OUT & set(file.parts)
        and (not rooms or file.relative_to(SOURCE).parts[0] in rooms)
    )
    every = [found for file in files for found in mutants(file)]
    rng = random.Random(seed)
    rng.shuffle(every)
    kinds = [[make for kind, make in every if kind == k] for k in ("general", "machine learning")]
    print(
        f"{len(kinds[0]):,} general and {len(kinds[1]):,} machine-learning mutants in {len(files)} files"
    )
    chosen = [make for pair in zip(*kinds, strict=False) for make in pair][:count]
    return (make() for make in chosen)


def main() -> None:
    """Draw, try, print the table and the survivors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument(
        "--seconds", type=float, default=30, help="of processor time for the tests of a mutant"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="*", default=[])
    args = parser.parse_args()
    _warm()
    end, counts, survivors = (
        time.monotonic() + 60 * args.minutes,
        Counter[tuple[str, str, bool]](),
        [],
    )
    for mutant in sample(args.seed, args.mutants, args.rooms):
        if time.monotonic() > end:
            break
        dead = killed(mutant, args.seconds)
        counts[mutant.room, mutant.kind, dead] += 1
        where = f"{mutant.file.relative_to(ROOT)}:{mutant.line}: {mutant.what}"
        survivors += [] if dead else [f"{mutant.kind:16} {where}"]
        print("killed  " if dead else "SURVIVED", where, flush=True)
    rooms = sorted({room for room, _, _ in counts})
    print("\n| Room | General | Machine learning |\n|---|---:|---:|")
    for room in [*rooms, ""]:
        cells = []
        for kind in ("general", "machine learning"):
            dead, alive = (
                sum(
                    n
                    for (r, k, d), n in counts.items()
                    if k == kind and d is state and room in ("", r)
                )
                for state in (True, False)
            )
            cells.append(f"{dead} of {dead + alive}" if dead + alive else "")
        print(f"| {room or '**All**'} | {' | '.join(cells)} |")
    print("\nSurvivors:", *survivors, sep="\n  ")


def _warm() -> None:
    """Load what every test loads, and of the library itself nothing."""
    os.chdir(ROOT)
    sys.path.insert(0, str(TESTS))
    for name in ("pytest", "petiole.cli", "petiole.testing", "petiole.commands.fit"):
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] == "petiole"]:
        del sys.modules[name]


if __name__ == "__main__":
    main()
