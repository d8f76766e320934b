"""The Ray executor: the bits of local runs, errors that keep their type, and lost workers. One cluster for all tests."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from builders.images import write_images
from petiole.backbones.base import State
from petiole.commands.features import Extracted, features
from petiole.commands.placement import ExecutorOptions
from petiole.data.preprocessing import Preprocessing
from petiole.engine.executor import Executor, executor
from petiole.engine.feature_job import FeatureJob
from petiole.engine.feature_store import FeatureCache, Key, verified
from petiole.engine.ray_executor import Ray
from petiole.engine.ray_features import store_features
from petiole.engine.run import RunSpec
from petiole.errors import DataError, RunError
from petiole.protocols.jobs import run_jobs
from petiole.tasks.classification.workspace import Classification, Subset

ray = pytest.importorskip("ray", reason="petiole[ray] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # what Ray itself warns of


@pytest.fixture(scope="module")
def cluster() -> Iterator[Executor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
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


class Dying:
    """A network whose process ends at its first batch, once."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __call__(self) -> Callable[[Tensor], State]:
        def forward(images: Tensor) -> State:
            if not self.mark.exists():
                self.mark.touch()
                os._exit(1)
            return {"vector": images.mean((2, 3))}

        return forward


@pytest.mark.usefixtures("cluster")
def test_features_on_ray_are_those_of_this_process(tmp_path: Path) -> None:
    """Also of a tar; what cannot be read is named, and what is there is not computed again."""
    pytest.importorskip("pandas", reason="petiole[ray] is not installed: Ray Data lacks pandas")
    images = write_images(tmp_path / "images", 3, 0)
    (images / "ash" / "bad.png").write_bytes(b"no image")

    def extract(cache: str, where: str, *, skip_bad: bool = True) -> Extracted:
        return features(
            images,
            backbone="petiole/tiny-vit",
            vectors=True,
            cache_dir=tmp_path / cache,
            skip_bad=skip_bad,
            quiet=True,
            placement=ExecutorOptions(where),
        )

    here, there = extract("here", "local"), extract("there", "ray")
    assert (there.images, there.computed, there.digest) == (9, 9, here.digest)
    assert (
        (there.left_out, there.notes)
        == (here.left_out, here.notes)
        == (
            ["ash/bad.png"],
            here.notes,
        )
    )
    one, other = (values_of(tmp_path / cache) for cache in ("here", "there"))
    assert all(torch.equal(one[place], other[place]) for place in one | other)
    assert {role for _, role in one} == {"final.cls", "hashes", "thumbnails", "valid"}
    with tarfile.open(images / "all.tar", "w") as archive:
        for number, file in enumerate(sorted(images.rglob("*.png"))[:3]):
            archive.add(file, f"{number}.png")
            archive.addfile(tarfile.TarInfo(f"{number}.cls"), io.BytesIO())
    with pytest.raises(DataError, match=r"bad\.png: not an image"):
        extract("there", "ray", skip_bad=False)
    assert extract("there", "ray").computed == 0


def test_a_killed_worker_costs_its_batch_alone(cluster: Executor, tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="petiole[ray] is not installed: Ray Data lacks pandas")
    assert isinstance(cluster, Ray)
    images = sorted(write_images(tmp_path / "images", 3, 0).rglob("*.png"))
    key = Key("f", "p", ("vector",))
    opening = Dying(tmp_path / "mark")
    zero, one = (0.0,) * 3, (1.0,) * 3
    seen = Preprocessing(size=(8, 8), crop=1, interpolation="bilinear", mean=zero, std=one)
    job = FeatureJob(key, seen, tmp_path / "cache", "cpu", opening)
    found = store_features(images, job, cluster, quiet=True)
    assert (len(found.ids), found.computed, found.bad) == (9, 9, {})
    assert (tmp_path / "mark").exists()
    assert FeatureCache(tmp_path / "cache").missing(key, list(found.ids.values())) == []


def values_of(cache: Path) -> dict[tuple[str, str], Tensor]:
    """Image and role -> what is stored, of a store whose shards are checked."""
    found = {}
    for shard in cache.rglob("*.safetensors"):
        ids, values = verified(shard)
        for role, rows in values.items():
            found |= {(image, role): row for image, row in zip(ids, rows, strict=True)}
    return found
