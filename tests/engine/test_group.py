"""What processes that train together say to each other, and who of them writes; ranks are threads here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from builders.group import together
from petiole.collective import await_main, gathered, members, said_by_all, summed
from petiole.engine.adapter import MANIFEST, TENSORS
from petiole.engine.model_card import ModelCard
from petiole.engine.record import DataCard, Record, count_test_evaluation, read_log, read_record
from petiole.engine.run import CHECKPOINT, RunSpec, run
from petiole.engine.run_lock import check_free, locked
from petiole.engine.share import WHOLE, Share
from petiole.engine.task import Task, TaskRun, Workspace
from petiole.engine.together import all_do, main_does, open_group
from petiole.engine.trainer import LOG_EVERY, Callbacks, Trainer
from petiole.errors import ConfigError, DataError, RunError
from petiole.files import read_tensors, write_sealed, write_tensors
from petiole.ledger import Ledger
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create
from petiole.processes import is_main

COUNTED = Ledger(
    flops_backbone=0, flops_forward=0, flops_above_cut=0,
    **dict.fromkeys((name for name, field in Ledger.model_fields.items() if name.split("_")[0] in (
        "backbone", "adapters", "head", "training", "trainable", "inference", "total", "stored") and field.is_required()), 1),
)  # fmt: skip


@dataclass(frozen=True)
class Made(Task[Any]):
    """A task that is not looked up."""

    kind: ClassVar[str] = "made"

    def open(self) -> Any:
        raise NotImplementedError


class Kept:
    """An adapter of one matrix."""

    frozen: ClassVar[dict[str, Any]] = {}

    def __init__(self, module: nn.Module) -> None:
        self.module, self.manifest = module, SimpleNamespace(ledger=COUNTED)

    def contents(self) -> nn.Module:
        return self.module

    def save(self, folder: Path) -> None:
        write_tensors(folder / TENSORS, self.module.state_dict())
        write_sealed(folder / MANIFEST, {})

    @classmethod
    def load(cls, folder: Path) -> Kept:
        module = nn.Linear(2, 1)
        module.load_state_dict(read_tensors(folder / TENSORS)[0])
        return cls(module)


class MadeRun(TaskRun):
    """Notes where each rank works; ``during`` happens instead of a training."""

    files = ("scores",)
    together = False

    def __init__(self, during: Callable[[Callbacks], None], places: list[tuple[str, Path]]) -> None:
        self.method, self.during, self.places = create("linear-probe"), during, places

    device = torch.device("cpu")  # type: ignore[assignment]

    @property
    def scores_together(self) -> bool:
        return self.together

    def backbone(self) -> ModelCard:
        return ModelCard(name="made", fingerprint="0" * 64)

    def data(self) -> DataCard:
        return DataCard(digests={"test": "d"}, samples={"test": 3})

    def begin(self, folder: Path) -> None:
        self.places.append(("begin", folder))

    def build(self) -> nn.Module:
        return nn.Linear(2, 1)

    def train(self, adapted: nn.Module, callbacks: Callbacks) -> float:  # noqa: ARG002
        assert callbacks.checkpoint
        self.places.append(("train", callbacks.checkpoint))
        callbacks.log(0, 0.5, 0.1)
        self.during(callbacks)
        return 1.0

    def evaluate(self, adapted: nn.Module, folder: Path) -> dict[str, dict[str, float]]:  # noqa: ARG002
        self.places.append(("evaluate", folder))
        count_test_evaluation(folder, "d", 3, "end of training", once=True)
        (folder / "scores").write_text("1")
        return {"test": {"accuracy": 1.0}}

    def adapter(self, adapted: nn.Module) -> Any:
        return Kept(adapted)


class Opened(Workspace):
    """Gives the same run to whoever asks."""

    def __init__(self, made: MadeRun) -> None:
        self.made, self.stored = made, list[Share]()

    def describe(self, specs: Sequence[RunSpec]) -> list[str]:  # noqa: ARG002
        return []

    def store(self, specs: Sequence[RunSpec], share: Share = WHOLE) -> None:  # noqa: ARG002
        self.stored.append(share)

    def prepare(self, spec: RunSpec) -> TaskRun:  # noqa: ARG002
        return self.made


class Heard:
    """A logger that only tells that it is there."""

    folders: ClassVar[list[Path]] = []

    def __init__(self, folder: Path) -> None:
        self.folders.append(folder)

    def start(self, request: Mapping[str, Any]) -> None: ...

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def finish(self, record: Mapping[str, Any]) -> None: ...


@dataclass
class Ranks:
    """Two ranks that run one spec, and where each of them worked."""

    patch: pytest.MonkeyPatch
    spec: RunSpec

    def run(
        self,
        during: Callable[[int, Callbacks], None] = lambda *_: None,
        *,
        scores_together: bool = False,
    ) -> list[Any]:
        self.places: list[list[tuple[str, Path]]] = [[], []]
        self.opened: list[Opened] = [None, None]  # type: ignore[list-item]

        def work(rank: int) -> Record:
            made = MadeRun(lambda callbacks: during(rank, callbacks), self.places[rank])
            made.together = scores_together
            self.opened[rank] = Opened(made)
            return run(self.spec, self.opened[rank])

        return together(work, self.patch, begun=False)


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ranks:
    return Ranks(monkeypatch, RunSpec(Made(), "linear-probe", tmp_path / "run"))


def test_the_main_process_alone_writes_and_all_have_the_record(ranks: Ranks) -> None:
    ranks.patch.setattr("petiole.engine.run.logger", lambda _, folder: Heard(folder))
    Heard.folders.clear()
    ranks.spec = replace(ranks.spec, loggers=("heard",))
    first, second = ranks.run()
    folder = ranks.spec.folder
    assert first == second == read_record(folder)
    assert first.test_evaluations == 1
    assert set(first.files) == {
        "request.json", "metrics.jsonl", "scores", f"adapter/{MANIFEST}", f"adapter/{TENSORS}"
    }  # fmt: skip
    assert [row["step"] for row in read_log(folder)] == [0]
    assert Heard.folders == [folder]
    assert [opened.stored for opened in ranks.opened] == [[Share(1, 2)], [Share(2, 2)]]
    main, other = (dict(places) for places in ranks.places)
    checkpoint = folder / CHECKPOINT  # of which all of them go on
    assert main == {"begin": folder, "train": checkpoint, "evaluate": folder}
    assert other == {"begin": other["begin"], "train": checkpoint}
    assert not other["begin"].exists()
    with locked(folder):
        pass


def test_where_scoring_takes_all_the_others_score_in_a_folder_that_goes(ranks: Ranks) -> None:
    first, second = ranks.run(scores_together=True)
    assert first == second
    assert first.test_evaluations == 1
    main, other = (dict(places) for places in ranks.places)
    assert main["evaluate"] == ranks.spec.folder
    assert other["evaluate"] == other["begin"] != ranks.spec.folder
    assert not other["begin"].exists()


def test_the_folder_is_locked_while_they_train(ranks: Ranks) -> None:
    said = []

    def during(rank: int, _: Callbacks) -> None:
        if not rank:
            with pytest.raises(RunError, match="Another process works in") as caught:
                locked(ranks.spec.folder).__enter__()
            said.append(caught)

    assert [type(record) for record in ranks.run(during)] == [Record, Record]
    assert len(said) == 1


def test_a_folder_in_use_ends_all_of_them_with_one_error(ranks: Ranks) -> None:
    with locked(ranks.spec.folder):
        ended = ranks.run()
    assert {type(error) for error in ended} == {RunError}
    assert {str(error) for error in ended} == {
        f"Another process works in {ranks.spec.folder}. Wait for it, or choose another --out."
    }
    assert all(error.everywhere for error in ended)
    assert [places for places in ranks.places if places] == []


def test_a_finished_run_is_read_and_its_checkpoint_taken_away(ranks: Ranks) -> None:
    [record, _] = ranks.run()
    refused = ranks.run()
    assert all("already holds a run" in str(error) for error in refused)
    (ranks.spec.folder / CHECKPOINT).write_bytes(b"")
    ranks.spec = replace(ranks.spec, resume=True)
    assert ranks.run() == [record, record]
    assert ranks.places == [[], []]
    assert not (ranks.spec.folder / CHECKPOINT).exists()


def test_the_others_await_the_end_of_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []

    def closed(group: Any) -> None:
        waited.append(group.get("RANK", ""))
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("builders.group._Group.barrier", closed)
    assert together(lambda _: await_main(), monkeypatch) == [None, None]
    assert waited == ["1"]


@pytest.mark.parametrize("scores_together", [False, True])
def test_weights_that_are_no_numbers_end_all_of_them(
    ranks: Ranks, scores_together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MadeRun, "build", lambda _: nn.Linear(2, 1).apply(_spoil))
    ended = ranks.run(scores_together=scores_together)
    assert {type(error) for error in ended} == {RunError}
    assert all("weight holds NaN or infinity" in str(error) for error in ended)
    assert all("evaluate" not in dict(places) for places in ranks.places)


def _spoil(module: nn.Module) -> None:
    with torch.no_grad():
        module.weight[0, 1] = torch.inf  # type: ignore[index]


def fails(error: BaseException, who: int) -> Callable[[int], str]:
    def work(rank: int) -> str:
        if rank == who:
            raise error
        return f"of {rank}"

    return work


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (DataError("photos: no such folder."), DataError, "photos: no such folder."),
        (ValueError("odd"), RunError, "One of the processes failed: ValueError: odd"),
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
    ],
)
def test_what_stops_one_stops_all_with_the_same_error(
    error: BaseException,
    raised: type[BaseException],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for who in (0, 1):
        work = fails(error, who)
        ended = together(lambda rank, work=work: all_do(lambda: work(rank)), monkeypatch)  # type: ignore[misc]
        assert [(type(one), str(one)) for one in ended] == [(raised, said)] * 2
        assert all(getattr(one, "everywhere", True) for one in ended)
    ended = together(lambda rank: main_does(lambda: fails(error, 0)(rank)), monkeypatch)
    assert [(type(one), str(one)) for one in ended] == [(raised, said)] * 2


def test_the_first_that_failed_is_the_one_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(rank: int) -> None:
        def part() -> None:
            if rank:
                raise (ConfigError if rank == 1 else DataError)(f"of {rank}")

        all_do(part)

    ended = together(work, monkeypatch, size=3)
    assert [(type(one), str(one)) for one in ended] == [(ConfigError, "of 1")] * 3


def test_what_the_main_process_did_is_known_to_all_and_each_keeps_its_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[int] = []

    def work(rank: int) -> tuple[Any, str]:
        def first() -> dict[str, list[int]]:
            done.append(rank)
            return {"rank": [rank]}

        return main_does(first), all_do(lambda: f"of {rank}")

    assert together(work, monkeypatch) == [({"rank": [0]}, "of 0"), ({"rank": [0]}, "of 1")]
    assert done == [0]


def test_alone_or_before_the_group_is_open_each_does_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(rank: int) -> tuple[Any, ...]:
        return main_does(lambda: rank), all_do(lambda: rank), said_by_all(rank), members()

    assert together(work, monkeypatch, begun=False) == [(0, 0, [0], 1), (1, 1, [1], 1)]
    opened: list[Any] = []
    assert together(lambda _: open_group("cpu"), monkeypatch, size=1, begun=False) == [None]
    monkeypatch.setattr("accelerate.PartialState", lambda **how: opened.append(how))
    open_group("cpu")
    assert opened == []


def test_sums_and_rows_are_of_all_ranks_and_gradients_go_back_to_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a loss over all rows, averaged over the ranks, each has the gradient that one process would have."""

    def work(rank: int) -> tuple[Any, ...]:
        rows = torch.full((rank + 1, 2), float(rank + 1), requires_grad=True)
        everything = gathered(rows)
        (everything.square().sum() * (rank + 1)).backward()
        total = summed(rows.sum())
        assert not total.requires_grad
        return everything.tolist(), rows.grad.tolist(), float(total), members(), said_by_all([rank])  # type: ignore[union-attr]

    everything = [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]
    common = (10.0, 2, [[0], [1]])
    assert together(work, monkeypatch) == [
        (everything, [[2.0 * 3] * 2], *common),
        (everything, [[4.0 * 3] * 2] * 2, *common),
    ]


