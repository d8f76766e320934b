"""Other places to run: two training processes, job processes, and what a survey says beforehand."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from builders.processes import start, two_ranks
from petiole.engine.executor import Local
from petiole.engine.run import RunSpec, run
from petiole.engine.task import open_workspace, reopened
from petiole.errors import DataError, RunError
from petiole.protocols.jobs import run_jobs
from petiole.tasks.classification.cost_estimate import estimate_cost
from petiole.tasks.classification.workspace import Classification, Subset

TRAIN = """
import sys
from pathlib import Path
import torch
from petiole.backbones.registry import load
from petiole.data.dataset import Dataset, Sample
from petiole.engine.trainer import Callbacks
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.tasks.classification.training import train
from petiole.engine.feature_table import StoredTable
from petiole.engine.feature_store import Rows
from petiole.files import write_tensors
from petiole.methods.registry import create

out = Path(sys.argv[1])
samples = [
    Sample(Path(f"{d}{k}{i}"), k, f"{d}-{k}-{i:03d}", d)
    for d in ("source", "target") for k in range(4) for i in range(9)
]
data = Dataset("made", tuple("abcd"), tuple(samples))
backbone = load("petiole/efficientnet-lite0", image_size=32)
generator = torch.Generator().manual_seed(0)
centres = torch.randn(4, 1280, generator=generator)
rows = [centres[s.label] + torch.randn(1280, generator=generator) for s in data.samples]
rows = Rows([{"final.pooled": torch.stack(rows)}], range(len(rows)))
table = StoredTable(rows, len(data), torch.device("cpu"))
method = create("cosine-ln", {"steps": 30, "views": 0, "lr": 0.001, "target_weight": 0.3})
torch.manual_seed(0)
adapted = AdaptedClassifier(backbone, method.plan(backbone, 4))
logged = []
callbacks = Callbacks(
    checkpoint=out / f"checkpoint-{sys.argv[2]}", every=0.0, quiet=True,
    log=lambda step, loss, lr: logged.append(step),
)
train(adapted, data, table, method.recipe, seed=0, callbacks=callbacks)
write_tensors(out / f"weights-{sys.argv[2]}", adapted.state_dict())
print(len(logged))
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distribution")
def test_two_processes_train_to_the_weights_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        start(TRAIN, tmp_path, f"rank{rank}", environment=environment)
        for rank, environment in enumerate(two_ranks())
    ]
    monkeypatch.setattr(sys, "argv", ["train", str(tmp_path), "alone"])
    with torch.random.fork_rng():
        exec(compile(TRAIN, "train", "exec"), {})
    outputs = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], [err[-2000:] for _, err in outputs]
    alone, first, second = (
        load_file(tmp_path / f"weights-{name}") for name in ("alone", "rank0", "rank1")
    )
    for name, value in alone.items():
        gap = (first[name] - value).abs()
        # Where a gradient nearly vanishes, AdamW divides rounding by rounding: at most a step's size.
        assert float((gap > 1e-5).double().mean()) < 1e-3
        assert float(gap.max()) < 1e-3
        assert torch.equal(first[name], second[name])
    assert [int(out.split()[-1]) for out, _ in outputs] == [4, 0], "one process writes the log"
    assert (tmp_path / "checkpoint-rank0").exists()
    assert not (tmp_path / "checkpoint-rank1").exists()


def test_job_processes_give_the_same_in_order_and_their_errors_arrive(
    bench: Classification, tmp_path: Path
) -> None:
    def job(place: str, draw: int, shots: int = 3) -> RunSpec:
        task = replace(bench, cache=tmp_path / "caches" / place)
        settings = {"steps": 5}
        return RunSpec(
            task, "linear-probe", tmp_path / place / str(draw), settings, Subset(shots, draw)
        )

    one_by_one = list(map(run, [job("first", 0), job("first", 1)]))  # the cache fills as they go
    here = run_jobs([job("here", 0), job("here", 1)], quiet=True)
    local = Local(processes=2)
    there = run_jobs([job("there", 0), job("there", 1)], executor=local, quiet=True)
    for records in zip(one_by_one, here, there, strict=True):
        assert len({record.id for record in records}) == 1
        assert len({record.files["predictions.safetensors"] for record in records}) == 1
        assert len({record.files["adapter/adapter.safetensors"] for record in records}) == 1
    keys = (tmp_path / "caches" / "there").iterdir()
    assert all(len(list(key.glob("*.safetensors"))) == 2 for key in keys), "each wrote its share"
    with pytest.raises(DataError, match="at least 1"):
        list(local.map(run, [job("no", 2, 0)]))


