"""Write docs/claims.md: what five papers and those that follow them claim, and what the measured tables of the other pages say of it.

    python benchmarks/claims.py

The claims are petiole/claims/statements.toml. A verdict is never typed: it follows from the interval or the verdict of the
table that the claim names, by the rule of every comparison here (a tie needs an interval within a margin of one point).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petiole import claims
from petiole.commands.reproduce import KINDS

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "claims.md"
NUMBER = r"[+−-]?\d+(?:\.\d+)?"
MARGIN = 1.0
"""Points."""
HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"
NO_INTERVAL = "measured without an interval"
UNMEASURED = "not measured here"
IMPOSSIBLE = "cannot be decided here"
AGREES = {
    "better": {"better": HOLDS, "worse": FAILS, "tie": FAILS},
    "as good": {"better": HOLDS, "tie": HOLDS, "worse": FAILS},
    "tie": {"tie": HOLDS, "better": FAILS, "worse": FAILS},
}
"""What a claim expects -> what was found -> whether it holds."""
EQUAL = ("as good", "tie")
"""Expectations that an interval within the margin meets, whether it holds zero or not."""
OPPOSITE = {"better": "worse", "worse": "better"}
TITLE = """# What the papers claim, and what holds here

Written by `python benchmarks/claims.py` from the claims (`petiole/claims/statements.toml`) and the measured tables of the other pages,
which say by which command they were made; a test keeps it in step with them. *Holds* and *does not hold* follow from an interval or a verdict
there: *better* needs a difference beyond chance, *as good* and *adds nothing* an interval within ±1 point, and anything else is *undecided*, also
where a correction for several rows took a verdict away. Differences are in points, the first that the claim names minus the second. Nearly all
of it was measured on models and data far smaller than the papers': read *holds* as "holds there".
"""


@dataclass(frozen=True)
class Bed:
    """One measurement: where, what it says of the claim, and the figure behind it."""

    verdict: str
    link: str
    shown: str = ""


def section(page: str, under: str) -> str:
    """The text of a page below a heading, up to the next one of its level or above.

    Raises:
        ValueError: no such heading.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    match = re.search(rf"^(#+) {re.escape(under)}$", text, re.M)
    if not match:
        raise ValueError(f"docs/{page} has no heading {under!r}.")
    rest = text[match.end() :]
    following = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.M)
    return rest[: following.start()] if following else rest


def tables(text: str) -> list[list[list[str]]]:
    """Cells of the Markdown tables in a text, titles first."""
    blocks = re.findall(r"(?:^\|.*\n?)+", text, re.M)
    return [
        [[c.strip() for c in line.strip().strip("|").split("|")] for line in block.splitlines()]
        for block in blocks
    ]


def cells_of(bed: Mapping[str, Any]) -> tuple[str, str]:
    """The cell that a bed names, and the verdict beside it, if its table has such a column.

    Raises:
        ValueError: no such row or column.
    """
    found = tables(section(bed["page"], bed["under"]))
    if "table" in bed:
        found = found[bed["table"] - 1 : bed["table"]]
    wanted = bed.get("column", "Difference, points")
    for titles, _, *rows in found:
        row = next((r for r in rows if r[0].strip("*") == bed["row"]), None)
        if row and isinstance(wanted, int):
            return row[wanted], row[wanted]
        if row and wanted in titles:
            verdict = [i for i, title in enumerate(titles) if title.lower() == "verdict"]
            return row[titles.index(wanted)], row[verdict[0]] if verdict else ""
    raise ValueError(f"docs/{bed['page']}, {bed['under']}: no cell {bed['row']!r}, {wanted!r}.")


def number(text: str) -> float:
    """A number as pages print it."""
    return float(text.replace("−", "-").replace("+", "").strip("*"))


def by_interval(low: float, high: float) -> str:
    """The verdict of a difference in points."""
    if low > 0 or high < 0:
        return "better" if low > 0 else "worse"
    return "tie" if max(-low, high) <= MARGIN else OPEN


