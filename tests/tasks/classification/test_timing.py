"""What an announcement says about time, and that saying it changes nothing."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from builders.comparisons import TASK, images, opened
from petiole.backbones.base import IMAGES
from petiole.engine.run import RunSpec
from petiole.engine.timing import in_words, step_seconds
from petiole.errors import ConfigError
from petiole.ledger import ledger
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create
from petiole.tasks.classification import cost_estimate, timing
from petiole.tasks.classification.cost_estimate import (
    CostEstimate,
    describe,
    estimate_cost,
    seconds_of,
)
from petiole.tasks.classification.timing import Seconds, _FewRows
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
    assert seen.steps == 2 * estimate_cost(workspace, [job]).steps == 2000
    assert seen.train_seconds > 0
    assert (method == "full") == (seen.frozen_seconds == 0)


def test_a_solved_head_has_no_steps_to_time(bench: Classification, tmp_path: Path) -> None:
    job = RunSpec(bench, "ridge", tmp_path / "run", {}, Subset(3))
    assert timing.time_job(bench.open(), job) is None


def test_what_is_complete_costs_nothing(bench: Classification, tmp_path: Path) -> None:
    (tmp_path / "record.json").touch()
    job = RunSpec(bench, "full", tmp_path, {}, Subset(3), resume=True)
    assert estimate_cost(bench.open(), [job], timed=True).steps == 0


def test_a_step_is_half_of_what_three_take_longer_than_one() -> None:
    before = torch.get_rng_state()
    assert step_seconds(lambda steps: 5.0 + 2.0 * steps + 0 * float(torch.rand(()))) == 2.0
    assert torch.equal(torch.get_rng_state(), before)
    assert step_seconds(lambda steps: 5.0 - steps) == 0

    def fails(_: int) -> float:
        raise ConfigError("the run itself will say why")

    assert step_seconds(fails) == 0


def test_times_are_told_in_words() -> None:
    assert [in_words(s) for s in (3, 60, 600, 36_000)] == [
        "under half a minute",
        "about a minute",
        "about 10 minutes",
        "about 10.0 hours",
    ]


@pytest.mark.parametrize(
    ("seconds", "precision", "unit", "told"),
    [
        (90, "fp32", ("bf16", "amx_bf16"), True), (90, "fp32", ("fp16", "this GPU"), True), (59, "fp32", ("bf16", "amx_bf16"), False),
        (90, "bf16", ("bf16", "amx_bf16"), False), (90, "fp32", None, False),
        (60, "fp32", ("bf16", "amx_bf16"), True),
    ],
)  # fmt: skip
def test_what_a_narrower_precision_would_save_is_said_where_it_would(
    seconds: float,
    precision: str,
    unit: tuple[str, str] | None,
    told: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost_estimate, "narrow_unit", lambda _: unit)
    seen = CostEstimate(0, 0.0, 0.0, 1, 0.0, 0.0, seconds)
    lines = cost_estimate._time(seen, precision, "cpu")
    assert told == bool(unit and f"--precision {unit[0]} would use {unit[1]}" in "".join(lines))
    assert len(lines) == 1 + told


@pytest.mark.parametrize(("shots", "equal"), [(100, True), (2, False)])
def test_draws_of_the_same_images_are_told(
    bench: Classification, tmp_path: Path, shots: int, equal: bool
) -> None:
    jobs = [
        RunSpec(bench, "ridge", tmp_path / str(n), {}, Subset(shots, split_seed=n))
        for n in range(3)
    ]
    workspace = bench.open()
    assert len(cost_estimate._equal_draws(workspace, jobs)) == equal
    assert cost_estimate._equal_draws(workspace, jobs[:1]) == []


@pytest.mark.parametrize("cached", [True, False])
def test_an_estimate_by_hand(
    bench: Classification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    """18 source and 9 target images in three views each, 15 test images in one; a batch holds 3 (8 + 4) images."""
    monkeypatch.setattr(cost_estimate, "time_job", lambda *_: Seconds(0.5, 2.0))
    workspace = replace(bench, cache=tmp_path / "cache" if cached else None).open()
    settings, images = {"steps": 7, "views": 2}, 3 * (18 + 9) + 15
    job = RunSpec(workspace.task, "cls-residual-lora", tmp_path / "run", settings, Subset(3))
    counted = ledger(workspace.shape, create("cls-residual-lora"), 3)
    one = estimate_cost(workspace, [job], timed=True)
    frozen = counted.flops_forward - counted.flops_above_cut
    assert frozen > 1e6
    assert (one.images, one.flops) == (images, images * frozen)
    assert one.megabytes == pytest.approx(images * 4 * workspace.backbone.width / 1e6)
    assert (one.steps, one.train_flops) == (7, 7 * 36 * counted.flops_training)
    seconds = 7 * (2.0 + (0 if cached else 36 * 0.5))
    assert (one.frozen_seconds, one.train_seconds) == (images * 0.5, seconds)
    assert seconds_of(workspace, job) == (images * 0.5, seconds)
    two = estimate_cost(workspace, [job, replace(job, folder=tmp_path / "b")], timed=True)
    assert (two.images, two.steps, two.train_seconds) == (images, 14, 2 * seconds)
    whole = replace(job, method="full")
    every = estimate_cost(workspace, [whole], timed=True)
    assert (every.images, every.flops, every.frozen_seconds) == (0, 0, 0)
    assert seconds_of(workspace, whole) == (0, 7 * (2.0 + 3 * (2 + 2) * 0.5))


def test_a_step_is_timed_without_its_images_and_the_first_is_slow() -> None:
    few = _FewRows(None)  # type: ignore[arg-type]
    few.times = [(0.0, 1.0), (6.0, 7.0), (9.0, 9.5), (12.0, 13.0)]
    assert few.step == 2.0


def test_a_batch_repeats_the_few_images_that_are_computed() -> None:
    asked: list[tuple[list[int], list[int]]] = []

    class Rows:
        def fetch(self, rows: torch.Tensor, views: torch.Tensor) -> dict[str, torch.Tensor]:
            asked.append((rows.tolist(), views.tolist()))
            return {"role": rows.float()}

    few, rows = _FewRows(Rows()), torch.arange(10, 20)  # type: ignore[arg-type]
    got = [few.fetch(rows + 100 * n, rows)["role"].tolist() for n in range(3)]
    assert asked == [([10, 11, 12, 13], [10, 11, 12, 13]), ([110, 111, 112, 113], [10, 11, 12, 13])]
    assert got[0] == [10, 11, 12, 13, 10, 11, 12, 13, 10, 11]
    assert got[1] == got[2] == [v + 100 for v in got[0]]


def test_what_is_timed_are_three_steps_on_few_images_and_the_whole_batch_is_told(
    bench: Classification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[Recipe] = []

    def train(_: object, __: object, table: _FewRows, recipe: Recipe, **___: object) -> None:
        timed.append(recipe)
        table.times, table.image = [(0.0, 1.0), (3.0, 4.0), (7.0, 8.0)], 0.25

    monkeypatch.setattr(timing.training, "train", train)
    workspace = bench.open()

    def time(**settings: object) -> Seconds | None:
        return timing.time_job(workspace, RunSpec(bench, "full", tmp_path, settings, Subset(3)))

    kept = {"steps": 90, "views": 2, "select": "best", "patience": 3}
    assert time(**kept) == Seconds(0.25, 2.0 * 12 / 4)
    assert time(**kept, batch_size=32, drop_last=True) == Seconds(0.25, 2.0 * 32 / 4)
    for recipe, size in zip(timed, (0, 4), strict=True):
        assert (recipe.steps, recipe.views, recipe.select, recipe.patience) == (3, 0, "last", 0)
        own = (recipe.classes_per_batch, recipe.source_per_class, recipe.target_per_class)
        assert (*own, recipe.batch_size, recipe.drop_last) == (2, 1, 1, size, False)
    assert time(steps=0) is None
    monkeypatch.setattr(timing.training, "train", lambda *_, **__: None)
    assert time(**kept) is None, "nothing in it is trained"


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_announced_of_jobs(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several jobs on both domains with a cache; one job on the target alone without one."""
    asked: list[Any] = []
    target, test = images("t", [0, 1] * 600), images("e", [0] * 1500)
    source = images("s", [0], domain="source") if whole else None
    task = replace(TASK, cache=Path("kept") if whole else None, precision="bf16", device="cuda")
    bench = opened(
        task=task, backbone=SimpleNamespace(name="vit"), notes_with=lambda subset: asked.append(subset) or ("n1", "n2"),
        shift=SimpleNamespace(source=source, classes=("x", "y"), train=target, test=test), parts=lambda _: (images("t", [0]), None),
    )  # fmt: skip
    counted = CostEstimate(12_345, 2.5e12, 1234.4, 4000, 7.125e13, 90.0, 30.0)
    monkeypatch.setattr(cost_estimate, "estimate_cost", lambda *given, timed: asked.append((*given, timed)) or counted)  # fmt: skip
    subset = Subset(3) if whole else None
    draws = ["note     all 3 draws take the same images, because no class has more than 3: their spread says nothing of other images. Use fewer --shots, or one draw"]  # fmt: skip
    jobs = [RunSpec(task, "ridge", Path(str(n)), {}, subset and replace(subset, split_seed=n)) for n in range(3 if whole else 1)]  # fmt: skip
    told = describe(bench, jobs)
    assert asked == [(bench, jobs, True), subset or Subset()]
    data, cache, runs = (
        ("1 source image, 2 classes, 1,200 target images to draw from (up to 3 a class)", "kept", "3 runs")
        if whole else ("2 classes, 1,200 target images to draw from (up to 10 a class)", "no cache: repeated in every epoch", "1 run")
    )  # fmt: skip
    assert told == [
        f"data     {data}, 1,500 held back", "note     n1", "note     n2", *draws * whole,
        f"frozen   vit, 12,345 images through the frozen half (2.50 TFLOPs), 1,234 MB to store in {cache}",
        f"training {runs}, 4,000 steps, 71.25 TFLOPs above the cut, bf16 on cuda",
        "time     about 2 minutes, about 2 minutes of it the frozen half, by a batch timed here; scoring not counted",
    ]  # fmt: skip
    few = replace(jobs[0], options=Subset(None))
    assert "to draw from (all), " in describe(bench, [few])[0]
    monkeypatch.setattr(cost_estimate, "estimate_cost", lambda *_, **__: replace(counted, images=0, train_seconds=3600.0))  # fmt: skip
    assert describe(bench, jobs)[-1] == "time     about 62 minutes, by a batch timed here; scoring not counted"  # fmt: skip


