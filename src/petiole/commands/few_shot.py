"""``petiole few-shot``: accuracy by the number of labelled images of each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from petiole.commands.generalise import Generalised, measured
from petiole.commands.options import ModelOptions, Settings, default_folder
from petiole.commands.placement import ExecutorOptions
from petiole.commands.verb import verb
from petiole.ranges import NonNegativeFloat, PositiveInt, ProperFraction

METHODS = ("zero-shot", "tip-adapter", "logistic-regression", "coop")


@verb
def few_shot(
    images: Path,
    *,
    test: Path | None = None,
    test_fraction: ProperFraction = 0.5,
    methods: Annotated[Sequence[str], Parameter(consume_multiple=True)] = METHODS,
    reference: str = "",
    settings: Settings = None,
    shots: Annotated[Sequence[int], Parameter(consume_multiple=True)] = (1, 2, 4, 8, 16),
    published: bool = False,
    seeds: PositiveInt = 3,
    margin: NonNegativeFloat = 1.0,
    out: Path | None = None,
    resume: bool = False,
    model: ModelOptions | None = None,
    placement: ExecutorOptions | None = None,
) -> Generalised:
    """Train and test on all classes, with 1, 2, 4, 8 and 16 images of each.

    Each method trains as it does elsewhere, whatever the shots; --published takes what was published for few shots
    instead: CoOp with 16 words from a random start, 50 epochs for one shot (always on ImageNet), 100 for 2 and 4, 200
    above; PromptSRC 50 epochs and the average of the data set; CLIP-LoRA 500 steps a shot. --set wins.

    Args:
        images: class folders, a table, or a directory in CoOp's format.
        test: held-back images; otherwise a part of IMAGES is held back.
        test_fraction: share of each class that is held back then.
        methods: registered names; the first is what the others are compared with.
        reference: name of another row to compare with.
        settings: applied to every method that has such a field.
        shots: numbers of images drawn from each class.
        published: train coop, promptsrc and clip-lora as published for each number of shots.
        seeds: runs of each method at each number.
        margin: in points; two rows tie where the interval of their difference lies within it.
        out: folder; by default runs/IMAGES-few-shot-HASH, where HASH is of the data.
        resume: finish an interrupted measurement; finished runs are kept.

    Raises:
        PetioleError: bad images, unknown names, too few images for the shots, or a folder that holds another
            measurement.
    """
    from petiole.data.readers import coop
    from petiole.protocols import domain_shift, generalisation

    executor = (placement or ExecutorOptions()).make()
    model = model or ModelOptions()
    rows = domain_shift.rows_of(methods)
    study = generalisation.few_shot(
        Path(images).name,
        rows,
        shots,
        reference=reference,
        seeds=seeds,
        margin=margin / 100,
        known=coop.name_of(Path(images)),
        published=published,
    )
    task = model.classification(
        images, None, test, test_fraction, methods=[row.method for row in rows]
    )
    root = Path(out) if out else default_folder(images, "few-shot", task)
    return measured(study, task, {}, root, settings, resume=resume, executor=executor)
