"""The table of a multi-task comparison: every task's headline, their average, and what may be said of it."""

from __future__ import annotations

from pathlib import Path

from petiole.metrics.statistics import t_interval
from petiole.protocols import multitask_tuning
from petiole.protocols.multitask import Multitask, majorities
from petiole.report.scores import (
    ScoreRow,
    ScoreSummary,
    how_compared,
    seeds_of,
    summarise_records,
)


def summarise(root: Path) -> ScoreSummary:
    """Compute the table from the records below ``root``.

    Raises:
        RunError: no measurement, or a run that is missing or damaged.
    """
    protocol = Multitask.read(root)
    found = summarise_records(
        protocol,
        root,
        f"{', '.join(protocol.tasks)} in {protocol.model}",
        notes=[*notes(protocol), *multitask_tuning.notes(protocol, root)],
    )
    stated = majorities(root)
    majority = {task: stated[task][metric] / 100 for task, metric in found.metrics.items()}
    mean = sum(majority.values()) / len(majority)
    return ScoreSummary(
        protocol,
        found.title,
        found.rows,
        metrics=found.metrics,
        notes=found.notes,
        baseline=ScoreRow(
            name="",
            label="the commonest answer",
            scores={task: t_interval([value]) for task, value in majority.items()},
            headline=t_interval([mean]),
            by_seed=[mean],
        ),
        facts={"model": protocol.model, "majority": majority},
    )


def notes(protocol: Multitask) -> list[str]:
    """What a reader must know."""
    share = (
        "" if protocol.fraction >= 1 else f" {100 * protocol.fraction:g} % of the training samples;"
    )
    prompts = "with the same" if protocol.prefixes else "without"
    return [
        f"{protocol.model}, {seeds_of(protocol)} (a start and an order of batches each), mean ± sd;{share} the last "
        f"step's weights, scored once on {protocol.scored}; all methods {prompts} hard prompts.",
        f"Avg is the mean of the tasks' headlines, CIDEr x 100 among accuracies as in the paper. {how_compared(protocol)}",
        "Trained is counted without what is only stored; per cent of the model with everything added.",
    ]
