"""``petiole doctor``: whether this machine and installation can do the work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table

from petiole.commands.options import CommandResult, default_cache
from petiole.commands.verb import verb
from petiole.device import cuda_arithmetic, device, narrow_unit

ROOM_GB = 2.0


class Check(CommandResult):
    """One finding: ``level`` is ok, note or bad."""

    name: str
    level: str
    finding: str


class DoctorReport(CommandResult):
    """All findings."""

    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Whether nothing is bad."""
        return all(check.level != "bad" for check in self.checks)

    def text(self) -> RenderableType:
        table = Table(box=None, show_header=False, pad_edge=False)
        colours = {"ok": "green", "note": "yellow", "bad": "bold red"}
        for check in self.checks:
            table.add_row(f"[{colours[check.level]}]{check.level}[/]", check.name, check.finding)
        return table


@verb
def doctor(*, cache_dir: Path | None = None) -> DoctorReport:
    """Check libraries, processor and its speed, bundled weights, cache folder and disk; changes nothing.

    Args:
        cache_dir: the cache's folder, if it is not the usual one.
    """
    folder = Path(cache_dir) if cache_dir else default_cache()
    parts: list[tuple[str, Callable[[], tuple[str, str]]]] = [
        ("libraries", _libraries),
        ("processor", _processor),
        ("threads", _threads),
        ("speed", _speed),
        ("tiny-vit", lambda: _backbone("petiole/tiny-vit")),
        ("efficientnet-lite0", lambda: _backbone("petiole/efficientnet-lite0")),
        ("parquet", _parquet),
        ("cache", lambda: _room(folder)),
    ]
    checks = []
    for name, check in parts:
        try:
            level, finding = check()
        except Exception as error:  # a doctor reports whatever it meets
            level, finding = "bad", f"{type(error).__name__}: {error}"
        checks.append(Check(name=name, level=level, finding=finding))
    return DoctorReport(checks=checks)


def _libraries() -> tuple[str, str]:
    from petiole.engine.record import environment

    seen = environment()
    return "ok", ", ".join(f"{k} {seen[k]}" for k in ("python", "petiole", "torch", "timm"))


def _processor() -> tuple[str, str]:
    if cuda := cuda_arithmetic():
        return "ok", f"CUDA: {cuda['gpu']}, TF32 {cuda['tf32']}; use --device cuda"
    if found := narrow_unit("cpu"):
        return "ok", f"CPU with {found[1]}: --precision {found[0]} can be faster"
    return "note", "CPU without bf16 instructions: stay with --precision fp32"


def _threads() -> tuple[str, str]:
    import torch

    count, cores = torch.get_num_threads(), os.cpu_count() or 1
    if count > 1 and os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE":
        return (
            "note",
            f"{count} threads on {cores} cores; on a busy machine set OMP_WAIT_POLICY=PASSIVE",
        )
    return "ok", f"{count} threads on {cores} cores"


def _speed() -> tuple[str, str]:
    """What a product of large matrices reaches, and how much of it the forward pass of a small ViT does (its MFU)."""
    import torch

    from petiole.backbones.registry import load_backbone
    from petiole.engine.precision import AUTOCAST
    from petiole.engine.utilisation import best_seconds, product_rate
    from petiole.ledger.counting import flop_counter
    from petiole.report.formatting import amount

    place = device("auto")
    fp32 = product_rate(place, torch.float32)
    reached = f"matrix product {amount(fp32, 'FLOP/s')}"
    if found := narrow_unit(place):
        rate = product_rate(place, AUTOCAST[found[0]])
        reached += f", in {found[0]} {amount(rate, 'FLOP/s')}"
    backbone = load_backbone("petiole/tiny-vit", device=place)
    images = torch.zeros(16, 3, *backbone.preprocessing.size, device=place)
    with flop_counter() as counter:
        backbone.lower(images, (backbone.vector,))
    taken = best_seconds(lambda: backbone.lower(images, (backbone.vector,)), place)
    share = counter.get_total_flops() / taken / fp32
    return "ok", f"{reached}; tiny-vit {len(images) / taken:,.0f} images/s, {share:.0%} of it (MFU)"


def _backbone(name: str) -> tuple[str, str]:
    import torch

    from petiole.backbones.registry import load_backbone
    from petiole.errors import BackboneError

    try:
        backbone = load_backbone(name)
    except BackboneError as error:
        return "note", str(error)
    image = torch.zeros(1, 3, *backbone.preprocessing.size)
    vector = backbone.lower(image, (backbone.vector,))[backbone.vector]
    good = bool(vector.isfinite().all())
    return ("ok" if good else "bad"), f"loads, {backbone.parameter_count:,} parameters"


def _parquet() -> tuple[str, str]:
    if find_spec("pyarrow"):
        return "ok", "pyarrow is installed"
    return "note", "pyarrow is missing: Parquet lists need pip install 'petiole[parquet]'"


def _room(folder: Path) -> tuple[str, str]:
    there = folder
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK):
        return (
            "bad",
            f"{there} cannot be written; choose another with --cache-dir or $PETIOLE_CACHE",
        )
    free = shutil.disk_usage(there).free / 1e9
    level = "ok" if free > ROOM_GB else "note"
    return level, f"{folder}, {free:,.1f} GB free"
