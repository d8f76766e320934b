"""A task as data: what the encoder reads, what the decoder learns, how it answers and how that is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from petiole.data.text_sample import TextSample
from petiole.errors import DataError
from petiole.tasks.text.scoring import Scorer, TaskScores


@dataclass(frozen=True)
class TextTask:
    """One task over :class:`~petiole.data.text_sample.Sample` of VL-Adapter's kind (Sung et al., 2022).

    Attributes:
        name: in the registry, and the name of task-specific modules.
        headline: the metric that stands for the task in a table.
        scorer: all metrics, and the headline of each sample.
        prefix: text before the sample's, where prefixes are used.
        suffix: text after it, likewise.
        max_text: the encoder reads at most so many tokens; None for all.
        max_target: the decoder learns at most so many tokens; None for all.
        loss: ``sample``: mean over the tokens of a sample, times its weight, mean over the batch.
            ``token``: mean over all tokens of the batch.
        beams: beams of generation; 1 is greedy.
        max_length: generated tokens at most, as transformers counts them.
        choices: the only answers, told apart by the logit of their first token that differs; empty for
            free generation.
        share: batch size over that of VQA, for tasks trained together.
    """

    name: str
    headline: str
    scorer: Scorer
    prefix: str = ""
    suffix: str = ""
    max_text: int | None = None
    max_target: int | None = None
    loss: Literal["sample", "token"] = "sample"
    beams: int = 1
    max_length: int = 20
    choices: tuple[str, ...] = ()
    share: Fraction = Fraction(1)

    def text_of(self, sample: TextSample, prefixes: bool) -> str:
        """Return what the encoder reads: ``{prefix}{text}``, or ``{text} {suffix}``.

        With ``prefixes=False`` it is the sample's text alone, hence nothing for a caption.
        """
        if not prefixes:
            return sample.text
        text = self.prefix + sample.text
        return f"{text.rstrip()} {self.suffix}".lstrip() if self.suffix else text

    def batch_size(self, base: int) -> int:
        """Return the samples in a batch of this task where VQA has ``base``: ⌊base · share⌋, at least 1."""
        return max(1, int(base * self.share))

    def score(self, samples: Sequence[TextSample], predictions: Sequence[str]) -> dict[str, float]:
        """Return the metrics in percent by name, the headline first. CIDEr is x 100, as papers print it.

        Raises:
            DataError: no samples, another number of predictions, or a sample without references.
        """
        metrics = self._scored(samples, predictions).metrics
        return {self.headline: metrics[self.headline], **metrics}

    def by_sample(self, samples: Sequence[TextSample], predictions: Sequence[str]) -> list[float]:
        """Return the headline of each sample in percent, for paired tests; their mean is the headline.

        Raises:
            DataError: as in :meth:`score`.
        """
        return self._scored(samples, predictions).samples

    def _scored(self, samples: Sequence[TextSample], predictions: Sequence[str]) -> TaskScores:
        if len(samples) != len(predictions) or not samples:
            raise DataError(
                f"Task {self.name!r} has {len(predictions)} predictions for {len(samples)} samples; "
                "it needs one each, and at least one."
            )
        for sample in samples:
            if not sample.references:
                raise DataError(
                    f"Sample {sample.key!r} of task {self.name!r} has no reference, so it cannot be "
                    "scored. Give it an answer or a caption, or write predictions without scores."
                )
        return self.scorer(samples, predictions)
