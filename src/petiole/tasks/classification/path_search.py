"""After a supernet's training: the search over its paths, and what is left of it.

    paths.jsonl     accuracy on held-back images of every candidate that was tried

A search that was killed reads the file and tries only what is missing. Processes that trained the supernet together judge each candidate
together, so they try the same ones and find the same paths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from petiole.engine.record import lines
from petiole.engine.together import main_does
from petiole.engine.trainer import Callbacks
from petiole.files import append_line, sealed
from petiole.layers.searchable import choose_paths
from petiole.methods.path_search import Paths
from petiole.processes import is_main

if TYPE_CHECKING:
    from petiole.tasks.classification.held_back import HeldBack
    from petiole.tasks.classification.model import AdaptedClassifier

PATHS = "paths.jsonl"


def search_paths(adapted: AdaptedClassifier, held: HeldBack, callbacks: Callbacks) -> None:
    """Choose paths by the accuracy on held-back images, and keep what they need; the plan then states them."""
    search = adapted.plan.search
    assert search is not None
    file = callbacks.checkpoint.with_name(PATHS) if callbacks.checkpoint else None

    def known() -> dict[str, float]:
        rows = lines(file) if file and file.exists() else []
        return {row["paths"]: row["accuracy"] for row in rows}

    # One reads: it will also write, and a process that knew more would leave the others waiting.
    tried = main_does(known)

    def score(paths: Paths) -> float:
        name = ",".join(paths)
        if name not in tried:
            choose_paths(search.layers, paths)
            tried[name] = held.accuracy()
            if file and is_main():
                append_line(file, sealed({"paths": name, "accuracy": tried[name]}))
        return float(tried[name])

    best = search.best(score)
    choose_paths(search.layers, best)
    for layer in search.layers:
        layer.settle()
    adapted.plan.settled["paths"] = ",".join(best)
