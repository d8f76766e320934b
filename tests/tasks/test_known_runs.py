"""All that a small run of each kind leaves: scores, logs, predictions, tensors, as they were when they were last looked into.

After a change that is meant: ``PETIOLE_SNAPSHOT=1 pytest tests/tasks/test_known_runs.py``, and say so in the changelog.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builders.interrupted import Job, codebook, image, language
from builders.known import check_run

HERE = Path(__file__).parent


@pytest.mark.parametrize("make", [image, language, codebook])
def test_a_run_leaves_what_it_left(make: Callable[[Path], Job], tmp_path: Path) -> None:
    make(tmp_path / "home").do(tmp_path / "run")
    check_run(HERE / f"known_{make.__name__}.json", tmp_path / "run")
