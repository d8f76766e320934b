"""What `--compile` is worth: processor seconds of a training step with torch.compile and without, and what compiling costs.

Each run is a process of its own, in turn; a step is the difference of a long and a short run of the same training over their
steps, so that everything else a command does cancels.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/compiled.py --repeats 3
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SHORT, LONG = 6, 36
SHOTS, BATCH = 20, 20
"""Images of a class, and of a step: all batches are of one size, since another one is compiled anew."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--backbone", default="petiole/tiny-vit")
    options.add_argument("--methods", nargs="+", default=["adaptertune", "lora-qkv", "full"])
    options.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()
    print("| | ms a step | compiled | ratio | compiling, s |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        seconds(
            place, "synthesize", "photos", "--task", "shapes", "--train", str(SHOTS), "--test", "1"
        )
        for method in chosen.methods:
            for precision in chosen.precision:
                fit = ("fit", "photos", "--backbone", chosen.backbone, "--method", method, "--precision", precision)  # fmt: skip
                run(place, fit, 1, "first")  # what the others find in the cache
                row(f"{method}, {precision}", place, fit, chosen.repeats)


def row(label: str, place: Path, fit: tuple[str, ...], repeats: int) -> None:
    """Time one training in both ways and print its line."""
    steps: dict[bool, list[float]] = {False: [], True: []}
    starts: list[float] = []
    for repeat in range(repeats):
        short: dict[bool, float] = {}
        for compiled in (False, True):
            taken = [
                run(place, (*fit, *["--compile"] * compiled), count, f"{repeat}{compiled}{count}")
                for count in (SHORT, LONG)
            ]
            steps[compiled].append((taken[1] - taken[0]) / (LONG - SHORT))
            short[compiled] = taken[0] - SHORT * steps[compiled][-1]
        starts.append(short[True] - short[False])
    ratios = [fast / plain for plain, fast in zip(steps[False], steps[True], strict=True)]
    print(
        f"| {label} | {1e3 * statistics.median(steps[False]):.0f} | {1e3 * statistics.median(steps[True]):.0f} | "
        f"{spread(ratios)} | {spread(starts)} |",
        flush=True,
    )


def run(place: Path, fit: tuple[str, ...], steps: int, name: str) -> float:
    settings = ("--set", f"steps={steps}", "views=0", f"batch_size={BATCH}", "--all-images")
    return seconds(place, *fit, *settings, "--quiet", "--cache-dir", "cache", "--out", f"{'-'.join(fit[5:])}-{name}")  # fmt: skip


def seconds(place: Path, *words: str) -> float:
    """Processor seconds of a command and its workers, the compiler's cache aside, which starts empty."""
    with tempfile.TemporaryDirectory() as empty:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": empty}
        command = [sys.executable, "-m", "petiole", *words]
        with subprocess.Popen(
            command, cwd=place, stdout=subprocess.DEVNULL, env=environment
        ) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}.")
    return used.ru_utime + used.ru_stime


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


if __name__ == "__main__":
    main()
