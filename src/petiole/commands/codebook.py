"""Fitting, scoring and asking vision-language models over a codebook: what ``fit``, ``eval`` and ``predict`` do for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from petiole.commands.options import CommandResult, ModelOptions, fact, plural

if TYPE_CHECKING:
    from petiole.layers.token_pruning import Pruning
    from petiole.tasks.codebook.training import CodebookRun

SURROGATE = "petiole/tiny-lvlm"
Languages = Annotated[
    Sequence[str],
    Parameter(
        name="--lm",
        negative=(),
        consume_multiple=True,
        help="language models over the same codebook.",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class InferenceOptions:
    """How questions about images are put.

    Attributes:
        keep: share of image tokens that the language model reads; 1 for all.
        prune: which are kept: full, rarity+residual, rarity, random or uniform.
        positions: kept tokens keep their places, or close up (compact).
        route: send images that do not look like the domain through the original encoder.
    """

    keep: float = 1.0
    prune: Literal["full", "rarity+residual", "rarity", "random", "uniform"] = "full"
    positions: Literal["keep", "compact"] = "keep"
    route: bool = False

    def pruning(self) -> Pruning | None:
        """Of image tokens, if any go."""
        from petiole.layers.token_pruning import Pruning

        if self.keep == 1:
            return None
        return Pruning(keep=self.keep, mode=self.prune, positions=self.positions)


class FittedEncoder(CommandResult):
    """A finished run.

    Attributes:
        folder: the run folder.
        adapter: the file inside it.
        record: everything that the run recorded.
    """

    folder: Path
    adapter: Path
    record: dict[str, Any]

    def text(self) -> RenderableType:
        first, last = self.record["diagnosis"]["start"], self.record["diagnosis"]["end"]
        request = self.record["request"]
        other = f" --lm {request['others'][0]['name']}" if request["others"] else ""
        return Group(
            scores_of(self.record["scores"]),
            Text(f"trained  {self.record['trainable']:,} parameters"),
            Text(
                f"codes    {100 * last['flip_rate']:.0f} % flipped; perplexity {first['perplexity']:.0f} -> "
                f"{last['perplexity']:.0f}; residual {first['residual']:.2f} -> {last['residual']:.2f}"
            ),
            *(Text(f"note     {note}") for note in self.record["notes"]),
            fact("encoder", self.adapter),
            fact("next", f"petiole predict {quote(str(self.adapter))}{other} IMAGE 'QUESTION'"),
        )


class EncoderScores(CommandResult):
    """Scores of an encoder before one or more language models.

    Attributes:
        scores: language model -> metric -> per cent, the headline first.
        test_evaluations: how often this set has been scored with this encoder, now included.
        tuned: share of images that went through the tuned encoder.
        seconds: language model -> seconds of a question, looking left out.
    """

    adapter: Path
    data: Path
    samples: int
    scores: dict[str, dict[str, float]]
    test_evaluations: int
    keep: float
    tuned: float
    seconds: dict[str, float]

    def text(self) -> RenderableType:
        kept = "" if self.keep == 1 else f"; {100 * self.keep:.0f} % of image tokens kept"
        sent = "" if self.tuned == 1 else f"; {100 * self.tuned:.0f} % of images routed to it"
        speed = ", ".join(f"{1000 * s:.1f} ms ({name})" for name, s in self.seconds.items())
        return Group(
            scores_of(self.scores),
            Text(
                f"on {plural(self.samples, 'question')}, opened {self.test_evaluations}x{kept}{sent}"
            ),
            Text(f"a question takes {speed}"),
        )


class EncoderAnswer(CommandResult):
    """One answer."""

    adapter: Path
    image: Path
    question: str
    model: str
    answer: str

    def text(self) -> RenderableType:
        return Text(self.answer)


def scores_of(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """A column for each language model."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for model in scores:
        table.add_column(Path(model).name, justify="right", overflow="fold")
    for name in dict.fromkeys(name for row in scores.values() for name in row):
        label = name.removesuffix("_given").replace("_", " ")
        known = [f"{row[name]:.1f}" if name in row else "" for row in scores.values()]
        table.add_row(label + ", where explained" * name.endswith("_given"), *known)
    return table


