"""``wandb`` and ``trackio``: a run in Weights & Biases, or in Trackio, which has the same calls and stays on this machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from petiole.engine.loggers import LOGGERS, library, params_of, scores_of


@LOGGERS.register("wandb", "a run in Weights & Biases")
class Wandb:
    """One of its runs a run folder; a run that is taken up again goes on in it. WANDB_PROJECT names the project."""

    name: ClassVar[str] = "wandb"

    def __init__(self, folder: Path) -> None:
        self._library, self._folder = library(self.name), folder.resolve()

    def start(self, request: Mapping[str, Any]) -> None:
        """See ``Logger.start``."""
        project = os.environ.get(f"{self.name.upper()}_PROJECT", "petiole")
        config = params_of(request)
        self._run = self._library.init(
            project=project, config=config, resume="allow", **self._who()
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Logger.log``."""
        self._run.log({f"train/{name}": value for name, value in values.items()}, step=step)

    def finish(self, record: Mapping[str, Any]) -> None:
        """See ``Logger.finish``."""
        self._run.log(scores_of(record))
        self._run.finish()

    def _who(self) -> dict[str, Any]:
        digest = hashlib.sha256(str(self._folder).encode()).hexdigest()[:16]
        return {"name": self._folder.name, "id": digest, "dir": str(self._folder)}


@LOGGERS.register("trackio", "a run in Trackio, on this machine")
class Trackio(Wandb):
    """As ``Wandb``; runs are known by their name. TRACKIO_PROJECT names the project."""

    name: ClassVar[str] = "trackio"

    def _who(self) -> dict[str, Any]:
        digest = hashlib.sha256(str(self._folder).encode()).hexdigest()[:6]
        return {"name": f"{self._folder.name}-{digest}"}
