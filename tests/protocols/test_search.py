"""A search by Optuna tries what follows from the trials before, ends bad ones early, and goes on to the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import petiole
from builders.images import write_images
from petiole.engine.executor import Local
from petiole.engine.record import TEST_EVALUATIONS, read_record
from petiole.errors import ConfigError
from petiole.protocols import domain_shift, search
from petiole.protocols.comparison import Comparison
from petiole.protocols.search import Candidate, with_ranges
from petiole.protocols.search_space import parse_ranges
from petiole.tasks.classification.workspace import Classification

optuna = pytest.importorskip("optuna", reason="searches need petiole[optuna]")
RANGES = ["lr=1e-5..1e-1:log", "clip=0,1"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images a class."""
    return write_images(tmp_path_factory.mktemp("search") / "photos", 8, 0)


@pytest.fixture(autouse=True, scope="module")
def _rounds() -> Iterator[None]:
    """Two trials a round, so that four trials make two."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(search, "ROUND", 2)
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def compare(photos: Path, cache: Path, folder: Path, *, resume: bool = False) -> Comparison:
    bench = Classification("petiole/tiny-vit", photos, cache=cache, quiet=True)
    terms = {"steps": 6, "views": 0}
    rows = with_ranges(domain_shift.rows_of(["linear-probe"]), terms, RANGES)
    comparison = Comparison(
        title="t", rows=rows, shots=4, seeds=1, validation=0.5, trials=4, reference="linear-probe",
        baseline="linear-probe", headline="linear-probe",
    )  # fmt: skip
    jobs = domain_shift.jobs_of(comparison, bench, folder, terms, resume=resume)
    domain_shift.compare(comparison, jobs, folder, executor=Local(), resume=resume, quiet=True)
    return comparison


def tried(folder: Path) -> list[tuple[int, str, float | None, dict[str, Any], dict[int, float]]]:
    """What Optuna knows of a search."""
    storage = search._storage(None, folder)
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    return [(t.number, t.state.name, t.value, t.params, t.intermediate_values) for t in trials]


@pytest.fixture(scope="module")
def whole(
    photos: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Comparison, Path]:
    folder = tmp_path_factory.mktemp("whole") / "c"
    return compare(photos, cache, folder), folder


def test_the_best_trial_trains_on_all_images(whole: tuple[Comparison, Path]) -> None:
    comparison, folder = whole
    trials = tried(folder)
    assert len(trials) == 4
    assert trials[0][3] == {"lr": 1e-2, "clip": "0"}, "the method's own settings"
    assert all(1e-5 <= params["lr"] <= 1e-1 for *_, params, _ in trials)
    assert len({params["lr"] for *_, params, _ in trials}) == 4
    finished = {number: value for number, state, value, *_ in trials if state == "COMPLETE"}
    best = min(finished, key=lambda number: finished[number])
    (run,) = comparison.runs(folder, "linear-probe")
    record = read_record(run)
    assert record.request.settings["lr"] == trials[best][3]["lr"]
    assert record.request.settings["clip"] == float(trials[best][3]["clip"])
    assert record.request.data.samples["train"] == 12
    for number, state, _, _, folds in trials:
        place = folder / "tuning" / "linear-probe" / str(number)
        assert len(folds) == 2 or state == "PRUNED"
        for fold, loss in folds.items():
            assert loss == pytest.approx(read_record(place / f"fold-{fold}").main["nll"])
            assert not (place / f"fold-{fold}" / TEST_EVALUATIONS).exists()
    note = Comparison.read(folder).notes[-1]
    pruned = sum(state == "PRUNED" for _, state, *_ in trials)
    assert f"lr={trials[best][3]['lr']:.3g}" in note
    assert f"of 4 trials by Optuna, of which {pruned} ended early" in note


def test_a_search_that_was_killed_goes_on_to_the_same_numbers(
    photos: Path,
    cache: Path,
    whole: tuple[Comparison, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work, calls = optuna.Study.tell, []

    def die(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:  # one trial of the second round is told, the other is under way
            raise KeyboardInterrupt
        return work(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "tell", die)
        with pytest.raises(KeyboardInterrupt):
            compare(photos, cache, tmp_path / "c")
    compare(photos, cache, tmp_path / "c", resume=True)
    assert tried(tmp_path / "c") == tried(whole[1])
    runs = [
        read_record(folder / "runs/linear-probe/split-0-seed-0")
        for folder in (tmp_path / "c", whole[1])
    ]
    assert runs[0].scores == runs[1].scores


def test_one_fit_searches_too_and_takes_its_choice_up_again(
    photos: Path, cache: Path, tmp_path: Path
) -> None:
    terms: dict[str, Any] = {
        "method": "linear-probe", "settings": {"steps": 6, "views": 0}, "shots": 4, "backbone": "petiole/tiny-vit",
        "tune": True, "trials": 2, "ranges": RANGES, "validation": 0.5, "out": tmp_path / "run", "cache_dir": cache,
        "quiet": True,
    }  # fmt: skip
    first = petiole.fit(photos, **terms)
    assert first.selection
    chosen = first.selection["settings"]
    assert (chosen["steps"], first.record["request"]["settings"]["lr"]) == (6, chosen["lr"])
    assert "of 2 trials by Optuna" in first.selection["notes"][0]
    losses = [
        np.mean([read_record(fold).main["nll"] for fold in sorted(trial.glob("fold-*"))])
        for trial in sorted((tmp_path / "run/tuning/linear-probe").iterdir())
        if len(list(trial.glob("fold-*"))) == 2
    ]
    (best,) = {
        read_record(trial / "fold-0").request.settings["lr"]
        for trial in (tmp_path / "run/tuning/linear-probe").iterdir()
        if np.mean([read_record(f).main["nll"] for f in sorted(trial.glob("fold-*"))])
        == min(losses)
    }
    assert best == chosen["lr"]
    again = petiole.fit(photos, **terms, resume=True)
    assert (again.selection, again.record) == (first.selection, first.record)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"method": "ridge", "tune": True}, "has no learning rates"),
        ({"method": "auto", "tune": True}, "one named method"),
        ({"method": "linear-probe", "trials": 3}, "--trials is for --tune"),
        ({"method": "linear-probe", "validation": 0.5}, "--validation is for --tune"),
        ({"method": "linear-probe", "processes": 2}, "petiole compare does many runs"),
    ],
)
def test_a_fit_refuses_what_it_has_no_use_for(
    photos: Path, tmp_path: Path, terms: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        petiole.fit(photos, **terms, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_trial_ends_only_where_it_is_worse_beyond_the_noise() -> None:
    rng = np.random.default_rng(0)
    best = [rng.normal(1, 0.5, 40)]
    assert search._worse([best[0] + rng.normal(0.3, 0.1, 40)], best)
    assert not search._worse([best[0] + rng.normal(0.0, 0.5, 40)], best)
    assert not search._worse([best[0][:1] + 9], [best[0][:1]]), "one image says nothing"
    assert Candidate(0, None, {}, [np.array([1.0, 3.0]), np.array([4.0])]).mean == 3.0


@pytest.mark.parametrize(
    ("text", "shown"),
    [("lr=1e-4..1e-2:log", "0.0001..0.01:log"), ("rank=4..16", "4..16"), ("rank=4, 8", "4,8")],
)
def test_ranges_are_read(text: str, shown: str) -> None:
    assert [str(one) for one in parse_ranges([text]).values()] == [shown]


@pytest.mark.parametrize("text", ["lr", "lr=", "lr=2..1", "lr=0..1:log", "lr=a..b", "=1..2"])
def test_half_a_range_is_explained(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--range takes KEY=LOW"):
        parse_ranges([text])


def test_a_range_that_no_method_has_or_takes_is_refused() -> None:
    rows = domain_shift.rows_of(["knn", "lora-qkv"])
    found = with_ranges(rows, {}, ["rank=2,4"])
    assert [sorted(row.ranges) for row in found] == [[], ["lr", "rank"]]
    for range_, said in (("rnak=2,4", "rank"), ("steps=-1..4", "steps")):
        with pytest.raises(ConfigError, match=said):
            with_ranges(rows[1:], {}, [range_])
    with pytest.raises(ConfigError, match="set already"):
        with_ranges(rows[1:], {"rank": 4}, ["rank=2,4"])
