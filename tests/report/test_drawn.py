"""What figures draw: every mark with its place, size and colour, against numbers by hand; and where labels go."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from petiole.metrics.elbow import Trend
from petiole.metrics.intervals import Interval, t_interval
from petiole.report import elbow_plot, plots
from petiole.report.diagnosis import MOST_MAPPED, _spread
from petiole.report.elbow import ElbowSummary, FractionElbow, SpectrumPrediction, SpectrumSummary
from petiole.report.elbow_words import _trend, accuracies, blocks, rank_rules, sentences
from petiole.report.label_placement import _area, _free, place_labels
from petiole.report.plots import ACCENT, INK, LINE, MUTED, PAPER, SECOND, Mark


def hexes(colours: Any) -> list[str]:
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in colours]


def points_of(figure: Figure) -> tuple[float, float]:
    return tuple(72 * side for side in figure.get_size_inches())  # type: ignore[return-value]


def mark(label: str, mean: float, **more: Any) -> Mark:
    terms: dict[str, Any] = {"dots": [], "trainable": 10, "stressed": False}
    at = Interval(mean, 0.01, mean - 0.02, mean + 0.03, 5, 0.95, "t")
    return Mark(label, at, **{**terms, **more})


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Figures of these rows."""

    def use(*rows: Mark) -> Any:
        monkeypatch.setattr(plots, "marks", lambda _: list(rows))
        return SimpleNamespace()

    return use


def test_every_row_has_its_bar_its_mean_and_its_dots(marked: Any) -> None:
    rows = (
        mark("a", 0.5, dots=[0.45, 0.55]),
        mark("b", 0.75, stressed=True, published=78.87),
        Mark("c", t_interval([0.25]), [], 0, False),
    )
    figure = plots.accuracy(marked(*rows))
    assert points_of(figure) == pytest.approx((372, 22 * 3 + 48))
    (axes,) = figure.axes
    reference, *bars = axes.lines
    assert list(reference.get_xdata()) == [75.0, 75.0]
    assert hexes([reference.get_color()]) == [LINE]
    assert [(list(bar.get_xdata()), list(bar.get_ydata())) for bar in bars] == [
        (pytest.approx([48.0, 53.0]), [0, 0]),
        (pytest.approx([73.0, 78.0]), [1, 1]),
        ([25.0, 25.0], [2, 2]),
    ]
    assert [bar.get_linewidth() for bar in bars] == [2.4] * 3
    assert hexes([bar.get_color() for bar in bars]) == [MUTED, ACCENT, MUTED]
    drawn = [(c.get_offsets().tolist(), c.get_sizes().tolist()) for c in axes.collections]
    assert drawn == [
        ([[45.0, -0.27], [pytest.approx(55.0), -0.27]], [5]),
        ([[50.0, 0.0]], [34]),
        ([[75.0, 1.0]], [34]),
        ([[78.87, 1.0]], [26]),
        ([[25.0, 2.0]], [34]),
    ]
    diamond = axes.collections[3]
    assert hexes(diamond.get_edgecolor()) == [SECOND]
    assert len(diamond.get_facecolor()) == 0, "hollow"
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"]
    assert [t.get_fontweight() for t in axes.get_yticklabels()] == ["normal", "bold", "normal"]
    assert {t.get_color() for t in axes.get_yticklabels()} == {INK}
    assert axes.get_ylim() == (2.6, -0.6)
    assert axes.get_xlabel() == "Score, %"
    assert not axes.spines["left"].get_visible()
    assert axes.get_axisbelow() is True, "the grid lies below what is drawn"


def test_rows_of_either_summary_become_marks() -> None:
    interval = t_interval([0.5, 0.75])
    row = SimpleNamespace(label="A", name="a", accuracy=interval, by_split=[0.5, 0.75], trainable=7, published=3.0)  # fmt: skip
    one = SimpleNamespace(**{**vars(row), "name": "b", "by_split": [0.5]})
    made = object.__new__(plots.ComparisonSummary)
    for name, value in {"rows": [row, one], "reference": "b"}.items():
        object.__setattr__(made, name, value)
    first, second = plots.marks(made)
    assert (first.label, first.at, first.dots, first.trainable, first.stressed, first.published) == (
        "A", interval, [0.5, 0.75], 7, False, 3.0,
    )  # fmt: skip
    assert (second.dots, second.stressed) == ([], True)
    assert plots.accuracy(made).axes[0].get_xlabel() == "Accuracy on the target test images, %"
    assert plots.against_parameters(made).axes[0].get_ylabel() == "Accuracy, %"


