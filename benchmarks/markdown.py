"""Print comparison folders as narrow Markdown tables, for the documents.

python benchmarks/markdown.py runs/pacs/vit-table1 ...
"""

from __future__ import annotations

import sys
from pathlib import Path

from petiole.report.tables import columns, sentence, summarise

SHOWN = ("Method", "Published", "Accuracy", "Difference", "Verdict", "Trained")


def table(folder: Path) -> str:
    """A comparison's published and measured accuracies, and the sentence about them."""
    summary = summarise(folder)
    by_title = {c.title.split(",")[0]: c for c in columns(summary)}
    chosen = [by_title[title] for title in SHOWN if title in by_title]
    lines = [
        "| " + " | ".join(c.title for c in chosen) + " |",
        "|" + "|".join("---:" if c.numeric else "---" for c in chosen) + "|",
    ]
    for row in summary.rows:
        cells = [f"{c.text(row)} {c.detail(row)}".strip() for c in chosen]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", sentence(summary), ""])


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"### {name}\n\n{table(Path(name))}")
