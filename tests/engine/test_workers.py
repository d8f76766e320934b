"""What a worker process sets up, and what Ray is asked for: without starting one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from builders.ray import FakeRay
from petiole.engine import executor, ray_executor
from petiole.engine.executor import EXECUTORS, Local
from petiole.engine.ray_executor import Ray
from petiole.errors import ConfigError


def test_a_worker_has_one_thread_and_waits_for_its_parents_end(
    set_up: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Thread:
        def __init__(self, target: Any, args: list[Any], daemon: bool) -> None:
            self.what = target, args, daemon

        def start(self) -> None:
            set_up.append(self.what)

    monkeypatch.setattr(executor, "Thread", Thread)
    monkeypatch.setattr(executor, "parent_process", lambda: "parent")
    executor._begin()
    assert set_up == [(executor._end_with, ["parent"], True), "allocator", ("threads", 1)]


def test_it_ends_when_its_parent_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(os, "_exit", lambda code: done.append(code))
    executor._end_with(None)
    assert done == []
    executor._end_with(SimpleNamespace(join=lambda: done.append("joined")))  # type: ignore[arg-type]
    assert done == ["joined", 1]


def test_so_many_workers_begin_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Pool:
        def __init__(self, *given: Any, **more: Any) -> None:
            made.append((given, more))

        def map(self, work: Callable[[int], int], jobs: list[int]) -> Iterator[int]:
            return map(work, jobs)

        def shutdown(self, **_: Any) -> None: ...

    monkeypatch.setattr(executor, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(executor, "_context", lambda: "context")
    assert list(Local(processes=1).map(abs, [-1])) == [1]
    assert made == []
    two = Local(processes=2)
    assert [list(two.map(abs, [-1, -2])), list(two.map(abs, [-3]))] == [[1, 2], [3]]
    assert made == [((2, "context"), {"initializer": executor._begin})]
    assert (two.places, Local().places) == (2, 1)


@pytest.mark.parametrize(
    ("platform", "cuda"), [("linux", False), ("linux", True), ("darwin", False)]
)
def test_workers_are_forks_of_a_server_where_that_is_safe(
    platform: str, cuda: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    server = SimpleNamespace(set_forkserver_preload=loaded.extend)
    monkeypatch.setattr(executor, "get_context", lambda how: server if how == "forkserver" else how)
    monkeypatch.setattr(executor.sys, "platform", platform)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    safe = (platform, cuda) == ("linux", False)
    assert executor._context() == (server if safe else "spawn")
    assert ("petiole.engine.executor" in loaded) == safe
    assert all(name.startswith("petiole.") for name in loaded)


def test_many_runs_are_refused_where_processes_train_one_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were started to train one model") as caught:
        executor.executor("local")
    assert caught.value.everywhere
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert executor.executor("local", processes=3) == Local(processes=3)


# --- Ray ---------------------------------------------------------------------------------------------


def test_without_ray_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'petiole\[ray\]'"):
        Ray()


@pytest.mark.usefixtures("here")
def test_places_and_nodes_are_those_on_which_a_job_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        {"NodeID": name, "Alive": alive, "Resources": {"CPU": cores} if cores else {}}
        for name, alive, cores in (("a", True, 4), ("b", True, 2), ("c", False, 8), ("d", True, 0))
    ]
    cluster = SimpleNamespace(cluster_resources=lambda: {"CPU": 7.0}, nodes=lambda: nodes)
    asked: list[Any] = []
    monkeypatch.setattr(ray_executor, "connected", lambda at: (asked.append(at), cluster)[1])
    assert [Ray(run_cpus=n).places for n in (1, 2, 3.5, 8)] == [7, 3, 2, 1]
    assert Ray("host:1").total("GPU") == 0
    assert [Ray(run_cpus=n).nodes() for n in (1, 2, 3)] == [["a", "b"], ["a", "b"], ["a"]]
    assert Ray(run_cpus=0).nodes() == ["a", "b", "d"]
    assert asked[4] == "host:1"
    assert EXECUTORS.find("ray") is Ray


QUIET = {"log_to_driver": False, "logging_level": "warning"}


@pytest.mark.parametrize(
    ("address", "known", "asked", "more"),
    [
        (None, None, "local", {"include_dashboard": False}),
        (None, "there:1", "there:1", {}),
        ("here:2", "there:1", "here:2", {}),
    ],
)
def test_a_cluster_is_asked_for_once_and_quietly(
    address: str | None,
    known: str | None,
    asked: str,
    more: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("RAY_ADDRESS", known), ("RAY_USAGE_STATS_ENABLED", None)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert ray_executor.connected(address) is ray
    assert ray.asked == [((asked,), {**more, **QUIET})]
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")  # it was not there before
    monkeypatch.setitem(sys.modules, "ray", begun := FakeRay(begun=True))
    assert ray_executor.connected(address) is begun
    assert begun.asked == []


def test_no_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    fails = ConnectionError(" nobody answers\nand a trace")
    monkeypatch.setitem(sys.modules, "ray", FakeRay(fails=fails))
    for address, said in ((None, "this machine"), ("here:2", "here:2")):
        with pytest.raises(ConfigError, match=rf"answers at {said}: nobody answers Start one"):
            ray_executor.connected(address)


def test_a_worker_of_ray_works_where_the_command_was_given(set_up: list[Any]) -> None:
    assert ray_executor._begin(abs, -3, "/there", 2) == 3
    assert set_up == ["allocator", ("in", "/there"), ("threads", 2)]
