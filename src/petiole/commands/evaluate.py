"""``petiole eval``: score an adapter on labelled images."""

from __future__ import annotations

from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from petiole.commands.codebook import EncoderScores, InferenceOptions, Languages, evaluate_encoder
from petiole.commands.options import CommandResult, plural


class Evaluation(CommandResult):
    """Scores of an adapter on a set.

    Attributes:
        scores: accuracy, macro_accuracy, ece, nll, n.
        test_evaluations: how often this set has been scored with this adapter, now included.
        confusion: rows are true classes, columns predictions.
    """

    adapter: Path
    images: Path
    classes: list[str]
    scores: dict[str, float]
    test_evaluations: int
    confusion: list[list[int]]
    notes: list[str]

    def text(self) -> RenderableType:
        s = self.scores
        lines = [
            f"{100 * s['accuracy']:.2f} % correct on {plural(int(s['n']), 'image')} "
            f"(macro {100 * s['macro_accuracy']:.2f} %, ECE {s['ece']:.3f}, NLL {s['nll']:.3f})",
            f"this set was opened {self.test_evaluations}x with this adapter",
        ]
        wrong = sorted(
            (
                (n, i, j)
                for i, row in enumerate(self.confusion)
                for j, n in enumerate(row)
                if i != j
            ),
            reverse=True,
        )
        lines += [
            f"{n:5d} x {self.classes[i]} taken for {self.classes[j]}" for n, i, j in wrong[:5] if n
        ]
        return Text("\n".join([*lines, *self.notes]))


def evaluate(
    adapter: Path,
    images: Path,
    /,
    *,
    weights: Path | None = None,
    device: str = "cpu",
    skip_bad: bool = False,
    lm: Languages = (),
    inference: InferenceOptions | None = None,
) -> Evaluation | EncoderScores:
    """Score an adapter on labelled images; the opening of the set is written beside the adapter.

    A tuned encoder (craft) is scored on questions about images, before each language model named.

    Args:
        adapter: adapter folder, or the run folder around it.
        images: folder with one folder a class, or a CSV or Parquet list.
        weights: where the backbone's weights lie now, if they were moved.
        device: cpu, cuda, ...
        skip_bad: leave unreadable images out, and count them.
        lm: language models to put a tuned encoder before; by default that of its training.
        inference: how questions are put.

    Raises:
        AdapterError: the adapter is damaged or does not fit the backbone.
        DataError: bad images, or classes that the adapter does not know.
    """
    from petiole.engine.adapter import kind_of

    if kind_of(Path(adapter)) == "codebook":
        return evaluate_encoder(
            adapter,
            images,
            languages=lm,
            inference=inference or InferenceOptions(),
            device=device,
            skip_bad=skip_bad,
        )
    from petiole.data.sources import open_data
    from petiole.engine.adapter import find
    from petiole.engine.feature_extractor import Features
    from petiole.engine.record import count_test_evaluation
    from petiole.metrics.classification import confusion, score
    from petiole.tasks.classification.adapter import ClassificationAdapter
    from petiole.tasks.classification.model import predict

    opened = ClassificationAdapter.load(Path(adapter), weights=weights, device=device)
    data = open_data(images, classes=opened.classes, skip_bad=skip_bad)
    test_evaluations = count_test_evaluation(
        find(Path(adapter)), data.digest(), len(data), "petiole eval"
    )
    table = Features(opened.adapted.backbone).table(data, opened.adapted.cut)
    probabilities = predict(opened.adapted, table.batches(len(data), 64)).logits
    guesses = probabilities.argmax(1).numpy()
    return Evaluation(
        adapter=Path(adapter),
        images=Path(images),
        classes=opened.classes,
        scores=score(probabilities.double().numpy(), data.labels).to_dict(),
        test_evaluations=test_evaluations,
        confusion=confusion(guesses, data.labels, len(opened.classes)).tolist(),
        notes=list(data.notes),
    )
