"""Ctrl-C, memory, rates and seeds of a device, what is long, the bar."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from petiole.engine import memory, utilisation
from petiole.engine.interrupt import stoppable
from petiole.engine.memory import peak_memory
from petiole.engine.progress import progress
from petiole.engine.trainer import seed_device

CPU = torch.device("cpu")
CUDA: Any = SimpleNamespace(type="cuda")
"""As much of a device as is asked for its kind."""


def test_the_first_ctrl_c_is_noted_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stoppable() as pressed:
        assert not pressed()
        signal.raise_signal(signal.SIGINT)
        assert pressed()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_nothing_is_caught() -> None:
    found: list[Any] = []

    def work() -> None:
        with stoppable() as pressed:
            found.append((pressed(), signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def test_the_peak_of_a_gpu_is_what_torch_allocated_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 3 * 2**20)
    with peak_memory(CUDA) as peak:
        assert peak() == 3.0
    assert asked == [CUDA]


def test_without_a_mark_that_can_be_reset_it_is_that_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[bool] = []
    monkeypatch.setattr(memory, "release_memory", lambda: released.append(True))
    monkeypatch.setattr(memory, "_RESET", tmp_path)  # no file
    usage = SimpleNamespace(ru_maxrss=2048)
    monkeypatch.setattr(memory.resource, "getrusage", lambda _: usage)
    with peak_memory(CPU) as peak:
        assert peak() == 2.0
    monkeypatch.setattr(memory, "_RESET", tmp_path / "reset")
    monkeypatch.setattr(memory, "_STATUS", status := tmp_path / "status")
    status.write_text("VmPeak: 9 kB\nVmHWM:\t 5120 kB\n")
    with peak_memory(CPU) as peak:
        assert peak() == 5.0
    assert (tmp_path / "reset").read_text() == "5"
    assert released == [True, True]


@pytest.mark.parametrize(("device", "side"), [("cpu", 1024), ("cuda:1", 8192)])
def test_the_rate_of_a_product_is_that_of_its_best_time(
    device: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def ones(*shape: int, **how: Any) -> torch.Tensor:
        made.append((shape, how))
        return torch.full((2, 2), 2.0)

    def best(work: Callable[[], torch.Tensor], on: str) -> float:
        assert work().tolist() == [[8.0, 8.0], [8.0, 8.0]]
        return 0.5 if on == device else 0.0

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(utilisation, "best_seconds", best)
    rate = utilisation.product_rate.__wrapped__(device, torch.bfloat16)
    assert rate == 4 * side**3
    assert made == [((side, side), {"dtype": torch.bfloat16, "device": device})]


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_the_best_of_five_times_is_taken(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 4.0, 10.0, 12.0, 20.0, 21.0, 30.0, 33.0, 40.0, 45.0])
    monkeypatch.setattr(utilisation.time, "perf_counter", lambda: next(times))
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", done.append)
    assert utilisation.best_seconds(lambda: done.append("work"), device) == 1.0
    assert done == (["work"] if device == "cpu" else ["work", device]) * 5
    assert next(times, None) is None


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_dropout_of_a_device_has_its_seed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    with torch.random.fork_rng(devices=[]):
        seed_device(SimpleNamespace(type=kind), 7)  # type: ignore[arg-type]
        own = torch.rand(2)
        torch.default_generator.manual_seed(7)
        assert torch.equal(own, torch.rand(2))
    assert seeds == ([7] if kind == "cuda" else [])


def test_a_bar_is_shown_by_the_main_process_where_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[Any] = []

    class Bar:
        def __init__(self, *_: object, disable: bool, transient: bool, **__: object) -> None:
            shown.append((disable, transient))

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None: ...

        def add_task(self, label: str, **how: object) -> int:
            shown.append((label, how))
            return 3

        def advance(self, task: int, by: int) -> None:
            shown.append((task, by))

        def update(self, task: int, note: str) -> None:
            shown.append((task, note))

    monkeypatch.setattr("petiole.engine.progress.Progress", Bar)
    with progress("images", 5) as advance:
        advance()
        advance(2, "loss 1")
    assert shown == [
        (False, True), ("images", {"total": 5, "note": ""}), (3, 1), (3, 2), (3, "loss 1")
    ]  # fmt: skip
    for quiet, main in ((True, True), (False, False)):
        shown.clear()
        monkeypatch.setattr("petiole.engine.progress.is_main", lambda main=main: main)
        with progress("images", 5, quiet=quiet):
            assert shown[0] == (True, True)


@pytest.mark.parametrize(("seconds", "measured"), [(utilisation.LONG, True), (4.9, False)])
def test_a_training_of_five_seconds_is_long(
    seconds: float, measured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.dtype] = []

    def rate(_: str, dtype: torch.dtype) -> float:
        asked.append(dtype)
        return 8.0

    monkeypatch.setattr(utilisation, "product_rate", rate)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found = utilisation.utilisation(lambda: 20.0, seconds, CPU, precision)
        assert found == ((4.0, 0.5) if measured else (None, None))
        assert asked == ([dtype] if measured else [])
        asked.clear()
