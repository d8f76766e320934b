"""How many small faults in the source the tests notice: a sample, by room, with the survivors.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/mutation --mutants 300 --minutes 60 --folder /tmp/mutation

Rooms take turns in the sample, and in each room two kinds of mutants. General: a comparison, an operator or a constant is another, a statement is
gone. Machine learning: ``.eval()``, ``.detach()`` or ``no_grad`` are gone, an axis is another, what is frozen is not.

The repository is copied into --folder first, so that it may be edited meanwhile; after changes of the source, take another
folder. One process loads everything and collects the tests. First each test file runs once, undisturbed, in a fork, and the
lines that each of its tests reaches are kept in --folder. Then each mutant gets a fork of its own, in which the code of the
changed function is exchanged, and the tests that reach its line: those of its room's folder up to --seconds of processor
time, then others for as long. A fault that acts when
a module is loaded (a default, a decorator, a constant of the module) is tried in a fork in which nothing of the library is
loaded yet. A mutant is killed when a test fails, or ends no more; a test that also fails without the mutant says nothing.

A survivor may be alive because its tests were not measured, or take longer: ``--whole`` tries those again by all tests of
the files that name their module.

What only a process of its own would run does not see a mutant. Stop it whenever you like: the next call goes on.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from forks import OPTIONS, ROOT, collect, forked, run_items
from mutants import KINDS, Mutant, sample
from reach import Reach, measure, near, rows_of
from scipy.stats import binomtest

AFRESH = 50
"""Tests at most of a mutant whose module is loaded afresh: their files have to be collected again."""
SNAPSHOT = "tests/test_defaults.py"
"""Reads constants and defaults of every module, and so no line of a function: of what acts at loading it is always among the tests."""

LIMIT = 300.0
"""Seconds of the processor at most for the tests of one mutant."""

Functions = dict[str, list[FunctionType]]


def functions() -> Functions:
    """All of the library that are loaded, by their file."""
    found: Functions = defaultdict(list)
    for value in gc.get_objects():
        if type(value) is FunctionType and "/src/petiole/" in value.__code__.co_filename:
            found[Path(value.__code__.co_filename).relative_to(ROOT).as_posix()].append(value)
    return found


def _codes(code: CodeType) -> dict[tuple[str, int], list[CodeType]]:
    """All code in a module's by qualified name and first line."""
    found: dict[tuple[str, int], list[CodeType]] = defaultdict(list)
    waiting = [code]
    while waiting:
        for constant in waiting.pop().co_consts:
            if isinstance(constant, CodeType):
                found[constant.co_qualname, constant.co_firstlineno].append(constant)
                waiting.append(constant)
    return found


def exchanges(code: CodeType, loaded: list[FunctionType]) -> list[tuple[FunctionType, CodeType]]:
    """What of a module's loaded functions has other code in its mutant; nothing where that cannot be told or set."""
    codes, found = _codes(code), []
    for function in loaded:
        old = function.__code__
        new = codes.get((old.co_qualname, old.co_firstlineno), [])
        if old not in new:
            if len(new) != 1 or new[0].co_freevars != old.co_freevars:
                return []
            found.append((function, new[0]))
    return found


def nearest(file: str, tests: set[str]) -> set[str]:
    """Files of tests that name a module of the source, or import from its package what is called so."""
    module = file.removeprefix("src/").removesuffix(".py").replace("/", ".")
    package, _, stem = module.rpartition(".")
    wanted = re.compile(
        rf"\b{re.escape(module)}\b|from {re.escape(package)} import [^\n]*\b{stem}\b"
    )
    return {name for name in tests if wanted.search((ROOT / name).read_text(encoding="utf-8"))}


