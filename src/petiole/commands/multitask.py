"""``petiole multitask``: one language model with images, many tasks, methods side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from petiole.commands.options import Settings, default_cache, default_folder, pairs
from petiole.commands.options import device as device_of
from petiole.commands.placement import ExecutorOptions
from petiole.commands.results import TableResult
from petiole.commands.verb import verb
from petiole.device import Precision
from petiole.ranges import NonNegativeFloat, PositiveFraction, PositiveInt


class Multitasked(TableResult):
    """A finished comparison on several tasks."""

    def places(self) -> dict[str, Any]:
        first = self.summary.protocol.rows[0].name
        adapter = self.folder / "runs" / first / "seed-0" / "adapter"
        return {"adapter": adapter, "next": f'petiole predict {adapter} IMAGE --question "..."'}


@verb
def multitask(
    tasks: Annotated[Sequence[str], Parameter(consume_multiple=True)],
    *,
    backbone: str = "petiole/tiny-vl",
    vision_backbone: str = "",
    features: Path | None = None,
    visual_tokens: int = 36,
    methods: Annotated[Sequence[str], Parameter(consume_multiple=True)] = ("vl-adapter",),
    table: str | None = None,
    reference: str = "",
    settings: Settings = None,
    seeds: PositiveInt = 3,
    margin: NonNegativeFloat = 1.0,
    mode: Literal["proportional", "balanced", "mixed"] = "proportional",
    fraction: PositiveFraction = 1.0,
    no_prefixes: bool = False,
    validation_part: bool = False,
    visual: Annotated[Settings, Parameter(name="--visual", negative=())] = None,
    out: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    precision: Precision = "fp32",
    cache_dir: Path | None = None,
    skip_bad: bool = False,
    quiet: bool = False,
    placement: ExecutorOptions | None = None,
) -> Multitasked:
    """Train methods on the same tasks in one language model, several seeds each, and compare them.

    A task is a folder with train.jsonl, val.jsonl, test.jsonl and images/ (lines such as
    {"image": "a.jpg", "question": "...", "answer": "..."}) and task.json, or TASK=FOLDER for a public
    layout: vqa, gqa, nlvr, caption, tvqa, how2qa, tvc and yc2c in VL-Adapter's datasets/ folder; or a
    folder of DAQUAR (answers=FOLDER), NLVR, or photographs with captions.

    Args:
        tasks: folders, or TASK=FOLDER.
        backbone: petiole/tiny-vl, clip-bart-base, clip-t5-base, or a BART or T5 by folder or hf/NAME.
        vision_backbone: image backbone that makes the features; by default the model's own.
        features: stored features instead: VL-Adapter's datasets/ folder with .h5, .npz or .parquet files.
        visual_tokens: visual features an image, after pooling.
        methods: registered names (vl-...); the first is what the others are compared with.
        table: instead of methods, a table of rows, e.g. vl-adapter/methods, or a TOML file of one's own. A row with a grid,
            such as { lr = [1e-3, 3e-3, 1e-2] }, takes what is best on the part val; the grid grows where its end is.
        reference: name of another row to compare with.
        settings: applied to every method that has such a field; classifier=3129 chooses from the commonest answers
            by a head on the encoder instead of writing them.
        seeds: runs of each method.
        mode: one task a batch in proportion to their sizes, balanced, or all tasks mixed in every batch.
        fraction: share of every task's training samples.
        no_prefixes: put no hard prompt before texts.
        validation_part: score on val and leave the test part closed.
        visual: key=value of the V->L block: boxes, mask_padding, norms.
        margin: in points; two rows tie where the interval of their difference lies within it.
        out: folder; by default runs/TASKS-multitask-HASH, where HASH is of the data.
        resume: finish an interrupted measurement; finished runs are kept.
        device: auto, cpu, cuda, ...
        precision: bf16 and fp16 compute in mixed precision.
        cache_dir: folder of the feature cache.
        skip_bad: leave samples of unreadable images out, and count them.
        quiet: no progress bars.

    Raises:
        PetioleError: bad data, unknown names, or a folder that holds another measurement.
    """
    from petiole.commands.announce import announce
    from petiole.engine.task import reopened
    from petiole.protocols import domain_shift, multitask_tuning
    from petiole.protocols import multitask as protocol
    from petiole.report.multitask import summarise
    from petiole.report.scores import table as table_of
    from petiole.report.table import write
    from petiole.tasks.text.workspace import TextGeneration

    executor = (placement or ExecutorOptions()).make()
    task = TextGeneration(
        model=backbone,
        tasks=tuple(map(str, tasks)),
        vision_backbone=vision_backbone,
        features=Path(features) if features else None,
        visual_tokens=visual_tokens,
        options=tuple(pairs(visual).items()),
        device=device_of(device),
        precision=precision,
        cache=Path(cache_dir) if cache_dir else default_cache(),
        skip_bad=skip_bad,
        quiet=quiet,
    )
    stated = domain_shift.from_table(table) if table else {}
    rows = stated.get("rows") or domain_shift.rows_of(methods)
    opened = reopened(task)
    root = Path(out) if out else default_folder(list(tasks), "multitask", task)
    study = protocol.Multitask.checked(
        rows=rows,
        reference=reference or stated.get("reference", ""),
        model=backbone,
        tasks=[data.name for data in opened.tasks],
        seeds=seeds,
        margin=margin / 100,
        mode=mode,
        fraction=fraction,
        prefixes=not no_prefixes,
        scored="val" if validation_part else "test",
    )
    study.check_free(root, resume=resume)
    jobs = protocol.jobs_of(study, task, root, pairs(settings), resume=resume)
    announce(opened, [*jobs, *multitask_tuning.stated_trials(study, jobs, root)])
    protocol.run_all(study, jobs, root, executor=executor, resume=resume, quiet=quiet)
    summary = summarise(root)
    write(table_of(summary), root)
    return Multitasked(folder=root, summary=summary)
