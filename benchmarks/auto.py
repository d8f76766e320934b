"""What ``petiole fit`` chooses by default, against every candidate, joint ridge and the best of all in hindsight.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/auto.py run RESULTS.jsonl \\
        --sets sketch-photo=PACS/photo:PACS/sketch photo-sketch=PACS/sketch:PACS/photo clothing=CLOTHING \\
        --backbones petiole/efficientnet-lite0 petiole/tiny-vit --shots 1 2 5 10 20 --draws 5
    python benchmarks/auto.py show RESULTS.jsonl

A set is NAME=TARGET or NAME=TARGET:SOURCE. Every method sees the same draws and the same held-back images; finished
cells of RESULTS are not measured again. ``digits`` as a target writes rendered and real handwritten digits itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

import petiole

petiole.tune_allocator()

from petiole.data.synthetic.digits import write_digits  # noqa: E402
from petiole.engine.run import RunSpec  # noqa: E402
from petiole.errors import DataError  # noqa: E402
from petiole.metrics.classification import score  # noqa: E402
from petiole.metrics.intervals import t_interval  # noqa: E402
from petiole.protocols.model_selection import select_method  # noqa: E402
from petiole.tasks.classification import training  # noqa: E402
from petiole.tasks.classification.left_out import calibrate  # noqa: E402
from petiole.tasks.classification.model import predict  # noqa: E402
from petiole.tasks.classification.task import ClassificationRun  # noqa: E402
from petiole.tasks.classification.workspace import (  # noqa: E402
    Classification,
    ClassificationWorkspace,
    Subset,
)

SOLVED = {
    "averaged-ridge": ("averaged-ridge", {}),
    "ridge on both": ("ridge", {"train_on": "joint"}),
    "logistic on both": ("logistic-regression", {"train_on": "joint"}),
    "ridge on shots": ("ridge", {}),
    "logistic on shots": ("logistic-regression", {}),
    "class means": ("class-means", {}),
    "kNN": ("knn", {}),
}
TRAINED = {
    "linear probe": ("linear-probe", {}),
    "CLS-Residual LoRA": ("cls-residual-lora", {"views": 0}),
    "the same from ridge": (
        "cls-residual-lora",
        {
            "start": "ridge",
            "views": 0,
            "steps": 300,
            "lr": 3e-4,
            "target_weight": 0.8,
            "align_source": True,
        },
    ),
}
"""On the evaluation view alone, which is in the cache."""
AUTO = "auto"
ROWS = {**SOLVED, **TRAINED}
RIVAL = "ridge on both"
JOINT = (RIVAL, "logistic on both")
"""Need a source. They are not calibrated: that is six times their own seconds."""


def cell(
    workspace: ClassificationWorkspace, subset: Subset, name: str, method: str, settings: Any
) -> dict[str, Any]:
    """Accuracy and calibration of one method on one draw."""
    spec = RunSpec(workspace.task, method, Path(tempfile.gettempdir()), settings, subset)
    run = ClassificationRun(workspace, spec)
    table_of = workspace.training_table
    torch.manual_seed(0)
    adapted = run.build()
    data, recipe = run.train_images, run.method.recipe
    features = table_of(adapted, data, recipe)
    held = workspace.table(run.scored, adapted.cut)
    start, cpu = time.perf_counter(), time.process_time()
    training.train(adapted, data, features, recipe, seed=0)
    calibration = calibrate(run, adapted)
    taken = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    logits = predict(adapted, held.batches(len(run.scored))).logits
    found = score(logits.double().softmax(-1).numpy(), run.scored.labels)
    after = (
        score(calibration.probabilities(logits).double().numpy(), run.scored.labels)
        if calibration
        else found
    )
    return {
        "row": name,
        "accuracy": found.accuracy,
        "ece": found.ece,
        "ece_after": after.ece,
        **taken,
    }


def cells(arguments: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """Every cell that is not done yet."""
    rows = {name: row for name, row in ROWS.items() if name in arguments.rows}
    for stated in arguments.sets:
        name, _, places = stated.partition("=")
        target, _, source = places.partition(":")
        for backbone in arguments.backbones:
            task = Classification(
                backbone,
                Path(target),
                source=Path(source) if source else None,
                cache=arguments.cache,
                quiet=True,
            )
            workspace = task.open()
            for shots in arguments.shots:
                for draw in range(arguments.draws):
                    where = {"set": name, "backbone": backbone, "shots": shots, "draw": draw}
                    try:
                        for row, (method, settings) in rows.items():
                            if row in JOINT and not workspace.shift.source:
                                continue
                            if key({**where, "row": row}) not in done:
                                folds = 0 if row in JOINT else None
                                subset = Subset(shots, draw, calibration_folds=folds)
                                yield {**where, **cell(workspace, subset, row, method, settings)}
                        if AUTO in arguments.rows and key({**where, "row": AUTO}) not in done:
                            subset = Subset(shots, draw)
                            start, cpu = time.perf_counter(), time.process_time()
                            choice = select_method(
                                workspace, RunSpec(task, "", Path(), options=subset)
                            )
                            seconds = time.perf_counter() - start
                            cpu = time.process_time() - cpu
                            yield {
                                **where,
                                "row": AUTO,
                                "method": choice.method,
                                "seconds": seconds,
                                "cpu": cpu,
                            }
                    except DataError as error:
                        print(f"{name}, {shots} shots: {str(error).splitlines()[0]}", flush=True)
                        break


def key(row: dict[str, Any]) -> str:
    """What identifies a cell."""
    return json.dumps([row[k] for k in ("set", "backbone", "shots", "draw", "row")])


def show(rows: list[dict[str, Any]]) -> str:
    """Means by number of shots, and how the choice stands against joint ridge and the best in hindsight."""
    by_cell: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        by_cell[row["set"], row["backbone"], row["shots"], row["draw"]][row["row"]] = row
    for found in by_cell.values():
        names = {SOLVED[name][0]: name for name in SOLVED if not SOLVED[name][1]}
        if AUTO in found:
            found[AUTO] = {**found[names[found[AUTO]["method"]]], **found[AUTO]}
    shots = sorted({c[2] for c in by_cell})
    parts = []
    for shifted in (True, False):
        part = {c: f for c, f in by_cell.items() if (RIVAL in f) == shifted}
        if not part:
            continue
        names = [n for n in (AUTO, *ROWS) if any(n in f for f in part.values())]
        body = []
        for name in names:
            values = [
                [100 * f[name]["accuracy"] for c, f in part.items() if c[2] == k and name in f]
                for k in shots
            ]
            regret = [best(f) - 100 * f[name]["accuracy"] for f in part.values() if name in f]
            against = RIVAL if shifted else "ridge on shots"
            gains = [
                100 * (f[name]["accuracy"] - f[against]["accuracy"])
                for f in part.values()
                if name in f
            ]
            tasks: dict[Any, list[float]] = defaultdict(list)
            for c, gain in zip((c for c, f in part.items() if name in f), gains, strict=True):
                tasks[c[:3]].append(gain)
            eces = [
                mean(v) if (v := [100 * f[name][e] for f in part.values() if name in f]) else 0
                for e in ("ece", "ece_after")
            ]
            body.append(
                [
                    name,
                    *(f"{mean(v):.1f}" if v else "" for v in values),
                    f"{mean(regret):.1f}",
                    f"{mean(gains):+.1f} {bounds(gains)}",
                    f"{100 * mean(g < -1 for g in gains):.0f} %",
                    f"{min(map(mean, tasks.values())):+.1f}",
                    f"{eces[0]:.1f} / {eces[1]:.1f}",
                    f"{np.median([f[name]['seconds'] for f in part.values() if name in f]):.2f}",
                ]
            )
        title = "With a source" if shifted else "Without a source"
        head = [
            title,
            *(f"k = {k}" for k in shots),
            "regret",
            f"against {against}",
            "worse by > 1",
            "worst task",
            "ECE before / after",
            "seconds",
        ]
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts)


def bounds(gains: list[float]) -> str:
    """The 95 % t interval of a mean over cells; empty for one."""
    interval = t_interval(gains)
    return f"[{interval.low:.1f}, {interval.high:.1f}]" if len(gains) > 1 else ""


def best(found: dict[str, dict[str, Any]]) -> float:
    """The best accuracy of a cell in hindsight, in per cent."""
    return 100 * max(row["accuracy"] for row in found.values() if "accuracy" in row)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "show"])
    parser.add_argument("results", type=Path)
    parser.add_argument("--sets", nargs="+", default=[])
    parser.add_argument("--backbones", nargs="+", default=["petiole/tiny-vit"])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 5, 10, 20])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--rows", nargs="+", default=[*SOLVED, AUTO], choices=[*ROWS, AUTO])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "petiole-auto")
    arguments = parser.parse_args()
    file = arguments.results
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    if arguments.what == "run":
        with tempfile.TemporaryDirectory() as folder, file.open("a") as out:
            if any(s.partition("=")[2] == "digits" for s in arguments.sets):
                write_digits(Path(folder), per_class=100)
                arguments.sets = [s.replace("=digits", f"={folder}") for s in arguments.sets]
            for row in cells(arguments, set(map(key, rows))):
                print(json.dumps(row), file=out, flush=True)
                rows.append(row)
    print(show(rows))


if __name__ == "__main__":
    main()
