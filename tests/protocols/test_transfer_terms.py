"""Terms of a transfer, a sweep and a sequence of tasks, and what their runs are made of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders.comparisons import TASK
from petiole.errors import ConfigError, DataError, RunError
from petiole.protocols import continual, rank_sweep, transfer
from petiole.protocols.transfer import Transfer, TransferCell


def test_terms_of_a_transfer() -> None:
    cells = [TransferCell.of("a", "v", TASK, Path("out"))]
    wanted = transfer.plan(cells, ["ridge", "knn"], seeds=3, margin=0.02, settings={"steps": 5})
    c = wanted.comparison(cells[0], ["n"])
    assert (c.seeds, c.margin, c.headline, c.reference, c.baseline) == (3, 0.02, "ridge", "ridge", "ridge")  # fmt: skip
    assert (c.notes, c.title, wanted.settings) == (["n"], "a on v", {"steps": 5})
    assert not wanted.done(Path("nowhere"), cells[0])


def test_a_transfer_trains_on_one_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = transfer.plan([TransferCell.of("a", "v", TASK, Path("out"))], ["ridge"], seeds=2)
    opened = SimpleNamespace(shift=SimpleNamespace(source=None), notes=["n"])
    monkeypatch.setattr(transfer, "open_workspace", lambda _: opened)
    c, made = transfer.jobs_of(wanted, wanted.cells[0], TASK, Path("f"), resume=True)
    assert (c.notes, [str(m.folder) for m in made]) == (
        ["n"],
        [f"f/a/v/runs/ridge/split-0-seed-{i}" for i in (0, 1)],
    )
    assert all(m.resume for m in made)
    assert not any(m.resume for m in transfer.jobs_of(wanted, wanted.cells[0], TASK, Path("f"))[1])
    opened.shift.source = object()
    with pytest.raises(DataError, match=r"photos: has images of a source domain"):
        transfer.jobs_of(wanted, wanted.cells[0], TASK, Path("f"))


def test_only_unfinished_cells_with_a_task_are_done(monkeypatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    cells = [TransferCell.of(n, "v", TASK, Path("out")) for n in "abc"]
    wanted = transfer.plan(cells, ["ridge"], seeds=1)
    done: list[Any] = []
    monkeypatch.setattr(Transfer, "done", lambda _, __, cell: cell.data == "b")
    monkeypatch.setattr(transfer, "jobs_of", lambda _, cell, *__, resume: (cell.data, [resume]))  # fmt: skip
    monkeypatch.setattr(transfer.domain_shift, "compare", lambda *given, **more: done.append((*given, more)))  # fmt: skip
    transfer.run(wanted, {"a/v": TASK, "b/v": TASK}, tmp_path, "s", resume=True)
    assert done == [("a", [True], tmp_path / "a/v", "s", {"resume": True})]
    assert Transfer.read(tmp_path) == wanted


def sweep(**terms: Any) -> rank_sweep.RankSweep:
    given = {"method": "adaptertune", "ranks": [2, 1], "fractions": [1.0, 0.5], "seeds": 3, "validation": 0.25}  # fmt: skip
    return rank_sweep.RankSweep.checked(**{**given, **terms})


def test_a_share_of_a_sweep_is_a_comparison_by_rank() -> None:
    s = sweep()
    half, whole = s.comparison(0.5), s.comparison(1.0)
    assert [(row.name, row.label, row.settings) for row in half.rows] == [
        ("r1", "rank 1", {"rank": 1}),
        ("r2", "rank 2", {"rank": 2}),
    ]
    assert (half.reference, half.baseline, half.headline) == ("r2", "r1", "r2")
    assert (half.split_seeds, half.seeds, half.fraction) == (3, 1, 0.5)
    assert (whole.split_seeds, whole.seeds, whole.fraction) == (1, 3, 1.0)
    assert (half.scored, half.validation, half.shots) == ("validation", 0.25, None)
    assert half.title == "adaptertune by rank, 50 % of the training images"
    made = rank_sweep.jobs_of(s, 0.5, TASK, Path("f"), resume=True)
    assert [(m.seed, m.options.split_seed) for m in made] == [(i, i) for i in range(3)] * 2
    assert not any(m.options.vectors for m in made)
    assert all(m.resume for m in made)
    assert made[0].folder.is_relative_to("f/fraction-0.5")
    made = rank_sweep.jobs_of(s, 1.0, TASK, Path("f"))
    assert [(m.seed, m.options.split_seed, m.resume) for m in made[:3]] == [(0, 0, False), (1, 0, False), (2, 0, False)]  # fmt: skip


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"ranks": [4, 4]}, r"at least 2 ranks are needed, of at least 1, not \[4\]"),
        ({"ranks": [0, 4]}, r"not \[0, 4\]"), ({"fractions": [0.0, 1.0]}, r"lie in \(0, 1\]"),
        ({"fractions": [0.5, 1.1]}, r"lie in \(0, 1\]"), ({"seeds": 1}, "seeds"), ({"validation": 0.0}, "validation"),
        ({"ranks": []}, "ranks"),
    ],
)  # fmt: skip
def test_sweeps_that_cannot_be(terms: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sweep(**terms)
    assert sweep(ranks=[1, 2], fractions=[1.0]).ranks == [1, 2]


def test_what_a_sweep_is_stated_with() -> None:
    with pytest.raises(ConfigError, match=r"give its values with --values"):
        rank_sweep.plan("adaptertune", {"rank": 3})
    assert rank_sweep._has_rank("adaptertune")
    assert not rank_sweep._has_rank("knn")


def test_forgetting_counts_from_the_best_until_before_the_last() -> None:
    assert continual.forgetting([[0.5], [0.75, 0.5]]) == -0.25, "it got better"
    assert continual.forgetting([[1.0], [0.5, 0.5], [0.25, 0.75, 1.0]]) == pytest.approx((0.75 - 0.25) / 2)  # fmt: skip


def test_terms_of_a_sequence() -> None:
    study = continual.plan(["a", "b", "c"], "ridge", {}, shots=3, memory=2, seeds=2, margin=0.01)  # fmt: skip
    assert [row.name for row in study.rows] == ["routed", "told", "replay"]
    assert study.home(Path("f"), "replay", 0, 1) == Path("f/runs/adapters/a/seed-1")
    assert study.home(Path("f"), "replay", 2, 1) == Path("f/runs/replay/c/seed-1")
    assert study.runs(Path("f"), "replay") == [Path(f"f/runs/replay/c/seed-{i}") for i in (0, 1)]
    assert study.runs(Path("f"), study.row("told")) == [Path(f"f/runs/adapters/c/seed-{i}") for i in (0, 1)]  # fmt: skip
    with pytest.raises(ConfigError, match=r"Two tasks bear one name: a, a"):
        continual.plan(["a", "a"], "ridge", {}, shots=3, memory=2, seeds=2)
    for terms in ({"shots": 0}, {"memory": 0}, {"seeds": 0}):
        with pytest.raises(ConfigError, match=next(iter(terms))):
            continual.plan(
                ["a", "b"], "ridge", {}, **{"shots": 3, "memory": 2, "seeds": 2, **terms}
            )
    with pytest.raises(ConfigError, match=r"tasks"):
        continual.plan(["a"], "ridge", {}, shots=None, memory=1, seeds=1)


def test_matrices_that_are_gone_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"matrix.json is missing or damaged: .*Repeat the command"):
        continual.matrices(tmp_path)
