"""Numbers as people read them: fractions as per cent, a real minus sign, nothing where nothing is."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from petiole.metrics.statistics import Interval


def signed(value: float, digits: int) -> str:
    """``+1.2`` or ``−1.2``; zero has no sign, not even after rounding."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if float(f"{value:.{digits}f}") else text[1:]


def number(value: float, digits: int) -> str:
    """``1.2`` or ``−1.2``."""
    return signed(value, digits).removeprefix("+")


def mean_sd(interval: Interval, digits: int) -> str:
    """``91.2 ± 0.6`` in per cent; the mean alone where one value has no spread."""
    mean = number(100 * interval.mean, digits)
    return f"{mean} ± {100 * interval.sd:.{digits}f}" if math.isfinite(interval.sd) else mean


def bounds(low: float, high: float, digits: int) -> str:
    """``[90.4, 92.0]`` in per cent."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "unknown"
    return f"[{number(100 * low, digits)}, {number(100 * high, digits)}]"


def points(value: float) -> str:
    """``1 point`` or ``0.5 points``: a fraction as a difference of percentages."""
    return f"{100 * value:g} point" + ("s" if round(100 * value, 9) != 1 else "")


def percent(value: float) -> str:
    """A percentage with three significant digits, never more than two decimals above 1."""
    if value == 0 or value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def seconds(value: float) -> str:
    """Seconds with two or three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def p_value(p: float) -> str:
    """``0.034``, or ``< 0.001``."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def amount(value: float, unit: str, steps: Sequence[str] = ("", "k", "M", "G", "T")) -> str:
    """``2.4 MB`` or ``780 MFLOPs``: powers of 1,000, two or three significant digits."""
    power = 0
    while value >= 999.5 and power < len(steps) - 1:
        value, power = value / 1000, power + 1
    digits = 0 if value >= 99.95 or power == 0 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {steps[power]}{unit}"


def flops(value: float) -> str:
    """``780 MFLOPs``; a dash for none."""
    return amount(value, "FLOPs") if value else "–"


def in_cell(text: str) -> str:
    """Text for a Markdown table: it stays in its cell, and a tag stays a text."""
    return " ".join(re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text).replace("|", "\\|").split())


def join(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; semicolons where a word has a comma itself."""
    if len(words) == 1:
        return words[0]
    comma = ";" if any("," in word for word in words) else ","
    last = "; and " if comma == ";" else " and "
    return f"{f'{comma} '.join(words[:-1])}{last}{words[-1]}"
