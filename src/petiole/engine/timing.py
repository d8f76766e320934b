"""How long a training will take: a few steps, timed, and said in words."""

from __future__ import annotations

from collections.abc import Callable

import torch

from petiole.errors import PetioleError


def step_seconds(train: Callable[[int], float]) -> float:
    """Seconds of one step: what three steps take longer than one, over two. Random state stays as it was.

    Args:
        train: trains a fresh model for so many steps; returns the seconds that it took.

    Returns:
        0 where the training fails: the run itself will say why.
    """
    try:
        with torch.random.fork_rng():
            one, three = train(1), train(3)
    except PetioleError:
        return 0.0
    return max(0.0, three - one) / 2


def in_words(seconds: float) -> str:
    """``about 12 minutes``."""
    if seconds < 90:
        return "about a minute" if seconds > 20 else "under half a minute"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.1f} hours"
