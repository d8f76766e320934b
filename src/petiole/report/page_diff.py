"""The page of two adapters on the same images: what changed, for which classes and domains, and where in the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from petiole.data.dataset import Dataset
from petiole.files import write_text
from petiole.report.flips import Flips, flips
from petiole.report.formatting import number
from petiole.report.page import CHANGED, REPORT, PageContent, Sheet, Thumbnails, render
from petiole.report.runs import ScoredImages
from petiole.report.sections import Fact
from petiole.report.table import Table, plain
from petiole.tasks.classification.predictions import StoredPredictions
from petiole.tasks.classification.spectrum import BlockChange


@dataclass(frozen=True)
class AdapterOnImages(ScoredImages):
    """What one adapter makes of the images.

    Attributes:
        title: its name on the page.
        method: that trained it.
        stored: its predictions.
        known: class names.
        blocks: how far it changes each; none where it moves no tokens, or there were too few of them.
    """

    title: str
    method: str
    stored: StoredPredictions
    known: list[str]
    blocks: list[BlockChange]

    @property
    def name(self) -> str:
        return self.title

    @property
    def predictions(self) -> StoredPredictions:
        return self.stored

    @property
    def classes(self) -> list[str]:
        return self.known


def group_rows(
    a: AdapterOnImages, b: AdapterOnImages, groups: ArrayLike, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Images, right answers of both and flips both ways for each group; ``groups`` (n,) are indices of ``names``."""
    of = np.asarray(groups)

    def count(mask: NDArray[np.bool_], group: int) -> int:
        return int((mask & (of == group)).sum())

    right = np.ones(len(of), dtype=bool)
    return [
        {
            "name": name,
            "images": n,
            "accuracy_a": count(a.correct, g) / n,
            "accuracy_b": count(b.correct, g) / n,
            "fixed": count(~a.correct & b.correct, g),
            "broken": count(a.correct & ~b.correct, g),
            "other": count((a.guesses != b.guesses) & ~a.correct & ~b.correct, g),
        }
        for g, name in enumerate(names)
        if (n := count(right, g))
    ]


def write_diff_page(folder: Path, a: AdapterOnImages, b: AdapterOnImages, data: Dataset) -> Path:
    """Write ``report.html`` about going from adapter A to adapter B, and return its path."""
    found = flips(a, b)
    changed = found.fixed_count + found.broken_count
    shares = [f"{number(100 * float(one.correct.mean()), 1)} %" for one in (a, b)]
    page = PageContent(
        title=f"{a.title} → {b.title}",
        kind="Difference",
        lede=f"On {found.images:,} images {b.title} gets {found.fixed_count:,} right that {a.title} does not, and "
        f"{found.broken_count:,} wrong that {a.title} has right.",
        tiles=[
            Fact(shares[0], f"of {a.title} ({a.method}) right"),
            Fact(shares[1], f"of {b.title} ({b.method}) right"),
            Fact(f"{changed:,}", "images turned right or wrong"),
        ],
        done=f"Both adapters labelled the same images of {data.name}. Nothing was trained, and no adapter was chosen.",
        sheets=_sheets(a, b, data),
        galleries=_galleries(a, b, found),
        examples=CHANGED,
        notes=list(data.notes),
    )
    path = folder / REPORT
    write_text(path, render(page))
    return path


def _galleries(a: AdapterOnImages, b: AdapterOnImages, found: Flips) -> list[Thumbnails]:
    ways = [
        ("Fixed", found.fixed, found.fixed_count, f"Wrong with {a.title}, right with {b.title}"),
        ("Broken", found.broken, found.broken_count, f"Right with {a.title}, wrong with {b.title}"),
    ]
    return [
        Thumbnails(title, f"{text}: {count:,}; the surest {len(shown):,}.", shown)
        for title, shown, count, text in ways
    ]


def _sheets(a: AdapterOnImages, b: AdapterOnImages, data: Dataset) -> list[Sheet]:
    domains = sorted(set(data.domains))
    where = [domains.index(domain) for domain in data.domains]
    text = "Per cent right with each, and images that went from wrong to right, from right to wrong, and from one wrong class to another."
    sheets = [Sheet("By class", text, _table(group_rows(a, b, data.labels, data.classes)))]
    if len(domains) > 1:
        sheets.append(Sheet("By domain", text, _table(group_rows(a, b, where, domains))))
    if a.blocks or b.blocks:
        sheets.append(_layers(a, b))
    return sheets


def _table(rows: Sequence[dict[str, Any]]) -> Table[Any]:
    return plain(
        ["", "Images", "A, %", "B, %", "Fixed", "Broken", "Other"],
        [
            [
                row["name"],
                f"{row['images']:,}",
                *(number(100 * row[key], 1) for key in ("accuracy_a", "accuracy_b")),
                *(f"{row[key]:,}" for key in ("fixed", "broken", "other")),
            ]
            for row in rows
        ],
    )


def _layers(a: AdapterOnImages, b: AdapterOnImages) -> Sheet:
    of = [{block.role: block for block in one.blocks} for one in (a, b)]
    roles = sorted({*of[0], *of[1]}, key=lambda role: int(role.split(".")[1]))

    def cells(role: str) -> list[str]:
        known = [blocks.get(role) for blocks in of]
        energies = [f"{block.energy:.3f}" if block else "–" for block in known]
        ranks = [f"{block.effective_rank:.1f}" if block else "–" for block in known]
        return [role, energies[0], energies[1], ranks[0], ranks[1]]

    return Sheet(
        "Layer by layer",
        "How far tokens behind each block are moved, as a linear function of the bare backbone’s tokens: the Frobenius norm in "
        "units of the tokens’ own (energy), and over how many directions it is spread (effective rank: the exponential of "
        "the entropy of the singular values’ shares). A dash: this adapter moves nothing there.",
        plain(["Block", "Energy A", "Energy B", "Rank A", "Rank B"], [cells(r) for r in roles]),
    )
