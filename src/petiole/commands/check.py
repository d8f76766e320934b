"""``petiole check``: unit tests of an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from petiole.commands.options import CommandResult, Data, images_of
from petiole.commands.options import device as device_of
from petiole.commands.trained_on import training_notes
from petiole.commands.verb import verb


class CheckResult(CommandResult):
    """A contract, measured.

    Attributes:
        adapter: folder.
        contract: file.
        ok: whether every line passed.
        test_evaluations: how often these images have been scored with this adapter, now included.
        lines: name, value, bound, at_least, images and ok of each.
        notes: on the images, and on classes that were not scored.
    """

    adapter: Path
    contract: Path
    ok: bool
    test_evaluations: int
    lines: list[dict[str, Any]]
    notes: list[str]

    def text(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for name in ("", "value", "bound", "images"):
            table.add_column(name, justify="right" if name else "left")
        table.add_column("")
        for line in self.lines:
            table.add_row(
                Text(line["name"]),
                f"{line['value']:.3f}",
                f"{'>=' if line['at_least'] else '<='} {line['bound']:g}",
                f"{line['images']:,}",
                Text("pass", style="green") if line["ok"] else Text("FAIL", style="bold red"),
            )
        return Group(table, *(Text(f"note     {note}") for note in self.notes))


@verb
def check(
    adapter: Path,
    contract: Path,
    data: Data,
    *,
    weights: Path | None = None,
    device: str = "auto",
    skip_bad: bool = False,
) -> CheckResult:
    """Test an adapter against a contract; exit code 1 where a line fails.

    The contract is a TOML file with any of these tables: accuracy (min), ece (max), recall (class, min, slice),
    corruption (name, severity, max_drop), zero_shot (images, max_drop), ood (images, min_auroc).

    Args:
        adapter: adapter folder, or the run folder around it.
        contract: the TOML file; folders in it start at its own.
        data: labelled images, as for eval; scored on the classes that the adapter knows.
        weights: where the weights of the backbone lie now, if they were moved.
        device: auto, cpu, cuda, ...
        skip_bad: leave unreadable images out, and count them.

    Raises:
        AdapterError: the adapter is damaged, of another kind, or does not fit the backbone.
        ConfigError: a contract that cannot be read, or asks for what the adapter has not.
        DataError: bad data, or none of the classes that the adapter knows.
    """
    from petiole.data.inputs import as_dataset
    from petiole.engine.adapter import find
    from petiole.engine.record import count_test_evaluation
    from petiole.tasks.classification.adapter import ClassificationAdapter
    from petiole.tasks.classification.contract import ContractTest, read_contract

    wanted = read_contract(Path(contract))
    opened = ClassificationAdapter.load(adapter, weights=weights, device=device_of(device))
    given = images_of(data)
    images = as_dataset(given, classes=opened.classes, skip_bad=skip_bad, common=True)
    test = ContractTest(opened, wanted, images, given if isinstance(given, Path) else None)
    count = count_test_evaluation(find(adapter), images.digest(), len(images), "petiole check")
    lines = list(test.lines())
    return CheckResult(
        adapter=Path(adapter),
        contract=Path(contract),
        ok=all(line.ok for line in lines),
        test_evaluations=count,
        lines=[{**line.model_dump(), "ok": line.ok} for line in lines],
        notes=[*images.notes, *training_notes(Path(adapter), images.ids)],
    )
