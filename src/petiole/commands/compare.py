"""``petiole compare``: several methods on the same data, splits and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Group, RenderableType
from rich.text import Text

from petiole.commands.options import (
    CodebookTaskOptions,
    CommandResult,
    Data,
    ImageOptions,
    ModelOptions,
    Settings,
    TextTaskOptions,
    default_folder,
    fact,
    pairs,
)
from petiole.commands.placement import ExecutorOptions
from petiole.commands.tuning_options import TuningOptions
from petiole.commands.verb import differing, verb
from petiole.errors import ConfigError
from petiole.ranges import NonNegativeFloat, PositiveInt

if TYPE_CHECKING:
    from petiole.engine.run import RunSpec
    from petiole.protocols.comparison import ComparisonRow
    from petiole.protocols.jobs import Running
    from petiole.protocols.settled import Tuning


class Compared(CommandResult):
    """A finished comparison.

    Attributes:
        folder: with comparison.json and all runs.
        report: the page.
        summary: every row's numbers.
    """

    folder: Path
    report: Path
    summary: Any

    def text(self) -> RenderableType:
        from petiole.report.folder import sentence, table
        from petiole.report.table import to_rich

        return Group(
            to_rich(table(self.summary)),
            Text(sentence(self.summary)),
            fact("report", self.report),
            fact("runs", self.folder / "runs"),
        )

    def _repr_html_(self) -> str:
        from petiole.report.folder import table
        from petiole.report.notebook import to_html

        return to_html(table(self.summary))


@verb
def compare(
    data: Data,
    *,
    methods: Annotated[Sequence[str], Parameter(consume_multiple=True)] = (),
    table: str | None = None,
    settings: Settings = None,
    split_seeds: PositiveInt | None = None,
    seeds: PositiveInt | None = None,
    margin: NonNegativeFloat = 1.0,
    out: Path | None = None,
    resume: bool = False,
    model: ModelOptions | None = None,
    placement: ExecutorOptions | None = None,
    tuning: TuningOptions | None = None,
    images: ImageOptions | None = None,
    text: TextTaskOptions | None = None,
    codebook: CodebookTaskOptions | None = None,
) -> Compared:
    """Train several methods on the same data and score each run once on the same samples.

    Of labelled images the cheap baselines (kNN, class means, logistic regression, ridge) are always among them, the last
    two on both domains as well where there is a source. DATA is as for petiole fit; all methods are of one kind.

    Args:
        data: what the methods learn from; see petiole fit.
        methods: registered names; the first is what the others are tested against.
        table: instead of methods, a published table, e.g. cls-residual-lora/table1, or a TOML file
            of one's own.
        settings: applied to every method that has such a field.
        split_seeds: draws of the training images, the unit of a result; by default 5.
        seeds: starts and orders of batches on each split; by default 1 for images, 3 otherwise.
        margin: in points; two rows tie where the interval of their difference lies within it.
        out: folder; by default runs/DATA-compare-HASH, where HASH is of the data.
        resume: finish an interrupted comparison; finished runs are kept.

    Raises:
        ConfigError: methods of two kinds, or an option that they have no use for.
        PetioleError: bad data, unknown names, or a folder that holds another comparison.
    """
    from petiole.commands.announce import announce
    from petiole.commands.tasks import open_task
    from petiole.engine.task import reopened
    from petiole.protocols import domain_shift
    from petiole.protocols.comparison import Comparison
    from petiole.protocols.settled import Tuning, tried
    from petiole.report.folder import summarise
    from petiole.report.page import write_page

    executor = (placement or ExecutorOptions()).make()
    groups = (
        model or ModelOptions(),
        images or ImageOptions(),
        text or TextTaskOptions(),
        codebook or CodebookTaskOptions(),
    )
    kind, chosen = _kind_and_rows(methods, table, data, groups[1])
    names = list(dict.fromkeys(row.method for row in chosen["rows"]))
    task, options = open_task(kind, data, names, *groups)
    of_classes, own = kind == "classification", pairs(settings)
    tuning = tuning or TuningOptions()
    how = _tuned(tuning, kind, chosen["rows"])
    terms = {} if of_classes else _other_terms(kind, options, split_seeds, seeds)
    workspace = reopened(task)
    folder = Path(out) if out else default_folder(data, "compare", task)
    if of_classes:
        chosen["rows"] = _with_baselines(chosen["rows"], how, own, workspace)
        terms = {
            "split_seeds": 5 if split_seeds is None else split_seeds,
            "seeds": 1 if seeds is None else seeds,
            "shots": options.shots,
            **(how or Tuning(tuning.share)).terms(chosen["rows"]),
            "notes": list(workspace.notes_with(options)),
        }
    comparison = Comparison.checked(kind=kind, margin=margin / 100, **chosen, **terms)
    comparison.check_free(folder, resume=resume)
    running: Running = {"executor": executor, "resume": resume, "quiet": groups[0].quiet}
    if of_classes:
        jobs = domain_shift.jobs_of(comparison, task, folder, own, resume=resume)
        announce(workspace, [*jobs, *tried(comparison, jobs, folder)])
        domain_shift.compare(comparison, jobs, folder, how.storage if how else None, **running)
    else:
        draw = partial(_drawn, options) if "shots" in terms else lambda *_: options
        jobs = comparison.jobs_of(task, folder, own, draw, resume=resume)
        announce(workspace, jobs)
        comparison.run_all(jobs, folder, **running)
    named = dict(zip(("model", "images", "text", "codebook"), groups, strict=True))
    _write_configs(jobs, differing(compare, {"data": data, **named}))
    return Compared(folder=folder, report=write_page(folder), summary=summarise(folder))


def _kind_and_rows(
    methods: Sequence[str], table: str | None, data: Any, images: ImageOptions
) -> tuple[str, dict[str, Any]]:
    """The kind of task, by table, methods and data; and the rows with their parts."""
    from petiole.commands.defaults import kind_of_methods
    from petiole.commands.tasks import COLUMNS, TARGET_METHOD, kind_of
    from petiole.protocols import domain_shift

    if table:
        return "classification", domain_shift.from_table(table)
    of_methods = kind_of_methods(_named(methods)) if methods else "classification"
    kind = kind_of(of_methods, data, images)
    if kind in COLUMNS.values():
        methods = list(methods) or [TARGET_METHOD, "linear-probe"]
    return kind, _chosen(methods, kind, images)


def _tuned(tuning: TuningOptions, kind: str, rows: Sequence[ComparisonRow]) -> Tuning | None:
    """How settings are chosen on validation images.

    Raises:
        ConfigError: a kind of task that has none, or an option of a search where there is none.
    """
    how = tuning.make(grids=any(row.grid for row in rows))
    if how and kind != "classification":
        raise ConfigError("--tune is for labelled images. Leave it out.")
    return how


def _with_baselines(
    rows: Sequence[ComparisonRow], how: Tuning | None, settings: dict[str, Any], workspace: Any
) -> list[ComparisonRow]:
    """The rows and the cheap ones, each with what is tried of it; the cheap ones have nothing to search."""
    from petiole.protocols import domain_shift

    joint = workspace.shift.source is not None
    if how and how.trials:
        return domain_shift.with_baselines(how.rows(rows, settings), source=joint)
    rows = domain_shift.with_baselines(rows, source=joint)
    return how.rows(rows, settings) if how else rows


def _other_terms(
    kind: str, options: Any, split_seeds: int | None, seeds: int | None
) -> dict[str, Any]:
    """Terms of all other tasks: every seed is also a draw, where images are drawn.

    Raises:
        ConfigError: draws that are none.
    """
    from petiole.commands.tasks import COLUMNS, DATA

    drawn = kind in COLUMNS.values() and options.shots is not None
    if split_seeds is not None and (seeds is not None or not drawn):
        raise ConfigError(
            f"For {DATA[kind]} every seed is also a draw of --shots images, where these are given. Give --shots and --seeds."
        )
    stated = [number for number in (seeds, split_seeds) if number is not None]
    terms: dict[str, Any] = {"seeds": stated[0] if stated else 3}
    return {**terms, "shots": options.shots} if drawn else terms


def _drawn(options: Any, _: ComparisonRow, index: int) -> Any:
    """Options of the run with this seed, which draws its own images."""
    return replace(options, split_seed=index)


def _write_configs(jobs: Sequence[RunSpec], shared: Mapping[str, Any]) -> None:
    """Into each run's folder, the file by which ``petiole fit`` repeats it alone.

    Args:
        jobs: that are done.
        shared: keywords of the comparison that a fit has as well.
    """
    from pydantic_core import to_jsonable_python

    from petiole.commands.config_file import write_config
    from petiole.engine.record import read_record
    from petiole.methods.registry import create, settings_of

    for job in jobs:
        usual = to_jsonable_python(settings_of(create(job.method)))
        found = read_record(job.folder).request.settings  # with what was chosen on validation
        changed = {name: value for name, value in found.items() if value != usual[name]}
        own: dict[str, Any] = {"method": job.method, "seed": job.seed}
        for name in ("shots", "split_seed", "calibration_folds"):
            own[name] = getattr(job.options, name, None)
        told = {**shared, **own, "settings": changed or None}
        write_config(job.folder, "fit", {k: v for k, v in told.items() if v is not None})


def _named(methods: Sequence[str]) -> Sequence[str]:
    return ["linear-probe"] if list(methods) == ["all"] else methods


def _chosen(methods: Sequence[str], kind: str, images: ImageOptions) -> dict[str, Any]:
    from petiole.methods.registry import methods as registered
    from petiole.protocols import domain_shift

    names = list(methods) or ["averaged-ridge", "cls-residual-lora", "linear-probe", "cosine"]
    if names == ["all"]:
        names = [
            name
            for name, entry in registered().items()
            if entry.cls.adapts == "images" and name not in domain_shift.LABELS
        ]
    first = names[0]
    baseline = first
    if kind == "classification":
        joint = images.source is not None or "source-only" in names
        baseline = "source-only" if joint else "class-means"
        names += [baseline] * (baseline not in names)
    return {
        "title": f"{first} and its rivals",
        "rows": domain_shift.rows_of(names),
        "reference": first,
        "headline": first,
        "baseline": baseline,
    }
