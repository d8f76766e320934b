"""Everything that figures draw, down to widths, sizes and opacities, as it was when it was looked at.

After a change that is meant: ``PETIOLE_SNAPSHOT=1 pytest tests/report/test_figures.py``, and look at the figures again.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import Collection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from builders.snapshot import kept
from petiole.metrics.intervals import Interval, t_interval
from petiole.report import elbow_plot, plots
from petiole.report.plots import Mark

FILE = Path(__file__).with_name("figures.json")


def numbers(values: Any) -> Any:
    """To four digits."""
    return np.round(np.asarray(values, dtype=np.float64), 4).tolist()


def hexes(colours: Any) -> list[str]:
    return [to_hex(colour, keep_alpha=True) for colour in np.atleast_2d(colours)]


def of_collection(one: Collection) -> dict[str, Any]:
    paths = [numbers(path.vertices) for path in one.get_paths()]
    return {
        "at": numbers(one.get_offsets()), "paths": paths if len(paths) > 1 else len(paths[0]), "sizes": numbers(getattr(one, "get_sizes", list)()),
        "faces": hexes(one.get_facecolor()) if len(one.get_facecolor()) else [], "edges": hexes(one.get_edgecolor()) if len(one.get_edgecolor()) else [],
        "widths": numbers(one.get_linewidth()), "alpha": one.get_alpha(), "above": one.get_zorder(),
    }  # fmt: skip


def of_axes(axes: Any) -> dict[str, Any]:
    return {
        "limits": numbers([axes.get_xlim(), axes.get_ylim()]), "margins": axes.margins(),
        "scales": [axes.get_xscale(), axes.get_yscale()], "words": [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()],
        "below": axes.get_axisbelow(), "aspect": axes.get_aspect(),
        "ticks": [axis.get_tick_params().get(name, None) for axis in (axes.xaxis, axes.yaxis) for name in ("gridOn", "size", "length")],
        "fixed": [[(t.get_text(), t.get_fontsize(), t.get_rotation(), t.get_color()) for t in axis.get_ticklabels()]
                  for axis in (axes.xaxis, axes.yaxis) if type(axis.get_major_locator()).__name__ == "FixedLocator"],
        "spines": {name: (spine.get_visible(), spine.get_linewidth()) for name, spine in axes.spines.items()},
        "lines": [(numbers(line.get_xydata()), to_hex(line.get_color()), line.get_linewidth(), line.get_linestyle(), line.get_marker(),
                   line.get_markersize(), line.get_alpha(), line.get_zorder(), str(line.get_markerfacecolor())) for line in axes.lines],
        "collections": [of_collection(one) for one in axes.collections],
        "texts": [(t.get_text(), numbers(t.get_position()) if not hasattr(t, "xyann") else numbers(t.xy), t.get_fontsize(), t.get_color(), t.get_ha(), t.get_va())
                  for t in axes.texts],
        "legend": [t.get_fontsize() for t in axes.get_legend().get_texts()] if axes.get_legend() else None,
    }  # fmt: skip


def of_figure(figure: Figure) -> dict[str, Any]:
    """All that was asked of matplotlib, and nothing that it decides."""
    places = [] if figure.get_layout_engine() else [numbers(a.get_position().bounds) for a in figure.axes]  # fmt: skip
    return {"size": numbers(figure.get_size_inches()), "places": places, "axes": [of_axes(axes) for axes in figure.axes]}  # fmt: skip


def marks() -> list[Mark]:
    def at(mean: float) -> Interval:
        return Interval(mean, 0.01, mean - 0.02, mean + 0.03, 5, 0.95, "t")

    return [
        Mark("a", at(0.5), [0.45, 0.55], 10, False),
        Mark("b", at(0.75), [], 300, True, 78.87),
        Mark("c", t_interval([0.25]), [], 4000, False),
    ]


def sweep() -> Any:
    """Two shares of the images, one of them with a prediction."""

    def share(fraction: float, images: int, predicted: Any) -> Any:
        accuracies = [t_interval([0.5 + fraction / 10, 0.6]), t_interval([0.7, 0.8 + fraction / 10]), t_interval([0.6, 0.7])]  # fmt: skip
        return SimpleNamespace(fraction=fraction, images=images, accuracies=accuracies, errors=[0.01, 0.02, 0.03], one_se=2, marginal=4, kneedle=None,
                               predicted=predicted)  # fmt: skip

    bound = SimpleNamespace(bound=[0.9, 0.4, 0.3, 0.5])
    return SimpleNamespace(ranks=[1, 2, 4], fractions=[share(0.25, 1000, None), share(1.0, 4000, bound)],
                           shift=SimpleNamespace(energy=3, teacher="full"))  # fmt: skip


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Figure]:
    """One of each kind, some with and without a part of it."""
    monkeypatch.setattr(plots, "marks", lambda _: marks())
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    monkeypatch.setattr(elbow_plot, "replacing", nullcontext)
    whole, plain = sweep(), sweep()
    plain.shift = None
    for one in (whole, plain):
        elbow_plot.plot(one, tmp_path / "elbow.png")
    rng = np.random.default_rng(0)
    shown = SimpleNamespace(map_after=[(0.1, 0.2), (0.3, 0.4), (0.5, 0.6), (0.7, 0.9)], map_before=[(1.0, 2.0)] * 4,
                            is_target=[True, False, True, False], labels=[0, 1, 2, 1])  # fmt: skip
    p = rng.dirichlet([1.0, 0.3, 0.3], 40)
    counts = np.array([[8, 2, 0], [1, 6, 3], [0, 0, 0]])
    scores: Any = SimpleNamespace()
    return {
        "accuracy": plots.accuracy(scores),
        "against parameters": plots.against_parameters(scores),
        "map by class": plots.domain_map(shown, after=True, by_class=True, classes=3),
        "map by domain": plots.domain_map(shown, after=False, by_class=False, classes=3),
        "loss": plots.loss([[{"step": 0, "loss": 2.0}, {"step": 10, "loss": 1.0}]] * 2),
        "reliability": plots.reliability(p, rng.integers(0, 3, 40)),
        "confusion": plots.confusion_matrix(counts, ["cat", "dog", "a name of many letters"]),
        "many classes": plots.confusion_matrix(np.eye(21, dtype=np.int64), [f"{i}" for i in range(21)]),
        "sweep": drawn[0],
        "sweep without a shift": drawn[1],
    }  # fmt: skip


def test_figures_are_drawn_as_they_were_chosen(figures: dict[str, Figure]) -> None:
    now = json.loads(json.dumps({name: of_figure(figure) for name, figure in figures.items()}, default=str))  # fmt: skip
    now["colours"] = {str(n): plots.class_colours(n) for n in (3, 10, 11, 14)}
    for name, value in kept(FILE, now).items():
        assert now[name] == value, name
