"""A published table of many tasks in one model beside ours: its rows run as ``multitask`` does.

    <out>/prompted/, <out>/plain/     rows with and without hard prompts before the texts

The data lie as the released code of VL-Adapter has them. A model of four tasks is not one of three, so
nothing runs until all of them are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from petiole import claims
from petiole.data.readers.registry import open_features, open_task
from petiole.engine.record import Record
from petiole.engine.task import open_workspace
from petiole.errors import BackboneError, DataError
from petiole.protocols import multitask
from petiole.protocols.jobs import Running, average, headlines
from petiole.protocols.protocol import ComparisonRow
from petiole.protocols.reproduction import (
    TOLERANCE,
    ClaimResult,
    Reproduction,
    compared,
    is_stated,
    rows_of,
)
from petiole.protocols.shares import language_shape
from petiole.tasks.text.workspace import TextGeneration

KIND = "multitask"
AVERAGE = "average"
SPREADS = 2
"""Standard deviations of a replication within which a mean agrees with a claim."""

_GRID = "clip_features/data_clip_RN101_att"
LAYOUT = {
    "vqa": f"vqa/karpathy_{{train,test}}.json, COCO/{_GRID}",
    "gqa": f"GQA/{{train,valid,testdev}}.json, VG/{_GRID}, GQA/{_GRID}",
    "nlvr": f"nlvr/{{train,test}}.json, nlvr/{_GRID}",
    "caption": f"COCO/dataset_coco.json, COCO/{_GRID}",
    "tvqa": "video/ann/tvqa, video/ann/tv_subtitles.jsonl, video/vis_features/tv/clip-vit",
    "how2qa": "video/ann/how2qa, video/ann/how2_subtitles.jsonl, video/vis_features/how2/clip-vit",
    "tvc": "video/ann/tvc, video/ann/tv_subtitles.jsonl, video/vis_features/tv/clip-vit",
    "yc2c": "video/ann/yc2c, video/ann/yc2_subtitles.jsonl, video/vis_features/yc2/clip-vit",
}
"""Annotations and features of each task below the folder of data; grids may be ``features/...`` shards instead."""


def reproduce(
    table: Mapping[str, Any],
    base: TextGeneration,
    data: Path | None,
    root: Path,
    *,
    methods: Sequence[str] = (),
    seeds: int = 3,
    **running: Unpack[Running],
) -> Reproduction:
    """Run the rows of a claimed table on the published data below ``data``.

    Args:
        table: of claims, of kind ``multitask``.
        base: model and machine; tasks and features are filled in.
        data: the released code's ``datasets/``; ``None`` for none.
        root: where runs go.
        methods: names of rows; all that petiole has, if empty.

    Raises:
        ConfigError: an unknown row.
    """
    rows, missing = rows_of(table, methods)
    lacking = [f"data set {label}: {why}" for label, why in _lacking(table["data"], data)]
    if data is None or lacking or not rows:
        weights = f"weights of {base.model}: not looked for until the data are there"
        return Reproduction((), (*missing, *lacking, weights) if rows else (*missing, *lacking))
    base = replace(
        base,
        tasks=tuple(f"{task}={data}" for task in table["data"].values()),
        features=data,
        visual_tokens=table.get("places", base.visual_tokens),
    )
    try:
        model = open_workspace(base).model
    except BackboneError as error:
        return Reproduction((), (*missing, f"weights of {base.model}: {error}"))
    if not (same := is_stated(model, language_shape(table["backbone"]))):
        missing.append(f"weights of {table['backbone']}; what follows is another model's")
    found = _measured(table, rows, base, root, seeds, same=same, **running)
    return Reproduction(tuple(found), tuple(missing))


def _measured(
    table: Mapping[str, Any],
    rows: Sequence[ComparisonRow],
    base: TextGeneration,
    root: Path,
    seeds: int,
    *,
    same: bool,
    **running: Unpack[Running],
) -> Iterator[ClaimResult]:
    """Run rows with hard prompts, then those without."""
    tasks = list(table["data"].values())
    prompted = {row["name"] for row in table["rows"] if row.get("prefixes", False)}
    for prefixes, place in ((True, root / "prompted"), (False, root / "plain")):
        chosen = [row for row in rows if (row.name in prompted) == prefixes]
        if not chosen:
            continue
        protocol = multitask.Multitask.checked(
            rows=chosen, model=base.model, tasks=tasks, seeds=seeds, prefixes=prefixes
        )
        running.setdefault("quiet", base.quiet)
        resume = running.get("resume", False)
        jobs = multitask.jobs_of(protocol, base, place, {}, resume=resume)
        multitask.run_all(protocol, jobs, place, **running)
        for row in chosen:
            yield from _compared(table, row, protocol.records(place, row), same=same)


def _lacking(tasks: Mapping[str, str], data: Path | None) -> Iterator[tuple[str, str]]:
    """(label, what is not there) of every task that cannot be trained and scored."""
    for label, task in tasks.items():
        if data is None:
            yield label, f"{LAYOUT[task]} (--data)"
            continue
        try:
            if absent := {"train", "test"} - set(open_task(task, data).parts):
                yield (
                    label,
                    f"no {' and no '.join(sorted(absent))} part; {LAYOUT[task]} below {data}",
                )
        except DataError as error:
            yield label, str(error)
        try:
            _ = open_features(task, data).width
        except DataError as error:
            yield label, str(error)


def _compared(
    table: Mapping[str, Any], row: ComparisonRow, records: Sequence[Record], *, same: bool
) -> list[ClaimResult]:
    """Each claimed number of a row beside ours."""
    claimed = next(stated["claimed"] for stated in table["rows"] if stated["name"] == row.name)
    tolerance = tolerances(table, row.name)
    heads = [headlines(record) for record in records]
    tasks = table["data"]
    ours = {label: [head[task] for head in heads] for label, task in tasks.items()}
    ours[AVERAGE] = [average(record) for record in records]
    metrics = {label: next(iter(records[0].scores[task])) for label, task in tasks.items()}
    return [
        compared(
            label,
            row,
            metrics.get(label, "mean"),
            value,
            ours[label],
            same=same,
            tolerance=tolerance.get(label, TOLERANCE),
        )
        for label, value in claimed.items()
    ]


def tolerances(table: Mapping[str, Any], name: str) -> dict[str, float]:
    """Two standard deviations of a row, by column, fractions: its own, or those of its replication."""
    others = claims.table(table["spread"], KIND)["rows"] if "spread" in table else []
    for row in (*table["rows"], *others):
        if row["name"] == name and "sd" in row:
            return {label: max(TOLERANCE, SPREADS * sd / 100) for label, sd in row["sd"].items()}
    return {}