def test_scores_against_parameters(marked: Any) -> None:
    rows = (mark("cheap", 0.5, trainable=10), mark("worse", 0.4, trainable=20), mark("best", 0.9, trainable=3000),
            mark("stressed", 0.3, trainable=900, stressed=True))  # fmt: skip
    figure = plots.against_parameters(marked(*rows))
    assert points_of(figure) == pytest.approx((372, 240))
    (axes,) = figure.axes
    bars, dots = axes.collections
    assert [segment.tolist() for segment in bars.get_segments()] == [
        [[10, pytest.approx(48)], [10, pytest.approx(53)]],
        [[20, pytest.approx(38)], [20, pytest.approx(43)]],
        [[3000, pytest.approx(88)], [3000, pytest.approx(93)]],
        [[900, pytest.approx(28)], [900, pytest.approx(33)]],
    ]
    assert dots.get_offsets().tolist() == [[10, 50], [20, 40], [3000, 90], [900, 30]]
    assert dots.get_sizes().tolist() == [30]
    assert hexes(dots.get_facecolor()) == [MUTED, MUTED, MUTED, ACCENT]
    assert sorted(t.get_text() for t in axes.texts) == ["best", "cheap", "stressed"]
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Trained parameters", "Score, %")
    assert axes.get_axisbelow() is True
    assert points_of(plots.against_parameters(marked(*rows * 3)))[1] == pytest.approx(22 * 12 + 48)


@pytest.mark.parametrize(
    ("trainable", "scale", "ticks"),
    [((10, 999), "log", [1, 2, 5]), ((10, 1000), "log", None), ((0, 100), "symlog", None), ((0, 0), "symlog", None)],
)  # fmt: skip
def test_the_axis_of_parameters(trainable: tuple[int, int], scale: str, ticks: Any, marked: Any) -> None:  # fmt: skip
    axes = plots.against_parameters(marked(*(mark("x", 0.5, trainable=n, stressed=True) for n in trainable))).axes[0]  # fmt: skip
    assert axes.get_xscale() == scale
    locator = axes.xaxis.get_major_locator()
    assert list(getattr(locator, "_subs", [1])) == (ticks or [1.0])
    if scale == "symlog":
        assert axes.xaxis.get_transform().linthresh == (100 if any(trainable) else 1000)


def test_one_size_has_room_around_it(marked: Any) -> None:
    axes = plots.against_parameters(marked(mark("x", 0.5, stressed=True), mark("y", 0.6))).axes[0]
    assert axes.get_xlim() == (5, 20)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(999, "999"), (1000, "1k"), (1500, "1.5k"), (999_999, "999.999k"), (1e6, "1M"), (2.5e9, "2.5G"), (0, "0")],
)  # fmt: skip
def test_short_numbers(value: float, shown: str) -> None:
    assert plots._short(value) == shown


def test_points_that_nothing_beats() -> None:
    x, y = np.array([1.0, 1, 2, 2, 3]), np.array([5.0, 5, 5, 6, 6])
    assert plots.frontier(x, y).tolist() == [True, True, False, True, False]


def test_losses_by_step() -> None:
    log = [{"step": 0.0, "loss": 2.0}, {"step": 10.0, "loss": 1.0}]
    figure = plots.loss([log])
    assert points_of(figure) == pytest.approx((252, 190))
    (line,) = figure.axes[0].lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 10], [2, 1])
    assert (line.get_linewidth(), line.get_alpha()) == (1.1, 1.0)
    assert figure.axes[0].get_ylim()[0] == 0
    assert [line.get_alpha() for line in plots.loss([log] * 2).axes[0].lines] == [0.5] * 2
    assert [line.get_alpha() for line in plots.loss([log] * 5).axes[0].lines] == [0.3] * 5
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("Step", "Training loss")


