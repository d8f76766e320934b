"""Tests run in forks of one process that has collected them all: a fork costs milliseconds, loading twenty seconds."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MEMORY = 6 << 30
"""Bytes that a fork may map beyond what it has at its start."""
OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "-x"]
OPTIONS += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
APART = ("test_docs.py", "test_examples.py", "test_benchmarks.py", "faults")
APART += ("engine/test_together.py", "engine/test_ray.py")
"""Tests of other things than the source, or that start Python for everything that they do."""


def forked(work: Callable[[Callable[[Any], None]], None], seconds: float) -> tuple[list[Any], int]:
    """Do the work in a fork: what it says by the function that it gets, and its exit code.

    The fork gets ``seconds`` of processor time and ten times as long by the clock, folders of its own for temporary
    files, and nothing that it started outlives it.
    """
    inward, outward = os.pipe()
    place = tempfile.mkdtemp(prefix="petiole-mutant-")
    child = os.fork()
    if not child:
        _child(work, outward, place, seconds)
    os.close(outward)
    end, said, code = time.monotonic() + 10 * seconds + 30, b"", None
    os.set_blocking(inward, False)
    with os.fdopen(inward, "rb") as stream:
        while code is None:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                _end(child)
            else:
                time.sleep(0.01)
            said += stream.read() or b""
    _end(child)
    shutil.rmtree(place, ignore_errors=True)
    return [
        json.loads(line) for line in said.splitlines(keepends=True) if line.endswith(b"\n")
    ], code


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _child(work: Callable[[Any], None], outward: int, place: str, seconds: float) -> None:
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    tempfile.tempdir = os.environ["TMPDIR"] = place
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))

    def say(value: Any) -> None:
        os.write(outward, json.dumps(value).encode() + b"\n")

    code = 70
    try:
        work(say)
        code = 0
    finally:
        os._exit(code)


def spent() -> float:
    """Seconds of the processor, of this process and what it waited for."""
    return sum(os.times()[:4])


class Collected:
    """A pytest plugin that collects, and instead of running the tests does something with them.

    Args:
        then: gets the session when everything is collected.
    """

    def __init__(self, then: Callable[[pytest.Session], None]) -> None:
        self.then = then

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        with session.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            self.then(session)
        return True


def collect(tests: list[str], then: Callable[[pytest.Session], None]) -> None:
    """Collect tests in this process, and do something with them."""
    pytest.main(
        [*OPTIONS, *(f"--ignore=tests/{name}" for name in APART), *tests], plugins=[Collected(then)]
    )


def run_items(
    session: pytest.Session, items: list[pytest.Item]
) -> Iterator[tuple[str, float, bool]]:
    """Run tests in this process one after the other: (name, seconds of the processor, whether it passed)."""
    said: list[bool] = []

    class Watch:
        @staticmethod
        def pytest_runtest_logreport(report: pytest.TestReport) -> None:
            said.append(report.failed)

    session.config.pluginmanager.register(Watch())
    session.config.option.maxfail = 0
    for item, following in zip(items, [*items[1:], None], strict=False):
        begun = spent()
        said.clear()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        yield item.nodeid, spent() - begun, not any(said)
