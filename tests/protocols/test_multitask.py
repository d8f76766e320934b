"""Many tasks in one model: what is asked, which runs that makes, what stands beside them, and resuming."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from petiole.engine.record import Record, RunRequest
from petiole.engine.run import RunSpec
from petiole.errors import ConfigError, DataError, RunError
from petiole.protocols import jobs as protocol_jobs
from petiole.protocols import multitask
from petiole.protocols.jobs import average, headlines
from petiole.protocols.multitask import Multitask, commonest, jobs_of, majorities, run_all
from petiole.protocols.protocol import ComparisonRow
from petiole.tasks.text.training import TextOptions
from petiole.tasks.text.workspace import TextGeneration, TextWorkspace
from petiole.testing import encoder_decoder as tiny

SCHOOL = TextGeneration("a-model", ("a-folder",))


def rows(*names: str, **settings: Any) -> list[ComparisonRow]:
    return [ComparisonRow(name=n, label=n, method=n, settings=settings) for n in names]


def protocol(*names: str, **terms: Any) -> Multitask:
    given = {"model": "a-model", "tasks": ["vqa", "nlvr", "caption"], "seeds": 2, **terms}
    return plan(rows(*(names or ("vl-adapter", "vl-lora"))), **given)


def plan(rows: list[ComparisonRow], **terms: Any) -> Multitask:
    return Multitask.checked(rows=rows, **terms)


def test_the_first_row_is_the_reference_unless_another_is_named() -> None:
    assert protocol().reference == "vl-adapter"
    assert protocol(reference="vl-lora").reference == "vl-lora"


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"reference": "vl-full"}, "'vl-full' is not among vl-adapter, vl-lora"),
        ({"seeds": 0}, "seeds: .* greater than or equal to 1"),
        ({"fraction": 1.5}, "fraction: .* less than or equal to 1"),
        ({"mode": "sorted"}, "mode: .*'mixed'"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_by_the_name_of_its_term(
    terms: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        protocol(**terms)


def test_every_row_has_a_run_of_every_seed(tmp_path: Path) -> None:
    made = protocol(mode="mixed", fraction=0.5, prefixes=False, scored="val")
    jobs = jobs_of(made, SCHOOL, tmp_path, {}, resume=True)
    assert [(one.method, one.seed) for one in jobs] == [
        ("vl-adapter", 0),
        ("vl-adapter", 1),
        ("vl-lora", 0),
        ("vl-lora", 1),
    ]
    assert len({one.folder for one in jobs}) == 4
    for one in jobs:
        assert one.options == TextOptions("mixed", prefixes=False, fraction=0.5, scored="val")
        assert one.resume


def test_settings_go_to_the_methods_that_have_them_and_a_rows_own_win(tmp_path: Path) -> None:
    made = plan(
        [*rows("vl-adapter", "vl-full"), *rows("vl-lora", lr=0.5)],
        model="m",
        tasks=["vqa"],
        seeds=1,
    )
    jobs = jobs_of(made, SCHOOL, tmp_path, {"lr": 0.25, "reduction": 4})
    assert [dict(one.settings) for one in jobs] == [
        {"lr": 0.25, "reduction": 4},
        {"lr": 0.25},
        {"lr": 0.5},
    ]


@pytest.mark.parametrize(
    ("methods", "settings", "words"),
    [
        (("vl-adapter",), {"reductoin": 4}, "reductoin.*reduction"),
        (("vl-adapter",), {"lr": -1}, "lr"),
        (("houlsby",), {}, "houlsby adapts image backbones"),
    ],
)
def test_a_setting_or_method_that_cannot_be_is_refused_before_anything_runs(
    tmp_path: Path, methods: tuple[str, ...], settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        jobs_of(protocol(*methods), SCHOOL, tmp_path, settings)


def test_the_commonest_answer_is_counted_in_training_and_scored_on_the_part(
    tmp_path: Path,
) -> None:
    vqa = tiny.tasks(images=5)[0]  # red, blue, red, blue, red, and two at weight 0.3 each
    test = vqa.parts["test"][1:]
    data = type(vqa)(vqa.task, {"train": vqa.parts["train"], "test": test}, called="mine")
    commonest([data], "test", tmp_path)
    found = majorities(tmp_path)
    assert list(found) == ["mine"]
    right = [sample.references[0] == "red" for sample in test]
    assert found["mine"]["vqa_accuracy"] == pytest.approx(100 * sum(right) / len(right))
    with pytest.raises(DataError, match="'mine' has no samples of the part 'val', only of train"):
        commonest([data], "val", tmp_path)


class Remembering:
    """An executor that does nothing but remember runs."""

    places = 1

    def __init__(self) -> None:
        self.jobs: list[RunSpec] = []

    def map(self, _: Callable[..., Any], jobs: Sequence[Any]) -> Iterator[Any]:
        for job in jobs:
            if isinstance(job, RunSpec):
                self.jobs.append(job)
            yield Record.model_construct(
                request=RunRequest.model_construct(kind="text"), scores={"vqa": {"a": 1.0}}
            )


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = tuple(tiny.tasks())
    made = TextWorkspace(SCHOOL, tiny.model(), tasks, {}, (Path(),) * 3)
    for module in (multitask, protocol_jobs):
        monkeypatch.setattr(module, "open_workspace", lambda _: made)


@pytest.mark.usefixtures("opened")
def test_what_was_asked_is_written_before_anything_runs_and_kept(tmp_path: Path) -> None:
    made, where = protocol(), Remembering()
    jobs = jobs_of(made, SCHOOL, tmp_path, {})
    run_all(made, jobs, tmp_path, executor=where, quiet=True)
    assert where.jobs == sorted(jobs, key=lambda job: job.seed)  # all rows of the first seed first
    assert Multitask.read(tmp_path) == made
    with pytest.raises(RunError, match=r"already holds a measurement\. Add --resume"):
        run_all(made, jobs, tmp_path, executor=where, quiet=True)
    run_all(made, jobs, tmp_path, executor=where, resume=True, quiet=True)
    assert len(where.jobs) == 2 * len(jobs)


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize(
    ("other", "words"),
    [
        (protocol(seeds=3), r"\(seeds: 2 -> 3\)"),
        (
            protocol(mode="mixed", prefixes=False),
            "mode: 'proportional' -> 'mixed'; prefixes: True -> ",
        ),
        (protocol("vl-adapter"), r"rows: \['vl-adapter', 'vl-lora'\] -> \['vl-adapter'\]"),
        (
            plan(
                rows("vl-adapter", "vl-lora", lr=0.1),
                model="a-model",
                tasks=["vqa", "nlvr", "caption"],
                seeds=2,
            ),
            "settings of a row",
        ),
    ],
)
def test_another_measurement_is_refused_and_the_difference_named(
    tmp_path: Path, other: Multitask, words: str
) -> None:
    first = protocol()
    where = Remembering()
    jobs = jobs_of(first, SCHOOL, tmp_path, {})
    run_all(first, jobs, tmp_path, executor=where, quiet=True)
    before = (tmp_path / "multitask.json").read_bytes()
    with pytest.raises(RunError, match=words):
        run_all(other, jobs, tmp_path, executor=where, resume=True, quiet=True)
    assert len(where.jobs) == len(jobs)
    assert (tmp_path / "multitask.json").read_bytes() == before


def test_the_average_is_the_mean_of_the_first_metrics() -> None:
    record = Record.model_construct(
        request=RunRequest.model_construct(kind="text"),
        scores={"vqa": {"a": 10.0, "z": 99.0}, "caption": {"cider": 40.0, "bleu4": 0.0}},
    )
    assert headlines(record) == {"vqa": 0.1, "caption": 0.4}
    assert average(record) == 0.25
