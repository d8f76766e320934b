"""The Ray executor: the bits of local runs, errors that keep their type, and lost workers. One cluster for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from petiole.engine.executor import Executor, executor
from petiole.engine.ray_executor import resumed
from petiole.engine.run import RunSpec
from petiole.errors import ConfigError, DataError, RunError
from petiole.protocols.jobs import run_jobs
from petiole.tasks.classification.workspace import Classification, Subset

ray = pytest.importorskip("ray", reason="petiole[ray] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # what Ray itself warns of


@pytest.fixture(scope="module")
def cluster() -> Iterator[Executor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield executor("ray")
        ray.shutdown()


@dataclass(frozen=True)
class Fragile:
    """Ends its process until it is resumed, or always."""

    always: bool = False
    resume: bool = False


def break_down(job: Fragile) -> str:
    if job.always or not job.resume:
        os._exit(1)
    return "done"


def refuse(image: str) -> None:
    raise DataError(f"{image} is no image.")


def test_runs_on_ray_have_the_bits_of_local_ones(
    cluster: Executor, bench: Classification, tmp_path: Path
) -> None:
    def jobs(place: str) -> list[RunSpec]:
        task = replace(bench, cache=tmp_path / f"cache-{place}")
        return [
            RunSpec(task, method, tmp_path / place / method, {"steps": 5}, Subset(3))
            for method in ("linear-probe", "cosine-ln")
        ]

    here = run_jobs(jobs("here"), quiet=True)
    there = run_jobs(jobs("there"), executor=cluster, quiet=True)
    for record, other in zip(here, there, strict=True):
        for name in ("predictions.safetensors", "adapter/adapter.safetensors"):
            assert record.files[name] == other.files[name]


def test_errors_keep_their_type_and_lost_workers_are_replaced(cluster: Executor) -> None:
    assert cluster.places == 2
    assert list(cluster.map(break_down, [Fragile()])) == ["done"]
    with pytest.raises(DataError, match=r"a\.png is no image"):
        list(cluster.map(refuse, ["a.png"]))
    with pytest.raises(RunError, match="lost its worker or node 2 times"):
        list(replace(cluster, retries=1).map(break_down, [Fragile(always=True)]))  # type: ignore[type-var]


def test_only_what_can_be_resumed_is() -> None:
    assert resumed(Fragile()).resume
    assert resumed("job") == "job"


def test_options_of_one_executor_are_refused_by_the_other() -> None:
    with pytest.raises(ConfigError, match="run_cpus"):
        executor("local", run_cpus=2)
    with pytest.raises(ConfigError, match="processes"):
        executor("ray", processes=2)
