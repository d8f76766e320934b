"""Residual prompts: two data sets learned in one run, on petiole/tiny-clip, beside their hosts and beside CoOp on each set alone.

Shapes and colours of the synthetic scenes: half of the classes of each are learned together, 16 pictures a class; tested are those classes of each set,
its other classes by name, and a data set that nobody learned (numbers of things). Three seeds, differences paired by seed.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/followups/many_tasks.py OUT
"""

from __future__ import annotations

import argparse
import shutil
import tomllib
from pathlib import Path

import petiole
from petiole.metrics.paired import judged
from petiole.tasks.classification.transfer_eval import TRANSFER, read_transfer

SETS, UNSEEN, SEEDS = ("shapes", "colours"), "counts", 3
PLACES = tuple(f"{name}-{half}" for name in SETS for half in ("learned", "other"))
TABLE = Path(__file__).with_suffix(".toml")
ALONE = "CoOp, on each set alone"


def halves(folder: Path) -> dict[str, list[str]]:
    """Names of the classes of each half of a data set."""
    names = sorted(path.name for path in (folder / "train").iterdir())
    return {"learned": names[: len(names) // 2], "other": names[len(names) // 2 :]}


def laid_out(out: Path) -> dict[str, list[str]]:
    """Write ``both/``, ``shapes-learned/`` ... and ``counts/``; returns all names of each set."""
    known = {}
    for name in (*SETS, UNSEEN):
        drawn = out / "drawn" / name
        if not drawn.exists():
            petiole.synthesize(drawn, task=name, train=16, test=30)
        known[name] = sorted(path.name for path in (drawn / "train").iterdir())
    for name in SETS:
        for half, classes in halves(out / "drawn" / name).items():
            for label in classes:
                source = out / "drawn" / name
                shutil.copytree(
                    source / "test" / label, out / f"{name}-{half}" / label, dirs_exist_ok=True
                )
                if half == "learned":
                    for place in ("both", f"{name}-alone"):
                        shutil.copytree(
                            source / "train" / label, out / place / label, dirs_exist_ok=True
                        )
    shutil.copytree(out / "drawn" / UNSEEN / "test", out / UNSEEN, dirs_exist_ok=True)
    return {name: known[name] for name in SETS}


def accuracies(root: Path, row: str, place: str) -> list[float]:
    """Of a row at a place, by seed."""
    folders = [root / "runs" / row / f"seed-{seed}" / TRANSFER for seed in range(SEEDS)]
    return [read_transfer(folder / f"{place}.json").scores["accuracy"] for folder in folders]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    names = laid_out(out)
    shared = {"backbone": "petiole/tiny-clip", "seeds": SEEDS, "quiet": True}
    petiole.generalise(
        out / "both",
        to=[out / place for place in (*PLACES, UNSEEN)],
        table=str(TABLE),
        settings={"sets": "; ".join(", ".join(one) for one in names.values())},
        out=out / "together",
        resume=(out / "together").exists(),
        **shared,
    )
    rows = {row["name"]: row for row in tomllib.loads(TABLE.read_text())["rows"]}
    for name in SETS:
        petiole.generalise(
            out / f"{name}-alone",
            to=[out / place for place in PLACES if place.startswith(name)],
            methods=["coop"],
            settings=rows["coop"]["settings"],
            out=out / f"{name}-only",
            resume=(out / f"{name}-only").exists(),
            **shared,
        )
    found = {
        row["label"]: [accuracies(out / "together", name, place) for place in (*PLACES, UNSEEN)]
        for name, row in rows.items()
    }
    found[ALONE] = [
        accuracies(out / f"{place.partition('-')[0]}-only", "coop", place) for place in PLACES
    ]
    print("| Method |", " | ".join((*PLACES, UNSEEN, "mean of the four")), "|")
    print("|---|" + "---:|" * (len(PLACES) + 2))
    means = {}
    for label, columns in found.items():
        means[label] = [
            sum(each) / len(PLACES) for each in zip(*columns[: len(PLACES)], strict=True)
        ]
        cells = [f"{100 * sum(each) / SEEDS:.1f}" for each in (*columns, means[label])]
        if len(columns) == len(PLACES):
            cells.insert(-1, "–")
        print(f"| {label} |", " | ".join(cells), "|")
    print("\n| Difference of the mean of the four | points | Verdict |\n|---|---:|---|")
    for reference in ("CoOp", "MaPLe"):
        own = {k: v for k, v in means.items() if reference in k} if reference == "MaPLe" else {
            k: v for k, v in means.items() if "MaPLe" not in k
        }  # fmt: skip
        for label, (pair, said) in judged(own, reference).items():
            low, high = 100 * pair.low, 100 * pair.high
            print(
                f"| {label} − {reference} | {100 * pair.difference:+.1f} [{low:.1f}, {high:.1f}] | {said} |"
            )


if __name__ == "__main__":
    main()
