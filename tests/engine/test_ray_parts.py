"""What of the Ray executor needs no cluster: where jobs go, how often one begins again, and what is left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from petiole.engine import ray_executor
from petiole.engine.executor import executor
from petiole.engine.ray_executor import Ray, homes, resumed
from petiole.errors import ConfigError, DataError, RunError


class Lost(Exception):
    """What Ray raises where a worker died."""


class Failed(Exception):
    """What it raises where the work did."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


class Cluster:
    """As much of Ray as the executor asks for: tasks run when they are waited for, the last one first."""

    exceptions = SimpleNamespace(RayTaskError=Failed, RayError=Lost)

    def __init__(self) -> None:
        self.tasks: list[Callable[[], Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.cancelled: list[int] = []
        self.awaited: list[Any] = []
        self.given: list[Any] = []

    def begin(self, work: Callable[[Any], Any], job: Any, *given: Any) -> Any:
        self.given.append(given)
        return work(job)

    def remote(self, begin: Callable[..., Any]) -> Any:
        def options(**given: Any) -> Any:
            self.asked.append(given)

            def submit(*args: Any) -> int:
                self.tasks.append(lambda: begin(*args))
                return len(self.tasks) - 1

            return SimpleNamespace(remote=submit)

        return SimpleNamespace(options=options)

    def wait(self, tasks: Sequence[int], **how: Any) -> Any:
        self.awaited.append((list(tasks), how))
        return [tasks[-1]], tasks[:-1]

    def get(self, task: int) -> Any:
        assert task < 20, "a job begins again without end"
        return self.tasks[task]()

    def cancel(self, task: int) -> None:
        self.cancelled.append(task)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(ray_executor, "find_spec", lambda _: "there")
    monkeypatch.setattr(ray_executor, "connected", lambda _: made)
    monkeypatch.setattr(ray_executor, "_begin", made.begin)
    monkeypatch.setattr(ray_executor, "_rather_at", lambda node: node)
    monkeypatch.setattr(Ray, "nodes", lambda _: ["x", "y"])
    return made


@dataclass(frozen=True)
class Job:
    """Of a task, dying until it is resumed, or always."""

    name: str = ""
    task: Any = None
    dies: bool = False
    always: bool = False
    resume: bool = False


def work(job: Job) -> str:
    if job.always or (job.dies and not job.resume):
        raise Lost("the node is gone\nand more")
    if job.name == "bad":
        raise Failed(DataError("bad is no image."))
    return job.name


def test_results_come_in_order_and_a_lost_job_begins_again(cluster: Cluster) -> None:
    jobs = [Job("a"), Job("b", dies=True), Job("c")]
    assert list(Ray().map(work, jobs)) == ["a", "b", "c"]
    assert len(cluster.tasks) == 4
    assert cluster.cancelled == []
    assert [how for _, how in cluster.awaited] == [{"num_returns": 1}] * 4, "of one at a time"


@pytest.mark.parametrize("retries", [0, 2])
def test_a_job_that_is_always_lost_ends_the_work_after_its_retries(
    cluster: Cluster, retries: int
) -> None:
    with pytest.raises(RunError, match=rf"lost its worker or node {retries + 1} times: the node is gone Look"):  # fmt: skip
        list(Ray(retries=retries).map(work, [Job("a"), Job(always=True)]))
    assert len(cluster.tasks) == 2 + retries
    assert cluster.cancelled == [0]
    assert cluster.awaited[-1] == ([0], {"num_returns": 1, "timeout": ray_executor.STOPPING})


def test_an_error_of_the_work_keeps_its_type(cluster: Cluster) -> None:
    with pytest.raises(DataError, match=r"bad is no image"):
        list(Ray().map(work, [Job("bad"), Job("b")]))
    assert cluster.cancelled == []


@dataclass(frozen=True)
class On:
    """As much of a task as says where it is trained."""

    device: str


def test_what_a_job_is_given(cluster: Cluster) -> None:
    tasks = ("t", On("cpu"), On("cuda:1"))
    list(Ray(run_cpus=2).map(work, [Job(task=one) for one in tasks]))
    assert [one["num_cpus"] for one in cluster.asked] == [2, 2, 2]
    assert [one["num_gpus"] for one in cluster.asked] == [0, 0, 1]
    assert {one["max_retries"] for one in cluster.asked} == {0}
    assert [one["scheduling_strategy"] for one in cluster.asked] == homes(tasks, "xy")
    assert cluster.given == [(os.getcwd(), 2)] * 3
    list(Ray(run_cpus=0.5).map(work, [Job()]))
    assert cluster.given[3:] == [(os.getcwd(), 1)]
    assert [Ray().gpus_on(name) for name in ("cpu", "cpu:0", "cuda:1")] == [0, 0, 1]
    assert Ray(run_gpus=0.5).gpus_on("cpu") == 0.5


def test_a_node_is_preferred_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere a job runs where its node is lost or has no room."""
    asked = ModuleType("ray.util.scheduling_strategies")
    asked.NodeAffinitySchedulingStrategy = lambda *of, **how: (of, how)  # type: ignore[attr-defined]
    for name, module in (("ray", ModuleType("ray")), ("ray.util", ModuleType("ray.util")), (asked.__name__, asked)):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    wanted = (("x",), {"soft": True, "_spill_on_unavailable": True})
    assert ray_executor._rather_at("x") == wanted
    assert ray_executor._rather_at(None) is None


def test_only_what_can_be_resumed_is() -> None:
    assert resumed(Job()).resume
    assert resumed("job") == "job"
    assert resumed(Job) is Job


@pytest.mark.parametrize(
    ("groups", "nodes", "found"),
    [
        ("aaab", "x", [None] * 4),
        ("aaa", "xyz", [None] * 3),
        ("aab", "xy", ["x", "x", "y"]),
        ("aaaabb", "xyz", ["x", "z", "x", "z", "y", "y"]),
        ("aaabb", "xyzw", ["x", "z", "x", "y", "w"]),
        ("aaabbc", "xy", ["x", "x", "x", "y", "y", "y"]),
        ("abcabc", "xyzw", ["x", "y", "z", "w", "y", "z"]),
    ],
)
def test_jobs_of_one_task_prefer_the_same_nodes(
    groups: str, nodes: str, found: list[str | None]
) -> None:
    assert homes(groups, nodes) == found


def test_options_of_one_executor_are_refused_by_the_other(cluster: Cluster) -> None:  # noqa: ARG001
    with pytest.raises(ConfigError, match="run_cpus"):
        executor("local", run_cpus=2)
    with pytest.raises(ConfigError, match="processes"):
        executor("ray", processes=2)
