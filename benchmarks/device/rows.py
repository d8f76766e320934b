"""Rows that the device's measurements leave, and the table of them.

python benchmarks/device/rows.py OUT
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FILE = "device.jsonl"
Row = dict[str, Any]


def options(about: str) -> argparse.Namespace:
    """Folder and device; TF32 is off, so that fp32 is fp32, and the row says what the machine is."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--dry", action="store_true", help="on the processor, tiny")
    chosen = parser.parse_args()
    if not chosen.dry and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --dry runs on the processor")
    chosen.device = torch.device("cpu" if chosen.dry else "cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    chosen.out.mkdir(parents=True, exist_ok=True)
    return chosen


def machine(device: torch.device) -> str:
    """Its name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "processor (dry run)"


def keep(chosen: argparse.Namespace, group: str, name: str, measure: Callable[[], Row]) -> None:
    """Measure, append the row, and go on whatever happens: device time is short."""
    start = time.perf_counter()
    row: Row = {"group": group, "name": name, "device": machine(chosen.device)}
    try:
        row |= measure()
    except Exception as error:
        traceback.print_exc()
        row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    row["took_s"] = round(time.perf_counter() - start, 1)
    print(json.dumps(row), flush=True)
    with (chosen.out / FILE).open("a") as file:
        file.write(json.dumps(row) + "\n")


def table(rows: list[Row]) -> str:
    """Markdown, a table a group; of rows measured twice the last."""
    parts = []
    for group in dict.fromkeys(row["group"] for row in rows):
        last = {row["name"]: row for row in rows if row["group"] == group}
        hidden = {"group", "name", "took_s", "device"}
        columns = list(dict.fromkeys(k for row in last.values() for k in row if k not in hidden))
        lines = [
            f"### {group}, {rows[-1]['device']}",
            "",
            "| | " + " | ".join(columns) + " |",
            "|---" * (len(columns) + 1) + "|",
        ]
        for name, row in last.items():
            lines.append(f"| {name} | " + " | ".join(str(row.get(c, "")) for c in columns) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(table([json.loads(line) for line in (Path(sys.argv[1]) / FILE).open()]))
