"""A server in a process of its own, adapters that took no training, and pictures to ask about."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from petiole.backbones.base import Backbone
from petiole.methods.registry import create
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.calibration import Calibration
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import backbones as tiny


def write_adapter(
    folder: Path,
    backbone: Backbone,
    classes: list[str],
    *,
    seed: int = 0,
    method: str = "adaptertune",
    calibrated: bool = True,
    **settings: Any,
) -> Path:
    """An adapter none of whose numbers is as it started."""
    with tiny.seeded(seed):
        plan = create(method, settings).plan(backbone, len(classes))
        adapted = AdaptedClassifier(backbone, plan)
        tiny.shaken(adapted)
        logits = torch.randn(40, len(classes))
    known = Calibration.fit(logits, logits.argmax(1), 5) if calibrated else None
    facts = {"method": method, "settings": settings, "classes": classes, "calibration": known}
    ClassificationAdapter.of(adapted.eval(), **facts).save(folder)
    return folder


def picture(seed: int = 0, kind: str = "PNG", side: int = 40) -> bytes:
    """Noise, as a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def text_of(image: bytes) -> str:
    return base64.b64encode(image).decode()


@dataclass(frozen=True)
class Running:
    """A server that listens.

    Attributes:
        url: of it.
        process: to be signalled.
        log: file of its standard error.
    """

    url: str
    process: subprocess.Popen[str]
    log: Path

    def children(self) -> list[int]:
        """Processes that it started and that live."""
        file = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in file.read_text().split()]

    def worker(self) -> int:
        """Its inference process: the largest of its children."""
        size = lambda pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1])  # noqa: E731
        return max(self.children(), key=size)


@contextmanager
def serving(log: Path, *arguments: object) -> Iterator[Running]:
    """Run ``petiole serve`` on a free port until the end of the block; by torch unless it is told otherwise."""
    engine = [] if "--engine" in arguments else ["--engine", "torch"]
    told = [*map(str, arguments), *engine, "--port", "0"]
    command = [sys.executable, "-m", "petiole", "serve", *told]
    with open(log, "w") as written:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        line = process.stdout.readline() if process.stdout else ""
        found = re.search(r"http://\S+", line)
        assert found, log.read_text()
        yield Running(found[0], process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        if process.stdout:
            process.stdout.close()
