"""From predictions to the metrics of a task, all in percent.

A scorer takes samples that have references and one prediction each, and returns every metric of the task,
and the headline of each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

from petiole.data.text_sample import TextSample
from petiole.errors import DataError
from petiole.metrics import explanations, vqa
from petiole.metrics.answers import choice_index, consistency, error_rate, matches
from petiole.metrics.captions import bleu, cider, rouge

HUMANS = 10  # answers to a question of VQA


class TaskScores(NamedTuple):
    """Metrics by name and the headline metric of each sample, in percent."""

    metrics: dict[str, float]
    samples: list[float]


Scorer = Callable[[Sequence[TextSample], Sequence[str]], TaskScores]


def vqa_scores(samples: Sequence[TextSample], predictions: Sequence[str]) -> TaskScores:
    """VQA accuracy in both modes, and the soft score where the samples have labels.

    Raises:
        DataError: a sample with one answer, which VQA accuracy cannot leave out.
    """
    for sample in samples:
        if len(sample.references) < 2:
            raise DataError(
                f"Sample {sample.key!r} has one human answer, and VQA accuracy compares several. "
                "Use the task 'answers' for questions with one answer."
            )
    pairs = list(zip(predictions, samples, strict=True))
    official = [100 * vqa.accuracy(prediction, s.references, "official") for prediction, s in pairs]
    metrics = {
        "vqa_accuracy": fmean(official),
        "vqa_accuracy_vlt5": 100
        * fmean(vqa.accuracy(prediction, s.references, "vlt5") for prediction, s in pairs),
    }
    if any(sample.targets for sample in samples):
        metrics["soft_score"] = 100 * fmean(
            vqa.soft_score(prediction, s.targets) for prediction, s in pairs
        )
    return TaskScores(metrics, official)


def accuracy_scores(samples: Sequence[TextSample], predictions: Sequence[str]) -> TaskScores:
    """Accuracy by exact match, and consistency where the samples have groups (NLVR2)."""
    right = matches(predictions, [sample.references for sample in samples])
    metrics = {"accuracy": 100 * fmean(right)}
    grouped = [(r, s.group) for r, s in zip(right, samples, strict=True) if s.group]
    if grouped:
        metrics["consistency"] = 100 * consistency(*zip(*grouped, strict=True))
    return TaskScores(metrics, _percent(right))


def video_choice_scores(samples: Sequence[TextSample], predictions: Sequence[str]) -> TaskScores:
    """Accuracy of ``a{i}`` by exact match, and as a server counts it, where no answer means ``a0``."""
    submitted = [f"a{choice_index(prediction)}" for prediction in predictions]
    metrics, right = accuracy_scores(samples, predictions)
    served = accuracy_scores(samples, submitted).metrics["accuracy"]
    return TaskScores(metrics | {"accuracy_submitted": served}, right)


def caption_scores(samples: Sequence[TextSample], predictions: Sequence[str]) -> TaskScores:
    """CIDEr-D x 100, BLEU-4 and ROUGE-L; CIDEr's document frequencies are those of these samples."""
    references = [sample.references for sample in samples]
    total, each = cider(predictions, references)
    metrics = {
        "cider": total,
        "bleu4": bleu(predictions, references).value,
        "rouge_l": rouge(predictions, references).value,
    }
    return TaskScores(metrics, each)


def answer_scores(samples: Sequence[TextSample], predictions: Sequence[str]) -> TaskScores:
    """Exact match after VQA's normalisation, with any reference; VQA accuracy too where all have ten."""
    known = [[vqa.normalise(answer) for answer in sample.references] for sample in samples]
    right = matches([vqa.normalise(prediction) for prediction in predictions], known)
    metrics = {"exact_match": 100 * fmean(right)}
    if all(len(sample.references) == HUMANS for sample in samples):
        metrics["vqa_accuracy"] = vqa_scores(samples, predictions).metrics["vqa_accuracy"]
    return TaskScores(metrics, _percent(right))


def text_scores(samples: Sequence[TextSample], predictions: Sequence[str]) -> TaskScores:
    """Exact match, and edits over tokens between spaces and over characters; spaces are made single."""
    words = [text.split() for text in predictions]
    known = [[text.split() for text in sample.references] for sample in samples]
    joined, joined_known = [*map(" ".join, words)], [[*map(" ".join, texts)] for texts in known]
    right = matches(joined, joined_known)
    metrics = {
        "exact_match": 100 * fmean(right),
        "token_error_rate": 100 * error_rate(words, known),
        "character_error_rate": 100 * error_rate(joined, joined_known),
    }
    return TaskScores(metrics, _percent(right))


def question_scores(samples: Sequence[TextSample], predictions: Sequence[str]) -> TaskScores:
    """Exact match of the short answer, and what is said of its reason (`petiole.metrics.explanations`)."""
    judgements = [
        explanations.judge(prediction, s.references, s.text, s.facts)
        for prediction, s in zip(predictions, samples, strict=True)
    ]
    right = [float(judgement.right) for judgement in judgements]
    return TaskScores(explanations.summary(judgements), _percent(right))


def _percent(fractions: Sequence[float]) -> list[float]:
    return [100 * fraction for fraction in fractions]