class Trials:
    """Tries mutants and keeps what came of each.

    Args:
        reach: what tests reach.
        seconds: of the processor for the tests of one mutant.
        ends: when to stop, by the monotonic clock.
        again: try survivors again.
        whole: with all tests of the files that name their module.
        log: of what was found, a line of JSON a mutant.
    """

    def __init__(
        self,
        reach: Reach,
        seconds: float,
        ends: float,
        log: Path,
        *,
        again: bool,
        whole: bool = False,
    ) -> None:
        self.reach, self.seconds, self.ends, self.log = reach, seconds, ends, log
        self.again, self.whole = again or whole, whole
        self.rows = rows_of(log)
        self.honest: dict[str, bool] = {}

    def left(self, mutants: list[Mutant]) -> list[Mutant]:
        """Those without a row; with ``again`` those too that survived."""
        known = {row["mutant"] for row in self.rows if row["by"] or not self.again}
        return [mutant for mutant in mutants if mutant.name not in known]

    def keep(self, mutant: Mutant, by: str, tests: int, used: float) -> None:
        """Write what came of one; ``by`` is empty for a survivor."""
        row = {"mutant": mutant.name, "room": mutant.room, "kind": mutant.kind, "by": by}
        self.rows.append({**row, "tests": tests, "seconds": round(used, 1)})
        with self.log.open("a") as stream:
            stream.write(json.dumps(self.rows[-1]) + "\n")
        print(
            f"{'killed  ' if by else 'SURVIVED'} {mutant.name} [{tests} tests, {used:.1f} s]",
            flush=True,
        )

    def in_session(self, session: pytest.Session, mutants: list[Mutant]) -> None:
        """Exchange code in forks of the process that collected the tests."""
        items, loaded = {item.nodeid: item for item in session.items}, functions()
        gc.freeze()
        for mutant in mutants:
            if time.monotonic() > self.ends:
                return
            begun = time.monotonic()
            if self.whole:
                files = nearest(mutant.file, {name.split("::")[0] for name in items})
                chosen = [item for name, item in items.items() if name.split("::")[0] in files]
            else:
                names = self.reach.tests(mutant.file, *mutant.lines, self.seconds)
                chosen = [items[name] for name in names if name in items]
            changed = exchanges(mutant.code(), loaded[mutant.file])
            if loaded[mutant.file] and not changed:
                continue  # it is loaded afresh instead

            def put(mutant: Mutant = mutant, changed: Any = changed) -> None:
                for function, code in changed:
                    function.__code__ = code
                _load_instead(mutant)  # what no test has loaded yet

            by = self.failing(session, chosen, put)
            if by in items and by not in self.honest:
                before = chosen[: chosen.index(items[by]) + 1]
                self.honest[by] = not self.failing(session, before, lambda: None)
            self.keep(
                mutant,
                by if self.honest.get(by, True) else "",
                len(chosen),
                time.monotonic() - begun,
            )

    def failing(self, session: pytest.Session, items: list[pytest.Item], before: Any) -> str:
        """The first of the tests that fails in a fork, "time" where one ends no more, or ""."""

        def work(say: Any) -> None:
            before()
            for name, _, passed in run_items(session, items):
                if not passed:
                    say(name)
                    return

        known = [self.reach.seconds.get(item.nodeid, LIMIT) for item in items]
        said, code = forked(work, min(LIMIT, 3 * sum(known) + 5))
        return said[0] if said else "time" if code else ""

    def afresh(self, mutants: list[Mutant]) -> None:
        """Load the mutant's module in forks in which nothing of the library is loaded."""
        for mutant in mutants:
            if time.monotonic() > self.ends:
                return
            begun = time.monotonic()
            names = self.reach.tests(mutant.file, *mutant.lines, self.seconds)[:AFRESH]
            names = names or self.reach.tests(mutant.file, 1, 10_000, self.seconds)[:AFRESH]
            snapshot = [one for one in self.reach.seconds if one.startswith(SNAPSHOT)]
            names = [*snapshot, *(one for one in names if one not in snapshot)]

            def work(say: Any, mutant: Mutant | None = mutant, names: list[str] = names) -> None:
                if mutant:
                    _load_instead(mutant)
                say(int(pytest.main([*OPTIONS, *names])))

            limit = 3 * sum(map(self.reach.seconds.__getitem__, names)) + 60
            said, code = forked(work, limit)
            by = "" if said == [0] else "loading" if said else "time" if code else ""
            if by and forked(lambda say: work(say, None), limit)[0] != [0]:
                by = ""
            self.keep(mutant, by, len(names), time.monotonic() - begun)


