"""malloc for tensors: set where it can be, off where it is switched off, and memory comes back."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys

import pytest

from petiole.engine.executor import Local

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")

WORK = """
import json, resource, sys
import petiole
tuned = petiole.tune_allocator()
assert "torch" not in sys.modules
import torch

def used():
    line = next(row for row in open("/proc/self/status") if row.startswith("VmRSS"))
    return int(line.split()[1]) / 1024

for _ in range(20):  # small remainders beside the first blocks keep these from being used again
    torch.ones(50 * 2**18)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(50 * 2**18)  # 50 MB, freed at once
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
held = used()
from petiole.allocator import release_memory
release_memory()
print(json.dumps({"tuned": tuned, "faults": faults, "released": held - used()}))
"""


def measured(switch: str) -> dict[str, float]:
    environment = {**os.environ, "PETIOLE_ALLOCATOR": switch}
    out = subprocess.run(
        [sys.executable, "-c", WORK], env=environment, capture_output=True, text=True, check=True
    )
    values: dict[str, float] = json.loads(out.stdout)
    return values


@pytest.mark.skipif(not GLIBC, reason="glibc's malloc is what is set")
def test_freed_tensors_stay_until_they_are_released() -> None:
    tuned, plain = measured(""), measured("off")
    assert (tuned["tuned"], plain["tuned"]) == (True, False)
    assert tuned["faults"] < 1000 < plain["faults"] or plain["faults"] < 1000  # huge pages
    assert tuned["released"] > 45
    assert abs(plain["released"]) < 45


@pytest.mark.skipif(not GLIBC, reason="glibc's malloc is what is set")
def test_worker_processes_set_theirs() -> None:
    (tuned,) = Local(2).map(eval, ["__import__('petiole.allocator').allocator._tuned"])
    assert tuned


@pytest.mark.skipif(not GLIBC, reason="glibc's malloc is what is set")
@pytest.mark.parametrize(("switch", "want"), [("", "True"), ("OFF", "False")])
def test_commands_set_it_unless_told_not_to(switch: str, want: str) -> None:
    code = (
        "import petiole.cli as cli, petiole.allocator as a\n"
        "try: cli.main(['inspect', 'nothing-of-this-name'])\n"
        "except SystemExit: print(a._tuned)\n"
        "import gc; assert gc.get_threshold()[0] == a.NEW_OBJECTS"
    )
    environment = {**os.environ, "PETIOLE_ALLOCATOR": switch}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert out.stdout.strip() == want, out.stderr
