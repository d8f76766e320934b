"""The table of tasks in sequence: accuracy on each after the last, and below it the matrices and what was forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from petiole.metrics.statistics import t_interval
from petiole.protocols.continual import WAYS, Continual, Matrix, forgetting, matrices
from petiole.report.formatting import mean_sd, number
from petiole.report.scores import ScoreSummary, how_compared, score_rows, seeds_of


def summarise(root: Path) -> ScoreSummary:
    """Compute the table from the records and matrices below ``root``.

    Raises:
        RunError: no measurement, or a run that is missing or damaged.
    """
    protocol, found = Continual.read(root), matrices(root)
    ends = {way: [matrix[-1] for matrix in by_seed] for way, by_seed in found.items()}
    rows = score_rows(
        protocol,
        {row.name: protocol.records(root, row) for row in protocol.rows},
        {
            way: {task: [end[j] for end in by_seed] for j, task in enumerate(protocol.tasks)}
            for way, by_seed in ends.items()
        },
        {way: [sum(end) / len(end) for end in by_seed] for way, by_seed in ends.items()},
    )
    every = sum(record.ledger.trainable for record in protocol.adapters(root, protocol.seeds - 1))
    rows = tuple(row if row.name == "replay" else replace(row, trainable=every) for row in rows)
    return ScoreSummary(
        protocol,
        f"{protocol.method} on {', '.join(protocol.tasks)}, one after the other",
        rows,
        notes=notes(protocol, found),
        facts={"method": protocol.method, "tasks": protocol.tasks, "matrices": found},
    )


def notes(protocol: Continual, found: dict[str, list[Matrix]]) -> list[str]:
    """What a reader must know, and the matrices, means of the seeds."""
    shots = "all images" if protocol.shots is None else f"{protocol.shots} shots a class"
    told = [
        f"Accuracy in per cent after the last task, mean ± sd over {seeds_of(protocol)} (a draw of the shots and a start each), "
        f"{shots}; replay keeps {protocol.memory} of each earlier class. Except where the task is told, all classes so far "
        f"compete. Trained is of all adapters, or of replay's last. {how_compared(protocol)}",
    ]
    for way, by_seed in found.items():
        lost = mean_sd(t_interval([forgetting(matrix) for matrix in by_seed]), 1)
        lines = [
            " ".join(
                number(100 * sum(matrix[i][j] for matrix in by_seed) / len(by_seed), 1)
                for j in range(i + 1)
            )
            for i in range(len(protocol.tasks))
        ]
        told.append(
            f"{WAYS[way]}: average forgetting {lost}; accuracy on each task after {'; after '.join(f'{task}: {line}' for task, line in zip(protocol.tasks, lines, strict=True))}."
        )
    return told
