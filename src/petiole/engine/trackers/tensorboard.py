"""``tensorboard``: curves and scores in the run folder; ``tensorboard --logdir runs`` shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petiole.engine.loggers import LOGGERS, library, scores_of


@LOGGERS.register("tensorboard", "curves for TensorBoard, in tensorboard/ of the run folder")
class TensorBoard:
    """Writes event files; those of a run that is taken up again lie beside the first."""

    def __init__(self, folder: Path) -> None:
        self._writer = library("tensorboard", "torch.utils.tensorboard").SummaryWriter(
            str(folder / "tensorboard")
        )

    def start(self, request: Mapping[str, Any]) -> None:
        """See ``Logger.start``."""
        self._writer.add_text("request", f"```json\n{json.dumps(request, indent=2)}\n```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Logger.log``."""
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def finish(self, record: Mapping[str, Any]) -> None:
        """See ``Logger.finish``."""
        for name, value in scores_of(record).items():
            self._writer.add_scalar(name, value)
        self._writer.close()
