"""``petiole few-shot``: accuracy by the number of labelled images of each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from petiole.verbs.common import Machine, Settings
from petiole.verbs.generalise import Generalised, measured

METHODS = ("zero-shot", "tip-adapter", "logistic-regression", "coop")


def few_shot(
    images: Path,
    *,
    test: Path | None = None,
    test_fraction: float = 0.5,
    methods: Annotated[Sequence[str], Parameter(consume_multiple=True)] = METHODS,
    reference: str = "",
    settings: Settings = None,
    shots: Annotated[Sequence[int], Parameter(consume_multiple=True)] = (1, 2, 4, 8, 16),
    seeds: int = 3,
    out: Path | None = None,
    resume: bool = False,
    processes: int = 1,
    machine: Machine | None = None,
) -> Generalised:
    """Train and test on all classes, with 1, 2, 4, 8 and 16 images of each.

    CoOp's published number of epochs grows with the shots (50 for one, 100 for 2 and 4, 200 above); here it is that of
    the method, or --set epochs=N, for all of them.

    Args:
        images: class folders, a table, or a directory in CoOp's format.
        test: held-back images; otherwise a part of IMAGES is held back.
        test_fraction: that part.
        methods: registered names; the first is what the others are compared with.
        reference: name of another row to compare with.
        settings: applied to every method that has such a field.
        shots: numbers of images drawn from each class.
        seeds: runs of each method at each number.
        out: folder; by default runs/IMAGES-few-shot.
        resume: finish an interrupted measurement; finished runs are kept.
        processes: runs at a time.
        machine: where and how the backbone runs.

    Raises:
        PetioleError: bad images, unknown names, too few images for the shots, or a folder that holds another
            measurement.
    """
    from petiole.protocols import domain_shift, generalisation

    machine = machine or Machine()
    root = Path(out) if out else Path("runs") / f"{Path(images).stem}-few-shot"
    rows = domain_shift.rows_of(methods)
    asked = generalisation.few_shot(
        Path(images).name, rows, shots, reference=reference, seeds=seeds
    )
    bench = machine.bench(images, None, test, test_fraction)
    return measured(asked, bench, {}, root, settings, resume=resume, processes=processes)
