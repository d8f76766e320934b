"""The picture of a sweep: measured accuracy by rank beside the predicted excess risk."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from petiole.files import replacing
from petiole.report.elbow import ElbowSummary

_STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def plot(summary: ElbowSummary, file: Path) -> None:
    """Write the figure as PNG: one colour a share of the images, darker for more.

    Bars are one standard error over seeds, as the one-SE rule reads them; a ring is the one-SE rank, a
    triangle the marginal-gain rank, a square Kneedle's. In the right panel a ring is the bound's minimum,
    n being the images.
    """
    predicted = summary.shift is not None
    with mpl.rc_context(_STYLE):
        figure = Figure((9.0 if predicted else 5.0, 3.8), layout="constrained")
        panels = figure.subplots(1, 1 + predicted, squeeze=False)[0]
        colours = mpl.colormaps["viridis"](np.linspace(0.8, 0.15, len(summary.fractions)))
        _measured(panels[0], summary, colours)
        if predicted:
            _bound(panels[1], summary, colours)
        for axes in panels:
            axes.set_xscale("log", base=2)
            axes.set_xticks(summary.ranks, [str(rank) for rank in summary.ranks])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel("Rank")
            axes.grid()
            axes.set_axisbelow(True)
        with replacing(file) as temporary:
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def _measured(axes: Axes, summary: ElbowSummary, colours: np.ndarray) -> None:
    for f, colour in zip(summary.fractions, colours, strict=True):
        means = 100 * np.array([a.mean for a in f.accuracies])
        label = f"{100 * f.fraction:g} %, n = {f.images:,}"
        axes.errorbar(
            summary.ranks,
            means,
            100 * np.array(f.errors),
            color=colour,
            marker=".",
            linewidth=1.4,
            elinewidth=1,
            capsize=2,
            label=label,
        )
        at = dict(zip(summary.ranks, means, strict=True))
        marks = ((f.one_se, "o", 12), (f.marginal, "^", 8), (f.kneedle, "s", 7))
        for rank, marker, size in marks:
            if rank is not None:
                axes.plot(
                    rank, at[rank], marker, markersize=size, color=colour, markerfacecolor="none"
                )
    for name, marker in (("one-SE", "o"), ("marginal gain", "^"), ("Kneedle", "s")):
        axes.plot([], [], marker, color="black", markerfacecolor="none", label=name)
    axes.set_title("Measured")
    axes.set_ylabel("Validation accuracy, % (bars: 1 SE over seeds)")
    axes.legend(fontsize=8)


def _bound(axes: Axes, summary: ElbowSummary, colours: np.ndarray) -> None:
    assert summary.shift is not None
    for f, colour in zip(summary.fractions, colours, strict=True):
        if f.predicted is None:
            continue
        bound = np.array(f.predicted.bound)
        axes.plot(np.arange(1, len(bound) + 1), bound, color=colour, linewidth=1.4)
        least = int(bound.argmin())
        axes.plot(least + 1, bound[least], "o", markersize=12, color=colour, markerfacecolor="none")
    if summary.shift.energy <= summary.ranks[-1]:
        axes.axvline(summary.shift.energy, color="black", linestyle=":", linewidth=1)
        where = (summary.shift.energy, 1)
        text = "90 % energy "
        axes.annotate(
            text, where, xycoords=("data", "axes fraction"), ha="right", va="top", fontsize=8
        )
    axes.set_yscale("log")
    axes.set_title(f"Predicted from the shift of {summary.shift.teacher}")
    axes.set_ylabel("Excess-risk bound, share of no adaptation")
