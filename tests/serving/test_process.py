"""However a worker process ends, whoever waits for it hears how."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
from builders.workers import ends
from petiole.processes import how_it_ended
from petiole.serving.process import Refused, WorkerGone, WorkerProcess


def told(**setup: Any) -> str:
    """What the error says."""

    async def main() -> str:
        process = WorkerProcess(ends, lambda: setup)
        try:
            await process.start()
            await process.call({"do": "anything"})
        except (Refused, WorkerGone) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            await process.stop()
        return ""

    return asyncio.run(main())


def test_a_death_at_the_start_or_over_a_question_is_told_with_its_reason() -> None:
    short = "was ended by SIGKILL, as the kernel does where memory runs out"
    assert (
        told(ready=False, signal=signal.SIGKILL)
        == f"Refused: The process {short} before it was ready."
    )
    assert told(ready=True, signal=signal.SIGKILL) == f"WorkerGone: The process {short}."
    assert (
        told(ready=False, code=3) == "Refused: The process ended with code 3 before it was ready."
    )
    assert how_it_ended(-signal.SIGSEGV) == "was ended by SIGSEGV"


def test_a_process_that_cannot_be_made_is_no_endless_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(WorkerProcess, "_spawn", full)
    assert "cannot be started: Cannot allocate memory" in told(ready=True)
