"""Statistics over runs and images: which number answers which question.

The unit of a few-shot result is the *support draw*: average the init seeds of a draw first, since
runs that share a draw are not independent.

| how sure about … | interval of one method | difference of two methods |
|---|---|---|
| another draw of shots, these images | :func:`t_interval` | :func:`paired_by_seed` (headline) |
| these trained models, other images | :func:`bootstrap_interval` | :func:`paired_by_image` |
| another draw *and* other images | :func:`hierarchical_interval` | :func:`paired_hierarchical` |

Several comparisons in one table are corrected with :func:`holm`; :func:`verdict` then says better,
worse, tie, undecided or unknown, and :func:`runs_needed` how many draws a difference of interest would take.
"""

from petiole.metrics.intervals import (
    Interval,
    bootstrap_interval,
    hierarchical_interval,
    t_interval,
)
from petiole.metrics.paired import (
    MARGIN,
    Paired,
    Verdict,
    holm,
    judged,
    paired_by_image,
    paired_by_seed,
    paired_hierarchical,
    runs_needed,
    verdict,
)

__all__ = [
    "MARGIN",
    "Interval",
    "Paired",
    "Verdict",
    "bootstrap_interval",
    "hierarchical_interval",
    "holm",
    "judged",
    "paired_by_image",
    "paired_by_seed",
    "paired_hierarchical",
    "runs_needed",
    "t_interval",
    "verdict",
]