def test_reliability_has_dots_by_their_share() -> None:
    p = np.array([[0.95, 0.05], [0.96, 0.04], [0.97, 0.03], [0.4, 0.6]])
    figure = plots.reliability(p, [0, 0, 1, 1])
    assert points_of(figure) == pytest.approx((252, 190))
    (axes,) = figure.axes
    diagonal, line = axes.lines
    assert (list(diagonal.get_xdata()), list(diagonal.get_ydata())) == ([0, 1], [0, 1])
    assert [one.get_linewidth() for one in (diagonal, line)] == [1, 1]
    assert hexes([diagonal.get_color(), line.get_color()]) == [LINE, ACCENT]
    assert line.get_alpha() == 0.6
    (dots,) = axes.collections
    assert np.asarray(dots.get_offsets()) == pytest.approx(np.array([[0.6, 1.0], [0.96, 2 / 3]]))
    assert dots.get_sizes().tolist() == pytest.approx([6 + 160 / 4, 6 + 160 * 3 / 4])
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.04, 1.04), (-0.04, 1.04))
    edges = plots.reliability([[0.8, 0.2], [0.81, 0.19]], [0, 1]).axes[0].collections[0]
    wanted = np.array([[0.8, 1.0], [0.81, 0.0]])
    assert np.asarray(edges.get_offsets()) == pytest.approx(wanted), "of fifteen bins"
    first, second = np.full(20, 0.05), np.full(20, 0.89 / 19)
    second[0] = 0.11
    ends = plots.reliability([first, second], [0, 1]).axes[0].collections[0]
    assert np.asarray(ends.get_offsets()) == pytest.approx(np.array([[0.05, 1.0], [0.11, 0.0]]))
    ends = plots.reliability([[0.9, 0.1], [0.96, 0.04]], [0, 1]).axes[0].collections[0]
    assert np.asarray(ends.get_offsets()) == pytest.approx(np.array([[0.9, 1.0], [0.96, 0.0]]))


def test_a_confusion_matrix_has_cells_colours_and_numbers() -> None:
    counts = np.array([[56, 44, 0], [400, 1, 0], [0, 0, 0]])
    figure = plots.confusion_matrix(counts, ["a", "bb", "c" * 19])
    assert points_of(figure) == pytest.approx((259, 259))
    (axes,) = figure.axes
    (cells,) = axes.collections
    corners = [path.vertices.min(axis=0).tolist() for path in cells.get_paths()]
    assert corners == [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
    assert all(np.ptp(path.vertices, axis=0).tolist() == [1, 1] for path in cells.get_paths())
    assert hexes(cells.get_facecolor()) == [ACCENT, SECOND, SECOND, ACCENT]
    texts = {t.get_position(): (t.get_text(), t.get_color()) for t in axes.texts}
    assert texts == {
        (0, 0): ("56", PAPER), (1, 0): ("44", INK), (0, 1): ("100", PAPER),
    }  # fmt: skip
    assert {t.get_fontsize() for t in axes.texts} == {8}
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 2.5), (2.5, -0.5))
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "bb", "c" * 17 + "…"]
    assert {t.get_rotation() for t in axes.get_xticklabels()} == {90.0}
    assert {t.get_rotation() for t in axes.get_yticklabels()} == {0.0}
    assert all(spine.get_visible() for spine in axes.spines.values())
    assert PAPER in {t.get_color() for t in axes.texts}
    exactly = plots.confusion_matrix(np.array([[55, 45], [0, 1]]), ["a", "b"]).axes[0]
    assert {t.get_text(): t.get_color() for t in exactly.texts}["55"] == INK


