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

from petiole.verbs.common import Machine, Result, fact, plural

if TYPE_CHECKING:
    from petiole.engine.inquiry import Inquiry
    from petiole.layers.token_pruning import Pruning

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
class Asking:
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


class FittedEncoder(Result):
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


class Scored(Result):
    """Scores of an encoder before one or more language models.

    Attributes:
        scores: language model -> metric -> per cent, the headline first.
        openings: how often this set has been scored with this encoder, now included.
        tuned: share of images that went through the tuned encoder.
        seconds: language model -> seconds of a question, looking left out.
    """

    adapter: Path
    data: Path
    samples: int
    scores: dict[str, dict[str, float]]
    openings: int
    keep: float
    tuned: float
    seconds: dict[str, float]

    def text(self) -> RenderableType:
        kept = "" if self.keep == 1 else f"; {100 * self.keep:.0f} % of image tokens kept"
        sent = "" if self.tuned == 1 else f"; {100 * self.tuned:.0f} % of images routed to it"
        speed = ", ".join(f"{1000 * s:.1f} ms ({name})" for name, s in self.seconds.items())
        return Group(
            scores_of(self.scores),
            Text(f"on {plural(self.samples, 'question')}, opened {self.openings}x{kept}{sent}"),
            Text(f"a question takes {speed}"),
        )


class Answer(Result):
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
    machine: Machine,
    others: Sequence[str],
    general: Path | None,
    asking: Asking,
    checkpoint_seconds: float,
) -> FittedEncoder:
    """``petiole fit`` with a method for vision-language models over a codebook; see there.

    Raises:
        PetioleError: bad data, unknown names, another codebook, or a folder that holds another run.
    """
    from petiole.backbones.lvlm.loading import load_lvlm
    from petiole.data.vl.questions import open_questions
    from petiole.engine.inquiry import Inquiry, run

    name = machine.backbone if machine.backbone != Machine.backbone else SURROGATE
    models = [load_lvlm(each, device=machine.device) for each in (name, *others)]
    root = Path(data)
    folder = Path(out) if out else Path("runs") / f"{root.stem}-{method}-seed{seed}"
    inquiry = Inquiry(
        model=models[0],
        data=open_questions(root, skip_bad=machine.skip_bad),
        method=method,
        folder=folder,
        settings=settings,
        seed=seed,
        others=models[1:],
        general=open_questions(Path(general)) if general else None,
        pruning=asking.pruning(),
        precision=machine.precision,
        resume=resume,
        quiet=machine.quiet,
        checkpoint_seconds=checkpoint_seconds,
    )
    if not machine.quiet:
        _announce(inquiry)
    record = run(inquiry)
    return FittedEncoder(
        folder=folder, adapter=folder / "adapter", record=record.model_dump(mode="json")
    )


def _announce(inquiry: Inquiry) -> None:
    """Say on standard error what will be trained on what."""
    from petiole.engine.encoder_file import method_of
    from petiole.engine.progress import console

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
    asking: Asking,
    device: str,
    skip_bad: bool,
) -> Scored:
    """``petiole eval`` of a tuned encoder; see there.

    Raises:
        AdapterError: the file is damaged, or for another codebook.
        DataError: bad data, or none of its part ``test``.
    """
    from time import perf_counter

    from petiole.data.vl.questions import open_questions
    from petiole.engine.adapter import find
    from petiole.engine.answering import answers, count_opening
    from petiole.engine.encoder_file import EncoderFile
    from petiole.engine.gallery import Gallery
    from petiole.tasks.registry import find as task_of

    folder, opened = find(Path(adapter)), open_questions(Path(data), skip_bad=skip_bad)
    samples = opened["test"]
    files = [EncoderFile.load(folder, model=name, device=device) for name in languages or ("",)]
    openings = count_opening(folder, opened, len(samples))
    scores, seconds, tuned = {}, {}, 1.0
    for file in files:
        viewer, gallery = file.viewer, Gallery(opened.root, file.viewer.model.tower)
        names = [sample.images[0] for sample in samples]
        looks = gallery.looks(viewer, names, quiet=True)
        if asking.route:
            looks, tuned = gallery.routed(looks, viewer, file.frequencies, names)
        start = perf_counter()
        said = answers(viewer, looks, samples, asking.pruning(), file.frequencies.tuned)
        seconds[viewer.model.name] = (perf_counter() - start) / len(samples)
        scores[viewer.model.name] = task_of(opened.task).score(samples, said)
    return Scored(
        adapter=Path(adapter),
        data=Path(data),
        samples=len(samples),
        scores=scores,
        openings=openings,
        keep=asking.keep,
        tuned=tuned,
        seconds=seconds,
    )


def ask_encoder(
    adapter: Path, image: Path, question: str, *, language: str, asking: Asking, device: str
) -> Answer:
    """``petiole predict`` of a tuned encoder; see there.

    Raises:
        AdapterError: the file is damaged, or for another codebook.
        DataError: the image cannot be read.
    """
    from petiole.engine.encoder_file import EncoderFile
    from petiole.engine.gallery import Gallery

    file = EncoderFile.load(Path(adapter), model=language, device=device)
    viewer = file.viewer
    gallery = Gallery(Path(), viewer.model.tower)
    names = [str(image)]
    looks = gallery.looks(viewer, names)
    if asking.route:
        looks, _ = gallery.routed(looks, viewer, file.frequencies, names)
    said = viewer.answer(
        looks(names), [question], pruning=asking.pruning(), frequencies=file.frequencies.tuned
    )
    return Answer(
        adapter=Path(adapter),
        image=Path(image),
        question=question,
        model=viewer.model.name,
        answer=said[0],
    )