def test_jobs_that_have_not_begun_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[dict[str, bool]] = []

    class Pool:
        def __init__(self, *_: object, **__: object) -> None: ...

        def map(self, work: Callable[[int], int], jobs: Sequence[int]) -> Iterator[int]:
            return map(work, jobs)

        def shutdown(self, **how: bool) -> None:
            ended.append(how)

    monkeypatch.setattr("petiole.engine.executor.ProcessPoolExecutor", Pool)
    results = Local(processes=2).map(abs, [-1, -2, -3])
    assert next(results) == 1
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert ended == [{"cancel_futures": True}]


def test_an_executor_ends_its_workers_with_itself() -> None:
    local, ended = Local(processes=2), []
    local._pool = SimpleNamespace(shutdown=lambda **how: ended.append(how))  # type: ignore[assignment]
    del local
    assert ended == [{"cancel_futures": True}]


def test_sessions_are_shared_but_reopened_on_demand(bench: Classification) -> None:
    first = open_workspace(bench)
    assert open_workspace(replace(bench, quiet=not bench.quiet)) is first
    assert open_workspace(replace(bench, precision="bf16")) is not first
    assert reopened(bench) is not first


def test_a_survey_counts_what_is_not_stored(bench: Classification, tmp_path: Path) -> None:
    workspace = open_workspace(replace(bench, cache=tmp_path / "cache"))

    def job(method: str, draw: int = 0, **settings: object) -> RunSpec:
        return RunSpec(
            workspace.task, method, tmp_path / f"{method}{draw}", settings, Subset(3, draw)
        )

    probe = job("linear-probe", steps=7, views=2)
    # 18 source and 9 drawn images in 3 views, 15 test images in one.
    seen = estimate_cost(workspace, [probe])
    assert seen.images == 27 * 3 + 15
    assert seen.steps == 7
    assert seen.megabytes == pytest.approx(seen.images * 1280 * 4 / 1e6)
    forward = seen.flops / seen.images
    assert 2e6 < forward < 3e7, "EfficientNet-Lite0 at 32 px"
    assert seen.train_flops == pytest.approx(2 * 7 * 36 * 2 * 1280 * 3)  # no gradient of the input

    assert estimate_cost(workspace, [job("knn")]).steps == 0, "a solved head takes no steps"
    assert estimate_cost(workspace, [probe, replace(probe, seed=1)]).images == seen.images
    run(probe)
    assert estimate_cost(workspace, [probe]).images == 0


class Breaking:
    """A pool whose workers end without a word, after so many results."""

    def __init__(self, results: int) -> None:
        self.results = results

    def map(self, work: Callable[[int], int], jobs: Sequence[int]) -> Iterator[int]:
        yield from map(work, jobs[: self.results])
        raise BrokenProcessPool("terminated abruptly")

    def shutdown(self, **_: bool) -> None:
        pass


@pytest.mark.parametrize(
    ("results", "main", "said"),
    [
        (0, ModuleType("__main__"), "repeat it with --resume and fewer --processes"),
        (0, "script.py", r"each one imports .*script\.py first.*__name__ == \"__main__\""),
        (1, "script.py", "repeat it with --resume"),
        (0, "petiole", "repeat it with --resume"),  # an installed command has no ending
    ],
)
def test_a_worker_that_ends_without_a_word(
    results: int, main: ModuleType | str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(main, str):
        file, main = main, ModuleType("__main__")
        main.__file__ = f"/somewhere/{file}"
    monkeypatch.setitem(sys.modules, "__main__", main)
    local = Local(processes=2)
    local._pool = Breaking(results)  # type: ignore[assignment]
    done = []
    with pytest.raises(RunError, match=said):
        done += local.map(abs, [-1, -2])
    assert local._pool is None
