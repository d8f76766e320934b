"""``petiole fit``: one adapter, from data to a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from petiole.commands.evaluate import reached
from petiole.commands.options import (
    AUTO,
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
    plural,
)
from petiole.commands.placement import ExecutorOptions
from petiole.commands.tuning_options import TuningOptions
from petiole.commands.verb import verb
from petiole.device import device
from petiole.errors import ConfigError, everywhere
from petiole.processes import world
from petiole.ranges import NonNegativeFloat, NonNegativeInt, Seed

if TYPE_CHECKING:
    from petiole.engine.run import RunSpec
    from petiole.engine.task import Workspace
    from petiole.protocols.selection import Open, Selection


class FitResult(CommandResult):
    """A finished run.

    Attributes:
        folder: the run folder.
        adapter: the adapter file inside it.
        report: the page.
        record: everything that the run recorded.
        selection: how method and backbone were chosen, where they were left open.
    """

    folder: Path
    adapter: Path
    report: Path
    record: dict[str, Any]
    selection: dict[str, Any] | None = None

    def text(self) -> RenderableType:
        request, ledger = self.record["request"], self.record["ledger"]
        adapter = quote(str(self.adapter))
        question = ' --question "..."' if request["kind"] in ("text", "codebook") else ""
        return Group(
            self._scores(),
            Text(
                f"trained  {ledger['trainable']:,} parameters "
                f"({ledger['trainable_percent_of_backbone']:.3f} % of the backbone's), "
                f"{ledger['inference']:,} kept for prediction"
            ),
            *(Text(f"auto     {line}") for line in self._selection()),
            *(Text(f"note     {note}") for note in request["data"]["notes"]),
            fact("adapter", self.adapter),
            fact("report", self.report),
            fact("next", f"petiole predict {adapter} IMAGE{question}"),
        )

    def _selection(self) -> list[str]:
        from petiole.protocols.selection import Selection

        return Selection.model_validate(self.selection).lines() if self.selection else []

    def _scores(self) -> RenderableType:
        tables = self.record["scores"]
        kind = self.record["request"]["kind"]
        if kind in ("text", "codebook"):
            return scores_table(tables)
        if kind != "classification":
            return scores_line(next(iter(tables.values())), self.record["selection"])
        scores = next(iter(tables.values()))
        classes = self.record["request"]["data"]["classes"]
        held = plural(int(scores["n"]), "held-back image")
        opened = f"test set opened {self.record['test_evaluations']}x"
        return reached(scores, classes, held, f"{self.record['selection']}, {opened}")

    def predict(self, data: Any, **options: Any) -> Any:
        """``petiole.predict`` with this run's adapter."""
        from petiole.commands.predict import predict

        return predict(self.adapter, data, **options)


def scores_line(scores: dict[str, float], more: str = "") -> Text:
    """``r2 0.871, mae 1.24 on 40 images``: numbers as they are, the headline bold."""
    shown = [f"{name} {value:.4g}" for name, value in scores.items() if name != "n"]
    line = Text(shown[0], style="bold")
    rest = f" on {plural(int(scores['n']), 'image')}" + (f"; {more}" if more else "")
    return line.append("".join(f", {one}" for one in shown[1:]) + rest, style="not bold")