def test_draws_of_one_split_seed_are_one_draw() -> None:
    drawn = lambda subset: (images("t", [0] * (1 + subset.fold)), None)  # noqa: E731
    bench = opened(parts=drawn)

    def told(*subsets: Subset | None) -> list[str]:
        jobs = [RunSpec(TASK, "ridge", Path("f"), {}, one) for one in subsets]
        return cost_estimate._equal_draws(bench, jobs)

    same = "note     all 2 draws take the same images, because no class has more than 4: their spread says nothing of other images. Use fewer --shots, or one draw"  # fmt: skip
    assert told(Subset(4), Subset(4, 1)) == told(None, Subset(4), Subset(4, 1)) == [same]
    assert told(Subset(4), Subset(4)) == told(Subset(None), Subset(None, 1)) == []
    assert told(Subset(4), Subset(4, 1, fold=1)) == told() == []


def test_what_several_jobs_cost_is_added_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two methods, of which one is run twice, and a job that is complete; each method is counted and timed once."""
    asked: list[Any] = []
    (tmp_path / "record.json").touch()

    def cost(workspace: Any, job: RunSpec) -> Any:
        asked.append(("counted", workspace, job.method))
        scale = {"a": 1, "b": 10}[job.method]
        counted = SimpleNamespace(
            flops_training=3 * scale, flops_classes_training=5, flops_forward=40, flops_above_cut=7,
        )  # fmt: skip
        return SimpleNamespace(
            steps=lambda data: len(data) * scale, ledger=counted, batch=2, bytes=1e6,
            train_seconds=lambda space, length, speed: (space, length * speed.step)[1],
        )  # fmt: skip

    def fresh(_: Any, job: RunSpec, made: Any, seen: set[Any]) -> int:
        seen.add((job.folder, "image"))
        return 6 if made.steps([0]) == 1 and len(seen) == 1 else 4

    monkeypatch.setattr(cost_estimate, "_cost", cost)
    monkeypatch.setattr(cost_estimate, "_fresh", fresh)
    monkeypatch.setattr(cost_estimate, "time_job", lambda _, job: asked.append(("timed", job.method)) or (Seconds(0.5, 2.0) if job.method == "a" else None))  # fmt: skip
    bench = opened(parts=lambda subset: (range(subset.shots), None))
    jobs = [RunSpec(TASK, name, tmp_path / str(n), {}, Subset(3 + n)) for n, name in enumerate("aab")]  # fmt: skip
    done = RunSpec(TASK, "b", tmp_path, {}, None, resume=True)
    found = estimate_cost(bench, [*jobs, done, replace(done, folder=tmp_path / "z")], timed=True)
    assert (found.images, found.flops, found.megabytes) == (6 + 4 * 3, 18 * 33, 18.0)
    assert found.steps == 3 + 4 + 50 + 100, "ten shots where nothing is chosen"
    assert found.train_flops == 7 * (3 * 2 + 5) + 150 * (30 * 2 + 5)
    assert (found.frozen_seconds, found.train_seconds) == (10 * 0.5, 7 * 2.0)
    assert asked == [("counted", bench, "a"), ("timed", "a"), ("counted", bench, "b"), ("timed", "b")]  # fmt: skip
    untimed = estimate_cost(bench, jobs)
    assert (untimed.frozen_seconds, untimed.train_seconds) == (0, 0)
    assert len(asked) == 6


def test_views_that_are_neither_stored_nor_counted_before_are_new() -> None:
    """Of two images to train on and one to score; in the evaluation view one is stored."""
    asked: list[Any] = []
    train, scored = images("t", [0, 1]), images("e", [0])

    def missing(cut: str, index: int, spec: Any, ids: list[str]) -> list[str]:
        asked.append((cut, index, spec.identity, ids))
        return [one for one in ids if (index, one) != (0, "t0")]

    features = SimpleNamespace(key=lambda cut, index, spec: (cut, index), missing=missing)  # noqa: ARG005
    bench = opened(features=features, parts=lambda _: (train, scored))

    def fresh(cut: Any, seen: set[Any], **recipe: Any) -> int:
        made: Any = SimpleNamespace(cut=cut, method=SimpleNamespace(recipe=Recipe(**recipe)))
        return cost_estimate._fresh(bench, RunSpec(TASK, "m", Path("f")), made, seen)

    seen: set[Any] = set()
    assert fresh("cut", seen, augmentation="crops", views=2) == 2 + 2 * 2
    assert [(index, len(ids)) for _, index, _, ids in asked] == [(0, 3), (1, 2), (2, 2)]
    assert fresh("cut", seen, augmentation="crops", views=3) == 2, "one more view"
    assert fresh("other", seen, augmentation="none", views=2) == 2
    assert asked[-1] == ("other", 0, True, [*train.ids, *scored.ids])
    assert fresh((IMAGES,), seen, augmentation="crops", views=2) == 0


def test_what_is_kept_or_not_in_memory_decides_what_a_step_computes_again() -> None:
    def seconds(cut: tuple[str, ...], cache: object) -> float:
        made: Any = SimpleNamespace(cut=cut, batch=8)
        bench = opened(features=SimpleNamespace(cache=cache))
        return cost_estimate._Cost.train_seconds(made, bench, 10, Seconds(0.5, 2.0))

    assert seconds(("block.1.out",), "cache") == 20
    assert seconds(("block.1.out",), None) == seconds((IMAGES,), "cache") == 10 * (2 + 8 * 0.5)


def test_a_method_is_counted_where_it_is_trained() -> None:
    asked: list[Any] = []
    plan = SimpleNamespace(cut=lambda *given, **more: asked.append((given, more)) or ("cut",))
    method = SimpleNamespace(recipe=SimpleNamespace(images_per_step=lambda classes: 10 * classes))
    bench = opened(
        method_of=lambda _: method, plan_of=lambda _: plan, shape="shape", shift=SimpleNamespace(classes="abc"),
        task=replace(TASK, dtype="float16"),
    )  # fmt: skip
    made = cost_estimate._cost(bench, RunSpec(TASK, "m", Path("f")))
    assert (made.shape, made.method, made.plan, made.cut) == ("shape", method, plan, ("cut",))
    assert (made.batch, made.itemsize) == (30, 2)
    assert asked == [(("shape",), {"training": True})]
