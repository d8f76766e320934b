"""``petiole transfer``: data sets x backbones x methods x seeds, in one table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from petiole.commands.defaults import backbone_for
from petiole.commands.options import (
    ModelOptions,
    Settings,
    default_cache,
    pairs,
    plural,
)
from petiole.commands.placement import ExecutorOptions
from petiole.commands.results import TableResult
from petiole.commands.tuning_options import TuningOptions
from petiole.commands.verb import verb
from petiole.errors import ConfigError, unknown
from petiole.ranges import NonNegativeFloat, PositiveInt, ProperFraction

if TYPE_CHECKING:
    from petiole.protocols.jobs import Running
    from petiole.protocols.transfer import Transfer
    from petiole.tasks.classification.workspace import Classification

_NAME = re.compile(r"[^/\\.][^/\\]*")


class Transferred(TableResult):
    """A finished transfer; ``folder`` has one comparison folder a cell."""

    def table(self) -> Any:
        from petiole.report.transfer import table

        return table(self.summary)

    def places(self) -> dict[str, Any]:
        return {"cells": self.folder}


@verb
def transfer(
    data: Annotated[Sequence[str], Parameter(consume_multiple=True)],
    /,
    *,
    backbones: Annotated[Sequence[str], Parameter(consume_multiple=True)] = (),
    methods: Annotated[Sequence[str], Parameter(consume_multiple=True)] = (),
    data_root: Path = Path("data"),
    download: bool = False,
    test_fraction: ProperFraction = 0.5,
    seeds: PositiveInt = 3,
    settings: Settings = None,
    margin: NonNegativeFloat = 1.0,
    out: Path = Path("runs/transfer"),
    resume: bool = False,
    model: ModelOptions | None = None,
    placement: ExecutorOptions | None = None,
    tuning: TuningOptions | None = None,
) -> Transferred:
    """Train methods on all training images of several data sets, from several backbones.

    Args:
        data: names of known data sets (cifar10, pets, ...), and folders or tables of images, as PATH
            or NAME=PATH.
        backbones: NAME, or NAME=WEIGHTS.safetensors for a local file; by default that of --backbone.
        methods: registered names, by default head-only, full and adaptertune; all are tested against
            adaptertune, or else the first.
        data_root: folder in which the known data sets lie.
        download: fetch known data sets that are missing, where torchvision can.
        test_fraction: of a folder without a test part, held back by content.
        seeds: runs of each method, on one split.
        settings: applied to every method that has such a field.
        margin: in points; two rows tie where the interval of their difference lies within it.
        out: folder of the cells and the table.
        resume: finish an interrupted transfer, or add data sets and backbones to one.

    Raises:
        PetioleError: missing or bad images, unknown names, or a folder that holds another transfer.
    """
    from petiole.data.readers.public import write_table
    from petiole.engine.task import forget_workspaces
    from petiole.protocols import transfer as protocol
    from petiole.report.table import write
    from petiole.report.transfer import summarise, table

    executor = (placement or ExecutorOptions()).make()
    model, folder = model or ModelOptions(), Path(out)
    how = (tuning or TuningOptions()).make()
    images, known = _images(data, folder)
    tasks = _tasks(images, _backbones(backbones, model, methods or ("adaptertune",)), test_fraction)
    wanted = protocol.plan(
        [protocol.TransferCell.of(*key, task, folder) for key, task in tasks.items()],
        methods,
        tuning=how,
        seeds=seeds,
        margin=margin / 100,
        settings=pairs(settings),
    )
    whole = protocol.joined(wanted, folder, resume=resume)
    cells = [cell for cell in wanted.cells if not whole.done(folder, cell)]
    to_do = {cell.name: tasks[cell.data, cell.backbone] for cell in cells}
    cache = model.cache or default_cache()
    for name in sorted(known & {cell.data for cell in cells}):
        write_table(name, Path(data_root), images[name], cache=cache, download=download)
    forget_workspaces()  # files may have changed since an earlier call in this process
    if not model.quiet:
        _announce(wanted, to_do, folder)
    running: Running = {"executor": executor, "resume": resume, "quiet": model.quiet}
    protocol.run(whole, to_do, folder, how.storage if how else None, **running)
    summary = summarise(folder)
    write(table(summary), folder)
    return Transferred(folder=folder, summary=summary)


def _images(data: Sequence[str], out: Path) -> tuple[dict[str, Path], set[str]]:
    """Where the images of each data set lie, by its name; and which of them are known ones."""
    from petiole.data.readers import public

    known = {name: one.name for one in public.names().values() for name in (one.name, *one.aliases)}
    found: dict[str, Path] = {}
    for item in data:
        if item in known:
            name = known[item]
            path = out / name / "images.csv"
        else:
            name, path = _own(item, known)
        if name in found:
            raise ConfigError(f"Two data sets are called {name}. Name one of them: NAME=PATH.")
        found[name] = path
    return found, {known[item] for item in data if item in known}


def _own(item: str, known: Mapping[str, str]) -> tuple[str, Path]:
    """Name and place of images of one's own: ``PATH`` or ``NAME=PATH``."""
    path, (given, named, rest) = Path(item), item.partition("=")
    if path.exists():
        name = path.resolve().stem if path.is_file() else path.resolve().name
    elif named:
        name, path = given, Path(rest)
    else:
        raise unknown("data set or folder", item, known)
    if name in known:
        raise ConfigError(
            f"{path}: {name} is the name of a published data set, so a folder cannot bear it. Give "
            f"another, e.g. my-{name}={path}, or give {name} and the folder that holds it as --data-root."
        )
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{item}: {name!r} cannot name a folder. Give a name: NAME=PATH.")
    return name, path


