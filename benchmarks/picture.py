"""Draw a comparison's accuracies as a picture that stands alone, for the README.

python benchmarks/picture.py runs/demo docs/demo.svg
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from petiole.report import page
from petiole.report.plots import accuracy, svg
from petiole.report.tables import summarise


def light_colours() -> dict[str, str]:
    """The page's own colours, light theme."""
    css = (Path(page.__file__).parent / "page.css").read_text()
    return dict(re.findall(r"--(\w+): (#\w+);", css.split("@media")[0]))


def main(folder: Path, out: Path) -> None:
    summary = summarise(folder)
    row = summary.row(summary.headline)
    label = f"Accuracy by method; {row.label} reaches {100 * row.accuracy.mean:.1f} per cent"
    text = svg(accuracy(summary), "picture", label)
    colours = light_colours()
    text = re.sub(r"var\(--(\w+)\)", lambda found: colours[found[1]], text)
    ground = f'<rect width="100%" height="100%" fill="{colours["paper"]}"/>'
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    text = head + text.removeprefix("<svg ").replace("style=", 'font-family="sans-serif" style=', 1)
    first = text.index(">") + 1
    out.write_text(text[:first] + ground + text[first:] + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
