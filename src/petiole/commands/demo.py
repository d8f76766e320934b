"""``petiole demo``: the main job on real images, offline, from generated source to a prediction."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from rich.console import Group, RenderableType

from petiole.commands.compare import Compared, compare
from petiole.commands.fit import FitResult, fit
from petiole.commands.options import CommandResult, ModelOptions, fact
from petiole.commands.predict import PredictResult, predict
from petiole.commands.verb import verb
from petiole.ranges import PositiveInt


class Demo(CommandResult):
    """The comparison, what ``petiole fit`` chooses on the same images, and a prediction with it."""

    compared: Compared
    fitted: FitResult
    prediction: PredictResult

    def text(self) -> RenderableType:
        adapter = self.prediction.adapter
        return Group(
            self.compared.text(),
            self.fitted.text(),
            self.prediction.text(),
            fact(
                "next", f"petiole predict {quote(str(adapter))} IMAGE...   or   petiole fit IMAGES"
            ),
        )


@verb
def demo(
    *,
    out: Path = Path("runs/demo"),
    split_seeds: PositiveInt = 5,
    steps: PositiveInt = 300,
    per_class: PositiveInt = 100,
    resume: bool = False,
    processes: PositiveInt = 2,
    model: ModelOptions | None = None,
) -> Demo:
    """Rendered digits as source, ten real handwritten ones a class as target; Table 1 on them, and what fit chooses.

    Args:
        out: folder for images, runs and page.
        split_seeds: draws of the ten real digits.
        steps: optimiser steps of each trained row.
        per_class: rendered digits a class.
        resume: finish an interrupted demo.
        processes: runs at a time, each on one core: small matrices gain nothing from more.
    """
    from petiole.data.synthetic.digits import write_digits
    from petiole.engine.progress import console

    out = Path(out)
    images = out / "images"
    console.print(
        f"Writing {10 * per_class:,} rendered and 1,797 real handwritten digits to {images}.",
        highlight=False,
        markup=False,
    )
    write_digits(images, per_class=per_class)
    compared = compare(
        images,
        table="cls-residual-lora/table1",
        settings={"steps": steps, "views": 0},
        split_seeds=split_seeds,
        out=out,
        resume=resume,
        processes=processes,
        model=model,
    )
    fitted = fit(images, out=out / "fit", resume=resume, model=model)
    one_of_each = [sorted((images / "real_eval" / str(digit)).iterdir())[0] for digit in (3, 5, 8)]
    prediction = predict(fitted.adapter, one_of_each)
    assert isinstance(prediction, PredictResult)
    return Demo(compared=compared, fitted=fitted, prediction=prediction)
