"""``petiole fit``: one adapter, from images to a run folder."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from petiole.commands.codebook import FittedEncoder, InferenceOptions, Languages, fit_encoder
from petiole.commands.options import CommandResult, ModelOptions, Settings, fact, pairs, plural


class Fitted(CommandResult):
    """A finished run.

    Attributes:
        folder: the run folder.
        adapter: the adapter file inside it.
        report: the page.
        record: everything that the run recorded.
    """

    folder: Path
    adapter: Path
    report: Path
    record: dict[str, Any]

    def text(self) -> RenderableType:
        scores, ledger = self.record["scores"], self.record["ledger"]
        accuracy = Text(f"{100 * scores['accuracy']:.2f} %", style="bold")
        return Group(
            accuracy.append(
                f" correct on {plural(int(scores['n']), 'held-back image')} "
                f"(macro {100 * scores['macro_accuracy']:.2f} %, ECE {scores['ece']:.3f}); "
                f"{self.record['selection']}, test set opened {self.record['test_evaluations']}x",
                style="not bold",
            ),
            Text(
                f"trained  {ledger['trainable']:,} parameters "
                f"({ledger['trainable_percent_of_backbone']:.3f} % of the backbone's), "
                f"{ledger['inference']:,} kept for prediction"
            ),
            *(Text(f"note     {note}") for note in self.record["request"]["data"]["notes"]),
            fact("adapter", self.adapter),
            fact("report", self.report),
            fact("next", f"petiole predict {quote(str(self.adapter))} IMAGE..."),
        )


def fit(
    images: Path,
    *,
    source: Path | None = None,
    test: Path | None = None,
    test_fraction: float = 0.5,
    method: str = "cls-residual-lora",
    settings: Settings = None,
    shots: int | None = 10,
    all_images: bool = False,
    draw: int = 0,
    seed: int = 0,
    out: Path | None = None,
    resume: bool = False,
    model_options: ModelOptions | None = None,
    checkpoint_seconds: float = 20.0,
    lm: Languages = (),
    general: Path | None = None,
    inference: InferenceOptions | None = None,
) -> Fitted | FittedEncoder:
    """Train one adapter and score it once on held-back images.

    IMAGES is a folder with one folder a class, a CSV or Parquet list, or a root with synthetic/,
    real_train/ and real_eval/.

    With craft and its rivals (vision-ft, ldifs, projector-ft, llm-lora, lvlm-zero-shot) IMAGES are questions about images
    (JSON Lines, VQA-RAD, or class folders, which are asked as questions), and BACKBONE is the vision-language model that
    the encoder is trained before.

    Args:
        images: the target (real) images.
        source: labelled images of the source domain: synthetic, old, drawn, ...
        test: held-back target images; otherwise a part of IMAGES is held back.
        test_fraction: that part.
        method: registered name; see petiole inspect methods.
        settings: fields of the method or recipe that differ from its defaults.
        shots: target images drawn from each class for training.
        all_images: train on all of them instead.
        draw: seed of the draw.
        seed: of initialisation, batches and dropout.
        out: run folder; by default runs/IMAGES-METHOD-drawN-seedN.
        resume: go on where an interrupted run stopped, to the same numbers.
        model_options: where and how the backbone runs.
        checkpoint_seconds: between two checkpoints.
        lm: further language models over the codebook, to be scored with the encoder (craft and its rivals).
        general: questions of no domain, whose images remember=1 keeps at their codes (craft).
        inference: how the scored questions are put (craft and its rivals).

    Raises:
        PetioleError: bad images, unknown names, or a folder that holds another run.
    """
    from petiole.tasks.codebook.adapter import is_lvlm_method

    if is_lvlm_method(method):
        return fit_encoder(
            images,
            method=method,
            settings=pairs(settings),
            seed=seed,
            out=out,
            resume=resume,
            model_options=model_options or ModelOptions(),
            others=lm,
            general=general,
            inference=inference or InferenceOptions(),
            checkpoint_seconds=checkpoint_seconds,
        )
    from petiole.commands.announce import announce
    from petiole.engine.run import RunSpec, run
    from petiole.engine.task import reopened
    from petiole.methods.registry import create
    from petiole.report.page import write_run
    from petiole.tasks.classification.workspace import Subset

    create(method, pairs(settings))  # a slip in them is told before any image is read
    images = Path(images)
    folder = Path(out) if out else Path("runs") / f"{images.stem}-{method}-draw{draw}-seed{seed}"
    job = RunSpec(
        task=(model_options or ModelOptions()).bench(images, source, test, test_fraction),
        method=method,
        settings=pairs(settings),
        folder=folder,
        options=Subset(None if all_images else shots, draw, vectors=True),
        seed=seed,
        resume=resume,
        checkpoint_seconds=checkpoint_seconds,
    )
    announce(reopened(job.task), [job])
    record = run(job)
    page = write_run(folder)
    return Fitted(
        folder=folder,
        adapter=folder / "adapter",
        report=page,
        record=record.model_dump(mode="json"),
    )