def test_only_the_main_process_minds_a_run_that_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "request.json").write_text("{}")
    first, second = together(lambda _: check_free(tmp_path, resume=False), monkeypatch)
    assert isinstance(first, RunError)
    assert second is None


def trainer(rank: int, steps: int = 2 * LOG_EVERY) -> Trainer:
    """Of one of two processes, as far as it needs no wrapped model."""
    accelerator: Any = SimpleNamespace(
        num_processes=2, is_main_process=is_main(), device=torch.device("cpu")
    )
    module, recipe = nn.Linear(1, 1), Recipe(steps=steps)
    given: Any = (accelerator, module, None, lambda _: (), None, recipe, 5.0, rank)
    return Trainer(*given)


def test_ctrl_c_in_one_stops_all_at_a_step_that_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(rank: int) -> list[int]:
        one = trainer(rank)
        return [step for step in range(2 * LOG_EVERY) if one._stops(step, lambda: rank == 1)]

    assert together(work, monkeypatch) == [[0, LOG_EVERY, 2 * LOG_EVERY - 1]] * 2
    none = together(lambda rank: trainer(rank)._stops(0, lambda: False), monkeypatch)
    assert none == [False, False]


def test_the_loss_that_is_logged_is_the_mean_and_one_nan_ends_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[tuple[int, int, float, float]] = []

    def work(rank: int) -> list[str]:
        callbacks = Callbacks(log=lambda *of: heard.append((rank, *of)))
        one = trainer(rank)
        said = [one._log(callbacks, step, torch.tensor(1.0 + 2 * rank), 0.5) for step in (0, 1)]
        one._log(callbacks, LOG_EVERY, torch.tensor(1.0 if rank else torch.nan), 0.5)
        return said

    ended = together(work, monkeypatch)
    assert all("The loss is nan at step 10" in str(error) for error in ended)
    assert heard == [(0, 0, 2.0, 0.5)]


def test_dropout_differs_between_ranks_and_paths_that_are_drawn_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apart = together(lambda rank: trainer(rank)._apart, monkeypatch)
    assert apart[0] == 0 != apart[1]
    monkeypatch.setattr("petiole.engine.trainer.searchable_layers", lambda _: ["a layer"])
    assert together(lambda rank: trainer(rank)._apart, monkeypatch) == [0, 0]
