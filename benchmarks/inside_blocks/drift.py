"""How far adapted tokens have moved from the bare backbone's, D = |h' - h| / |h|, by row and step: the last block, mean of all draws.

python benchmarks/inside_blocks/drift.py FOLDER --figure docs/drift.svg

FOLDER is of `petiole compare`; its rows without a drift (heads alone) are left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

DRIFT = "drift.jsonl"


def curve(row: Path) -> dict[int, float]:
    """Step -> D behind the last block, the mean over the row's runs."""
    by_step: dict[int, list[float]] = {}
    for file in sorted(row.glob(f"*/{DRIFT}")):
        for line in map(json.loads, file.read_text().splitlines()):
            last = [role for role in line if role.endswith(".out")][-1]
            by_step.setdefault(line["step"], []).append(line[last])
    return {step: fmean(values) for step, values in sorted(by_step.items())}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=Path)
    options.add_argument("--figure", type=Path)
    chosen = options.parse_args()
    rows = {row.name: curve(row) for row in sorted((chosen.folder / "runs").iterdir())}
    rows = {name: line for name, line in rows.items() if line}
    if not rows:
        raise SystemExit(f"{chosen.folder} holds no run with a {DRIFT}.")
    print("| row | at the start | after a tenth | at the end |\n|---|---:|---:|---:|")
    for name, line in rows.items():
        steps = list(line)
        tenth = min(steps, key=lambda step: abs(step - steps[-1] / 10))
        cells = " | ".join(f"{line[step]:.3f}" for step in (steps[0], tenth, steps[-1]))
        print(f"| {name} | {cells} |")
    if chosen.figure:
        draw(rows, chosen.figure)


def draw(rows: dict[str, dict[int, float]], out: Path) -> None:
    """One line a row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, line in rows.items():
        axes.plot(list(line), list(line.values()), label=name)
    axes.set(xlabel="step", ylabel="D behind the last block")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(out, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