@pytest.mark.parametrize(
    ("classes", "side", "numbers", "size", "turn"),
    [(2, 259, True, 8.5, 0), (7, 270, True, 8.5, 0), (15, 510, True, 8.5, 0), (16, 518, True, 8.5, 0),
     (17, 518, False, 8.5, 0), (20, 518, False, 8.5, 0), (34, 518, False, 5.0, 0)],
)  # fmt: skip
def test_the_size_of_a_confusion_matrix(classes: int, side: float, numbers: bool, size: float, turn: int) -> None:  # fmt: skip
    figure = plots.confusion_matrix(np.eye(classes, dtype=int), [f"{i}" for i in range(classes)])
    assert points_of(figure) == pytest.approx((side, side))
    axes = figure.axes[0]
    assert bool(axes.texts) is numbers
    assert {t.get_fontsize() for t in axes.get_xticklabels()} == {size}
    assert {t.get_rotation() for t in axes.get_xticklabels()} == {turn}
    named = plots.confusion_matrix(np.eye(2, dtype=int), ["x" * 18, "abc"]).axes[0]
    assert [t.get_text() for t in named.get_yticklabels()] == ["x" * 18, "abc"]


def test_colours_of_classes() -> None:
    assert len(plots.class_colours(3)) == 3
    assert plots.class_colours(10)[0] == "#3f90da"
    many = plots.class_colours(11)
    assert many[0] == "#ae2929", "hue 0 in the darkest lightness"
    assert len(set(many)) == 11


def test_domains_are_triangles_and_hollow_circles() -> None:
    diagnosis = SimpleNamespace(
        map_before=[(9.0, 9.0)] * 4, map_after=[(0.0, 1.0), (2.0, 3.0), (4.0, 5.0), (6.0, 7.0)],
        is_target=[True, False, True, False], labels=[0, 1, 1, 0],
    )  # fmt: skip
    figure = plots.domain_map(diagnosis, after=True, by_class=False, classes=2)  # type: ignore[arg-type]
    assert points_of(figure) == pytest.approx((252, 252))
    target, source = figure.axes[0].collections
    assert target.get_offsets().tolist() == [[0, 1], [4, 5]]
    assert source.get_offsets().tolist() == [[2, 3], [6, 7]]
    assert (target.get_sizes().tolist(), source.get_sizes().tolist()) == ([13], [11])
    assert hexes(target.get_facecolor()) == [ACCENT]
    assert hexes(source.get_edgecolor()) == [SECOND]
    assert len(source.get_facecolor()) == 0
    assert source.get_linewidths().tolist() == [0.7]
    coloured = plots.domain_map(diagnosis, after=False, by_class=True, classes=2).axes[0]  # type: ignore[arg-type]
    first, second = plots.class_colours(2)
    assert hexes(coloured.collections[0].get_facecolor()) == [first, second]
    assert hexes(coloured.collections[1].get_edgecolor()) == [second, first]
    assert coloured.collections[0].get_offsets().tolist() == [[9, 9]] * 2
    assert coloured.get_position().bounds == pytest.approx((0.01, 0.01, 0.98, 0.98))
    assert all(spine.get_visible() for spine in coloured.spines.values())


def test_a_picture_is_as_wide_as_the_page_lets_it() -> None:
    text = plots.svg(plots.loss([[{"step": 0, "loss": 1.0}, {"step": 1, "loss": 2.0}]]), "n", "l")
    assert 'viewBox="0 0 252 190" style="max-width: 353px"' in text
    bold = plots._font(plots.re.match(r"font: (?:(\w+) )?([\d.]+)px [^;\"]*", "font: bold 8.5px 'DejaVu'"))  # type: ignore[arg-type]  # fmt: skip
    assert bold == "font-weight: bold; font-size: 8.5px"
    assert plots._own_ids('<a id="x"/><b id="y"/><c clip="url(#x)"/>', "n") == '<a id="n-x"/><b/><c clip="url(#n-x)"/>'  # fmt: skip


# --- labels beside points -----------------------------------------------------------------------


def box(x: float, y: float, width: float, height: float) -> Bbox:
    return Bbox.from_bounds(x, y, width, height)


FRAME = box(0, 0, 1000, 1000)
SIZE = np.array([40.0, 10.0])
POINT = np.array([500.0, 500.0])
OWN = box(494, 494, 12, 12)


