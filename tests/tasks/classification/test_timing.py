"""What an announcement says about time, and that saying it changes nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from petiole.engine.run import RunSpec
from petiole.engine.timing import in_words
from petiole.tasks.classification import cost_estimate
from petiole.tasks.classification.cost_estimate import CostEstimate, describe, estimate_cost
from petiole.tasks.classification.workspace import Classification, Subset


@pytest.mark.parametrize("method", ["cls-residual-lora", "full", "linear-probe"])
def test_a_timed_estimate_leaves_random_state_and_cache_alone(
    bench: Classification, tmp_path: Path, method: str
) -> None:
    workspace = replace(bench, cache=tmp_path / "cache").open()
    job = RunSpec(workspace.task, method, tmp_path / "run", {"steps": 1000}, Subset(3))
    before = torch.get_rng_state()
    seen = estimate_cost(workspace, [job, job], timed=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    one = estimate_cost(workspace, [job], timed=True)
    assert seen.steps == 2 * one.steps == 2000
    assert one.train_seconds > 0
    assert (method == "full") == (one.frozen_seconds == 0)


def test_a_solved_head_has_no_steps_to_time(bench: Classification, tmp_path: Path) -> None:
    job = RunSpec(bench, "ridge", tmp_path / "run", {}, Subset(3))
    assert not any(line.startswith("time ") for line in describe(bench.open(), [job]))


def test_what_is_complete_costs_nothing(bench: Classification, tmp_path: Path) -> None:
    (tmp_path / "record.json").touch()
    job = RunSpec(bench, "full", tmp_path, {}, Subset(3), resume=True)
    assert estimate_cost(bench.open(), [job], timed=True).steps == 0


def test_times_are_told_in_words() -> None:
    assert [in_words(s) for s in (3, 60, 600, 36_000)] == [
        "under half a minute",
        "about a minute",
        "about 10 minutes",
        "about 10.0 hours",
    ]


@pytest.mark.parametrize(
    ("seconds", "precision", "unit", "told"),
    [(90, "fp32", "amx_bf16", True), (59, "fp32", "amx_bf16", False), (90, "bf16", "amx_bf16", False), (90, "fp32", None, False)],
)  # fmt: skip
def test_what_bf16_would_save_is_said_where_it_would(
    seconds: float, precision: str, unit: str | None, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_estimate, "bf16_unit", lambda _: unit)
    seen = CostEstimate(0, 0.0, 0.0, 1, 0.0, 0.0, seconds)
    lines = cost_estimate._time(seen, precision, "cpu")
    assert ("--precision bf16" in "".join(lines)) == told
    assert len(lines) == 1 + told


@pytest.mark.parametrize(("shots", "equal"), [(100, True), (2, False)])
def test_draws_of_the_same_images_are_told(
    bench: Classification, tmp_path: Path, shots: int, equal: bool
) -> None:
    jobs = [
        RunSpec(bench, "ridge", tmp_path / str(n), {}, Subset(shots, split_seed=n))
        for n in range(3)
    ]
    told = [line for line in describe(bench.open(), jobs) if "take the same images" in line]
    assert len(told) == equal
    assert not any("take the same" in line for line in describe(bench.open(), jobs[:1]))
