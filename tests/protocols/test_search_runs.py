"""In which order a method is chosen and settings are searched: whatever trains is exchanged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from builders.comparisons import QUIET, images, of_one_run
from petiole.engine.run import RunSpec
from petiole.errors import ConfigError, DataError
from petiole.protocols import domain_shift, model_selection, search, selection
from petiole.protocols.model_selection import Judged
from petiole.protocols.protocol import rows_of
from petiole.protocols.search_space import SearchRange
from petiole.protocols.selection import Open
from petiole.protocols.settled import Tuning
from petiole.tasks.classification.workspace import Subset


def select(monkeypatch: pytest.MonkeyPatch, labels: list[int], losses: dict[str, float | None], minutes: float | None = 2.0, **more: Any) -> tuple[Any, list[str]]:  # fmt: skip
    asked: list[str] = []
    noise = np.linspace(-0.01, 0.01, 10)

    def judge(_: Any, __: Any, method: str, *___: Any) -> Judged | None:
        asked.append(method)
        loss = losses.get(method)
        return None if loss is None else Judged(loss + noise, np.ones(10), 90.0)

    monkeypatch.setattr(model_selection, "judge", judge)
    monkeypatch.setattr(model_selection, "_minutes", lambda *_: minutes)
    monkeypatch.setattr(
        model_selection, "_built", lambda _, __, method: method != "zero-shot" or None
    )
    workspace: Any = SimpleNamespace(parts=lambda _: (images("p", labels, ("x", "y", "z")), None))
    return model_selection.select_method(
        workspace, RunSpec(QUIET, "auto", Path("f")), **more
    ), asked


def test_what_is_tried_before_the_budget_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    three = [0, 0, 0, 2, 2, 2, 2]
    losses = {"averaged-ridge": 0.5, "class-means": 0.6, "a": 0.5, "b": 0.5, "c": 0.5}
    choice, asked = select(monkeypatch, three, losses, trained=("a", "b", "c"), budget=4.0)
    assert asked == ["averaged-ridge", "class-means", "zero-shot", "a", "b"], (
        "1.5 and 2, then 3 and 2"
    )
    assert choice.untried == {"c": "about 2.0 min to try (--budget 5.0)"}
    assert (choice.images, [c.method for c in choice.candidates]) == (
        7,
        ["averaged-ridge", "class-means", "a", "b"],
    )
    choice, asked = select(monkeypatch, three, losses, trained=("a",), budget=2.0)
    assert asked[-1] == "a", "exactly the budget"
    choice, _ = select(monkeypatch, three, losses, None, trained=("a",))
    assert choice.untried == {"a": "it does not fit this backbone"}
    choice, asked = select(monkeypatch, [0, 0, 2, 2, 2], losses, trained=("a",), budget=9.0)
    assert choice.untried == {"a": "fewer than 3 images a class cannot show that it is better"}
    assert asked == ["averaged-ridge", "class-means", "zero-shot"]


def test_one_image_a_class_leaves_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    choice, asked = select(monkeypatch, [0, 1], {}, trained=("a", "zero-shot"))
    assert asked == ["averaged-ridge"]
    assert choice.reason.startswith(
        "averaged-ridge, because one target image a class leaves nothing"
    )
    alone = "no image can be left out of averaged-ridge, so there is nothing to set it against"
    assert choice.untried == {
        "a": alone,
        "zero-shot": "it does not fit this backbone",
        "class-means": alone,
    }
    mixed: Any = SimpleNamespace(parts=lambda _: (images("p", [0, 1], domain="source"), None))
    with pytest.raises(
        DataError, match=r"chooses on target images, and there are none\. Name a method"
    ):
        model_selection._target_labels(mixed, RunSpec(QUIET, "auto", Path("f")))


def test_backbone_then_method_then_settings_are_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    steps: list[Any] = []
    best = SimpleNamespace(name="c")
    monkeypatch.setattr(selection, "rank_backbones", lambda task, names, subset, executor: steps.append(("backbones", names, subset)) or ([best], {"d": "gone"}))  # noqa: ARG005  # fmt: skip
    monkeypatch.setattr(
        selection, "reopened", lambda task: steps.append(("opened", task.backbone)) or "space"
    )
    monkeypatch.setattr(selection, "select_method", lambda space, spec, budget, executor: steps.append((space, spec.task.backbone, budget)) or None)  # noqa: ARG005  # fmt: skip
    monkeypatch.setattr(selection, "Selection", lambda **fields: selection_of(fields))
    made: list[Any] = []

    def selection_of(fields: dict[str, Any]) -> Any:
        made.append(fields)
        return SimpleNamespace(model_dump=lambda mode: {}, backbone=fields.get("backbone", ""), method=None, settings=fields.get("settings"))  # noqa: ARG005  # fmt: skip

    spec = RunSpec(QUIET, "auto", tmp_path, options=Subset(5), resume=True)
    chosen, _ = selection.select(spec, Open(("c", "d"), True, 2.5))
    assert steps == [("backbones", ("c", "d"), Subset(5)), ("opened", "c"), ("space", "c", 2.5)]
    assert chosen.task.backbone == "c"
    assert made[-1]["unusable"] == {"d": "gone"}
    job = RunSpec(QUIET, "lora-qkv", tmp_path, {"lr": 0.5})
    monkeypatch.setattr(selection, "settled", lambda c, specs, folder, storage, **more: steps.append((c.title, specs[0].folder, folder, storage, more["resume"], more["quiet"])) or ([job], ["n"]))  # fmt: skip
    named = RunSpec(QUIET, "lora-qkv", tmp_path / "x", options=Subset(5))
    chosen, _ = selection.select(named, Open((), False, 0.0, Tuning(0.5, storage="s")))
    assert steps[-1] == ("lora-qkv", tmp_path / "x", tmp_path / "x", "s", False, True)
    assert (chosen.settings, made[-1]) == ({"lr": 0.5}, {"settings": {"lr": 0.5}, "notes": ["n"]})


def searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loss: Any, trials: int = 6, storage: Any = None, **row: Any) -> tuple[Any, list[Any]]:  # fmt: skip
    """A search whose trials lose what is said, by their settings and fold; and what was run."""
    optuna = pytest.importorskip("optuna", reason="searches need petiole[optuna]")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges = {
        "lr": SearchRange(low=1e-4, high=1e-1, log=True),
        "rank": SearchRange(choices=["2", "4"]),
    }
    one = rows_of(["lora-qkv"])[0].model_copy(update={"ranges": ranges, **row})
    c = of_one_run(
        rows=[one], baseline="lora-qkv", headline="lora-qkv", validation=0.5, trials=trials
    )
    made = domain_shift.jobs_of(c, QUIET, tmp_path, {"rank": 4} if not row else {})
    ran: list[Any] = []
    settings: dict[tuple[int, int], Any] = {}

    def run_jobs(specs: list[RunSpec], what: str, **more: Any) -> None:
        ran.append((what, [spec.folder.parent.name for spec in specs], more["resume"]))
        assert all(spec.resume for spec in specs)
        for spec in specs:
            settings[int(spec.folder.parent.name), int(spec.folder.name[-1])] = spec.settings

    monkeypatch.setattr(search, "run_jobs", run_jobs)
    monkeypatch.setattr(search._Search, "_losses", lambda _, trial, fold: np.asarray(loss(trial, settings[trial, fold], fold), dtype=float))  # fmt: skip
    found = search._Search(c, made, tmp_path, one, {"quiet": True}).run(
        storage or optuna.storages.InMemoryStorage()
    )
    return found, ran


def test_a_search_begins_at_the_row_s_own_settings_and_ends_bad_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    seen: dict[int, Any] = {}

    def loss(trial: int, settings: Any, fold: int) -> list[float]:
        seen[trial] = settings
        base = {1: 0.2, 4: 0.1}.get(trial, 0.9 if trial else 0.5)
        return [base + 0.01 * fold, base + 0.02]

    found, ran = searched(monkeypatch, tmp_path, loss)
    assert (float(seen[0]["lr"]), seen[0]["rank"]) == (0.001, "4"), "what the method starts from"
    assert found.settings == {"lr": seen[4]["lr"], "rank": seen[4]["rank"]}
    assert ran == [
        ("search lora-qkv, fold 0", ["0", "1", "2", "3"], True),
        ("search lora-qkv, fold 1", ["1"], True),
        ("search lora-qkv, fold 0", ["4", "5"], True),
        ("search lora-qkv, fold 1", ["4"], True),
    ]
    assert found.note == (
        f"lora-qkv: lr={found.settings['lr']:.3g}, rank={found.settings['rank']} of (lr 0.0001..0.1:log; rank 2,4) by mean log-loss of "
        "2 folds, the best of 6 trials by Optuna, of which 4 ended early."
    )


def test_equal_trials_go_on_and_the_first_of_them_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    found, ran = searched(monkeypatch, tmp_path, lambda *_: [0.5, 0.7], trials=4)
    assert [row[1] for row in ran] == [["0", "1", "2", "3"]] * 2
    assert found.note.endswith("the best of 4 trials by Optuna, of which 0 ended early.")
    assert float(found.settings["lr"]) == 0.001


def test_a_search_taken_up_again_tries_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    optuna = pytest.importorskip("optuna", reason="searches need petiole[optuna]")
    storage = optuna.storages.InMemoryStorage()
    seen: list[dict[int, Any]] = [{}, {}, {}]

    def loss(place: int, dies: bool = False) -> Any:
        def of(trial: int, settings: Any, fold: int) -> list[float]:
            seen[place][trial] = (settings["lr"], settings["rank"])
            if dies and trial == 2:
                raise RuntimeError("killed")
            return [0.5 + 0.01 * trial, 0.6 + 0.1 * fold]

        return of

    whole, _ = searched(monkeypatch, tmp_path / "a", loss(0), storage=storage)
    again, ran = searched(monkeypatch, tmp_path / "a", loss(1), storage=storage)
    assert (again.settings, again.note, seen[1]) == (whole.settings, whole.note, seen[0])
    assert len(ran) == 4, "their folders are finished, so nothing is trained"
    with pytest.raises(RuntimeError):
        searched(monkeypatch, tmp_path / "b", loss(2, dies=True), storage=storage)
    third, _ = searched(monkeypatch, tmp_path / "b", loss(2), storage=storage)
    assert seen[2][0] == seen[0][0]
    assert third.note.startswith("lora-qkv: lr=")


def test_settings_beyond_the_ranges_are_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    seen: dict[int, Any] = {}

    def loss(trial: int, settings: Any, _: int) -> list[float]:
        seen[trial] = settings
        return [1.0, 2.0]

    ranges = {"lr": SearchRange(low=0.5, high=0.6)}
    searched(monkeypatch, tmp_path, loss, trials=1, ranges=ranges)
    assert 0.5 <= seen[0]["lr"] <= 0.6


def test_log_losses_of_a_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place: list[Path] = []
    monkeypatch.setattr(search, "read_record", place.append)
    p = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    monkeypatch.setattr(search, "read_predictions", lambda _: SimpleNamespace(probabilities=p, labels=torch.tensor([1, 1, 0])))  # fmt: skip
    one = object.__new__(search._Search)
    one.folder, one.row = tmp_path, rows_of(["ridge"])[0]
    losses = one._losses(3, 1)
    assert losses == pytest.approx([-np.log(0.75), -np.log(1e-12), np.log(2)])
    assert place == [tmp_path / "tuning/ridge/3/fold-1"]


def test_every_row_with_ranges_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna", reason="searches need petiole[optuna]")
    rows = rows_of(["ridge", "lora-qkv"])
    rows[1] = rows[1].model_copy(update={"ranges": {"rank": SearchRange(low=1, high=2)}})
    c = of_one_run(rows=rows, validation=0.5, trials=1)
    monkeypatch.setattr(search._Search, "run", lambda self, _: (self.row.name, self.running))
    found = search.search(c, [], tmp_path, quiet=True)
    assert found == {"lora-qkv": ("lora-qkv", {"quiet": True, "resume": True})}
    assert (tmp_path / "tuning/optuna.jsonl").is_file()
    with pytest.raises(ConfigError, match=r"nonsense://x: cannot be used .*Name an Optuna storage"):
        search.search(c, [], tmp_path, "nonsense://x")