def test_a_label_goes_right_then_left_then_above() -> None:
    taken = [OWN]
    assert _free(POINT, SIZE, taken, FRAME).tolist() == [8.0, -5.0]
    taken.append(box(506, 490, 60, 15))
    assert _free(POINT, SIZE, taken, FRAME).tolist() == [-48.0, -5.0]
    taken.append(box(440, 490, 55, 15))
    assert _free(POINT, SIZE, taken, FRAME).tolist() == pytest.approx([8.0, 6.0]), (
        "above, to the right"
    )
    taken.append(box(530, 505.5, 60, 11))
    assert _free(POINT, SIZE, taken, FRAME).tolist() == pytest.approx([-48.0, 6.0])
    taken.append(box(400, 505.5, 70, 11))
    assert _free(POINT, SIZE, taken, FRAME).tolist() == pytest.approx([-20.0, 6.0]), "in the middle"
    taken.append(box(490, 505.5, 20, 11))
    assert _free(POINT, SIZE, taken, FRAME).tolist() == pytest.approx([8.0, 17.0]), "farther away"


def test_a_label_stays_in_the_frame() -> None:
    right = np.array([980.0, 500.0])
    assert _free(right, SIZE, [], FRAME).tolist() == [-48.0, -5.0]
    nowhere = _free(POINT, SIZE, [FRAME], FRAME)
    assert nowhere.tolist() == [8.0, -5.0], "the first of equals"
    hidden = [
        box(508, 499, 0.9, 1),
        box(508, 506, 40, 40),
        box(508, 450, 40, 44),
        box(300, 400, 205, 200),
    ]
    assert _free(POINT, SIZE, hidden[:1], FRAME).tolist() == [-48.0, -5.0], (
        "less than a pixel hides, too"
    )
    assert _free(POINT, SIZE, hidden, FRAME).tolist() == pytest.approx([8.0, -5.0]), "the least hidden"  # fmt: skip
    wall = [box(466, 0, 534, 1000), box(0, 0, 452, 480)]
    assert _free(POINT, SIZE, wall, FRAME).tolist() == [-48.0, -5.0], "a part of it beats all of it"
    assert _area(None) == 0.0
    assert _area(box(1, 2, 3, 4)) == 12.0


def test_labels_are_written_from_the_top_and_empty_ones_not() -> None:
    figure = Figure((4, 3), dpi=100)
    axes = figure.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    x, y = np.array([2.0, 2.0, 2.0]), np.array([2.0, 8.0, 5.0])
    place_labels(figure, axes, x, y, ["low", "high", ""], "#000000")
    assert [(t.get_text(), t.xy) for t in axes.texts] == [("high", (2.0, 8.0)), ("low", (2.0, 2.0))]
    scale = 100 / 72
    height = 1.25 * 8 * scale
    assert [t.get_position() for t in axes.texts] == [pytest.approx((8 / scale, -0.5 * height / scale))] * 2  # fmt: skip
    assert {t.get_fontsize() for t in axes.texts} == {8.0}
    place_labels(figure, axes, np.array([9.9]), np.array([5.0]), ["four"], "#000000")
    wide = 4 * 0.56 * 8 * scale
    assert axes.texts[-1].get_position()[0] == pytest.approx((-wide - 8) / scale)


# --- sweeps -------------------------------------------------------------------------------------

TREND = Trend("monotone", None, None, 0.0, 0.01, 0.001)


def fraction(share: float, means: list[float], **more: Any) -> FractionElbow:
    terms: dict[str, Any] = {
        "fraction": share, "images": int(1000 * share), "accuracies": [t_interval([m - 0.01, m, m + 0.01]) for m in means],
        "errors": [0.01, 0.02, 0.03], "best": 4, "one_se": 2, "likely": (2, 4), "marginal": None, "kneedle": None,
        "trend": TREND, "predicted": SpectrumPrediction(3, 5, [0.9, 0.5, 0.7, 0.8]),
    }  # fmt: skip
    return FractionElbow(**{**terms, **more})


