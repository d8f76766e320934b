"""The process that teaches: it reads the folder once, then answers every click."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from petiole.serving.worker import Answer, Handler, serve


def teaching(connection: Connection, setup: Mapping[str, Any]) -> None:
    """Main of the process.

    Args:
        connection: to the HTTP process.
        setup: ``images`` (folder), ``name``, ``state`` (folder of the labels), ``backbone``, ``device``, ``cache``,
            ``skip_bad``.
    """
    serve(connection, lambda: _handlers(setup))


def _handlers(
    setup: Mapping[str, Any],
) -> tuple[dict[str, Handler], dict[str, Handler], dict[str, Any]]:
    from petiole.serving.service import FILES
    from petiole.serving.teach.exports import EXPORTS

    teacher = _teacher(setup)

    def label(value: dict[str, Any], _: list[bytes]) -> Answer:
        teacher.give(value["rows"], value["label"])
        return teacher.state(), []

    def undo(_: dict[str, Any], __: list[bytes]) -> Answer:
        teacher.log.undo()
        return teacher.state(), []

    def state(value: dict[str, Any], _: list[bytes]) -> Answer:
        """Nothing, where the asker has this version."""
        return ({} if value["since"] == teacher.log.version else teacher.state()), []

    def export(value: dict[str, Any], _: list[bytes]) -> Answer:
        name, write = EXPORTS[value["form"]]
        return {"name": name}, [write(teacher.rows()).encode()]

    def adapter(_: dict[str, Any], __: list[bytes]) -> Answer:
        with tempfile.TemporaryDirectory() as place:
            teacher.save(Path(place))
            return {"files": FILES}, [Path(place, file).read_bytes() for file in FILES]

    in_turn: dict[str, Handler] = {
        "label": label,
        "undo": undo,
        "state": state,
        "export": export,
        "adapter": adapter,
        "curve": lambda _, __: (teacher.curve(), []),
    }
    beside: dict[str, Handler] = {
        "images": lambda _, __: (teacher.images(), []),
        "alike": lambda value, _: ({"rows": teacher.alike(value["row"])}, []),
        "thumbnail": lambda value, _: ({}, [teacher.thumbnail(value["row"])]),
    }
    return in_turn, beside, {"images": len(teacher.data)}


def _teacher(setup: Mapping[str, Any]) -> Any:
    from petiole.backbones.registry import load_backbone
    from petiole.data.unlabelled import unlabelled
    from petiole.device import device
    from petiole.engine.feature_extractor import Features
    from petiole.engine.feature_store import FeatureCache
    from petiole.serving.teach.label_log import LabelLog
    from petiole.serving.teach.teacher import Teacher

    log = LabelLog(Path(setup["state"]))
    data = unlabelled(Path(setup["images"]), setup["name"], skip_bad=setup["skip_bad"])
    backbone = load_backbone(setup["backbone"], device=device(setup["device"]))
    vectors = Features(backbone, FeatureCache(Path(setup["cache"])), quiet=True).vectors(data)
    return Teacher(data, vectors, backbone, log)
