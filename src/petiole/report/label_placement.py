"""Labels beside points, so that they hide neither each other nor a point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

SIZE = 8.0  # points
_CLEAR = 6.0  # pixels around a point


def place_labels(
    figure: Figure,
    axes: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    labels: Sequence[str],
    ink: str,
) -> None:
    """Write each label at the nearest free place around its point; an empty one is not written."""
    figure.draw_without_rendering()  # settles the layout, on which places depend
    scale = figure.dpi / 72
    points = axes.transData.transform(np.column_stack([x, y]))
    frame = axes.get_window_extent()
    taken = [Bbox.from_extents(*(p - _CLEAR), *(p + _CLEAR)) for p in points]
    for i in np.argsort(-points[:, 1], kind="stable"):
        if not labels[i]:
            continue
        size = np.array([0.56 * SIZE * len(labels[i]), 1.25 * SIZE]) * scale
        offset = _free(points[i], size, taken, frame)
        corner = points[i] + offset
        taken.append(Bbox.from_extents(*corner, *(corner + size)))
        axes.annotate(
            labels[i],
            (x[i], y[i]),
            xytext=tuple(offset / scale),
            textcoords="offset points",
            fontsize=SIZE,
            color=ink,
        )


def _free(
    point: NDArray[np.float64], size: NDArray[np.float64], taken: Sequence[Bbox], frame: Bbox
) -> NDArray[np.float64]:
    """Offset of the label's lower left corner: right, left, above or below, then farther away."""
    w, h = size
    best, least = np.array([_CLEAR, -h / 2]), np.inf
    for lift in (0.0, 1.1, -1.1, 2.2, -2.2, 3.3, -3.3):
        for left in (_CLEAR + 2, -w - _CLEAR - 2, -w / 2):
            offset = np.array([left, (lift - 0.5) * h])
            box = Bbox.from_extents(*(point + offset), *(point + offset + size))
            outside = w * h - _area(Bbox.intersection(box, frame))
            hidden = sum(_area(Bbox.intersection(box, other)) for other in taken)
            if outside + hidden < least - 1e-9:
                best, least = offset, outside + hidden
            if least == 0:
                return best
    return best


def _area(box: Bbox | None) -> float:
    return float(box.width * box.height) if box is not None else 0.0
