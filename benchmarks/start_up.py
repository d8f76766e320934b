"""What the seconds of `petiole predict` on one image are made of: processor seconds of processes that do ever more of it.

Each row is a process of its own, in turn; medians, lowest and highest. "with the compiler" imports torch._dynamo first, as
timm and torchvision do by themselves where `petiole.deferred` does not keep it out.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/start_up.py RUN IMAGE --repeats 5

With --before it gives instead `petiole predict` over that of another version, in turn: its source and a run that it made.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

DEFERRED = "from petiole.deferred import defer_compiler; defer_compiler(); "


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("run", help="folder of a run with a timm backbone")
    options.add_argument("image")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--before", nargs=2, metavar=("SOURCE", "RUN"))
    chosen = options.parse_args()
    if chosen.before:
        source, old = chosen.before
        pairs = [
            (
                seconds(predicting(old, chosen.image), source),
                seconds(predicting(chosen.run, chosen.image)),
            )
            for _ in range(chosen.repeats)
        ]
        ratios = [now / before for before, now in pairs]
        print(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
        return
    predict = predicting(chosen.run, chosen.image)
    rows = {
        "Python": "pass",
        "the command line": "import petiole.cli",
        "torch": "import torch",
        "torch, timm": f"{DEFERRED}import timm",
        "torch, timm with the compiler": "import timm",
        "torch, timm, adapters": f"{DEFERRED}import timm, petiole.tasks.classification.adapter",
        "petiole predict": predict,
        "petiole predict with the compiler": f"import torch._dynamo; {predict}",
    }
    taken: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(chosen.repeats):
        for name, code in rows.items():
            taken[name].append(seconds(code))
    print("| | CPU seconds |\n|---|---:|")
    for name, values in taken.items():
        middle = statistics.median(values)
        print(f"| {name} | {middle:.2f} ({min(values):.2f}–{max(values):.2f}) |")


def predicting(run: str, image: str) -> str:
    """A program that predicts one image."""
    return f"from petiole.cli import main; main(['predict', {run!r}, {image!r}])"


def seconds(code: str, source: str = "") -> float:
    """Processor seconds of a process, which imports petiole from ``source`` if one is given."""
    environment = {**os.environ, **({"PYTHONPATH": source} if source else {})}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, env=environment
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{code!r} ended with {process.returncode}.")
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