def measured(bed: Mapping[str, Any], expects: str, words: Mapping[str, str]) -> Bed:
    """What one measurement says of a claim."""
    slug = re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", bed["under"]).strip().lower())
    link = f"[{bed['on']}]({bed['page']}#{slug})"
    text = section(bed["page"], bed["under"])
    if "figure" in bed:
        ours = _searched(bed, "figure", text)[1]
        digits = len(str(bed["claimed"]).partition(".")[2])
        agrees = round(number(ours), digits) == bed["claimed"]
        return Bed(HOLDS if agrees else FAILS, link, ours)
    if "interval" in bed:
        shown, found = _searched(bed, "interval", text)[0], ""
    elif "row" in bed:
        shown, found = cells_of(bed)
    else:
        return Bed(NO_INTERVAL, link)
    if words:
        return Bed(next(v for word, v in words.items() if found.startswith(word)), link, found)
    bounds = re.findall(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]", shown)
    numbers = [number(n) for n in bounds[-1]] if bounds else []
    if numbers and found not in ("better", "worse", "tie", OPEN):
        found = by_interval(*numbers[1:])
    if bed.get("earlier") and found == "tie":
        found = OPEN
    if bed.get("flip"):
        found = OPPOSITE.get(found, found)
        numbers = [-n for n in (numbers[:1] + numbers[:0:-1])]
    within = numbers and max(-numbers[1], numbers[2]) <= MARGIN
    if expects in EQUAL and within and not bed.get("earlier"):
        found = "tie"
    figure = "{:+.1f} [{:.1f}, {:.1f}]".format(*numbers).replace("-", "−") if numbers else ""
    return Bed(AGREES[expects].get(found, OPEN), link, figure)


def _searched(bed: Mapping[str, Any], what: str, text: str) -> re.Match[str]:
    if match := re.search(bed[what], text):
        return match
    raise ValueError(f"docs/{bed['page']}, {bed['under']}: nothing matches {bed[what]!r}.")


def overall(verdicts: list[str]) -> str:
    """One verdict where all measurements agree, and otherwise how many say what."""
    counts = Counter(verdicts)
    if len(counts) == 1:
        return f"**{verdicts[0]}**"
    order = [v for v in (HOLDS, FAILS, OPEN, NO_INTERVAL) if v in counts]
    return ", ".join(f"**{verdict}** {counts[verdict]}×" for verdict in order)


def reasons(name: str) -> str:
    """What deciding would take, as the published table says."""
    kind = next(kind for kind in KINDS if name in claims.names(kind))
    stated = claims.table(name, kind)
    missing = [
        *stated.get("missing", ()),
        *(r["missing"] for r in stated["rows"] if "missing" in r),
    ]
    if "data" in stated:
        missing.insert(0, f"{stated['backbone']} and the data sets {', '.join(stated['data'])}")
    return f"needs {'; '.join(dict.fromkeys(missing))} (`petiole reproduce {name}`)"


def line(paper: str, row: Mapping[str, Any]) -> str:
    """A claim as a line of the table."""
    beds = [
        measured(bed, row.get("expects", ""), row.get("words", {})) for bed in row.get("beds", ())
    ]
    if beds:
        verdict = overall([bed.verdict for bed in beds])
        where = "; ".join(f"{bed.link}: {bed.verdict} {bed.shown}".rstrip() for bed in beds)
    elif "test" in row:
        verdict, where = f"**{HOLDS}**", f"proved by `{row['test']}`"
    elif "needs" in row:
        verdict, where = f"**{IMPOSSIBLE}**", reasons(row["needs"])
    else:
        verdict, where = UNMEASURED, ""
    return f"| {paper} | {row['says']} | {row['published']} | {verdict} | {where} |"


def page() -> str:
    """All of docs/claims.md."""
    lines = [
        "| paper | claim | published | here | where, and the figure |",
        "|---|---|---|---|---|",
    ]
    for name in claims.names("statements"):
        stated = claims.table(name, "statements")
        lines += [line(stated["title"], row) for row in stated["rows"]]
    return "\n".join([TITLE, *lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
