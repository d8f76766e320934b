"""Residual prompts: two data sets learned in one run, beside their hosts and beside CoOp on each set alone.

On petiole/tiny-clip with shapes and colours of the synthetic scenes, or with --sets on data sets of one's own (train/ and test/ each). Half of the
classes of each are learned together, 16 pictures a class; tested are those classes of each set, its other classes by name, and a data set that nobody
learned (--unseen; numbers of things). Differences are paired by seed. Seeds that were added after a look at earlier ones are judged without them:
--skip leaves those out.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/followups/many_tasks.py OUT
    ... python benchmarks/followups/many_tasks.py OUT --backbone PAIR --sets things=FOLDER clothes=FOLDER --unseen rest=FOLDER
"""

from __future__ import annotations

import argparse
import shutil
import tomllib
from pathlib import Path

import petiole
from petiole.metrics.paired import judged
from petiole.tasks.classification.transfer_eval import TRANSFER, read_transfer

TESTED = 30
"""Test images of a class at most."""
TABLE = Path(__file__).with_suffix(".toml")
ALONE = "CoOp, on each set alone"


def named(said: str) -> tuple[str, Path | None]:
    """``NAME=FOLDER``, or the name of a task of the scenes."""
    name, _, folder = said.partition("=")
    return name, Path(folder) if folder else None


def halves(folder: Path) -> dict[str, list[str]]:
    """Names of the classes of each half of a data set."""
    names = sorted(path.name for path in (folder / "train").iterdir())
    return {"learned": names[: len(names) // 2], "other": names[len(names) // 2 :]}


def at_hand(out: Path, name: str, folder: Path | None) -> Path:
    """The data set's folder; a task of the scenes is drawn."""
    drawn = folder or out / "drawn" / name
    if not drawn.exists():
        petiole.synthesize(drawn, task=name, train=16, test=TESTED)
    return drawn


def copied(source: Path, target: Path, most: int | None = None) -> None:
    """The images of a class, the first by name."""
    target.mkdir(parents=True, exist_ok=True)
    for image in sorted(source.iterdir())[:most]:
        shutil.copy(image, target / image.name)


def laid_out(out: Path, sets: dict[str, Path], unseen: tuple[str, Path]) -> None:
    """Write ``both/``, ``NAME-learned/``, ``NAME-other/``, ``NAME-alone/`` and the set that nobody learns."""
    for name, source in sets.items():
        for half, classes in halves(source).items():
            for label in classes:
                copied(source / "test" / label, out / f"{name}-{half}" / label, TESTED)
                if half == "learned":
                    for place in ("both", f"{name}-alone"):
                        copied(source / "train" / label, out / place / label)
    for folder in (unseen[1] / "test").iterdir():
        copied(folder, out / unseen[0] / folder.name, TESTED)


def accuracies(root: Path, row: str, place: str, seeds: range) -> list[float]:
    """Of a row at a place, by seed."""
    folders = [root / "runs" / row / f"seed-{seed}" / TRANSFER for seed in seeds]
    return [read_transfer(folder / f"{place}.json").scores["accuracy"] for folder in folders]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbone", default="petiole/tiny-clip")
    parser.add_argument("--sets", nargs=2, default=["shapes", "colours"])
    parser.add_argument("--unseen", default="counts")
    parser.add_argument("--seeds", type=int, default=3, help="runs of a row")
    parser.add_argument("--skip", type=int, default=0, help="of the first seeds that do not count")
    given = parser.parse_args()
    seeds = range(given.skip, given.seeds)
    if len(seeds) < 2:
        parser.error(
            f"--skip {given.skip} leaves fewer than two of {given.seeds} seeds: raise --seeds."
        )
    out = given.out
    sets = {name: at_hand(out, name, folder) for name, folder in map(named, given.sets)}
    unseen, folder = named(given.unseen)
    laid_out(out, sets, (unseen, at_hand(out, unseen, folder)))
    places = [f"{name}-{half}" for name in sets for half in ("learned", "other")]
    names = [
        [label for half in halves(source).values() for label in half] for source in sets.values()
    ]
    shared = {"backbone": given.backbone, "seeds": given.seeds, "quiet": True}
    petiole.generalise(
        out / "both",
        to=[out / place for place in (*places, unseen)],
        table=str(TABLE),
        settings={"sets": "; ".join(", ".join(one) for one in names)},
        out=out / "together",
        resume=(out / "together").exists(),
        **shared,
    )
    rows = {row["name"]: row for row in tomllib.loads(TABLE.read_text())["rows"]}
    for name in sets:
        petiole.generalise(
            out / f"{name}-alone",
            to=[out / place for place in places if place.startswith(f"{name}-")],
            methods=["coop"],
            settings=rows["coop"]["settings"],
            out=out / f"{name}-only",
            resume=(out / f"{name}-only").exists(),
            **shared,
        )
    found = {
        row["label"]: [
            accuracies(out / "together", name, place, seeds) for place in (*places, unseen)
        ]
        for name, row in rows.items()
    }
    found[ALONE] = [
        accuracies(out / f"{place.rpartition('-')[0]}-only", "coop", place, seeds)
        for place in places
    ]
    print("| Method |", " | ".join((*places, unseen, "mean of the four")), "|")
    print("|---|" + "---:|" * (len(places) + 2))
    means = {}
    for label, columns in found.items():
        means[label] = [
            sum(each) / len(places) for each in zip(*columns[: len(places)], strict=True)
        ]
        cells = [f"{100 * sum(each) / len(seeds):.1f}" for each in (*columns, means[label])]
        if len(columns) == len(places):
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
