"""Settings of a method against each other on real images: draws of k shots, features cached, a line of JSON each.

Nothing is written but the lines: no records, no adapters. Repeating the command adds lines.

    python benchmarks/training_defaults/measure.py --data clothing128 --test validation --shots 2 10 \
        --rows linear-probe linear-probe,views=0 logistic-regression --out lines.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch

from petiole.methods.registry import create
from petiole.metrics.classification import score
from petiole.tasks.classification import training
from petiole.tasks.classification.model import AdaptedClassifier, predict
from petiole.tasks.classification.workspace import Classification, ClassificationWorkspace, Subset

ROOT = Path(os.environ.get("PETIOLE_DATA", "../shared/data"))


def measure(
    workspace: ClassificationWorkspace, row: str, shots: int, draw: int
) -> dict[str, float]:
    """Train one row (``method,name=value,...``) on one draw and score it."""
    name, *pairs = row.split(",")
    method = create(name, dict(pair.split("=") for pair in pairs))
    data, scored = workspace.parts(Subset(shots=shots or None, split_seed=draw))
    with torch.random.fork_rng():
        torch.manual_seed(draw)
        adapted = AdaptedClassifier(
            workspace.backbone, method.plan(workspace.backbone, len(data.classes))
        )
        adapted.name(data.classes)
        table = workspace.training_table(adapted, data, method.recipe)
        seconds = training.train(
            adapted, data, table, method.recipe, seed=draw, callbacks=training.Callbacks(quiet=True)
        )
    output = predict(adapted, workspace.table(scored, adapted.cut).batches(len(scored)))
    scores = score(output.probabilities.double().numpy(), scored.labels).to_dict()
    return {
        "accuracy": 100 * scores["accuracy"],
        "nll": scores["nll"],
        "ece": 100 * scores["ece"],
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of target images under PETIOLE_DATA")
    parser.add_argument("--source", help="folder of source images under PETIOLE_DATA")
    parser.add_argument("--test", help="folder of scored images under PETIOLE_DATA")
    parser.add_argument(
        "--backbones", nargs="+", default=["petiole/tiny-vit", "petiole/efficientnet-lite0"]
    )
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 5, 10, 20])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--rows", nargs="+", required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/training_defaults/cache"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for backbone in args.backbones:
        task = Classification(
            backbone=backbone,
            images=ROOT / args.data,
            source=ROOT / args.source if args.source else None,
            test=ROOT / args.test if args.test else None,
            cache=args.cache,
            quiet=True,
        )
        workspace = task.open()
        for shots in args.shots:
            for draw in range(args.draws):
                for row in args.rows:
                    line = {
                        "data": f"{args.source or ''}->{args.data}",
                        "backbone": backbone,
                        "shots": shots,
                        "draw": draw,
                        "row": row,
                        **measure(workspace, row, shots, draw),
                    }
                    with args.out.open("a", encoding="utf-8") as out:
                        out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
