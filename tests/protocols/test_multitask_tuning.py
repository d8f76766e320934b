"""Settings of rows on many tasks by validation: which values are tried, when a grid grows, what is chosen and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from petiole.engine.record import Record, RunRequest
from petiole.engine.run import RunSpec
from petiole.errors import ConfigError, RunError
from petiole.protocols.multitask import Multitask, jobs_of
from petiole.protocols.multitask_tuning import GROWTH, best_of, beyond, grid_of, notes, tuned
from petiole.protocols.protocol import ComparisonRow
from petiole.tasks.text.workspace import TextGeneration, TextWorkspace
from petiole.testing import encoder_decoder as tiny

SCHOOL = TextGeneration("a-model", ("a-folder",))
RATES = [1e-3, 3e-3, 1e-2]


class Scoring:
    """An executor that scores a run by its rate alone."""

    places = 1

    def __init__(self, score: Callable[[float], float]) -> None:
        self.score, self.jobs = score, list[RunSpec]()

    def map(self, _: Callable[..., Any], jobs: Sequence[Any]) -> Iterator[Any]:
        for job in jobs:
            if not isinstance(job, RunSpec):
                yield None
                continue
            self.jobs.append(job)
            yield Record.model_construct(
                request=RunRequest.model_construct(kind="text"),
                scores={"vqa": {"accuracy": self.score(job.settings["lr"])}},
            )


def row(**terms: Any) -> ComparisonRow:
    return ComparisonRow(
        **{"name": "adapter", "label": "An adapter", "method": "vl-adapter"} | terms
    )


def protocol(*rows: ComparisonRow) -> Multitask:
    return Multitask.checked(rows=list(rows), model="a-model", tasks=["vqa"], seeds=2)


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    made = TextWorkspace(SCHOOL, tiny.model(), tuple(tiny.tasks()), {}, (Path(),) * 3)
    monkeypatch.setattr("petiole.protocols.jobs.open_workspace", lambda _: made)


def tried(
    made: Multitask, root: Path, score: Callable[[float], float]
) -> tuple[Scoring, list[RunSpec]]:
    where = Scoring(score)
    jobs = jobs_of(made, SCHOOL, root, {"epochs": 2})
    return where, tuned(made, jobs, root, executor=where, quiet=True)


def test_a_best_value_inside_its_grid_is_taken_by_every_seed_of_its_row_alone(
    tmp_path: Path,
) -> None:
    made = protocol(row(grid={"lr": RATES}), row(name="other", settings={"lr": 0.5}))
    where, settled = tried(made, tmp_path, lambda lr: -abs(lr - 3e-3))
    assert [job.settings["lr"] for job in where.jobs] == RATES
    assert [job.settings["lr"] for job in settled] == [3e-3, 3e-3, 0.5, 0.5]
    assert all(job.settings["epochs"] == 2 for job in settled)
    assert [job.seed for job in settled] == [0, 1, 0, 1]
    (said,) = notes(made, tmp_path)
    assert said.startswith("An adapter: lr=0.003 by validation (0.001: -0.0,")
    assert "end" not in said


def test_trials_are_of_the_first_seed_and_never_see_the_scored_part(tmp_path: Path) -> None:
    where, settled = tried(protocol(row(grid={"lr": RATES})), tmp_path, lambda lr: -abs(lr - 3e-3))
    assert {(job.seed, job.options.scored) for job in where.jobs} == {(0, "val")}
    assert {job.options.scored for job in settled} == {"test"}
    assert len({job.folder for job in [*where.jobs, *settled]}) == len(RATES) + 2


@pytest.mark.parametrize(
    ("best", "more"),
    [(0.08, [0.0333, 0.111, 0.37]), (2e-4, [3.33e-4, 1.11e-4, 3.7e-5])],
)
def test_a_grid_grows_by_its_last_ratio_until_its_end_is_not_best(
    tmp_path: Path, best: float, more: list[float]
) -> None:
    made = protocol(row(grid={"lr": RATES}))
    where, settled = tried(made, tmp_path, lambda lr: 1 / (1 + abs(lr - best)))
    assert [job.settings["lr"] for job in where.jobs] == [*RATES, *more]
    assert settled[0].settings["lr"] == more[-2]
    assert "end" not in notes(made, tmp_path)[0]


def test_a_grid_does_not_grow_for_ever_and_says_so(tmp_path: Path) -> None:
    made = protocol(row(grid={"lr": RATES}))
    where, settled = tried(made, tmp_path, lambda lr: lr)
    assert len(where.jobs) == len(RATES) + GROWTH
    assert settled[0].settings["lr"] == max(job.settings["lr"] for job in where.jobs)
    assert notes(made, tmp_path)[0].endswith("an end of the grid: the best value may lie beyond.")


def test_of_equals_the_smallest_is_best_and_a_flat_grid_grows_down() -> None:
    assert best_of({3.0: 0.5, 1.0: 0.5, 2.0: 0.5}) == 1.0
    assert beyond({1.0: 0.5, 2.0: 0.5, 4.0: 0.5}) == 0.5
    assert beyond({1.0: 0.4, 2.0: 0.5, 4.0: 0.5}) is None


@pytest.mark.parametrize(
    "grid",
    [
        {"lr": [1e-3, 1e-2]},
        {"lr": [0, 1e-3, 1e-2]},
        {"lr": ["a", "b", "c"]},
        {"lr": RATES, "reduction": [4, 8, 16]},
    ],
)
def test_a_grid_that_cannot_grow_is_refused(grid: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Row 'adapter': on many tasks a grid is one setting"):
        grid_of(row(grid=grid))


def test_values_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ConfigError, match="the values of lr must rise"):
        grid_of(row(grid={"lr": [1e-2, 1e-3, 3e-3]}))


@pytest.mark.parametrize(
    ("grid", "words"), [({"ir": RATES}, "ir.*lr"), ({"warmup": [0.5, 1, 2]}, "warmup")]
)
def test_a_grid_that_the_method_refuses_is_refused_before_anything_runs(
    tmp_path: Path, grid: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        jobs_of(protocol(row(grid=grid)), SCHOOL, tmp_path, {})


def test_a_range_is_refused_since_nothing_searches_it() -> None:
    with pytest.raises(ConfigError, match="on many tasks a grid is one setting"):
        tuned(protocol(row(ranges={"lr": {"low": 1e-4, "high": 1e-2}})), [], Path("nowhere"))


def test_a_report_without_what_was_chosen_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"chosen\.json is missing or damaged.*--resume"):
        notes(protocol(row(grid={"lr": RATES})), tmp_path)
