"""``mlflow``: a run in MLflow, at MLFLOW_TRACKING_URI or, without one, in ``mlruns`` beside the run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petiole.engine.loggers import LOGGERS, library, params_of, scores_of

FOLDER = "petiole.folder"


@LOGGERS.register(
    "mlflow", "a run in MLflow: MLFLOW_TRACKING_URI, else mlruns beside the run folder"
)
class MLflow:
    """One MLflow run a run folder; a run that is taken up again goes on in it."""

    def __init__(self, folder: Path) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (folder.resolve().parent / "mlruns").as_uri()
        self._client = library("mlflow").MlflowClient(uri)
        self._folder, self._run = folder.resolve(), ""

    def start(self, request: Mapping[str, Any]) -> None:
        """See ``Logger.start``."""
        client, name = self._client, os.environ.get("MLFLOW_EXPERIMENT_NAME", "petiole")
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        tag = str(self._folder).replace("'", "")
        known = client.search_runs(
            [experiment], f"tags.`{FOLDER}` = '{tag}' and status = 'RUNNING'"
        )
        if known:
            self._run = known[0].info.run_id
            return
        tags = {FOLDER: tag, "mlflow.runName": self._folder.name}
        self._run = client.create_run(experiment, tags=tags).info.run_id
        for key, value in params_of(request).items():
            client.log_param(self._run, key, value)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Logger.log``."""
        for name, value in values.items():
            self._client.log_metric(self._run, f"train/{name}", value, step=step)

    def finish(self, record: Mapping[str, Any]) -> None:
        """See ``Logger.finish``."""
        for name, value in scores_of(record).items():
            self._client.log_metric(self._run, name, value)
        self._client.set_terminated(self._run)
