"""What a training computed a second, counted by hand; nothing where nobody knows or it is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from petiole.engine import utilisation
from petiole.engine.record import RECORD, Costs, read_record
from petiole.engine.run import RunSpec, run
from petiole.engine.task import Scores, open_workspace
from petiole.engine.trainer import Callbacks, Trainer
from petiole.files import write_sealed
from petiole.ledger import Ledger
from petiole.ledger.counting import flop_counter
from petiole.tasks.classification.task import ClassificationRun
from petiole.tasks.classification.workspace import Classification, Subset
from petiole.tasks.codebook.model import CodebookBatch, CodebookLoss
from petiole.tasks.codebook.training import CodebookOptions
from petiole.tasks.text.model import GenerationBatch, GenerationLoss
from petiole.testing import codebook_lvlm
from petiole.testing import encoder_decoder as tiny

WIDTH, CLASSES = 1280, 3
PROBE = 2 * 2 * WIDTH * CLASSES
"""FLOPs of one image in a linear probe's step: the product, and the gradient of its matrix."""
SETTINGS = {"steps": 7, "batch_size": 5, "views": 0}

Job = Callable[..., RunSpec]


@pytest.fixture
def job(bench: Classification, tmp_path: Path) -> Job:
    def make(method: str = "linear-probe", task: Classification = bench, **more: Any) -> RunSpec:
        return RunSpec(task, method, tmp_path / "run", more, Subset(3))

    return make


@pytest.fixture
def product(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, torch.dtype]]:
    """Every training counts as long, a product reaches 1 GFLOP/s; what it was asked for."""
    asked = []

    def rate(*of: Any) -> float:
        asked.append(of)
        return 1e9

    monkeypatch.setattr(utilisation, "product_rate", rate)
    monkeypatch.setattr(utilisation, "LONG", 0.0)
    return asked


def computed(costs: Costs) -> float:
    assert costs.flops_per_second is not None
    assert costs.utilisation == costs.flops_per_second / 1e9
    return costs.flops_per_second * costs.train_seconds


@pytest.mark.parametrize(("rule", "gradients"), [("plain", 1), ("sam", 2)])
def test_the_flops_are_those_of_the_images_of_all_steps(
    job: Job, product: list[Any], rule: str, gradients: int
) -> None:
    record = run(job(**SETTINGS, step_rule=rule))
    assert record.ledger.flops_training == gradients * PROBE
    images = 27 + 5  # a pass of 27 images ends in a batch of two
    assert computed(record.costs) == pytest.approx(images * gradients * PROBE)
    assert product == [("cpu", torch.float32)]


