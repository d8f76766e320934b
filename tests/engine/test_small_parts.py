"""Small parts of a run on their own: Ctrl-C, memory, rates of a device, the best step, what is refused, what is left as it was."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from petiole.engine import checkpoint, feature_store, feature_table, memory, record, utilisation
from petiole.engine.adapter_limits import _Allowance
from petiole.engine.best_step import TIMES, BestStep
from petiole.engine.feature_store import FeatureCache, Key, clean
from petiole.engine.feature_table import JoinedTable, SideBySide, Table
from petiole.engine.interrupt import stoppable
from petiole.engine.memory import peak_memory
from petiole.engine.model_card import FrozenModel, reason
from petiole.engine.progress import progress
from petiole.engine.record import RECORD, count_test_evaluation, evaluations_of
from petiole.engine.repeatable import Repeatable
from petiole.engine.task import TaskRun, adapter_class
from petiole.engine.trainer import Callbacks, Trainer, seed_device
from petiole.engine.weight_average import make_average
from petiole.errors import CacheError, ConfigError, RunError
from petiole.methods.recipe import Recipe

CPU = torch.device("cpu")
CUDA: Any = SimpleNamespace(type="cuda")
"""As much of a device as is asked for its kind."""


# --- Ctrl-C ------------------------------------------------------------------------------------------


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


# --- the device --------------------------------------------------------------------------------------


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
        return torch.zeros(2, 2)

    def best(work: Callable[[], torch.Tensor], on: str) -> float:
        assert work().shape == (2, 2)
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


# --- training ----------------------------------------------------------------------------------------


def judged(losses: list[float], steps: int, patience: int) -> tuple[BestStep, nn.Linear, list[int]]:
    """After steps whose weight is the number of the step; which of them were judged."""
    module = nn.Linear(1, 1, bias=False)
    left, asked = iter(losses), list[int]()

    def validate() -> float:
        assert not torch.is_grad_enabled()
        asked.append(round(module.weight.item()))
        return next(left)

    best = BestStep(module, Recipe(steps=steps, select="best", patience=patience), validate)
    for done in range(1, steps + 1):
        if best.exhausted:
            break
        with torch.no_grad():
            module.weight.fill_(float(done))
        best.after(done)
    return best, module, asked


def test_the_step_with_the_lowest_loss_is_put_back() -> None:
    best, module, asked = judged([3.0, 1.0, 1.0, 2.0], 4, 0)
    assert asked == [1, 2, 3, 4]
    best.finish()
    assert module.weight.item() == 2.0
    assert module.weight.requires_grad
    assert best.words() == "step 2 of 4: lowest held-back log-loss 1.000"


def test_it_stops_after_so_many_judgements_that_are_no_better() -> None:
    best, _, asked = judged([3.0, 4.0, 2.0, 2.0, 5.0], 9, 2)
    assert asked == [1, 2, 3, 4, 5]
    assert best.words() == "step 3 of 9: lowest held-back log-loss 2.000, stopped early"


@pytest.mark.parametrize(
    ("steps", "asked"),
    [(2 * TIMES - 1, [*range(1, 40)]), (2 * TIMES + 1, [*range(2, 41, 2), 41])],
)
def test_a_training_is_judged_so_often_and_at_its_end(steps: int, asked: list[int]) -> None:
    best, _, found = judged([1.0] * steps, steps, 0)
    assert found == asked
    assert not best.exhausted


def test_nothing_is_put_back_where_no_loss_was_a_number() -> None:
    best, module, _ = judged([torch.nan, torch.inf], 2, 0)
    best.finish()
    assert module.weight.item() == 2.0


def test_an_average_is_judged_in_the_place_of_the_weights() -> None:
    from contextlib import contextmanager

    module = nn.Linear(1, 1, bias=False)

    @contextmanager
    def average() -> Iterator[None]:
        own = module.weight.data
        module.weight.data = torch.full((1, 1), 5.0)
        yield
        module.weight.data = own

    best = BestStep(module, Recipe(steps=1, select="best"), lambda: module.weight.item())
    best.after(1, average)
    assert best.state.tolist() == [5.0, 1.0, 0.0]
    best.finish()
    assert module.weight.item() == 5.0


def test_a_batch_that_is_evaluated_again_counts_once() -> None:
    """The same dropout and the same gradient each time; statistics and generator as after the first."""
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1))
    x = torch.arange(12.0).reshape(4, 3)

    def gradient() -> torch.Tensor:
        loss = module(x).square().mean()
        loss.backward()
        return loss.detach()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        once = Repeatable(gradient, module, CPU)
        first = once()
        wanted = module[2].weight.grad.clone()  # type: ignore[union-attr,operator]
        state, random = (
            {k: v.clone() for k, v in module.state_dict().items()},
            torch.get_rng_state(),
        )
        for _ in range(2):
            assert torch.equal(once(), first)
            assert torch.equal(module[2].weight.grad, wanted)  # type: ignore[arg-type]
            assert all(torch.equal(module.state_dict()[k], v) for k, v in state.items())
            assert torch.equal(torch.get_rng_state(), random)
    assert state["0.num_batches_tracked"] == 1


@pytest.mark.parametrize("kept", [{"average_decay": 0.5}, {"average_window": 2}])
@pytest.mark.parametrize("used", ["result", "teacher"])
def test_an_average_replaces_the_weights_where_it_is_the_result(
    kept: dict[str, Any], used: str
) -> None:
    average = make_average(nn.Linear(1, 1), Recipe(steps=4, average_as=used, **kept), 2)  # type: ignore[arg-type]
    assert average is not None
    assert average.replaces == (used == "result")


def test_a_checkpoint_that_cannot_be_written_costs_the_checkpoint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("petiole.engine.trainer.checkpoint.save", full)
    for main in (True, False):
        accelerator = SimpleNamespace(is_main_process=main)
        given: Any = (accelerator, nn.Linear(1, 1), None, None, None, Recipe(steps=4), 1.0, 0)
        trainer = Trainer(*given)
        trainer._save(Callbacks(), 3, nn.Linear(1, 1))  # asked for none
        if main:
            with pytest.warns(UserWarning, match=r"No checkpoint after step 3: No space left"):
                trainer._save(Callbacks(checkpoint=tmp_path / "c"), 3, nn.Linear(1, 1))
        else:
            trainer._save(Callbacks(checkpoint=tmp_path / "c"), 3, nn.Linear(1, 1))


@pytest.mark.parametrize("step", [0, -1])
def test_a_checkpoint_of_no_possible_step_is_damaged(tmp_path: Path, step: int) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    checkpoint.save(tmp_path / "c", step, "me", model, optimizer)
    if step < 0:
        with pytest.raises(RunError, match="its step is -1"):
            checkpoint.load(tmp_path / "c", "me", model, optimizer)
    else:
        assert checkpoint.load(tmp_path / "c", "me", model, optimizer) == 0


def test_what_a_kind_of_task_need_not_say(tmp_path: Path) -> None:
    bare: Any = SimpleNamespace()
    assert TaskRun.scores_together.fget(bare) is False  # type: ignore[attr-defined]
    assert TaskRun.feature_seconds.fget(bare) == 0.0  # type: ignore[attr-defined]
    assert (TaskRun.options(bare), TaskRun.finish(bare, None, tmp_path)) == ({}, {})
    assert TaskRun.training_flops(bare, None, None, None) is None  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Unknown kind of task 'classifcation'"):
        adapter_class("classifcation")


# --- files -------------------------------------------------------------------------------------------


def test_fewer_evaluations_than_the_record_knows_of_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / RECORD).touch()
    known = SimpleNamespace(test_evaluations=1)
    monkeypatch.setattr(record, "read_record", lambda _: known)
    assert count_test_evaluation(tmp_path, "d", 3, "a") == 1
    known.test_evaluations = 2
    with pytest.raises(RunError, match=r"notes 1 evaluation.*knows of 2"):
        evaluations_of(tmp_path, "d")


KEY = Key("f" * 64, "p" * 64, ("final",))


def test_ids_are_listed_by_headers_alone_and_damaged_shards_are_passed_over(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    assert cache.listed(KEY) == frozenset()
    for ids in (["a", "b"], ["c"]):
        cache.write(KEY, ids, {"final": torch.ones(len(ids), 2)})
    assert cache.listed(KEY) == {"a", "b", "c"}
    (tmp_path / KEY.digest / "0.safetensors").write_bytes(b"damaged")
    assert FeatureCache(tmp_path).listed(KEY) == {"a", "b", "c"}
    assert (tmp_path / KEY.digest / "0.safetensors").exists()


def test_a_cache_that_cannot_be_cleaned_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FeatureCache(tmp_path).write(KEY, ["a"], {"final": torch.ones(1, 2)})

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(CacheError, match=rf"{KEY.digest} cannot be cleaned: Permission denied"):
        clean(tmp_path, everything=True)


def test_a_cache_in_a_store_is_kept_equal_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    mirror = SimpleNamespace(
        push=lambda path: asked.append(("push", path.name)),
        pull=lambda folder="": asked.append(("pull", folder)),
        drop=lambda path: asked.append(("drop", path.name)),
    )
    monkeypatch.setattr(feature_store.Mirror, "of", lambda _: mirror)
    cache = FeatureCache(tmp_path)
    cache.write(KEY, ["a"], {"final": torch.ones(1, 2)})
    [shard] = (tmp_path / KEY.digest).glob("*.safetensors")
    assert asked == [("push", "key.json"), ("push", shard.name)]
    asked.clear()
    assert FeatureCache(tmp_path).missing(KEY, ["a"]) == []
    assert asked == [("pull", KEY.digest)]
    asked.clear()
    assert next(feature_store.entries(tmp_path)).images == 1
    assert asked == [("pull", "")]
    asked.clear()
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match="Set aside"):
        assert FeatureCache(tmp_path).missing(KEY, ["a"]) == ["a"]
    assert asked == [("pull", KEY.digest), ("drop", shard.name)]
    asked.clear()
    assert clean(tmp_path) == 1
    assert asked == [("pull", ""), ("drop", shard.with_suffix(".corrupt").name)]


class Fixed(Table):
    """Rows that are there; notes what it is told to expect."""

    def __init__(self, value: float, size: int) -> None:
        self.value, self.size, self.expected = value, size, list[Any]()

    def fetch(self, rows: torch.Tensor, views: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: ARG002
        return {"vector": torch.full((len(rows), 2), self.value)}

    def expect(self, drawn: Any) -> None:
        self.expected.append(drawn)


@pytest.mark.parametrize("joined", [True, False])
def test_all_parts_of_a_table_read_ahead(joined: bool) -> None:
    parts = [Fixed(1.0, 8), Fixed(2.0, 4)]
    if joined:
        table: Table = JoinedTable([("", parts[0]), ("anchor ", parts[1])])
        assert table.size == 4
    else:
        of: Any = SimpleNamespace(parts=[SimpleNamespace(vector="vector")] * 2, vector="all", join=torch.cat)  # fmt: skip
        table = SideBySide(of, parts)
    rows = torch.arange(3)
    table.expect(drawn := lambda: (rows, rows))
    assert [part.expected for part in parts] == [[drawn], [drawn]]
    found = table.fetch(rows, rows)
    if joined:
        assert {name: value[0, 0].item() for name, value in found.items()} == {"vector": 1, "anchor vector": 2}  # fmt: skip
    else:
        assert found["all"][:, 0].tolist() == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(("free", "moved"), [(800, True), (799, False)])
def test_vectors_go_to_the_gpu_where_they_take_a_quarter_of_what_is_free(
    free: int, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 10_000))
    value: Any = SimpleNamespace(nbytes=100, to=lambda device: ("on", device))
    found = feature_table._near({"a": value, "b": value}, CUDA)
    wanted = ("on", CUDA) if moved else value
    assert found == {"a": wanted, "b": wanted}


def test_four_of_the_reasons_are_told() -> None:
    class Five(FrozenModel):
        a: int
        b: int
        c: int
        d: int
        e: int

    with pytest.raises(ValueError, match="5 validation errors") as caught:
        Five.model_validate({})
    assert reason(caught.value) == "; ".join(f"{name}: Field required" for name in "abcd")
    assert reason(OSError("gone")) == "gone"


def test_building_an_adapter_does_not_begin_the_compiler() -> None:
    assert _Allowance._should_skip_dynamo() is False


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
