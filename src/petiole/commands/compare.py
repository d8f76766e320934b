"""``petiole compare``: several methods on the same images, draws and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Group, RenderableType
from rich.text import Text

from petiole.commands.options import CommandResult, ModelOptions, Settings, fact, pairs
from petiole.commands.verb import verb


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

        shown = table(self.summary)
        return Group(
            to_rich(shown, caption=shown.notes[0]),
            Text(sentence(self.summary)),
            fact("report", self.report),
            fact("runs", self.folder / "runs"),
        )


@verb
def compare(
    images: Path,
    *,
    source: Path | None = None,
    test: Path | None = None,
    test_fraction: float = 0.5,
    methods: Annotated[Sequence[str], Parameter(consume_multiple=True)] = (),
    table: str | None = None,
    settings: Settings = None,
    shots: int = 10,
    all_images: bool = False,
    tune: bool = False,
    validation: float = 0.25,
    split_seeds: int = 5,
    seeds: int = 1,
    out: Path | None = None,
    resume: bool = False,
    processes: int = 1,
    model: ModelOptions | None = None,
) -> Compared:
    """Train several methods on the same draws and test them once each on the same images.

    The cheap baselines (kNN, class means, logistic regression, ridge) are always among them.

    Args:
        images: the target (real) images.
        source: labelled images of the source domain.
        test: held-back target images; otherwise a part of IMAGES is held back.
        test_fraction: that part.
        methods: registered names; the first is what the others are tested against.
        table: instead of methods, a published table, e.g. cls-residual-lora/table1, or a TOML file
            of one's own.
        settings: applied to every method that has such a field.
        shots: target images drawn from each class for training.
        all_images: train on all of them instead.
        tune: choose each method's learning rate from its own grid, on validation only.
        validation: share of the training images that this is decided on.
        split_seeds: support draws, the unit of a result.
        seeds: initialisations a draw.
        out: folder; by default runs/IMAGES-compare.
        resume: finish an interrupted comparison; finished runs are kept.
        processes: runs at a time.

    Raises:
        PetioleError: bad images, unknown names, or a folder that holds another comparison.
    """
    from petiole.commands.announce import announce
    from petiole.engine.executor import Local
    from petiole.engine.task import reopened
    from petiole.protocols import domain_shift, tuning
    from petiole.protocols.comparison import Comparison
    from petiole.report.folder import summarise
    from petiole.report.page import write_page

    model = model or ModelOptions()
    folder = Path(out) if out else Path("runs") / f"{Path(images).stem}-compare"
    chosen = domain_shift.from_table(table) if table else _chosen(methods, bool(source))
    bench = model.classification(
        images, source, test, test_fraction, methods=[row.method for row in chosen["rows"]]
    )
    if tune:
        chosen["rows"] = tuning.with_rates(chosen["rows"])
    workspace = reopened(bench)
    comparison = Comparison.checked(
        **chosen,
        split_seeds=split_seeds,
        seeds=seeds,
        shots=None if all_images else shots,
        validation=validation if any(row.grid for row in chosen["rows"]) else 0.0,
        notes=list(workspace.notes),
    )
    jobs = domain_shift.jobs_of(comparison, bench, folder, pairs(settings), resume=resume)
    announce(workspace, [*jobs, *tuning.trials(comparison, jobs, folder)])
    local = Local(processes)
    domain_shift.compare(comparison, jobs, folder, executor=local, resume=resume, quiet=model.quiet)
    return Compared(folder=folder, report=write_page(folder), summary=summarise(folder))


def _chosen(methods: Sequence[str], has_source: bool) -> dict[str, Any]:
    from petiole.methods.registry import methods as registered
    from petiole.protocols import domain_shift

    names = list(methods) or ["cls-residual-lora", "linear-probe", "cosine"]
    if names == ["all"]:
        names = [
            name
            for name, entry in registered().items()
            if entry.cls.adapts == "images" and name not in domain_shift.BASELINES
        ]
    first = names[0]
    baseline = "source-only" if has_source or "source-only" in names else "class-means"
    extra = [baseline, *domain_shift.BASELINES]
    names += [n for n in dict.fromkeys(extra) if n not in names]
    return {
        "title": f"{first} and its rivals",
        "rows": domain_shift.rows_of(names),
        "reference": first,
        "headline": first,
        "baseline": baseline,
    }