def fit_encoder(
    data: Path,
    *,
    method: str,
    settings: Mapping[str, Any],
    seed: int,
    out: Path | None,
    resume: bool,
    model_options: ModelOptions,
    others: Sequence[str],
    general: Path | None,
    inference: InferenceOptions,
    checkpoint_seconds: float,
) -> FittedEncoder:
    """``petiole fit`` with a method for vision-language models over a codebook; see there.

    Raises:
        PetioleError: bad data, unknown names, another codebook, or a folder that holds another run.
    """
    from petiole.backbones.codebook_lvlm.loading import load_lvlm
    from petiole.data.readers.registry import open_questions
    from petiole.tasks.codebook.training import CodebookRun, run

    name = model_options.backbone if model_options.backbone != ModelOptions.backbone else SURROGATE
    models = [load_lvlm(each, device=model_options.device) for each in (name, *others)]
    root = Path(data)
    folder = Path(out) if out else Path("runs") / f"{root.stem}-{method}-seed{seed}"
    inquiry = CodebookRun(
        model=models[0],
        data=open_questions(root, skip_bad=model_options.skip_bad),
        method=method,
        folder=folder,
        settings=settings,
        seed=seed,
        others=models[1:],
        general=open_questions(Path(general)) if general else None,
        pruning=inference.pruning(),
        precision=model_options.precision,
        resume=resume,
        quiet=model_options.quiet,
        checkpoint_seconds=checkpoint_seconds,
    )
    if not model_options.quiet:
        _announce(inquiry)
    record = run(inquiry)
    return FittedEncoder(
        folder=folder, adapter=folder / "adapter", record=record.model_dump(mode="json")
    )


def _announce(inquiry: CodebookRun) -> None:
    """Say on standard error what will be trained on what."""
    from petiole.engine.progress import console
    from petiole.tasks.codebook.adapter import method_of

    counts = ", ".join(f"{len(rows):,} {part}" for part, rows in inquiry.data.parts.items())
    recipe = method_of(inquiry.method, inquiry.settings).recipe
    length = f"{recipe.epochs:g} passes" if recipe.epochs else f"{recipe.steps} steps"
    for line in (
        f"data     {inquiry.data.root}: {counts}",
        *(f"note     {note}" for note in inquiry.data.notes),
        f"training {inquiry.method} before {inquiry.model.name}, {length} of {recipe.batch_size} questions",
        "scoring  " + ", ".join(model.name for model in (inquiry.model, *inquiry.others)),
    ):
        console.print(line, highlight=False, markup=False)


def evaluate_encoder(
    adapter: Path,
    data: Path,
    *,
    languages: Sequence[str],
    inference: InferenceOptions,
    device: str,
    skip_bad: bool,
) -> EncoderScores:
    """``petiole eval`` of a tuned encoder; see there.

    Raises:
        AdapterError: the file is damaged, or for another codebook.
        DataError: bad data, or none of its part ``test``.
    """
    from time import perf_counter

    from petiole.data.readers.registry import open_questions
    from petiole.engine.adapter import find
    from petiole.tasks.codebook.adapter import EncoderAdapter
    from petiole.tasks.codebook.answers import answers, count_test_evaluation
    from petiole.tasks.codebook.images import ImageFolder
    from petiole.tasks.text.registry import find as task_of

    folder, opened = find(Path(adapter)), open_questions(Path(data), skip_bad=skip_bad)
    samples = opened["test"]
    files = [EncoderAdapter.load(folder, model=name, device=device) for name in languages or ("",)]
    test_evaluations = count_test_evaluation(folder, opened, len(samples))
    scores, seconds, tuned = {}, {}, 1.0
    for file in files:
        adapted, image_folder = file.adapted, ImageFolder(opened.root, file.adapted.model.tower)
        names = [sample.images[0] for sample in samples]
        vision_outputs = image_folder.vision_outputs(adapted, names, quiet=True)
        if inference.route:
            vision_outputs, tuned = image_folder.routed(
                vision_outputs, adapted, file.frequencies, names
            )
        start = perf_counter()
        said = answers(
            adapted, vision_outputs, samples, inference.pruning(), file.frequencies.tuned
        )
        seconds[adapted.model.name] = (perf_counter() - start) / len(samples)
        scores[adapted.model.name] = task_of(opened.task).score(samples, said)
    return EncoderScores(
        adapter=Path(adapter),
        data=Path(data),
        samples=len(samples),
        scores=scores,
        test_evaluations=test_evaluations,
        keep=inference.keep,
        tuned=tuned,
        seconds=seconds,
    )


def ask_encoder(
    adapter: Path,
    image: Path,
    question: str,
    *,
    language: str,
    inference: InferenceOptions,
    device: str,
) -> EncoderAnswer:
    """``petiole predict`` of a tuned encoder; see there.

    Raises:
        AdapterError: the file is damaged, or for another codebook.
        DataError: the image cannot be read.
    """
    from petiole.tasks.codebook.adapter import EncoderAdapter
    from petiole.tasks.codebook.images import ImageFolder

    file = EncoderAdapter.load(Path(adapter), model=language, device=device)
    adapted = file.adapted
    image_folder = ImageFolder(Path(), adapted.model.tower)
    names = [str(image)]
    vision_outputs = image_folder.vision_outputs(adapted, names)
    if inference.route:
        vision_outputs, _ = image_folder.routed(vision_outputs, adapted, file.frequencies, names)
    said = adapted.answer(
        vision_outputs(names),
        [question],
        pruning=inference.pruning(),
        frequencies=file.frequencies.tuned,
    )
    return EncoderAnswer(
        adapter=Path(adapter),
        image=Path(image),
        question=question,
        model=adapted.model.name,
        answer=said[0],
    )
