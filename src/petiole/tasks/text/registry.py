"""The tasks by name: those of VL-Adapter, three for one's own data, and ``question`` of a domain.

Text formats, limits, losses and decoding and batch shares are those of VL-Adapter's reference code (Sung et al., 2022).
One thing differs on purpose: GQA's prefix is spelt ``gqa: ``. The reference wrote ``gpa: ``, which
``spelling="vl-t5"`` brings back for its checkpoints. One oddity is kept, since the published numbers came
about so: captions are learned up to 40 tokens and generated up to 20.
``question`` is put as it stands, and its answer may have a reason (as CRAFT asks VQA-RAD; Wu et al., 2026).
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Literal

from petiole.errors import ConfigError, unknown
from petiole.registry import Registry
from petiole.tasks.text import scoring
from petiole.tasks.text.text_task import TextTask

TRUE_FALSE = ("true", "false")
BEAMS = 5  # of every task that describes

# The reference's spelling, where it is not ours.
_VL_T5_PREFIXES = {"gqa": "gpa: "}


def _video_choice(name: str) -> TextTask:
    scorer = scoring.video_choice_scores
    return TextTask(name, "accuracy", scorer, suffix=f"{name}: ", max_text=600, max_target=20)


def _video_caption(name: str) -> TextTask:
    scorer = scoring.caption_scores
    suffix = f"{name}: "
    return TextTask(name, "cider", scorer, suffix=suffix, max_text=600, max_target=20, beams=BEAMS)


_ALL = (
    TextTask("vqa", "vqa_accuracy", scoring.vqa_scores, prefix="vqa: ", max_text=20, max_target=10),
    TextTask(
        "gqa",
        "accuracy",
        scoring.accuracy_scores,
        prefix="gqa: ",
        max_text=20,
        share=Fraction(100, 60),
    ),
    TextTask(
        "nlvr",
        "accuracy",
        scoring.accuracy_scores,
        prefix="nlvr: ",
        choices=TRUE_FALSE,
        share=Fraction(20, 60),
    ),
    TextTask(
        "caption",
        "cider",
        scoring.caption_scores,
        prefix="caption: ",
        max_text=40,
        max_target=40,
        loss="token",
        beams=BEAMS,
        share=Fraction(50, 60),
    ),
    _video_choice("tvqa"),
    _video_choice("how2qa"),
    _video_caption("tvc"),
    _video_caption("yc2c"),
    TextTask("answers", "exact_match", scoring.answer_scores, prefix="answer: "),
    TextTask("choice", "accuracy", scoring.accuracy_scores, prefix="choose: ", choices=TRUE_FALSE),
    TextTask("text", "exact_match", scoring.text_scores, loss="token", max_length=128),
    TextTask("question", "exact_match", scoring.question_scores, max_length=40),
)
TASKS = {task.name: task for task in _ALL}
PLUG_INS = Registry[TextTask]("task", "petiole.tasks", "PLUG_INS.register", "petiole.text_tasks")
"""Tasks that other distributions add, by entry points of the group ``petiole.text_tasks``."""


def find(
    name: str,
    *,
    choices: tuple[str, ...] = (),
    spelling: Literal["plain", "vl-t5"] = "plain",
) -> TextTask:
    """Return the task of this name.

    Args:
        name: one of :data:`TASKS`.
        choices: the fixed answers of ``choice`` in place of true and false; no other task takes any.
        spelling: ``vl-t5`` for the prefixes as the reference code writes them.

    Raises:
        ConfigError: an unknown name or spelling; choices for another task, fewer than two, or one twice.
    """
    task = TASKS.get(name) or PLUG_INS.get(name)
    if task is None:
        raise unknown("task", name, [*TASKS, *PLUG_INS.names()])
    if spelling == "vl-t5":
        task = replace(task, prefix=_VL_T5_PREFIXES.get(name, task.prefix))
    elif spelling != "plain":
        raise unknown("spelling of prefixes", spelling, ["plain", "vl-t5"])
    if not choices:
        return task
    if name != "choice":
        raise ConfigError(
            f"Task {name!r} has no choices of its own; use the task 'choice' for fixed answers."
        )
    if len(set(choices)) < 2 or len(set(choices)) != len(choices):
        raise ConfigError(f"Task 'choice' needs two or more different answers, not {choices!r}.")
    return replace(task, choices=choices)