def _load_instead(mutant: Mutant) -> None:
    given, file = SourceFileLoader.get_code, ROOT / mutant.file

    def get_code(self: Any, name: str) -> Any:
        return mutant.code() if Path(self.path) == file else given(self, name)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown, by room and kind: how many tests of the room's own folder noticed, how many any test, of those that one reaches.

    Then the share with Wilson's 95 % interval, how many no test reaches; and the survivors.
    """
    heads = ("General: own tests", "All tests", "Machine learning: own tests", "All tests")
    lines = [f"| Room | {' | '.join(heads)} | Per cent | Reached by no test |"]
    lines.append("|---" + "|---:" * 6 + "|")
    for room in [*sorted({row["room"] for row in rows}), ""]:
        here = [row for row in rows if room in ("", row["room"])]
        tried, cells = [row for row in here if row["tests"]], []
        for kind in KINDS:
            of = [row for row in tried if row["kind"] == kind]
            own = sum(_by_own(row) for row in of)
            cells += [f"{own} of {len(of)}", f"{sum(bool(row['by']) for row in of)}"]
        seen = sum(bool(row["by"]) for row in tried)
        low, high = binomtest(seen, len(tried)).proportion_ci(method="wilson") if tried else (0, 1)
        cells.append(f"{seen / max(1, len(tried)):.0%} [{low:.0%}, {high:.0%}]".replace("%", ""))
        lines.append(f"| {room or '**All**'} | {' | '.join(cells)} | {len(here) - len(tried)} |")
    alive = [f"{row['mutant']} [{row['tests']} tests]" for row in rows if not row["by"]]
    return "\n".join([*lines, "", *alive])


def _by_own(row: dict[str, Any]) -> bool:
    return "::" in row["by"] and near(row["by"], row["mutant"])


def _warm() -> None:
    """Load what every test loads, and of the library itself nothing."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]
    for name in ("coverage", "petiole.cli", "petiole.testing", "petiole.commands.fit"):
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] == "petiole"]:
        del sys.modules[name]


def _go_on_in_a_copy(folder: Path) -> None:
    """Of the repository as it is now, so that it may be edited meanwhile."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    shutil.rmtree(copy := folder / "repository", ignore_errors=True)
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    here = Path(__file__).parent.relative_to(ROOT)
    os.execv(sys.executable, [sys.executable, str(copy / here), *sys.argv[1:]])


def main() -> None:
    """Measure what tests reach, try mutants, print the table and the survivors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument(
        "--seconds", type=float, default=30, help="of processor time for the tests of a mutant"
    )
    parser.add_argument(
        "--file-seconds",
        type=float,
        default=6,
        help="of processor time for a file whose reach is measured",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--without",
        type=Path,
        nargs="*",
        default=[],
        help="mutants.jsonl of draws that tests were written after",
    )
    parser.add_argument("--rooms", nargs="*", default=[], help="of the source; all of them else")
    parser.add_argument("--kinds", nargs="*", default=[], choices=KINDS)
    parser.add_argument(
        "--acts", choices=("inside", "loading"), help="inside functions, or when a module is loaded"
    )
    parser.add_argument(
        "--tests", nargs="*", default=["tests"], help="files or folders of tests that may notice"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("build/mutation"), help="keeps what was found"
    )
    parser.add_argument(
        "--again", action="store_true", help="try survivors again, after tests were added"
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="try survivors again by all tests of the files that name their module",
    )
    args = parser.parse_args()
    ends = time.monotonic() + 60 * args.minutes
    args.folder.mkdir(parents=True, exist_ok=True)
    folder = args.folder.resolve()
    if folder not in ROOT.parents:
        _go_on_in_a_copy(folder)
    os.chdir(ROOT)
    _warm()
    seen = {row["mutant"] for file in args.without for row in rows_of(file)}
    drawn = sample(args.seed, args.rooms, args.kinds)
    acting = [one for one in drawn if args.acts in (None, "inside" if one.inside else "loading")]
    chosen = [mutant for mutant in acting if mutant.name not in seen][: args.mutants]
    inside = [mutant for mutant in chosen if mutant.inside]

    def apart(work: Any) -> None:  # so that this process stays without the library
        if not (child := os.fork()):
            collect(args.tests, work)
            os._exit(0)
        os.waitpid(child, 0)

    third = time.monotonic() + 20 * args.minutes
    if not args.whole:
        apart(lambda session: measure(session, folder / "reach.jsonl", third, args.file_seconds))

    def trials() -> Trials:
        return Trials(
            Reach.read(folder / "reach.jsonl"),
            args.seconds,
            ends,
            folder / "mutants.jsonl",
            again=args.again,
            whole=args.whole,
        )

    def inner(session: pytest.Session) -> None:
        here = trials()
        here.in_session(session, here.left(inside))

    apart(inner)
    last = trials()
    if not args.whole:  # what acts at loading has been tried by what reads it
        last.afresh(last.left(chosen))
    found = {row["mutant"]: row for row in last.rows}  # the last of each
    print(table([found[mutant.name] for mutant in chosen if mutant.name in found]))


if __name__ == "__main__":
    main()
