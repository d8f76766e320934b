"""``petiole predict``: labels with probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from petiole.verbs.common import Result


class Labelled(Result):
    """One image's label."""

    path: Path
    label: str
    probability: float
    probabilities: dict[str, float]


class Predictions(Result):
    """Labels in the order of the images."""

    adapter: Path
    predictions: list[Labelled]

    def text(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        for name, side in (("image", "left"), ("label", "left"), ("p", "right"), ("next", "left")):
            table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
        for p in self.predictions:
            rest = [f"{k} {v:.3f}" for k, v in list(p.probabilities.items())[1:4]]
            cells = (str(p.path), p.label, f"{p.probability:.3f}", ", ".join(rest))
            table.add_row(*map(Text, cells))
        return table


def predict(
    adapter: Path,
    images: Annotated[Sequence[Path], Parameter(consume_multiple=True)],
    /,
    *,
    weights: Path | None = None,
    device: str = "cpu",
) -> Predictions:
    """Label image files with an adapter.

    Args:
        adapter: adapter folder, or the run folder around it.
        images: image files.
        weights: where the backbone's weights lie now, if they were moved.
        device: cpu, cuda, ...

    Raises:
        AdapterError: the adapter is damaged or does not fit the backbone.
        DataError: an image cannot be read.
    """
    from petiole.engine.adapter import Adapter

    opened = Adapter.load(Path(adapter), weights=weights, device=device)
    rows = opened.predict([Path(image) for image in images])
    return Predictions(
        adapter=Path(adapter),
        predictions=[
            Labelled(
                path=row.path,
                label=row.label,
                probability=row.probability,
                probabilities=row.probabilities,
            )
            for row in rows
        ],
    )
