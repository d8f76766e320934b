"""``petiole`` with the processor seconds of its phases as one line of JSON on standard error.

    python benchmarks/rivals/phases.py fit IMAGES --method lora-qkv ...

A phase is the time in its functions less that in other phases below them; ``imports`` come first, and ``rest`` is in none of them.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

PHASES = {
    "loading the backbone": ["petiole.tasks.classification.workspace:load_backbone"],
    "frozen features, for leak check and map": ["petiole.engine.feature_extractor:Features.store"],
    "training": ["petiole.tasks.classification.training:train"],
    "drift while training": [
        "petiole.tasks.classification.drift:Drift.__init__",
        "petiole.tasks.classification.drift:Drift.__call__",
    ],
    "scoring the test images": ["petiole.tasks.classification.task:ClassificationRun.evaluate"],
    "adapter and counted FLOPs": [
        "petiole.tasks.classification.adapter:ImageAdapter.describe",
        "petiole.engine.run:_save",
    ],
    "page": ["petiole.report.page:write_page"],
}
"""Phase -> its functions, MODULE:NAME."""


class Clock:
    """Processor seconds by phase, each without those below it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.below = [0.0]

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            self.below.append(0.0)
            try:
                return function(*args, **options)
            finally:
                spent = time.process_time() - start
                self.seconds[phase] += spent - self.below.pop()
                self.below[-1] += spent

        return call

    def wrap(self, phase: str, place: str) -> None:
        """Put a function that is timed in the place of one that is not."""
        module, path = place.split(":")
        owner: Any = importlib.import_module(module)
        *holders, name = path.split(".")
        for holder in holders:
            owner = getattr(owner, holder)
        found = vars(owner)[name]
        if isinstance(found, classmethod):
            setattr(owner, name, classmethod(self.timed(phase, found.__func__)))
        else:
            setattr(owner, name, self.timed(phase, found))


def main() -> None:
    from petiole.allocator import tune_allocator, tune_collector
    from petiole.cli import main as petiole
    from petiole.deferred import defer_compiler

    for tune in (
        tune_allocator,
        tune_collector,
        defer_compiler,
    ):  # as the command does, before torch is imported
        tune()
    clock = Clock()
    for phase, places in PHASES.items():
        for place in places:
            clock.wrap(phase, place)
    before = time.process_time()
    try:
        petiole()
    finally:
        total = time.process_time()
        rest = total - before - sum(clock.seconds.values())
        spent = {"imports": before, **clock.seconds, "rest": rest}
        print(json.dumps({name: round(value, 2) for name, value in spent.items()}), file=sys.stderr)


if __name__ == "__main__":
    main()
