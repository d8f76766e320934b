"""What `--compile` is worth: processor seconds of a training step with torch.compile and without, and what compiling costs.

Both trainings of a row run in one process, one after the other, as often as --repeats says; a step is the median of the second half of the
steps, compiling is what the first half takes beyond as many such steps. The compiler's cache starts empty.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/compiled.py --repeats 3
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

SHOTS, BATCH = 20, 20
"""Images of a class, and of a step: all batches are of one size, since another one is compiled anew."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--backbone", default="petiole/tiny-vit")
    options.add_argument("--methods", nargs="+", default=["adaptertune", "lora-qkv", "full"])
    options.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    options.add_argument("--steps", type=int, default=40)
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    print("| | ms a step | compiled | ratio | compiling, s |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{name}/compiler"
        import petiole

        petiole.tune_allocator()
        petiole.synthesize(f"{name}/photos", task="shapes", train=SHOTS, test=1)
        for method in given.methods:
            for precision in given.precision:
                steps: dict[bool, list[float]] = {False: [], True: []}
                compiling = []
                for repeat in range(given.repeats):
                    for compiled in (False, True):
                        place = Path(name) / f"{method}-{precision}-{repeat}-{compiled}"
                        taken = trained(given, method, precision, place, compiled=compiled)
                        half = len(taken) // 2
                        steps[compiled].append(statistics.median(taken[half:]))
                    compiling.append(sum(taken[:half]) - half * steps[True][-1])
                ratios = [b / a for a, b in zip(steps[False], steps[True], strict=True)]
                cells = [f"{1e3 * statistics.median(steps[kind]):.0f}" for kind in (False, True)]
                print(f"| {method}, {precision} | {' | '.join(cells)} | {spread(ratios)} | {spread(compiling)} |", flush=True)  # fmt: skip


def trained(
    given: argparse.Namespace, method: str, precision: str, place: Path, *, compiled: bool
) -> list[float]:
    """Processor seconds of every step of a training."""
    import torch

    import petiole
    from petiole.engine.trainer import Trainer

    real, taken = Trainer._step, []

    def step(self: Trainer, *of: Any) -> Any:
        start = time.process_time()
        result = real(self, *of)
        taken.append(time.process_time() - start)
        return result

    torch.compiler.reset()
    Trainer._step = step  # type: ignore[method-assign]
    try:
        petiole.fit(
            place.parent / "photos",
            backbone=given.backbone,
            precision=precision,
            compile=compiled,
            method=method,
            all_images=True,
            settings={"steps": given.steps, "views": 0, "batch_size": BATCH},
            out=place,
            quiet=True,
        )
    finally:
        Trainer._step = real  # type: ignore[method-assign]
    return taken


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


if __name__ == "__main__":
    main()
