"""Processes of their own: forks of a server that has the heavy libraries loaded, so that one costs what its work costs; and several that train together."""

from __future__ import annotations

import os
import runpy
import signal
import socket
import sys
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from weakref import finalize

LOADED = ["petiole.commands.fit", "petiole.commands.predict", "petiole.report.page_photos", "petiole.tasks.classification.task",
          "petiole.tasks.text.task", "petiole.tasks.codebook.task", "petiole.backbones.bundled.tiny_vit", "accelerate"]  # fmt: skip
"""What the server imports once; nothing in it may have run a backward pass, after which torch cannot be forked."""


class Started:
    """A process that runs, or has ended; as ``subprocess.Popen`` with its output in files.

    Args:
        process: of multiprocessing, started.
        folder: holds ``out`` and ``err``, what it writes, and goes with this object.
    """

    def __init__(self, process: BaseProcess, folder: Path) -> None:
        self._process, self._folder = process, folder
        finalize(self, rmtree, folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; ``None`` while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self.returncode

    def send_signal(self, how: signal.Signals) -> None:
        os.kill(self.pid, how)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to stdout and stderr, once it has ended."""
        self.wait(timeout)
        return (self._folder / "out").read_text(), (self._folder / "err").read_text()


def start(
    script: str,
    *words: object,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Started:
    """A process that runs a script (``-m MODULE`` for a module's main) with these arguments.

    Args:
        script: its source.
        words: arguments of its command line.
        cwd: where it works.
        environment: all of it; by default this process's.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    folder = Path(mkdtemp(prefix="petiole-process-"))
    arguments = (script, [str(w) for w in words], str(cwd or Path.cwd()), dict(environment or os.environ), folder)  # fmt: skip
    process = context.Process(target=_run, args=arguments)
    process.start()
    return Started(process, folder)


def petiole_process(
    *words: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> Started:
    """``petiole`` as a process."""
    return start("-m petiole", *words, cwd=cwd, environment=environment)


def _run(script: str, words: list[str], cwd: str, environment: dict[str, str], place: Path) -> None:
    for name, stream in (("out", 1), ("err", 2)):
        os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [script, *words]
    if script.startswith("-m "):
        runpy.run_module(script.removeprefix("-m "), run_name="__main__", alter_sys=True)
    else:
        exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def alone() -> dict[str, str]:
    """The environment of one process that trains by itself, on one core."""
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    return {**clean, "OMP_NUM_THREADS": "1"}


def two_ranks() -> list[dict[str, str]]:
    """The environments of two CPU processes that make one step together, over the loopback."""
    world = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
        "ACCELERATE_USE_CPU": "true",
    }
    return [{**alone(), **world, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