def elbow(**more: Any) -> ElbowSummary:
    shift = SpectrumSummary("adaptertune", 100, 2600, True, 3, 1, [("block.0", 2, 1, 0.0123)])
    terms: dict[str, Any] = {
        "method": "adaptertune", "ranks": [1, 2, 4], "trainable": [1000, 2000, 4000], "seeds": 3, "images": 60,
        "fractions": [fraction(0.1, [0.5, 0.6, 0.65], marginal=1, kneedle=4), fraction(1.0, [0.7, 0.8, 0.81])],
        "growth": ("grows", 0.97), "shift": shift,
    }  # fmt: skip
    return ElbowSummary(**{**terms, **more})


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The figure of a sweep as it was saved."""
    saved: list[Figure] = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), savefig(self, *a, **k))[1])  # fmt: skip

    def draw(summary: ElbowSummary) -> Figure:
        elbow_plot.plot(summary, tmp_path / "elbow.png")
        return saved[-1]

    return draw


def test_a_sweep_is_drawn_beside_what_its_shift_predicts(drawn: Any, tmp_path: Path) -> None:
    figure = drawn(elbow())
    assert figure.get_size_inches().tolist() == [9.0, 3.8]
    with Image.open(tmp_path / "elbow.png") as image:
        assert image.size == (1350, 570)
    left, right = figure.axes
    assert [left.get_title(), right.get_title()] == ["Measured", "Predicted from the shift of adaptertune"]  # fmt: skip
    for axes in (left, right):
        assert axes.get_xscale() == "log"
        assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "4"]
        assert axes.get_xlabel() == "Rank"
        assert axes.get_axisbelow() is True
        assert len(axes.get_xticks(minor=True)) == 0
    assert left.get_ylabel() == "Validation accuracy, % (bars: 1 SE over seeds)"
    assert right.get_ylabel() == "Excess-risk bound, share of no adaptation"
    colours = hexes([c.lines[0].get_color() for c in left.containers])
    assert colours == hexes([mpl.colormaps["viridis"](share) for share in (0.8, 0.15)])
    curves = [c.lines[0] for c in left.containers]
    assert [list(c.get_ydata()) for c in curves] == [pytest.approx([50, 60, 65]), pytest.approx([70, 80, 81])]  # fmt: skip
    bars = left.containers[0].lines[2][0].get_segments()
    assert [[end[1] for end in bar] for bar in bars] == [pytest.approx([49, 51]), pytest.approx([58, 62]), pytest.approx([62, 68])]  # fmt: skip
    marks = [(list(line.get_xdata()), line.get_marker(), line.get_markersize()) for line in left.lines if line.get_marker() in "o^s" and len(line.get_xdata()) == 1]  # fmt: skip
    assert marks == [([2], "o", 12), ([1], "^", 8), ([4], "s", 7), ([2], "o", 12)]
    assert [t.get_text() for t in left.get_legend().get_texts()] == [
        "one-SE", "marginal gain", "Kneedle", "10 %, n = 100", "100 %, n = 1,000",
    ]  # fmt: skip
    bounds = [line for line in right.lines if len(line.get_xdata()) == 4]
    assert [list(line.get_xdata()) for line in bounds] == [[1, 2, 3, 4]] * 2
    rings = [(list(line.get_xdata()), list(line.get_ydata())) for line in right.lines if line.get_marker() == "o"]  # fmt: skip
    assert rings == [([2], [0.5])] * 2, "the bound's minimum"
    assert list(right.lines[-1].get_xdata()) == [3, 3], "90 % of the energy"
    assert right.get_yscale() == "log"


def test_a_sweep_without_a_shift_and_an_energy_beyond_its_ranks(drawn: Any) -> None:
    alone = drawn(elbow(shift=None))
    assert alone.get_size_inches().tolist() == [5.0, 3.8]
    assert len(alone.axes) == 1
    far = SpectrumSummary("x", 100, 2600, True, 5, 1, [])
    right = drawn(elbow(shift=far)).axes[1]
    assert not right.texts
    at = drawn(elbow(shift=SpectrumSummary("x", 100, 2600, True, 4, 1, []))).axes[1]
    assert [t.get_text() for t in at.texts] == ["90 % energy "]
    less = [fraction(0.1, [0.5, 0.6, 0.65], predicted=None), fraction(1.0, [0.7, 0.8, 0.81])]
    assert len(drawn(elbow(fractions=less)).axes[1].lines) == 3


def test_rows_of_a_sweep() -> None:
    made = accuracies(elbow())
    assert made.rows == [
        ["1", "1,000", "50.0 ± 1.0", "70.0 ± 1.0"],
        ["2", "2,000", "60.0 ± 1.0 *", "80.0 ± 1.0 *"],
        ["4", "4,000", "65.0 ± 1.0", "81.0 ± 1.0"],
    ]
    assert (made.title, made.stressed) == ("adaptertune: accuracy by rank", 1)
    assert rank_rules(elbow()).rows == [
        ["one-SE * (95 % of resamples)", "2 (2 to 4)", "2 (2 to 4)"],
        ["marginal gain", "1", "every step pays"],
        ["Kneedle", "4", "no knee"],
        ["highest mean", "4", "4"],
        ["accuracy with rank", "monotone", "monotone"],
        ["predicted: threshold, n images to tokens", "3 to 5", "3 to 5"],
        ["predicted: 90 % energy of the shift", "3", "3"],
        ["predicted: 90 % of the first gradient", "1", "1"],
    ]
    same = [fraction(1.0, [0.7, 0.8, 0.81], likely=(2, 2), predicted=SpectrumPrediction(3, 3, []))]
    rows = rank_rules(elbow(fractions=same)).rows
    assert (rows[0][1], rows[5][1]) == ("2 (2)", "3")
    assert len(rank_rules(elbow(shift=None)).rows) == 5
    assert _trend(fraction(1.0, [0.7, 0.8, 0.81], trend=Trend("falls", 2, 4, 0.1, 0.01, 0.2))) == "falls after 2"  # fmt: skip
    (one,) = blocks(elbow())
    assert one.rows == [["block.0", "2", "1", "0.012"]]
    assert blocks(elbow(shift=None)) == []


def test_sentences_of_a_sweep() -> None:
    lines = sentences(elbow())
    assert lines[0] == (
        "Set rank=2: with n = 1,000 training images it reaches 80.0 ± 1.0 % (mean ± sd of 3 seeds), within one standard error of "
        "the best, rank 4 (81.0 %), with 2,000 trained parameters instead of 4,000. Other seeds and images might have said 2 to 4."
    )
    assert lines[1] == (
        "The other rules on the same images: marginal gain none (every step pays), Kneedle none (no knee), the threshold 3 to 5, "
        "90 % of the shift's energy 3 and 90 % of the first gradient's 1."
    )
    assert lines[4] == (
        "The elbow should grow with n: it does. One-SE ranks are 2 (n = 100); and 2 (n = 1,000); from the smallest to the largest "
        "n it grows in 97 % of the resamples."
    )
    sure = [fraction(1.0, [0.7, 0.8, 0.81], likely=(2, 2))]
    assert sentences(elbow(fractions=sure, growth=None))[0].endswith("instead of 4,000.")
    for verdict, said in (
        ("does not grow", "it does not."),
        ("cannot tell", "this sweep cannot tell."),
    ):
        assert f"with n: {said}" in sentences(elbow(growth=(verdict, 0.5)))[-1]
    few = elbow(seeds=2)
    assert sentences(few)[0] == (
        "No rank can be advised: 2 seeds are too few to tell ranks from chance. Sweep with --seeds 3 or more."
    )
    none = Trend("cannot tell", None, None, 0.0, 0.01, 0.05)
    untrained = [fraction(1.0, [0.7, 0.8, 0.81], untrained="it is at chance"), fraction(1.0, [0.7, 0.8, 0.81], trend=none)]  # fmt: skip
    text = sentences(elbow(fractions=untrained))
    assert text[2] == "At 100 % of the images nothing can be said: it is at chance."
    assert "with rank: no fall is seen, and 3 seeds on 60 images leave one of up to 5.0 points open." in text[3]  # fmt: skip
    assert elbow(fractions=untrained[:1]).silent == "it is at chance"
    assert elbow().silent == ""
    assert elbow().trained(4) == 4000


@pytest.mark.parametrize("n", [1, 2, MOST_MAPPED, MOST_MAPPED + 1, 3 * MOST_MAPPED])
def test_a_map_shows_rows_that_are_spread_evenly(n: int) -> None:
    rows = np.arange(10, 10 + n)
    kept = _spread(rows)
    assert len(kept) == min(n, MOST_MAPPED)
    assert (kept[0], kept[-1]) == (10, 9 + n)
    assert len(set(np.diff(kept))) <= 2
    assert len(_spread(rows[:0])) == 0