def test_a_resumed_run_counts_what_it_did_itself(
    job: Job, product: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(**SETTINGS)
    with monkeypatch.context() as pressed:
        pressed.setattr(Trainer, "_stops", lambda _, step, __: step == 3)
        with pytest.raises(KeyboardInterrupt):
            run(spec)
    record = run(replace(spec, resume=True))
    assert computed(record.costs) == pytest.approx((5 + 2 + 5) * PROBE)
    assert len(product) == 1


def test_a_short_training_and_a_solved_head_measure_nothing(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utilisation, "product_rate", None)
    for spec in (job(**SETTINGS), replace(job("ridge"), folder=job().folder / "solved")):
        record = run(spec)
        costs = record.costs
        assert (costs.flops_per_second, costs.utilisation) == (None, None)
        older = record.model_dump(mode="json")
        del older["costs"]["flops_per_second"], older["costs"]["utilisation"]
        write_sealed(spec.folder / RECORD, older)
        assert read_record(spec.folder).costs == costs
        monkeypatch.setattr(utilisation, "LONG", 0.0)


def test_the_peak_is_that_of_training_and_not_of_scoring(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [700.0]

    @contextmanager
    def peak_memory(_: object) -> Iterator[Callable[[], float]]:
        yield lambda: taken[0]

    def evaluate(self: ClassificationRun, *of: Any) -> Scores:
        taken[0] = 9_000.0
        return real(self, *of)

    real = ClassificationRun.evaluate
    monkeypatch.setattr("petiole.engine.run.peak_memory", peak_memory)
    monkeypatch.setattr(ClassificationRun, "evaluate", evaluate)
    assert run(job("ridge")).costs.peak_memory_mb == 700.0
    assert taken == [9_000.0]


def test_a_device_without_room_for_the_product_costs_no_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> float:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(utilisation, "product_rate", full)
    cpu = torch.device("cpu")
    assert utilisation.utilisation(lambda: 12.0, 6.0, cpu, "bf16") == (2.0, None)
    assert utilisation.utilisation(lambda: None, 6.0, cpu, "bf16") == (None, None)


def test_what_the_ledger_does_not_know_is_not_said(bench: Classification, job: Job) -> None:
    counted = {"flops_training": 11, "flops_classes_training": 7}
    ledger = Ledger.model_construct(**counted, flops_forward=30, flops_above_cut=4)
    prepared = open_workspace(bench).prepare(job())
    adapted = prepared.build()

    def flops() -> float | None:
        return prepared.training_flops(adapted, ledger, Callbacks(steps=3, samples=5))

    assert flops() == 5 * 11 + 3 * 7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared.workspace.features, "cache", None)
        assert flops() == 5 * (11 + 26) + 3 * 7  # each step runs the frozen half
    plan = adapted.plan
    for part in ("search", "adversary"):  # paths without some of the layers; passes of its own
        adapted.plan = replace(plan, **{part: object()})
        assert flops() is None


def test_texts_are_counted_at_the_mean_size_of_their_batches(
    tmp_path: Path, product: list[Any]
) -> None:
    spec, workspace = tiny.text_run(
        tmp_path, "vl-adapter", {"steps": 6, "batch_size": 4, "lr": 3e-3}
    )
    seen: list[GenerationBatch] = []
    with pytest.MonkeyPatch.context() as patch:
        real = GenerationLoss.forward

        def forward(self: GenerationLoss, batch: GenerationBatch) -> torch.Tensor:
            seen.append(batch)
            return real(self, batch)

        patch.setattr(GenerationLoss, "forward", forward)
        costs = run(spec, workspace).costs
    assert len(seen) == 6
    adapted = workspace.prepare(replace(spec, folder=tmp_path / "again")).build()
    loss = GenerationLoss(adapted)
    with sdpa_kernel(SDPBackend.MATH), flop_counter() as counter:
        for batch in seen:
            loss(batch).backward()
    assert computed(costs) == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert product == [("cpu", torch.float32)]


@pytest.mark.parametrize(
    ("rule", "gradients", "terms"), [("plain", 1, {}), ("sam", 2, {"contrast": 0.0})]
)
def test_questions_over_a_codebook_are_counted_as_a_few_of_them(
    tmp_path: Path,
    product: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
    gradients: int,
    terms: dict[str, float],
) -> None:
    model, questions = codebook_lvlm.model(), codebook_lvlm.data(tmp_path / "sketch", train=9)
    settings = {"steps": 2, "batch_size": 6, "step_rule": rule, **terms}
    spec, workspace = codebook_lvlm.codebook_run(
        tmp_path / "run", model, questions, "craft", settings, options=CodebookOptions()
    )
    trained: list[CodebookBatch] = []
    real = CodebookLoss.forward

    def forward(self: CodebookLoss, batch: CodebookBatch) -> torch.Tensor:
        trained.append(batch)
        return real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(CodebookLoss, "forward", forward)
        costs = run(spec, workspace).costs
    *steps, counted = trained
    assert len(steps) == 2 * gradients
    assert [len(batch.answers) for batch in steps[::gradients]] == [6, 3]
    assert len(counted.answers) == 8
    fresh = workspace.prepare(replace(spec, folder=tmp_path / "again"))
    adapted = fresh.build()
    loss = CodebookLoss(adapted, fresh.method.losses(model))
    with sdpa_kernel(SDPBackend.MATH), flop_counter() as counter:
        for batch in steps:
            loss(batch).backward()
    assert computed(costs) == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert product == [("cpu", torch.float32)]


def test_processes_that_share_a_question_measure_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = codebook_lvlm.data(tmp_path / "sketch", train=2)
    spec, workspace = codebook_lvlm.codebook_run(
        tmp_path / "run", codebook_lvlm.model(), questions, options=CodebookOptions()
    )
    prepared = workspace.prepare(spec)
    adapted, taken = prepared.build(), Callbacks(samples=4)
    one = prepared.training_flops(adapted, None, Callbacks(samples=1))  # type: ignore[arg-type]
    assert one
    assert prepared.training_flops(adapted, None, taken) == 4 * one  # type: ignore[arg-type]
    assert all(p.grad is None for p in adapted.parameters())
    assert prepared.training_flops(adapted, None, Callbacks()) is None  # type: ignore[arg-type]
    monkeypatch.setattr("petiole.tasks.codebook.task.members", lambda: 2)
    assert prepared.training_flops(adapted, None, taken) is None  # type: ignore[arg-type]


def test_a_device_without_room_for_the_counting_costs_no_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full() -> float:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(utilisation, "product_rate", None)
    assert utilisation.utilisation(full, 6.0, torch.device("cpu"), "fp32") == (None, None)
