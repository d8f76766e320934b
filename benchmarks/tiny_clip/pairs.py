"""Rows of a generalisation against one another, paired by seed, as Markdown: does a plug-in raise its own host?

    python benchmarks/tiny_clip/pairs.py OUT maple+textrefiner-maple promptsrc+textrefiner-promptsrc

A table compares all rows with one reference; here each pair is a comparison of its own. Verdicts are of the last column,
HM or the average over the other places, after Holm's correction over the pairs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from petiole.metrics.harmonic import harmonic_mean
from petiole.metrics.statistics import Paired, holm, paired_by_seed, verdict
from petiole.protocols.generalisation import Generalisation, scores

Places = dict[str, Sequence[float]]


def found(protocol: Generalisation, root: Path, name: str) -> Places:
    """Accuracy of a row by place and seed, with the headline last."""
    places: Places = dict(scores(protocol, root, protocol.row(name)))
    if protocol.kind == "base-to-novel":
        both = zip(places["base"], places["novel"], strict=True)
        return places | {"HM": [harmonic_mean(*pair) for pair in both]}
    each = zip(*(places[place] for place in protocol.places), strict=True)
    return places | {"average": [fmean(values) for values in each]}


def cell(d: Paired) -> str:
    """A difference in points with its interval."""
    low, high = (f"{100 * bound:.1f}".replace("-", "−") for bound in (d.low, d.high))
    return f"{100 * d.difference:+.1f} [{low}, {high}]".replace("-", "−")


def table(protocol: Generalisation, root: Path, pairs: Mapping[str, tuple[str, str]]) -> str:
    """Differences of all pairs at every place."""
    rows: dict[str, dict[str, Paired]] = {}
    for label, names in pairs.items():
        first, second = (found(protocol, root, name) for name in names)
        rows[label] = {
            place: paired_by_seed(first[place], second[place])
            for place in first
            if first[place] and second[place]
        }
    titles = list(next(iter(rows.values())))
    adjusted = holm([row[titles[-1]].p for row in rows.values()])
    lines = [
        "| pair | " + " | ".join(f"difference of {t}" for t in titles) + " | Verdict |",
        "|---|" + "---:|" * len(titles) + "---|",
    ]
    for (label, row), p in zip(rows.items(), adjusted, strict=True):
        last = row[titles[-1]]
        said = verdict(last.low, last.high, p, protocol.margin)
        lines.append(f"| {label} | {' | '.join(cell(row[t]) for t in titles)} | {said} |")
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("out", type=Path, help="folder of petiole generalise")
    options.add_argument("pairs", nargs="+", help="ROW-ROW, by name")
    chosen = options.parse_args()
    protocol = Generalisation.read(chosen.out)
    pairs: dict[str, tuple[str, str]] = {}
    for pair in chosen.pairs:
        first, second = _names(pair, [row.name for row in protocol.rows])
        pairs[f"{protocol.row(first).label} − {protocol.row(second).label}"] = (first, second)
    print(table(protocol, chosen.out, pairs))


def _names(pair: str, known: Sequence[str]) -> tuple[str, str]:
    """Both names; a name may hold a hyphen itself."""
    for first in known:
        second = pair.removeprefix(f"{first}-")
        if second != pair and second in known:
            return first, second
    raise SystemExit(f"{pair} is no pair of {', '.join(known)}.")


if __name__ == "__main__":
    main()