def scores_table(tables: dict[str, dict[str, float]]) -> Table:
    """A column for each task or language model, a row for each metric, in per cent."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in tables:
        table.add_column(Path(name).name, justify="right", overflow="fold")
    for metric in dict.fromkeys(metric for scores in tables.values() for metric in scores):
        label = metric.removesuffix("_given").replace("_", " ")
        known = [f"{scores[metric]:.1f}" if metric in scores else "" for scores in tables.values()]
        table.add_row(label + ", where explained" * metric.endswith("_given"), *known)
    return table


@verb
def fit(
    data: Data,
    *,
    method: str = AUTO,
    settings: Settings = None,
    budget: NonNegativeFloat | None = None,
    seed: Seed = 0,
    out: Path | None = None,
    resume: bool = False,
    checkpoint_seconds: NonNegativeFloat = 20.0,
    loggers: Annotated[
        Sequence[str], Parameter(name="--logger", negative=(), consume_multiple=True)
    ] = (),
    calibration_folds: NonNegativeInt | None = None,
    model: ModelOptions | None = None,
    placement: ExecutorOptions | None = None,
    tuning: TuningOptions | None = None,
    images: ImageOptions | None = None,
    text: TextTaskOptions | None = None,
    codebook: CodebookTaskOptions | None = None,
) -> FitResult:
    """Train one adapter and score it once on what is held back.

    DATA is what the method learns from. Of labelled images a list has the column label, labels (several an image) or value
    (a number); in Python they are also whatever ``petiole.data.inputs.as_dataset`` takes. Texts about images are for vl-
    methods, one or more tasks; craft and its rivals take questions about images: JSON Lines, VQA-RAD, or class folders,
    which are asked as questions.

    --processes and --executor are for what is tried beside the run itself: by --method auto with a --budget, with several
    backbones, and by --tune.

    Args:
        data: labelled images (a folder with one folder a class, a CSV or Parquet list with a column label, labels or
            value, or a root with synthetic/, real_train/ and real_eval/), or tasks of texts about images (folders of
            JSON Lines, or TASK=FOLDER for a public layout).
        method: registered name; see petiole inspect methods. auto takes the averaged ridge, which is solved in moments,
            and another method only where left-out target images show that it is better.
        settings: fields of the method or recipe that differ from its defaults.
        budget: minutes in which auto may also try methods that are trained; by default 0.
        seed: of initialisation, batches and dropout.
        out: run folder; by default runs/DATA-METHOD-splitN-seedN-HASH, where HASH is of the data.
        resume: go on where an interrupted run stopped, to the same numbers.
        checkpoint_seconds: between two checkpoints.
        loggers: names of those that hear how the run goes, e.g. jsonl.
        calibration_folds: parts of the target images that are left out in turn, so that the adapter's probabilities can be
            calibrated: as many further fits. By default 5 for heads that are solved, which takes moments, and
            none for methods that are trained; 0 for none.

    Raises:
        ConfigError: an unknown method or setting, or an option that this method has no use for.
        PetioleError: bad data, or a folder that holds another run.
    """
    from dataclasses import replace

    from petiole.commands.announce import announce, say
    from petiole.commands.tasks import open_task
    from petiole.engine.run import RunSpec, request_together, run
    from petiole.engine.run_lock import check_free
    from petiole.engine.task import reopened
    from petiole.engine.together import all_do, main_does, open_group
    from petiole.methods.registry import create_stated
    from petiole.protocols.model_selection import START
    from petiole.report.page import write_page

    model = model or ModelOptions()
    _check_one_model(method, model)

    def prepared() -> tuple[RunSpec, Workspace, Open, list[str]]:
        own = pairs(settings)
        kind, wanted = _kind_and_method(method, data, images or ImageOptions(), budget)
        left = _left_open(model, wanted, own, budget)
        left = replace(left, **_tried(left, kind, tuning, placement))
        named = START if wanted == AUTO else wanted
        create_stated(named, own)  # a slip in them is told before any data is read
        if out:
            check_free(Path(out), resume=resume)
        notes = _calibration_notes(kind, named, calibration_folds)
        task, options = open_task(
            kind,
            data,
            [named],
            replace(model, backbone=None) if left.backbones else model,
            images or ImageOptions(),
            text or TextTaskOptions(),
            codebook or CodebookTaskOptions(),
        )
        workspace = reopened(task)
        folder = Path(out) if out else default_folder(data, _what(method, options, seed), task)
        check_free(folder, resume=resume)
        if kind == "classification":
            options = replace(options, vectors=True, calibration_folds=calibration_folds)
        spec = RunSpec(
            task,
            named,
            folder,
            own,
            options,
            seed=seed,
            resume=resume,
            checkpoint_seconds=checkpoint_seconds,
            loggers=tuple(loggers),
        )
        return spec, workspace, left, notes

    open_group(device(model.device).partition(":")[0])
    spec, opened, left, notes = all_do(prepared)
    if world() > 1:  # what one of them alone meets must end all before they time steps together
        request_together(spec, opened)
    ahead = [*notes, *left.notes()]
    if not left.backbones:
        announce(opened, [spec, *left.trials(spec)], ahead)
    elif not spec.task.quiet:  # what is frozen is not known before they are compared
        say([f"note     {note}" for note in ahead])
    spec, selection = _selected(spec, left) if left else (spec, None)
    record = run(spec)
    return FitResult(
        folder=spec.folder,
        adapter=spec.folder / "adapter",
        report=Path(main_does(lambda: str(write_page(spec.folder)))),
        record=record.model_dump(mode="json"),
        selection=selection.model_dump(mode="json") if selection else None,
    )


def _check_one_model(method: str, model: ModelOptions) -> None:
    """Refuse what tries several models where several processes train one.

    Raises:
        ConfigError: in every process.
    """
    from petiole.commands.defaults import candidates

    if world() > 1 and (method == AUTO or len(candidates(model.backbones)) > 1):
        raise everywhere(
            ConfigError(
                f"{world()} processes train one model, and auto tries several methods or backbones. Name one (--method lora-qkv, "
                "--backbone NAME), or start petiole without torchrun."
            )
        )


def _selected(spec: RunSpec, left: Open) -> tuple[RunSpec, Selection]:
    """The run with what was left open chosen, which is announced where it will cost something else."""
    from petiole.commands.announce import announce
    from petiole.engine.task import reopened
    from petiole.protocols.selection import select

    chosen, selection = select(spec, left)
    if left.backbones or chosen.method != spec.method:  # with other settings it costs the same
        announce(reopened(chosen.task), [chosen])
    return chosen, selection


def _kind_and_method(
    method: str, data: Any, images: ImageOptions, budget: float | None
) -> tuple[str, str]:
    """The kind of task, by method and data; and the method, which ``auto`` leaves open for classes alone."""
    from petiole.commands.defaults import kind_of_methods
    from petiole.commands.tasks import COLUMNS, TARGET_METHOD, kind_of

    of_method = "classification" if method == AUTO else kind_of_methods([method])
    kind = kind_of(of_method, data, images)
    own = kind in COLUMNS.values() and method == AUTO and budget is None
    return kind, TARGET_METHOD if own else method


def _left_open(
    model: ModelOptions, method: str, settings: dict[str, Any], budget: float | None
) -> Open:
    """What is to be chosen: the method, or one of several backbones.

    Raises:
        ConfigError: an option that the named method has no use for.
    """
    from petiole.commands.defaults import candidates
    from petiole.protocols.model_selection import START
    from petiole.protocols.selection import Open

    if method != AUTO and budget is not None:
        raise ConfigError(f"--budget is for --method auto, and {method} was named. Leave it out.")
    if method == AUTO and settings:
        raise ConfigError(
            f"--set {next(iter(settings))}=... is for a named method, and auto chooses one. Name it: --method {START}."
        )
    names = candidates(model.backbones)
    return Open(names if len(names) > 1 else (), method == AUTO, budget or 0.0)


def _tried(
    left: Open, kind: str, tuning: TuningOptions | None, placement: ExecutorOptions | None
) -> dict[str, Any]:
    """Fields of ``Open``: how settings are chosen, and where what is tried is trained.

    Raises:
        ConfigError: settings of something else than a named method on labelled images, or a place for nothing.
    """
    how = (tuning or TuningOptions()).make()
    if how and (kind != "classification" or left.method or left.backbones):
        raise ConfigError(
            "--tune is for one named method on labelled images and one backbone. Name them, or leave --tune out."
        )
    if placement in (None, ExecutorOptions()):
        return {"tuning": how}
    if not (how or left.backbones or left.budget):
        raise ConfigError(
            "--processes and --executor are for what is tried beside the run: --method auto with --budget, several backbones, or "
            "--tune. Leave them out; petiole compare does many runs."
        )
    return {"tuning": how, "executor": placement.make()}


def _calibration_notes(kind: str, method: str, folds: int | None) -> list[str]:
    """What calibration costs, where it was asked for.

    Raises:
        ConfigError: one fold, or a kind of task that has no calibration.
    """
    if not folds:
        return []
    if kind != "classification":
        from petiole.commands.tasks import DATA

        raise ConfigError(
            f"--calibration-folds is for labelled images, and {method} is trained on {DATA[kind]}. Leave it out."
        )
    if folds < 2:
        raise ConfigError(
            f"Nothing can be left out of {folds} fold(s): --calibration-folds takes 2 or more, or 0 for none."
        )
    return [
        f"calibration fits {method} up to {folds} times more, each time without one of {folds} parts of the target images"
    ]


def _what(method: str, options: Any, seed: int) -> str:
    """``lora-qkv-split0-seed0``."""
    split = getattr(options, "split_seed", None)
    split_part = "" if split is None else f"-split{split}"
    return f"{method.replace(':', '-')}{split_part}-seed{seed}"
