"""Which test runs which lines, and how long it takes: measured once for each test file, kept as lines of JSON."""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import coverage
import pytest
from forks import ROOT, forked, run_items, spent


def measure(session: pytest.Session, kept: Path, ends: float, limit: float) -> None:
    """Run every test file that is new or changed, each in a fork, and keep what each of its tests reached.

    Args:
        session: with all tests.
        kept: file of what was measured.
        ends: when to stop, by the monotonic clock.
        limit: seconds of the processor for a file; its tests after that are left out.
    """
    rows = [row for row in rows_of(kept) if row["of"] == sha256(ROOT / row["test"].split("::")[0])]
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = {row["test"] for row in rows}
    files = [(f, list(items)) for f, items in groupby(session.items, lambda item: _file(item))]
    for number, (file, items) in enumerate(sorted(files, key=lambda pair: len(pair[1])), 1):
        if file in done or time.monotonic() > ends:
            continue
        work = partial(_reached, session, items, limit)
        found, code = forked(work, 4 * limit)
        with kept.open("a") as stream:
            for row in [*found, {"test": file}]:
                stream.write(json.dumps({**row, "of": sha256(ROOT / file)}) + "\n")
        print(f"{number} of {len(files)}", file, len(found), code, flush=True)


def rows_of(kept: Path) -> list[dict[str, Any]]:
    """Of a file of JSON lines."""
    return [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []


def _file(item: pytest.Item) -> str:
    return item.nodeid.split("::")[0]


def _reached(
    session: pytest.Session, items: list[pytest.Item], limit: float, say: Callable[[Any], None]
) -> None:
    measured = coverage.Coverage(data_file=None, config_file=False, source=[str(ROOT / "src")])
    measured.start()
    measured.switch_context(items[0].nodeid)
    ran, begun = [], spent()
    for place, row in enumerate(run_items(session, items), 1):
        ran.append(row)
        if spent() - begun > limit:
            break
        measured.switch_context(items[place].nodeid if place < len(items) else "")
    measured.stop()
    data = measured.get_data()
    lines: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for file in data.measured_files():
        name = Path(file).relative_to(ROOT).as_posix()
        for line, tests in data.contexts_by_lineno(file).items():
            for test in tests:
                lines[test][name] |= 1 << line
    for test, seconds, passed in ran:
        bits = {name: f"{found:x}" for name, found in lines[test].items()}
        say({"test": test, "seconds": seconds, "passed": passed, "lines": bits})


def sha256(file: Path) -> str:
    """Of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


@dataclass
class Reach:
    """What tests reach.

    Attributes:
        lines: of a source file: each test and the lines of the file that it runs, a bit each.
        seconds: of the processor of a test.
        breadth: files that a test runs.
    """

    lines: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, float] = field(default_factory=dict)
    breadth: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, kept: Path) -> Reach:
        """Of the file that ``measure`` made; tests that did not pass say nothing."""
        reach = cls()
        for row in rows_of(kept):
            if row.get("passed"):
                reach.seconds[row["test"]] = row["seconds"]
                reach.breadth[row["test"]] = len(row["lines"])
                for file, bits in row["lines"].items():
                    reach.lines[file].append((row["test"], int(bits, 16)))
        return reach

    def tests(self, file: str, first: int, last: int, most: float) -> list[str]:
        """Those that run one of the lines: of the source's own folder for ``most`` seconds, then as long of the others.

        In both, one of each file first, and those about little else first.
        """
        mask = (1 << (last + 1)) - (1 << first)
        found = [test for test, bits in self.lines[file] if bits & mask]
        found.sort(key=lambda test: self.seconds[test] * self.breadth[test])
        own = [test for test in found if near(test, file)]
        others = [test for test in found if not near(test, file)]
        return [test for part in (own, others) for test in self._within(_spread(part), most)]

    def _within(self, tests: Iterable[str], most: float) -> Iterable[str]:
        for test in tests:
            if self.seconds[test] <= most:
                most -= self.seconds[test]
                yield test


def near(test: str, file: str) -> bool:
    """Whether a test lies in the folder of the source's room."""
    return Path(test).parts[1] == Path(file).parts[2]


def _spread(tests: list[str]) -> list[str]:
    firsts = list({test.split("::")[0]: test for test in reversed(tests)}.values())[::-1]
    return [*firsts, *(test for test in tests if test not in set(firsts))]