def _backbones(
    items: Sequence[str], model: ModelOptions, methods: Sequence[str]
) -> dict[str, ModelOptions]:
    """Options for each backbone, by the name that its folder gets."""
    if not items:
        weights = [str(model.weights)] if model.weights else []
        items = ["=".join([model.one_backbone or backbone_for(methods), *weights])]
    elif model.weights:
        raise ConfigError("--weights fits one backbone; with --backbones, write NAME=WEIGHTS.")
    found: dict[str, ModelOptions] = {}
    for item in items:
        backbone, _, file = item.partition("=")
        name = Path(backbone).name + (f"+{Path(file).stem}" if file else "")
        if name in found:
            raise ConfigError(f"Two backbones are called {name}; rename a weights file.")
        found[name] = replace(model, backbone=backbone, weights=Path(file) if file else None)
    return found


def _tasks(
    images: Mapping[str, Path], models: Mapping[str, ModelOptions], test_fraction: float
) -> dict[tuple[str, str], Classification]:
    """Every data set on every backbone."""
    return {
        (data, name): one.classification(path, None, None, test_fraction)
        for data, path in images.items()
        for name, one in models.items()
    }


def _announce(transfer: Transfer, to_do: Mapping[str, Classification], folder: Path) -> None:
    """Say what every cell will do and cost, before the first one starts."""
    from petiole.commands.announce import announce
    from petiole.engine.progress import console
    from petiole.engine.task import open_workspace
    from petiole.protocols import transfer as protocol
    from petiole.protocols.settled import tried

    rows = plural(len(transfer.rows), "method")
    console.print(
        f"{plural(len(transfer.cells), 'cell')} of {rows}, {plural(transfer.seeds, 'seed')}"
    )
    for cell in transfer.cells:
        console.print(f"\n{cell.name}", style="bold", highlight=False, markup=False)
        if cell.name not in to_do:
            console.print("finished")
            continue
        comparison, jobs = protocol.jobs_of(transfer, cell, to_do[cell.name], folder)
        announce(open_workspace(to_do[cell.name]), [*jobs, *tried(comparison, jobs, folder)])
