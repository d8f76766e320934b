"""Figures as inline SVG that takes its colours from the page, so that it is light or dark with it.

Text stays text. Equal inputs give equal bytes: no dates, and ids that come from the figure's name.
"""

from __future__ import annotations

import colorsys
import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike, NDArray

from petiole.metrics.statistics import Interval
from petiole.report.diagnosis import DomainDiagnosis
from petiole.report.label_placement import place_labels
from petiole.report.scores import ScoreSummary
from petiole.report.summary import ComparisonSummary

# Stand-ins for the page's own colours; `svg` replaces them by CSS variables.
INK, MUTED, LINE, ACCENT, SECOND, PAPER = (
    *("#010203", "#040506", "#070809"),
    *("#0a0b0c", "#0d0e0f", "#101112"),
)
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
    PAPER: "var(--paper)",
}
# Petroff (2021), "Accessible color sequences for data visualization", ten colours.
_PALETTE = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
_STYLE = {
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 9,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "petiole",
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$5"
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 8.5,
}
POINTS = 1 / 72  # inches
WIDE, NARROW = 372, 252  # points: half of the page, a quarter of it or half a telephone


def svg(figure: Figure, name: str, label: str) -> str:
    """Return ``figure`` as an ``<svg>`` element for an HTML page.

    Args:
        figure: made by a function of this module.
        name: unique on the page; prefix of the element's ids.
        label: what the picture shows, for those who do not see it.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")  # the browser has it
        figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    width, height = (float(v) for v in re.findall(r'viewBox="0 0 (\S+) (\S+)"', text)[0])
    head = (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width: {1.4 * width:.0f}px">'
    )
    text = re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
    text = re.sub(r"font: (?:(\w+) )?([\d.]+)px [^;\"]*", _font, text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return _own_ids(text, name).strip()


def _font(found: re.Match[str]) -> str:
    weight = f"font-weight: {found[1]}; " if found[1] else ""
    return f"{weight}font-size: {found[2]}px"


def _own_ids(text: str, name: str) -> str:
    """Keep the ids that something refers to, under the figure's own name."""
    used = set(re.findall(r'(?:url\(#|xlink:href="#)([^)"]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    return re.sub(r'(url\(#|xlink:href="#)', rf"\1{name}-", text)


@dataclass(frozen=True)
class Mark:
    """One row of an overview.

    Attributes:
        label: of the row.
        at: its score with the bounds of its interval, fractions; bounds are infinite where one value has none.
        dots: single splits or seeds; empty for one.
        trainable: parameters trained.
        stressed: whether it is the reference.
        published: in per cent.
    """

    label: str
    at: Interval
    dots: Sequence[float]
    trainable: int
    stressed: bool
    published: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """Bounds of the interval in per cent; the mean twice where there is none."""
        low, high = (b if math.isfinite(b) else self.at.mean for b in (self.at.low, self.at.high))
        return 100 * low, 100 * high


def marks(summary: ComparisonSummary | ScoreSummary) -> list[Mark]:
    """The rows of a summary."""
    if isinstance(summary, ComparisonSummary):
        return [
            Mark(
                *(r.label, r.accuracy, r.by_split if len(r.by_split) > 1 else [], r.trainable),
                stressed=r.name == summary.reference,
                published=r.published,
            )
            for r in summary.rows
        ]
    return [
        Mark(
            *(r.label, r.headline, r.by_seed if len(r.by_seed) > 1 else [], r.trainable),
            stressed=r is summary.reference,
        )
        for r in summary.rows
    ]


def accuracy(summary: ComparisonSummary | ScoreSummary) -> Figure:
    """Score of every row in per cent: splits or seeds as dots, mean and 95 % interval."""
    rows = marks(summary)
    photos = isinstance(summary, ComparisonSummary)
    with mpl.rc_context(_STYLE):
        figure = Figure((WIDE * POINTS, (22 * len(rows) + 48) * POINTS), layout="constrained")
        axes: Axes = figure.subplots()
        axes.axvline(100 * next(r.at.mean for r in rows if r.stressed), color=LINE, zorder=0)
        for y, row in enumerate(rows):
            _mark(axes, row, y)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_color(INK)
            tick.set_fontweight("bold" if row.stressed else "normal")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("Accuracy on the target test images, %" if photos else "Score, %")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
    return figure


def _mark(axes: Axes, row: Mark, y: int) -> None:
    colour = ACCENT if row.stressed else MUTED
    axes.plot(row.ends, [y, y], color=colour, linewidth=2.4, alpha=0.45)
    if row.dots:
        dots = [100 * value for value in row.dots]
        axes.scatter(dots, [y - 0.27] * len(dots), s=5, color=colour, alpha=0.55, linewidths=0)
    axes.scatter([100 * row.at.mean], [y], s=34, color=colour, zorder=3, linewidths=0)
    if row.published is not None:
        axes.scatter([row.published], [y], s=26, marker="D", facecolors="none", edgecolors=SECOND)


def against_parameters(summary: ComparisonSummary | ScoreSummary) -> Figure:
    """Score in per cent against trained parameters; the rows that none cheaper beats are named."""
    rows = marks(summary)
    x = np.array([row.trainable for row in rows], dtype=np.float64)
    y = np.array([100 * row.at.mean for row in rows])
    named = frontier(x, y) | np.array([row.stressed for row in rows])
    with mpl.rc_context(_STYLE):
        figure = Figure(
            (WIDE * POINTS, max(240, 22 * len(rows) + 48) * POINTS), layout="constrained"
        )
        axes: Axes = figure.subplots()
        _parameter_axis(axes, x)
        if x.min() == x.max() > 0:  # a logarithmic axis has no width of its own then
            axes.set_xlim(x.min() / 2, 2 * x.max())
        axes.vlines(x, *np.array([row.ends for row in rows]).T, color=LINE, linewidth=1.4)
        colours = [ACCENT if row.stressed else MUTED for row in rows]
        axes.scatter(x, y, s=30, color=colours, alpha=0.85, zorder=3, linewidths=0)
        axes.margins(x=0.12, y=0.1)
        photos = isinstance(summary, ComparisonSummary)
        axes.set(xlabel="Trained parameters", ylabel="Accuracy, %" if photos else "Score, %")
        axes.grid()
        axes.set_axisbelow(True)
        names = [row.label if show else "" for row, show in zip(rows, named, strict=True)]
        place_labels(figure, axes, x, y, names, INK)
    return figure


def _parameter_axis(axes: Axes, x: NDArray[np.float64]) -> None:
    """Logarithmic, with a linear piece for rows that train nothing."""
    if (x > 0).all():
        axes.set_xscale("log")
        if x.max() < 100 * x.min():
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    else:
        axes.set_xscale("symlog", linthresh=x[x > 0].min(initial=1e3))
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.xaxis.set_minor_formatter(lambda *_: "")


def _short(value: float) -> str:
    """``10k`` or ``2M``."""
    size, unit = next((s for s in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= s[0]), (1, ""))
    return f"{value / size:g}{unit}"


def frontier(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether no other point is as cheap (x) and better (y), or cheaper and as good."""
    cheap, good = x[:, None] <= x, y[:, None] >= y
    beats = cheap & good & ((x[:, None] < x) | (y[:, None] > y))
    return np.asarray(~beats.any(axis=0))


def domain_map(diagnosis: DomainDiagnosis, *, after: bool, by_class: bool, classes: int) -> Figure:
    """One t-SNE panel: source images as hollow circles, target images as triangles."""
    xy = np.array(diagnosis.map_after if after else diagnosis.map_before)
    target, labels = np.array(diagnosis.is_target), np.array(diagnosis.labels)
    colours = class_colours(classes)
    with mpl.rc_context(_STYLE):
        figure = Figure((NARROW * POINTS, NARROW * POINTS))
        axes: Axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
        for domain in (True, False):  # hollow circles above, so that neither hides the other
            mine = target == domain
            plain = ACCENT if domain else SECOND
            colour = [colours[k] for k in labels[mine]] if by_class else plain
            x, y = xy[mine].T
            if domain:
                axes.scatter(x, y, s=13, c=colour, marker="^", alpha=0.75, linewidths=0)
            else:
                axes.scatter(x, y, s=11, facecolors="none", edgecolors=colour, linewidths=0.7)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_visible(True)
    return figure


def loss(logs: Sequence[Sequence[dict[str, float]]]) -> Figure:
    """Training loss by step, one line a run."""
    with mpl.rc_context(_STYLE):
        figure = Figure((NARROW * POINTS, 190 * POINTS), layout="constrained")
        axes: Axes = figure.subplots()
        for log in logs:
            x, y = [row["step"] for row in log], [row["loss"] for row in log]
            axes.plot(x, y, color=ACCENT, linewidth=1.1, alpha=max(0.3, 1 / len(logs)))
        axes.set(xlabel="Step", ylabel="Training loss")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
    return figure


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> Figure:
    """Accuracy against confidence in equal-width bins; dots as large as their share of images."""
    p, y = np.asarray(probabilities), np.asarray(labels)
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == y
    bin_of = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    count = np.bincount(bin_of, minlength=bins)
    full = count > 0
    x, z = (np.bincount(bin_of, v, bins)[full] / count[full] for v in (confidence, correct))
    with mpl.rc_context(_STYLE):
        figure = Figure((NARROW * POINTS, 190 * POINTS), layout="constrained")
        axes: Axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
        axes.plot(x, z, color=ACCENT, linewidth=1, alpha=0.6)
        axes.scatter(x, z, s=6 + 160 * count[full] / len(y), color=ACCENT, alpha=0.8, linewidths=0)
        axes.set(xlabel="Confidence", ylabel="Accuracy", xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
        axes.grid()
    return figure


def confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Share of each true class (row) that went to each predicted class (column)."""
    k = len(classes)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(518, max(259, 30 * k + 60))
    with mpl.rc_context(_STYLE):
        figure = Figure((side * POINTS, side * POINTS), layout="constrained")
        axes: Axes = figure.subplots()
        rows, columns = (index.tolist() for index in np.nonzero(share))
        cells = [Rectangle((c - 0.5, r - 0.5), 1, 1) for r, c in zip(rows, columns, strict=True)]
        hits, misses = to_rgba(ACCENT), to_rgba(SECOND)
        colours = [
            (*(hits if r == c else misses)[:3], 0.08 + 0.82 * share[r, c])
            for r, c in zip(rows, columns, strict=True)
        ]
        axes.add_collection(PatchCollection(cells, facecolors=colours, linewidths=0))
        if k <= 16:
            for r, c in zip(rows, columns, strict=True):
                text = f"{100 * share[r, c]:.0f}"
                colour = PAPER if share[r, c] > 0.55 else INK
                if text != "0":
                    axes.text(c, r, text, ha="center", va="center", fontsize=8, color=colour)
        _class_ticks(axes, classes)
    return figure


def _class_ticks(axes: Axes, classes: Sequence[str]) -> None:
    k = len(classes)
    axes.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5), aspect="equal")
    axes.set(xlabel="Predicted class", ylabel="True class")
    names = [name if len(name) <= 18 else f"{name[:17]}…" for name in classes]
    size = 8.5 if k <= 20 else 170 / k
    turn = 0 if max(map(len, names)) <= 2 else 90
    axes.set_xticks(range(k), names, rotation=turn, fontsize=size)
    axes.set_yticks(range(k), names, fontsize=size)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(True)


def class_colours(classes: int) -> list[str]:
    """One colour a class: the ten accessible ones, or hues in three lightnesses for more."""
    if classes <= len(_PALETTE):
        return list(_PALETTE[:classes])
    hues = [
        colorsys.hls_to_rgb(i / classes, (0.42, 0.56, 0.7)[i % 3], 0.62) for i in range(classes)
    ]
    return [mpl.colors.to_hex(hue) for hue in hues]
