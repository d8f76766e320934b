"""In which order protocols do their work, on what, and what they read back: whatever trains is exchanged."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from petiole.data.dataset import Dataset, Sample
from petiole.engine.run import RunSpec
from petiole.engine.share import Share
from petiole.errors import ConfigError, DataError, RunError
from petiole.protocols import (
    continual,
    domain_shift,
    generalisation,
    jobs,
    model_selection,
    rank_sweep,
    search,
    selection,
)
from petiole.protocols.comparison import Comparison
from petiole.protocols.jobs import Stage
from petiole.protocols.model_selection import Judged
from petiole.protocols.protocol import rows_of
from petiole.protocols.search_space import SearchRange
from petiole.protocols.selection import Open
from petiole.protocols.settled import Tuning
from petiole.tasks.classification.workspace import Classification, ClassificationWorkspace, Subset

TASK = Classification("b", Path("photos"), quiet=True)


def images(name: str, labels: list[int], classes: tuple[str, ...] = ("x", "y"), domain: str = "target") -> Dataset:  # fmt: skip
    samples = tuple(
        Sample(Path(f"{name}{i}.png"), k, f"{name}{i}", domain) for i, k in enumerate(labels)
    )
    return Dataset(name, classes, samples)


def opened(**more: Any) -> Any:
    """A workspace of photos without photos."""
    made = object.__new__(ClassificationWorkspace)
    for name, value in more.items():
        made.__dict__[name] = value
    return made


# --- a comparison -------------------------------------------------------------------------------


def test_the_frozen_half_runs_once_for_all_that_jobs_ask_for() -> None:
    asked: list[Any] = []
    features = SimpleNamespace(quiet=True)
    seen: list[bool] = []

    def table(data: Dataset, cut: Any, recipe: Any) -> None:
        seen.append(features.quiet)
        asked.append((sorted(data.ids), cut, recipe.views, recipe.augmentation))

    class Plan:
        def __init__(self, training: tuple[str, ...], anchors: Any = None) -> None:
            self.training, self.anchors = training, anchors

        def cut(self, _: Any, *, training: bool = False) -> tuple[str, ...]:
            return self.training if training else ("block.1",)

    def method(job: Any) -> Any:
        plan = {
            "a": Plan(("block.1",)),
            "b": Plan(("images",)),
            "c": Plan(("final",), ("anchor",)),
        }[job]
        recipe = SimpleNamespace(views=0 if job == "a" else 2, augmentation="none" if job == "a" else "default")  # fmt: skip
        return SimpleNamespace(plan=lambda *_: plan, recipe=recipe)

    data = {"a": (images("p", [0, 1]), images("t", [0])), "b": (images("q", [0]), images("t", [0])), "c": (images("p", [0, 1]), images("u", [1]))}  # fmt: skip
    workspace = opened(
        task=SimpleNamespace(cache=Path("c")), features=features, backbone="net", shift=SimpleNamespace(classes="xy"),
        method_of=method, parts=lambda options: data[options], table=table,
    )  # fmt: skip
    specs: Any = [type("Job", (str,), {"options": name})(name) for name in "abc"]
    domain_shift.prepare(workspace, specs, quiet=False)
    assert [row[1] for row in asked] == [("block.1",), ("final",), ("anchor",)], (
        "images need no features"
    )
    assert set(asked[0][0]) == {"p0", "p1", "t0", "u0"}
    assert [row[2:] for row in asked] == [(0, "none"), (2, "default"), (2, "default")]
    assert [row[0] for row in asked[1:]] == [["p0", "p1"]] * 2
    assert (seen, features.quiet) == ([False] * 3, True)
    asked.clear()
    workspace.__dict__["task"] = SimpleNamespace(cache=None)
    domain_shift.prepare(workspace, specs, quiet=False)
    domain_shift.prepare(SimpleNamespace(), specs, quiet=False)  # type: ignore[arg-type]
    assert asked == [], "nothing is kept"


def comparison(**terms: Any) -> Comparison:
    given = {"title": "t", "rows": rows_of(["ridge", "lora-qkv"]), "seeds": 1, "shots": 4, "baseline": "ridge", "headline": "ridge"}  # fmt: skip
    return Comparison(**{**given, **terms})


def test_a_comparison_prepares_settles_notes_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    steps: list[Any] = []
    monkeypatch.setattr(domain_shift, "open_workspace", lambda task: steps.append("open") or task)
    monkeypatch.setattr(
        domain_shift,
        "prepare",
        lambda _, specs, quiet: steps.append(("prepare", len(specs), quiet)),
    )
    monkeypatch.setattr(domain_shift, "settled", lambda c, made, folder, storage, **more: steps.append(("settled", storage, more)) or (made[:1], ["chosen"]))  # noqa: ARG005  # fmt: skip
    monkeypatch.setattr(
        domain_shift, "run_jobs", lambda specs, **more: steps.append(("run", len(specs), more))
    )
    c = comparison(notes=["n"])
    made = domain_shift.jobs_of(c, TASK, tmp_path, {})
    domain_shift.compare(c, made, tmp_path, "s", quiet=True)
    assert steps == [
        "open",
        ("prepare", 2, True),
        ("settled", "s", {"quiet": True}),
        ("run", 1, {"quiet": True}),
    ]
    assert Comparison.read(tmp_path).notes == ["n", "chosen"]
    with pytest.raises(RunError, match=r"Add --resume"):
        domain_shift.compare(c, made, tmp_path)
    steps.clear()
    domain_shift.compare(c, made, tmp_path, resume=True)
    assert steps[1] == ("prepare", 2, False)
    tuned = comparison(validation=0.5, rows=[*rows_of(["ridge"]), rows_of(["lora-qkv"])[0].model_copy(update={"grid": {"lr": [0.1, 0.2]}})])  # fmt: skip
    made = domain_shift.jobs_of(tuned, TASK, tmp_path, {})
    steps.clear()
    domain_shift.compare(tuned, made, tmp_path / "tuned")
    assert steps[1][1] == 2 * 2 + 2


def test_stages_are_of_their_first_task(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[Any] = []
    monkeypatch.setattr(jobs, "open_workspace", lambda task: SimpleNamespace(store=lambda specs, share: stored.append((task, specs, share))))  # fmt: skip
    spec = RunSpec(TASK, "ridge", Path("f"))
    stage = Stage((spec,), "share")  # type: ignore[arg-type]
    assert stage.task is TASK
    jobs.store_share(stage)
    assert stored == [(TASK, (spec,), "share")]


def test_what_no_run_has_finished_is_computed_once_a_task_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    steps: list[Any] = []
    monkeypatch.setattr(jobs, "open_workspace", steps.append)
    mapped: list[tuple[Any, list[Any]]] = []

    class Places:
        places = 2

        def map(self, work: Any, todo: Any) -> Any:
            mapped.append((work, list(todo)))
            return iter([SimpleNamespace(scores={}) for _ in todo])

    monkeypatch.setattr(jobs, "average", lambda _: 0.5)
    other = replace(TASK, backbone="c")
    specs = [
        RunSpec(task, "ridge", tmp_path / name, resume=resume)
        for task, name, resume in ((TASK, "a", False), (other, "b", True), (TASK, "c", True), (TASK, "d", True), (other, "e", False))
    ]  # fmt: skip
    for name in "ad":
        (tmp_path / name).mkdir()
        (tmp_path / name / jobs.RECORD).touch()
    records = jobs.run_jobs(specs, executor=Places(), quiet=True)  # type: ignore[arg-type]
    assert len(records) == 5
    assert steps == [TASK, other]
    (store, stages), (run, whole) = mapped
    assert (store, run, whole) == (jobs.store_share, jobs.run, specs)
    a, b, c, _, e = specs
    assert [(stage.specs, stage.share) for stage in stages] == [
        ((a, c), Share(1, 2)), ((a, c), Share(2, 2)), ((b, e), Share(1, 2)), ((b, e), Share(2, 2)),
    ]  # fmt: skip


# --- generalisation -----------------------------------------------------------------------------


def test_every_adapter_is_scored_once_at_every_place_but_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    steps: list[Any] = []
    monkeypatch.setattr(
        generalisation, "_check_names", lambda specs: steps.append(("names", len(specs)))
    )
    monkeypatch.setattr(generalisation, "open_workspace", lambda task: task)
    monkeypatch.setattr(generalisation.domain_shift, "prepare", lambda task, specs, quiet: steps.append((task.part, len(specs), quiet)))  # fmt: skip
    monkeypatch.setattr(
        generalisation, "run_jobs", lambda specs, **more: steps.append(("run", len(specs), more))
    )
    monkeypatch.setattr(generalisation, "ClassificationWorkspace", lambda task: SimpleNamespace(shift=SimpleNamespace(test=f"test of {task.part}")))  # fmt: skip
    scored: list[Any] = []
    monkeypatch.setattr(generalisation, "score_transfer", lambda folder, name, task, test: scored.append((folder.parent.name, name, task.part, test)) or SimpleNamespace(scores={"accuracy": 0.5}))  # fmt: skip
    study = generalisation.plan(
        "pets", rows_of(["coop", "promptkd"]), reference="", shots=4, seeds=1
    )
    made = generalisation.jobs_of(study, TASK, tmp_path, {})
    others = generalisation.beside(study, TASK, tmp_path, resume=True)
    assert len(others) == 6
    assert all(spec.resume for spec in others)
    places = generalisation.places_of(study, TASK, {})
    shown: list[Any] = []

    def progress(_: str, of: int, *, quiet: bool) -> Any:
        shown.append((of, quiet))
        return nullcontext(lambda *_: None)

    monkeypatch.setattr(generalisation, "progress", progress)
    generalisation.generalise(study, made, places, tmp_path, others=others, quiet=True)
    assert steps == [
        ("names", 2), ("base", 1 + 3, True), ("all", 1, True), ("novel", 3, True), ("run", 8, {"quiet": True}),
    ]  # fmt: skip
    assert scored == [
        ("coop", "novel", "base", "test of novel"),
        ("promptkd", "base", "all", "test of base"),
        ("promptkd", "novel", "all", "test of novel"),
    ]
    elsewhere = generalisation.plan("pets", rows_of(["linear-probe"]), reference="", shots=4, seeds=1, places=["x"])  # fmt: skip
    steps.clear()
    generalisation.generalise(elsewhere, [], {}, tmp_path / "other")
    assert steps == [("run", 0, {})], "any head does"
    with pytest.raises(RunError, match=r"Add --resume"):
        generalisation.generalise(elsewhere, [], {}, tmp_path / "other")
    assert [row[1] for row in shown] == [True, False]


# --- tasks in sequence --------------------------------------------------------------------------


def sequence() -> tuple[continual.Continual, list[Any], list[Any]]:
    """Two tasks: four training images and three or two test images."""
    study = continual.plan(["a", "b"], "ridge", {}, shots=3, memory=1, seeds=2)
    first = (images("p", [0, 0, 1, 1]), images("s", [0, 1, 1]))
    second = (images("q", [0, 1, 1, 0], ("u", "v")), images("t", [1, 0], ("u", "v")))
    vectors = {"p": [[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]], "q": [[-1.0, 0], [0, -1], [0, -1], [-1, 0]],
               "s": [[1.0, 0.2], [0.1, 1], [-1, -0.1]], "t": [[-1.0, 0.1], [0.2, 1]]}  # fmt: skip
    spaces = [
        SimpleNamespace(parts=lambda _, data=train: (data, None), shift=SimpleNamespace(classes=train.classes, test=test),
                        vectors=lambda data: np.array(vectors[data.name], dtype=np.float32))
        for train, test in (first, second)
    ]  # fmt: skip
    return study, spaces, [TASK, Classification("b", Path("other"), quiet=True)]


def test_replay_learns_the_new_task_and_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    study, spaces, tasks = sequence()
    queue = list(spaces)
    monkeypatch.setattr(continual, "_opened", lambda _: queue.pop(0))
    made = continual.jobs_of(study, tasks, tmp_path, resume=True)
    homes = [spec.folder.relative_to(tmp_path / "runs").as_posix() for spec in made]
    assert homes == [f"{kind}/{task}/seed-{seed}" for seed in (0, 1) for kind, task in (("adapters", "a"), ("adapters", "b"), ("replay", "b"))]  # fmt: skip
    assert [spec.options for spec in made[:3]] == [Subset(3, 0), Subset(3, 0), Subset(None, 0)]
    assert [spec.seed for spec in made] == [0] * 3 + [1] * 3
    assert all(spec.resume and spec.task.quiet for spec in made)
    replay = made[2].task
    assert replay.images.classes == ("x", "y", "u", "v")
    assert [s.label for s in replay.images.samples].count(2) == 2
    assert sorted(s.label for s in replay.images.samples) == [0, 1, 2, 2, 3, 3], (
        "one of each earlier class"
    )
    assert [s.id for s in replay.test.samples] == ["s0", "s1", "s2", "t1", "t0"]
    assert [s.label for s in replay.test.samples] == [0, 1, 1, 2, 3]
    spaces[1].shift.classes = ("x", "v")
    queue.extend(spaces)
    with pytest.raises(ConfigError, match=r"a and b both have the class 'x'\. In a sequence"):
        continual.jobs_of(study, tasks, tmp_path)


def test_matrices_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, spaces, _ = sequence()
    right = {
        "adapters/a": [True, True, True], "adapters/b": [True, False],
        "replay/b": [True, False, False, True, True],
    }  # fmt: skip
    monkeypatch.setattr(continual, "_right", lambda folder: np.array(right[folder.parent.relative_to(tmp_path / "runs").as_posix()]))  # fmt: skip
    found = continual._matrices(study, spaces, tmp_path, 0)
    assert found["told"] == [[1.0], [1.0, 0.5]]
    # The third image of a lies where the classes of b do, the second of b where those of a do.
    assert found["routed"] == [[1.0], [pytest.approx(2 / 3), 0.5]]
    assert found["replay"] == [[1.0], [pytest.approx(1 / 3), 1.0]]
    right["adapters/b"] = [True, True]
    assert continual._matrices(study, spaces, tmp_path, 0)["routed"][1] == [
        pytest.approx(2 / 3),
        0.5,
    ]
    predictions = SimpleNamespace(
        probabilities=torch.tensor([[0.9, 0.1], [0.4, 0.6]]), labels=torch.tensor([0, 0])
    )
    monkeypatch.undo()
    monkeypatch.setattr(continual, "read_predictions", lambda _: predictions)
    assert continual._right(tmp_path).tolist() == [True, False]


def test_a_sequence_writes_the_matrices_of_all_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    study, spaces, tasks = sequence()
    monkeypatch.setattr(continual, "_opened", lambda _: None)
    ran: list[Any] = []
    monkeypatch.setattr(continual, "run_jobs", lambda specs, **more: ran.append((specs, more)))
    monkeypatch.setattr(continual, "_matrices", lambda _, __, ___, seed: {way: [[float(seed)]] for way in continual.WAYS})  # fmt: skip
    continual.learn(study, ["job"], tasks, tmp_path, quiet=True)  # type: ignore[list-item]
    assert ran == [(["job"], {"quiet": True})]
    assert continual.matrices(tmp_path) == {way: [[[0.0]], [[1.0]]] for way in continual.WAYS}
    assert len(spaces) == 2


# --- sweep --------------------------------------------------------------------------------------


def test_a_sweep_compares_each_share_then_measures_the_highest_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    wanted = rank_sweep.RankSweep.checked(method="adaptertune", ranks=[1, 4], fractions=[0.5, 1.0], seeds=3, validation=0.25)  # fmt: skip
    done: list[Any] = []
    monkeypatch.setattr(rank_sweep.domain_shift, "compare", lambda c, specs, folder, **more: done.append((c.fraction, len(specs), folder.name, specs[0].resume, more)))  # fmt: skip
    monkeypatch.setattr(rank_sweep, "open_workspace", lambda task: task)
    taught: list[RunSpec] = []
    found = SimpleNamespace(model_dump=lambda mode: {"a": 1})  # noqa: ARG005
    monkeypatch.setattr(rank_sweep, "measure", lambda _, teacher: taught.append(teacher) or found)
    rank_sweep.run(wanted, TASK, tmp_path, quiet=True)
    assert done == [
        (0.5, 6, "fraction-0.5", False, {"quiet": True}),
        (1.0, 6, "fraction-1", False, {"quiet": True}),
    ]
    (teacher,) = taught
    assert (teacher.settings["rank"], teacher.seed, teacher.folder.name) == (4, 0, "split-0-seed-0")
    assert teacher.folder.is_relative_to(tmp_path / "fraction-1/runs/r4")
    assert (tmp_path / rank_sweep.SPECTRUM).is_file()
    done.clear()
    rank_sweep.run(wanted, TASK, tmp_path, resume=True)
    assert [row[3] for row in done] == [True, True]
    assert len(taught) == 1, "it is measured already"
    with pytest.raises(RunError, match=r"Add --resume"):
        rank_sweep.run(wanted, TASK, tmp_path)
    assert len(done) == 2
    monkeypatch.setattr(rank_sweep, "measure", lambda *_: None)
    rank_sweep.run(wanted, TASK, tmp_path / "other")
    assert not (tmp_path / "other" / rank_sweep.SPECTRUM).exists()


# --- a method is chosen -------------------------------------------------------------------------


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
    return model_selection.select_method(workspace, RunSpec(TASK, "auto", Path("f")), **more), asked


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
        model_selection._target_labels(mixed, RunSpec(TASK, "auto", Path("f")))


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

    spec = RunSpec(TASK, "auto", tmp_path, options=Subset(5), resume=True)
    chosen, _ = selection.select(spec, Open(("c", "d"), True, 2.5))
    assert steps == [("backbones", ("c", "d"), Subset(5)), ("opened", "c"), ("space", "c", 2.5)]
    assert chosen.task.backbone == "c"
    assert made[-1]["unusable"] == {"d": "gone"}
    job = RunSpec(TASK, "lora-qkv", tmp_path, {"lr": 0.5})
    monkeypatch.setattr(selection, "settled", lambda c, specs, folder, storage, **more: steps.append((c.title, specs[0].folder, folder, storage, more["resume"], more["quiet"])) or ([job], ["n"]))  # fmt: skip
    named = RunSpec(TASK, "lora-qkv", tmp_path / "x", options=Subset(5))
    chosen, _ = selection.select(named, Open((), False, 0.0, Tuning(0.5, storage="s")))
    assert steps[-1] == ("lora-qkv", tmp_path / "x", tmp_path / "x", "s", False, True)
    assert (chosen.settings, made[-1]) == ({"lr": 0.5}, {"settings": {"lr": 0.5}, "notes": ["n"]})


# --- search -------------------------------------------------------------------------------------


def searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loss: Any, trials: int = 6, storage: Any = None, **row: Any) -> tuple[Any, list[Any]]:  # fmt: skip
    """A search whose trials lose what is said, by their settings and fold; and what was run."""
    optuna = pytest.importorskip("optuna", reason="searches need petiole[optuna]")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges = {
        "lr": SearchRange(low=1e-4, high=1e-1, log=True),
        "rank": SearchRange(choices=["2", "4"]),
    }
    one = rows_of(["lora-qkv"])[0].model_copy(update={"ranges": ranges, **row})
    c = comparison(
        rows=[one], baseline="lora-qkv", headline="lora-qkv", validation=0.5, trials=trials
    )
    made = domain_shift.jobs_of(c, TASK, tmp_path, {"rank": 4} if not row else {})
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
    c = comparison(rows=rows, validation=0.5, trials=1)
    monkeypatch.setattr(search._Search, "run", lambda self, _: (self.row.name, self.running))
    found = search.search(c, [], tmp_path, quiet=True)
    assert found == {"lora-qkv": ("lora-qkv", {"quiet": True, "resume": True})}
    assert (tmp_path / "tuning/optuna.jsonl").is_file()
    with pytest.raises(ConfigError, match=r"nonsense://x: cannot be used .*Name an Optuna storage"):
        search.search(c, [], tmp_path, "nonsense://x")
