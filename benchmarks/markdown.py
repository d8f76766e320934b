"""Print comparison folders as Markdown tables, for the documents.

python benchmarks/markdown.py runs/pacs/vit-table1 ...
"""

from __future__ import annotations

import sys
from pathlib import Path

from petiole.report.tables import sentence, summarise, to_markdown

for name in sys.argv[1:]:
    summary = summarise(Path(name))
    print(f"### {summary.title} ({name})\n\n{to_markdown(summary)}\n{sentence(summary)}\n")
